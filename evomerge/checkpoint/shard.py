"""One safetensors file: its header, checked, and its tensors, mapped into memory.

Format: 8 bytes little-endian header size, a JSON header `{name: {dtype, shape, data_offsets}}`, and then the data
without holes (https://github.com/huggingface/safetensors#format).
"""

import json
import math
import mmap
import os
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from evomerge.checkpoint.dtypes import SAFETENSORS
from evomerge.errors import ModelError

MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class TensorHeader:
    """What is known of a tensor without reading it.

    Attributes:
        name: its name in the checkpoint.
        dtype: its dtype.
        shape: its shape.
        shard: the file that holds it; empty for one that is yet to be written.
        widened_from: its dtype in that file, if it is read in a wider one.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    shard: str = ""
    widened_from: torch.dtype | None = None

    @property
    def stored(self) -> torch.dtype:
        """Its dtype in the file that holds it."""
        return self.widened_from or self.dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.size * self.dtype.itemsize


class Shard:
    """A safetensors file, whose header is read and checked at once and whose data is read when asked for.

    Attributes:
        path: the file.
        headers: by name, in file order.

    Raises:
        ModelError: the file is truncated or damaged, holds a tensor twice, or is no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file_bytes = path.stat().st_size
            with path.open("rb") as file:
                prefix = file.read(8)
                self.header_bytes = int.from_bytes(prefix, "little")
                if len(prefix) < 8 or self.header_bytes > min(MAX_HEADER_BYTES, self.file_bytes - 8):
                    raise self._damage("a header that fits into the file", f"a file of {self.file_bytes} bytes")
                raw = file.read(self.header_bytes)
        except OSError as error:
            raise ModelError("cannot read a shard", where=path, found=error.strerror) from None
        self.headers, self._starts = self._parse(raw)

    def read(self, name: str) -> torch.Tensor:
        """The tensor, in its dtype and shape, on the CPU: a view of the file, which must not be written to.

        Raises:
            KeyError: no tensor of this name.
        """
        header = self.headers[name]
        if header.size == 0:
            return torch.empty(header.shape, dtype=header.dtype)
        start = self._starts[name]
        raw = self._bytes[start : start + header.nbytes]
        if start % header.dtype.itemsize:
            raw = raw.clone()
        return raw.view(header.dtype).reshape(header.shape)

    def prefetch(self, name: str) -> None:
        """Have the system read the tensor's bytes in the background, where it knows how to."""
        if hasattr(os, "posix_fadvise"):
            with self.path.open("rb") as file:
                advice = os.POSIX_FADV_WILLNEED
                os.posix_fadvise(file.fileno(), self._starts[name], self.headers[name].nbytes, advice)

    def edges(self, name: str, count: int = 4096) -> bytes:
        """The first and the last `count` bytes of a tensor."""
        start, end = self._starts[name], self._starts[name] + self.headers[name].nbytes
        return self._map[start : min(start + count, end)] + self._map[max(start, end - count) : end]

    def release(self) -> None:
        """Give the pages that reads have brought into memory back to the system; views stay valid."""
        if "_map" in self.__dict__ and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    @cached_property
    def _map(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def _bytes(self) -> torch.Tensor:
        with warnings.catch_warnings():
            # A writable private mapping would not warn, but is refused for files larger than the memory.
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            return torch.frombuffer(self._map, dtype=torch.uint8)

    def _parse(self, raw: bytes) -> tuple[dict[str, TensorHeader], dict[str, int]]:
        try:
            document = json.loads(raw, object_pairs_hook=self._unique)
        except (ValueError, RecursionError):
            raise self._damage("a JSON header", "bytes that are not JSON") from None
        if not isinstance(document, dict):
            raise self._damage("a JSON header", f"a JSON {type(document).__name__}")
        headers, ends = {}, {}
        for name, entry in document.items():
            if name != "__metadata__":
                headers[name], ends[name] = self._entry(name, entry)
        start = end = 8 + self.header_bytes
        starts = {}
        for name in sorted(headers, key=lambda name: (ends[name], headers[name].nbytes == 0)):
            starts[name], end = end, end + headers[name].nbytes
            if start + ends[name] != end:
                raise self._damage(f"{name!r} to end at byte {end - start} of the data", ends[name])
        if self.file_bytes != end:
            raise self._damage(f"{end} bytes", f"{self.file_bytes} bytes")
        return {name: headers[name] for name in starts}, starts

    def _entry(self, name: str, entry: Any) -> tuple[TensorHeader, int]:
        try:
            code, shape, (start, end) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
            numbers = (*shape, start, end)
        except (KeyError, TypeError, ValueError):
            raise self._damage(f"dtype, shape and data_offsets of {name!r}", repr(entry)[:80]) from None
        if code not in SAFETENSORS:
            raise ModelError(
                f"tensor of dtype {code!r}", where=f"{self.path}: {name}", expected="one of " + ", ".join(SAFETENSORS)
            )
        header = TensorHeader(name, SAFETENSORS[code], shape, self.path.name)
        if any(type(number) is not int or number < 0 for number in numbers) or end - start != header.nbytes:
            raise self._damage(f"{name!r} of shape {list(shape)} and dtype {code}", f"data_offsets {[start, end]}")
        return header, end

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ModelError("tensor given twice", where=self.path, found=repr(twice), remedy="save the model again")
        return document

    def _damage(self, expected: object, found: object) -> ModelError:
        return ModelError(
            "truncated or damaged shard",
            where=self.path,
            expected=expected,
            found=found,
            remedy="download or save the file again",
        )
