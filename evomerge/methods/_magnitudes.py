"""The quantile function of magnitudes, from one pass and in memory that hardly grows with the tensor.

A float32 that is not negative orders like the integer of its bits. Up to 2**16 magnitudes are counted as they are. Of
more, the upper 19 bits (8 of exponent, 11 of mantissa) pick a bin, and what falls into one bin is not told apart: the
entries within 2**-11 (relative) of the k-th largest tie with it, and ties are kept together. Differences of bfloat16
numbers mostly have no more bits than that.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.methods._method import accumulator, add_up, chunks, fetch

EXACT_UP_TO = 1 << 16  # elements whose magnitudes are counted one by one
_LOWER = 12  # bits of a magnitude that a bin leaves out
_AT_LEAST, _AT_MOST = 1 << 18, 1 << 30  # magnitudes that are counted in one table of 32-bit integers
_TABLES = 8  # of 2 MB each, filled at the same time


@dataclass(frozen=True)
class Magnitudes:
    """Order statistics of n magnitudes.

    Attributes:
        count: n.
        bins: (m,) int32 on the CPU, ascending: the bits of the least float32 of each bin that is not empty; or those of
            each magnitude.
        upto: (m,) int32, int64 if n >= 2**31: how many magnitudes lie in the bin and those below it.
        width: largest difference of bits within a bin: 0 if the bins are the magnitudes themselves.
    """

    count: int
    bins: Tensor
    upto: Tensor
    width: int

    def threshold(self, rank: int) -> float:
        """The least magnitude that ties with the `rank`-th largest, 1 <= rank <= n; 0 if there are no magnitudes."""
        return _float(self._bin(rank)) if self.count else 0.0

    def ceiling(self, rank: int) -> float:
        """The largest magnitude that ties with the `rank`-th largest, 1 <= rank <= n; 0 if there are no magnitudes."""
        return _float(self._bin(rank) | self.width) if self.count else 0.0

    @property
    def nonzero(self) -> int:
        """How many magnitudes are not zero; less than 2**-137 is, among more than are counted one by one."""
        place = int(torch.searchsorted(self.bins, self.width, right=True))
        return self.count - (int(self.upto[place - 1]) if place else 0)

    def exact(self, rank: int, values: Callable[[slice], Tensor], device: torch.device) -> float:
        """The `rank`-th largest magnitude itself, from one more pass where it may share its bin with others.

        Args:
            rank: 1 <= rank <= n.
            values, device: what gave these order statistics, as for `count_magnitudes`.
        """
        if not self.width:
            return self.threshold(rank)
        lowest = self._bin(rank)

        def inside(bits: Tensor) -> Tensor:
            return bits[(bits & ~self.width) == lowest] & self.width

        counts = _table(self.count, values, inside, self.width + 1, device)
        below = int(self.upto[self.bins == lowest]) - int(counts.sum())
        return _float(lowest | int(torch.searchsorted(counts.cumsum(0), self.count - rank - below, right=True)))

    def _bin(self, rank: int) -> int:
        return int(self.bins[torch.searchsorted(self.upto, self.count - rank, right=True)])


def quantiles(vectors: tuple[Tensor, ...], shape: tuple[int, ...], device: torch.device) -> Magnitudes:
    """Order statistics of the task vector |model - base| of two flat tensors (base, model), each (n,)."""
    base, model = vectors
    return count_magnitudes(base.numel(), lambda piece: _vector(base, model, piece, device), device)


def count_magnitudes(count: int, values: Callable[[slice], Tensor], device: torch.device) -> Magnitudes:
    """Order statistics of the magnitudes of any numbers; NaN is the largest.

    Args:
        count: n.
        values: of a slice of [0, n), (m,) float32 on the device; is overwritten.
        device: where it computes.
    """
    if count <= EXACT_UP_TO:
        pieces = [values(piece).abs_().view(torch.int32) for piece in chunks(count, device)]
        bits = torch.cat(pieces).cpu() if pieces else torch.empty(0, dtype=torch.int32)
        bits.numpy().sort()  # in place, and a tenth of the time of torch's sort
        return Magnitudes(count, bits, torch.arange(1, count + 1, dtype=torch.int32), 0)
    counts = _table(count, values, lambda bits: bits >> _LOWER, 1 << (31 - _LOWER), device)
    places = counts.nonzero().squeeze(1)
    upto = counts[places].cumsum(0)
    bins = places.int() << _LOWER
    return Magnitudes(count, bins, upto if count >= 1 << 31 else upto.int(), (1 << _LOWER) - 1)


def _table(
    count: int,
    values: Callable[[slice], Tensor],
    place: Callable[[Tensor], Tensor],
    size: int,
    device: torch.device,
) -> Tensor:
    """(size,) int64 on the CPU: how many places of each number the bits of `count` magnitudes have."""
    total = torch.zeros(size, dtype=torch.int64)
    rows = min(torch.get_num_threads(), _TABLES, -(-count // _AT_LEAST)) if device.type == "cpu" else 1
    one = torch.ones(1, dtype=torch.int32, device=device)
    for first in range(0, count, _AT_MOST):
        counts = torch.zeros(rows, size, dtype=torch.int32, device=device)
        for piece in chunks(min(_AT_MOST, count - first), device):
            bits = values(slice(first + piece.start, first + piece.stop)).abs_().view(torch.int32)
            places = place(bits).long()
            even = len(places) // rows * rows
            for part, table in ((places[:even].view(rows, -1), counts), (places[even:].view(1, -1), counts[:1])):
                table.scatter_add_(1, part, one.expand(part.shape))  # each row by a thread
        total += counts.sum(0).cpu()
    return total


def norm_ratio(base: Tensor, model: Tensor, low: float, high: float, device: torch.device) -> float:
    """L1 norm of the task vector over that of its entries of magnitude in [low, high]; 1 if either is next to zero."""
    wide = accumulator(device)

    def norms(piece: slice) -> Tensor:
        magnitudes = _vector(base, model, piece, device).abs_()
        kept = magnitudes * ((magnitudes >= low) & (magnitudes <= high))
        return torch.stack([add_up(each.to(wide), wide) for each in (magnitudes, kept)])

    sums = [norms(piece) for piece in chunks(base.numel(), device)]
    # Read once, at the end: to read is to wait for the device.
    total, kept = torch.stack(sums).sum(0).tolist() if sums else (0.0, 0.0)
    return total / kept if min(total, kept) >= 1e-7 else 1.0


def _vector(base: Tensor, model: Tensor, piece: slice, device: torch.device) -> Tensor:
    return fetch(model, piece, device) - fetch(base, piece, device)


def _float(bits: int) -> float:
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))
