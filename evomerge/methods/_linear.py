"""Weighted mean of weights.

References:
    Wortsman et al., Model soups, arXiv 2203.05482.
"""

from collections.abc import Mapping

from torch import Tensor

from evomerge.errors import RecipeError
from evomerge.methods._method import Chunk, Coefficients, Method, Operands, Parameter, Value


def check(shared: Mapping[str, Value], each: Mapping[str, tuple[Value, ...]], where: str) -> None:
    """Refuse weights that are to be divided by their sum of zero.

    Raises:
        RecipeError: the weights sum to zero.
    """
    if shared["normalize"] and abs(sum(each["weight"])) < 1e-8:
        found = ", ".join(f"{weight:g}" for weight in each["weight"])
        remedy = "change a weight, or set normalize: false"
        raise RecipeError("weights sum to zero", where=where, found=found, remedy=remedy)


def settle(operands: Operands) -> Coefficients:
    """The weight of each model, divided by their sum if `normalize`."""
    weights = operands.each["weight"]
    total = sum(weights) if operands.shared["normalize"] else 1.0
    return Coefficients((operands.tensor(*(weight / total for weight in weights)),))


def combine(chunk: Chunk) -> Tensor:
    """sum_i weight_i * model_i."""
    weights = chunk.coefficients[0].unbind()
    merged = chunk.models[0] * weights[0]
    for model, weight in zip(chunk.models[1:], weights[1:], strict=True):
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
    check=check,
    settle=settle,
    combine=combine,
    summary="weighted mean of the models",
    source="arXiv 2203.05482",
)
