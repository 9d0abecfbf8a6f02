"""The mean of fine-tuned models, drawn towards the base by how little their task vectors agree.

References:
    Jang, Yun, Han, Model Stock, arXiv 2403.19522.
"""

import torch

from evomerge.methods._gram import Along, combine, measure, settled
from evomerge.methods._method import Coefficients, Method, Operands, Parameter

_SHORTEST = 1e-6  # no product of norms counts as less, as in mergekit
_SINGULAR = 1e-6  # vectors that oppose each other so exactly leave the base


def settle(operands: Operands) -> Coefficients:
    """t / k of each of k task vectors, where t = k c / (1 + (k - 1) c) and c is the mean cosine between two of them."""
    along: Along = "rows" if operands.shared["filter_wise"] else "all"
    count = len(operands.models)
    gram = measure(operands, along)
    row, column = torch.tril_indices(count, count, -1).unbind()
    lengths = gram.diagonal().T.sqrt()
    products = (lengths[row] * lengths[column]).clamp(min=_SHORTEST)
    cosine = (gram[row, column] / products).clamp(-1.0, 1.0).mean(0)
    below = 1.0 + (count - 1) * cosine
    share = torch.where(below.abs() < _SINGULAR, 0.0, cosine / below)
    return settled(operands, share.expand(count, -1), along)


MODEL_STOCK = Method(
    name="model_stock",
    parameters=(Parameter("filter_wise", "bool", False, "one share for each row, not for the whole tensor"),),
    base="required",
    min_models=2,
    max_models=None,
    settle=settle,
    combine=combine,
    summary="the mean task vector, shortened by how little the task vectors agree",
    source="arXiv 2403.19522",
)
