"""Task vectors without their largest and their smallest entries.

References:
    Davari and Belilovsky, Model Breadcrumbs, arXiv 2312.06795.
"""

import math
from collections.abc import Iterator

from torch import Tensor

from evomerge.methods._magnitudes import norm_ratio, of_ranks
from evomerge.methods._method import Chunk, Coefficients, Method, Operands, Parameter
from evomerge.methods._task_vectors import add, divisor, elect, parameters


def settle(operands: Operands) -> Coefficients:
    """Of each task vector the least and the largest magnitude that is kept, and its factor."""
    lows, highs, factors = _bands(operands)
    tensors = (lows, highs, factors, operands.each["weight"], (operands.shared["lambda"],))
    return Coefficients(tuple(operands.tensor(*values) for values in tensors), (bool(operands.shared["normalize"]),))


def settle_linear(operands: Operands) -> Coefficients:
    """As `settle`, with lambda and the normalization taken into the factors."""
    lows, highs, factors = _bands(operands)
    scale = operands.shared["lambda"] / (divisor(operands) if operands.shared["normalize"] else 1.0)
    tensors = (lows, highs, [factor * scale for factor in factors])
    return Coefficients(tuple(operands.tensor(*values) for values in tensors))


def combine_linear(chunk: Chunk) -> Tensor:
    """base + sum_i factor_i * (model_i - base) where its magnitude is in [low_i, high_i]."""
    assert chunk.base is not None  # the method requires a base
    return add(chunk.base, _vectors(chunk))


def combine_ties(chunk: Chunk) -> Tensor:
    """The base plus those task vectors, each entry from those that agree in sign."""
    assert chunk.base is not None  # the method requires a base
    *_, weights, scale = chunk.coefficients
    return elect(chunk.base, list(_vectors(chunk)), weights, scale[0], bool(chunk.flags[0]))


def band(count: int, density: float, gamma: float) -> tuple[int, int]:
    """How many of the largest entries are dropped, and how many are kept after them.

    int(gamma * n) of the largest are dropped, and as many of the smallest as leave int(density * n); where that is more
    than are left, fewer of the largest are dropped.

    Args:
        count: n.
        density: in (0, 1).
        gamma: in [0, 1].
    """
    kept = int(density * count)
    return min(int(gamma * count), count - kept), kept


def _bands(operands: Operands) -> tuple[list[float], list[float], list[float]]:
    """The least and the largest magnitude that is kept, and what ties with them, and the factor of each model."""
    lows, highs, factors = [], [], []
    each = zip(*(operands.each[name] for name in ("density", "gamma", "weight")), strict=True)
    for place, (density, gamma, weight) in enumerate(each):
        low, high, factor = 0.0, math.inf, float(density > 0.0)
        if 0.0 < density < 1.0:
            assert operands.base is not None  # the method requires a base
            dropped, kept = band(operands.base.numel(), density, gamma)
            if not kept:
                low = math.inf
            elif not dropped:
                (low,) = of_ranks(operands, place, kept)
            else:
                low, high = of_ranks(operands, place, dropped + kept, dropped + 1)
            if operands.shared["rescale"]:
                factor = norm_ratio(operands.base, operands.models[place], low, high, operands.device)
        lows.append(low)
        highs.append(high)
        factors.append(weight * factor)
    return lows, highs, factors


def _vectors(chunk: Chunk) -> Iterator[Tensor]:
    assert chunk.base is not None
    bands = zip(*(values.unbind() for values in chunk.coefficients[:3]), strict=True)
    for model, (low, high, factor) in zip(chunk.models, bands, strict=True):
        vector = model - chunk.base
        magnitude = vector.abs()
        kept = (magnitude >= low) & (magnitude <= high)
        yield vector * (kept * factor)  # a product: NaN and Inf come through where they are dropped, too


def _parameters() -> tuple[Parameter, ...]:
    gamma = Parameter(
        "gamma",
        "float",
        0.01,
        "fraction of the task vector's entries, the largest, that are dropped",
        low=0.0,
        high=1.0,
        search=(0.0, 0.05),
        per_model=True,
    )
    return (*parameters(normalize=False, rescale=False, sparse=True), gamma)


BREADCRUMBS = Method(
    name="breadcrumbs",
    parameters=_parameters(),
    base="required",
    min_models=0,
    max_models=None,
    settle=settle_linear,
    combine=combine_linear,
    summary="task vectors without their largest and smallest entries, added to the base",
    source="arXiv 2312.06795",
)

BREADCRUMBS_TIES = Method(
    name="breadcrumbs_ties",
    parameters=_parameters(),
    base="required",
    min_models=0,
    max_models=None,
    settle=settle,
    combine=combine_ties,
    summary="task vectors without their largest and smallest entries, added where they agree in sign",
    source="arXiv 2312.06795",
)
