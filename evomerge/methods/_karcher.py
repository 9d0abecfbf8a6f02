"""The Karcher mean of directions: the point of the sphere with the least sum of squared angles to them.

References:
    Wang, Ye, Yin, Functionality-oriented LLM merging on the Fisher-Rao manifold, arXiv 2603.04972 (spherical proxy).
"""

import math
from operator import mul

from evomerge.methods._gram import SHORTEST, combine, length, measure_whole, norms, settled_whole
from evomerge.methods._method import Coefficients, Method, Operands, Parameter


def settle(operands: Operands) -> Coefficients:
    """(mean of norms) * m, where m is the Karcher mean of v_i / |v_i|, as factors of the models v_i.

    A model whose norm is not above `tol` has no direction, but its norm counts.
    """
    count = len(operands.models)
    if count == 1:
        return settled_whole(operands, [1.0])
    gram = measure_whole(operands)
    lengths = norms(gram)
    scale = sum(lengths) / count
    if not math.isfinite(scale):
        return settled_whole(operands, [scale] * count)  # reaches the output, where it is reported
    max_iter, tol = int(operands.shared["max_iter"]), operands.shared["tol"]
    pointing = [place for place in range(count) if lengths[place] > tol]
    cosines = [[gram[i][j] / (lengths[i] * lengths[j]) for j in pointing] for i in pointing]
    factors = [0.0] * count
    for place, factor in zip(pointing, mean_direction(cosines, max_iter, tol), strict=True):
        factors[place] = scale * factor / lengths[place]
    return settled_whole(operands, factors)


def mean_direction(cosines: list[list[float]], max_iter: int, tol: float) -> list[float]:
    """The Karcher mean of k unit vectors, as their combination.

    Each step goes along the mean of the vectors' logarithms, m <- exp_m(1/k sum_i log_m(u_i)), where
    log_m(u) = a / sin(a) * (u - cos(a) m), a the angle between m and u, and exp_m(v) = cos|v| m + sin|v| v / |v|.

    Args:
        cosines: k x k, of the angles between them.
        max_iter: the most steps.
        tol: angles and steps below are zero.
    """
    if not cosines:
        return []
    count = len(cosines)
    mean = [1.0 / count] * count
    size = length(mean, cosines)
    # Vectors that cancel have no mean direction; the first is as good a start as any.
    mean = [1.0] + [0.0] * (count - 1) if size < max(tol, SHORTEST) else [factor / size for factor in mean]
    for _ in range(max_iter):
        step, along_mean = [0.0] * count, 0.0
        for place, row in enumerate(cosines):
            cosine = max(-1.0, min(1.0, sum(map(mul, row, mean))))
            angle = math.acos(cosine)
            if angle >= tol and math.sin(angle) >= SHORTEST:  # no shortest way leads to the opposite point
                step[place] = angle / math.sin(angle) / count
                along_mean += step[place] * cosine
        step = [factor - along_mean * of_mean for factor, of_mean in zip(step, mean, strict=True)]
        size = length(step, cosines)
        if size < tol:
            break
        mean = [math.cos(size) * m + math.sin(size) / size * s for m, s in zip(mean, step, strict=True)]
        size = length(mean, cosines)
        mean = [factor / size for factor in mean]
    return mean


KARCHER = Method(
    name="karcher",
    parameters=(
        Parameter("max_iter", "int", 10, "the most steps of the iteration", low=0),
        Parameter("tol", "float", 1e-5, "norms, angles and steps below count as zero", low=0.0, open_low=True),
    ),
    base="unused",
    min_models=1,
    max_models=None,
    settle=settle,
    combine=combine,
    summary="the direction with the least squared angles to the models, at their mean length",
    source="arXiv 2603.04972",
)
