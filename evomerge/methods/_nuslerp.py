"""Spherical linear interpolation between two models or their task vectors, whole or by rows or columns.

References:
    Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985; the variant is mergekit's.
"""

import torch

from evomerge.methods._gram import Along, combine, measure, settled
from evomerge.methods._method import Coefficients, Method, Operands, Parameter

_SHORTEST = 1e-7  # a shorter vector has no direction, as in mergekit
_STRAIGHT = 2.0**-24  # squared sine of an angle whose cosine is 1 or -1 in float32: the arc is taken as a straight line


def settle(operands: Operands) -> Coefficients:
    """sin((1 - t) a) / sin(a) and sin(t a) / sin(a), where a is the angle between the vectors, t the second's share."""
    first, second = operands.each["weight"]
    total = first + second
    t = 0.5 if abs(total) < 1e-6 else second / total
    along: Along = "all"
    if not operands.shared["nuslerp_flatten"]:
        along = "columns" if operands.shared["nuslerp_row_wise"] else "rows"
    gram = measure(operands, along)
    lengths = gram.diagonal().T.sqrt().clamp(min=_SHORTEST)
    cosine = (gram[0, 1] / lengths.prod(0)).clamp(-1.0, 1.0)
    straight = 1.0 - cosine.square() <= _STRAIGHT
    angle = cosine.acos()
    arc = torch.stack([((1.0 - t) * angle).sin(), (t * angle).sin()]) / angle.sin()
    line = torch.tensor([[1.0 - t], [t]], dtype=torch.float64)
    return settled(operands, torch.where(straight, line, arc), along)


NUSLERP = Method(
    name="nuslerp",
    parameters=(
        Parameter("weight", "float", None, "share of the model", search=(0.0, 1.0), per_model=True),
        Parameter("nuslerp_row_wise", "bool", False, "if not flattened: one arc per column, not per row"),
        Parameter("nuslerp_flatten", "bool", True, "one arc for the whole tensor"),
    ),
    base="optional",
    min_models=2,
    max_models=2,
    settle=settle,
    combine=combine,
    summary="along the arc between two models, or two task vectors",
    source="mergekit",
)
