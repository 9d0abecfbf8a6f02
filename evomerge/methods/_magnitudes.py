"""The k-th largest magnitude of a task vector, exactly, in memory that does not grow with the tensor.

A float32 that is not negative orders like the integer of its bits. So the upper half of the bits picks one of 2**15
bins, whose counts depend on the sources alone, and one more pass over the tensor finds the lower half.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.methods._method import accumulator, chunks, fetch

SORT_UP_TO = 1 << 20  # elements whose sorted magnitudes are small enough to keep


@dataclass(frozen=True)
class Magnitudes:
    """Order statistics of |model - base|.

    Attributes:
        count: n, the number of elements.
        ascending: (n,) float32, sorted; None for a large tensor.
        upper: (2**15,) int64, how many magnitudes have these upper 16 bits; None for a small tensor.
        device: where to compute.
    """

    count: int
    ascending: Tensor | None
    upper: Tensor | None
    device: torch.device

    def threshold(self, density: float, base: Tensor, model: Tensor) -> float:
        """The max(1, int(density * n))-th largest magnitude; 0 if there are no elements."""
        rank = max(1, int(density * self.count))
        if self.ascending is not None:
            return float(self.ascending[self.count - rank]) if self.count else 0.0
        assert self.upper is not None
        upper, rank = _bin_of(self.upper, rank)
        lower = torch.zeros(1 << 16, dtype=torch.int64, device=self.device)
        for magnitudes in _magnitudes(base, model, self.device):
            bits = magnitudes.view(torch.int32)
            lower += torch.bincount(bits[bits >> 16 == upper] & 0xFFFF, minlength=1 << 16)
        bits = torch.tensor((upper << 16) | _bin_of(lower, rank)[0], dtype=torch.int32)
        return float(bits.view(torch.float32))


def measure(base: Tensor, model: Tensor, device: torch.device) -> Magnitudes:
    """Order statistics of the task vector of two flat tensors, each (n,)."""
    count = base.numel()
    if count <= SORT_UP_TO:
        pieces = list(_magnitudes(base, model, device))
        ascending = torch.cat(pieces).sort().values if pieces else torch.empty(0)
        return Magnitudes(count, ascending.cpu(), None, device)
    upper = torch.zeros(1 << 15, dtype=torch.int64, device=device)
    for magnitudes in _magnitudes(base, model, device):
        upper += torch.bincount(magnitudes.view(torch.int32) >> 16, minlength=1 << 15)
    return Magnitudes(count, None, upper.cpu(), device)


def norm_ratio(base: Tensor, model: Tensor, threshold: float, device: torch.device) -> float:
    """L1 norm of the task vector over that of its entries not below the threshold; 1 if either is next to zero."""
    wide = accumulator(device)
    sums = torch.zeros(2, dtype=wide, device=device)  # read once, at the end: to read is to wait for the device
    for magnitudes in _magnitudes(base, model, device, to_sum=True):
        sums[0] += magnitudes.sum(dtype=wide)
        sums[1] += (magnitudes * (magnitudes >= threshold)).sum(dtype=wide)
    total, kept = sums.tolist()
    return total / kept if min(total, kept) >= 1e-7 else 1.0


def _magnitudes(base: Tensor, model: Tensor, device: torch.device, *, to_sum: bool = False) -> Iterator[Tensor]:
    for piece in chunks(base.numel(), device, to_sum=to_sum):
        yield (fetch(model, piece, device) - fetch(base, piece, device)).abs_()


def _bin_of(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds the rank-th largest value, and the value's rank within it."""
    from_the_top = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_the_top, rank))
    above = int(from_the_top[place - 1]) if place else 0
    return counts.numel() - 1 - place, rank - above
