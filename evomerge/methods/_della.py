"""Drop entries at random, the small ones more often, and rescale the rest (MagPrune).

The chance that an entry is kept grows with its rank within its row, from density - epsilon to density + epsilon, by
equal steps. Which entries are dropped is a function of position, as in DARE. What is kept is divided by its chance, as
in the paper, so that the expected task vector is the whole one; mergekit restores the L1 norm instead. Rows run along
the last dimension (mergekit's along the second, which is the same for matrices); a tensor of one dimension is one row.

References:
    Deep et al., DELLA-Merging, arXiv 2406.11617; epsilon as in mergekit, half of the paper's.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from evomerge.errors import RecipeError
from evomerge.methods._dare import SEED, salt, scramble
from evomerge.methods._magnitudes import task_vector
from evomerge.methods._method import BASE, Chunk, Coefficients, Method, Operands, Parameter, Value, columns_of
from evomerge.methods._task_vectors import add, divisor, elect, parameters

_BLOCK = 1 << 18  # elements that are ranked at a time, or one row


def check(shared: Mapping[str, Value], each: Mapping[str, tuple[Value, ...]], where: str) -> None:
    """Refuse chances that are none.

    Raises:
        RecipeError: density - epsilon or density + epsilon is outside (0, 1), and density is neither 0 nor 1.
    """
    for density, epsilon in zip(each["density"], each["epsilon"], strict=True):
        if 0.0 < density < 1.0 and not (density - epsilon > 0.0 and density + epsilon < 1.0):
            raise RecipeError(
                "epsilon too large for the density",
                where=where,
                expected="density - epsilon and density + epsilon in (0, 1)",
                found=f"density {density:g}, epsilon {epsilon:g}",
                remedy=f"set epsilon below {min(density, 1.0 - density):g}",
            )


def ranks(vectors: tuple[Tensor, ...], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """(b, n) uint8: the rank of each entry of the task vector of two flat tensors (base, model); see `rank`."""
    base, model = vectors
    columns = columns_of(shape)
    return rank(base, model, columns, slice(0, base.numel() // columns), device)


def rank(base: Tensor, model: Tensor, columns: int, rows: slice, device: torch.device) -> Tensor:
    """(b, r * columns) uint8 on the device: the ranks of some rows' entries, from 0, as bytes, the lowest first.

    Bytes, because the compiler vectorizes no integers of 16 bits, and those of 32 take twice the memory.

    Args:
        base, model: (n,), whole rows.
        columns: the length of a row. Of its entries the one of least magnitude has rank 0; of those of one magnitude
            the earlier has the lower rank.
        rows: which rows.
        device: where to compute.
    """
    found = torch.empty(bytes_of(columns), (rows.stop - rows.start) * columns, dtype=torch.uint8, device=device)
    vector, step = task_vector(base, model, device), max(1, _BLOCK // columns)
    place = torch.arange(columns, device=device)
    in_order = [(place >> 8 * number).to(torch.uint8) for number in range(len(found))]
    for first in range(rows.start, rows.stop, step):
        piece = slice(first * columns, min(first + step, rows.stop) * columns)
        bits = vector(piece).abs_().view(torch.int32)
        keys = (bits.view(-1, columns).long() << 32) | place
        if device.type == "cpu":
            keys.numpy().sort(axis=1)  # in place, and a tenth of the time of torch's sort
        else:
            keys = keys.sort(dim=1).values
        here = slice(piece.start - rows.start * columns, piece.stop - rows.start * columns)
        for byte, of_rank in zip(found, in_order, strict=True):
            byte[here].view(-1, columns).scatter_(1, keys & 0xFFFFFFFF, of_rank.expand(keys.shape))
    return found


def bytes_of(columns: int) -> int:
    """How many bytes a rank has, in rows of that length."""
    return max(1, -(-(columns - 1).bit_length() // 8))


def settle(operands: Operands) -> Coefficients:
    """Salts, weights and lambda; the ranks as fields."""
    return _settle(operands, 1.0, (operands.shared["lambda"],))


def settle_linear(operands: Operands) -> Coefficients:
    """Salts, and factors that take in lambda and the normalization; the ranks as fields."""
    scale = operands.shared["lambda"] / (divisor(operands) if operands.shared["normalize"] else 1.0)
    return _settle(operands, scale)


def combine_linear(chunk: Chunk) -> Tensor:
    """base + sum_i factor_i * mask_i / chance_i * (model_i - base)."""
    assert chunk.base is not None  # the method requires a base
    return add(chunk.base, _vectors(chunk))


def combine_ties(chunk: Chunk) -> Tensor:
    """The base plus the masked task vectors, each entry from those that agree in sign."""
    assert chunk.base is not None  # the method requires a base
    *_, weights, scale = chunk.coefficients
    return elect(chunk.base, list(_vectors(chunk)), weights, scale[0], bool(chunk.flags[1]))


def kept(index: Tensor, salt: Tensor, chance: Tensor) -> Tensor:
    """Which elements are kept, bool: those whose hash, a number in [0, 1) of 24 bits, is below their chance.

    Args:
        index: int32, the low 32 bits of the elements' places.
        salt: () int32, from `_dare.salt`.
        chance: float32 in (0, 1], of the shape of `index`.
    """
    return ((scramble(index ^ salt) >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24 < chance


def steps_of_bytes(step: float, width: int) -> list[float]:
    """What each byte of a rank adds to the chance, the lowest first: 2 * width numbers, of 16 bits each.

    The last `width` are the steps to 16 bits, the first what these leave out. Their products with a byte are exact in
    float32: whether a compiler rounds them before it adds them, which on an accelerator it may not, is the same, and so
    is the mask.
    """
    steps = [step * 256.0**power for power in range(width)]
    coarse = [_short(each) for each in steps]
    return [*(_short(each - part) for each, part in zip(steps, coarse, strict=True)), *coarse]


def _short(number: float) -> float:
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(math.ldexp(mantissa, 16)), exponent - 16)


def _settle(operands: Operands, scale: float, *values: tuple[float, ...]) -> Coefficients:
    seed, device = int(operands.shared["random_seed"]), operands.device
    base, models = operands.base, operands.models  # not the operands: they hold on to what holds the fields
    assert base is not None  # the method requires a base
    salts = [salt(seed, number, operands.name, operands.block) for number in operands.numbers]
    columns = columns_of(operands.shape)
    width = bytes_of(columns)
    densities, epsilons = operands.each["density"], operands.each["epsilon"]
    chances = [_chances(*each, columns) for each in zip(densities, epsilons, strict=True)]
    lows, steps = [low for low, _ in chances], [step for _, step in chances]
    nbytes = base.numel() * width
    whole: list[Tensor | None] = [
        operands.measure_large(ranks, nbytes, BASE, place) if step else None for place, step in enumerate(steps)
    ]

    @lru_cache(maxsize=len(salts))  # pieces of one long row rank it once
    def ranked(place: int, first: int, last: int) -> Tensor:
        return rank(base, models[place], columns, slice(first, last), device)

    def field(place: int, piece: slice) -> Tensor:
        if not steps[place]:
            return torch.zeros(width, piece.stop - piece.start, dtype=torch.uint8, device=device)
        if (known := whole[place]) is not None:
            return known[:, piece]
        first, last = piece.start // columns, -(-piece.stop // columns)
        return ranked(place, first, last)[:, piece.start - first * columns : piece.stop - first * columns]

    def fields(piece: slice) -> tuple[Tensor, ...]:
        return tuple(byte for place in range(len(salts)) for byte in field(place, piece))

    flags = (bool(operands.shared["rescale"]), bool(operands.shared["normalize"]))
    words = torch.tensor(salts, dtype=torch.int32, device=device)
    pairs = zip(operands.each["weight"], densities, strict=True)
    factors = tuple(weight * scale if density > 0.0 else 0.0 for weight, density in pairs)
    numbers = (operands.tensor(*each) for each in (lows, factors, *values))
    of_bytes = operands.tensor(*(part for step in steps for part in steps_of_bytes(step, width)))
    return Coefficients((of_bytes.view(len(steps), 2, width), words, *numbers), flags, fields)


def _chances(density: float, epsilon: float, columns: int) -> tuple[float, float]:
    """The chance of rank 0, and the step from one rank to the next."""
    if density == 0.0:  # the weight is zero, and no chance divides it
        return 1.0, 0.0
    if density == 1.0 or columns == 1:
        return density, 0.0
    return density - epsilon, 2 * epsilon / (columns - 1)


def _vectors(chunk: Chunk) -> Iterator[Tensor]:
    assert chunk.base is not None
    assert chunk.index is not None
    each = zip(*(words.unbind() for words in chunk.coefficients[:4]), strict=True)
    width = len(chunk.fields) // max(1, len(chunk.models))
    for number, (model, (parts, salt_, low, factor)) in enumerate(zip(chunk.models, each, strict=True)):
        rank_ = [byte.float() for byte in chunk.fields[number * width :][:width]]
        chance = low + sum(byte * part for byte, part in zip(2 * rank_, parts.view(-1).unbind(), strict=True))
        share = factor / chance if chunk.flags[0] else factor
        mask = kept(chunk.index, salt_, chance) * share
        yield (model - chunk.base) * mask  # a product: NaN and Inf come through where they are dropped, too


def _parameters(*, normalize: bool) -> tuple[Parameter, ...]:
    shared = parameters(normalize=normalize, rescale=True, sparse=True)
    return (
        # Bounds within which density and epsilon go together.
        *(replace(each, search=(0.2, 0.8)) if each.name == "density" else each for each in shared),
        Parameter(
            "epsilon",
            "float",
            0.15,
            "how far the chance of the smallest and the largest entry is from the density",
            low=0.0,
            high=0.5,
            search=(0.0, 0.15),
            per_model=True,
        ),
        SEED,
    )


DELLA = Method(
    name="della",
    parameters=_parameters(normalize=True),
    base="required",
    min_models=0,
    max_models=None,
    check=check,
    settle=settle,
    combine=combine_ties,
    summary="task vectors thinned at random by magnitude, rescaled and added where they agree in sign",
    source="arXiv 2406.11617",
    positional=True,
)

DELLA_LINEAR = Method(
    name="della_linear",
    parameters=_parameters(normalize=False),
    base="required",
    min_models=0,
    max_models=None,
    check=check,
    settle=settle_linear,
    combine=combine_linear,
    summary="task vectors thinned at random by magnitude, rescaled and added to the base",
    source="arXiv 2406.11617",
    positional=True,
)
