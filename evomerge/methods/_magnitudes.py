"""Order statistics of magnitudes, exact, in memory that hardly grows with the tensor.

A float32 that is not negative orders like the integer of its bits. Up to 2**16 magnitudes are sorted. Of more, the
upper 19 bits (8 of exponent, 11 of mantissa) pick a bin. Differences of bfloat16 numbers mostly have no more bits than
that: the few that do are collected beside, and all ranks are known from one pass. Of others, such as float32, a second
pass over the tensor looks into the bin of a rank; a search sorts them once, where there is room to keep them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evomerge.methods._method import BASE, Operands, accumulator, add_up, chunks, fetch

SORTED_UP_TO = 1 << 16  # elements
_LOWER = 12  # bits of a magnitude that a bin leaves out
_WITHIN = (1 << _LOWER) - 1
_SHARE, _MOST = 16, 1 << 22  # one in so many elements, and so many of them, are collected beside the bins
_LAST = 4  # bins of 32 KB
_AT_LEAST, _AT_MOST = 1 << 18, 1 << 30  # magnitudes that are counted in one table of 32-bit integers
_TABLES = 8  # of 2 MB each, filled at the same time

Values = Callable[[slice], Tensor]


@dataclass(frozen=True)
class Magnitudes:
    """Order statistics of n magnitudes.

    Attributes:
        count: n.
        bits: (m,) int32 on the CPU, ascending: of each magnitude that there is; or, if `binned`, of the least float32
            of each bin that is not empty.
        upto: (m,) int32, int64 if n >= 2**31: how many magnitudes are not above that one or that bin.
        binned: whether what lies in one bin is not told apart.
        inside: of the bins that were looked into last, (4096,) how many magnitudes are not above each of theirs.
    """

    count: int
    bits: Tensor
    upto: Tensor
    binned: bool
    inside: dict[int, Tensor] = field(default_factory=dict)

    def of_rank(self, rank: int, values: Values, device: torch.device) -> float:
        """The `rank`-th largest magnitude, 1 <= rank <= n; 0 if there are no magnitudes.

        Args:
            rank: 1 for the largest.
            values, device: what gave these order statistics, as for `count_magnitudes`.
        """
        if not self.count:
            return 0.0
        below = self.count - rank  # so many others are not above it
        place = int(torch.searchsorted(self.upto, below, right=True))
        found = int(self.bits[place])
        if self.binned:
            before = int(self.upto[place - 1]) if place else 0
            found |= int(torch.searchsorted(self._look_into(found, values, device), below - before, right=True))
        return _float(torch.tensor(found, dtype=torch.int32))

    @property
    def nonzero(self) -> int:
        """How many magnitudes are not zero; less than 2**-137 counts as zero if these are binned."""
        least = _WITHIN if self.binned else 0
        place = int(torch.searchsorted(self.bits, least, right=True))
        return self.count - (int(self.upto[place - 1]) if place else 0)

    def _look_into(self, lowest: int, values: Values, device: torch.device) -> Tensor:
        if lowest not in self.inside:

            def bits(piece: slice) -> Tensor:
                found = _bits(values(piece))
                return found[(found & ~_WITHIN) == lowest] & _WITHIN

            if len(self.inside) == _LAST:
                self.inside.clear()
            self.inside[lowest] = _table(self.count, bits, _WITHIN + 1, device).cumsum(0)
        return self.inside[lowest]


def task_vector(base: Tensor, model: Tensor, device: torch.device) -> Values:
    """Of two flat tensors: slice -> model - base there, float32 on the device."""
    return lambda piece: fetch(model, piece, device) - fetch(base, piece, device)


def quantiles(vectors: tuple[Tensor, ...], shape: tuple[int, ...], device: torch.device) -> Magnitudes:
    """Order statistics of the task vector |model - base| of two flat tensors (base, model), each (n,)."""
    base, model = vectors
    return count_magnitudes(base.numel(), task_vector(base, model, device), device)


def in_order(vectors: tuple[Tensor, ...], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """(n,) int32: the bits of the magnitudes of a task vector, given as for `quantiles`, ascending."""
    base, model = vectors
    count, values = base.numel(), task_vector(base, model, device)
    bits = torch.empty(count, dtype=torch.int32, device=device)
    for piece in chunks(count, device):
        bits[piece] = _bits(values(piece))
    if device.type != "cpu":
        return bits.sort().values
    bits.numpy().sort()
    return bits


def of_ranks(operands: Operands, place: int, *ranks: int) -> list[float]:
    """The magnitudes of these ranks, 1 for the largest, in the task vector of the model at a place; 0 if it has none.

    What it takes to know them is kept for later recipes, as far as there is room.
    """
    assert operands.base is not None  # the method requires a base
    magnitudes: Magnitudes = operands.measure(quantiles, BASE, place)
    if magnitudes.binned:
        known: Tensor | None = operands.measure_large(in_order, 4 * magnitudes.count, BASE, place)
        if known is not None:
            return [_float(known[magnitudes.count - rank]) for rank in ranks]
    values = task_vector(operands.base, operands.models[place], operands.device)
    return [magnitudes.of_rank(rank, values, operands.device) for rank in ranks]


def count_magnitudes(count: int, values: Values, device: torch.device) -> Magnitudes:
    """Order statistics of the magnitudes of any numbers; NaN is the largest.

    Args:
        count: n.
        values: of a slice of [0, n), (m,) float32 on the device; is overwritten.
        device: where it computes.
    """
    if count <= SORTED_UP_TO:
        pieces = [_bits(values(piece)) for piece in chunks(count, device)]
        sorted_ = torch.cat(pieces).cpu() if pieces else torch.empty(0, dtype=torch.int32)
        sorted_.numpy().sort()  # in place, and a tenth of the time of torch's sort
        return Magnitudes(count, sorted_, torch.arange(1, count + 1, dtype=torch.int32), False)
    rest = _Rest(min(count // _SHARE, _MOST), device)
    counts = _table(count, lambda piece: rest.add(_bits(values(piece))) >> _LOWER, 1 << (31 - _LOWER), device)
    others, of_others = rest.counted()
    counts.index_add_(0, others >> _LOWER, -of_others)
    places = counts.nonzero().squeeze(1)
    bits, order = torch.cat([places.int() << _LOWER, others]).sort()
    upto = torch.cat([counts[places], of_others])[order].cumsum(0)
    return Magnitudes(count, bits, upto if count >= 1 << 31 else upto.int(), rest.overflowed)


class _Rest:
    """Magnitudes that are not the first of their bin, as long as they are few.

    Attributes:
        overflowed: they have become too many, and none is kept.
    """

    def __init__(self, most: int, device: torch.device) -> None:
        # In one piece: parts of it between temporaries would keep the heap from using the room of these again.
        self._bits = torch.empty(most, dtype=torch.int32, device=device)
        self._count = 0
        self.overflowed = False

    def add(self, bits: Tensor) -> Tensor:
        """Collect some of (m,) int32, which come back."""
        if not self.overflowed:
            part = bits[(bits & _WITHIN) != 0]
            end = self._count + len(part)
            self.overflowed = end > len(self._bits)
            if not self.overflowed:
                self._bits[self._count : end] = part
            self._count = 0 if self.overflowed else end
        return bits

    def counted(self) -> tuple[Tensor, Tensor]:
        """(u,) int32 and int64 on the CPU: those that differ, ascending, and how many there are of each."""
        every = self._bits[: self._count].cpu()
        every.numpy().sort()
        found, counts = torch.unique_consecutive(every, return_counts=True)
        return found, counts


def _table(count: int, places: Callable[[slice], Tensor], size: int, device: torch.device) -> Tensor:
    """(size,) int64 on the CPU: how many of the numbers that `places` gives of [0, count), below `size`, are which."""
    total = torch.zeros(size, dtype=torch.int64)
    rows = min(torch.get_num_threads(), _TABLES, -(-count // _AT_LEAST)) if device.type == "cpu" else 1
    one = torch.ones(1, dtype=torch.int32, device=device)
    for first in range(0, count, _AT_MOST):
        counts = torch.zeros(rows, size, dtype=torch.int32, device=device)
        for piece in chunks(min(_AT_MOST, count - first), device):
            found = places(slice(first + piece.start, first + piece.stop)).long()
            even = len(found) // rows * rows
            for part, table in ((found[:even].view(rows, -1), counts), (found[even:].view(1, -1), counts[:1])):
                table.scatter_add_(1, part, one.expand(part.shape))  # each row by a thread
        total += counts.sum(0).cpu()
    return total


def norm_ratio(base: Tensor, model: Tensor, low: float, high: float, device: torch.device) -> float:
    """L1 norm of the task vector over that of its entries of magnitude in [low, high]; 1 if either is next to zero."""
    wide, values = accumulator(device), task_vector(base, model, device)

    def norms(piece: slice) -> Tensor:
        magnitudes = values(piece).abs_()
        kept = magnitudes * ((magnitudes >= low) & (magnitudes <= high))
        return torch.stack([add_up(each.to(wide), wide) for each in (magnitudes, kept)])

    sums = [norms(piece) for piece in chunks(base.numel(), device)]
    # Read once, at the end: to read is to wait for the device.
    total, kept = torch.stack(sums).sum(0).tolist() if sums else (0.0, 0.0)
    return total / kept if min(total, kept) >= 1e-7 else 1.0


def _bits(values: Tensor) -> Tensor:
    return values.abs_().view(torch.int32)


def _float(bits: Tensor) -> float:
    return float(bits.view(torch.float32))
