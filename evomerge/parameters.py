"""Parameters of a recipe: scalars, gradients over layers, filters on tensor names; resolved as by mergekit 0.1.5."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    FiniteFloat,
    PlainValidator,
    StrictStr,
    Tag,
    TypeAdapter,
    ValidationError,
)

from evomerge.errors import RecipeError
from evomerge.parts import Part, not_empty, refusal, shown

Kind: TypeAlias = Literal["float", "int", "bool"]


def _scalar(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
        raise refusal("not a parameter value", expected="a finite number, a boolean or a word", found=shown(value))
    return value


def _form(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "(filters)" if any(isinstance(entry, Mapping | ConditionalValue) for entry in value) else "(gradient)"
    return "(conditional)" if isinstance(value, Mapping | ConditionalValue) else "(scalar)"


Scalar: TypeAlias = Annotated[bool | int | float | str, PlainValidator(_scalar)]
Gradient: TypeAlias = Annotated[tuple[Scalar, ...], AfterValidator(not_empty)]


class ConditionalValue(Part):
    """A value for the tensors whose name contains `filter`; no filter, or `*`, stands for every tensor."""

    value: Annotated[Annotated[Scalar, Tag("(scalar)")] | Annotated[Gradient, Tag("(gradient)")], Discriminator(_form)]
    filter: StrictStr | None = None


Setting: TypeAlias = Annotated[
    Annotated[Scalar, Tag("(scalar)")]
    | Annotated[Gradient, Tag("(gradient)")]
    | Annotated[ConditionalValue, Tag("(conditional)")]
    | Annotated[tuple[ConditionalValue, ...], Tag("(filters)")],
    Discriminator(_form),
]
Parameters: TypeAlias = dict[StrictStr, Setting]

_KINDS: Mapping[Kind, tuple[str, TypeAdapter[Any]]] = {
    "float": ("a finite number", TypeAdapter(FiniteFloat)),
    "int": ("a whole number of up to 64 bits", TypeAdapter(Annotated[int, Field(gt=-(1 << 64), lt=1 << 64)])),
    "bool": ("true or false", TypeAdapter(bool)),
}


def evaluate(setting: Setting, tensor: str, t: float, kind: Kind = "float") -> float | int | bool | None:
    """The value of a setting for one tensor.

    A list of numbers is a gradient: its entries lie at equal distances over the layers, joined by straight lines. A
    list of booleans steps instead; whole numbers have no gradient. Of a list of conditions the first whose filter fits
    decides. A scalar is read as `kind` before it is used, so the string "1e-3" (what YAML 1.1 makes of 1e-3) is a
    number.

    Args:
        setting: a scalar, a gradient, a condition or a list of conditions.
        tensor: name of the tensor, which filters look into.
        t: position of the layer within its slice, in [0, 1]; 0 for tensors outside of the layers.
        kind: type of the parameter.

    Returns:
        The value, or None when no filter fits.

    Raises:
        RecipeError: a value that is not of `kind`, or a gradient of whole numbers.
    """
    return _value(_rules(setting, kind), tensor, t, kind)


def check_kind(setting: Setting, kind: Kind, where: str) -> None:
    """Check that all values of a setting, which stands at `where` in a recipe, are of a kind.

    Raises:
        RecipeError: one is not, or it is a gradient of whole numbers.
    """
    _rules(setting, kind, where)


class Lookup:
    """One parameter in the scopes that may set it: the first that has a value for a tensor decides.

    Settings are read once here, and then asked for each tensor.

    Args:
        name: name of the parameter.
        kind: its type.
        *scopes: the `parameters` of a recipe's parts, most specific first: source, slice, module, recipe.

    Raises:
        RecipeError: a value that is not of `kind`, or a gradient of whole numbers.
    """

    def __init__(self, name: str, kind: Kind, *scopes: Mapping[str, Setting] | None) -> None:
        self._kind = kind
        self._rules = [
            rule for scope in scopes if scope is not None and name in scope for rule in _rules(scope[name], kind, name)
        ]

    def value(self, tensor: str, t: float) -> float | int | bool | None:
        """The value for one tensor, None when no scope has one; `tensor` and `t` as in `evaluate`."""
        return _value(self._rules, tensor, t, self._kind)


def conditions(setting: Setting) -> tuple[ConditionalValue, ...]:
    """The conditions of a setting, none of a plain value."""
    if isinstance(setting, ConditionalValue):
        return (setting,)
    return (
        tuple(entry for entry in setting if isinstance(entry, ConditionalValue)) if isinstance(setting, tuple) else ()
    )


# A filter, None if it fits every tensor, and the entries of a gradient, a scalar being one of a single entry.
_Rule: TypeAlias = tuple[str | None, tuple[float | int | bool, ...]]


def _rules(setting: Setting, kind: Kind, where: str | None = None) -> list[_Rule]:
    pairs: list[tuple[str | None, Any]] = [(each.filter, each.value) for each in conditions(setting)]
    pairs = pairs or [(None, setting)]
    return [(None if pattern == "*" else pattern, _read_all(value, kind, where)) for pattern, value in pairs]


def _value(rules: list[_Rule], tensor: str, t: float, kind: Kind) -> float | int | bool | None:
    for pattern, values in rules:
        if pattern is None or pattern in tensor:
            return values[0] if len(values) == 1 else _interpolate(values, t, kind)
    return None


def _read_all(value: Any, kind: Kind, where: str | None) -> tuple[float | int | bool, ...]:
    if not isinstance(value, tuple):
        return (_read(value, kind, where),)
    if kind == "int" and len(value) > 1:
        raise RecipeError(
            "gradient of whole numbers",
            where=where,
            expected="one whole number",
            found=shown(list(value)),
            remedy="give layers numbers of their own by filters",
        )
    return tuple(_read(entry, kind, where) for entry in value)


def _read(value: Any, kind: Kind, where: str | None) -> float | int | bool:
    expected, adapter = _KINDS[kind]
    try:
        number: float | int | bool = adapter.validate_python(value)
    except ValidationError:
        raise RecipeError("bad parameter value", where=where, expected=expected, found=shown(value)) from None
    return number


def _interpolate(values: tuple[float | int | bool, ...], t: float, kind: Kind) -> float | int | bool:
    position = t * (len(values) - 1)
    low = int(position)
    if kind == "bool":
        return values[low]
    fraction = position - low
    high = min(low + 1, len(values) - 1)
    return (1 - fraction) * values[low] + fraction * values[high]
