"""Compiled kernels give what eager ones give, and their absence costs time only."""

import itertools
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest
import torch

from evomerge.merge import kernels
from evomerge.merge.kernels import ROW, Kernels, Operation
from evomerge.methods import METHODS

COUNT = 3 * ROW + 234  # whole rows, which are compiled, and a rest, which is not
SETTINGS = {
    "linear": {"weight": [0.3, 0.9, 0.5]},
    "slerp": {"t": 0.3},
    "nuslerp": {"weight": [0.3, 0.9]},
    "multislerp": {"weight": [0.3, 0.9, 0.5]},
    "task_arithmetic": {"weight": [0.3, 0.9, 0.5], "lambda": 0.7},
    "ties": {"weight": [0.3, 0.9, 0.5], "density": [0.2, 0.5, 1.0], "lambda": 1.1},
    "dare_linear": {"weight": [0.3, 0.9, 0.5], "density": [0.2, 0.5, 1.0], "random_seed": 3},
    "dare_ties": {"weight": [0.3, 0.9, 0.5], "density": [0.2, 0.5, 1.0], "normalize": True},
    "della": {"weight": [0.3, 0.9, 0.5], "density": [0.3, 0.5, 0.7]},
    "della_linear": {"weight": [0.3, 0.9, 0.5], "density": [0.3, 0.5, 0.7]},
    "breadcrumbs": {"weight": [0.3, 0.9, 0.5], "density": [0.2, 0.5, 0.9]},
    "breadcrumbs_ties": {"weight": [0.3, 0.9, 0.5], "density": [0.2, 0.5, 0.9]},
    "sce": {"select_topk": 0.4},
    "nearswap": {"t": 0.002},
}

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Kernels of these tests stay out of the user's cache."""
    folder = tmp_path_factory.getbasetemp() / "kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    return folder / "evomerge" / "kernels"


@pytest.fixture
def operation(operands):
    """operation(name, dtype): a method on random sources of COUNT elements, in pieces."""

    def operation(name, dtype):
        method = METHODS[name]
        generator = torch.Generator().manual_seed(5)
        base = torch.randn(COUNT, generator=generator)
        count = min(3, method.max_models or 3)
        models = [(base + 0.01 * torch.randn(COUNT, generator=generator)).to(dtype) for _ in range(count)]
        given = operands(name, None if method.base == "unused" else base.to(dtype), models, **SETTINGS.get(name, {}))
        settled = method.settle(given)
        fields = settled.fields(slice(0, COUNT)) if settled.fields else ()
        return Operation(method, given.base, given.models, settled.tensors, settled.flags, fields)

    return operation


def run(mode, operation, dtype, start=0):
    out = torch.full((COUNT,), 7.0, dtype=dtype)
    total = Kernels(mode).run(operation, out, start)
    return out, total


# One is compiled in the everyday suite: the one that draws masks, with integer arithmetic that wraps.
CASES = [(name, dtype) for name in METHODS for dtype in (torch.bfloat16, torch.float32)]
EVERYDAY = ("dare_ties", torch.bfloat16)


@needs_compiler
@pytest.mark.parametrize(
    ("name", "dtype"), [EVERYDAY, *(pytest.param(*case, marks=pytest.mark.soak) for case in CASES if case != EVERYDAY)]
)
def test_compiled_and_eager_agree_bit_for_bit(name, dtype, operation, own_cache, caplog):
    made = operation(name, dtype)
    for start in (0, 2**31 - ROW) if METHODS[name].positional and not made.fields else (0,):
        compiled, total = run("always", made, dtype, start)
        eager, _ = run("never", made, dtype, start)
        assert torch.equal(compiled, eager)
        assert total.isfinite()
    assert caplog.text == ""
    assert list(own_cache.glob(f"{name}-*.pt2"))


@needs_compiler
def test_a_compiled_kernel_asks_for_what_it_reads_next(operation, own_cache):
    run("always", operation("dare_ties", torch.bfloat16), torch.bfloat16)
    with zipfile.ZipFile(next(own_cache.glob("dare_ties-*.pt2"))) as package:
        (source,) = (package.read(name).decode() for name in package.namelist() if name.endswith(".kernel.cpp"))
    assert source.count("__builtin_prefetch(") == 4  # three models and a base


@needs_compiler
def test_a_bad_number_shows_in_the_total_of_a_compiled_kernel(operation):
    made = operation("dare_ties", torch.bfloat16)
    made.models[1][ROW + 3] = float("nan")
    assert not run("always", made, torch.bfloat16)[1].isfinite()


@pytest.mark.soak
@needs_compiler
def test_what_only_rounding_makes_infinite_shows_in_the_total_of_a_compiled_kernel(operation):
    made = operation("passthrough", torch.float16)
    made.models[0][ROW + 3] = 65504.0
    made.coefficients[0].fill_(1.001)
    merged, total = run("always", made, torch.float16)
    assert not merged.isfinite().all()
    assert not total.isfinite()


@pytest.mark.parametrize("place", [0, ROW, COUNT - 1])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_shows_in_the_total(operation, bad, place):
    made = operation("linear", torch.float32)
    made.models[0][place] = bad
    assert not run("never", made, torch.float32)[1].isfinite()


def test_it_compiles_once_eager_work_has_taken_as_long(operation, monkeypatch):
    asked = []
    monkeypatch.setattr(kernels, "_compile", lambda signature, path: asked.append(signature.method))
    monkeypatch.setattr(kernels, "_load", lambda path, device: None)
    clock = itertools.count()  # which is looked at before and after each merge: it takes a second
    monkeypatch.setattr(kernels, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(kernels, "_WORTH_IT", 10.0)
    once, made, out = Kernels("auto"), operation("ties", torch.float16), torch.empty(COUNT, dtype=torch.float16)
    for _ in range(10):
        once.run(made, out, 0)
    assert asked == []
    once.run(made, out, 0)
    assert asked == ["ties"]


def test_without_a_compiler_there_is_one_warning_and_the_same_result(operation, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    eager, compiled = Kernels("never"), Kernels("always")
    with caplog.at_level(logging.WARNING):
        for name in ("linear", "task_arithmetic"):
            made = operation(name, torch.float16)
            found, expected = (torch.empty(COUNT, dtype=torch.float16) for _ in range(2))
            compiled.run(made, found, 0)
            eager.run(made, expected, 0)
            assert torch.equal(found, expected)
    assert len(caplog.records) == 1
    assert "no compiled kernels, merging is several times slower: " in caplog.text


def test_a_cache_that_cannot_be_written(operation, monkeypatch, caplog, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    made = operation("linear", torch.float32)
    found, _ = run("always", made, torch.float32)
    assert torch.equal(found, run("never", made, torch.float32)[0])
    assert "Not a directory" in caplog.text


def test_a_kernel_that_is_damaged(operation, own_cache, monkeypatch, caplog):
    made = operation("slerp", torch.float16)
    out = torch.empty(COUNT, dtype=torch.float16)
    own_cache.mkdir(parents=True, exist_ok=True)
    path = own_cache / f"slerp-{kernels._digest(made.signature(out))}.pt2"
    path.write_bytes(b"not a package")
    monkeypatch.setenv("CXX", "no-such-compiler")  # nor can it be made again
    found, _ = run("auto", made, torch.float16)
    assert not path.exists()
    assert torch.equal(found, run("never", made, torch.float16)[0])
    assert "no compiled kernels" in caplog.text


def test_the_compiler_is_not_imported_into_the_process_that_merges(operation):
    code = (
        "import sys, evomerge.merge; "
        "print([name for name in sys.modules if name.startswith(('torch._inductor', 'torch._dynamo'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
