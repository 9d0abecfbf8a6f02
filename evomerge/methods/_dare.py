"""Drop entries at random and rescale the rest.

Which entries are dropped is a function of position: the same on any device, in any chunks, in any run. What is kept is
divided by the density, as in the paper; mergekit restores the L1 norm instead, which comes to the same on average.

References:
    Yu et al., Language models are super mario, arXiv 2311.03099.
    The hash is a 32-bit multiply-xorshift permutation, its constants from Wellons' hash-prospector.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import TypeVar

import torch
from torch import Tensor

from evomerge.methods._method import Chunk, Coefficients, Method, Operands, Parameter
from evomerge.methods._task_vectors import add, divisor, elect, parameters

Word = TypeVar("Word", int, Tensor)


def salt(seed: int, number: int, tensor: str, block: int) -> int:
    """What the places in a block of 2**32 elements are mixed with, for one tensor of the recipe's model of that number.

    Returns:
        A signed 32-bit number.
    """
    key = int.from_bytes(blake2b(f"{seed}\0{number}\0{tensor}".encode(), digest_size=4).digest(), "little", signed=True)
    return scramble(scramble(_signed(block)) ^ key)


def limit(density: float) -> int:
    """The signed 32-bit number that a share of all, `density` in (0, 1] to the nearest 2**-32, does not exceed."""
    return max(1, round(density * 2**32)) - 1 - 2**31


def kept(index: Tensor, salt: Tensor, limit: Tensor) -> Tensor:
    """Which elements are kept: bool, of the shape of `index`.

    Args:
        index: int32, the low 32 bits of the elements' places.
        salt: () int32, from `salt`.
        limit: int32, from `limit`; () or of the shape of `index`.
    """
    return scramble(index ^ salt) <= limit


def scramble(word: Word) -> Word:
    """A permutation of the signed 32-bit words; products wrap, on every device and in Python."""
    word = _wrap((word ^ ((word >> 16) & 0xFFFF)) * 0x21F0AAAD)
    word = _wrap((word ^ ((word >> 15) & 0x1FFFF)) * 0x735A2D97)
    return word ^ ((word >> 15) & 0x1FFFF)


def _wrap(word: Word) -> Word:
    return _signed(word) if isinstance(word, int) else word


def _signed(word: int) -> int:
    return (word + 2**31) % 2**32 - 2**31


def settle(operands: Operands) -> Coefficients:
    """Salts, limits, factors; `rescale` divides by the density, so that the expected task vector is the whole one."""
    factors = _factors(operands)
    tensors = (*_masks(operands), operands.tensor(*factors), operands.tensor(*operands.each["weight"]))
    scale = operands.tensor(operands.shared["lambda"])
    return Coefficients((*tensors, scale), (bool(operands.shared["normalize"]),))


def settle_linear(operands: Operands) -> Coefficients:
    """Salts, limits and factors, with lambda and the normalization taken into the factors."""
    scale = operands.shared["lambda"] / (divisor(operands) if operands.shared["normalize"] else 1.0)
    factors = operands.tensor(*(factor * scale for factor in _factors(operands)))
    return Coefficients((*_masks(operands), factors))


def combine_linear(chunk: Chunk) -> Tensor:
    """base + sum_i factor_i * mask_i * (model_i - base)."""
    assert chunk.base is not None  # the method requires a base
    return add(chunk.base, _vectors(chunk))


def combine_ties(chunk: Chunk) -> Tensor:
    """The base plus the masked task vectors, each entry from those that agree in sign."""
    assert chunk.base is not None  # the method requires a base
    *_, weights, scale = chunk.coefficients
    return elect(chunk.base, list(_vectors(chunk)), weights, scale[0], bool(chunk.flags[0]))


def _factors(operands: Operands) -> list[float]:
    pairs = zip(operands.each["weight"], operands.each["density"], strict=True)
    rescale = operands.shared["rescale"]
    return [0.0 if density == 0.0 else weight / density if rescale else weight for weight, density in pairs]


def _masks(operands: Operands) -> tuple[Tensor, Tensor]:
    seed = int(operands.shared["random_seed"])
    salts = [salt(seed, number, operands.name, operands.block) for number in operands.numbers]
    limits = [limit(density) for density in operands.each["density"]]
    words = torch.tensor([salts, limits], dtype=torch.int32, device=operands.device)
    return words[0], words[1]


def _vectors(chunk: Chunk) -> Iterator[Tensor]:
    assert chunk.base is not None
    assert chunk.index is not None
    salts, limits, factors = (words.unbind() for words in chunk.coefficients[:3])
    for model, salt_, limit_, factor in zip(chunk.models, salts, limits, factors, strict=True):
        mask = kept(chunk.index, salt_, limit_) * factor
        yield (model - chunk.base) * mask  # a product: NaN comes through where it is dropped, too


SEED = Parameter(
    "random_seed", "int", 0, "chooses the entries that are dropped; mergekit ignores it", low=0, high=2**63
)
_PARAMETERS = (*parameters(normalize=False, rescale=True, sparse=True), SEED)

DARE_LINEAR = Method(
    name="dare_linear",
    parameters=_PARAMETERS,
    base="required",
    min_models=0,
    max_models=None,
    settle=settle_linear,
    combine=combine_linear,
    summary="randomly thinned task vectors, rescaled and added to the base",
    source="arXiv 2311.03099",
    positional=True,
)

DARE_TIES = Method(
    name="dare_ties",
    parameters=_PARAMETERS,
    base="required",
    min_models=0,
    max_models=None,
    settle=settle,
    combine=combine_ties,
    summary="randomly thinned task vectors, rescaled and added where they agree in sign",
    source="arXiv 2311.03099",
    positional=True,
)
