"""The anonymous memory of a merge to disk: bounded, whatever the method, and no more for a larger model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MERGE = """
import json, sys, threading, time, torch
from pathlib import Path
from evomerge.checkpoint import TensorHeader, write_checkpoint
from evomerge.merge import merge_to_disk
from evomerge.recipe import Recipe

folder, document = Path(sys.argv[1]), json.loads(sys.argv[2])
peak = 0

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) >> 10

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.002)

def models(names, layers):
    headers = [TensorHeader(f"model.layers.{i}.weight", torch.bfloat16, (2048, 1024)) for i in range(layers)]
    config = {"model_type": "llama", "num_hidden_layers": layers}
    for seed, name in enumerate(names):
        noise = torch.randn(2048 * 1024, generator=torch.Generator().manual_seed(seed)).bfloat16()
        pieces = ((header.name, 0, noise) for header in headers)
        settings = dict(headers=headers, config=config, tokenizer=None, max_shard_size=10**9, card="")
        write_checkpoint(folder / str(layers) / name, pieces, **settings)

names = ["base", "one", "two"]
before = anonymous()
for layers in (8, 32):
    models(names, layers)
threading.Thread(target=watch, daemon=True).start()
for layers in (8, 32):
    for each in document["models"]:
        each["model"] = str(folder / str(layers) / Path(each["model"]).name)
    if "base_model" in document:
        document["base_model"] = str(folder / str(layers) / "base")
    peak = 0
    merge_to_disk(Recipe.from_document(document), folder / f"out-{layers}", device="cpu", kernels="never")
    print(peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell anonymous memory")
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("ties", {"weight": 0.5, "density": 0.5}),
        ("della", {"weight": 0.5, "density": 0.5}),
        pytest.param(
            "nuslerp",
            {"weight": 0.5, "nuslerp_flatten": False, "nuslerp_row_wise": True},
            marks=pytest.mark.soak,
        ),
    ],
)
def test_anonymous_memory_is_bounded_and_does_not_grow_with_the_model(tmp_path, method, parameters) -> None:
    models = [{"model": name} for name in ("one", "two")]
    document = {"merge_method": method, "base_model": "base", "models": models, "parameters": parameters}
    words = [sys.executable, "-W", "error", "-c", MERGE, str(tmp_path), json.dumps(document)]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    small, large = map(int, run.stdout.split())
    assert 8 < large < 400  # MB; at least what is on its way to the disk
    assert large < small + 40  # though the model is 96 MB larger
