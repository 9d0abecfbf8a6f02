"""Barycentric interpolation of directions on a sphere.

References:
    Goddard, Multi-SLERP, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea.
"""

from collections.abc import Mapping

from evomerge.errors import RecipeError
from evomerge.methods._gram import SHORTEST, combine, length, measure_whole, norms, settled_whole
from evomerge.methods._method import Coefficients, Method, Operands, Parameter, Value


def check(shared: Mapping[str, Value], each: Mapping[str, tuple[Value, ...]], where: str) -> None:
    """Refuse weights that are to be divided by their sum of zero.

    Raises:
        RecipeError: the weights of several models sum to zero.
    """
    weights = each["weight"]
    if shared["normalize_weights"] and len(weights) > 1 and abs(sum(weights)) < 1e-8:
        found = ", ".join(f"{weight:g}" for weight in weights)
        remedy = "change a weight, or set normalize_weights: false"
        raise RecipeError("weights sum to zero", where=where, found=found, remedy=remedy)


def settle(operands: Operands) -> Coefficients:
    """(sum_j w_j |v_j|) * m / |m|, where m = sum_i w_i * v_i / |v_i|, for models or task vectors v.

    The definition goes on from m / |m| in its tangent space, by the weighted sum of what the directions are there. But
    m is that very sum, so it has no part in the space that is orthogonal to it: the step is zero.

    Raises:
        RecipeError: the directions of more than two models cancel.
    """
    weights, eps = operands.each["weight"], operands.shared["eps"]
    if len(weights) == 1:
        return settled_whole(operands, [1.0])
    total = sum(weights) if operands.shared["normalize_weights"] else 1.0
    weights = tuple(weight / total for weight in weights)
    gram = measure_whole(operands)
    lengths = norms(gram)
    mean = [w / (norm + eps) if norm != 0 else 0.0 for w, norm in zip(weights, lengths, strict=True)]
    mean_length = length(mean, gram)
    if mean_length < max(eps, SHORTEST):
        if len(weights) > 2 and any(lengths):
            raise RecipeError("the models cancel each other", where=operands.name, remedy="change a weight")
        return settled_whole(operands, weights)
    scale = sum(w * norm for w, norm in zip(weights, lengths, strict=True)) / mean_length
    return settled_whole(operands, [scale * factor for factor in mean])


MULTISLERP = Method(
    name="multislerp",
    parameters=(
        Parameter("weight", "float", None, "share of the model", search=(0.0, 1.0), per_model=True),
        Parameter("normalize_weights", "bool", True, "divide the weights by their sum"),
        Parameter("eps", "float", 1e-8, "added to each norm; a shorter mean direction is none", low=0.0),
    ),
    base="optional",
    min_models=1,
    max_models=None,
    check=check,
    settle=settle,
    combine=combine,
    summary="the mean direction of models, or of task vectors, at their mean length",
    source="goddard.blog/posts/multislerp-wow-what-a-cool-idea",
)
