"""From a recipe and the headers of its models to a plan: every output tensor, its sources and its parameters.

All that can be wrong with a recipe or its models, short of the values of tensors, is found here.

Parameters mean what they mean in mergekit 0.1.5: a gradient runs over the layers of its slice (over all layers where
whole models are merged), from t = 0 at the first to t = 1 at the last, and t = 1 in a slice of one layer; embeddings,
final norm and head take t = 0, of the first or the last slice. A filter looks into the output name for parameters of
the tensor, and into the source's name for those of a model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from evomerge.checkpoint import Checkpoint, dtype_name, dtype_of, open_checkpoint, rename_layer
from evomerge.errors import ModelError, RecipeError
from evomerge.merge.compatibility import check_architectures, check_vocabularies
from evomerge.merge.layout import Layout, depth_key, layout_of
from evomerge.methods import Method, Parameter, get_method
from evomerge.methods._method import Value
from evomerge.recipe import ModelRef, Recipe, parameter

Scope = Mapping[str, Any] | None


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
        out_dtype: dtype of the output.
        tokenizer_folder: where the output's tokenizer is.
        chat_template: Jinja text that replaces the tokenizer's own; None to keep it.
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


@dataclass(frozen=True)
class _Input:
    """Layers [first, end) of a model, and its own parameters; `end` None stands for all."""

    ref: ModelRef
    checkpoint: Checkpoint
    layout: Layout
    first: int
    end: int | None
    parameters: Scope


@dataclass(frozen=True)
class _Run:
    """A run of output layers. The lead is the base where the method has one, else the first input."""

    where: str
    inputs: tuple[_Input, ...]
    base: ModelRef | None
    scopes: tuple[Scope, ...]

    @property
    def lead(self) -> _Input:
        return next((entry for entry in self.inputs if entry.ref == self.base), self.inputs[0])


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
        RecipeError: method, parameters, layer ranges or number of models cannot be.
        ModelError: the models do not fit each other.
    """
    method = get_method(recipe.merge_method)
    warnings = _check_parameter_names(recipe, method)
    runs = _runs(recipe, method, checkpoints)
    for run in runs:
        _check_count(run, method)
    used = list({entry.ref: entry.checkpoint for run in runs for entry in run.inputs}.values())
    reference = checkpoints[recipe.base_model] if recipe.base_model in checkpoints else runs[0].lead.checkpoint
    warnings += check_architectures(reference, used)
    tokenizer_folder = check_vocabularies(recipe, reference, used, checkpoints)
    planner = _Planner(recipe, method)
    tensors = tuple(planner.tensors(runs))
    config, dtype = _config(recipe, reference, runs, tensors)
    tied = all(entry.layout.tied for run in (runs[0], runs[-1]) for entry in run.inputs)
    if not tied and config.get("tie_word_embeddings"):
        config["tie_word_embeddings"] = False
    if not tied and any(entry.layout.tied for entry in runs[-1].inputs):
        warnings.append("some models tie their embeddings and some do not: the merged model has a head of its own")
    return MergePlan(
        recipe=recipe,
        method=method,
        tensors=tensors,
        config=config,
        out_dtype=dtype,
        tokenizer_folder=tokenizer_folder,
        chat_template=_chat_template(recipe),
        tied=tied,
        warnings=tuple(warnings),
    )
