"""The stages of a recipe: merged as they are read, among the models that are opened; or each on disk, one by one."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import torch

from evomerge.checkpoint import Checkpoint, TensorHeader, check_output, model_card, open_checkpoint
from evomerge.errors import ModelError, RecipeError, UsageError, nearest
from evomerge.merge.plan import make_plan
from evomerge.merge.residency import Sources
from evomerge.merge.statistics import StatisticsCache
from evomerge.merge.stream import stream
from evomerge.recipe import ModelRef, Recipe

_CPU = torch.device("cpu")
_DEEPEST = 64  # stages that read one another; a few calls of Python's for each


class Stage:
    """The result of a recipe, as a checkpoint: a tensor is merged when it is read, and nothing is written.

    Args:
        recipe: with a name, by which later stages read it.
        checkpoints: at least its models.
        keep: keep the tensor that was merged last until `release`, so that several later stages that read it, as each
            is made tensor by tensor in about the same order, have it merged once.

    Attributes:
        ref, tokenizer, config: as of every checkpoint.
        headers: in the order in which they are merged.

    Raises:
        RecipeError: the recipe cannot be merged.
        ModelError: the models do not fit each other.
    """

    def __init__(self, recipe: Recipe, checkpoints: Mapping[ModelRef, Checkpoint], *, keep: bool) -> None:
        self.ref = ModelRef(str(recipe.name))
        self._recipe = recipe
        self._checkpoints = {ref: checkpoints[ref] for ref in recipe.inputs}
        self._stages = [each for each in self._checkpoints.values() if isinstance(each, Stage)]
        self._depth: int = 1 + max((stage._depth for stage in self._stages), default=0)
        if self._depth > _DEEPEST:
            raise RecipeError(
                "stages too deep",
                where=self.ref,
                expected=f"at most {_DEEPEST} that read one another",
                remedy="merge the first of them by a recipe of their own",
            )
        self._sources = Sources(self._checkpoints, _CPU, keep=False)
        self._plan = make_plan(recipe, self._checkpoints)
        self._tensors = {tensor.name: tensor for tensor in self._plan.tensors}
        self.tokenizer = self._plan.tokenizer
        self.config = self._plan.config
        self.headers: Mapping[str, TensorHeader] = {
            name: TensorHeader(name, tensor.dtype, tensor.shape) for name, tensor in self._tensors.items()
        }
        self._keep = keep
        self._kept: dict[str, torch.Tensor] = {}  # of one tensor at most
        self._prefetched = ""

    @cached_property
    def licence(self) -> str | None:
        """The licence that all of its models state."""
        licences = {each.licence for each in self._checkpoints.values()}
        return licences.pop() if len(licences) == 1 else None

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Of its recipe, its models and the stages that it reads."""
        theirs = {warning for stage in self._stages for warning in stage.warnings}
        return tuple(each if each in theirs else f"stage {self.ref}: {each}" for each in self._plan.warnings)

    def read(self, name: str) -> torch.Tensor:
        """The merged tensor, with the dtype and shape of its header, on the CPU.

        Raises:
            ModelError: no tensor of this name; NonFiniteError if a source or the merged tensor holds NaN or Inf.
        """
        if name not in self._tensors:
            raise ModelError("tensor missing", where=self.ref, expected=name)
        if name in self._kept:
            return self._kept[name]
        self._kept.clear()
        plan = replace(self._plan, tensors=(self._tensors[name],))
        (merge,) = stream(plan, self._sources, device=_CPU, statistics=StatisticsCache(keep=False))
        tensor = merge.whole()
        if self._keep:
            self._kept[name] = tensor
        return tensor

    def prefetch(self, name: str) -> None:
        """Have the system read what the tensor is merged from."""
        if name != self._prefetched:
            self._prefetched = name
            for source in self._tensors[name].sources:
                self._checkpoints[source.ref].prefetch(source.name)

    def release(self) -> None:
        """Give the memory of the tensor that is kept back to the system; its models are released on their own."""
        self._kept.clear()

    def digest(self) -> str:
        """SHA-256, in hex, of its recipe and of its models' digests."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digests = (self._recipe.digest, *(each.digest() for each in self._checkpoints.values()))
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def open_sources(recipe: Recipe) -> dict[ModelRef, Checkpoint]:
    """Open every model that a recipe and its stages name, and make the stages that it reads.

    Returns:
        Every model of the recipe, be it a stage, and every model of its stages.

    Raises:
        RecipeError: a stage cannot be merged, or there is no such stage.
        ModelError: a model is missing or damaged, or those of a stage do not fit each other.
    """
    names = [str(stage.name) for stage in recipe.stages]
    checkpoints: dict[ModelRef, Checkpoint] = {}
    for ref in recipe.models_used:
        try:
            checkpoints[ref] = open_checkpoint(ref)
        except ModelError:
            if names and "/" not in ref.path and not Path(ref.path).exists():
                raise RecipeError(
                    "neither a stage nor a model", where=recipe.name, found=str(ref), remedy=nearest(ref.path, names)
                ) from None
            raise
    stages = [stage for stage in recipe.stages if str(stage.name) not in recipe.unused_stages]
    reads: Counter[ModelRef] = Counter()
    for result in (*stages, recipe):
        reads.update(result.inputs)
        if result.tokenizer_source is not None or result.tokenizer is not None:
            reads.update(result.inputs)  # once more, for rows that other models lack
    for stage in stages:
        ref = ModelRef(str(stage.name))
        checkpoints[ref] = Stage(stage, checkpoints, keep=reads[ref] > 1)
    return checkpoints


@dataclass(frozen=True)
class Step:
    """One of the merges to disk that make a recipe.

    Attributes:
        recipe: without stages.
        out: the folder to make.
        card: its model card, which names the models that the stages come from; None for one of `recipe`.
    """

    recipe: Recipe
    out: Path
    card: str | None = None


def steps(recipe: Recipe, out: Path, intermediate: Path | None = None) -> tuple[Step, ...]:
    """The merges that make a recipe, the last of them into `out`.

    Args:
        recipe: what to merge and how.
        out: the folder to make.
        intermediate: where to make a folder for each stage; None to merge stages as they are read. All is checked
            before anything is merged.

    Raises:
        RecipeError: the recipe or a stage cannot be merged.
        ModelError: models do not fit each other.
        UsageError: one of the folders exists, or lies in another.
    """
    if intermediate is None:
        return (Step(recipe, out),)
    folders = [*(intermediate / str(stage.name) for stage in recipe.stages), out]
    for one, other in combinations(map(check_output, folders), 2):
        if one == other or one in other.parents or other in one.parents:
            raise UsageError("one output lies in another", where=other, found=one, remedy="choose another folder")
    found = []
    for result, folder in zip(recipe.results, folders, strict=True):
        checkpoints = open_sources(result)
        make_plan(result, checkpoints)
        card = model_card(result, folder.name, {ref: each.licence for ref, each in checkpoints.items()})
        found.append(Step(result.stored_in(intermediate), folder, card))
    return tuple(found)
