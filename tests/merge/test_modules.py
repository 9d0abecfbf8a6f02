"""Models of several networks: each is merged by its own module, and what no module names is carried through."""

import json

import pytest
import torch
from safetensors.torch import load_file

from evomerge.errors import ModelError, RecipeError
from evomerge.merge import make_plan, merge_to_disk, open_sources
from evomerge.recipe import Recipe

LLAVA = {
    "model.language_model.embed_tokens.weight": (6, 4),
    **{f"model.language_model.layers.{layer}.mlp.weight": (4, 4) for layer in range(3)},
    "model.language_model.norm.weight": (4,),
    "lm_head.weight": (6, 4),
    "model.vision_tower.embeddings.patch.weight": (4, 3),
    **{f"model.vision_tower.encoder.layers.{layer}.mlp.weight": (3, 3) for layer in range(2)},
    "model.multi_modal_projector.layers.0.weight": (4, 3),
    "model.multi_modal_projector.layers.2.weight": (4, 4),
}
LLAVA_CONFIG = {
    "model_type": "llava",
    "text_config": {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"]},
    "vision_config": {"num_hidden_layers": 2},
}
T5 = {
    "shared.weight": (6, 4),
    **{f"encoder.block.{layer}.layer.0.k.weight": (4, 4) for layer in range(2)},
    "encoder.final_layer_norm.weight": (4,),
    **{f"decoder.block.{layer}.layer.0.k.weight": (4, 4) for layer in range(3)},
    "decoder.final_layer_norm.weight": (4,),
    "lm_head.weight": (6, 4),
}
T5_CONFIG = {"model_type": "t5", "num_layers": 2, "num_decoder_layers": 3, "tie_word_embeddings": False}
T5_CONFIG |= {"suppress_tokens": [7, 8, 9]}  # as many as layers, by chance


@pytest.fixture
def llavas(make_checkpoint):
    return [make_checkpoint(name, LLAVA, seed, **LLAVA_CONFIG) for seed, name in enumerate("ab")]


def merged(document, out):
    plan = merge_to_disk(Recipe.from_document(document), out, device="cpu")
    return load_file(out / "model.safetensors"), json.loads((out / "config.json").read_text()), plan.warnings


def models(*folders):
    return {"models": [{"model": str(folder)} for folder in folders]}


def linear(modules, **keys):
    return {"merge_method": "linear", "parameters": {"weight": 1.0}, "modules": modules} | keys


def tensors(folder):
    return load_file(folder / "model.safetensors")


def test_each_module_is_merged_by_its_own_parameters(llavas, tmp_path):
    modules = {
        "text_decoder": models(*llavas),
        "vision_tower": {
            "models": [
                {"model": str(llavas[0]), "parameters": {"weight": 1.0}},
                {"model": str(llavas[1]), "parameters": {"weight": 3.0}},
            ]
        },
        "multi_modal_projector": models(llavas[1]),
    }
    found, config, warnings = merged(linear(modules), tmp_path / "out")
    a, b = map(tensors, llavas)
    assert found.keys() == a.keys()
    assert config == LLAVA_CONFIG | {"dtype": "float32"}
    for name, tensor in found.items():
        share = 0.75 if "vision" in name else 1.0 if "projector" in name else 0.5
        torch.testing.assert_close(tensor.double(), a[name].double() * (1 - share) + b[name].double() * share)
    assert not any("no module" in warning for warning in warnings)


@pytest.mark.parametrize("name", ["text_decoder", "language_model", "text_model", "decoder"])
def test_networks_that_no_module_names_are_carried_through(llavas, tmp_path, name):
    found, _, warnings = merged(linear({name: models(*llavas)}, base_model=str(llavas[1])), tmp_path / "out")
    a, b = map(tensors, llavas)
    kept = {key for key in LLAVA if "vision" in key or "projector" in key}
    assert {key for key in LLAVA if torch.equal(found[key], b[key])} == kept
    torch.testing.assert_close(found["lm_head.weight"], (a["lm_head.weight"] + b["lm_head.weight"]) / 2)
    assert f"modules: 5 tensors of no module (projector, vision) are kept as in {llavas[1]}" in warnings


def test_slices_inside_a_module_change_its_depth_alone(llavas, tmp_path):
    def run(folder, *layers):
        return {"sources": [{"model": str(folder), "layer_range": list(layers)}]}

    modules = {
        "language_model": {"slices": [run(llavas[0], 0, 2), run(llavas[1], 1, 3), run(llavas[0], 2, 3)]},
        "vision_tower": {"slices": [run(llavas[1], 1, 2)]},
    }
    document = {"merge_method": "passthrough", "modules": modules}
    found, config, _ = merged(document, tmp_path / "out")
    a, b = map(tensors, llavas)
    text, vision = "model.language_model.layers.{}.mlp.weight", "model.vision_tower.encoder.layers.{}.mlp.weight"
    for index, (source, layer) in enumerate([(a, 0), (a, 1), (b, 1), (b, 2), (a, 2)]):
        assert torch.equal(found[text.format(index)], source[text.format(layer)])
    assert torch.equal(found[vision.format(0)], b[vision.format(1)])
    assert vision.format(1) not in found
    assert torch.equal(
        found["model.multi_modal_projector.layers.2.weight"], a["model.multi_modal_projector.layers.2.weight"]
    )
    assert config["text_config"] == {"num_hidden_layers": 5, "layer_types": ["a", "b", "b", "c", "c"]}
    assert config["vision_config"] == {"num_hidden_layers": 1}


def test_encoder_and_decoder_have_depths_of_their_own(make_checkpoint, tmp_path):
    folder = make_checkpoint("t5", T5, **T5_CONFIG)
    modules = {
        "encoder": models(folder),
        "decoder": {"slices": [{"sources": [{"model": str(folder), "layer_range": [1, 3]}]}] * 2},
    }
    found, config, warnings = merged({"merge_method": "passthrough", "modules": modules}, tmp_path / "out")
    source = tensors(folder)
    assert config == T5_CONFIG | {"num_decoder_layers": 4, "dtype": "float32"}
    assert len(found) == len(T5) + 1
    assert torch.equal(found["decoder.block.2.layer.0.k.weight"], source["decoder.block.1.layer.0.k.weight"])
    assert torch.equal(found["encoder.block.1.layer.0.k.weight"], source["encoder.block.1.layer.0.k.weight"])
    assert torch.equal(found["shared.weight"], source["shared.weight"])
    assert not any("no module" in warning for warning in warnings)


def test_whole_models_of_several_stacks_are_merged_in_all(llavas, make_checkpoint, tmp_path):
    found, _, _ = merged({"merge_method": "linear", "parameters": {"weight": 1.0}} | models(*llavas), tmp_path / "out")
    a, b = map(tensors, llavas)
    for name in LLAVA:
        torch.testing.assert_close(found[name], (a[name] + b[name]) / 2)


def test_a_tower_that_a_parent_lacks_is_the_base_s(llavas, make_checkpoint, tmp_path):
    text = {name: shape for name, shape in LLAVA.items() if "vision" not in name and "projector" not in name}
    parent = make_checkpoint("text", text, 5, **LLAVA_CONFIG)
    document = {"merge_method": "task_arithmetic", "base_model": str(llavas[0]), "parameters": {"weight": 1.0}}
    found, _, warnings = merged(document | models(parent), tmp_path / "out")
    base, tuned = tensors(llavas[0]), tensors(parent)
    for name in LLAVA:
        torch.testing.assert_close(found[name], tuned[name] if name in text else base[name], rtol=0, atol=1e-6)
    assert f"{parent} lacks the vision network: that of {llavas[0]} is kept as it is" in warnings
    with pytest.raises(ModelError, match=rf"tensor missing \({parent}\): expected model.vision_tower"):
        merged(document | {"base_model": str(parent)} | models(llavas[0]), tmp_path / "other")


def test_a_part_of_a_tower_that_a_parent_lacks_is_an_error(llavas, make_checkpoint, tmp_path):
    shapes = {name: shape for name, shape in LLAVA.items() if "patch" not in name}
    parent = make_checkpoint("cut", shapes, 5, **LLAVA_CONFIG)
    with pytest.raises(ModelError, match=rf"tensor missing \({parent}\): expected model.vision_tower.embeddings"):
        merged({"merge_method": "linear", "parameters": {"weight": 1}} | models(llavas[0], parent), tmp_path / "out")


def test_any_component_of_the_names_can_be_a_module(llavas, tmp_path):
    modules = {"lm_head": models(llavas[1]), "language_model": models(llavas[0])}
    found, config, _ = merged({"merge_method": "passthrough", "modules": modules}, tmp_path / "out")
    assert torch.equal(found["lm_head.weight"], tensors(llavas[1])["lm_head.weight"])
    assert torch.equal(
        found["model.language_model.norm.weight"], tensors(llavas[0])["model.language_model.norm.weight"]
    )
    assert config == LLAVA_CONFIG | {"dtype": "float32"}


def plan_of(document):
    recipe = Recipe.from_document(document)
    return make_plan(recipe, open_sources(recipe))


@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_mergers_of_a_vision_tower_are_its_projector(make_checkpoint, prefix):
    mergers = {f"{prefix}visual.merger.mlp.0.weight": (4, 3), f"{prefix}visual.merger.ln_q.weight": (3,)}
    mergers[f"{prefix}visual.deepstack_merger_list.1.norm.weight"] = (3,)
    tower = {f"{prefix}visual.patch_embed.proj.weight": (3, 2)}
    tower |= {f"{prefix}visual.blocks.{layer}.attn.qkv.weight": (3, 3) for layer in range(2)}
    text = {"model.embed_tokens.weight": (6, 4), "model.layers.0.mlp.weight": (4, 4), "lm_head.weight": (6, 4)}
    folder = make_checkpoint("qwen", text | tower | mergers)
    recipe = {"text_decoder": 1.0, "vision_tower": 2.0, "multi_modal_projector": 3.0}
    recipe = {
        name: {"models": [{"model": str(folder), "parameters": {"scale": scale}}]} for name, scale in recipe.items()
    }
    recipe = Recipe.from_document({"merge_method": "passthrough", "modules": recipe})
    found = {tensor.name: tensor.each["scale"][0] for tensor in make_plan(recipe, open_sources(recipe)).tensors}
    assert found == dict.fromkeys(text, 1.0) | dict.fromkeys(tower, 2.0) | dict.fromkeys(mergers, 3.0)


def test_carried_tensors_take_the_dtype_of_the_recipe(llavas):
    plan = plan_of(
        {"merge_method": "ties", "base_model": str(llavas[0]), "dtype": "bfloat16"}
        | {"modules": {"text_decoder": models(llavas[1])}, "parameters": {"weight": 1.0}}
    )
    assert {tensor.dtype for tensor in plan.tensors} == {torch.bfloat16}
    assert {tensor.method.name for tensor in plan.tensors if "vision" in tensor.name} == {"passthrough"}
    assert {tensor.method.name for tensor in plan.tensors if "language" in tensor.name} == {"ties"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["vision_twoer"], r"unknown module 'vision_twoer' \(modules\): .* did you mean 'vision_tower'\?"),
        (["audio_tower"], r"unknown module 'audio_tower'"),
        (["text_decoder", "language_model"], r"network given twice \(modules\): found text_decoder and language_model"),
    ],
)
def test_a_module_that_is_none(llavas, names, message):
    with pytest.raises(RecipeError, match=message):
        plan_of(linear({name: models(*llavas) for name in names}))


def test_slices_of_a_model_of_several_stacks_need_modules(llavas):
    document = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": str(llavas[0]), "layer_range": [0, 1]}]}],
    }
    with pytest.raises(ModelError, match=r"without one stack of layers .* cut each network alone, under modules:"):
        plan_of(document)


def test_a_layer_range_beyond_the_network(llavas):
    slices = [{"sources": [{"model": str(llavas[0]), "layer_range": [0, 3]}]}]
    with pytest.raises(RecipeError, match=r"beyond the last layer \(modules.vision_tower.slices\[0\].sources\[0\]\)"):
        plan_of({"merge_method": "passthrough", "modules": {"vision_tower": {"slices": slices}}})
