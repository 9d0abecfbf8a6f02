import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from evomerge.errors import ConfigError, RecipeError
from evomerge.genome import Genome, GenomeConfig, ModelShape
from evomerge.recipe import ModelRef, Recipe

BASE, ONE, TWO = ModelRef("org/base"), ModelRef("org/shipping"), ModelRef("org/refunds", revision="0a1b")
LAYER = ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight")
OUTSIDE = ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight")
TIES = {"method": "ties", "layer_groups": 2, "weight": {"low": 0, "high": 2, "init": 0.5}}


def model(layers=5, layer=LAYER, outside=OUTSIDE):
    return ModelShape(layers, (*outside, *(f"model.layers.{i}.{name}" for i in range(layers) for name in layer)))


def make(config, parents=(ONE, TWO), shape=None, tokenizer=None, seed=11):
    return Genome(
        GenomeConfig.model_validate(config),
        base=BASE,
        parents=parents,
        shape=shape or model(),
        dtype="bfloat16",
        tokenizer=tokenizer,
        seed=seed,
    )


def document(genome, x):
    return genome.recipe(np.array(x)).model_dump(mode="json", exclude_unset=True)


def test_step_is_one_slice_for_each_group():
    genome = make(TIES | {"density": {"low": 0.2}})
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
    assert genome.recipe(np.array([0, 0.125, 0.25, 0.5, 0, 1, 0.5, 0.25])) == Recipe.from_yaml(
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
    searched = {"weight": {"low": 0, "high": 1}, "lambda": {"low": 0, "high": 2}}
    genome = make({"method": "task_arithmetic", "components": ["self_attn", "mlp"]} | searched, [ONE])
    assert genome.names == (
        "weight.layers_0_5.self_attn.shipping",
        "weight.layers_0_5.mlp.shipping",
        "weight.layers_0_5.rest.shipping",
        "lambda.layers_0_5.self_attn",
        "lambda.layers_0_5.mlp",
        "lambda.layers_0_5.rest",
    )
    (part,) = document(genome, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])["slices"]
    assert part["sources"][1]["parameters"] == {
        "weight": [{"value": 0.1, "filter": "self_attn"}, {"value": 0.2, "filter": "mlp"}, {"value": 0.3}]
    }
    assert part["parameters"] == {
        "lambda": [{"value": 0.8, "filter": "self_attn"}, {"value": 1.0, "filter": "mlp"}, {"value": 1.2}]
    }


def test_smooth_is_whole_models_with_gradients():
    searched = {"weight": {"low": 0, "high": 1}, "lambda": {"low": 0, "high": 2}}
    genome = make({"method": "ties", "shape": "smooth", "layer_groups": 3} | searched, [ONE])
    assert genome.names == tuple(
        f"{name}.knot_{i}{end}" for name, end in [("weight", ".shipping"), ("lambda", "")] for i in range(3)
    )
    assert document(genome, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == {
        "merge_method": "ties",
        "base_model": "org/base",
        "models": [{"model": "org/base"}, {"model": "org/shipping", "parameters": {"weight": [0.1, 0.2, 0.3]}}],
        "parameters": {"lambda": [0.8, 1.0, 1.2]},
        "dtype": "bfloat16",
    }


def test_a_knot_without_tensors_has_no_dimension():
    """Of eight layers only the last two have a router: with four knots, only the last two matter to it. Outside tensors
    take the value of the first knot."""
    names = [f"model.layers.{i}.mlp.weight" for i in range(8)]
    shape = ModelShape(8, (*names, "model.layers.6.router.weight", "model.layers.7.router.weight", "lm_head.weight"))
    config = {"method": "slerp", "shape": "smooth", "layer_groups": 4, "components": ["router", "lm_head"], "t": {}}
    genome = make(config, [ONE], shape)
    assert [name for name in genome.names if "rest" not in name] == [
        "t.knot_0.lm_head",
        "t.knot_2.router",
        "t.knot_3.router",
    ]
    x = genome.initial
    x[genome.names.index("t.knot_3.router")] = 1.0
    router, head, rest = document(genome, x)["parameters"]["t"]
    assert router == {"filter": "router", "value": [0.5, 0.5, 0.5, 1.0]}
    assert head == {"filter": "lm_head", "value": [0.5] * 4}
    assert rest == {"value": [0.5] * 4}


def test_a_component_that_a_group_lacks_has_no_dimension_there():
    """Embeddings go with the first group, final norm and head with the last."""
    genome = make(TIES | {"components": ["embed_tokens", "norm", "head"], "layer_groups": 3}, [ONE])
    assert genome.names == (
        "weight.layers_0_1.embed_tokens.shipping",
        "weight.layers_0_1.norm.shipping",
        "weight.layers_0_1.rest.shipping",
        "weight.layers_1_3.norm.shipping",
        "weight.layers_1_3.rest.shipping",
        "weight.layers_3_5.norm.shipping",
        "weight.layers_3_5.head.shipping",
        "weight.layers_3_5.rest.shipping",
    )


def test_the_first_component_that_fits_takes_the_tensor():
    config = {"method": "ties", "components": ["q_proj", "self_attn"], "weight": {}}
    with pytest.raises(ConfigError, match=r"without tensors of its own \(genome.components: self_attn\)"):
        make(config)
    assert len(make(config, [ONE], model(layer=(*LAYER, "self_attn.k_proj.weight"))).names) == 3


def test_blend_takes_a_group_whole():
    genome = make(TIES | {"selection": "blend", "density": {"low": 0.2}, "lambda": 0.5})
    assert genome.choices == (0,) * 8 + (3, 3)
    assert genome.names[-2:] == ("source.layers_0_2", "source.layers_2_5")
    x = genome.initial
    assert genome.values(x)["source.layers_0_2"] == "blend"
    x[-2:] = 0.4, 0.9
    assert genome.values(x)["source.layers_0_2"] == "shipping"
    assert genome.values(x)["source.layers_2_5"] == "refunds"
    first, second = document(genome, x)["slices"]
    assert [source.get("parameters") for source in first["sources"]] == [
        None,
        {"weight": 1.0, "density": 1.0},
        {"weight": 0.0},
    ]
    assert first["parameters"] == second["parameters"] == {"lambda": 1.0}
    assert second["sources"][2]["parameters"] == {"weight": 1.0, "density": 1.0}


@pytest.mark.parametrize(
    ("parents", "options"),
    [([ONE], {"shipping": 1.0}), ([ONE, TWO], {"shipping": 0.0, "refunds": 1.0})],
)
def test_blend_of_an_interpolation_goes_to_its_end(parents, options):
    genome = make({"method": "slerp", "selection": "blend", "t": {}}, parents)
    assert genome.space["source.layers_0_5"] == ("blend", *options)
    for place, t in enumerate(options.values(), 1):
        recipe = document(genome, [0.5, (place + 0.5) / (1 + len(options))])
        assert recipe["slices"][0]["parameters"] == {"t": t}
        assert recipe["base_model"] == ("org/shipping" if len(parents) == 2 else "org/base")


def test_whole_stacks_the_parents_layers():
    genome = make({"method": "passthrough", "selection": "whole", "layer_groups": [[0, 1], [1, 5]]})
    assert genome.space == {"source.layers_0_1": ("shipping", "refunds"), "source.layers_1_5": ("shipping", "refunds")}
    assert document(genome, [0.9, 0.1]) == {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "org/refunds@0a1b", "layer_range": [0, 1]}]},
            {"sources": [{"model": "org/shipping", "layer_range": [1, 5]}]},
        ],
        "dtype": "bfloat16",
    }


def test_each_layer_is_a_group():
    genome = make(TIES | {"layer_groups": "each"}, [ONE], model(layers=3))
    assert genome.names == tuple(f"weight.layers_{i}_{i + 1}.shipping" for i in range(3))


def test_fixed_values_hold_for_all_and_a_seed_is_written_for_methods_that_draw():
    config = {"method": "dare_ties", "weight": {}, "density": 0.5, "normalize": True}
    assert document(make(config), [0.5, 0.5])["parameters"] == {"random_seed": 11, "density": 0.5, "normalize": True}
    assert document(make(config | {"random_seed": 3}), [0.5, 0.5])["parameters"]["random_seed"] == 3
    assert "parameters" not in document(make(TIES), [0.5] * 4)


@pytest.mark.parametrize(
    ("tokenizer", "written"),
    [({"source": "union"}, {"tokenizer": {"source": "union"}}), ("base", {"tokenizer_source": "base"}), (None, {})],
)
def test_the_tokenizer_is_passed_on(tokenizer, written):
    recipe = document(make(TIES, tokenizer=tokenizer), [0.5] * 4)
    assert {key: value for key, value in recipe.items() if key.startswith("tokenizer")} == written


@pytest.mark.parametrize(
    ("tokenizer", "written"),
    [
        ("base", {"tokenizer_source": "org/base"}),
        ({"source": "base"}, {"tokenizer": {"source": "org/base"}}),
        (
            {"source": "base", "pad_to_multiple_of": 8},
            {"tokenizer": {"source": "org/base", "pad_to_multiple_of": 8}},
        ),
        ({"pad_to_multiple_of": 8}, {"tokenizer": {"pad_to_multiple_of": 8}}),
        (None, {}),
    ],
)
def test_linear_has_the_tokens_of_the_base_alone(tokenizer, written):
    recipe = document(make({"method": "linear", "weight": {}}, tokenizer=tokenizer), [0.5, 1.0])
    assert {key: recipe.pop(key) for key in list(recipe) if key.startswith("tokenizer")} == written
    assert set(recipe) == {"merge_method", "slices", "dtype"}
    assert [source["model"] for source in recipe["slices"][0]["sources"]] == ["org/shipping", "org/refunds@0a1b"]


def test_bounds_and_beginning():
    """Missing bounds are the method's, a missing init is the middle."""
    genome = make({"method": "ties", "weight": {"low": -0.4, "init": 0.8}, "density": {}}, [ONE])
    assert genome.space == {"weight.layers_0_5.shipping": (-0.4, 1.2), "density.layers_0_5.shipping": (0.1, 1.0)}
    np.testing.assert_allclose(genome.initial, [0.75, 0.5])
    assert genome.initial.dtype == np.float64


def test_parents_of_one_name_are_told_apart():
    parents = [ModelRef("a/final"), ModelRef("b/final"), ModelRef("c/base"), ModelRef("org/m", adapter="x/lora/")]
    genome = make({"method": "ties", "weight": {}}, parents)
    assert [name.rpartition(".")[2] for name in genome.names] == ["final", "final_2", "base_2", "lora"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"method": "tise"}, r"unknown merge method 'tise' \(genome.method\); did you mean 'ties'\?"),
        ({"densty": {}}, r"unknown key \(genome.densty\); did you mean 'density'\?"),
        ({"layer_grups": 3}, r"unknown key \(genome.layer_grups\); did you mean 'layer_groups'\?"),
        (
            {"density": {"low": -1}},
            r"density out of range \(genome.density.low\): expected a number in \[0, 1\], found -1",
        ),
        ({"density": 1.5}, r"density out of range \(genome.density\).*found 1.5"),
        ({"weight": {"low": 1, "high": 1}}, r"empty range \(genome.weight\): expected low < high, found low 1, high 1"),
        ({"weight": {"init": 3}}, r"init out of range \(genome.weight\): expected 0 to 1.2, found 3"),
        ({"normalize": {"low": 0, "high": 1}}, r"cannot be searched \(genome.normalize\).*found it is true or false"),
        (
            {"method": "task_arithmetic", "density": {}},
            r"cannot be searched \(genome.density\).*no effect in task_arith",
        ),
        ({"method": "slerp"}, r"unknown key \(genome.weight\)"),
        ({"weight": 1.0}, "nothing to search"),
        ({"components": ["self_atn"]}, r"without tensors.*did you mean 'self_attn'\?"),
        ({"layer_groups": 6}, r"more groups than layers \(genome.layer_groups\): expected 1 to 5, found 6"),
        ({"layer_groups": [[0, 2], [3, 5]]}, r"layers \[2, 3\) belong to no group"),
        ({"layer_groups": [[1, 5]]}, r"layers \[0, 1\) belong to no group"),
        ({"layer_groups": [[0, 4]]}, r"layers \[4, 5\) belong to no group"),
        ({"layer_groups": [[0, 3], [2, 5]]}, r"layers \[2, 3\) belong to two groups"),
        ({"layer_groups": [[0, 3], [3, 7]]}, r"layers \[5, 7\) do not exist"),
        ({"layer_groups": [[0, 3], [3, 3], [3, 5]]}, r"group \[3, 3\) has no layers"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(config, message):
    with pytest.raises((ConfigError, RecipeError), match=message) as raised:
        make({"method": "ties", "weight": {}} | config)
    assert "\n" not in str(raised.value)


def test_a_parameter_that_the_method_needs():
    with pytest.raises(ConfigError, match=r"ties needs weight \(genome\); add weight"):
        make({"method": "ties", "density": {}})


def test_methods_for_two_models():
    with pytest.raises(ConfigError, match=r"wrong number of parents for slerp .*: expected 1 to 2, found 3"):
        make({"method": "slerp", "t": {}}, [ONE, TWO, ModelRef("org/three")])


@pytest.mark.parametrize("parents", [[ONE], [ONE, TWO, ModelRef("org/three")]])
def test_the_number_of_parents_is_the_method_s(parents):
    message = rf"wrong number of parents for nuslerp \(models.parents\): expected 2, found {len(parents)}"
    with pytest.raises(ConfigError, match=message):
        make({"method": "nuslerp", "weight": {}}, parents)


def test_bounds_that_do_not_go_together_are_refused_at_the_start():
    config = {"method": "della", "weight": {}, "density": {"low": 0.2, "high": 1.0}}
    with pytest.raises(RecipeError, match=r"epsilon too large for the density \(genome\)"):
        make(config | {"epsilon": 0.15})
    with pytest.raises(RecipeError, match=r"epsilon too large"):
        make(config | {"density": 0.1, "epsilon": {}})
    assert make(config | {"epsilon": 0.0}).dimension == 4
    assert make(config | {"density": {"low": 0.15, "high": 0.85}, "epsilon": 0.15}).dimension == 4


@pytest.mark.parametrize("parents", [[ONE, ONE], [ONE, BASE]])
def test_a_model_named_twice(parents):
    with pytest.raises(ConfigError, match="model named twice"):
        make(TIES, parents)


def test_whole_of_a_single_parent_is_nothing_to_search():
    with pytest.raises(ConfigError, match="nothing to search"):
        make({"method": "passthrough", "selection": "whole"}, [ONE])


@pytest.mark.parametrize("x", [[0.5] * 3, [0.5, 0.5, 0.5, 1.1], [0.5, 0.5, 0.5, np.nan], 0.5])
def test_refuses_what_is_no_vector(x):
    with pytest.raises(ValueError, match="expected a vector of 4"):
        make(TIES).recipe(np.array(x))


@pytest.mark.parametrize(
    "other",
    [
        {"method": "ties", "weight": {}},
        {"method": "dare_ties", "layer_groups": 2, "weight": {}},
        {"method": "ties", "layer_groups": 2, "density": {}, "weight": 1.0},
        {"method": "ties", "layer_groups": 2, "weight": {}, "components": ["mlp"]},
        {"method": "ties", "layer_groups": 2, "weight": {}, "shape": "smooth"},
        {"method": "passthrough", "layer_groups": 2, "selection": "whole"},
    ],
)
def test_refuses_the_recipe_of_another_genome(other):
    with pytest.raises(RecipeError, match="not a recipe of this genome"):
        make(TIES).vector(make(other).recipe(make(other).initial))


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "conf/genome").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_shipped_option_makes_a_genome(path):
    genome = make(yaml.safe_load(path.read_text()), shape=model(layers=8))
    assert genome.vector(genome.recipe(genome.initial)) == pytest.approx(genome.initial)


def test_reading_a_config_brings_no_heavy_library():
    heavy = "{'torch', 'cma', 'optuna', 'transformers'}"
    code = f"import sys, evomerge.genome, evomerge.optimize; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_number_out_of_bounds_becomes_the_nearest_bound():
    wide, narrow = (make({"method": "ties", "weight": {"low": 0, "high": high}}, [ONE]) for high in (2, 1))
    assert narrow.vector(wide.recipe(np.array([0.75]))) == [1.0]
