"""What depends on the sources alone, measured once and kept for every later recipe."""

from collections.abc import Callable, Hashable
from typing import Any


class StatisticsCache:
    """Statistics by what they were measured on. Lives as long as the sources do; not shared between threads.

    Args:
        keep: keep them for later recipes; a single merge asks for each once, and keeps none.
        room: bytes, for all that are as large as tensors.
    """

    def __init__(self, *, keep: bool = True, room: int = 0) -> None:
        self._keep = keep
        self._room = room if keep else 0
        self._known: dict[Hashable, Any] = {}

    def get(self, key: Hashable, measure: Callable[[], Any]) -> Any:
        """The statistic under `key`; measured the first time, or each time if none is kept."""
        if not self._keep:
            return measure()
        if key not in self._known:
            self._known[key] = measure()
        return self._known[key]

    def get_large(self, key: Hashable, nbytes: int, measure: Callable[[], Any]) -> Any | None:
        """As `get`, of a statistic that takes so many bytes; None where there is no room for it."""
        if key not in self._known:
            if nbytes > self._room:
                return None
            self._known[key] = measure()
            self._room -= nbytes
        return self._known[key]

    def __len__(self) -> int:
        return len(self._known)
