"""Models of different vocabularies: the output's tokenizer, and the rows of embedding and head that belong to it."""

import json
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.checkpoint import OutputTokenizer
from evomerge.errors import ModelError, RecipeError
from evomerge.merge import (
    LiveModel,
    Sources,
    StatisticsCache,
    make_plan,
    merge_to_disk,
    open_sources,
    preflight,
    stream,
)
from evomerge.recipe import Recipe

CPU = torch.device("cpu")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SHARED = ["?", "red", "green", "blue", "cat"]
VOCABULARIES = {  # words, added tokens
    "base": ([*SHARED, "dog"], ["<end>"]),
    "one": (["?", "cat", "blue", "green", "red", "bird"], ["<turn>", "<end>"]),
    "two": ([*SHARED, "fish", "bird"], ["<tool>", "<turn>"]),
}


def save_tokenizer(folder: Path, words: list[str], added: list[str]) -> None:
    tokens = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="?"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="?", eos_token=added[-1]).save_pretrained(folder)


def save_weights(folder: Path, seed: int, rows: int, *, eos: int = 0, tied: bool = False) -> None:
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
        initializer_range=0.5,
        eos_token_id=eos,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)


def save_model(
    folder: Path, seed: int, words: list[str], added: list[str], *, rows: int | None = None, tied: bool = False
) -> Path:
    count = len(words) + len(added)
    save_weights(folder, seed, rows or count, eos=count - 1, tied=tied)
    save_tokenizer(folder, words, added)
    return folder


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("vocabularies")
    return {
        name: save_model(root / name, seed, words, added)
        for seed, (name, (words, added)) in enumerate(VOCABULARIES.items())
    }


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    return lambda name, words, added, **options: save_model(tmp_path / name, 7, words, added, **options)


def recipe_of(*folders: Path, base: Path | None = None, **settings: object) -> Recipe:
    document = {
        "merge_method": "linear",
        "parameters": {"weight": 1.0},
        "models": [{"model": str(folder)} for folder in folders],
        **({"base_model": str(base)} if base else {}),
    }
    return Recipe.from_document(document | settings)


def union_of(family: dict[str, Path], **settings: object) -> Recipe:
    policy = {} if "tokenizer" in settings else {"tokenizer_source": "union"}
    return recipe_of(*family.values(), base=family["base"], **(policy | settings))


def plan_of(recipe: Recipe):
    checkpoints = open_sources(recipe)
    return make_plan(recipe, checkpoints), checkpoints


def rows_of(recipe: Recipe, tensor: str = EMBEDDING) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
    """The ids of the output, and the (V, 8) rows that each model gives."""
    plan, checkpoints = plan_of(recipe)
    sources = Sources(checkpoints, CPU, keep=False)
    (planned,) = (each for each in plan.tensors if each.name == tensor)
    given = {Path(each.ref.path).name: sources.flat(each).reshape(planned.shape) for each in planned.sources}
    return dict(plan.tokenizer.vocabulary().ids), given


def own_rows(folder: Path, tensor: str = EMBEDDING) -> dict[str, torch.Tensor]:
    weights = load_file(folder / "model.safetensors")[tensor]
    return {token: weights[index] for token, index in OutputTokenizer(folder).vocabulary().ids.items()}


def policies(family: dict[str, Path]) -> dict[str, str]:
    return {"base": "base", "union": "union", "two": str(family["two"])}


@pytest.mark.parametrize("policy", ["base", "union", "two"])
@pytest.mark.parametrize("tensor", [EMBEDDING, HEAD])
def test_each_model_gives_its_own_rows_and_the_rule_gives_the_rest(family, policy, tensor) -> None:
    ids, given = rows_of(union_of(family, tokenizer_source=policies(family)[policy]), tensor)
    expected_tokens = {
        "base": {*SHARED, "dog", "<end>"},
        "union": {*SHARED, "dog", "<end>", "bird", "fish", "<turn>", "<tool>"},
        "two": {*SHARED, "fish", "bird", "<tool>", "<turn>"},
    }
    assert set(ids) == expected_tokens[policy]
    own = {name: own_rows(folder, tensor) for name, folder in family.items()}
    for token, index in ids.items():
        have = [name for name in own if token in own[name]]
        if len(have) == 1:
            rest = own[have[0]][token]
        elif "base" in have:
            rest = own["base"][token]
        else:
            rest = (own["one"][token].double() + own["two"][token].double()).float() / 2
        for name, rows in given.items():
            torch.testing.assert_close(rows[index], own[name].get(token, rest), rtol=1e-7, atol=0)


def test_the_union_is_the_base_and_then_the_tokens_of_the_others(family) -> None:
    ids, _ = rows_of(union_of(family))
    base = OutputTokenizer(family["base"]).vocabulary().ids
    # ordinary words by model and id, then added tokens by model and id
    assert sorted(ids, key=ids.get) == [*sorted(base, key=base.get), "bird", "fish", "<turn>", "<tool>"]
    assert AutoTokenizer.from_pretrained(family["two"]).added_tokens_decoder[8].special
    loaded = plan_of(union_of(family))[0].tokenizer.load()
    assert loaded.added_tokens_decoder[ids["<turn>"]].special
    assert not loaded.added_tokens_decoder[ids["bird"]].special


@pytest.mark.parametrize("policy", ["base", "union", "two"])
@given(data=st.data())
def test_a_text_means_the_same_through_the_output_tokenizer(family, policy, data) -> None:
    tokenizer, own, given = _readers(family, policy)
    name = data.draw(st.sampled_from(sorted(family)))
    known = own[name]
    pieces = data.draw(st.lists(st.sampled_from(sorted(set(known[0].get_vocab()) & set(tokenizer.get_vocab())))))
    text = " ".join(pieces)
    theirs, ours = known[0](text)["input_ids"], tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ours) == known[0].convert_ids_to_tokens(theirs)
    assert torch.equal(given[name][ours], known[1][theirs])


_read: dict[tuple[Path, str], tuple] = {}


def _readers(family, policy):
    key = (family["base"], policy)
    if key not in _read:
        recipe = union_of(family, tokenizer_source=policies(family)[policy])
        own = {
            name: (AutoTokenizer.from_pretrained(folder), load_file(folder / "model.safetensors")[EMBEDDING])
            for name, folder in family.items()
        }
        _read[key] = plan_of(recipe)[0].tokenizer.load(), own, rows_of(recipe)[1]
    return _read[key]


def test_a_chat_model_and_its_base_model(tmp_path, tokenizer) -> None:
    """A byte-level BPE and the same with tokens for a chat, as after fine-tuning."""
    folders, texts = {}, ["red cat runs", " two birds,\nthree dögs"]
    for seed, (name, added) in enumerate({"base": [], "chat": ["<|im_start|>", "<|im_end|>"]}.items()):
        folders[name] = tmp_path / name
        save_weights(folders[name], seed, len(tokenizer) + len(added))
        tokenizer.save_pretrained(folders[name])
        tuned = AutoTokenizer.from_pretrained(folders[name])
        tuned.add_tokens([AddedToken(token, special=True, normalized=False) for token in added])
        tuned.save_pretrained(folders[name])
    recipe = recipe_of(*folders.values(), base=folders["base"], tokenizer_source="union", chat_template="chatml")
    output = plan_of(recipe)[0].tokenizer.load()
    talk = [{"role": "user", "content": text} for text in texts]
    texts.append(output.apply_chat_template(talk, tokenize=False, add_generation_prompt=True))
    _, given = rows_of(recipe)
    for name, folder in folders.items():
        theirs, weights = AutoTokenizer.from_pretrained(folder), load_file(folder / "model.safetensors")[EMBEDDING]
        for text in texts if name == "chat" else texts[:2]:
            assert output.tokenize(text) == theirs.tokenize(text)
            assert output.decode(output(text)["input_ids"]) == text
            assert torch.equal(given[name][output(text)["input_ids"]], weights[theirs(text)["input_ids"]])
    assert output.tokenize(texts[2]).count("<|im_start|>") == 3
    assert torch.equal(given["base"][len(tokenizer) :], given["chat"][len(tokenizer) :])


@pytest.mark.parametrize("policy", ["base", "union", "two"])
def test_disk_and_live_model_agree(family, tmp_path, policy) -> None:
    recipe = union_of(
        family, tokenizer={"source": policies(family)[policy], "pad_to_multiple_of": 8}, chat_template="chatml"
    )
    merge_to_disk(recipe, tmp_path / "out", device="cpu")
    plan, checkpoints = plan_of(recipe)
    live = LiveModel(plan.config, dtype=plan.out_dtype, device=CPU)
    live.load(plan, stream(plan, Sources(checkpoints, CPU), device=CPU, statistics=StatisticsCache()))
    saved = LlamaForCausalLM.from_pretrained(tmp_path / "out")
    size = {"base": 8, "union": 16, "two": 16}[policy]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == size
    for name, weight in saved.state_dict().items():
        assert torch.equal(weight, live.model.state_dict()[name]), name
    ours, theirs = plan.tokenizer.load(), AutoTokenizer.from_pretrained(tmp_path / "out")
    talk = [{"role": "user", "content": "red <turn> bird <end> dog"}]
    assert ours.apply_chat_template(talk, tokenize=False) == "<|im_start|>user\nred <turn> bird <end> dog<|im_end|>\n"
    assert ours.apply_chat_template(talk)["input_ids"] == theirs.apply_chat_template(talk)["input_ids"]
    assert live.model.generation_config.eos_token_id == saved.generation_config.eos_token_id
    ids = torch.tensor([ours("red green <end>")["input_ids"]])
    assert torch.equal(live.model(ids).logits, saved(ids).logits)


def test_padding_is_the_mean_of_all_tokens(family) -> None:
    ids, given = rows_of(union_of(family, tokenizer={"source": "union", "pad_to_multiple_of": 16}))
    assert len(ids) == 11
    for rows in given.values():
        assert rows.shape == (16, 8)
        expected = rows[:11].double().mean(0).float()
        torch.testing.assert_close(rows[11:], expected.expand(5, 8), rtol=1e-6, atol=1e-8)


def test_rows_of_single_tokens(family) -> None:
    one, two = str(family["one"]), str(family["two"])
    tokens = {
        "<turn>": {"source": one},
        "bird": {"source": one, "force": True},
        "fish": {"source": {"kind": "zero"}},
        "<new>": {"source": {"kind": "model_token", "model": two, "token": "<tool>"}},
        "dog": {"source": {"kind": "model_token", "model": one, "token_id": 1}, "force": True},
        "cat": {"source": two},
        "red": {"force": True},
    }
    ids, given = rows_of(union_of(family, tokenizer={"source": "base", "tokens": tokens}))
    assert sorted(ids, key=ids.get)[7:] == ["<turn>", "bird", "fish", "<new>"]
    own = {name: own_rows(folder) for name, folder in family.items()}
    for name, rows in given.items():
        assert torch.equal(rows[ids["<turn>"]], own[name].get("<turn>", own["one"]["<turn>"]))
        assert torch.equal(rows[ids["bird"]], own["one"]["bird"])  # two has it, and force replaces that
        assert torch.equal(rows[ids["fish"]], own[name].get("fish", torch.zeros(8)))
        assert torch.equal(rows[ids["<new>"]], own["two"]["<tool>"])
        assert torch.equal(rows[ids["dog"]], own["one"]["cat"])
        assert torch.equal(rows[ids["cat"]], own[name]["cat"])  # all have it
        assert torch.equal(rows[ids["red"]], own["base"]["red"])  # what a model without it would get


def test_an_added_token_keeps_the_settings_that_a_model_has_for_it(family) -> None:
    tokens = {"<turn>": {"source": str(family["one"])}, "<new>": {"source": {"kind": "zero"}}}
    tokenizer = plan_of(union_of(family, tokenizer={"source": "base", "tokens": tokens}))[0].tokenizer.load()
    assert tokenizer.added_tokens_decoder[7].special
    assert not tokenizer.added_tokens_decoder[8].special
    assert tokenizer.tokenize("red<turn>cat<new>") == ["red", "<turn>", "cat", "<new>"]


def test_padding_rows_of_a_model_are_not_used(family, save) -> None:
    padded = save("padded", *VOCABULARIES["base"], rows=32)
    ids, given = rows_of(recipe_of(padded, family["one"], base=padded, tokenizer_source="union"))
    assert len(ids) == 9  # <turn> and bird come to the 7 of the base
    assert given["padded"].shape == (9, 8)
    assert torch.equal(given["padded"][ids["<turn>"]], own_rows(family["one"])["<turn>"])


def test_equal_vocabularies_of_unlike_padding(family, save, tmp_path) -> None:
    padded = save("padded", *VOCABULARIES["base"], rows=32)
    with pytest.raises(ModelError, match=r"shapes differ .*found \[7, 8\]; .*tokenizer_source: union or base"):
        plan_of(recipe_of(padded, family["base"]))
    merge_to_disk(recipe_of(padded, family["base"], tokenizer_source="union"), tmp_path / "out", device="cpu")
    merged = load_file(tmp_path / "out" / "model.safetensors")[HEAD]
    expected = [load_file(folder / "model.safetensors")[HEAD][:7].double() for folder in (padded, family["base"])]
    torch.testing.assert_close(merged.double(), sum(expected) / 2, rtol=1e-6, atol=1e-7)


def test_tokens_past_the_end_of_the_embedding_are_not_used(family, save) -> None:
    short = save("short", *VOCABULARIES["base"], rows=6)  # <end> has no row
    plan, _ = plan_of(recipe_of(short, tokenizer_source=str(short)))
    assert plan.config["vocab_size"] == 6
    assert "<end>" not in plan.tokenizer.load().get_vocab()
    assert plan.warnings[0] == f"tokens of {short} without an embedding, left out: 1, such as '<end>'"
    ids, given = rows_of(recipe_of(short, family["one"], base=short, tokenizer_source="union"))
    assert torch.equal(given["short"][ids["<end>"]], own_rows(family["one"])["<end>"])


@pytest.mark.parametrize("base", ["tied", "untied"])
def test_a_tied_head_follows_too(save, base) -> None:
    folders = {
        "tied": save("tied", *VOCABULARIES["base"], tied=True),
        "untied": save("untied", *VOCABULARIES["two"]),
    }
    ids, given = rows_of(recipe_of(*folders.values(), base=folders[base], tokenizer_source="union"), HEAD)
    own = {"tied": own_rows(folders["tied"], EMBEDDING), "untied": own_rows(folders["untied"], HEAD)}
    assert torch.equal(given["tied"][ids["fish"]], own["untied"]["fish"])
    assert torch.equal(given["untied"][ids["<end>"]], own["tied"]["<end>"])
    assert torch.equal(given["tied"][ids["red"]], own["tied"]["red"])


def test_the_bias_of_a_head_follows_too(family, save) -> None:
    folders = [save(name, *VOCABULARIES[name]) for name in ("base", "two")]
    for folder in folders:
        weights = load_file(folder / "model.safetensors")
        weights["lm_head.bias"] = torch.arange(float(len(weights[HEAD])))
        save_file(weights, folder / "model.safetensors")
    ids, given = rows_of(recipe_of(*folders, base=folders[0], tokenizer_source="union"), "lm_head.bias")
    assert given["base"][ids["fish"]] == 5
    assert given["two"][ids["<end>"]] == 6


def test_half_precision_is_copied_and_means_are_rounded_once(family, tmp_path) -> None:
    folders = []
    for name, folder in family.items():
        folders.append(tmp_path / name)
        LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folders[-1])
        save_tokenizer(folders[-1], *VOCABULARIES[name])
    ids, given = rows_of(recipe_of(*folders, base=folders[0], tokenizer_source="union"))
    own = {folder.name: own_rows(folder) for folder in folders}
    assert given["base"].dtype == torch.bfloat16
    mean = (own["one"]["bird"].double() + own["two"]["bird"].double()) / 2
    assert torch.equal(given["base"][ids["bird"]], mean.bfloat16())


def test_config_and_ids_of_special_tokens_follow_a_named_model(family) -> None:
    plan, _ = plan_of(union_of(family, tokenizer_source=str(family["two"])))
    assert (plan.config["vocab_size"], plan.config["eos_token_id"]) == (9, 8)
    plan, _ = plan_of(union_of(family))
    assert (plan.config["vocab_size"], plan.config["eos_token_id"]) == (11, 6)


def test_a_nested_config_follows(family) -> None:
    vocabulary = plan_of(union_of(family))[0].vocabulary
    config = {"text_config": {"vocab_size": 7, "x": 1}, "vision_config": {"vocab_size": 5}, "image_token_id": 3}
    assert vocabulary.config(config) == {**config, "text_config": {"vocab_size": 11, "x": 1}}
    assert vocabulary.config({"vocab_size": 7, "text_config": {"vocab_size": 7}}) == {
        "vocab_size": 11,
        "text_config": {"vocab_size": 11},
    }


def test_candidates_share_one_vocabulary(family) -> None:
    first, _ = plan_of(union_of(family))
    second, _ = plan_of(union_of(family, parameters={"weight": 0.3}))
    assert first.vocabulary is second.vocabulary
    assert first.tensors[0].sources == second.tensors[0].sources
    assert first.tensors[0].sources[1].rows is second.tensors[0].sources[1].rows


def test_tokenizers_with_the_same_files_are_not_read(family, tmp_path, monkeypatch) -> None:
    twin = save_model(tmp_path / "twin", 9, *VOCABULARIES["base"])
    monkeypatch.setattr(OutputTokenizer, "vocabulary", None)
    assert plan_of(recipe_of(family["base"], twin))[0].config["vocab_size"] == 7


def test_a_tokenizer_of_a_model_that_is_not_merged(family) -> None:
    recipe = recipe_of(family["base"], family["one"], base=family["base"], tokenizer_source=str(family["two"]))
    plan, _ = plan_of(recipe)
    assert plan.warnings[-1] == "tokens that no model has, filled with zeros: 2, such as 'fish', '<tool>'"
    ids, given = rows_of(recipe)
    assert set(ids) == set(OutputTokenizer(family["two"]).vocabulary().ids)
    assert not given["base"][ids["fish"]].any()


def test_a_model_without_a_tokenizer_has_that_of_the_base(family, save) -> None:
    bare = save("bare", *VOCABULARIES["base"])
    for file in bare.glob("tokenizer*"):
        file.unlink()
    recipe = recipe_of(bare, family["two"], base=family["base"], tokenizer_source="union")
    assert plan_of(recipe)[0].warnings[0] == f"{bare} has no tokenizer: taken to have the tokens of {family['base']}"
    ids, given = rows_of(recipe)
    assert torch.equal(given["bare"][ids["dog"]], load_file(bare / "model.safetensors")[EMBEDDING][5])
    with pytest.raises(ModelError, match=rf"tokenizer missing or damaged \({bare}\)"):
        plan_of(recipe_of(bare, family["two"], tokenizer_source="union"))
    with pytest.raises(ModelError, match=rf"tokenizer missing or damaged \({bare}\); name another model"):
        plan_of(recipe_of(family["two"], bare, tokenizer_source=str(bare)))


def test_slices_take_their_rows_from_their_own_models(family) -> None:
    def recipe(**settings: object) -> Recipe:
        runs = [{"sources": [{"model": str(family[name]), "layer_range": [0, 1]}]} for name in ("one", "two")]
        return Recipe.from_document({"merge_method": "passthrough", "slices": runs, **settings})

    ids, given = rows_of(recipe(tokenizer_source="union"))
    assert list(given) == ["one"]
    assert torch.equal(given["one"][ids["bird"]], own_rows(family["one"])["bird"])
    assert not given["one"][ids["fish"]].any()
    tokens = {"fish": {"source": str(family["two"])}}
    message = r"token source is not merged \(tokenizer.tokens.fish\): expected one of .*one, which model.embed_tokens"
    with pytest.raises(RecipeError, match=message):
        plan_of(recipe(tokenizer={"source": "union", "tokens": tokens}))


def test_a_later_stage_has_the_tokens_of_an_earlier_one(family) -> None:
    first = {
        "name": "both",
        "merge_method": "linear",
        "models": [{"model": str(family[name]), "parameters": {"weight": 1.0}} for name in ("one", "two")],
        "base_model": str(family["one"]),
        "tokenizer_source": "union",
    }
    second = {
        "merge_method": "linear",
        "models": [{"model": name, "parameters": {"weight": 1.0}} for name in (str(family["base"]), "both")],
        "base_model": str(family["base"]),
        "tokenizer_source": "union",
    }
    text = "---\n".join(json.dumps(each) + "\n" for each in (first, second))
    ids, given = rows_of(Recipe.from_yaml(text))
    assert set(ids) == {*SHARED, "dog", "<end>", "bird", "fish", "<turn>", "<tool>"}
    own = {name: own_rows(folder) for name, folder in family.items()}
    torch.testing.assert_close(
        given["both"][ids["bird"]].double(), (own["one"]["bird"].double() + own["two"]["bird"].double()) / 2
    )
    assert torch.equal(given["base"][ids["fish"]], own["two"]["fish"])


@pytest.mark.parametrize(
    "policy, tokens, message",
    [
        ("union", {"cow": {"source": "{one}"}}, r"token source does not have the token \(tokenizer.tokens.cow\): "),
        ("base", {"fish": {"source": "{one}"}}, r"expected a token of .*one, found 'fish'"),
        (
            "base",
            {"x": {"source": {"kind": "model_token", "model": "{one}", "token": "bord"}}},
            r"found 'bord'; did you mean 'bird'\?",
        ),
        (
            "base",
            {"x": {"source": {"kind": "model_token", "model": "{one}", "token_id": 8}}},
            r"no embedding of this id \(tokenizer.tokens.x\): expected an id from 0 to 7 of .*one, found 8",
        ),
        ("base", {"x": {"source": "nobody/knows"}}, r"token source is not merged .*found nobody/knows"),
        ("base", {"": {"source": {"kind": "zero"}}}, r"token cannot be added \(tokenizer.tokens\): found ''"),
    ],
)
def test_sources_that_there_are_not(family, policy, tokens, message) -> None:
    text = json.dumps({"source": policy, "tokens": tokens}).replace("{one}", str(family["one"]))
    with pytest.raises(RecipeError, match=message) as caught:
        plan_of(union_of(family, tokenizer=json.loads(text)))
    assert "\n" not in str(caught.value)


def test_without_a_policy_the_message_names_them(family) -> None:
    with pytest.raises(ModelError, match=r"vocabularies differ .*; .*set tokenizer_source to base, union or one of"):
        plan_of(recipe_of(family["base"], family["one"]))


def test_a_base_policy_needs_a_base(family) -> None:
    with pytest.raises(RecipeError, match="tokenizer source 'base' without a base_model; set base_model"):
        plan_of(recipe_of(family["base"], family["one"], tokenizer_source="base"))


def test_a_policy_for_a_model_without_a_known_embedding(family, save) -> None:
    folder = save("odd", *VOCABULARIES["base"])
    weights = load_file(folder / "model.safetensors")
    weights["model.strange"] = weights.pop(EMBEDDING)
    weights["model.stranger"] = weights.pop(HEAD)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=rf"no token embedding of a known name \({folder}\)"):
        plan_of(recipe_of(folder, tokenizer_source="union"))


def test_preflight_tells_what_is_dropped_and_filled(family) -> None:
    found = preflight(union_of(family, tokenizer_source="base"))
    base, one, two = (str(folder) for folder in family.values())
    assert json.loads(found.to_json())["vocabulary"] == [
        {
            "model": one,
            "dropped": 2,
            "such_as": ["bird", "<turn>"],
            "filled": [{"source": base, "count": 1, "such_as": ["dog"]}],
        },
        {
            "model": two,
            "dropped": 4,
            "such_as": ["fish", "bird", "<tool>"],
            "filled": [{"source": base, "count": 2, "such_as": ["dog", "<end>"]}],
        },
    ]
    text = str(found)
    assert f"{one}: tokens dropped: 2, such as 'bird', '<turn>'; rows filled from {base}: 1, such as 'dog'" in text
    union = preflight(union_of(family, tokenizer={"source": "union", "tokens": {"x": {"source": {"kind": "zero"}}}}))
    filled = "rows filled from mean: 2, such as 'bird', '<turn>'; "
    filled += f"rows filled from {two}: 2, such as 'fish', '<tool>'; rows filled from zeros: 1, such as 'x'"
    assert f"{base}: tokens dropped: 0; {filled}" in str(union)
    assert (
        f"ordinary tokens of {one} become added tokens, found in any text before all others: 1, such as 'bird'"
        in union.warnings
    )
    assert f"tokenizer: {base}, with 5 tokens more" in str(union)
