"""Vocabulary tensors whose rows are put in the order of another vocabulary."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce

import torch
from torch import Tensor

from evomerge.recipe import ModelRef

ZERO, MEAN, PADDING = -1, -2, -3  # where a row comes from if not from one source

_BLOCK = 1 << 22  # elements that are gathered at a time


@dataclass(frozen=True)
class Rows:
    """How each row of a vocabulary tensor (tokens first, any further dimensions) is made for an output vocabulary.

    Two are equal if they make the same from the same tensors.

    Attributes:
        sources: model and name of each tensor that rows may come from.
        place: (V,) int64, on the CPU: a place in `sources`; or ZERO; or MEAN, of the rows that `members` gives; or
            PADDING, the mean of all other rows.
        row: (V,) int64, the row there; of no meaning for ZERO, MEAN and PADDING.
        members: (sources, V) int64, the row that each source has for a MEAN, or -1.
    """

    sources: tuple[tuple[ModelRef, str], ...]
    place: Tensor = field(compare=False, repr=False)
    row: Tensor = field(compare=False, repr=False)
    members: Tensor = field(compare=False, repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for table in (self.place, self.row, self.members):
            digest.update(table.numpy().tobytes())
        object.__setattr__(self, "digest", digest.hexdigest())

    def __len__(self) -> int:
        """The number of rows V."""
        return len(self.place)

    def keeps(self, place: int) -> bool:
        """Whether these are the first rows of the tensor at that place of `sources`, in their order."""
        return self._head == len(self) and int(self.place[0]) == place

    def take(self, read: Callable[[ModelRef, str], Tensor]) -> Tensor:
        """Make the tensor.

        Args:
            read: gives a tensor of `sources`, shape (n, ...) on the CPU; called once for each that is needed.

        Returns:
            (V, ...) in the widest dtype of the tensors that were needed; means are taken in float32, the padding's sum
            in float64. A view where the rows are the first of one tensor.
        """
        parts = {place: read(*self.sources[place]) for place in self._needed}
        if self._head == len(self):
            return parts[int(self.place[0])][: len(self)]
        dtype = reduce(torch.promote_types, (part.dtype for part in parts.values()))
        shape = next(iter(parts.values())).shape[1:]
        out = torch.zeros((len(self), *shape), dtype=dtype)
        if self._head:
            out[: self._head] = parts[int(self.place[0])][: self._head]
        for place, part in parts.items():
            wanted = self._head + (self.place[self._head :] == place).nonzero().squeeze(1)
            for block in _blocks(wanted, shape):
                out[block] = part[self.row[block]].to(dtype)
        means = (self.place == MEAN).nonzero().squeeze(1)
        for block in _blocks(means, shape):
            members = self.members[:, block]
            total = torch.zeros((len(block), *shape))
            for place in (members >= 0).any(1).nonzero().flatten().tolist():
                there = members[place] >= 0
                total[there] += parts[place][members[place][there]].float()
            count = (members >= 0).sum(0).reshape(-1, *(1 for _ in shape))
            out[block] = (total / count).to(dtype)
        padding = self.place == PADDING
        if padding.any():
            out[padding] = _mean(out, len(self) - int(padding.sum()))
        return out

    @cached_property
    def _head(self) -> int:
        """How many rows, from the first, are the first rows of one tensor, in their order."""
        same = (self.place == self.place[0]) & (self.place[0] >= 0) & (self.row == torch.arange(len(self)))
        return len(self) if bool(same.all()) else int(same.long().argmin())

    @cached_property
    def _needed(self) -> tuple[int, ...]:
        means = self.place == MEAN
        needed = tuple(
            place
            for place in range(len(self.sources))
            if bool((self.place == place).any()) or bool((self.members[place, means] >= 0).any())
        )
        return needed or (0,)  # whose shape and dtype the zeros have


def _blocks(rows: Tensor, shape: torch.Size) -> Sequence[Tensor]:
    """Parts of the first dimension that are rows of few elements in all, each row being of this shape."""
    return torch.split(rows, max(1, _BLOCK // max(1, shape.numel())))


def _mean(rows: Tensor, count: int) -> Tensor:
    """The sum of all rows over `count`; in float64, as its bits must not depend on the number of threads."""
    total = torch.zeros(rows.shape[1:], dtype=torch.float64)
    for block in _blocks(rows, rows.shape[1:]):
        total += block.sum(0, dtype=torch.float64)
    return (total / count).to(rows.dtype)
