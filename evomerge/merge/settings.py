"""The parameters that a recipe sets: whether the method has them, and whether filters and gradients have effect."""

from collections.abc import Iterable, Iterator
from functools import lru_cache

from evomerge.checkpoint import layer_of
from evomerge.errors import RecipeError, nearest
from evomerge.methods import Method
from evomerge.parameters import ConditionalValue, Parameters, check_kind, conditions
from evomerge.recipe import ModelRef, Module, Recipe


def check_parameter_names(recipe: Recipe, method: Method) -> list[str]:
    """Check that the method has every parameter that is set, with values of its kind, and that it counts there.

    Returns:
        Warnings about parameters without effect.

    Raises:
        RecipeError: an unknown parameter, a value that is not of its kind, or a parameter of the whole tensor among
            those of a model.
    """
    warnings = []
    for where, settings, model, base in _settings(recipe):
        for name in settings:
            parameter = method.parameter(name, where)
            if not parameter.inert:
                check_kind(settings[name], parameter.kind, f"{where}.{name}")
            if model is not None and not parameter.per_model:
                raise RecipeError(
                    f"{name} is not a parameter of a single model",
                    where=where,
                    remedy="set it under parameters: of the recipe",
                )
            if parameter.inert:
                warnings.append(f"{where}: {name} has no effect on {method.name}")
            elif model is not None and model == base and method.base != "unused":
                warnings.append(f"{where}: {name} has no effect on the base model")
    for prefix, part in _parts(recipe):
        for index, run in enumerate(part.slices or ()):
            if run.residual_weight is not None:
                warnings.append(f"{prefix}slices[{index}]: residual_weight has no effect")
    return warnings


def check_filters(recipe: Recipe, tensors: Iterable[str]) -> list[str]:
    """Warnings about filters that fit no tensor, and gradients that no layer has.

    Args:
        recipe: what was planned.
        tensors: the names of all tensors, of the output and of its sources.
    """
    within, outside = _texts(frozenset(tensors))
    warnings = []
    for where, name, condition in _conditions(recipe):
        pattern = condition.filter
        if pattern is None or pattern == "*" or pattern in within:
            continue
        place = f"{where}.{name}: filter {pattern!r}"
        if pattern not in outside:
            warnings.append(f"{place} fits no tensor; {_nearest(pattern, within, outside)}")
        elif isinstance(condition.value, tuple) and len(condition.value) > 1:
            warnings.append(f"{place} fits tensors outside of the layers alone: only {condition.value[0]!r} is used")
    return list(dict.fromkeys(warnings))


@lru_cache(maxsize=8)  # a search asks for the same names with every candidate
def _texts(tensors: frozenset[str]) -> tuple[str, str]:
    """All names inside of layers, and all outside, to be searched at once."""
    ordered = sorted(tensors)
    within = [name for name in ordered if layer_of(name) is not None]
    return "\n".join(within), "\n".join(name for name in ordered if layer_of(name) is None)


@lru_cache(maxsize=256)
def _nearest(pattern: str, within: str, outside: str) -> str:
    """The nearest run of components, as many as the filter has."""
    count = pattern.strip(".").count(".") + 1
    known = set()
    for name in f"{within}\n{outside}".split("\n"):
        parts = name.split(".")
        known |= {".".join(parts[first : first + count]) for first in range(len(parts) - count + 1)}
    return nearest(pattern, {each for each in known if not each.isdigit()})


def _conditions(recipe: Recipe) -> Iterator[tuple[str, str, ConditionalValue]]:
    for where, settings, *_ in _settings(recipe):
        for name, setting in settings.items():
            for condition in conditions(setting):
                yield where, name, condition


def _settings(recipe: Recipe) -> Iterator[tuple[str, Parameters, ModelRef | None, ModelRef | None]]:
    """Where parameters are: the place, the parameters, the model if they are of a single one, and the base model."""
    yield "parameters", recipe.parameters or {}, None, None
    for name, module in (recipe.modules or {}).items():
        yield f"modules.{name}.parameters", module.parameters or {}, None, None
    for prefix, part in _parts(recipe):
        for index, entry in enumerate(part.models or ()):
            yield f"{prefix}models[{index}].parameters", entry.parameters or {}, entry.model, recipe.base_model
        for index, run in enumerate(part.slices or ()):
            where, base = f"{prefix}slices[{index}]", run.base_model or recipe.base_model
            yield f"{where}.parameters", run.parameters or {}, None, None
            for place, source in enumerate(run.sources):
                yield f"{where}.sources[{place}].parameters", source.parameters or {}, source.model, base


def _parts(recipe: Recipe) -> Iterator[tuple[str, Recipe | Module]]:
    """What has models or slices, and what errors say before their place."""
    yield "", recipe
    yield from ((f"modules.{name}.", module) for name, module in (recipe.modules or {}).items())
