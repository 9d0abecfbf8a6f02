"""Task vectors, scaled and added to the base.

References:
    Ilharco et al., Editing models with task arithmetic, arXiv 2212.04089.
"""

from torch import Tensor

from evomerge.methods._method import Chunk, Coefficients, Method, Operands
from evomerge.methods._task_vectors import add, divisor, parameters


def settle(operands: Operands) -> Coefficients:
    """The factor of each task vector."""
    scale = operands.shared["lambda"] / (divisor(operands) if operands.shared["normalize"] else 1.0)
    return Coefficients((operands.tensor(*(weight * scale for weight in operands.each["weight"])),))


def combine(chunk: Chunk) -> Tensor:
    """base + sum_i factor_i * (model_i - base)."""
    base, factors = chunk.base, chunk.coefficients[0].unbind()
    assert base is not None  # the method requires a base
    return add(base, ((model - base) * factor for model, factor in zip(chunk.models, factors, strict=True)))


TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    parameters=parameters(normalize=False, rescale=False, sparse=False),
    base="required",
    min_models=0,
    max_models=None,
    settle=settle,
    combine=combine,
    summary="the base plus the weighted sum of task vectors",
    source="arXiv 2212.04089",
)
