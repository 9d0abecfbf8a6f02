"""Drop entries at random and rescale the rest.

Which entries are dropped is a function of position: the same on any device, in any chunks, in any run. What is kept is
divided by the density, as in the paper; mergekit restores the L1 norm instead, which comes to the same on average.

References:
    Yu et al., Language models are super mario, arXiv 2311.03099.
    The hash is a 32-bit multiply-xorshift permutation, its constants from Wellons' hash-prospector.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TypeVar

import torch
from torch import Tensor

from evomerge.methods._method import Method, Operands, Parameter
from evomerge.methods._task_vectors import add, divisor, elect, parameters

Word = TypeVar("Word", int, Tensor)

_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Drop:
    """Coefficients of one tensor.

    Attributes:
        keys: of each task vector, the 32-bit key of its mask.
        densities: of each task vector, the chance that an entry is kept.
        factors: of each task vector, its weight times what makes up for the entries dropped.
        weights: of each task vector.
        scale: factor of the merged vector.
        normalize: divide by the weights that agree; not used where no sign is elected.
    """

    keys: tuple[int, ...]
    densities: tuple[float, ...]
    factors: tuple[float, ...]
    weights: tuple[float, ...]
    scale: float
    normalize: bool


def key(seed: int, number: int, tensor: str) -> int:
    """The 32-bit key of the mask of one tensor of the recipe's model of that number."""
    return int.from_bytes(blake2b(f"{seed}\0{number}\0{tensor}".encode(), digest_size=4).digest(), "little")


def kept(key: int, density: float, offset: int, count: int, device: torch.device) -> Tensor:
    """(count,) bool: which elements are kept, each with chance `density`.

    Args:
        key: 32 bits, from `key`.
        density: in (0, 1], taken to the nearest 2**-32.
        offset: place in the tensor of the first element.
        count: how many elements; they must not cross a multiple of 2**32.
        device: where the mask goes.
    """
    block, start = divmod(offset, 1 << 32)
    element = torch.arange(start, start + count, dtype=torch.int64, device=device)
    return _scramble(element ^ _scramble(_scramble(block) ^ key)) < round(density * 2**32)


def _scramble(word: Word) -> Word:
    """A permutation of the 32-bit words; no product exceeds 63 bits, so no device can round or wrap differently."""
    word = (word ^ (word >> 16)) * 0x21F0AAAD & _MASK
    word = (word ^ (word >> 15)) * 0x735A2D97 & _MASK
    return word ^ (word >> 15)


def settle(operands: Operands) -> Drop:
    """Keys and factors; `rescale` divides by the density, so that the expected task vector is the whole one."""
    densities, weights = operands.each["density"], operands.each["weight"]
    seed, rescale = int(operands.shared["random_seed"]), operands.shared["rescale"]
    return Drop(
        keys=tuple(key(seed, number, operands.name) for number in operands.numbers),
        densities=densities,
        factors=tuple(w / d if rescale else w for w, d in zip(weights, densities, strict=True)),
        weights=weights,
        scale=operands.shared["lambda"],
        normalize=bool(operands.shared["normalize"]),
    )


def settle_linear(operands: Operands) -> Drop:
    """As `settle`, with lambda and the normalization taken into the factors."""
    drop = settle(operands)
    scale = drop.scale / (divisor(operands) if drop.normalize else 1.0)
    return replace(drop, factors=tuple(factor * scale for factor in drop.factors))


def combine_linear(base: Tensor | None, models: Sequence[Tensor], drop: Drop, offset: int) -> Tensor:
    """base + sum_i factor_i * mask_i * (model_i - base)."""
    assert base is not None  # the method requires a base
    return add(base, _vectors(base, models, drop, offset))


def combine_ties(base: Tensor | None, models: Sequence[Tensor], drop: Drop, offset: int) -> Tensor:
    """The base plus the masked task vectors, each entry from those that agree in sign."""
    assert base is not None  # the method requires a base
    return elect(base, list(_vectors(base, models, drop, offset)), drop.weights, drop.scale, drop.normalize)


def _vectors(base: Tensor, models: Sequence[Tensor], drop: Drop, offset: int) -> Iterator[Tensor]:
    for model, key_, density, factor in zip(models, drop.keys, drop.densities, drop.factors, strict=True):
        vector = model - base
        if density < 1.0:
            vector *= kept(key_, density, offset, base.numel(), base.device)
        yield vector.mul_(factor)


_PARAMETERS = (
    *parameters(normalize=False, rescale=True, sparse=True),
    Parameter("random_seed", "int", 0, "chooses the entries that are dropped; mergekit ignores it", low=0, high=2**63),
)

DARE_LINEAR = Method(
    name="dare_linear",
    parameters=_PARAMETERS,
    base="required",
    min_models=1,
    max_models=None,
    settle=settle_linear,
    combine=combine_linear,
    summary="randomly thinned task vectors, rescaled and added to the base",
    source="arXiv 2311.03099",
)

DARE_TIES = Method(
    name="dare_ties",
    parameters=_PARAMETERS,
    base="required",
    min_models=1,
    max_models=None,
    settle=settle,
    combine=combine_ties,
    summary="randomly thinned task vectors, rescaled and added where they agree in sign",
    source="arXiv 2311.03099",
)
