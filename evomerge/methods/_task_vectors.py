"""What the methods that add task vectors to a base have in common: their parameters and the two ways to add."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from evomerge.methods._method import Operands, Parameter


def parameters(*, normalize: bool, rescale: bool, sparse: bool) -> tuple[Parameter, ...]:
    """mergekit's parameters of this family, with its defaults for `normalize` and `rescale`."""
    return (
        Parameter("weight", "float", None, "scale of the task vector", search=(0.0, 1.2), per_model=True),
        Parameter(
            "density",
            "float",
            1.0,
            "fraction of the task vector's entries that are kept",
            low=0.0,
            high=1.0,
            open_low=True,
            search=(0.1, 1.0) if sparse else None,
            per_model=True,
            inert=not sparse,
        ),
        Parameter("lambda", "float", 1.0, "scale of the merged task vector", search=(0.5, 1.5)),
        Parameter("normalize", "bool", normalize, "divide by the sum of the weights"),
        Parameter("rescale", "bool", rescale, "make up for the entries dropped", inert=not sparse),
        Parameter("int8_mask", "bool", False, "mergekit's precision of the sign mask; booleans here", inert=True),
    )


def divisor(operands: Operands) -> float:
    """The sum of the weights, or 1 where that is next to zero."""
    total = sum(operands.each["weight"])
    return 1.0 if abs(total) < 1e-8 else total


def add(base: Tensor, vectors: Iterable[Tensor]) -> Tensor:
    """base + sum of (m,) float32 vectors."""
    mixed = torch.zeros_like(base)
    for vector in vectors:
        mixed += vector
    return mixed.add_(base)


def elect(base: Tensor, vectors: Sequence[Tensor], weights: Sequence[float], scale: float, normalize: bool) -> Tensor:
    """Add, of each entry, only the vectors that agree with the sign of the sum (TIES, sections 3.2 and 3.3).

    Args:
        base: (m,) float32.
        vectors: weighted task vectors, each (m,) float32.
        weights: the weight of each vector.
        scale: factor of the merged vector.
        normalize: divide each entry by the weights of the vectors that agree there.
    """
    total = torch.zeros_like(base)
    for vector in vectors:
        total += vector
    majority = torch.where(total >= 0, 1.0, -1.0)
    mixed, shares = torch.zeros_like(base), torch.zeros_like(base)
    for vector, weight in zip(vectors, weights, strict=True):
        agrees = vector * majority > 0
        mixed += vector * agrees  # a product, not a selection: NaN must come through
        if normalize:
            shares += agrees * weight
    if normalize:
        mixed /= torch.where(shares == 0, 1.0, shares)
    return mixed.mul_(scale).add_(base)
