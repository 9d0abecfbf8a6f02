"""Each kind of damage to a model through the command line: one line that says it, nothing left."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

UP = "model.layers.1.mlp.up_proj.weight"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _only_bin(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def _truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def _corrupt(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[20:40] = b"\xff" * 20
    (folder / WEIGHTS).write_bytes(content)


def _lose_a_shard(folder: Path) -> None:
    names = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    weight_map = dict.fromkeys(names, "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _with_tensors(folder: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _reshape(folder: Path) -> None:
    _with_tensors(folder, lambda tensors: tensors.update({UP: torch.zeros(60, 32)}))


def _lose_a_tensor(folder: Path) -> None:
    _with_tensors(folder, lambda tensors: tensors.pop(UP))


def _put(value: float) -> Callable[[Path], None]:
    return partial(_with_tensors, change=lambda tensors: tensors[UP].view(-1).__setitem__(777, value))


def _in_json(file: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        document = json.loads((folder / file).read_text())
        change(document)
        (folder / file).write_text(json.dumps(document))

    return spoil


def _swap_two_tokens(tokenizer: dict) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[10:12]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]


def _write(file: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text(text) and None


OTHER = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
MODELS = {
    "missing folder": (_remove, "model folder missing", "first", "check the path"),
    "empty folder": (_empty, "empty model folder", "first", "expected config.json and model.safetensors", "download"),
    "damaged config": (_write("config.json", "{"), "config.json is damaged", "first", "expected a JSON object"),
    "not safetensors": (_only_bin, "not safetensors", "first", "found pytorch_model.bin", "convert it"),
    "truncated shard": (_truncate, "truncated or damaged shard", "first/model.safetensors", "bytes, found", "download"),
    "corrupted header": (_corrupt, "truncated or damaged shard", "first/model.safetensors", "a JSON header"),
    "shard missing": (_lose_a_shard, "shard missing", INDEX, "expected model-00001-of-00001", "download"),
    "tensor missing": (_lose_a_tensor, "tensor missing", "first", f"expected {UP} as in"),
    "shapes differ": (_reshape, "shapes differ", f"first: {UP}", "expected [64, 32]", "found [60, 32]", "one size"),
    "architectures differ": (
        _in_json("config.json", lambda config: config.update(OTHER)),
        *("architectures differ", "first", "expected model_type 'llama'", "found 'mistral'", "one architecture"),
    ),
    "vocabularies differ": (
        _in_json("tokenizer.json", _swap_two_tokens),
        *("vocabularies differ", "first", "expected the 300 tokens of", "found 300 tokens", "one vocabulary"),
    ),
    "damaged tokenizer": (_write("tokenizer.json", "{"), "tokenizer missing or damaged", "first", "found EOF"),
    "NaN": (_put(float("nan")), "NaN or Inf in a model", f"first: {UP}", "download or train"),
    "Inf": (_put(float("-inf")), "NaN or Inf in a model", f"first: {UP}", "download or train"),
}


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        (kind, command)
        for kind in MODELS
        for command in ("merge", "check", "search")
        if (kind, command) != ("vocabularies differ", "search")  # a search has a tokenizer policy, which aligns them
    ],
)
def test_a_damaged_parent(bench, refused, without_ray, kind, command):
    spoil, *told = MODELS[kind]
    spoil(bench.model("first"))
    refused(getattr(bench, command)(), 4, *told)


SCORED = {
    "tensor missing": (_lose_a_tensor, "weights do not fit config.json", "first", f"expected {UP}", "found none"),
    "shapes differ": (_reshape, "weights do not fit config.json", "first", f"expected {UP}", "found another shape"),
    "damaged tokenizer": (_write("tokenizer.json", "{"), "tokenizer missing or damaged", "first", "complete"),
    "unknown architecture": (
        _in_json("config.json", lambda config: config.update(model_type="nothing")),
        *("model cannot be loaded", "first", "`nothing`"),
    ),
    "code of its own": (
        _in_json("config.json", lambda config: config.update(model_type="x", auto_map={"AutoConfig": "a.B"})),
        *("model cannot be loaded", "first"),
    ),
    "NaN": (_put(float("nan")), "NaN or Inf in a model", f"first: {UP}", "download or train"),
}


@pytest.mark.parametrize("kind", SCORED)
def test_a_damaged_model_is_not_scored(bench, refused, kind):
    spoil, *told = SCORED[kind]
    spoil(bench.model("first"))
    refused(bench.score(), 4, *told)


def test_a_family_that_transformers_does_not_know(bench, refused, without_ray):
    for name in ("base", "first", "second"):
        _in_json("config.json", lambda config: config.update(model_type="nothing"))(bench.model(name))
    refused(bench.search(), 4, "no live model for this config", "'nothing'")


def test_a_family_without_a_tokenizer(bench, refused, without_ray):
    for name in ("base", "first", "second"):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (bench.model(name) / file).unlink()
    refused(bench.search(), 4, "tokenizer missing or damaged", "family", "check that the folder is complete")
