"""Models of different vocabularies: the rows of embedding and head that belong to the output's."""

import json
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from evomerge.errors import ModelError, RecipeError
from evomerge.merge import merge_to_disk
from evomerge.recipe import Recipe

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SHARED = {"?", "red", "green", "blue", "cat"}


@pytest.mark.parametrize("policy", ["base", "union", "two"])
@pytest.mark.parametrize("tensor", [EMBEDDING, HEAD])
def test_each_model_gives_its_own_rows_and_the_rule_gives_the_rest(
    policies, dialects, union_of, rows_of, own_rows, policy, tensor
) -> None:
    ids, given = rows_of(union_of(tokenizer_source=policies[policy]), tensor)
    expected_tokens = {
        "base": {*SHARED, "dog", "<end>"},
        "union": {*SHARED, "dog", "<end>", "bird", "fish", "<turn>", "<tool>"},
        "two": {*SHARED, "fish", "bird", "<tool>", "<turn>"},
    }
    assert set(ids) == expected_tokens[policy]
    own = {name: own_rows(folder, tensor) for name, folder in dialects.items()}
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


def test_padding_is_the_mean_of_all_tokens(union_of, rows_of) -> None:
    ids, given = rows_of(union_of(tokenizer={"source": "union", "pad_to_multiple_of": 16}))
    assert len(ids) == 11
    for rows in given.values():
        assert rows.shape == (16, 8)
        expected = rows[:11].double().mean(0).float()
        torch.testing.assert_close(rows[11:], expected.expand(5, 8), rtol=1e-6, atol=1e-8)


def test_rows_of_single_tokens(dialects, union_of, rows_of, own_rows) -> None:
    one, two = str(dialects["one"]), str(dialects["two"])
    tokens = {
        "<turn>": {"source": one},
        "bird": {"source": one, "force": True},
        "fish": {"source": {"kind": "zero"}},
        "<new>": {"source": {"kind": "model_token", "model": two, "token": "<tool>"}},
        "dog": {"source": {"kind": "model_token", "model": one, "token_id": 1}, "force": True},
        "cat": {"source": two},
        "red": {"force": True},
    }
    ids, given = rows_of(union_of(tokenizer={"source": "base", "tokens": tokens}))
    assert sorted(ids, key=ids.get)[7:] == ["<turn>", "bird", "fish", "<new>"]
    own = {name: own_rows(folder) for name, folder in dialects.items()}
    for name, rows in given.items():
        assert torch.equal(rows[ids["<turn>"]], own[name].get("<turn>", own["one"]["<turn>"]))
        assert torch.equal(rows[ids["bird"]], own["one"]["bird"])  # two has it, and force replaces that
        assert torch.equal(rows[ids["fish"]], own[name].get("fish", torch.zeros(8)))
        assert torch.equal(rows[ids["<new>"]], own["two"]["<tool>"])
        assert torch.equal(rows[ids["dog"]], own["one"]["cat"])
        assert torch.equal(rows[ids["cat"]], own[name]["cat"])  # all have it
        assert torch.equal(rows[ids["red"]], own["base"]["red"])  # what a model without it would get


def test_padding_rows_of_a_model_are_not_used(dialects, save, recipe_of, rows_of, own_rows) -> None:
    padded = save("padded", "base", rows=32)
    ids, given = rows_of(recipe_of(padded, dialects["one"], base=padded, tokenizer_source="union"))
    assert len(ids) == 9  # <turn> and bird come to the 7 of the base
    assert given["padded"].shape == (9, 8)
    assert torch.equal(given["padded"][ids["<turn>"]], own_rows(dialects["one"])["<turn>"])


def test_equal_vocabularies_of_unlike_padding(dialects, save, recipe_of, plan_of, tmp_path) -> None:
    padded = save("padded", "base", rows=32)
    with pytest.raises(ModelError, match=r"shapes differ .*found \[7, 8\]; .*tokenizer_source: union or base"):
        plan_of(recipe_of(padded, dialects["base"]))
    merge_to_disk(recipe_of(padded, dialects["base"], tokenizer_source="union"), tmp_path / "out", device="cpu")
    merged = load_file(tmp_path / "out" / "model.safetensors")[HEAD]
    expected = [load_file(folder / "model.safetensors")[HEAD][:7].double() for folder in (padded, dialects["base"])]
    torch.testing.assert_close(merged.double(), sum(expected) / 2, rtol=1e-6, atol=1e-7)


def test_tokens_past_the_last_row_are_not_used(dialects, save, recipe_of, plan_of, rows_of, own_rows) -> None:
    short = save("short", "base", rows=6)  # <end> has no row
    plan, _ = plan_of(recipe_of(short, tokenizer_source=str(short)))
    assert plan.config["vocab_size"] == 6
    assert "<end>" not in plan.tokenizer.load().get_vocab()
    assert plan.warnings[0] == f"tokens of {short} without an embedding, left out: 1, such as '<end>'"
    ids, given = rows_of(recipe_of(short, dialects["one"], base=short, tokenizer_source="union"))
    assert torch.equal(given["short"][ids["<end>"]], own_rows(dialects["one"])["<end>"])


@pytest.mark.parametrize("base", ["tied", "untied"])
def test_a_tied_head_follows_too(save, recipe_of, rows_of, own_rows, base) -> None:
    folders = {
        "tied": save("tied", "base", tied=True),
        "untied": save("untied", "two"),
    }
    ids, given = rows_of(recipe_of(*folders.values(), base=folders[base], tokenizer_source="union"), HEAD)
    own = {"tied": own_rows(folders["tied"], EMBEDDING), "untied": own_rows(folders["untied"], HEAD)}
    assert torch.equal(given["tied"][ids["fish"]], own["untied"]["fish"])
    assert torch.equal(given["untied"][ids["<end>"]], own["tied"]["<end>"])
    assert torch.equal(given["tied"][ids["red"]], own["tied"]["red"])


def test_the_bias_of_a_head_follows_too(save, recipe_of, rows_of) -> None:
    folders = [save(name, name) for name in ("base", "two")]
    for folder in folders:
        weights = load_file(folder / "model.safetensors")
        weights["lm_head.bias"] = torch.arange(float(len(weights[HEAD])))
        save_file(weights, folder / "model.safetensors")
    ids, given = rows_of(recipe_of(*folders, base=folders[0], tokenizer_source="union"), "lm_head.bias")
    assert given["base"][ids["fish"]] == 5
    assert given["two"][ids["<end>"]] == 6


@pytest.mark.parametrize(
    "names",
    [
        ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("lm_head.decoder.weight", "lm_head.decoder.bias", "lm_head.bias"),
        ("lm_head.linear.weight", "lm_head.linear.bias"),
        ("vocab_projector.weight", "vocab_projector.bias"),
        ("transformer.output_layer.weight",),
        ("predictions.bias",),  # of a tied head
    ],
)
def test_a_head_of_another_name_follows_too(save, recipe_of, rows_of, names) -> None:
    folders = [save(name, name) for name in ("base", "two")]
    for folder in folders:
        weights = load_file(folder / "model.safetensors")
        head = weights.pop(HEAD)
        weights |= {name: head if name.endswith("weight") else head[:, 0].clone() for name in names}
        save_file(weights, folder / "model.safetensors")
    for name in names:
        _, given = rows_of(recipe_of(*folders, base=folders[0], tokenizer_source="union"), name)
        assert [len(rows) for rows in given.values()] == [11, 11]


@pytest.mark.parametrize("name, shape", [("classifier.weight", (7, 8)), ("final_logits_bias", (1, 7))])
def test_what_may_be_a_head_of_an_unknown_name_is_refused(save, recipe_of, plan_of, name, shape) -> None:
    folder = save("odd", "base")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {name: torch.zeros(shape)}, folder / "model.safetensors")
    plan_of(recipe_of(folder))
    with pytest.raises(ModelError, match=rf"unknown tensor of the size of the vocabulary \({folder}: {name}\)") as no:
        plan_of(recipe_of(folder, tokenizer_source=str(folder)))
    assert "\n" not in str(no.value)


def test_half_precision_is_copied_and_means_are_rounded_once(dialects, recipe_of, rows_of, own_rows, tmp_path) -> None:
    folders = []
    for name, folder in dialects.items():
        folders.append(tmp_path / name)
        copytree(folder, folders[-1])
        LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folders[-1])
    ids, given = rows_of(recipe_of(*folders, base=folders[0], tokenizer_source="union"))
    own = {folder.name: own_rows(folder) for folder in folders}
    assert given["base"].dtype == torch.bfloat16
    mean = (own["one"]["bird"].double() + own["two"]["bird"].double()) / 2
    assert torch.equal(given["base"][ids["bird"]], mean.bfloat16())


def test_config_and_ids_of_special_tokens_follow_a_named_model(dialects, union_of, plan_of) -> None:
    plan, _ = plan_of(union_of(tokenizer_source=str(dialects["two"])))
    assert (plan.config["vocab_size"], plan.config["eos_token_id"]) == (9, 8)
    plan, _ = plan_of(union_of())
    assert (plan.config["vocab_size"], plan.config["eos_token_id"]) == (11, 6)


def test_ids_that_a_named_model_does_not_state_are_none(save, union_of, plan_of) -> None:
    donor = save("donor", "two")
    stated = {"eos_token_id": 8, "image_token_index": 7, "text_config": {"bos_token_id": 2}}
    (donor / "config.json").write_text(json.dumps(stated))
    vocabulary = plan_of(union_of(tokenizer_source=str(donor)))[0].vocabulary
    ours = {"pad_token_id": 6, "eos_token_id": 6, "image_token_index": 5}
    nested = {"text_config": {"bos_token_id": 0, "pad_token_id": 6}, "vision_config": {"pad_token_id": 1}}
    assert vocabulary.config(ours | nested) == {
        "pad_token_id": None,
        "eos_token_id": 8,
        "image_token_index": 7,
        "text_config": {"bos_token_id": 2, "pad_token_id": None},
        "vision_config": {"pad_token_id": 1},
        "vocab_size": 9,
    }


def test_a_special_id_whose_row_is_dropped_is_none(save, recipe_of, union_of, plan_of, tmp_path) -> None:
    padded = save("padded", "base", rows=8, pad_token_id=7)
    merge_to_disk(recipe_of(padded, tokenizer_source=str(padded)), tmp_path / "out", device="cpu")
    assert LlamaForCausalLM.from_pretrained(tmp_path / "out").config.pad_token_id is None
    config = {"eos_token_id": [6, 11], "bos_token_id": [11], "pad_token_id": -1, "vocab_size": 11}
    assert plan_of(union_of())[0].vocabulary.config(config) == {**config, "eos_token_id": [6], "bos_token_id": None}


def test_a_nested_config_follows(union_of, plan_of) -> None:
    vocabulary = plan_of(union_of())[0].vocabulary
    config = {"text_config": {"vocab_size": 7, "x": 1}, "vision_config": {"vocab_size": 5}, "image_token_id": 3}
    assert vocabulary.config(config) == {**config, "text_config": {"vocab_size": 11, "x": 1}}
    assert vocabulary.config({"vocab_size": 7, "text_config": {"vocab_size": 7}}) == {
        "vocab_size": 11,
        "text_config": {"vocab_size": 11},
    }


def test_slices_take_their_rows_from_their_own_models(dialects, plan_of, rows_of, own_rows) -> None:
    def recipe(**settings: object) -> Recipe:
        runs = [{"sources": [{"model": str(dialects[name]), "layer_range": [0, 1]}]} for name in ("one", "two")]
        return Recipe.from_document({"merge_method": "passthrough", "slices": runs, **settings})

    ids, given = rows_of(recipe(tokenizer_source="union"))
    assert list(given) == ["one"]
    assert torch.equal(given["one"][ids["bird"]], own_rows(dialects["one"])["bird"])
    assert not given["one"][ids["fish"]].any()
    tokens = {"fish": {"source": str(dialects["two"])}}
    message = r"token source is not merged \(tokenizer.tokens.fish\): expected one of .*one, which model.embed_tokens"
    with pytest.raises(RecipeError, match=message):
        plan_of(recipe(tokenizer={"source": "union", "tokens": tokens}))


def test_a_later_stage_has_the_tokens_of_an_earlier_one(dialects, rows_of, own_rows) -> None:
    first = {
        "name": "both",
        "merge_method": "linear",
        "models": [{"model": str(dialects[name]), "parameters": {"weight": 1.0}} for name in ("one", "two")],
        "base_model": str(dialects["one"]),
        "tokenizer_source": "union",
    }
    second = {
        "merge_method": "linear",
        "models": [{"model": name, "parameters": {"weight": 1.0}} for name in (str(dialects["base"]), "both")],
        "base_model": str(dialects["base"]),
        "tokenizer_source": "union",
    }
    text = "---\n".join(json.dumps(each) + "\n" for each in (first, second))
    ids, given = rows_of(Recipe.from_yaml(text))
    assert set(ids) == {*SHARED, "dog", "<end>", "bird", "fish", "<turn>", "<tool>"}
    own = {name: own_rows(folder) for name, folder in dialects.items()}
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
def test_sources_that_there_are_not(dialects, union_of, plan_of, policy, tokens, message) -> None:
    text = json.dumps({"source": policy, "tokens": tokens}).replace("{one}", str(dialects["one"]))
    with pytest.raises(RecipeError, match=message) as caught:
        plan_of(union_of(tokenizer=json.loads(text)))
    assert "\n" not in str(caught.value)


def test_a_policy_for_a_model_without_a_known_embedding(save, recipe_of, plan_of) -> None:
    folder = save("odd", "base")
    weights = load_file(folder / "model.safetensors")
    weights["model.strange"] = weights.pop(EMBEDDING)
    weights["model.stranger"] = weights.pop(HEAD)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=rf"no token embedding of a known name \({folder}\)"):
        plan_of(recipe_of(folder, tokenizer_source="union"))
