"""`python -m evomerge.merge.compile SIGNATURE PATH` compiles a kernel, away from the process that merges."""

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch._inductor.test_operators
from torch import Tensor
from torch._inductor.codegen.cpp import CppVecKernel
from torch._inductor.codegen.cpp_utils import cexpr_index

from evomerge.merge.kernels import ROW
from evomerge.methods import get_method, merged

_AHEAD = 1024  # elements


class _Kernel(torch.nn.Module):
    def __init__(self, signature: dict[str, Any]) -> None:
        super().__init__()
        self._method = get_method(signature["method"])
        self._flags = tuple(signature["flags"])
        self._has_base = signature["has_base"]
        self._sources = len(signature["sources"])
        self._fields = len(signature["fields"])

    def forward(self, tensors: list[Tensor]) -> Tensor:
        out, *rest = tensors
        sources, rest = rest[: self._sources], rest[self._sources :]
        fields, (*coefficients, start) = rest[: self._fields], rest[self._fields :]
        base = sources.pop(0) if self._has_base else None
        result = merged(self._method, base, tuple(sources), tuple(coefficients), self._flags, tuple(fields), start)
        # Realized, or the loop that writes it and the one that looks for the largest would both work it out. There is
        # no other operator for that.
        rounded: Tensor = torch.ops._inductor_test.realize(result.to(out.dtype))
        out.copy_(rounded)
        return rounded.abs().amax()


def _prefetch() -> None:
    """Let loops on the CPU ask for what they are going to read: what processors guess ends with a page of 4 KiB.

    A kernel with much to compute then takes as long from memory as from the cache: TIES half as long as else, seen.
    """
    load = CppVecKernel._get_vec_load_line

    def load_and_prefetch(self: CppVecKernel, var: str, index: Any, *rest: Any) -> str:
        place = cexpr_index(index)  # type: ignore[no-untyped-call]
        return f"(__builtin_prefetch({var} + {place} + {_AHEAD}), {load(self, var, index, *rest)})"

    # There is no option for it.
    CppVecKernel._get_vec_load_line = load_and_prefetch  # type: ignore[method-assign,assignment]


def main(text: str, path: Path) -> None:
    """Compile the kernel of a signature, given as JSON, into a package at `path`, which appears whole or not at all."""
    signature = json.loads(text)
    device = torch.device(signature["device"])
    big = [signature["out"], *signature["sources"], *signature["fields"]]
    rows = [torch.zeros(64, ROW, dtype=getattr(torch, name), device=device) for name in big]
    small = [torch.zeros(shape, dtype=getattr(torch, name), device=device) for shape, name in signature["coefficients"]]
    start = torch.zeros((), dtype=torch.int32, device=device)
    dim = torch.export.Dim("rows", min=1)
    shapes: Any = ([{0: dim}] * len(rows) + [None] * (len(small) + 1),)
    _prefetch()
    exported = torch.export.export(_Kernel(signature), ([*rows, *small, start],), dynamic_shapes=shapes)
    partial = path.with_suffix(f".{os.getpid()}.pt2")
    try:
        torch._inductor.aoti_compile_and_package(exported, package_path=str(partial))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    logging.disable()
    warnings.simplefilter("ignore")
    main(sys.argv[1], Path(sys.argv[2]))
