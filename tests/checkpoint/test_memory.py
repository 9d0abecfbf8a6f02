"""Copying a checkpoint takes the memory of one tensor, and not that of a shard or of the model."""

import subprocess
import sys

COPY = """
import resource, sys, torch
from pathlib import Path
from evomerge.checkpoint import TensorHeader, open_checkpoint, write_checkpoint
from evomerge.recipe import ModelRef

folder = Path(sys.argv[1])
layers = {f"model.layers.{i}.weight": torch.Size([1024, 1024]) for i in range(24)}
headers = [TensorHeader(name, torch.float32, tuple(shape)) for name, shape in layers.items()]
settings = dict(headers=headers, config={}, tokenizer=None, max_shard_size=10**8, card="")

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 if sys.platform == "linux" else 1024)

def copied(checkpoint):
    for name in checkpoint.headers:
        yield name, 0, checkpoint.read(name).view(-1) + 1
        checkpoint.release()

before = peak()
write_checkpoint(folder / "a", ((name, 0, torch.zeros(shape).view(-1)) for name, shape in layers.items()), **settings)
write_checkpoint(folder / "b", copied(open_checkpoint(ModelRef(str(folder / "a")))), **settings)
print(peak() - before)
"""


def test_peak_memory_does_not_grow_with_the_model(tmp_path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", COPY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    model_kib = 24 * 4 * 1024
    assert int(run.stdout) < model_kib / 4
