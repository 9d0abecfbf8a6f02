"""From a recipe and the headers of its models to a plan: every output tensor, its sources and its parameters.

All that can be wrong with a recipe or its models, short of the values of tensors, is found here. Slices, gradients and
filters mean what they mean in mergekit 0.1.5 (see `runs`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch

from evomerge.checkpoint import (
    Checkpoint,
    OutputTokenizer,
    TensorHeader,
    chat_template,
    dtype_name,
    dtype_of,
    layer_of,
    rename_layer,
)
from evomerge.errors import ModelError, RecipeError
from evomerge.merge.compatibility import check_architectures
from evomerge.merge.depth import counted_layers, fixed_layers, with_depth
from evomerge.merge.layout import layout_of
from evomerge.merge.rows import Rows
from evomerge.merge.runs import Input, Network, Outline, Run, outline_of
from evomerge.merge.settings import check_filters, check_parameter_names
from evomerge.merge.tokenizer_policy import output_vocabulary
from evomerge.merge.vocabulary import OutputVocabulary, is_vocabulary_tensor
from evomerge.methods import Method, Parameter, Value, get_method
from evomerge.recipe import DTYPES, Lookup, ModelRef, Recipe


@dataclass(frozen=True)
class Source:
    """A tensor of one of the models; `rows` tells how its rows are made where the output has another vocabulary."""

    ref: ModelRef
    name: str
    rows: Rows | None = None


@dataclass(frozen=True)
class TensorPlan:
    """One output tensor.

    Attributes:
        name: in the output.
        shape, dtype: in the output.
        method: how it is merged: the plan's, or passthrough for one that is carried through as it is.
        base: what task vectors are relative to; None for a method without a base.
        models: the other sources.
        numbers: for each of `models` its place, from 1, among the recipe's models other than the base; 0 for the base.
        shared: value of each parameter that is not per model.
        each: values of each per-model parameter, in the order of `models`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    method: Method
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
        method: how tensors are merged, but for those that are carried through.
        tensors: all output tensors, in the order in which they are made.
        config: config.json of the output.
        out_dtype: dtype of the output's floating tensors; a recipe without a dtype keeps that of each tensor.
        vocabulary: of the output.
        tokenizer: of the output, with its chat template.
        tied: the output embedding is the token embedding, and is not among `tensors`.
        warnings: what a user should know, in the order found.
    """

    recipe: Recipe
    method: Method
    tensors: tuple[TensorPlan, ...]
    config: Mapping[str, Any]
    out_dtype: torch.dtype
    vocabulary: OutputVocabulary
    tokenizer: OutputTokenizer
    tied: bool
    warnings: tuple[str, ...]


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
    warnings += [f"stage {name} is not used" for name in recipe.unused_stages]
    models = [checkpoints[ref] for ref in recipe.inputs]
    reference = models[0]
    warnings += check_architectures(reference, models[1:])
    vocabulary = output_vocabulary(recipe, models)
    warnings += vocabulary.warnings
    warnings += [warning for model in models for warning in model.warnings]
    outline = outline_of(recipe, method, checkpoints)
    warnings += outline.warnings
    if any(any(network.ties) and not network.tied for network in outline.networks):
        warnings.append("some models tie their embeddings and some do not: the merged model has a head of its own")
    if any(header.dtype == torch.float64 for model in models for header in model.headers.values()):
        warnings.append("tensors of float64 are merged in float32")
    tensors = tuple(_Planner(recipe, method, vocabulary).tensors(outline))
    if not tensors:
        raise ModelError("no tensors to merge", where=reference.ref)
    warnings += check_filters(recipe, _names(tensors))
    warnings += _layer_warnings(reference, outline.networks)
    out_dtype = _out_dtype(recipe, reference, tensors)
    tied = all(network.tied for network in outline.networks) and layout_of(reference).head not in outline.carried
    return MergePlan(
        recipe=recipe,
        method=method,
        tensors=tensors,
        config=vocabulary.config(_config(reference, outline.networks, out_dtype, tied=tied)),
        out_dtype=out_dtype,
        vocabulary=vocabulary,
        tokenizer=replace(vocabulary.tokenizer, template=_chat_template(recipe, models, vocabulary.tokenizer)),
        tied=tied,
        warnings=tuple(dict.fromkeys(warnings)),  # several stages may pass on those of one
    )


class _Planner:
    """Makes the plans of single tensors."""

    def __init__(self, recipe: Recipe, method: Method, vocabulary: OutputVocabulary) -> None:
        self._method = method
        self._vocabulary = vocabulary
        self._shared = [each for each in method.parameters if not each.per_model and not each.inert]
        self._per_model = [each for each in method.parameters if each.per_model and not each.inert]
        name = recipe.out_dtype or recipe.dtype
        self._dtype = None if name is None else dtype_of(name)
        parents = [ref for ref in recipe.inputs if ref != recipe.base_model]
        self._numbers = {ref: number for number, ref in enumerate(parents, 1)}
        self._lookups: dict[tuple[Run, Input | None], list[tuple[Parameter, Lookup, str]]] = {}

    def tensors(self, outline: Outline) -> Iterator[TensorPlan]:
        for network in outline.networks:
            yield from self._network(network)
        passthrough = get_method("passthrough")
        for name in outline.carried:
            yield self._carried(outline.carrier, name, passthrough)

    def _network(self, network: Network) -> Iterator[TensorPlan]:
        first, last = network.runs[0], network.runs[-1]
        yield from self._outside(first, [entry.layout.before for entry in first.inputs])
        offset = 0
        for run in network.runs:
            for stack in run.leader.layout.stacks:
                yield from self._layers(run, stack, offset)
            offset += run.depth
        yield from self._outside(last, [entry.layout.after for entry in last.inputs])
        if not network.tied:
            yield self._head(first, last)

    def _carried(self, carrier: Checkpoint, name: str, passthrough: Method) -> TensorPlan:
        """The plan of a tensor that the output has as a model has it."""
        header = carrier.headers[name]
        shape, rows = header.shape, None
        if self._vocabulary.size is not None and is_vocabulary_tensor(layout_of(carrier), name):
            (rows,) = self._vocabulary.rows([(carrier.ref, name, shape[0])], carrier.ref)
            shape = (self._vocabulary.size, *shape[1:])
        return TensorPlan(
            name=name,
            shape=shape,
            dtype=self._dtype if self._dtype is not None and header.dtype.is_floating_point else header.stored,
            method=passthrough,
            base=None,
            models=(Source(carrier.ref, name, rows),),
            numbers=(0,),
            shared={},
            each={each.name: (each.default,) for each in passthrough.parameters if each.default is not None},
        )

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
        shape, rows = self._rows(run, headers)
        dtype = reduce(torch.promote_types, (header.stored for header in headers))
        if self._dtype is not None and dtype.is_floating_point:
            dtype = self._dtype
        sources = [Source(entry.ref, name, each) for entry, name, each in zip(run.inputs, names, rows, strict=True)]
        others = list(zip(run.inputs, known_as or names, strict=True))
        base = None
        if run.has_base:
            base = sources.pop(run.lead)
            others.pop(run.lead)
        shared = {each.name: _value(each, lookup, output, t, place) for each, lookup, place in self._of(run, None)}
        each: dict[str, tuple[Value, ...]] = {parameter.name: () for parameter in self._per_model}
        for entry, known in others:
            for parameter, lookup, place in self._of(run, entry):
                each[parameter.name] += (_value(parameter, lookup, known, t, place),)
        if self._method.check is not None:
            self._method.check(shared, each, output)
        return TensorPlan(
            name=output,
            shape=shape,
            dtype=dtype,
            method=self._method,
            base=base,
            models=tuple(sources),
            numbers=tuple(self._numbers.get(source.ref, 0) for source in sources),
            shared=shared,
            each=each,
        )

    def _rows(self, run: Run, headers: Sequence[TensorHeader]) -> tuple[tuple[int, ...], Sequence[Rows | None]]:
        """The shape of an output tensor, and for each input how its rows are made."""
        shape = headers[0].shape
        if self._vocabulary.size is None or not is_vocabulary_tensor(run.leader.layout, headers[run.lead].name):
            _check_headers(run, headers, from_axis=0)
            return shape, (None,) * len(headers)
        _check_headers(run, headers, from_axis=1)
        counts = [(entry.ref, each.name, each.shape[0]) for entry, each in zip(run.inputs, headers, strict=True)]
        return (self._vocabulary.size, *shape[1:]), self._vocabulary.rows(counts, run.base)

    def _of(self, run: Run, entry: Input | None) -> list[tuple[Parameter, Lookup, str]]:
        """The parameters of a model in a run, or of its tensors as a whole, and what errors say before a tensor."""
        key = (run, entry)
        if key not in self._lookups:
            scopes = run.scopes if entry is None else (entry.parameters, *run.scopes)
            wanted = self._shared if entry is None else self._per_model
            place = "" if entry is None else f"{entry.ref}: "
            self._lookups[key] = [(each, Lookup(each.name, each.kind, *scopes), place) for each in wanted]
        return self._lookups[key]


def _value(parameter: Parameter, lookup: Lookup, tensor: str, t: float, place: str) -> Value:
    value = lookup.value(tensor, t)
    if value is None:
        value = parameter.default
    if value is None:
        name = parameter.name
        remedy = f"set {name} for all tensors"
        raise RecipeError(f"{name} missing", where=place + tensor, expected=parameter.range, remedy=remedy)
    return parameter.check(value, place + tensor)


def _names(tensors: tuple[TensorPlan, ...]) -> Iterator[str]:
    """Every name that a filter may see."""
    for tensor in tensors:
        yield tensor.name
        yield from (source.name for source in tensor.sources)


def _check_same(run: Run, parts: Sequence[Mapping[str, str]]) -> None:
    """Every input has the tensors of the lead, and no others; given by their name in layer 0 -> in this layer."""
    for entry, part in zip(run.inputs, parts, strict=True):
        for lacking, there, other in ((part, parts[run.lead], run.leader), (parts[run.lead], part, entry)):
            for name in there:
                if name not in lacking:
                    where = run.leader.ref if other is entry else entry.ref
                    layer = layer_of(next(iter(lacking.values()), name))
                    expected = name if layer is None else rename_layer(name, layer)
                    raise ModelError(
                        "tensor missing",
                        where=where,
                        expected=f"{expected} as in {other.ref}",
                        remedy="a tensor is merged only if every model has it: add it here, or remove it there",
                    )


def _check_headers(run: Run, headers: Sequence[TensorHeader], *, from_axis: int) -> None:
    lead = headers[run.lead]
    for entry, header in zip(run.inputs, headers, strict=True):
        if header.shape[from_axis:] != lead.shape[from_axis:]:
            raise ModelError(
                "shapes differ",
                where=f"{entry.ref}: {header.name}",
                expected=f"{list(lead.shape)} as in {run.leader.ref}",
                found=list(header.shape),
                remedy="merge models of one size; for another number of tokens set tokenizer_source: union or base",
            )
        if header.dtype != lead.dtype and not (header.dtype.is_floating_point and lead.dtype.is_floating_point):
            raise ModelError(
                "dtypes differ",
                where=f"{entry.ref}: {header.name}",
                expected=f"{dtype_name(lead.dtype)} as in {run.leader.ref}",
                found=dtype_name(header.dtype),
            )


def _chat_template(recipe: Recipe, models: Sequence[Checkpoint], tokenizer: OutputTokenizer) -> str | None:
    if recipe.chat_template is None:
        return tokenizer.template
    return chat_template(recipe.chat_template, (checkpoint.tokenizer.chat_template for checkpoint in models))


def _out_dtype(recipe: Recipe, reference: Checkpoint, tensors: tuple[TensorPlan, ...]) -> torch.dtype:
    """The recipe's dtype, or the config's if it names one, or the widest of the tensors."""
    config = reference.config
    for name in (recipe.out_dtype, recipe.dtype, config.get("dtype"), config.get("torch_dtype")):
        if isinstance(name, str) and name.removeprefix("torch.") in DTYPES:
            return dtype_of(name)
    dtypes = [tensor.dtype for tensor in tensors if tensor.dtype.is_floating_point]
    return reduce(torch.promote_types, dtypes) if dtypes else torch.float32


def _config(
    reference: Checkpoint, networks: tuple[Network, ...], out_dtype: torch.dtype, *, tied: bool
) -> dict[str, Any]:
    """The reference's config with the output's dtype, ties and depths."""
    config = dict(reference.config)
    dtype_keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    config |= {key: dtype_name(out_dtype) for key in dtype_keys}
    if tied != layout_of(reference).tied:
        config["tie_word_embeddings"] = tied
    for network in networks:
        if network.layers is not None:
            layers = [(leader.checkpoint.config, layer) for leader, layer in network.layers]
            config = with_depth(config, network.counted_as, layers, reference.ref)
    return config


def _layer_warnings(reference: Checkpoint, networks: tuple[Network, ...]) -> Iterator[str]:
    """About settings that tell layers by numbers, where layers have others than before."""
    for network in networks:
        if network.layers is None:
            continue
        depth = counted_layers(reference.config, network.counted_as) or 0
        if [layer for _, layer in network.layers] != list(range(depth)):
            for name in fixed_layers(reference.config, network.counted_as):
                yield f"{name} of config.json stays as in {reference.ref}, though it tells layers by their numbers"
