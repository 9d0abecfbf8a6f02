"""The runs of output layers that a recipe asks for, one way for `models`, `slices` and `modules`.

Whole models are one run over all layers, to which the base model is added where the recipe does not list it.
Embeddings belong to the first run, the final norm and the head to the last. Parameters are looked up in the source,
then the slice, the module, the recipe. Along a run a gradient goes from t = 0 at the first layer to t = 1 at the last
(t = 1 in a run of one layer); tensors outside of the layers take t = 0. All as in mergekit 0.1.5.

What no module claims, a tower that a whole model lacks, and layers past those that the config counts, are carried
through from the base, or else the first model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from evomerge.checkpoint import Checkpoint
from evomerge.errors import ModelError, RecipeError
from evomerge.merge.layout import EVERYTHING, Layer, Layout, Selection, is_derived, layout_of
from evomerge.merge.networks import TEXT, check_modules, counted_as, networks_of
from evomerge.methods import Method
from evomerge.recipe import ModelRef, Module, Recipe, RecipeModel, Slice

Scope = Mapping[str, Any] | None
Checkpoints = Mapping[ModelRef, Checkpoint]


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
        base: the base model of the slice or the recipe, also of a method without one.
        has_base: the lead is the base of the method.
        scopes: parameters of slice, module and recipe, most specific first.
    """

    where: str
    inputs: tuple[Input, ...]
    lead: int
    base: ModelRef | None
    has_base: bool
    scopes: tuple[Scope, ...]

    @property
    def leader(self) -> Input:
        """The input that the others are compared with."""
        return self.inputs[self.lead]

    @property
    def depth(self) -> int:
        """The number of layers of a model's only stack; of its first one if it has more."""
        first, end = self.leader.layer_range or (0, self.leader.layout.depth)
        return end - first


@dataclass(frozen=True, eq=False)
class Network:
    """A part of the output that has embeddings, layers and a head of its own, if any.

    Attributes:
        runs: its layers, first layers first.
        counted_as: how config.json counts its layers (see `depth`).
    """

    runs: tuple[Run, ...]
    counted_as: str

    @property
    def depth(self) -> int:
        """The number of layers of its first stack."""
        return sum(run.depth for run in self.runs)

    @property
    def layers(self) -> list[tuple[Input, int]] | None:
        """For each output layer the input that leads it, and the layer's number there; None of whole models."""
        leaders = [run.leader for run in self.runs]
        ranges = [leader.layer_range for leader in leaders if leader.layer_range is not None]
        if not ranges:
            return None
        return [(leader, layer) for leader, range_ in zip(leaders, ranges, strict=True) for layer in range(*range_)]

    @property
    def tied(self) -> bool:
        """It has no head of its own."""
        return all(self.ties)

    @property
    def ties(self) -> list[bool]:
        """Whether each model of the first and last run ties its head to its embedding."""
        return [entry.layout.tied for run in (self.runs[0], self.runs[-1]) for entry in run.inputs]


@dataclass(frozen=True, eq=False)
class Outline:
    """The whole output.

    Attributes:
        networks: what is merged.
        carrier: the base, or else the first model.
        carried: the carrier's tensors that the output has as they are.
        warnings: which these are.
    """

    networks: tuple[Network, ...]
    carrier: Checkpoint
    carried: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def outline_of(recipe: Recipe, method: Method, checkpoints: Checkpoints) -> Outline:
    """What a recipe asks for.

    Raises:
        RecipeError: a module that is no part of the model; too few or too many models; no base where the method needs
            one; a layer range that its model does not have.
        ModelError: models of different depth are merged whole, or slices are taken from several stacks.
    """
    carrier = checkpoints[recipe.inputs[0]]
    outline = _of_modules if recipe.modules is not None else _of_models if recipe.models is not None else _of_slices
    made = _with_past(outline(recipe, method, checkpoints, carrier))
    for network in made.networks:
        for run in network.runs:
            _check_count(run, method)
    return made


def _with_past(outline: Outline) -> Outline:
    """Keep, too, the carrier's layers past those that its config counts, which number on from the depth it has."""
    carried, warnings = list(outline.carried), list(outline.warnings)
    for network in outline.networks:
        inputs = {entry.ref: entry for run in network.runs for entry in run.inputs if entry.layout.past}
        own = inputs.get(outline.carrier.ref)
        if own is not None and network.depth == own.layout.depth:
            carried += own.layout.past
            warnings.append(f"layers that config.json does not count are kept as in {own.ref}")
        elif inputs:
            warnings.append(f"layers that config.json does not count are left out: of {', '.join(map(str, inputs))}")
    return replace(outline, carried=tuple(carried), warnings=tuple(warnings))


def _of_slices(recipe: Recipe, method: Method, checkpoints: Checkpoints, carrier: Checkpoint) -> Outline:
    runs = _runs(recipe, recipe, method, checkpoints, "", (recipe.parameters,), EVERYTHING)
    return Outline((Network(runs, counted_as(carrier, carrier.headers)),), carrier)


def _of_models(recipe: Recipe, method: Method, checkpoints: Checkpoints, carrier: Checkpoint) -> Outline:
    found = {ref: set(networks_of(checkpoints[ref]).values()) for ref in recipe.inputs}
    towers = sorted(found[carrier.ref] - {TEXT})
    lacking = {tower: [ref for ref in recipe.inputs if tower not in found[ref]] for tower in towers}
    warnings = [
        f"{', '.join(map(str, refs))} lacks the {tower} network: that of {carrier.ref} is kept as it is"
        for tower, refs in lacking.items()
        if refs
    ]
    selection = EVERYTHING
    if warnings:
        selection = Selection(
            only=tuple(sorted({each for all_ in found.values() for each in all_ if not lacking.get(each)}))
        )
    runs = _runs(recipe, recipe, method, checkpoints, "", (recipe.parameters,), selection)
    network = Network(runs, counted_as(carrier, selection.names(carrier)))
    return Outline((network,), carrier, _carried(carrier, selection), tuple(warnings))


def _of_modules(recipe: Recipe, method: Method, checkpoints: Checkpoints, carrier: Checkpoint) -> Outline:
    modules = recipe.modules or {}
    check_modules(carrier, modules)
    networks = []
    for name, module in modules.items():
        selection = Selection(tuple(modules), (name,))
        scopes = (module.parameters, recipe.parameters)
        runs = _runs(recipe, module, method, checkpoints, f"modules.{name}.", scopes, selection)
        networks.append(Network(runs, counted_as(carrier, selection.names(carrier))))
    carried = _carried(carrier, Selection(tuple(modules), tuple(modules)))
    warnings: tuple[str, ...] = ()
    if carried:
        named = ", ".join(sorted({networks_of(carrier)[name] for name in carried}))
        warnings = (f"modules: {len(carried)} tensors of no module ({named}) are kept as in {carrier.ref}",)
    return Outline(tuple(networks), carrier, carried, warnings)


def _carried(carrier: Checkpoint, merged: Selection) -> tuple[str, ...]:
    """What is not merged, without a head that is a copy of the embedding."""
    kept = set(merged.names(carrier))
    whole = layout_of(carrier)
    return tuple(
        name
        for name, header in carrier.headers.items()
        if name not in kept and not is_derived(header) and not (whole.tied and name == whole.head)
    )


def _runs(
    recipe: Recipe,
    part: Recipe | Module,
    method: Method,
    checkpoints: Checkpoints,
    prefix: str,
    scopes: tuple[Scope, ...],
    selection: Selection,
) -> tuple[Run, ...]:
    if part.models is not None:
        return (_whole(recipe, method, checkpoints, part.models, prefix + "models", scopes, selection),)
    return tuple(
        _cut(recipe, method, checkpoints, run, f"{prefix}slices[{index}]", scopes, selection)
        for index, run in enumerate(part.slices or ())
    )


def _whole(
    recipe: Recipe,
    method: Method,
    checkpoints: Checkpoints,
    models: tuple[RecipeModel, ...],
    where: str,
    scopes: tuple[Scope, ...],
    selection: Selection,
) -> Run:
    entries: list[tuple[ModelRef, Scope]] = [(entry.model, entry.parameters) for entry in models]
    if recipe.base_model is not None and all(ref != recipe.base_model for ref, _ in entries):
        entries.append((recipe.base_model, None))
    inputs = tuple(_input(checkpoints, ref, None, parameters, selection) for ref, parameters in entries)
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
    checkpoints: Checkpoints,
    run: Slice,
    where: str,
    scopes: tuple[Scope, ...],
    selection: Selection,
) -> Run:
    inputs = tuple(
        _input(checkpoints, source.model, source.layer_range, source.parameters, selection) for source in run.sources
    )
    for index, entry in enumerate(inputs):
        stacks = entry.layout.stacks
        if len(stacks) != 1:
            raise ModelError(
                "slices of a model without one stack of layers",
                where=entry.ref,
                found=", ".join(stacks) or "none",
                remedy="cut each network alone, under modules:" if len(stacks) > 1 else "merge it whole, by models:",
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
    checkpoints: Checkpoints,
    ref: ModelRef,
    layer_range: tuple[int, int] | None,
    parameters: Scope,
    selection: Selection,
) -> Input:
    return Input(ref, checkpoints[ref], layout_of(checkpoints[ref], selection), layer_range, parameters)


def _run(
    where: str, inputs: tuple[Input, ...], base: ModelRef | None, method: Method, scopes: tuple[Scope, ...]
) -> Run:
    if method.base == "unused" or (method.base == "optional" and base is None):
        return Run(where, inputs, 0, base, False, scopes)
    if base is None:
        raise RecipeError(f"{method.name} needs a base_model", where=where, remedy="set base_model")
    lead = next((index for index, entry in enumerate(inputs) if entry.ref == base), None)
    if lead is None:
        raise RecipeError(
            "base_model is not among the sources", where=where, expected=base, remedy="add it to the slice"
        )
    return Run(where, inputs, lead, base, True, scopes)


def _check_count(run: Run, method: Method) -> None:
    models = [entry.ref for index, entry in enumerate(run.inputs) if not (run.has_base and index == run.lead)]
    found, low, high = len(models), method.min_models, method.max_models
    if found < low or (high is not None and found > high):
        expected = f"{low}" if low == high else f"at least {low}" if high is None else f"{low} to {high}"
        raise RecipeError(
            f"wrong number of models for {method.name}",
            where=run.where,
            expected=f"{expected} besides the base model" if run.has_base else expected,
            found=f"{', '.join(map(str, models)) or 'none'} ({found})",
        )
