"""From a plan to tensors, one at a time, in memory of one tensor and a few chunks."""

from collections.abc import Iterator

import torch
from torch import Tensor

from evomerge.errors import ModelError, NonFiniteError
from evomerge.merge.plan import MergePlan, TensorPlan
from evomerge.merge.residency import Sources
from evomerge.merge.statistics import StatisticsCache
from evomerge.methods import Operands, chunks, fetch, merged_chunks
from evomerge.recipe import ModelRef


@torch.no_grad()
def stream(
    plan: MergePlan, sources: Sources, *, device: torch.device, statistics: StatisticsCache
) -> Iterator[tuple[str, Tensor]]:
    """Merge.

    Args:
        plan: what to merge and how.
        sources: the tensors of the plan's models.
        device: where to compute, and where the tensors end up.
        statistics: of these sources.

    Yields:
        Name and tensor of each output tensor once, in the plan's order, with the plan's shape and dtype.

    Raises:
        NonFiniteError: a source or a merged tensor holds NaN or Inf.
        ModelError: integer tensors, which cannot be merged, differ between models.
    """
    for tensor in plan.tensors:
        if tensor.dtype.is_floating_point:
            yield tensor.name, _merged(plan, tensor, sources, device, statistics)
        else:
            yield tensor.name, _agreed(tensor, sources, device)


def _merged(
    plan: MergePlan, tensor: TensorPlan, sources: Sources, device: torch.device, statistics: StatisticsCache
) -> Tensor:
    method = plan.method
    base = None if tensor.base is None else sources.flat(tensor.base.ref, tensor.base.name)
    models = tuple(sources.flat(source.ref, source.name) for source in tensor.models)

    def statistic(index: int) -> object:
        measure = method.statistics
        assert measure is not None
        assert base is not None
        key = (measure, tensor.base, tensor.models[index])
        return statistics.get(key, lambda: measure(base, models[index], device))

    operands = Operands(tensor.name, base, models, tensor.numbers, tensor.shared, tensor.each, device, statistic)
    merged = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    flat = merged.view(-1)
    finite = torch.ones((), dtype=torch.bool, device=device)
    for piece, chunk in merged_chunks(method, operands):
        out = flat[piece].copy_(chunk)
        finite &= out.isfinite().all()
    if not finite:
        raise _why_non_finite(tensor, sources)
    return merged


def _agreed(tensor: TensorPlan, sources: Sources, device: torch.device) -> Tensor:
    """The one value that all models have."""
    first, *others = tensor.sources
    flat = sources.flat(first.ref, first.name)
    for other in others:
        if not torch.equal(flat, sources.flat(other.ref, other.name)):
            raise ModelError(
                "integer tensors differ",
                where=f"{other.ref}: {other.name}",
                expected=f"the values of {first.ref}, as integers cannot be merged",
            )
    return flat.to(device, copy=True).view(tensor.shape)


def _why_non_finite(tensor: TensorPlan, sources: Sources) -> NonFiniteError:
    """Why the merged tensor is not finite: every method lets NaN and Inf through, so a source of it is looked for."""
    for source in tensor.sources:
        if has_non_finite(sources.flat(source.ref, source.name)):
            return non_finite(source.ref, source.name)
    return NonFiniteError(
        "merge overflows",
        where=tensor.name,
        expected=f"values within {tensor.dtype}".replace("torch.", ""),
        remedy="lower the weights, or choose a wider dtype",
    )


def non_finite(ref: ModelRef, name: str) -> NonFiniteError:
    """The error about a source tensor that holds NaN or Inf."""
    return NonFiniteError("NaN or Inf in a model", where=f"{ref}: {name}", remedy="download or train the model again")


def has_non_finite(flat: Tensor) -> bool:
    """Whether a flat tensor holds NaN or Inf."""
    return not all(
        bool(fetch(flat, piece, flat.device).isfinite().all()) for piece in chunks(flat.numel(), flat.device)
    )
