"""Copying a checkpoint takes the memory of a few tensors, and no more for a larger one."""

import subprocess
import sys
from pathlib import Path

import pytest

COPY = """
import sys, torch
from pathlib import Path
from evomerge.checkpoint import TensorHeader, open_checkpoint, write_checkpoint
from evomerge.recipe import ModelRef

folder = Path(sys.argv[1])

def resident(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(what))) >> 10

def copied(checkpoint):
    for name in checkpoint.headers:
        yield name, 0, checkpoint.read(name).view(-1) + 1
        checkpoint.release()

def copy(layers):
    headers = [TensorHeader(f"model.layers.{i}.weight", torch.float32, (1024, 1024)) for i in range(layers)]
    settings = dict(headers=headers, config={}, tokenizer=None, max_shard_size=10**8, card="")
    pieces = ((header.name, 0, torch.zeros(1024 * 1024)) for header in headers)
    write_checkpoint(folder / f"a{layers}", pieces, **settings)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten, which a process may have from its parent
    before = resident("VmRSS")
    write_checkpoint(folder / f"b{layers}", copied(open_checkpoint(ModelRef(str(folder / f"a{layers}")))), **settings)
    return resident("VmHWM") - before

print(copy(2), copy(8), copy(32))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not tell a process its peak")
def test_peak_memory_does_not_grow_with_the_model(tmp_path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", COPY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    _, small, large = map(int, run.stdout.split())
    assert 4 <= large < small + 48 < 96  # MB; a tensor has 4, and the larger model 96 more than the small one
