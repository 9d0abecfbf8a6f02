"""Layers copied whole, scaled if asked."""

from collections.abc import Sequence

from torch import Tensor

from evomerge.methods._method import Method, Operands, Parameter


def settle(operands: Operands) -> float:
    """The scale of the one model."""
    return operands.each["scale"][0]


def combine(base: Tensor | None, models: Sequence[Tensor], scale: float, offset: int) -> Tensor:
    """scale * model."""
    return models[0] * scale


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
