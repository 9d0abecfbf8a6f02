"""Take over the entries that matter: those whose change, times the divergence of their row, is unusually large.

References:
    Arcee AI, Arcee Fusion, https://arcee.ai, as published in mergekit 0.1.5, which estimates the quartiles of large
    tensors from a random sample; here they are those of all entries.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.methods._magnitudes import count_magnitudes, task_vector
from evomerge.methods._method import (
    BASE,
    Chunk,
    Coefficients,
    Method,
    Operands,
    accumulator,
    add_up,
    columns_of,
    fetch,
)

_EPSILON = 1e-8  # is added to each probability
_BLOCK = 1 << 18  # elements whose probabilities are worked out at a time, or one row


@dataclass(frozen=True)
class Importance:
    """What says how much the entries of one tensor matter.

    Attributes:
        divergences: (rows,) float32 on the device, not negative: the Kullback-Leibler divergence of the softmax of the
            model's row from that of the base's.
        threshold: the least importance, |model - base| times divergence, of an entry that is taken over: the median
            plus 1.5 times the distance of the quartiles.
    """

    divergences: Tensor
    threshold: float


def importance(vectors: tuple[Tensor, ...], shape: tuple[int, ...], device: torch.device) -> Importance:
    """The importance of the entries of two flat tensors (base, model), each (n,), whose rows are the last dimension."""
    base, model = vectors
    count, columns = base.numel(), columns_of(shape)
    divergences = _divergences(base, model, columns, device)

    deltas = task_vector(base, model, device)

    def importances(piece: slice) -> Tensor:
        return deltas(piece).abs() * _expand(divergences, columns, piece)

    if not count:
        return Importance(divergences, 0.0)
    counted = count_magnitudes(count, importances, device)
    lower, median, upper = (
        counted.of_rank(count - int(share * (count - 1)), importances, device) for share in (0.25, 0.5, 0.75)
    )
    return Importance(divergences, median + 1.5 * (upper - lower))


def settle(operands: Operands) -> Coefficients:
    """The threshold; each entry's divergence as a field."""
    found: Importance = operands.measure(importance, BASE, 0)
    columns = columns_of(operands.shape)
    return Coefficients(
        (operands.tensor(found.threshold),), fields=lambda piece: (_expand(found.divergences, columns, piece),)
    )


def combine(chunk: Chunk) -> Tensor:
    """base + (model - base) where |model - base| * divergence reaches the threshold."""
    assert chunk.base is not None  # the method requires a base
    vector = chunk.models[0] - chunk.base
    taken = vector.abs() * chunk.fields[0] >= chunk.coefficients[0]
    return chunk.base + vector * taken  # a product: NaN and Inf come through where they are dropped, too


def _divergences(base: Tensor, model: Tensor, columns: int, device: torch.device) -> Tensor:
    """(rows,) float32: sum_j p_j log(p_j / q_j), in float64 where the device has it."""
    wide, rows = accumulator(device), base.numel() // columns
    step = max(1, _BLOCK // columns)

    def softmax(flat: Tensor, block: slice) -> Tensor:
        piece = fetch(flat, slice(block.start * columns, block.stop * columns), device)
        return piece.view(-1, columns).to(wide).softmax(1).add_(_EPSILON)

    def divergence(block: slice) -> Tensor:
        p, q = softmax(model, block), softmax(base, block)
        terms = p * (p / q).log_()
        sums = terms.sum(1) if len(terms) > 1 else add_up(terms[0], wide).view(1)
        return sums.clamp(min=0.0).float()  # rounding can fall below zero, the sum cannot

    blocks = [slice(first, min(first + step, rows)) for first in range(0, rows, step)]
    found = [divergence(block) for block in blocks]
    return torch.cat(found) if found else torch.empty(0, device=device)


def _expand(divergences: Tensor, columns: int, piece: slice) -> Tensor:
    """(m,) float32: the divergence of the row of each entry of a piece."""
    first, last = piece.start // columns, -(-piece.stop // columns)
    every = divergences[first:last].repeat_interleave(columns)
    return every[piece.start - first * columns : piece.stop - first * columns]


ARCEE_FUSION = Method(
    name="arcee_fusion",
    parameters=(),
    base="required",
    min_models=1,
    max_models=1,
    settle=settle,
    combine=combine,
    summary="the entries of the other model whose change and whose row's divergence are unusually large",
    source="mergekit",
)
