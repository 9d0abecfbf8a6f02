"""Layers copied whole, scaled if asked."""

from torch import Tensor

from evomerge.methods._method import Chunk, Coefficients, Method, Operands, Parameter


def settle(operands: Operands) -> Coefficients:
    """The scale of the one model."""
    return Coefficients((operands.tensor(*operands.each["scale"]),))


def combine(chunk: Chunk) -> Tensor:
    """scale * model."""
    return chunk.models[0] * chunk.coefficients[0][0]


PASSTHROUGH = Method(
    name="passthrough",
    parameters=(Parameter("scale", "float", 1.0, "factor of the tensor", search=(0.5, 1.5), per_model=True),),
    base="unused",
    min_models=1,
    max_models=1,
    settle=settle,
    combine=combine,
    summary="one model's tensors as they are",
    source="mergekit",
)
