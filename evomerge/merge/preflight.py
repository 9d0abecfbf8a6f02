"""What can be told of a recipe before an accelerator is taken."""

import json
import math
from dataclasses import asdict, dataclass

from evomerge.checkpoint import Checkpoint, dtype_name
from evomerge.merge.depth import counted_layers
from evomerge.merge.layout import layout_of
from evomerge.merge.plan import MergePlan, make_plan
from evomerge.merge.stages import Stage, open_sources
from evomerge.merge.stream import has_non_finite, non_finite
from evomerge.merge.vocabulary import TokenChanges
from evomerge.recipe import ModelRef, Recipe


@dataclass(frozen=True)
class CheckedModel:
    """One source.

    Attributes:
        model: its reference.
        role: `base`, `source`, or `stage` for the result of an earlier document.
        parameters: number of elements of all its tensors.
        dtypes: of its tensors.
        tied: its output embedding is its token embedding.
        licence: of its model card, None if it states none.
    """

    model: str
    role: str
    parameters: int
    dtypes: tuple[str, ...]
    tied: bool
    licence: str | None


@dataclass(frozen=True)
class Preflight:
    """A recipe that can be merged. Prints as a page of text.

    Attributes:
        method: the recipe's method.
        models: its sources, the base first.
        architecture: of the output.
        layers: of the output; None if its config does not count them.
        tensors: of the output.
        parameters: elements of the output.
        nbytes: size of the output's weights.
        dtype: of the output.
        tied: the output's head is its token embedding.
        tokenizer: where the output's tokenizer comes from.
        vocabulary: what the recipe's tokenizer policy does to each model whose tokens differ from the output's.
        warnings: what a user should know before merging.
    """

    method: str
    models: tuple[CheckedModel, ...]
    architecture: str
    layers: int | None
    tensors: int
    parameters: int
    nbytes: int
    dtype: str
    tied: bool
    tokenizer: str
    vocabulary: tuple[TokenChanges, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """All of it as a JSON object."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        count = sum(each.role != "stage" for each in self.models)
        lines = [
            f"{self.method}: {count} models -> {self.architecture}, {self.layers} layers, "
            f"{self.tensors} tensors, {self.parameters:,} parameters, {self.nbytes:,} bytes of {self.dtype}, "
            f"embeddings {'tied' if self.tied else 'not tied'}",
            f"tokenizer: {self.tokenizer}",
            *map(str, self.vocabulary),
        ]
        for each in self.models:
            lines.append(
                f"{each.role}: {each.model}: {each.parameters:,} parameters, {', '.join(each.dtypes)}, "
                f"licence {each.licence or 'not stated'}"
            )
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def preflight(recipe: Recipe, *, scan: bool = True) -> Preflight:
    """Check a recipe and its models, on the CPU.

    Args:
        recipe: what is to be merged and how.
        scan: read every source tensor, too, and look for NaN and Inf.

    Raises:
        RecipeError: the recipe cannot be merged.
        ModelError: a model is missing, damaged, or does not fit the others; NonFiniteError if one holds NaN or Inf.
    """
    checkpoints = open_sources(recipe)
    plan = make_plan(recipe, checkpoints)
    if scan:
        for checkpoint in checkpoints.values():
            if not isinstance(checkpoint, Stage):  # its models are scanned
                _scan(checkpoint)
    sizes = [math.prod(tensor.shape) for tensor in plan.tensors]
    return Preflight(
        method=plan.method.name,
        models=tuple(
            CheckedModel(
                model=str(ref),
                role="stage" if isinstance(each, Stage) else "base" if ref == recipe.base_model else "source",
                parameters=sum(header.size for header in each.headers.values()),
                dtypes=tuple(dict.fromkeys(dtype_name(header.dtype) for header in each.headers.values())),
                tied=layout_of(each).tied,
                licence=each.licence,
            )
            for ref, each in checkpoints.items()
        ),
        architecture=", ".join(plan.config.get("architectures") or [str(plan.config.get("model_type"))]),
        layers=counted_layers(plan.config),
        tensors=len(plan.tensors),
        parameters=sum(sizes),
        nbytes=sum(size * tensor.dtype.itemsize for size, tensor in zip(sizes, plan.tensors, strict=True)),
        dtype=dtype_name(plan.out_dtype),
        tied=plan.tied,
        tokenizer=str(plan.tokenizer),
        vocabulary=_token_changes(plan),
        warnings=(*plan.warnings, *_licence_warnings({ref: checkpoints[ref].licence for ref in recipe.models_used})),
    )


def _token_changes(plan: MergePlan) -> tuple[TokenChanges, ...]:
    """Of each model by the first vocabulary tensor that it is changed in: models of later slices may have the head."""
    found: dict[ModelRef, TokenChanges] = {}
    for tensor in plan.tensors:
        for each in tensor.sources:
            if each.rows is not None and each.ref not in found:
                found[each.ref] = plan.vocabulary.changes(each.ref, each.rows)
    return tuple(found.values())


def _scan(checkpoint: Checkpoint) -> None:
    for name, header in checkpoint.headers.items():
        if header.dtype.is_floating_point and has_non_finite(checkpoint.read(name).reshape(-1)):
            raise non_finite(checkpoint.ref, name)
    checkpoint.release()


def _licence_warnings(licences: dict[ModelRef, str | None]) -> list[str]:
    warnings = [f"{ref} states no licence" for ref, licence in licences.items() if licence is None]
    stated = sorted({licence for licence in licences.values() if licence is not None})
    if len(stated) > 1:
        warnings.append(f"licences differ: {', '.join(stated)}; check that they may be combined")
    return warnings
