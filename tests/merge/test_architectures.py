"""Models that nothing is known of but their tensors' names and shapes, and a config that may say anything."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoint import layer_of
from evomerge.errors import ModelError
from evomerge.merge import make_plan, merge_to_disk, open_sources
from evomerge.recipe import Recipe

STACKS = {
    "transformer.h": "n_layer",
    "gpt_neox.layers": "num_hidden_layers",
    "backbone.layers": "n_layer",
    "model.decoder.layers": "num_hidden_layers",
    "bert.encoder.layer": "num_hidden_layers",
    "transformer.encoder.layers": "num_layers",
    "transformer.blocks": "n_layers",
    "visual.transformer.resblocks": "num_hidden_layers",
    "layers": "num_hidden_layers",
}


def shapes(stack, depth=3):
    within = {f"{stack}.{layer}.mixer.weight": (3, 4) for layer in range(depth)}
    return {"wte.weight": (5, 4)} | within | {"final.norm.weight": (4,)}


def tensors(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("stack", STACKS)
def test_layers_are_told_by_their_names(make_checkpoint, tmp_path, stack):
    key = STACKS[stack]
    folders = [make_checkpoint(name, shapes(stack), seed, **{key: 3}) for seed, name in enumerate("ab")]
    sources = [{"model": str(folders[0]), "layer_range": [0, 2]}, {"model": str(folders[1]), "layer_range": [1, 3]}]
    document = {"merge_method": "linear", "parameters": {"weight": [1.0, 1.0]}, "slices": [{"sources": sources}] * 2}
    merge_to_disk(Recipe.from_document(document), tmp_path / "out", device="cpu")
    found, (a, b) = tensors(tmp_path / "out"), map(tensors, folders)
    assert found.keys() == shapes(stack, 4).keys()
    for index in range(4):
        expected = (a[f"{stack}.{index % 2}.mixer.weight"] + b[f"{stack}.{index % 2 + 1}.mixer.weight"]) / 2
        torch.testing.assert_close(found[f"{stack}.{index}.mixer.weight"], expected)
    assert json.loads((tmp_path / "out" / "config.json").read_text())[key] == 4


def test_a_config_that_says_nothing(make_checkpoint, tmp_path):
    folders = [make_checkpoint(name, shapes("odd.blocks"), seed) for seed, name in enumerate("ab")]
    document = {"merge_method": "linear", "parameters": {"weight": 1.0}}
    document |= {"models": [{"model": str(folder)} for folder in folders]}
    merge_to_disk(Recipe.from_document(document), tmp_path / "out", device="cpu")
    a, b = map(tensors, folders)
    for name, tensor in tensors(tmp_path / "out").items():
        torch.testing.assert_close(tensor, (a[name] + b[name]) / 2)
    slices = [{"sources": [{"model": str(folders[0]), "layer_range": [0, 1]}]}]
    with pytest.raises(ModelError, match=r"config does not count the layers .*; merge whole models"):
        merge_to_disk(Recipe.from_document({"merge_method": "passthrough", "slices": slices}), tmp_path / "o")


def test_a_head_by_the_name_of_decoder_makes_no_encoder_decoder(make_checkpoint):
    names = {"cls.predictions.decoder.weight": (5, 4)} | shapes("bert.encoder.layer")
    folder = make_checkpoint("a", names, num_hidden_layers=3)
    sources = [{"model": str(folder), "layer_range": [1, 3]}]
    merged = Recipe.from_document({"merge_method": "passthrough", "slices": [{"sources": sources}]})
    assert make_plan(merged, open_sources(merged)).config["num_hidden_layers"] == 2


EXPERTS = {
    "mixtral": {f"block_sparse_moe.experts.{expert}.w{part}.weight": (4, 6) for expert in range(3) for part in (1, 3)}
    | {"block_sparse_moe.gate.weight": (3, 6)},
    "qwen": {f"mlp.experts.{expert}.gate_proj.weight": (4, 6) for expert in range(3)}
    | {"mlp.gate.weight": (3, 6), "mlp.shared_expert.up_proj.weight": (4, 6)},
    "fused": {"mlp.experts.gate_up_proj": (3, 6, 8), "mlp.experts.down_proj": (3, 4, 6), "mlp.router.bias": (3,)},
}


@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_are_merged_one_by_one(make_checkpoint, tmp_path, kind):
    names = {f"model.layers.{layer}.{name}": shape for layer in range(2) for name, shape in EXPERTS[kind].items()}
    names |= {"model.layers.0.self_attn.q_proj.weight": (6, 6), "model.layers.1.self_attn.q_proj.weight": (6, 6)}
    base, one = (make_checkpoint(name, names, seed, num_hidden_layers=2) for seed, name in enumerate(("base", "one")))
    weight = [{"filter": "experts", "value": [0.25, 0.75]}, {"value": 0.0}]
    document = {"merge_method": "task_arithmetic", "base_model": str(base), "parameters": {"weight": weight}}
    document["models"] = [{"model": str(one)}]
    merge_to_disk(Recipe.from_document(document), tmp_path / "out", device="cpu")
    a, b, found = tensors(base), tensors(one), tensors(tmp_path / "out")
    assert found.keys() == names.keys()
    for name, tensor in found.items():
        share = (0.25, 0.75)[layer_of(name)] if "experts" in name else 0.0
        expected = a[name].double() + share * (b[name].double() - a[name].double())
        torch.testing.assert_close(tensor.double(), expected, rtol=0, atol=1e-6)


def test_first_layers_may_be_of_another_kind_than_the_rest(make_checkpoint, tmp_path):
    names = {"model.layers.0.mlp.up.weight": (2, 2)}
    names |= {f"model.layers.{layer}.mlp.experts.0.up.weight": (2, 2) for layer in (1, 2)}
    folder = make_checkpoint("a", names, num_hidden_layers=3)
    document = {"merge_method": "passthrough", "models": [{"model": str(folder)}]}
    merge_to_disk(Recipe.from_document(document), tmp_path / "out", device="cpu")
    assert tensors(tmp_path / "out").keys() == names.keys()


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("model.layers.0.mlp.up.qweight", torch.ones(4, 4, dtype=torch.int32)),
        ("model.layers.0.mlp.up.weight_scale_inv", torch.ones(4)),
        ("model.layers.0.mlp.up.weight", torch.ones(4, 4, dtype=torch.int8)),
        ("model.layers.0.mlp.up.weight", torch.ones(4, 4, dtype=torch.uint8)),
        ("model.layers.0.mlp.up.weight", torch.ones(4, 4).to(torch.float8_e5m2)),
    ],
)
def test_quantized_tensors_are_refused_by_name_and_dtype(make_checkpoint, name, tensor):
    folder = make_checkpoint("a", {"model.layers.0.norm.weight": (2,)}, num_hidden_layers=1)
    save_file(tensors(folder) | {name: tensor}, folder / "model.safetensors")
    merged = Recipe.from_document({"merge_method": "passthrough", "models": [{"model": str(folder)}]})
    with pytest.raises(ModelError, match=rf"quantized tensor \({folder}: {name}\): found .*; dequantize it first"):
        make_plan(merged, open_sources(merged))


def decoder(depth, **more):
    return shapes("model.layers", depth) | more


@pytest.mark.parametrize("lacking", [False, True])
def test_layers_past_the_count_are_no_layers(make_checkpoint, tmp_path, lacking):
    past = {"model.layers.3.eh_proj.weight": (4, 8), "model.layers.3.mixer.weight": (3, 4)}
    base = make_checkpoint("base", decoder(3) | past, 0, num_hidden_layers=3)
    other = make_checkpoint("other", decoder(3) | ({} if lacking else past), 1, num_hidden_layers=3)
    entries = [{"model": str(base)}, {"model": str(other), "parameters": {"weight": [0.0, 1.0]}}]
    document = {"merge_method": "linear", "parameters": {"weight": 1.0, "normalize": False}, "models": entries}
    plan = merge_to_disk(Recipe.from_document(document), tmp_path / "out", device="cpu")
    found, a, b = tensors(tmp_path / "out"), tensors(base), tensors(other)
    assert found.keys() == a.keys()
    for layer in range(3):  # t = 1 at the last layer that counts
        name = f"model.layers.{layer}.mixer.weight"
        torch.testing.assert_close(found[name], a[name] + layer / 2 * b[name])
    assert all(torch.equal(found[name], a[name]) for name in past)
    assert f"layers that config.json does not count are kept as in {base}" in plan.warnings


def test_layers_past_the_count_stay_behind_where_the_depth_changes(make_checkpoint):
    folder = make_checkpoint("base", decoder(4), 0, num_hidden_layers=3)

    def names(*ranges):
        slices = [{"sources": [{"model": str(folder), "layer_range": list(each)}]} for each in ranges]
        recipe = Recipe.from_document({"merge_method": "passthrough", "slices": slices})
        plan = make_plan(recipe, open_sources(recipe))
        return {layer_of(tensor.name) for tensor in plan.tensors} - {None}, plan.warnings

    assert names((0, 1), (1, 3)) == ({0, 1, 2, 3}, names((0, 3))[1])
    layers, warnings = names((0, 2))
    assert layers == {0, 1}
    assert f"layers that config.json does not count are left out: of {folder}" in warnings


@pytest.mark.parametrize("section", ["text_config", "llm_config"])
def test_the_text_network_of_a_config_is_compared_too(make_checkpoint, section):
    folders = [
        make_checkpoint(name, decoder(3), **{section: {"num_hidden_layers": 3, "num_attention_heads": heads}})
        for name, heads in (("a", 2), ("b", 4))
    ]
    document = {"merge_method": "linear", "parameters": {"weight": 1.0}}
    recipe = Recipe.from_document(document | {"models": [{"model": str(folder)} for folder in folders]})
    message = rf"architectures differ \(.*b\): expected {section}.num_attention_heads 2 of .*a, found 4"
    with pytest.raises(ModelError, match=message):
        make_plan(recipe, open_sources(recipe))


def test_settings_of_the_text_network_are_warned_of(make_checkpoint):
    folders = [
        make_checkpoint(name, decoder(3), text_config={"num_hidden_layers": 3, "rope_theta": theta})
        for name, theta in (("a", 1), ("b", 2))
    ]
    document = {"merge_method": "linear", "parameters": {"weight": 1.0}}
    recipe = Recipe.from_document(document | {"models": [{"model": str(folder)} for folder in folders]})
    expected = f"text_config.rope_theta is 2 in {folders[1]}; the merged model has 1"
    assert expected in make_plan(recipe, open_sources(recipe)).warnings
