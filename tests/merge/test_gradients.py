"""Where t stands, read off the scale that each tensor gets."""

import pytest

from evomerge.merge import make_plan, open_sources
from evomerge.recipe import Recipe


def scales(document, name="mlp.up_proj.weight"):
    merged = Recipe.from_document({"merge_method": "passthrough"} | document)
    plan = make_plan(merged, open_sources(merged))
    found = {tensor.name: tensor.each["scale"][0] for tensor in plan.tensors}
    layers = [value for key, value in found.items() if key.endswith(name)]
    return found["model.embed_tokens.weight"], layers, found["model.norm.weight"], found["lm_head.weight"]


def test_over_whole_models_t_runs_from_the_first_to_the_last_layer(untied):
    entry = {"model": str(untied["one"]), "parameters": {"scale": [2.0, 4.0]}}
    assert scales({"models": [entry]}) == (2.0, [2.0, 3.0, 4.0], 2.0, 2.0)


def test_t_runs_over_each_slice_and_is_one_in_a_slice_of_one_layer(untied):
    document = {
        "slices": [
            {"sources": [{"model": str(untied["one"]), "layer_range": [0, 3], "parameters": {"scale": [1.0, 2.0]}}]},
            {"sources": [{"model": str(untied["two"]), "layer_range": [1, 2], "parameters": {"scale": [5.0, 7.0]}}]},
        ]
    }
    assert scales(document) == (1.0, [1.0, 1.5, 2.0, 7.0], 5.0, 5.0)


def test_filters_see_the_name_that_the_tensor_has_in_its_source(untied):
    setting = [{"filter": "layers.2.", "value": 3.0}, {"value": 1.0}]
    document = {
        "slices": [{"sources": [{"model": str(untied["one"]), "layer_range": [2, 3]}]}] * 2,
        "parameters": {"scale": setting},
    }
    assert scales(document) == (1.0, [3.0, 3.0], 1.0, 1.0)


@pytest.mark.parametrize(
    ("source", "run", "whole", "expected"), [(2.0, 3.0, 4.0, 2.0), (None, 3.0, 4.0, 3.0), (None, None, 4.0, 4.0)]
)
def test_the_most_specific_parameters_win(untied, source, run, whole, expected):
    def scale(value):
        return {} if value is None else {"parameters": {"scale": value}}

    sources = [{"model": str(untied["one"]), "layer_range": [0, 3]} | scale(source)]
    document = {"slices": [{"sources": sources} | scale(run)]} | scale(whole)
    assert scales(document)[1] == [expected] * 3


def test_one_module_is_the_whole_model(untied):
    document = {
        "modules": {"default": {"models": [{"model": str(untied["one"])}], "parameters": {"scale": [2.0, 4.0]}}}
    }
    assert scales(document)[1] == [2.0, 3.0, 4.0]
