"""Spherical linear interpolation between two models.

References:
    Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.methods._method import Method, Operands, Parameter, accumulator, chunks, fetch

DOT_THRESHOLD = 0.9995  # closer to parallel than this, the arc is taken as a straight line
EPSILON = 1e-8  # a shorter vector has no direction


@dataclass(frozen=True)
class Arc:
    """Euclidean norms of two flattened tensors, and their dot product."""

    norm_base: float
    norm_model: float
    dot: float


def measure(base: Tensor, model: Tensor, device: torch.device) -> Arc:
    """The arc between two flat tensors, each (n,), summed in float64 where the device has it."""
    wide = accumulator(device)
    sums = torch.zeros(3, dtype=wide, device=device)  # read once, at the end: to read is to wait for the device
    for piece in chunks(base.numel(), device, to_sum=True):
        x, y = fetch(base, piece, device).to(wide), fetch(model, piece, device).to(wide)
        sums += torch.stack([(x * x).sum(), (y * y).sum(), (x * y).sum()])
    square_base, square_model, dot = sums.tolist()
    return Arc(math.sqrt(square_base), math.sqrt(square_model), dot)


def settle(operands: Operands) -> tuple[float, float]:
    """The coefficients of base and model at `t`."""
    t = operands.shared["t"]
    arc: Arc = operands.statistic(0)
    lengths = [norm if norm > EPSILON else 1.0 for norm in (arc.norm_base, arc.norm_model)]
    cosine = arc.dot / (lengths[0] * lengths[1])
    if not abs(cosine) <= DOT_THRESHOLD:  # NaN too: it then reaches the output, where it is reported
        return 1.0 - t, t
    angle = math.acos(cosine)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def combine(base: Tensor | None, models: Sequence[Tensor], coefficients: tuple[float, float], offset: int) -> Tensor:
    """sin((1 - t) a) / sin(a) * base + sin(t a) / sin(a) * model, where a is the angle between them."""
    assert base is not None  # the method requires a base
    merged = base * coefficients[0]
    merged += models[0] * coefficients[1]
    return merged


SLERP = Method(
    name="slerp",
    parameters=(
        Parameter("t", "float", None, "0 gives the base, 1 the other model", low=0.0, high=1.0, search=(0.0, 1.0)),
    ),
    base="required",
    min_models=2,
    max_models=2,
    settle=settle,
    combine=combine,
    summary="along the arc from the base to the other model",
    source="Shoemake 1985",
    statistics=measure,
)
