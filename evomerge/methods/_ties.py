"""Trim, elect sign, merge.

References:
    Yadav et al., TIES-Merging, arXiv 2306.01708.
"""

import math

import torch
from torch import Tensor

from evomerge.methods._magnitudes import norm_ratio, of_ranks
from evomerge.methods._method import Chunk, Coefficients, Method, Operands
from evomerge.methods._task_vectors import elect, parameters


def settle(operands: Operands) -> Coefficients:
    """Thresholds that keep max(1, int(density * n)) entries of each task vector, and all that tie with the last."""
    thresholds, factors = [], []
    for place, (density, weight) in enumerate(zip(operands.each["density"], operands.each["weight"], strict=True)):
        threshold, factor = 0.0, float(density > 0.0)
        if 0.0 < density < 1.0:
            assert operands.base is not None  # the method requires a base
            (threshold,) = of_ranks(operands, place, max(1, int(density * operands.base.numel())))
            if operands.shared["rescale"]:
                factor = norm_ratio(operands.base, operands.models[place], threshold, math.inf, operands.device)
        thresholds.append(threshold)
        factors.append(weight * factor)
    numbers = operands.tensor(operands.shared["lambda"], *thresholds, *factors, *operands.each["weight"])
    least, factor, weight = numbers[1:].view(3, len(factors))
    return Coefficients((least.view(torch.int32), factor, weight, numbers[0]), (bool(operands.shared["normalize"]),))


def combine(chunk: Chunk) -> Tensor:
    """The base plus the disjoint mean of the trimmed task vectors."""
    assert chunk.base is not None  # the method requires a base
    thresholds, factors, weights, scale = chunk.coefficients
    vectors = []
    for model, threshold, factor in zip(chunk.models, thresholds.unbind(), factors.unbind(), strict=True):
        bits = (model - chunk.base).view(torch.int32)
        drop = ((bits & 0x7FFFFFFF) - threshold) >> 31  # magnitudes order like their bits; NaN is above all
        vectors.append((bits & ~drop).view(torch.float32) * factor)
    return elect(chunk.base, vectors, weights, scale, bool(chunk.flags[0]))


TIES = Method(
    name="ties",
    parameters=parameters(normalize=True, rescale=False, sparse=True),
    base="required",
    min_models=0,
    max_models=None,
    settle=settle,
    combine=combine,
    summary="the largest entries of each task vector, averaged where they agree in sign",
    source="arXiv 2306.01708",
)
