"""What the methods that add task vectors to a base have in common: their parameters and the two ways to add."""

from collections.abc import Iterable, Sequence

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
    """The base plus the sum of the vectors, all float32 and of one shape."""
    mixed = None
    for vector in vectors:
        mixed = vector if mixed is None else mixed + vector
    return base if mixed is None else mixed + base


def elect(base: Tensor, vectors: Sequence[Tensor], weights: Tensor, scale: Tensor, normalize: bool) -> Tensor:
    """Add, of each entry, only the vectors that agree with the sign of the sum (TIES, sections 3.2 and 3.3).

    Args:
        base: float32.
        vectors: weighted task vectors, each of the base's shape, float32.
        weights: (k,) the weight of each vector.
        scale: () factor of the merged vector.
        normalize: divide each entry by the weights of the vectors that agree there.
    """
    if not vectors:
        return base
    total = vectors[0]
    for vector in vectors[1:]:
        total = total + vector
    sign = (total >= 0) * 2.0 - 1.0  # of products, as everything here: eager, a selection takes ten times as long
    mixed = shares = None
    for vector, weight in zip(vectors, weights.unbind(), strict=True):
        along = vector * sign
        agreeing = along.relu()  # NaN comes through
        mixed = agreeing if mixed is None else mixed + agreeing
        if normalize:
            share = (along > 0) * weight
            shares = share if shares is None else shares + share
    assert mixed is not None  # there are vectors
    mixed = mixed * sign
    if shares is not None:
        mixed = mixed / (shares + (shares == 0))
    return mixed * scale + base
