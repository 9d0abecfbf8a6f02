"""Weighted mean of weights.

References:
    Wortsman et al., Model soups, arXiv 2203.05482.
"""

from collections.abc import Sequence

from torch import Tensor

from evomerge.errors import RecipeError
from evomerge.methods._method import Method, Operands, Parameter


def settle(operands: Operands) -> tuple[float, ...]:
    """The weight of each model, divided by their sum if `normalize`.

    Raises:
        RecipeError: the weights sum to zero and are to be normalized.
    """
    weights = operands.each["weight"]
    if not operands.shared["normalize"]:
        return weights
    total = sum(weights)
    if abs(total) < 1e-8:
        raise RecipeError(
            "weights sum to zero",
            where=operands.name,
            found=", ".join(f"{weight:g}" for weight in weights),
            remedy="change a weight, or set normalize: false",
        )
    return tuple(weight / total for weight in weights)


def combine(base: Tensor | None, models: Sequence[Tensor], weights: tuple[float, ...], offset: int) -> Tensor:
    """sum_i weight_i * model_i."""
    merged = models[0] * weights[0]
    for model, weight in zip(models[1:], weights[1:], strict=True):
        merged += model * weight
    return merged


LINEAR = Method(
    name="linear",
    parameters=(
        Parameter("weight", "float", None, "share of the model", search=(0.0, 1.0), per_model=True),
        Parameter("normalize", "bool", True, "divide the weights by their sum"),
    ),
    base="unused",
    min_models=1,
    max_models=None,
    settle=settle,
    combine=combine,
    summary="weighted mean of the models",
    source="arXiv 2203.05482",
)
