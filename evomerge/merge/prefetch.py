"""Ask the system for what will be read next, so that the disk works while a tensor is merged."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from evomerge.checkpoint import Checkpoint
from evomerge.merge.plan import MergePlan
from evomerge.recipe import ModelRef

_AHEAD = 1 << 28  # bytes of sources


class Prefetch:
    """Reads ahead of a merge in the background, into the system's cache, some way only.

    Args:
        plan: what is merged, in its order.
        checkpoints: its models.
    """

    def __init__(self, plan: MergePlan, checkpoints: Mapping[ModelRef, Checkpoint]) -> None:
        self._plan = plan
        self._checkpoints = checkpoints
        self._sizes = self._requests()
        self._ahead = 0
        self._taken: list[int] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def advance(self) -> None:
        """The next tensor is about to be merged."""
        if self._taken:
            self._ahead -= self._taken.pop(0)
        while self._ahead < _AHEAD:
            nbytes = next(self._sizes, None)
            if nbytes is None:
                return
            self._taken.append(nbytes)
            self._ahead += nbytes

    def _requests(self) -> Iterator[int]:
        """Ask for one tensor after another; yields the bytes of each."""
        for tensor in self._plan.tensors:
            nbytes = 0
            for source in tensor.sources:
                checkpoint = self._checkpoints[source.ref]
                self._pool.submit(checkpoint.prefetch, source.name)
                nbytes += checkpoint.headers[source.name].nbytes
            yield nbytes
