"""Trim, elect sign, merge.

References:
    Yadav et al., TIES-Merging, arXiv 2306.01708.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from evomerge.methods._magnitudes import Magnitudes, measure, norm_ratio
from evomerge.methods._method import Method, Operands
from evomerge.methods._task_vectors import elect, parameters


@dataclass(frozen=True)
class Trim:
    """Coefficients of one tensor.

    Attributes:
        thresholds: of each task vector, the magnitude below which an entry is dropped.
        factors: of each task vector, its weight times what makes up for the entries dropped.
        weights: of each task vector.
        scale: lambda.
        normalize: divide by the weights that agree.
    """

    thresholds: tuple[float, ...]
    factors: tuple[float, ...]
    weights: tuple[float, ...]
    scale: float
    normalize: bool


def settle(operands: Operands) -> Trim:
    """Thresholds that keep max(1, int(density * n)) entries of each task vector, and all that tie with the last."""
    base = operands.base
    assert base is not None  # the method requires a base
    thresholds, factors = [], []
    for index, model in enumerate(operands.models):
        density, weight = operands.each["density"][index], operands.each["weight"][index]
        threshold, factor = 0.0, 1.0
        if density < 1.0:
            magnitudes: Magnitudes = operands.statistic(index)
            threshold = magnitudes.threshold(density, base, model)
            if operands.shared["rescale"]:
                factor = norm_ratio(base, model, threshold, operands.device)
        thresholds.append(threshold)
        factors.append(weight * factor)
    return Trim(
        tuple(thresholds),
        tuple(factors),
        operands.each["weight"],
        operands.shared["lambda"],
        bool(operands.shared["normalize"]),
    )


def combine(base: Tensor | None, models: Sequence[Tensor], trim: Trim, offset: int) -> Tensor:
    """The base plus the disjoint mean of the trimmed task vectors."""
    assert base is not None  # the method requires a base
    vectors = []
    for model, threshold, factor in zip(models, trim.thresholds, trim.factors, strict=True):
        vector = model - base
        if threshold > 0:
            vector *= vector.abs() >= threshold
        vectors.append(vector.mul_(factor))
    return elect(base, vectors, trim.weights, trim.scale, trim.normalize)


TIES = Method(
    name="ties",
    parameters=parameters(normalize=True, rescale=False, sparse=True),
    base="required",
    min_models=1,
    max_models=None,
    settle=settle,
    combine=combine,
    summary="the largest entries of each task vector, averaged where they agree in sign",
    source="arXiv 2306.01708",
    statistics=measure,
)
