"""The dimensions of a genome: what is searched, between which bounds, under which name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from evomerge.errors import ConfigError, nearest
from evomerge.genome.config import GenomeConfig, Range
from evomerge.recipe import ModelRef

if TYPE_CHECKING:  # it brings torch, which whoever only reads a config can do without
    from evomerge.methods import Method


@dataclass(frozen=True)
class Number:
    """A dimension that is a number.

    Attributes:
        name: such as `weight.layers_0_3.self_attn.shipping`.
        low, high: bounds in the parameter's own unit.
        init: where the search begins, in the same unit.
    """

    name: str
    low: float
    high: float
    init: float

    def value(self, x: float) -> float:
        """The number at x in [0,1]."""
        return min(max(self.low + x * (self.high - self.low), self.low), self.high)

    def position(self, value: float) -> float:
        """The x in [0,1] of a number; the nearest if it is out of bounds."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    @property
    def initial(self) -> float:
        """The x in [0,1] where the search begins."""
        return self.position(self.init)

    @property
    def space(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high


@dataclass(frozen=True)
class Choice:
    """A dimension that is one of some options.

    Attributes:
        name: such as `source.layers_0_3`.
        options: the i-th of n has the interval [i/n, (i+1)/n).
        init: the option where the search begins.
    """

    name: str
    options: tuple[str, ...]
    init: str

    def value(self, x: float) -> str:
        """The option at x in [0,1]."""
        return self.options[min(int(x * len(self.options)), len(self.options) - 1)]

    def position(self, option: str) -> float:
        """The middle of an option's interval."""
        return (self.options.index(option) + 0.5) / len(self.options)

    @property
    def initial(self) -> float:
        """The x in [0,1] where the search begins."""
        return self.position(self.init)

    @property
    def space(self) -> tuple[str, ...]:
        """The options."""
        return self.options


@dataclass(frozen=True)
class Searched:
    """A parameter that is searched, and between which bounds; `per_model` as in the method's record."""

    name: str
    per_model: bool
    low: float
    high: float
    init: float


def searched(config: GenomeConfig, method: "Method") -> tuple[Searched, ...]:
    """The parameters that the config searches, in the order it names them.

    Raises:
        ConfigError: a parameter that cannot be searched, or bounds that make no range.
        RecipeError: a parameter that the method does not know, a bound that it does not allow, or bounds that it does
            not allow together.
    """
    found = tuple(_searched(config, method))
    if method.check is not None:
        settled = {each.name: each.default for each in method.parameters if each.default is not None}
        settled |= {name: value for name, value in config.parameters.items() if not isinstance(value, Range)}
        inner = (1e-3, 1 - 1e-3)  # what is refused at the very edge alone is of no account
        for corner in product(*([each.low + x * (each.high - each.low) for x in inner] for each in found)):
            values = settled | dict(zip((each.name for each in found), corner, strict=True))
            each = {one.name: (values[one.name],) for one in method.parameters if one.per_model and one.name in values}
            method.check(values, each, "genome")
    return found


def _searched(config: GenomeConfig, method: "Method") -> Iterator[Searched]:
    for name, setting in config.parameters.items():
        if not isinstance(setting, Range):
            continue
        parameter, where = method.parameter(name, "genome"), f"genome.{name}"
        if parameter.kind != "float" or parameter.inert:
            why = f"it has no effect in {method.name}" if parameter.inert else f"it is {parameter.range}"
            raise ConfigError("cannot be searched", where=where, found=why, remedy="give one value or leave it out")
        default_low, default_high = parameter.search or (None, None)
        low = default_low if setting.low is None else setting.low
        high = default_high if setting.high is None else setting.high
        if low is None or high is None:
            raise ConfigError("bounds missing", where=where, remedy="give low and high")
        parameter.check(low, f"{where}.low")
        parameter.check(high, f"{where}.high")
        if low >= high:
            raise ConfigError("empty range", where=where, expected="low < high", found=f"low {low:g}, high {high:g}")
        init = (low + high) / 2 if setting.init is None else setting.init
        if not low <= init <= high:
            raise ConfigError("init out of range", where=where, expected=f"{low:g} to {high:g}", found=f"{init:g}")
        yield Searched(name, parameter.per_model, low, high, init)


def fixed(config: GenomeConfig, method: "Method", seed: int) -> dict[str, float | int | bool]:
    """The parameters that are the same for all candidates; `random_seed` is the seed unless the config sets it.

    Raises:
        ConfigError: a parameter that the method does not know, or one that it needs and the config does not set.
        RecipeError: a value that the method does not allow.
    """
    names = [parameter.name for parameter in method.parameters]
    values: dict[str, float | int | bool] = {"random_seed": seed} if "random_seed" in names else {}
    for name, setting in config.parameters.items():
        if name not in names:
            known = [*GenomeConfig.model_fields, *names]
            raise ConfigError("unknown key", where=f"genome.{name}", remedy=nearest(name, known))
        if not isinstance(setting, Range):
            values[name] = method.parameter(name, "genome").check(setting, f"genome.{name}")
    for parameter in method.parameters:
        if parameter.default is None and parameter.name not in config.parameters:
            raise ConfigError(
                f"{method.name} needs {parameter.name}", where="genome", remedy=f"add {parameter.name}: {{low, high}}"
            )
    return values


def merged_models(
    config: GenomeConfig, method: "Method", base: ModelRef, parents: Sequence[ModelRef]
) -> tuple[ModelRef, ...]:
    """The models of a merge, the base first where the method needs one: for a method of two models two parents, or the
    base and one.

    Raises:
        ConfigError: a model is named twice, the method does not merge so many, or cannot take one of them whole.
    """
    if len({base, *parents}) <= len(parents):
        raise ConfigError("model named twice", where="models", remedy="name the base and each parent once")
    most = None if method.max_models is None else method.max_models + (method.base == "required")
    needs_base = method.base == "required" and not len(parents) == most == 2
    models = (base, *parents) if needs_base else tuple(parents)
    if config.selection == "whole":
        return models
    low, high = max(method.min_models, 1), method.max_models
    if method.base == "required" and high == 1:
        high = 2  # one of them takes the place of the base
    if len(parents) < low or (high is not None and len(parents) > high):
        expected = f"at least {low}" if high is None else f"{low}" if low == high else f"{low} to {high}"
        raise ConfigError(
            f"wrong number of parents for {method.name}", where="models.parents", expected=expected, found=len(parents)
        )
    if config.selection == "blend" and not {"weight", "t"} & {parameter.name for parameter in method.parameters}:
        raise ConfigError("cannot take groups whole", where="genome.selection", found=f"method {method.name}")
    return models
