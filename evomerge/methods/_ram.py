"""Average what several models changed, keep whole what one alone changed.

References:
    Yuan et al., Behavior Knowledge Merge in Reinforced Agentic Models, arXiv 2601.13572. ramplus_tl is RAM+ with the
    overlap of each tensor on its own, as in mergekit.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.methods._method import BASE, Chunk, Coefficients, Method, Operands, Parameter, chunks, fetch


def settle(operands: Operands) -> Coefficients:
    """The magnitude that counts as no change, and a factor of 1 for what one model alone changed."""
    epsilon = operands.tensor(operands.shared["epsilon"])
    return Coefficients((epsilon, operands.tensor(*(1.0 for _ in operands.models))))


def settle_plus(operands: Operands) -> Coefficients:
    """As `settle`, with factors 1 + r * min(alpha, shared_i / unique_i).

    shared_i counts the entries that model i and others changed, unique_i those that it alone did.
    """
    r, alpha = operands.shared["r"], operands.shared["alpha"]
    overlap = operands.measure(Overlap(operands.shared["epsilon"]), BASE, *range(len(operands.models)))
    factors = [1.0 + r * min(alpha, _ratio(*each)) for each in overlap or ((0, 0),) * len(operands.models)]
    return Coefficients((operands.tensor(operands.shared["epsilon"]), operands.tensor(*factors)))


def combine(chunk: Chunk) -> Tensor:
    """base + the mean of the task vectors with a larger entry than epsilon; times its factor if that is one alone."""
    assert chunk.base is not None  # the method requires a base
    count = total = alone = torch.zeros_like(chunk.base)
    epsilon, factors = chunk.coefficients
    for model, factor in zip(chunk.models, factors.unbind(), strict=True):
        vector = model - chunk.base
        changed = vector.abs() > epsilon
        vector = vector * changed  # a product: NaN comes through
        count = count + changed
        total = total + vector
        alone = alone + vector * factor
    several = count > 1
    return total / count.clamp(min=1.0) * several + alone * ~several + chunk.base


@dataclass(frozen=True)
class Overlap:
    """The statistic of how much of what a model changed others changed, too.

    Attributes:
        epsilon: the magnitude that counts as no change.
    """

    epsilon: float

    def __call__(
        self, tensors: tuple[Tensor, ...], shape: tuple[int, ...], device: torch.device
    ) -> tuple[tuple[int, int], ...]:
        """For each model, how many entries it and others changed, and how many it alone; the base comes first."""
        epsilon = torch.tensor(self.epsilon, dtype=torch.float32, device=device)

        def counts(piece: slice) -> Tensor:
            base, *models = (fetch(tensor, piece, device) for tensor in tensors)
            changed = [(model - base).abs() > epsilon for model in models]
            any_, several = changed[0], torch.zeros_like(changed[0])
            for each in changed[1:]:
                any_, several = any_ | each, several | (any_ & each)
            return torch.stack([torch.stack([(each & several).sum(), (each & ~several).sum()]) for each in changed])

        found = [counts(piece) for piece in chunks(tensors[0].numel(), device)] if len(tensors) > 1 else []
        # Read once, at the end: to read is to wait for the device.
        return tuple((shared, unique) for shared, unique in torch.stack(found).sum(0).tolist()) if found else ()


def _ratio(shared: int, unique: int) -> float:
    if not shared:
        return 0.0
    return shared / unique if unique else math.inf


_EPSILON = Parameter("epsilon", "float", 1e-5, "largest magnitude of an entry that counts as no change", low=0.0)

RAM = Method(
    name="ram",
    parameters=(_EPSILON,),
    base="required",
    min_models=0,
    max_models=None,
    settle=settle,
    combine=combine,
    summary="the mean of those task vectors that change an entry",
    source="arXiv 2601.13572",
)

RAMPLUS_TL = Method(
    name="ramplus_tl",
    parameters=(
        Parameter("r", "float", 0.1, "growth of what one model alone changed, over its overlap", search=(0.0, 1.0)),
        Parameter("alpha", "float", 0.2, "overlap beyond which nothing grows further", low=0.0, search=(0.0, 1.0)),
        _EPSILON,
    ),
    base="required",
    min_models=0,
    max_models=None,
    settle=settle_plus,
    combine=combine,
    summary="as ram, but what one model alone changes grows with the overlap of that model in the tensor",
    source="arXiv 2601.13572",
)
