"""Parameters resolve as in mergekit 0.1.5; the expected values are worked by hand from its rules."""

import pytest

from evomerge.errors import RecipeError
from evomerge.parameters import check_kind
from evomerge.recipe import ConditionalValue, Lookup, Recipe, evaluate

NAME = "model.layers.3.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("setting", "t", "value"),
    [
        (0.3, 0.9, 0.3),
        ("1e-3", 0.0, 0.001),
        (True, 0.0, 1.0),
        ((0.5,), 0.7, 0.5),
        ((0.0, 1.0), 0.25, 0.25),
        ((0.0, 1.0, 0.0), 0.25, 0.5),
        ((0.0, 1.0, 0.0), 0.5, 1.0),
        ((0.0, 1.0, 0.0), 0.75, 0.5),
        ((0.0, 0.5, "1e0"), 1.0, 1.0),
        (ConditionalValue(value=2.0, filter="mlp"), 0.0, 2.0),
        (ConditionalValue(value=2.0, filter="*"), 0.0, 2.0),
        (ConditionalValue(value=2.0, filter="self_attn"), 0.0, None),
        ((ConditionalValue(value=(0.0, 4.0), filter="mlp"), ConditionalValue(value=9.0)), 0.5, 2.0),
        ((ConditionalValue(value=1.0, filter="attn"), ConditionalValue(value=9.0)), 0.5, 9.0),
    ],
)
def test_floats(setting, t: float, value: float | None) -> None:
    assert evaluate(setting, NAME, t) == value


def test_booleans_step_instead_of_being_joined() -> None:
    assert [evaluate((False, True), NAME, t, "bool") for t in (0.0, 0.99, 1.0)] == [False, False, True]
    assert evaluate("yes", NAME, 0.0, "bool") is True


def test_integers() -> None:
    assert evaluate(7, NAME, 0.0, "int") == 7
    assert evaluate((7,), NAME, 0.5, "int") == 7


@pytest.mark.parametrize(
    ("setting", "kind", "message"),
    [
        ("sum", "float", "bad parameter value (weight): expected a finite number, found 'sum'"),
        ((0.5, "sum"), "float", "bad parameter value (weight): expected a finite number, found 'sum'"),
        (2, "bool", "bad parameter value (weight): expected true or false, found 2"),
        (0.5, "int", "bad parameter value (weight): expected a whole number of up to 64 bits, found 0.5"),
        ((0, 10), "int", "gradient of whole numbers (weight): expected one whole number, found [0, 10]; give layers"),
    ],
)
def test_a_value_of_another_kind_is_refused(setting, kind, message: str) -> None:
    for read in (lambda: Lookup("weight", kind, {"weight": setting}), lambda: check_kind(setting, kind, "weight")):
        with pytest.raises(RecipeError) as caught:
            read()
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("exponent", "kind"), [(400, "float"), (400, "int"), (5000, "float")])
def test_a_number_of_many_digits_is_not_written_out(exponent: int, kind) -> None:
    with pytest.raises(RecipeError, match=r"bad parameter value \(weight\): expected a .* found") as caught:
        check_kind(16**exponent, kind, "weight")
    assert len(str(caught.value)) < 150


def test_the_first_scope_with_a_value_wins() -> None:
    source = {"weight": ConditionalValue(value=1.0, filter="self_attn")}
    scopes = (source, None, {"density": 0.5}, {"weight": 3.0})
    weight = Lookup("weight", "float", *scopes)
    assert weight.value("model.layers.0.self_attn.q_proj.weight", 0.0) == 1.0
    assert weight.value(NAME, 0.0) == 3.0
    assert Lookup("density", "float", *scopes).value(NAME, 0.0) == 0.5
    assert Lookup("lambda", "float", *scopes).value(NAME, 0.0) is None


def test_what_a_recipe_holds_can_be_evaluated() -> None:
    text = "{merge_method: linear, models: [{model: a, parameters: {weight: [{value: [0, 2], filter: mlp}]}}]}"
    (model,) = Recipe.from_yaml(text).models
    assert evaluate(model.parameters["weight"], NAME, 0.5) == 1.0
    assert evaluate(model.parameters["weight"], "lm_head.weight", 0.5) is None
