"""Select, calculate, erase: the entries in which models differ most, weighted by energy, where they agree in sign.

References:
    Wan et al., FuseChat, arXiv 2408.07990.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.methods._magnitudes import Magnitudes, Values, count_magnitudes
from evomerge.methods._method import (
    BASE,
    Chunk,
    Coefficients,
    Method,
    Operands,
    Parameter,
    accumulator,
    add_up,
    chunks,
    fetch,
)

_NO_ENERGY = 1e-6  # a sum of mean squares, or of weights, that is not divided by


def variances(vectors: tuple[Tensor, ...], shape: tuple[int, ...], device: torch.device) -> Magnitudes:
    """Order statistics of the variance over models of each entry of flat tensors (base, *models), each (n,)."""
    return count_magnitudes(vectors[0].numel(), _variances(vectors, device), device)


def energies(vectors: tuple[Tensor, ...], shape: tuple[int, ...], device: torch.device) -> tuple[float, ...]:
    """The mean square of each task vector of flat tensors (base, *models), each (n,)."""
    return _energies(vectors, None, device)


def settle(operands: Operands) -> Coefficients:
    """The variance below which an entry is dropped, and the weights: mean squares of what is kept, over their sum.

    int(select_topk * those not zero) entries are kept, and all that tie with the last.
    """
    count, select = len(operands.models), operands.shared["select_topk"]
    if not count:
        return Coefficients()
    assert operands.base is not None  # the method requires a base
    threshold = None
    if select < 1.0:
        magnitudes: Magnitudes = operands.measure(variances, BASE, *range(count))
        kept, vectors = int(magnitudes.nonzero * select), (operands.base, *operands.models)
        values = _variances(vectors, operands.device)
        threshold = magnitudes.of_rank(kept, values, operands.device) if kept else math.inf
        squares = _energies(vectors, threshold, operands.device)
    else:
        squares = operands.measure(energies, BASE, *range(count))
    total = sum(squares)
    weights = [1.0 / count] * count if abs(total) < _NO_ENERGY else [square / total for square in squares]
    return Coefficients((operands.tensor(*weights), operands.tensor(threshold or 0.0)), (threshold is not None,))


def combine(chunk: Chunk) -> Tensor:
    """base + sum_i w_i v_i / sum_i w_i over the task vectors v_i that agree with the sign of their sum."""
    assert chunk.base is not None  # the method requires a base
    if not chunk.models:
        return chunk.base
    vectors = [model - chunk.base for model in chunk.models]
    weights, threshold = chunk.coefficients
    if chunk.flags[0]:
        vectors = _select(vectors, threshold)
    positive = _sum(vectors) >= 0
    agree = [((vector > 0) & positive) | ((vector < 0) & ~positive) for vector in vectors]
    shares = [each * weight for each, weight in zip(agree, weights.unbind(), strict=True)]
    mixed = _sum([vector * share for vector, share in zip(vectors, shares, strict=True)])
    return mixed / _sum(shares).clamp(min=_NO_ENERGY) + chunk.base


def _energies(vectors: tuple[Tensor, ...], threshold: float | None, device: torch.device) -> tuple[float, ...]:
    """Mean squares, over all n entries, of those whose variance is not below the threshold."""
    wide, count = accumulator(device), vectors[0].numel()

    def squares(piece: slice) -> Tensor:
        deltas = _deltas(vectors, piece, device)
        if threshold is not None:
            deltas = _select(deltas, threshold)
        return torch.stack([add_up(delta.to(wide).square(), wide) for delta in deltas])

    sums = [squares(piece) for piece in chunks(count, device)]
    # Read once, at the end: to read is to wait for the device.
    return tuple((torch.stack(sums).sum(0) / count).tolist()) if sums else (0.0,) * (len(vectors) - 1)


def _deltas(vectors: tuple[Tensor, ...], piece: slice, device: torch.device) -> list[Tensor]:
    base, *models = (fetch(vector, piece, device) for vector in vectors)
    return [model - base for model in models]


def _variances(vectors: tuple[Tensor, ...], device: torch.device) -> Values:
    return lambda piece: _variance(_deltas(vectors, piece, device))


def _variance(vectors: Sequence[Tensor]) -> Tensor:
    shifted = [vector - vectors[0] for vector in vectors]  # so that it is zero where all are equal
    mean = _sum(shifted) / len(vectors)
    deviations = [vector - mean for vector in shifted]
    return _sum([deviation * deviation for deviation in deviations]) / len(vectors)


def _select(vectors: Sequence[Tensor], threshold: Tensor | float) -> list[Tensor]:
    kept = _variance(vectors) >= threshold
    return [vector * kept for vector in vectors]  # a product: NaN and Inf come through where they are dropped, too


def _sum(vectors: Sequence[Tensor]) -> Tensor:
    total = vectors[0]
    for vector in vectors[1:]:
        total = total + vector
    return total


SCE = Method(
    name="sce",
    parameters=(
        Parameter(
            "select_topk",
            "float",
            1.0,
            "fraction of the entries, those that vary most over the models, that are kept",
            low=0.0,
            high=1.0,
            search=(0.1, 1.0),
        ),
        Parameter("int8_mask", "bool", False, "mergekit's precision of the masks; booleans here", inert=True),
    ),
    base="required",
    min_models=0,
    max_models=None,
    settle=settle,
    combine=combine,
    summary="the entries in which models differ most, weighted by their squares where they agree in sign",
    source="arXiv 2408.07990",
)
