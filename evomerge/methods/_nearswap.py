"""The other model where it is near to the base.

References:
    alchemonaut, QuartetAnemoi-70B-t0.0001, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001.
"""

from torch import Tensor

from evomerge.methods._method import Chunk, Coefficients, Method, Operands, Parameter

_NEAREST = 1e-6  # no distance counts as less, as in mergekit


def settle(operands: Operands) -> Coefficients:
    """The distance up to which the other model is taken."""
    return Coefficients((operands.tensor(operands.shared["t"])[0],))


def combine(chunk: Chunk) -> Tensor:
    """s * model + (1 - s) * base, where s = min(1, t / |model - base|)."""
    assert chunk.base is not None  # the method requires a base
    (model,), (t,) = chunk.models, chunk.coefficients
    share = (t / (chunk.base - model).abs().clamp(min=_NEAREST)).clamp(max=1.0)  # a clamp lets NaN through
    return share * model + (1.0 - share) * chunk.base


NEARSWAP = Method(
    name="nearswap",
    parameters=(
        Parameter(
            "t", "float", None, "distance up to which an entry is the other model's", low=0.0, search=(0.0, 0.01)
        ),
    ),
    base="required",
    min_models=1,
    max_models=1,
    settle=settle,
    combine=combine,
    summary="entries of the other model where they are near to the base's, else moved towards them",
    source="alchemonaut/QuartetAnemoi-70B-t0.0001",
)
