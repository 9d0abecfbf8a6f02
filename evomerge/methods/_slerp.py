"""Spherical linear interpolation between two models.

References:
    Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985.
"""

import math

from torch import Tensor

from evomerge.methods._gram import Gram, norms
from evomerge.methods._method import BASE, Chunk, Coefficients, Method, Operands, Parameter

DOT_THRESHOLD = 0.9995  # closer to parallel than this, the arc is taken as a straight line
EPSILON = 1e-8  # a shorter vector has no direction


def settle(operands: Operands) -> Coefficients:
    """The coefficients of base and model at `t`."""
    t = operands.shared["t"]
    gram = operands.measure(Gram(relative=False, quick=True), BASE, 0)[:, :, 0].tolist()
    lengths = [norm if norm > EPSILON else 1.0 for norm in norms(gram)]
    cosine = gram[0][1] / (lengths[0] * lengths[1])
    if not abs(cosine) <= DOT_THRESHOLD:  # NaN too: it then reaches the output, where it is reported
        return Coefficients((operands.tensor(1.0 - t, t),))
    angle = math.acos(cosine)
    sine = math.sin(angle)
    return Coefficients((operands.tensor(math.sin((1.0 - t) * angle) / sine, math.sin(t * angle) / sine),))


def combine(chunk: Chunk) -> Tensor:
    """sin((1 - t) a) / sin(a) * base + sin(t a) / sin(a) * model, where a is the angle between them."""
    assert chunk.base is not None  # the method requires a base
    of_base, of_model = chunk.coefficients[0].unbind()
    return chunk.base * of_base + chunk.models[0] * of_model


SLERP = Method(
    name="slerp",
    parameters=(Parameter("t", "float", None, "0 gives the base, 1 the other model", search=(0.0, 1.0)),),
    base="required",
    min_models=1,
    max_models=1,
    settle=settle,
    combine=combine,
    summary="along the arc from the base to the other model",
    source="Shoemake 1985",
)
