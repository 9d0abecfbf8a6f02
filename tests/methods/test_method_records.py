import math

import pytest

from evomerge.errors import RecipeError
from evomerge.methods import METHODS, Parameter, get_method

# mergekit 0.1.5: the parameters of each method, with their defaults; ... must be set
TASK_VECTORS = {"weight": ..., "density": 1.0, "lambda": 1.0, "int8_mask": False}
MERGEKIT = {
    "linear": {"weight": ..., "normalize": True},
    "slerp": {"t": ...},
    "task_arithmetic": TASK_VECTORS | {"normalize": False, "rescale": False},
    "ties": TASK_VECTORS | {"normalize": True, "rescale": False},
    "dare_linear": TASK_VECTORS | {"normalize": False, "rescale": True},
    "dare_ties": TASK_VECTORS | {"normalize": False, "rescale": True},
    "passthrough": {"scale": 1.0},
    "nuslerp": {"weight": ..., "nuslerp_row_wise": False, "nuslerp_flatten": True},
    "multislerp": {"weight": ..., "normalize_weights": True, "eps": 1e-8},
    "karcher": {"max_iter": 10, "tol": 1e-5},
    "della": TASK_VECTORS | {"epsilon": 0.15, "normalize": True, "rescale": True},
    "della_linear": TASK_VECTORS | {"epsilon": 0.15, "normalize": False, "rescale": True},
    "breadcrumbs": TASK_VECTORS | {"gamma": 0.01, "normalize": False, "rescale": False},
    "breadcrumbs_ties": TASK_VECTORS | {"gamma": 0.01, "normalize": False, "rescale": False},
    "sce": {"int8_mask": False, "select_topk": 1.0},
    "ram": {"epsilon": 1e-5},
    "ramplus_tl": {"r": 0.1, "alpha": 0.2, "epsilon": 1e-5},
    "model_stock": {"filter_wise": False},
    "nearswap": {"t": ...},
    "arcee_fusion": {},
}


@pytest.mark.parametrize("name", list(METHODS))
def test_parameters_and_defaults_are_mergekits(name):
    found = {each.name: ... if each.default is None else each.default for each in METHODS[name].parameters}
    found.pop("random_seed", None)
    assert found == MERGEKIT[name]


def test_all_methods_are_there():
    assert set(METHODS) == set(MERGEKIT)
    assert all(name == method.name for name, method in METHODS.items())


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_search_bounds_and_defaults_are_allowed(method):
    for parameter in method.parameters:
        for value in (*(parameter.search or ()), *(() if parameter.default is None else (parameter.default,))):
            assert parameter.check(value, "x") == value


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(RecipeError, match=r"unknown merge method 'tie' \(merge_method\); did you mean 'ties'\?"):
        get_method("tie")


def test_an_unknown_parameter_names_the_nearest():
    with pytest.raises(RecipeError, match=r"ties has no parameter 'densty' \(parameters\); did you mean 'density'\?"):
        METHODS["ties"].parameter("densty", "parameters")


@pytest.mark.parametrize("value", [-0.1, 1.0001, math.nan, math.inf])
def test_density_outside_its_range(value):
    expected = rf"density out of range \(x\): expected a number in \[0, 1\], found {value}"
    with pytest.raises(RecipeError, match=expected):
        METHODS["ties"].parameter("density", "x").check(value, "x")


@pytest.mark.parametrize("value", [3.5e38, -1.5e308, math.nan, -math.inf])
def test_a_weight_that_float32_does_not_hold(value):
    with pytest.raises(RecipeError, match=r"weight out of range \(x\): expected a number that float32 holds, found "):
        METHODS["linear"].parameter("weight", "x").check(value, "x")


@pytest.mark.parametrize("value", [0.0, 1e-6, 0.5, 1.0])
def test_density_within_its_range(value):
    assert METHODS["ties"].parameter("density", "x").check(value, "x") == value


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (Parameter("a", "float", None, ""), "a number that float32 holds"),
        (Parameter("a", "int", 0, "", low=0, high=9), "a whole number in [0, 9]"),
        (Parameter("a", "float", 0, "", low=0, high=1, open_low=True), "a number in (0, 1]"),
        (Parameter("a", "bool", False, ""), "true or false"),
    ],
)
def test_ranges_in_words(parameter, words):
    assert parameter.range == words
