"""A merge to disk takes the memory of one tensor and a few chunks, whatever the method keeps of the sources."""

import subprocess
import sys

import pytest

MERGE = """
import resource, sys, torch
from pathlib import Path
from evomerge.checkpoint import TensorHeader, write_checkpoint
from evomerge.merge import disk
from evomerge.recipe import Recipe

folder, method = Path(sys.argv[1]), sys.argv[2]
headers = [TensorHeader(f"model.layers.{i}.weight", torch.bfloat16, (1024, 1024)) for i in range(32)]
config = {"model_type": "llama", "num_hidden_layers": len(headers)}
settings = dict(headers=headers, config=config, tokenizer=None, max_shard_size=10**8, card="")
for fill, name in enumerate(("base", "one")):
    tensor = torch.full((1024, 1024), float(fill)).bfloat16()
    write_checkpoint(folder / name, ((header.name, 0, tensor.view(-1)) for header in headers), **settings)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 if sys.platform == "linux" else 1024)

document = {"merge_method": method, "base_model": str(folder / "base"), "models": [{"model": str(folder / "one")}]}
document["parameters"] = {"t": 0.5} if method == "slerp" else {"weight": 0.5, "density": 0.5}
disk._RELEASE_EVERY = 1 << 23
before = peak()
disk.merge_to_disk(Recipe.from_document(document), folder / "out", device="cpu")
print(peak() - before)
"""


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_peak_memory_does_not_grow_with_the_model(tmp_path, method) -> None:
    words = [sys.executable, "-W", "error", "-c", MERGE, str(tmp_path), method]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    model_kib = 32 * 2 * 1024
    assert int(run.stdout) < 1.2 * model_kib  # of 2 models read, 1 written, and float32 copies for ties
