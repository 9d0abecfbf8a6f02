"""Linear combinations of models whose coefficients follow from inner products alone.

The inner products are measured once, on the task vectors themselves where there is a base (from those of the weights
they could not be told: nearly all digits would cancel). Whatever a method then does with directions, angles and norms
it does in the coefficients, in float64, without touching a tensor.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evomerge.methods._method import BASE, Chunk, Coefficients, Operands, accumulator, add_up, chunks, fetch
from evomerge.methods._task_vectors import add

Along = Literal["all", "rows", "columns"]

# A mean of unit vectors, or a component of one, that is shorter than this is what float64 rounding leaves of zero: its
# length is the root of a sum whose terms are good to 1e-16.
SHORTEST = 1e-7

_LEAST, _MOST = 1e-28, 1e28  # of the mean square of an element, for float32 to have room for the squares


@dataclass(frozen=True)
class Gram:
    """The statistic of all inner products between k vectors.

    Attributes:
        relative: the vectors are the differences of all other tensors from the first.
        along: what one vector is: a whole tensor; a row, along the last axis; or a column, along the first axis.
        quick: sum in float32 within a chunk: good to 1e-6, in half the time, where nothing hangs on whether vectors are
            nearly or fully parallel.
    """

    relative: bool
    along: Along = "all"
    quick: bool = False

    def __call__(self, tensors: tuple[Tensor, ...], shape: tuple[int, ...], device: torch.device) -> Tensor:
        """(k, k, g) float64 on the CPU, for the g vectors of each tensor; summed in float64 where the device has it.

        Vectors so short or long that float32 has no room for their squares are never summed in it.

        Args:
            tensors: each (n,), any floating dtype.
            shape: of the tensors before they were flattened.
            device: where to compute.
        """
        if self.quick:
            quick = self._products(tensors, shape, device, torch.float32)
            squares = quick.diagonal() * (quick.shape[-1] / max(1, math.prod(shape)))  # of an element, on average
            if ((squares > _LEAST) & (squares < _MOST)).all():
                return quick
        return self._products(tensors, shape, device, accumulator(device))

    def _products(
        self, tensors: tuple[Tensor, ...], shape: tuple[int, ...], device: torch.device, inner: torch.dtype
    ) -> Tensor:
        height, width = _matrix(shape, self.along)
        axis, groups = (0, width) if self.along == "columns" else (1, height)
        matrices = [tensor.view(height, width) for tensor in tensors]
        wide = accumulator(device)
        count = len(tensors) - self.relative
        sums = torch.zeros(count * (count + 1) // 2, groups, dtype=wide, device=device)
        for tile in _tiles(height, width, device):
            vectors = [fetch(matrix[tile], slice(None), device) for matrix in matrices]
            if self.relative:
                vectors = [vector - vectors[0] for vector in vectors[1:]]
            vectors = [vector.to(inner) for vector in vectors]
            # Not a dot product: how BLAS splits one depends on the number of threads.
            products = (x * y for row, x in enumerate(vectors) for y in vectors[: row + 1])
            sums[:, tile[1 - axis]] += torch.stack([_add_up(product, axis, wide) for product in products])
        row, column = torch.tril_indices(count, count).unbind()
        gram = torch.empty(count, count, groups, dtype=torch.float64)
        gram[row, column] = gram[column, row] = sums.cpu().double()
        return gram


def measure(operands: Operands, along: Along = "all") -> Tensor:
    """(k, k, g) float64: inner products of the models, or of their task vectors if there is a base; see `Gram`."""
    models = range(len(operands.models))
    if operands.base is None:
        gram: Tensor = operands.measure(Gram(relative=False, along=along), *models)
    else:
        gram = operands.measure(Gram(relative=True, along=along), BASE, *models)
    return gram


def measure_whole(operands: Operands) -> list[list[float]]:
    """k x k inner products of whole models, or of their task vectors if there is a base."""
    gram: list[list[float]] = measure(operands)[:, :, 0].tolist()
    return gram


def norms(gram: list[list[float]]) -> list[float]:
    """The lengths of the vectors."""
    return [math.sqrt(gram[place][place]) for place in range(len(gram))]


def length(factors: Sequence[float], gram: list[list[float]]) -> float:
    """The length of the sum of the vectors times their factors."""
    square = sum(
        a * b * entry for a, row in zip(factors, gram, strict=True) for b, entry in zip(factors, row, strict=True)
    )
    return math.sqrt(max(square, 0.0))


def settled(operands: Operands, factors: Tensor, along: Along) -> Coefficients:
    """Coefficients for `combine`.

    Args:
        operands: of the tensor.
        factors: (k, g) float64, of each model in each of g vectors.
        along: what a vector is, see `Gram`.
    """
    table = factors.to(torch.float32).to(operands.device)
    if along == "all":
        return Coefficients((table[:, 0],))
    _, width = _matrix(operands.shape, along)

    def fields(piece: slice) -> tuple[Tensor, ...]:
        first, last = piece.start // width, -(-piece.stop // width)
        spread = table[:, first:last, None] if along == "rows" else table[:, None, :]
        whole_rows = spread.expand(len(table), last - first, width).reshape(len(table), -1)
        return whole_rows[:, piece.start - first * width : piece.stop - first * width].unbind()

    return Coefficients(fields=fields)


def settled_whole(operands: Operands, factors: Sequence[float]) -> Coefficients:
    """Coefficients for `combine`: the factor of each model."""
    return Coefficients((operands.tensor(*factors),))


def combine(chunk: Chunk) -> Tensor:
    """base + sum_i factor_i * (model_i - base), or sum_i factor_i * model_i without a base."""
    factors = chunk.fields or chunk.coefficients[0].unbind()
    if chunk.base is not None:
        vectors = [(model - chunk.base) * factor for model, factor in zip(chunk.models, factors, strict=True)]
        return add(chunk.base, vectors)
    merged = chunk.models[0] * factors[0]
    for model, factor in zip(chunk.models[1:], factors[1:], strict=True):
        merged = merged + model * factor
    return merged


def _matrix(shape: tuple[int, ...], along: Along) -> tuple[int, int]:
    """Height and width of a tensor laid out so that its vectors are rows or columns."""
    if along == "all":
        return 1, math.prod(shape)
    if along == "rows":
        return math.prod(shape[:-1]), math.prod(shape[-1:])
    return math.prod(shape[:1]), math.prod(shape[1:])


def _tiles(height: int, width: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of tiles of a chunk at most, which cover the matrix."""
    for columns in chunks(width, device):
        size = next(chunks(height * width, device), slice(1)).stop
        step = max(1, size // (columns.stop - columns.start))
        for top in range(0, height, step):
            yield slice(top, min(top + step, height)), columns


def _add_up(tile: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
    """(m,) sums of rows (axis 1) or columns (axis 0), in an order that does not hang on the number of threads."""
    if axis == 0:  # torch adds up neighbouring columns in an order that hangs on which of them a thread has
        tile = tile.t().contiguous()
    if len(tile) > 1:  # and it splits rows over threads, but no row
        return tile.sum(1).to(dtype)
    return add_up(tile.flatten(), dtype).view(1)
