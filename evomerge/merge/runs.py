"""The runs of output layers that a recipe asks for, one way for `models`, `slices` and `modules`.

Whole models are one run over all layers, to which the base model is added where the recipe does not list it.
Embeddings belong to the first run, the final norm and the head to the last. Parameters are looked up in the source,
then the slice, the module, the recipe. Along a run a gradient goes from t = 0 at the first layer to t = 1 at the last
(t = 1 in a run of one layer); tensors outside of the layers take t = 0. All as in mergekit 0.1.5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.checkpoint import Checkpoint
from evomerge.errors import ModelError, RecipeError
from evomerge.merge.layout import Layer, Layout, layout_of
from evomerge.methods import Method
from evomerge.recipe import ModelRef, Module, Recipe, RecipeModel, Slice

Scope = Mapping[str, Any] | None


@dataclass(frozen=True, eq=False)
class Input:
    """Layers of one model, and its own parameters.

    Attributes:
        layer_range: first layer and the one after the last; None for all.
    """

    ref: ModelRef
    checkpoint: Checkpoint
    layout: Layout
    layer_range: tuple[int, int] | None
    parameters: Scope

    def layers(self, stack: str) -> tuple[Layer, ...]:
        """The input's layers of a stack."""
        layers = self.layout.stacks[stack]
        return layers if self.layer_range is None else layers[slice(*self.layer_range)]


@dataclass(frozen=True, eq=False)
class Run:
    """A run of output layers.

    Attributes:
        where: its place in the recipe.
        inputs: what it is made from, in the recipe's order.
        lead: the place in `inputs` of the base where the method has one, else 0. The others are compared with it.
        has_base: the lead is the base of the method.
        scopes: parameters of slice, module and recipe, most specific first.
    """

    where: str
    inputs: tuple[Input, ...]
    lead: int
    has_base: bool
    scopes: tuple[Scope, ...]

    @property
    def leader(self) -> Input:
        """The input that the others are compared with."""
        return self.inputs[self.lead]

    @property
    def depth(self) -> int:
        """The number of layers of a model's only stack; of its first one if it has more."""
        return next((len(self.leader.layers(stack)) for stack in self.leader.layout.stacks), 0)


def runs_of(recipe: Recipe, method: Method, checkpoints: Mapping[ModelRef, Checkpoint]) -> tuple[Run, ...]:
    """The runs, first layers first.

    Raises:
        RecipeError: more than one module; too few or too many models; no base where the method needs one; a layer range
            that its model does not have.
        ModelError: models of different depth are merged whole, or slices are taken from a model with several stacks.
    """
    part, prefix, scopes = _part(recipe)
    if part.models is not None:
        runs: tuple[Run, ...] = (_whole(recipe, method, checkpoints, part.models, prefix + "models", scopes),)
    else:
        runs = tuple(
            _cut(recipe, method, checkpoints, run, f"{prefix}slices[{index}]", scopes)
            for index, run in enumerate(part.slices or ())
        )
    for run in runs:
        _check_count(run, method)
    return runs


def check_parameter_names(recipe: Recipe, method: Method) -> list[str]:
    """Check that the method has every parameter that is set, and that it is set where it counts.

    Returns:
        Warnings about parameters without effect.

    Raises:
        RecipeError: an unknown parameter, or one of the whole tensor among those of a model.
    """
    warnings = []
    for where, settings, of_model in _settings(recipe):
        for name in settings or ():
            parameter = method.parameter(name, where)
            if of_model and not parameter.per_model:
                raise RecipeError(
                    f"{name} is not a parameter of a single model",
                    where=where,
                    remedy="set it under parameters: of the recipe",
                )
            if parameter.inert:
                warnings.append(f"{where}: {name} has no effect on {method.name}")
    return warnings


def _settings(recipe: Recipe) -> list[tuple[str, Scope, bool]]:
    """Where parameters can be: the place, the parameters, and whether they are of one model."""
    found: list[tuple[str, Scope, bool]] = [("parameters", recipe.parameters, False)]
    parts: list[tuple[str, Recipe | Module]] = [("", recipe)]
    for name, module in (recipe.modules or {}).items():
        parts.append((f"modules.{name}.", module))
        found.append((f"modules.{name}.parameters", module.parameters, False))
    for prefix, part in parts:
        for index, entry in enumerate(part.models or ()):
            found.append((f"{prefix}models[{index}].parameters", entry.parameters, True))
        for index, run in enumerate(part.slices or ()):
            found.append((f"{prefix}slices[{index}].parameters", run.parameters, False))
            for place, source in enumerate(run.sources):
                found.append((f"{prefix}slices[{index}].sources[{place}].parameters", source.parameters, True))
    return found


def _part(recipe: Recipe) -> tuple[Recipe | Module, str, tuple[Scope, ...]]:
    if recipe.modules is None:
        return recipe, "", (recipe.parameters,)
    if len(recipe.modules) > 1:
        raise RecipeError(
            "more than one module",
            where="modules",
            expected="one",
            found=", ".join(recipe.modules),
            remedy="use models:",
        )
    ((name, module),) = recipe.modules.items()
    return module, f"modules.{name}.", (module.parameters, recipe.parameters)


def _whole(
    recipe: Recipe,
    method: Method,
    checkpoints: Mapping[ModelRef, Checkpoint],
    models: tuple[RecipeModel, ...],
    where: str,
    scopes: tuple[Scope, ...],
) -> Run:
    entries: list[tuple[ModelRef, Scope]] = [(entry.model, entry.parameters) for entry in models]
    if recipe.base_model is not None and all(ref != recipe.base_model for ref, _ in entries):
        entries.append((recipe.base_model, None))
    inputs = tuple(_input(checkpoints, ref, None, parameters) for ref, parameters in entries)
    run = _run(where, inputs, recipe.base_model, method, scopes)
    for entry in inputs:
        for stack, layers in run.leader.layout.stacks.items():
            found = len(entry.layout.stacks.get(stack, ()))
            if found != len(layers):
                raise ModelError(
                    "depths differ",
                    where=f"{entry.ref}: {stack}",
                    expected=f"{len(layers)} layers as in {run.leader.ref}",
                    found=found,
                    remedy="merge models of one depth, or use slices",
                )
    return run


def _cut(
    recipe: Recipe,
    method: Method,
    checkpoints: Mapping[ModelRef, Checkpoint],
    run: Slice,
    where: str,
    scopes: tuple[Scope, ...],
) -> Run:
    inputs = tuple(_input(checkpoints, source.model, source.layer_range, source.parameters) for source in run.sources)
    for index, entry in enumerate(inputs):
        stacks = entry.layout.stacks
        if len(stacks) != 1:
            raise ModelError(
                "slices of a model without one stack of layers", where=entry.ref, found=", ".join(stacks) or "none"
            )
        (layers,) = stacks.values()
        if entry.layer_range is not None and entry.layer_range[1] > len(layers):
            raise RecipeError(
                "layer_range beyond the last layer",
                where=f"{where}.sources[{index}]",
                expected=f"an end of {len(layers)} at most for {entry.ref}",
                found=list(entry.layer_range),
            )
    return _run(where, inputs, run.base_model or recipe.base_model, method, (run.parameters, *scopes))


def _input(
    checkpoints: Mapping[ModelRef, Checkpoint], ref: ModelRef, layer_range: tuple[int, int] | None, parameters: Scope
) -> Input:
    return Input(ref, checkpoints[ref], layout_of(checkpoints[ref]), layer_range, parameters)


def _run(
    where: str, inputs: tuple[Input, ...], base: ModelRef | None, method: Method, scopes: tuple[Scope, ...]
) -> Run:
    if method.base == "unused":
        return Run(where, inputs, 0, False, scopes)
    if base is None:
        raise RecipeError(f"{method.name} needs a base_model", where=where, remedy="set base_model")
    lead = next((index for index, entry in enumerate(inputs) if entry.ref == base), None)
    if lead is None:
        raise RecipeError(
            "base_model is not among the sources", where=where, expected=base, remedy="add it to the slice"
        )
    return Run(where, inputs, lead, True, scopes)


def _check_count(run: Run, method: Method) -> None:
    found, low, high = len(run.inputs), method.min_models, method.max_models
    if found < low or (high is not None and found > high):
        expected = f"{low}" if low == high else f"at least {low}" if high is None else f"{low} to {high}"
        raise RecipeError(
            f"wrong number of models for {method.name}",
            where=run.where,
            expected=f"{expected}, the base model counted" if method.base == "required" else expected,
            found=", ".join(str(entry.ref) for entry in run.inputs) + f" ({found})",
        )
