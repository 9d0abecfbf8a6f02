"""Bad recipes through the command line: one line that says it and the exit code of its kind; warnings of `check`."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from evomerge.cli import main

Q = "base_model.model.model.layers.0.self_attn.q_proj"


def models(*names):
    return [{"model": str(name)} for name in names]


@pytest.fixture
def write(tmp_path):
    """write(*documents): a recipe file."""

    def recipe(*documents):
        path = tmp_path / "recipe.yaml"
        path.write_text("---\n".join(yaml.safe_dump(document, sort_keys=False) for document in documents))
        return str(path)

    return recipe


@pytest.fixture
def refused(write, tmp_path, capfd):
    """refused(code, told, *documents): merge and check end so, say that in one line, and leave nothing."""

    def commands(code, told, *documents):
        recipe = write(*documents)
        before = sorted(tmp_path.rglob("*"))
        for words in (["check", recipe], ["merge", recipe, str(tmp_path / "out")]):
            capfd.readouterr()
            ended = main(words)
            out, err = capfd.readouterr()
            assert (ended, out) == (code, ""), err
            assert err.startswith("evomerge: ")
            assert len(err.splitlines()) == 1, err
            assert told in err
        assert sorted(tmp_path.rglob("*")) == before

    return commands


@pytest.fixture
def linear(family):
    return {"merge_method": "linear", "parameters": {"weight": 1.0}, "models": models(family / "first")}


@pytest.mark.parametrize(
    ("config", "rank", "inputs", "told"),
    [
        ({}, 2, 48, "adapter does not fit its base"),
        ({"r": 4}, 2, 32, "adapter rank mismatch"),
        ({"use_dora": True}, 2, 32, "unsupported adapter"),
        ({"peft_type": "IA3"}, 2, 32, "expected peft_type LORA"),
    ],
)
def test_an_adapter_that_does_not_fit(refused, linear, family, tmp_path, config, rank, inputs, told):
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4} | config))
    factors = {f"{Q}.lora_A.weight": torch.zeros(rank, inputs), f"{Q}.lora_B.weight": torch.zeros(32, rank)}
    save_file(factors, lora / "adapter_model.safetensors")
    refused(4, told, linear | {"models": models(f"{family / 'base'}+{lora}")})


def test_stages_in_a_cycle(refused, linear):
    one, two = ({"name": name} | linear | {"models": models(other)} for name, other in (("a", "b"), ("b", "a")))
    refused(2, "stages in a cycle", one, two, linear | {"models": models("a")})


@pytest.mark.parametrize("name", ["../stage", "/stage", "a+b", "x@y"])
def test_a_stage_without_a_plain_name(refused, linear, name):
    refused(2, "bad name", {"name": name} | linear, linear)


def test_a_tokenizer_of_a_stage_that_is_not_merged(refused, linear):
    refused(2, "tokenizer of a stage that is not merged", {"name": "a"} | linear, linear | {"tokenizer_source": "a"})


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"kind": "model_token", "model": "first", "token": "<nowhere>"}, "token source does not have the token"),
        ({"kind": "model_token", "model": "first", "token_id": 9999}, "no embedding of this id"),
        ("second", "token source is not merged"),
    ],
)
def test_a_token_that_its_source_does_not_have(refused, linear, family, source, told):
    if isinstance(source, dict):
        source |= {"model": str(family / source["model"])}
    else:
        source = str(family / source)
    refused(2, told, linear | {"tokenizer": {"source": "union", "tokens": {"<new>": {"source": source}}}})


@pytest.mark.parametrize("source", ["base", "nowhere", "first"])
def test_a_token_that_all_models_have_is_no_excuse_for_a_bad_source(refused, linear, family, source):
    told, source = "token source is not merged (tokenizer.tokens.<s>)", str(family / source)
    if source == str(family / "first"):
        told, source = "token source does not have the token", {"kind": "model_token", "model": source, "token": "<no>"}
    refused(2, told, linear | {"tokenizer": {"source": "union", "tokens": {"<s>": {"source": source}}}})


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("sum", "bad parameter value (models[1].parameters.weight): expected a finite number, found 'sum'"),
        ([0, 10**400], "bad parameter value (models[1].parameters.weight): expected a finite number, found 1000"),
    ],
)
def test_a_value_that_is_no_number_is_told_with_its_place(refused, linear, family, setting, told):
    model = {"model": str(family / "base"), "parameters": {"weight": setting}}
    refused(2, told, linear | {"models": [*linear["models"], model]})


def test_a_gradient_of_seeds(refused, linear, family):
    told = "gradient of whole numbers (parameters.random_seed): expected one whole number, found [1, 8]"
    settings = {"weight": 1.0, "density": 0.5, "random_seed": [1, 8]}
    refused(
        2, told, linear | {"merge_method": "dare_linear", "base_model": str(family / "base"), "parameters": settings}
    )


@pytest.mark.parametrize("how", ["config", "tensor"])
def test_a_quantized_model(refused, linear, family, tmp_path, how):
    import shutil

    folder = shutil.copytree(family / "first", tmp_path / "quantized")
    if how == "config":
        config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
        (folder / "config.json").write_text(json.dumps(config))
    else:
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.0.mlp.up_proj.qweight"] = torch.zeros(4, 4, dtype=torch.int32)
        save_file(tensors, folder / "model.safetensors")
    refused(4, "dequantize it first", linear | {"models": models(folder)})


def test_layers_past_the_end(refused, linear, family):
    slices = [{"sources": [{"model": str(family / "first"), "layer_range": [1, 3]}]}]
    refused(2, "layer_range beyond the last layer", {"merge_method": "passthrough", "slices": slices})


def test_check_warns_of_filters_gradients_and_settings_without_effect(write, family, capfd):
    setting = [{"filter": "slef_attn", "value": 0.1}, {"filter": "lm_head", "value": [0.1, 0.9]}, {"value": 0.5}]
    own = {"model": str(family / "base"), "parameters": {"weight": 1.0}}
    recipe = write(
        {
            "merge_method": "ties",
            "base_model": str(family / "base"),
            "models": [*models(family / "first"), own],
            "parameters": {"weight": setting, "density": 0.5},
        }
    )
    assert main(["check", recipe]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    warnings = [line for line in out.splitlines() if line.startswith("warning: ")]
    for told in (
        "models[1].parameters: weight has no effect on the base model",
        "filter 'slef_attn' fits no tensor; did you mean 'self_attn'?",
        "filter 'lm_head' fits tensors outside of the layers alone: only 0.1 is used",
    ):
        assert sum(told in warning for warning in warnings) == 1, out


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("stages/soup", "one output lies in another"),
        ("stages", "one output lies in another"),
        ("full", "output exists"),
    ],
)
def test_outputs_are_checked_before_the_first_stage_is_merged(write, linear, tmp_path, capfd, out, told):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    recipe = write({"name": "soup"} | linear, linear | {"models": models("soup")})
    assert main(["merge", recipe, str(tmp_path / out), "--intermediate", str(tmp_path / "stages")]) == 2
    said = capfd.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert told in said.err
    assert not (tmp_path / "stages").exists()


def test_a_stage_folder_that_exists_is_not_taken_for_the_stage(write, linear, tmp_path, capfd):
    recipe = write({"name": "soup"} | linear, linear | {"models": models("soup")})
    words = ["merge", recipe, str(tmp_path / "out"), "--intermediate", str(tmp_path / "stages")]
    assert main(words) == 0
    capfd.readouterr()
    assert main([*words[:2], str(tmp_path / "again"), *words[3:]]) == 2
    assert "output exists" in capfd.readouterr().err
    assert not (tmp_path / "again").exists()
