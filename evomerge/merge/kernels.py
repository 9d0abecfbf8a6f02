"""Kernels: one pass over the sources for each tensor, compiled where that pays, else chunk by chunk.

A method's `combine` is the only source of both. Compiled, torch fuses it into one loop that reads each source once and
writes the output once; eager, every operation runs on a chunk that stays in the cache. On the CPU both give the same
bits: neither contracts a product and a sum into one rounding. On an accelerator the compiler may, which moves a float32
result by one rounding of the product (2**-24 of it).

Compiling takes some ten seconds for each combination of method, number of models and dtypes, in a process of its own.
The result is kept in the user's cache folder and loads in milliseconds, without the compiler's imports.
"""

import fcntl
import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from evomerge import methods
from evomerge.checkpoint import dtype_name
from evomerge.methods import Method, chunks, combine_into, over_chunks

Mode = Literal["auto", "always", "never"]

ROW = 4096  # elements; compiled kernels take whole rows, because loops of a known length vectorize best
_PIECE = 1 << 20  # elements for a compiled kernel at once; what it wrote is then still in the cache to be checked
_WORTH_IT = (
    1 << 34
)  # elements to be read from which on compiling saves more than it costs: a minute or so of eager work
_COMPILE_SECONDS = 600

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Signature:
    """What a compiled kernel is for.

    Attributes:
        method: its name.
        flags: of the coefficients.
        coefficients: shape and dtype of each.
        sources: dtypes of the base, if the method merges with one, and of the models.
        has_base: the first of the sources is the base.
        fields: dtypes of the fields.
        out: dtype of the output.
        device: type of the device.
    """

    method: str
    flags: tuple[Hashable, ...]
    coefficients: tuple[tuple[tuple[int, ...], str], ...]
    sources: tuple[str, ...]
    has_base: bool
    fields: tuple[str, ...]
    out: str
    device: str


@dataclass(frozen=True)
class Operation:
    """A method with its operands, as a kernel takes them: all flat, all of one length, all on one device."""

    method: Method
    base: Tensor | None
    models: tuple[Tensor, ...]
    coefficients: tuple[Tensor, ...]
    flags: tuple[Hashable, ...]
    fields: tuple[Tensor, ...]

    def signature(self, out: Tensor) -> Signature:
        """What a kernel for it must be compiled for, given where the result goes."""
        sources = (*(() if self.base is None else (self.base,)), *self.models)
        return Signature(
            method=self.method.name,
            flags=self.flags,
            coefficients=tuple((tuple(each.shape), dtype_name(each.dtype)) for each in self.coefficients),
            sources=tuple(dtype_name(each.dtype) for each in sources),
            has_base=self.base is not None,
            fields=tuple(dtype_name(each.dtype) for each in self.fields),
            out=dtype_name(out.dtype),
            device=out.device.type,
        )

    def part(self, piece: slice) -> "Operation":
        """The operation on some of the elements."""
        base = None if self.base is None else self.base[piece]
        models = tuple(model[piece] for model in self.models)
        return Operation(
            self.method, base, models, self.coefficients, self.flags, tuple(field[piece] for field in self.fields)
        )


class Kernels:
    """The kernels of one process.

    Args:
        mode: `always` compiles what is not in the cache, `never` uses no compiled kernel; `auto` uses those in the
            cache and compiles for much work only.
        elements: how many elements all merges of this process will read, about.
    """

    def __init__(self, mode: Mode = "auto", *, elements: int = 0) -> None:
        self._mode = mode
        self._worth_it = mode == "always" or elements >= _WORTH_IT
        self._known: dict[Signature, Any] = {}

    def run(self, operation: Operation, out: Tensor, start: int) -> Tensor:
        """Merge.

        Args:
            operation: what to merge, elements `start` and following of a tensor.
            out: (m,) is written; m elements that do not cross a multiple of 2**32.
            start: place of the first element in the tensor.

        Returns:
            () float32, about the sum of what was written: finite only if all of that is. To look at it is to wait for
            the device.
        """
        rows = out.numel() // ROW * ROW
        kernel = self._kernel(operation.signature(out)) if rows and self._mode != "never" else None
        done, sums = 0, []
        if kernel is not None:
            for first in range(0, rows, _PIECE):
                piece = slice(first, min(first + _PIECE, rows))
                _run_compiled(kernel, operation.part(piece), out[piece], start + first)
                sums.append(out[piece].sum())
            done = rows

        def work(piece: slice) -> Tensor:
            piece = slice(done + piece.start, done + piece.stop)
            _run_eager(operation.part(piece), out[piece], start + piece.start)
            return out[piece].sum()

        sums += over_chunks(work, chunks(out.numel() - done, out.device), out.device)
        return torch.stack(sums).sum(dtype=torch.float32) if sums else torch.zeros((), device=out.device)

    def _kernel(self, signature: Signature) -> Any:
        """The compiled kernel, None if there is none."""
        if signature not in self._known:
            path = _cache_folder() / f"{signature.method}-{_digest(signature)}.pt2"
            if self._worth_it and not path.exists():
                self._worth_it = _compile(signature, path)  # what failed once fails again
            self._known[signature] = _load(path) if path.exists() else None
        return self._known[signature]


def _run_eager(operation: Operation, out: Tensor, start: int) -> None:
    each = operation
    place = _place(start, out.device)
    combine_into(each.method, out, each.base, each.models, each.coefficients, each.flags, each.fields, place)


def _run_compiled(kernel: Any, operation: Operation, out: Tensor, start: int) -> None:
    sources = (*(() if operation.base is None else (operation.base,)), *operation.models, *operation.fields)
    inputs = [each.view(-1, ROW) for each in (out, *sources)]
    kernel.run([*inputs, *operation.coefficients, _place(start, out.device)])


def _place(start: int, device: torch.device) -> Tensor:
    low = start % 2**32
    return torch.tensor(low - 2**32 if low >= 2**31 else low, dtype=torch.int32, device=device)


def _load(path: Path) -> Any:
    try:
        # The public loader imports the whole compiler, two seconds of it.
        return torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    except (AttributeError, RuntimeError) as error:
        _warn(str(error))
        return None


def _compile(signature: Signature, path: Path) -> bool:
    """Compile in a process of its own, once for all processes that want it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = (path.parent / "lock").open("w")
    except OSError as error:
        _warn(f"{path.parent}: {error.strerror}")
        return False
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return True
        _log.info("compiling a kernel for %s, once for this machine", signature.method)
        command = [sys.executable, "-m", "evomerge.merge.compile", json.dumps(asdict(signature)), str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            _warn(str(error))
            return False
    if done.returncode != 0:
        _warn(next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}"))
    return done.returncode == 0


def _warn(reason: str) -> None:
    _log.warning("no compiled kernels, merging is several times slower: %s", reason)


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "evomerge" / "kernels"


def _digest(signature: Signature) -> str:
    digest = hashlib.blake2b(json.dumps(asdict(signature), sort_keys=True).encode(), digest_size=12)
    digest.update(_environment().encode())
    return digest.hexdigest()


@cache
def _environment() -> str:
    """What else a compiled kernel depends on: the code of the methods, torch and the processor."""
    code = hashlib.blake2b(digest_size=12)
    for file in sorted(Path(methods.__file__).parent.glob("_*.py")):
        code.update(file.read_bytes())
    devices = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return json.dumps([code.hexdigest(), torch.__version__, platform.machine(), _processor(), *devices])


def _processor() -> str:
    """The instructions that the processor has; its name where the system does not tell them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
