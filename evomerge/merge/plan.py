"""From a recipe and the headers of its models to a plan: every output tensor, its sources and its parameters.

All that can be wrong with a recipe or its models, short of the values of tensors, is found here. Slices, gradients and
filters mean what they mean in mergekit 0.1.5 (see `runs`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from evomerge.checkpoint import (
    Checkpoint,
    TensorHeader,
    chat_template,
    dtype_name,
    dtype_of,
    layer_of,
    open_checkpoint,
    rename_layer,
)
from evomerge.errors import ModelError, RecipeError
from evomerge.merge.compatibility import check_architectures, check_vocabularies
from evomerge.merge.layout import depth_key, layout_of
from evomerge.merge.runs import Input, Run, check_parameter_names, runs_of
from evomerge.methods import Method, Parameter, Value, get_method
from evomerge.recipe import DTYPES, ModelRef, Recipe
from evomerge.recipe import parameter as setting


@dataclass(frozen=True)
class Source:
    """A tensor of one of the models."""

    ref: ModelRef
    name: str


@dataclass(frozen=True)
class TensorPlan:
    """One output tensor.

    Attributes:
        name: in the output.
        shape, dtype: in the output.
        base: what task vectors are relative to; None for a method without a base.
        models: the other sources.
        numbers: for each of `models` its place, from 1, among the recipe's models other than the base; 0 for the base.
        shared: value of each parameter that is not per model.
        each: values of each per-model parameter, in the order of `models`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    base: Source | None
    models: tuple[Source, ...]
    numbers: tuple[int, ...]
    shared: Mapping[str, Value]
    each: Mapping[str, tuple[Value, ...]]

    @property
    def sources(self) -> tuple[Source, ...]:
        """The base, if any, and the models."""
        return self.models if self.base is None else (self.base, *self.models)


@dataclass(frozen=True)
class MergePlan:
    """What `stream` makes of a recipe.

    Attributes:
        recipe: the recipe.
        method: how tensors are merged.
        tensors: all output tensors, in the order in which they are made.
        config: config.json of the output.
        out_dtype: dtype of the output's floating tensors; a recipe without a dtype keeps that of each tensor.
        tokenizer_folder: where the output's tokenizer is.
        chat_template: what the output has instead of its tokenizer's own; None keeps that.
        tied: the output embedding is the token embedding, and is not among `tensors`.
        warnings: what a user should know, in the order found.
    """

    recipe: Recipe
    method: Method
    tensors: tuple[TensorPlan, ...]
    config: Mapping[str, Any]
    out_dtype: torch.dtype
    tokenizer_folder: Path
    chat_template: str | None
    tied: bool
    warnings: tuple[str, ...]


def open_sources(recipe: Recipe) -> dict[ModelRef, Checkpoint]:
    """Open every model that a recipe names.

    Raises:
        ModelError: a model is missing or damaged.
    """
    return {ref: open_checkpoint(ref) for ref in recipe.models_used}


def make_plan(recipe: Recipe, checkpoints: Mapping[ModelRef, Checkpoint]) -> MergePlan:
    """Plan a merge. Reads no tensor.

    Args:
        recipe: what to merge and how.
        checkpoints: at least the recipe's models, opened.

    Raises:
        RecipeError: the method, its parameters, a layer range or the number of models cannot be.
        ModelError: the models do not fit each other.
    """
    method = get_method(recipe.merge_method)
    warnings = check_parameter_names(recipe, method)
    models = [checkpoints[ref] for ref in recipe.models_used]
    reference = models[0]
    warnings += check_architectures(reference, models[1:])
    tokenizer_folder, more = check_vocabularies(recipe, reference, models[1:])
    warnings += more
    runs = runs_of(recipe, method, checkpoints)
    ties = [entry.layout.tied for run in (runs[0], runs[-1]) for entry in run.inputs]
    if any(ties) and not all(ties):
        warnings.append("some models tie their embeddings and some do not: the merged model has a head of its own")
    if any(header.dtype == torch.float64 for model in models for header in model.headers.values()):
        warnings.append("tensors of float64 are merged in float32")
    tensors = tuple(_Planner(recipe, method).tensors(runs, tied=all(ties)))
    if not tensors:
        raise ModelError("no tensors to merge", where=reference.ref)
    out_dtype = _out_dtype(recipe, reference, tensors)
    return MergePlan(
        recipe=recipe,
        method=method,
        tensors=tensors,
        config=_config(reference, runs, out_dtype, tied=all(ties)),
        out_dtype=out_dtype,
        tokenizer_folder=tokenizer_folder,
        chat_template=_chat_template(recipe, models),
        tied=all(ties),
        warnings=tuple(warnings),
    )


class _Planner:
    """Makes the plans of single tensors."""

    def __init__(self, recipe: Recipe, method: Method) -> None:
        self._shared = [each for each in method.parameters if not each.per_model and not each.inert]
        self._check = method.check
        self._per_model = [each for each in method.parameters if each.per_model and not each.inert]
        name = recipe.out_dtype or recipe.dtype
        self._dtype = None if name is None else dtype_of(name)
        parents = [ref for ref in recipe.models_used if ref != recipe.base_model]
        self._numbers = {ref: number for number, ref in enumerate(parents, 1)}

    def tensors(self, runs: tuple[Run, ...], *, tied: bool) -> Iterator[TensorPlan]:
        first, last = runs[0], runs[-1]
        yield from self._outside(first, [entry.layout.before for entry in first.inputs])
        offset = 0
        for run in runs:
            for stack in run.leader.layout.stacks:
                yield from self._layers(run, stack, offset)
            offset += run.depth
        yield from self._outside(last, [entry.layout.after for entry in last.inputs])
        if not tied:
            yield self._head(first, last)

    def _outside(self, run: Run, names: list[tuple[str, ...]]) -> Iterator[TensorPlan]:
        _check_same(run, [{name: name for name in each} for each in names])
        for name in names[run.lead]:
            yield self._tensor(run, [name] * len(run.inputs), 0.0, name)

    def _layers(self, run: Run, stack: str, offset: int) -> Iterator[TensorPlan]:
        stacks = [entry.layers(stack) for entry in run.inputs]
        depth = len(stacks[run.lead])
        for index in range(depth):
            t = index / (depth - 1) if depth > 1 else 1.0
            layers = [layers[index] for layers in stacks]
            _check_same(run, layers)
            for relative, name in layers[run.lead].items():
                yield self._tensor(run, [layer[relative] for layer in layers], t, rename_layer(name, offset + index))

    def _head(self, first: Run, run: Run) -> TensorPlan:
        """The output embedding, under the name that the first untied model has for it.

        A model that ties it gives its token embedding; filters know that by the output's name, too.
        """
        names = []
        for entry in run.inputs:
            name = entry.layout.embedding if entry.layout.tied else entry.layout.head
            if name is None:
                raise ModelError(
                    "tensor missing", where=entry.ref, expected="a token embedding, as it is also the head"
                )
            names.append(name)
        heads = (entry.layout.head for entry in (*run.inputs, *first.inputs) if not entry.layout.tied)
        output = next(name for name in heads if name is not None)
        return self._tensor(run, names, 0.0, output, known_as=[output] * len(names))

    def _tensor(
        self, run: Run, names: list[str], t: float, output: str, *, known_as: list[str] | None = None
    ) -> TensorPlan:
        """The plan of one tensor, given its name in each of the run's inputs, and the names that filters look into."""
        headers = [entry.checkpoint.headers[name] for entry, name in zip(run.inputs, names, strict=True)]
        _check_headers(run, headers)
        dtype = headers[0].dtype
        for header in headers[1:]:
            dtype = torch.promote_types(dtype, header.dtype)
        if self._dtype is not None and dtype.is_floating_point:
            dtype = self._dtype
        others = list(zip(run.inputs, names, known_as or names, strict=True))
        base = None
        if run.has_base:
            entry, name, _ = others.pop(run.lead)
            base = Source(entry.ref, name)
        shared = {parameter.name: _value(parameter, output, t, run, None) for parameter in self._shared}
        each = {
            parameter.name: tuple(_value(parameter, known, t, run, entry) for entry, _, known in others)
            for parameter in self._per_model
        }
        if self._check is not None:
            self._check(shared, each, output)
        return TensorPlan(
            name=output,
            shape=headers[0].shape,
            dtype=dtype,
            base=base,
            models=tuple(Source(entry.ref, name) for entry, name, _ in others),
            numbers=tuple(self._numbers.get(entry.ref, 0) for entry, _, _ in others),
            shared=shared,
            each=each,
        )


def _value(parameter: Parameter, tensor: str, t: float, run: Run, entry: Input | None) -> Value:
    scopes = run.scopes if entry is None else (entry.parameters, *run.scopes)
    value = setting(parameter.name, tensor, t, *scopes, kind=parameter.kind)
    if value is None:
        value = parameter.default
    where = tensor if entry is None else f"{entry.ref}: {tensor}"
    if value is None:
        name = parameter.name
        raise RecipeError(
            f"{name} missing", where=where, expected=parameter.range, remedy=f"set {name} for all tensors"
        )
    return parameter.check(value, where)


def _check_same(run: Run, parts: Sequence[Mapping[str, str]]) -> None:
    """Every input has the tensors of the lead, and no others; given by their name in layer 0 -> in this layer."""
    for entry, part in zip(run.inputs, parts, strict=True):
        for lacking, there, other in ((part, parts[run.lead], run.leader), (parts[run.lead], part, entry)):
            for name in there:
                if name not in lacking:
                    where = run.leader.ref if other is entry else entry.ref
                    layer = layer_of(next(iter(lacking.values()), name))
                    expected = name if layer is None else rename_layer(name, layer)
                    raise ModelError("tensor missing", where=where, expected=f"{expected} as in {other.ref}")


def _check_headers(run: Run, headers: Sequence[TensorHeader]) -> None:
    lead = headers[run.lead]
    for entry, header in zip(run.inputs, headers, strict=True):
        where = f"{entry.ref}: {header.name}"
        if header.shape != lead.shape:
            raise ModelError(
                "shapes differ",
                where=where,
                expected=f"{list(lead.shape)} as in {run.leader.ref}",
                found=list(header.shape),
                remedy="merge models of one size and vocabulary",
            )
        if header.dtype.is_floating_point and header.dtype.itemsize == 1:
            raise ModelError(
                "quantized tensor", where=where, found=dtype_name(header.dtype), remedy="dequantize it first"
            )
        if header.dtype != lead.dtype and not (header.dtype.is_floating_point and lead.dtype.is_floating_point):
            raise ModelError(
                "dtypes differ",
                where=where,
                expected=f"{dtype_name(lead.dtype)} as in {run.leader.ref}",
                found=dtype_name(header.dtype),
            )


def _chat_template(recipe: Recipe, models: Sequence[Checkpoint]) -> str | None:
    if recipe.chat_template is None:
        return None
    return chat_template(recipe.chat_template, [checkpoint.folder for checkpoint in models])


def _out_dtype(recipe: Recipe, reference: Checkpoint, tensors: tuple[TensorPlan, ...]) -> torch.dtype:
    """The recipe's dtype, or the config's if it names one, or the widest of the tensors."""
    config = reference.config
    for name in (recipe.out_dtype, recipe.dtype, config.get("dtype"), config.get("torch_dtype")):
        if isinstance(name, str) and name.removeprefix("torch.") in DTYPES:
            return dtype_of(name)
    dtypes = [tensor.dtype for tensor in tensors if tensor.dtype.is_floating_point]
    return reduce(torch.promote_types, dtypes) if dtypes else torch.float32


def _config(reference: Checkpoint, runs: tuple[Run, ...], out_dtype: torch.dtype, *, tied: bool) -> dict[str, Any]:
    """The reference's config with the output's dtype, ties and depth."""
    config = dict(reference.config)
    dtype_keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    config |= {key: dtype_name(out_dtype) for key in dtype_keys}
    if tied != layout_of(reference).tied:
        config["tie_word_embeddings"] = tied
    if all(entry.layer_range is None for run in runs for entry in run.inputs):
        return config
    key = depth_key(config)
    if key is None:
        raise ModelError("config does not count the layers", where=reference.ref, remedy="merge whole models")
    for name, value in reference.config.items():
        if isinstance(value, list) and len(value) == reference.config[key]:  # one entry for each layer
            config[name] = [
                run.leader.checkpoint.config[name][layer]
                for run in runs
                for layer in range(*(run.leader.layer_range or (0, 0)))
            ]
    config[key] = sum(run.depth for run in runs)
    return config
