"""Models of different vocabularies: the tokenizer of the output."""

import json
from functools import cache

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file
from tokenizers import AddedToken
from transformers import AutoTokenizer, LlamaForCausalLM

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
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def readers(dialects, policies, union_of, plan_of, rows_of):
    @cache
    def readers(policy):
        """The output's tokenizer; of each model tokenizer and embedding; and the rows that each gives."""
        recipe = union_of(tokenizer_source=policies[policy])
        own = {
            name: (AutoTokenizer.from_pretrained(folder), load_file(folder / "model.safetensors")[EMBEDDING])
            for name, folder in dialects.items()
        }
        return plan_of(recipe)[0].tokenizer.load(), own, rows_of(recipe)[1]

    return readers


def test_the_union_is_the_base_and_then_the_tokens_of_the_others(dialects, union_of, plan_of, rows_of) -> None:
    ids, _ = rows_of(union_of())
    base = OutputTokenizer(dialects["base"]).vocabulary().ids
    # ordinary words by model and id, then added tokens by model and id
    assert sorted(ids, key=ids.get) == [*sorted(base, key=base.get), "bird", "fish", "<turn>", "<tool>"]
    assert AutoTokenizer.from_pretrained(dialects["two"]).added_tokens_decoder[8].special
    loaded = plan_of(union_of())[0].tokenizer.load()
    assert loaded.added_tokens_decoder[ids["<turn>"]].special
    assert not loaded.added_tokens_decoder[ids["bird"]].special


@pytest.mark.parametrize("policy", ["base", "union", "two"])
@given(data=st.data())
def test_a_text_means_the_same_through_the_output_tokenizer(dialects, readers, policy, data) -> None:
    tokenizer, own, given = readers(policy)
    name = data.draw(st.sampled_from(sorted(dialects)))
    known = own[name]
    pieces = data.draw(st.lists(st.sampled_from(sorted(set(known[0].get_vocab()) & set(tokenizer.get_vocab())))))
    text = " ".join(pieces)
    theirs, ours = known[0](text)["input_ids"], tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ours) == known[0].convert_ids_to_tokens(theirs)
    assert torch.equal(given[name][ours], known[1][theirs])


def test_a_chat_model_and_its_base_model(recipe_of, plan_of, rows_of, make_llama, tokenizer) -> None:
    """A byte-level BPE and the same with tokens for a chat, as after fine-tuning."""
    folders, texts = {}, ["red cat runs", " two birds,\nthree dögs"]
    for seed, (name, added) in enumerate({"base": [], "chat": ["<|im_start|>", "<|im_end|>"]}.items()):
        folders[name] = make_llama(name, seed, vocab_size=len(tokenizer) + len(added))
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
def test_disk_and_live_model_agree(policies, dialects, union_of, plan_of, tmp_path, policy) -> None:
    recipe = union_of(tokenizer={"source": policies[policy], "pad_to_multiple_of": 8}, chat_template="chatml")
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


def test_an_added_token_keeps_the_settings_that_a_model_has_for_it(dialects, union_of, plan_of) -> None:
    tokens = {"<turn>": {"source": str(dialects["one"])}, "<new>": {"source": {"kind": "zero"}}}
    tokenizer = plan_of(union_of(tokenizer={"source": "base", "tokens": tokens}))[0].tokenizer.load()
    assert tokenizer.added_tokens_decoder[7].special
    assert not tokenizer.added_tokens_decoder[8].special
    assert tokenizer.tokenize("red<turn>cat<new>") == ["red", "<turn>", "cat", "<new>"]


def test_candidates_share_one_vocabulary(union_of, plan_of) -> None:
    first, _ = plan_of(union_of())
    second, _ = plan_of(union_of(parameters={"weight": 0.3}))
    assert first.vocabulary is second.vocabulary
    assert first.tensors[0].sources == second.tensors[0].sources
    assert first.tensors[0].sources[1].rows is second.tensors[0].sources[1].rows


def test_tokenizers_with_the_same_files_are_not_read(dialects, save, recipe_of, plan_of, monkeypatch) -> None:
    twin = save("twin", "base")
    monkeypatch.setattr(OutputTokenizer, "vocabulary", None)
    assert plan_of(recipe_of(dialects["base"], twin))[0].config["vocab_size"] == 7


def test_a_policy_reads_the_same_files_once(save, recipe_of, plan_of, monkeypatch) -> None:
    read, vocabulary = [], OutputTokenizer.vocabulary
    monkeypatch.setattr(OutputTokenizer, "vocabulary", lambda self: read.append(self) or vocabulary(self))
    plan_of(recipe_of(*[save(name, "two") for name in ("x", "y", "z")], tokenizer_source="union"))
    assert len(read) <= 1  # none, if another test has read it


def test_a_tokenizer_of_a_model_that_is_not_merged(dialects, recipe_of, plan_of, rows_of) -> None:
    recipe = recipe_of(dialects["base"], dialects["one"], base=dialects["base"], tokenizer_source=str(dialects["two"]))
    plan, _ = plan_of(recipe)
    assert plan.warnings[-1] == "tokens that no model has, filled with zeros: 2, such as 'fish', '<tool>'"
    ids, given = rows_of(recipe)
    assert set(ids) == set(OutputTokenizer(dialects["two"]).vocabulary().ids)
    assert not given["base"][ids["fish"]].any()


def test_a_model_without_a_tokenizer_has_that_of_the_base(dialects, save, recipe_of, plan_of, rows_of) -> None:
    bare = save("bare", "base")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    recipe = recipe_of(bare, dialects["two"], base=dialects["base"], tokenizer_source="union")
    assert plan_of(recipe)[0].warnings[0] == f"{bare} has no tokenizer: taken to have the tokens of {dialects['base']}"
    ids, given = rows_of(recipe)
    assert torch.equal(given["bare"][ids["dog"]], load_file(bare / "model.safetensors")[EMBEDDING][5])
    with pytest.raises(ModelError, match=rf"tokenizer missing or damaged \({bare}\)"):
        plan_of(recipe_of(bare, dialects["two"], tokenizer_source="union"))
    with pytest.raises(ModelError, match=rf"tokenizer missing or damaged \({bare}\); name another model"):
        plan_of(recipe_of(dialects["two"], bare, tokenizer_source=str(bare)))


def test_without_a_policy_the_message_names_them(dialects, recipe_of, plan_of) -> None:
    with pytest.raises(ModelError, match=r"vocabularies differ .*; .*set tokenizer_source to base, union or one of"):
        plan_of(recipe_of(dialects["base"], dialects["one"]))


def test_a_base_policy_needs_a_base(dialects, recipe_of, plan_of) -> None:
    with pytest.raises(RecipeError, match="tokenizer source 'base' without a base_model; set base_model"):
        plan_of(recipe_of(dialects["base"], dialects["one"], tokenizer_source="base"))


def test_preflight_tells_what_is_dropped_and_filled(dialects, union_of) -> None:
    found = preflight(union_of(tokenizer_source="base"))
    base, one, two = (str(folder) for folder in dialects.values())
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
    union = preflight(union_of(tokenizer={"source": "union", "tokens": {"x": {"source": {"kind": "zero"}}}}))
    filled = "rows filled from mean: 2, such as 'bird', '<turn>'; "
    filled += f"rows filled from {two}: 2, such as 'fish', '<tool>'; rows filled from zeros: 1, such as 'x'"
    assert f"{base}: tokens dropped: 0; {filled}" in str(union)
    assert (
        f"ordinary tokens of {one} become added tokens, found in any text before all others: 1, such as 'bird'"
        in union.warnings
    )
    assert f"tokenizer: {base}, with 5 tokens more" in str(union)


def test_preflight_tells_it_of_models_that_give_only_later_layers_and_the_head(dialects) -> None:
    runs = [{"sources": [{"model": str(dialects[name]), "layer_range": [0, 1]}]} for name in ("one", "two")]
    found = preflight(
        Recipe.from_document({"merge_method": "passthrough", "slices": runs, "tokenizer_source": "union"})
    ).vocabulary
    assert [each.model for each in found] == [str(dialects["one"]), str(dialects["two"])]
    zeros = {(filling.count, filling.such_as) for filling in found[1].filled}
    assert zeros == {(1, ("<end>",))}


def test_a_token_source_without_effect_is_a_warning(dialects, recipe_of):
    def warnings(**tokens):
        recipe = recipe_of(*dialects.values(), tokenizer={"source": "union", "tokens": tokens})
        return [each for each in make_plan(recipe, open_sources(recipe)).warnings if "without effect" in each]

    zero, one = {"kind": "zero"}, str(dialects["one"])
    assert warnings(red={"source": zero}, blue={"source": one}, fish={"source": zero}) == [
        "token sources without effect, as all models have the token: 2, such as 'red', 'blue'; set force"
    ]
    assert warnings(red={"source": zero, "force": True}, green={}, blue={"force": True}) == []
