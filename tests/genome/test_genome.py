import numpy as np
import pytest

from evomerge.errors import ConfigError, RecipeError
from evomerge.genome import Genome, GenomeConfig, ModelShape
from evomerge.recipe import ModelRef, Recipe

BASE, ONE, TWO = ModelRef("org/base"), ModelRef("org/shipping"), ModelRef("org/refunds", revision="0a1b")
LAYER = ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight")
OUTSIDE = ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight")


def model_shape(layers=5, layer=LAYER, outside=OUTSIDE):
    return ModelShape(layers, (*outside, *(f"model.layers.{i}.{name}" for i in range(layers) for name in layer)))


def make(parents=(ONE, TWO), shape=None, dtype="bfloat16", tokenizer=None, seed=11, **config):
    return Genome(
        GenomeConfig.model_validate(config),
        base=BASE,
        parents=parents,
        shape=shape or model_shape(),
        dtype=dtype,
        tokenizer=tokenizer,
        seed=seed,
    )


def test_step_is_one_slice_for_each_group():
    genome = make(method="ties", layer_groups=2, weight={"low": 0, "high": 2, "init": 0.5}, density={"low": 0.2})
    assert genome.names == (
        "weight.layers_0_2.shipping",
        "weight.layers_0_2.refunds",
        "weight.layers_2_5.shipping",
        "weight.layers_2_5.refunds",
        "density.layers_0_2.shipping",
        "density.layers_0_2.refunds",
        "density.layers_2_5.shipping",
        "density.layers_2_5.refunds",
    )
    recipe = genome.recipe(np.array([0, 0.125, 0.25, 0.5, 0, 1, 0.5, 0.25]))
    assert recipe == Recipe.from_yaml(
        """
        merge_method: ties
        base_model: org/base
        slices:
        - sources:
          - {model: org/base, layer_range: [0, 2]}
          - {model: org/shipping, layer_range: [0, 2], parameters: {weight: 0.0, density: 0.2}}
          - {model: org/refunds@0a1b, layer_range: [0, 2], parameters: {weight: 0.25, density: 1.0}}
        - sources:
          - {model: org/base, layer_range: [2, 5]}
          - {model: org/shipping, layer_range: [2, 5], parameters: {weight: 0.5, density: 0.6000000000000001}}
          - {model: org/refunds@0a1b, layer_range: [2, 5], parameters: {weight: 1.0, density: 0.4}}
        dtype: bfloat16
        """
    )


def test_components_become_filters_and_the_rest_comes_last():
    genome = make(
        parents=[ONE],
        method="task_arithmetic",
        components=["self_attn", "mlp"],
        weight={"low": 0, "high": 1},
        **{"lambda": {"low": 0.5, "high": 1.5}},
    )
    assert genome.names == (
        "weight.layers_0_5.self_attn.shipping",
        "weight.layers_0_5.mlp.shipping",
        "weight.layers_0_5.rest.shipping",
        "lambda.layers_0_5.self_attn",
        "lambda.layers_0_5.mlp",
        "lambda.layers_0_5.rest",
    )
    (part,) = genome.recipe(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])).model_dump(mode="json", exclude_unset=True)["slices"]
    assert part["sources"][1]["parameters"]["weight"] == [
        {"filter": "self_attn", "value": 0.1},
        {"filter": "mlp", "value": 0.2},
        {"value": 0.3},
    ]
    assert [entry["value"] for entry in part["parameters"]["lambda"]] == [0.9, 1.0, 1.1]


def test_smooth_is_whole_models_with_gradients():
    genome = make(
        method="slerp", shape=model_shape(), layer_groups=3, components=["mlp"], t={"init": 0.25}, **{"parents": [ONE]}
    )
    assert genome.names == (
        "t.knot_0.mlp",
        "t.knot_0.rest",
        "t.knot_1.mlp",
        "t.knot_1.rest",
        "t.knot_2.mlp",
        "t.knot_2.rest",
    )


def smooth(**config):
    return GenomeConfig.model_validate({"shape": "smooth", **config})


def make_smooth(parents=(ONE,), shape=None, **config):
    return Genome(
        smooth(**config), base=BASE, parents=parents, shape=shape or model_shape(), dtype="float32", tokenizer=None, seed=0
    )
