"""Small checkpoints, written by the safetensors library."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evomerge.checkpoint import Checkpoint, open_checkpoint
from evomerge.recipe import ModelRef


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """One tensor of every shape and dtype that matters."""
    return {
        "model.embed_tokens.weight": torch.arange(12, dtype=torch.bfloat16).reshape(4, 3),
        "model.layers.0.mlp.weight": torch.linspace(-1, 1, 6).reshape(2, 3),
        "model.layers.1.mlp.weight": torch.linspace(0, 5, 6, dtype=torch.float16).reshape(2, 3),
        "model.norm.weight": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
        "model.steps": torch.tensor(7),
        "model.mask": torch.tensor([True, False, True]),
        "model.nothing": torch.empty(0, 3),
    }


@pytest.fixture
def model(tmp_path: Path, weights: Mapping[str, torch.Tensor]) -> Path:
    """A folder with config.json and model.safetensors."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}')
    save_file(dict(weights), folder / "model.safetensors")
    return folder


@pytest.fixture
def sharded(model: Path, weights: Mapping[str, torch.Tensor]) -> Path:
    """The same model in shards a.safetensors and b.safetensors, with an index."""
    (model / "model.safetensors").unlink()
    names = list(weights)
    weight_map = {name: "a.safetensors" if name in names[:3] else "b.safetensors" for name in names}
    for file in ("a.safetensors", "b.safetensors"):
        save_file({name: weights[name] for name in names if weight_map[name] == file}, model / file)
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return model


@pytest.fixture
def opened() -> Callable[[Path], Checkpoint]:
    """Opens a folder."""
    return lambda folder: open_checkpoint(ModelRef(str(folder)))
