"""Drop entries at random, the small ones more often, and rescale the rest (MagPrune).

The chance that an entry is kept grows with its rank within its row, from density - epsilon to density + epsilon, by
equal steps. Which entries are dropped is a function of position, as in DARE. What is kept is divided by its chance, as
in the paper, so that the expected task vector is the whole one; mergekit restores the L1 norm instead. Rows run along
the last dimension (mergekit's along the second, which is the same for matrices); a tensor of one dimension is one row.

References:
    Deep et al., DELLA-Merging, arXiv 2406.11617; epsilon as in mergekit, half of the paper's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from evomerge.errors import RecipeError
from evomerge.methods._dare import SEED, salt, scramble
from evomerge.methods._method import Chunk, Coefficients, Method, Operands, Parameter, Value, fetch
from evomerge.methods._task_vectors import add, divisor, elect, parameters

_BLOCK = 1 << 18  # elements that are ranked at a time, or one row


def check(shared: Mapping[str, Value], each: Mapping[str, tuple[Value, ...]], where: str) -> None:
    """Refuse chances that are none.

    Raises:
        RecipeError: density - epsilon or density + epsilon is outside (0, 1), and density is neither 0 nor 1.
    """
    for density, epsilon in zip(each["density"], each["epsilon"], strict=True):
        if 0.0 < density < 1.0 and not epsilon < min(density, 1.0 - density):
            raise RecipeError(
                "epsilon too large for the density",
                where=where,
                expected="density - epsilon and density + epsilon in (0, 1)",
                found=f"density {density:g}, epsilon {epsilon:g}",
                remedy=f"set epsilon below {min(density, 1.0 - density):g}",
            )


def chances(base: Tensor, model: Tensor, by_rank: Tensor, rows: slice, device: torch.device) -> Tensor:
    """(r * columns,) float32: the chance of each entry of some rows of a task vector to be kept.

    Args:
        base, model: (n,), whole rows of as many columns as `by_rank` is long.
        by_rank: (columns,) float32 on the device: the chances from the entry of least magnitude to that of the largest;
            of entries of one magnitude the earlier has the lower rank.
        rows: which rows.
        device: where to compute.
    """
    columns = len(by_rank)
    found = torch.empty((rows.stop - rows.start) * columns, dtype=torch.float32, device=device)
    step = max(1, _BLOCK // columns)
    place = torch.arange(columns, device=device)
    for first in range(rows.start, rows.stop, step):
        piece = slice(first * columns, min(first + step, rows.stop) * columns)
        bits = (fetch(model, piece, device) - fetch(base, piece, device)).abs_().view(torch.int32)
        keys = (bits.view(-1, columns).long() << 32) | place
        if device.type == "cpu":
            keys.numpy().sort(axis=1)  # in place, and a tenth of the time of torch's sort
        else:
            keys = keys.sort(dim=1).values
        here = found[piece.start - rows.start * columns : piece.stop - rows.start * columns].view(-1, columns)
        here.scatter_(1, keys & 0xFFFFFFFF, by_rank.expand(keys.shape))
    return found


def settle(operands: Operands) -> Coefficients:
    """Salts, weights and lambda; the chances as fields."""
    return _settle(operands, 1.0, (operands.shared["lambda"],))


def settle_linear(operands: Operands) -> Coefficients:
    """Salts, and factors that take in lambda and the normalization; the chances as fields."""
    scale = operands.shared["lambda"] / (divisor(operands) if operands.shared["normalize"] else 1.0)
    return _settle(operands, scale)


def combine_linear(chunk: Chunk) -> Tensor:
    """base + sum_i factor_i * mask_i / chance_i * (model_i - base)."""
    assert chunk.base is not None  # the method requires a base
    return add(chunk.base, _vectors(chunk))


def combine_ties(chunk: Chunk) -> Tensor:
    """The base plus the masked task vectors, each entry from those that agree in sign."""
    assert chunk.base is not None  # the method requires a base
    _, weights, scale = chunk.coefficients
    return elect(chunk.base, list(_vectors(chunk)), weights, scale[0], bool(chunk.flags[1]))


def kept(index: Tensor, salt: Tensor, chance: Tensor) -> Tensor:
    """Which elements are kept, bool: those whose hash, a number in [0, 1) of 24 bits, is below their chance.

    Args:
        index: int32, the low 32 bits of the elements' places.
        salt: () int32, from `_dare.salt`.
        chance: float32 in (0, 1], of the shape of `index`.
    """
    return ((scramble(index ^ salt) >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24 < chance


def _settle(operands: Operands, scale: float, *values: tuple[float, ...]) -> Coefficients:
    seed, device = int(operands.shared["random_seed"]), operands.device
    base, models = operands.base, operands.models  # not the operands: they hold on to what holds the fields
    salts = [salt(seed, number, operands.name, operands.block) for number in operands.numbers]
    columns = max(1, operands.shape[-1] if operands.shape else 1)
    by_rank = [
        _by_rank(density, epsilon, columns).to(device)
        for density, epsilon in zip(operands.each["density"], operands.each["epsilon"], strict=True)
    ]

    @lru_cache(maxsize=len(salts))  # pieces of one long row rank it once
    def ranked(place: int, first: int, last: int) -> Tensor:
        assert base is not None  # the method requires a base
        return chances(base, models[place], by_rank[place], slice(first, last), device)

    def fields(piece: slice) -> tuple[Tensor, ...]:
        first, last = piece.start // columns, -(-piece.stop // columns)
        here = slice(piece.start - first * columns, piece.stop - first * columns)
        return tuple(ranked(place, first, last)[here] for place in range(len(salts)))

    flags = (bool(operands.shared["rescale"]), bool(operands.shared["normalize"]))
    words = torch.tensor(salts, dtype=torch.int32, device=device)
    pairs = zip(operands.each["weight"], operands.each["density"], strict=True)
    factors = tuple(weight * scale if density > 0.0 else 0.0 for weight, density in pairs)
    return Coefficients((words, *(operands.tensor(*each) for each in (factors, *values))), flags, fields)


def _by_rank(density: float, epsilon: float, columns: int) -> Tensor:
    if density == 0.0:  # the weight is zero, and no chance divides it
        density = 1.0
    if density == 1.0 or columns == 1:
        return torch.full((columns,), density, dtype=torch.float32)
    return torch.linspace(density - epsilon, density + epsilon, columns, dtype=torch.float64).float()


def _vectors(chunk: Chunk) -> Iterator[Tensor]:
    assert chunk.base is not None
    assert chunk.index is not None
    salts, factors = (words.unbind() for words in chunk.coefficients[:2])
    for model, salt_, factor, chance in zip(chunk.models, salts, factors, chunk.fields, strict=True):
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
