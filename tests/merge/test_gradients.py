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


class TestWarnings:
    """What a filter or a gradient does not reach is said, with the nearest names."""

    def warnings(self, untied, **parameters):
        document = {
            "merge_method": "ties",
            "base_model": str(untied["base"]),
            "models": [{"model": str(untied["one"])}],
        }
        merged = Recipe.from_document(document | {"parameters": {"weight": 1.0} | parameters})
        return make_plan(merged, open_sources(merged)).warnings

    @pytest.mark.parametrize(
        ("pattern", "nearest"),
        [
            ("self_atn", "self_attn"),
            ("mlp.up_porj", "mlp.up_proj"),
            ("lm_haed", "lm_head"),
            ("layer.2.", "layers.2"),
            ("embed_token.weight", "embed_tokens.weight"),
        ],
    )
    def test_a_filter_that_fits_no_tensor(self, untied, pattern, nearest):
        density = [{"filter": pattern, "value": 0.5}, {"value": 0.9}]
        (warning,) = self.warnings(untied, density=density)
        assert warning == f"parameters.density: filter {pattern!r} fits no tensor; did you mean {nearest!r}?"

    def test_filters_of_a_model_are_told_with_their_place(self, untied):
        entry = {"model": str(untied["one"]), "parameters": {"scale": [{"filter": "atn", "value": 2.0}]}}
        merged = Recipe.from_document({"merge_method": "passthrough", "models": [entry]})
        (warning,) = make_plan(merged, open_sources(merged)).warnings
        assert warning.startswith("models[0].parameters.scale: filter 'atn' fits no tensor; ")

    @pytest.mark.parametrize("pattern", ["lm_head", "embed_tokens", "model.norm"])
    def test_a_gradient_that_no_layer_has(self, untied, pattern):
        density = [{"filter": pattern, "value": [0.3, 0.6]}, {"value": 0.9}]
        (warning,) = self.warnings(untied, density=density)
        place = f"parameters.density: filter {pattern!r}"
        assert warning == f"{place} fits tensors outside of the layers alone: only 0.3 is used"

    @pytest.mark.parametrize(
        "value",
        [
            [{"filter": "norm", "value": [0.3, 0.6]}, {"value": 0.9}],  # of layers, too
            [{"filter": "lm_head", "value": [0.3]}, {"filter": "*", "value": [0.1, 0.9]}],
            [{"filter": "layers.2.", "value": 0.3}, {"filter": "o_proj", "value": 0.5}, {"value": 0.9}],
            [0.1, 0.9],
        ],
    )
    def test_what_has_effect_is_not_told(self, untied, value):
        assert self.warnings(untied, density=value) == ()
