"""Kernels: one pass over the sources for each tensor, compiled where that pays, else chunk by chunk.

A method's `combine` is the only source of both. Compiled, torch fuses it into one loop that reads each source once and
writes the output once; eager, every operation runs on a chunk that stays in the cache. On the CPU both give the same
bits: neither contracts a product and a sum into one rounding. On an accelerator the compiler may, which moves a float32
result by one rounding of the product (2**-24 of it).

Compiling takes some ten seconds for each combination of method, number of models and dtypes, in a process of its own.
The result is kept in the user's cache folder and loads in milliseconds, without the compiler's imports.
"""

import ctypes
import fcntl
import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from evomerge import methods
from evomerge.checkpoint import dtype_name
from evomerge.methods import Method, chunks, merged

Mode = Literal["auto", "always", "never"]

ROW = 1024  # elements; compiled kernels take whole rows, because loops of a known length vectorize best
_WORTH_IT = 15.0  # seconds of working eagerly: about what it takes to compile
_COMPILE_SECONDS = 600

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_TEMPORARY_BYTES, _TEMPORARIES_BYTES = 1 << 25, 1 << 27  # the most that glibc takes, and what some twenty chunks need

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

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """The base, if any, and the models."""
        return self.models if self.base is None else (self.base, *self.models)

    def signature(self, out: Tensor) -> Signature:
        """What a kernel for it must be compiled for, given where the result goes."""
        return Signature(
            method=self.method.name,
            flags=self.flags,
            coefficients=tuple((tuple(each.shape), dtype_name(each.dtype)) for each in self.coefficients),
            sources=tuple(dtype_name(each.dtype) for each in self.sources),
            has_base=self.base is not None,
            fields=tuple(dtype_name(each.dtype) for each in self.fields),
            out=dtype_name(out.dtype),
            device=out.device.type,
        )

    def key(self, out: Tensor) -> Hashable:
        """What tells signatures apart, at a fraction of the cost."""
        dtypes = tuple(each.dtype for each in (out, *self.sources, *self.fields))
        return self.method.name, self.flags, self.base is None, len(self.fields), dtypes, out.device

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
        mode: `always` compiles what is not in the cache, `never` uses no compiled kernel. `auto` uses those in the
            cache; on an accelerator it compiles the others at once, and on the CPU when working eagerly has taken as
            long as compiling would, which costs at most twice what the better of the two would have cost.
    """

    def __init__(self, mode: Mode = "auto") -> None:
        _keep_temporaries()
        self._mode = mode
        self._loaded: dict[Hashable, Any] = {}
        self._eager: dict[Hashable, float] = {}  # seconds; of what was looked for and not found
        self._refused = False

    def run(self, operation: Operation, out: Tensor, start: int) -> Tensor:
        """Merge.

        Args:
            operation: what to merge, elements `start` and following of a tensor.
            out: (m,) is written; m elements that do not cross a multiple of 2**32.
            start: place of the first element in the tensor.

        Returns:
            () a number that is finite only if all that was written is. To look at it is to wait for the device.
        """
        rows = out.numel() // ROW * ROW
        key = operation.key(out)
        kernel = self._kernel(key, operation, out) if rows and self._mode != "never" else None
        done, checks = 0, []
        if kernel is not None:
            whole = rows == out.numel()
            part, target = (operation, out) if whole else (operation.part(slice(rows)), out[:rows])
            checks.append(_run_compiled(kernel, part, target, start))
            done = rows
        began = time.perf_counter()
        for piece in chunks(out.numel() - done, out.device):
            piece = slice(done + piece.start, done + piece.stop)
            _run_eager(operation.part(piece), out[piece], start + piece.start)
            checks.append(_sum(out[piece]))
        if key in self._eager:
            self._eager[key] += time.perf_counter() - began
        return add_checks(checks, out.device)

    def _kernel(self, key: Hashable, operation: Operation, out: Tensor) -> Any:
        """The compiled kernel, None if there is none or it is not worth making yet."""
        if key not in self._loaded:
            kernel = None if self._refused else self._find(key, operation, out)
            if kernel is None and not self._refused:
                self._eager.setdefault(key, 0.0)
                return None
            self._loaded[key] = kernel
        return self._loaded[key]

    def _find(self, key: Hashable, operation: Operation, out: Tensor) -> Any:
        eager = self._mode == "auto" and out.device.type == "cpu" and self._eager.get(key, 0.0) < _WORTH_IT
        if eager and key in self._eager:
            return None  # it was looked for
        try:
            signature = operation.signature(out)
            path = _cache_folder() / f"{signature.method}-{_digest(signature)}.pt2"
            if not path.exists():
                if eager:
                    return None
                _compile(signature, path)
            try:
                return _load(path, out.device)
            except RuntimeError:  # damaged, by a crash of the machine
                path.unlink()
                _compile(signature, path)
                return _load(path, out.device)
        except (AttributeError, OSError, RuntimeError, TypeError, subprocess.SubprocessError) as error:
            self._refused = True  # what failed once fails again
            reason = next(reversed(str(error).strip().splitlines()), type(error).__name__)
            _log.warning("no compiled kernels, merging is several times slower: %s", reason)
            return None


@cache
def _keep_temporaries() -> None:
    """Let glibc, where this is it, keep the memory of temporaries for the next ones: a tenth of the time, seen.

    Else it gives every tensor of more than 128 KiB back to the system, and gets the next one page by page.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _TEMPORARY_BYTES)
        library.mallopt(_TRIM_THRESHOLD, _TEMPORARIES_BYTES)


def add_checks(checks: Sequence[Tensor], device: torch.device) -> Tensor:
    """() a number that is finite only if all of these are, on their device."""
    if len(checks) == 1:
        return checks[0]
    return torch.stack([check.float() for check in checks]).sum() if checks else torch.zeros((), device=device)


def _sum(out: Tensor) -> Tensor:
    # float32 takes longer, and only float16 overflows
    return out.sum(dtype=torch.float32) if out.dtype == torch.float16 else out.sum()


def _run_eager(operation: Operation, out: Tensor, start: int) -> None:
    out.copy_(
        merged(
            operation.method,
            operation.base,
            operation.models,
            operation.coefficients,
            operation.flags,
            operation.fields,
            _place(start, out.device),
        )
    )


def _run_compiled(kernel: Any, operation: Operation, out: Tensor, start: int) -> Tensor:
    inputs = [each.view(-1, ROW) for each in (out, *operation.sources, *operation.fields)]
    inputs += *operation.coefficients, _place(start, out.device)
    with torch.accelerator.device_index(out.device.index) if out.device.type != "cpu" else nullcontext():
        (largest,) = kernel.run(inputs)
    return cast(Tensor, largest)


def _place(start: int, device: torch.device) -> Tensor:
    low = start % 2**32
    return torch.full((), low - 2**32 if low >= 2**31 else low, dtype=torch.int32, device=device)


def _load(path: Path, device: torch.device) -> Any:
    # The public loader imports the whole compiler, two seconds of it.
    index = -1 if device.index is None else device.index
    return torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, index)


def _compile(signature: Signature, path: Path) -> None:
    """Compile in a process of its own, once for all processes that want it.

    Raises:
        OSError, RuntimeError, SubprocessError: it cannot be done.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # what lies there is run
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        _log.info("compiling a kernel for %s, once for this machine", signature.method)
        # -P: no code from the current folder. The number of threads is the caller's, not the compiler's.
        command = [sys.executable, "-P", "-m", "evomerge.merge.compile", json.dumps(asdict(signature)), str(path)]
        environment = os.environ | {
            "TORCHINDUCTOR_CACHE_DIR": str(path.parent / "inductor"),
            "TORCHINDUCTOR_CPP_DYNAMIC_THREADS": "1",
        }
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False, env=environment
        )
    if done.returncode != 0:
        raise RuntimeError(done.stderr or f"exit code {done.returncode}")


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "evomerge" / "kernels"


def _digest(signature: Signature) -> str:
    digest = hashlib.blake2b(json.dumps(asdict(signature), sort_keys=True).encode(), digest_size=12)
    digest.update(_environment().encode())
    return digest.hexdigest()


@cache
def _environment() -> str:
    """What else a compiled kernel depends on: our code, torch and the processor."""
    code = hashlib.blake2b(digest_size=12)
    here = Path(__file__)
    for file in (*sorted(Path(methods.__file__).parent.glob("_*.py")), here, here.with_name("compile.py")):
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
