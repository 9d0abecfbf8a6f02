"""Batches: how many rows one forward pass takes. Fixed by the work and the machine, never by what ran before."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

FEWEST = 256  # tokens
MOST = {"cpu": 4096}  # tokens; beyond them a core gains nothing and leaves its caches
MOST_ELSEWHERE = 65536
SHARE = 1 / 8  # of the device's memory
CACHED = 8  # a cached token takes this much less than one that is computed


@dataclass(frozen=True)
class BatchSize:
    """How large a batch may be.

    Attributes:
        rows: a fixed number of rows, or None.
        tokens: how many tokens a batch computes when rows is None, padding included.
        divided: by how much out-of-memory has made both smaller, a power of 2.
    """

    rows: int | None
    tokens: int
    divided: int = 1

    def halved(self) -> "BatchSize":
        """What to try after running out of memory."""
        return replace(self, divided=2 * self.divided)

    def cut(self, lengths: Sequence[int], cached: int = 0) -> Iterator[slice]:
        """Cut rows into batches.

        Args:
            lengths: tokens computed for each row, longest first.
            cached: tokens that every row only reads.
        """
        start = 0
        while start < len(lengths):
            longest = lengths[start]
            room = min(self.tokens // longest, CACHED * self.tokens // (cached + longest))
            rows = max(1, (self.rows or room) // self.divided)
            yield slice(start, start + rows)
            start += rows


def batch_size(wanted: int | str, model: Any) -> BatchSize:
    """The batch size that a suite asks for.

    `auto` counts what a token takes while it is in a layer and in the logits, and the memory of the device as built,
    not what is free of it: equal machines make equal batches.

    Args:
        wanted: rows per batch, or `auto`.
        model: a transformers model on its device.
    """
    if wanted != "auto":
        return BatchSize(int(wanted), 0)
    config = model.config.get_text_config(decoder=True)
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    inner = inner if isinstance(inner, int) else max(inner)
    layers = getattr(config, "num_hidden_layers", 1)
    per_token = model.dtype.itemsize * (12 * hidden + 4 * inner + 2 * layers * hidden + 3 * config.vocab_size)
    most = MOST.get(model.device.type, MOST_ELSEWHERE)
    return BatchSize(None, min(most, max(FEWEST, int(SHARE * _memory(model.device) / per_token))))


def _memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    module = torch.get_device_module(device)
    return int(module.mem_get_info(device)[1]) if hasattr(module, "mem_get_info") else 8 << 30
