"""The dimensions of a genome: what is searched, between which bounds, under which name."""

from collections.abc import Iterator
from dataclasses import dataclass

from evomerge.errors import ConfigError, nearest
from evomerge.genome.config import GenomeConfig, Range
from evomerge.methods import Method, Parameter


@dataclass(frozen=True)
class Dimension:
    """One dimension of a genome.

    Attributes:
        name: such as `weight.layers_0_3.self_attn.shipping` or `source.layers_0_3`.
        low, high: bounds in the parameter's own unit; of a choice, the numbers of its first and last option.
        init: where the search begins, in the same unit.
        options: what can be chosen; () for a number.
    """

    name: str
    low: float
    high: float
    init: float
    options: tuple[str, ...] = ()

    def value(self, x: float) -> float | str:
        """The number, or the option, at x in [0,1]."""
        if self.options:
            return self.options[min(int(x * len(self.options)), len(self.options) - 1)]
        return min(max(self.low + x * (self.high - self.low), self.low), self.high)

    def position(self, value: float | str) -> float:
        """The x in [0,1] of a number, the nearest if it is out of bounds; or the middle of an option's interval."""
        if isinstance(value, str):
            return (self.options.index(value) + 0.5) / len(self.options)
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    @property
    def initial(self) -> float:
        """The x in [0,1] where the search begins."""
        return self.position(self.options[int(self.init)] if self.options else self.init)


@dataclass(frozen=True)
class Searched:
    """A parameter that is searched, between bounds that the method allows."""

    parameter: Parameter
    low: float
    high: float
    init: float


def searched(config: GenomeConfig, method: Method) -> Iterator[Searched]:
    """The parameters that the config searches, in the order it names them.

    Raises:
        ConfigError: a parameter that cannot be searched, or bounds that make no range.
        RecipeError: a bound that the method does not allow.
    """
    for name, setting in config.parameters.items():
        if not isinstance(setting, Range):
            continue
        parameter, where = method.parameter(name, "genome"), f"genome.{name}"
        if parameter.kind != "float" or parameter.inert:
            why = "has no effect" if parameter.inert else f"is not a number in {parameter.range}"
            raise ConfigError(f"{name} cannot be searched", where=where, found=f"it {why} in {method.name}")
        low, high = parameter.search or (None, None)
        low, high = (low if setting.low is None else setting.low), (high if setting.high is None else setting.high)
        if low is None or high is None:
            raise ConfigError("bounds missing", where=where, remedy="give low and high")
        parameter.check(low, f"{where}.low")
        parameter.check(high, f"{where}.high")
        if low >= high:
            raise ConfigError("empty range", where=where, expected="low < high", found=f"low {low:g}, high {high:g}")
        init = (low + high) / 2 if setting.init is None else setting.init
        if not low <= init <= high:
            raise ConfigError("init out of range", where=where, expected=f"{low:g} to {high:g}", found=f"{init:g}")
        yield Searched(parameter, low, high, init)


def fixed(config: GenomeConfig, method: Method, seed: int) -> dict[str, float | int | bool]:
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
