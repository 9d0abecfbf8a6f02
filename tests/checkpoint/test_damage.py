"""Every damage that a checkpoint can have is told in one line, before any tensor is read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evomerge.checkpoint import open_checkpoint
from evomerge.errors import ModelError, exit_code
from evomerge.recipe import ModelRef

INDEX = "model.safetensors.index.json"


def assert_refused(folder: Path | str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        open_checkpoint(ModelRef(str(folder)))
    assert "\n" not in str(caught.value)
    assert exit_code(caught.value) == 4


def reindex(folder: Path, change: Callable[[dict], object]) -> None:
    document = json.loads((folder / INDEX).read_text())
    change(document["weight_map"])
    (folder / INDEX).write_text(json.dumps(document))


def write_header(folder: Path, header: str | bytes, data: bytes = b"") -> None:
    raw = header.encode() if isinstance(header, str) else header
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_missing_folder(tmp_path) -> None:
    assert_refused(tmp_path / "nowhere", "model folder missing .*nowhere")


def test_empty_folder(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", r"empty model folder .*: expected config\.json and model\.safetensors")


def test_a_file_instead_of_a_folder(model) -> None:
    assert_refused(model / "model.safetensors", "not a model folder .*expected a folder")


@pytest.mark.parametrize("path", ["/" + "long" * 100, "~nobody-of-this-name/model"])
def test_a_path_that_cannot_be_looked_up(path: str) -> None:
    assert_refused(path, r"cannot read the model folder .*; check the path")


def test_neither_folder_nor_hub_id(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"model not found .*neither a folder nor a hub id"):
        open_checkpoint(ModelRef("org/na me"))


def test_revision_of_a_local_folder(model) -> None:
    with pytest.raises(ModelError, match=r"revision of a local folder .*found v1"):
        open_checkpoint(ModelRef(str(model), "v1"))


def test_missing_or_damaged_config(model) -> None:
    (model / "config.json").write_text('{"a": ')
    assert_refused(model, r"config\.json is damaged")
    (model / "config.json").write_text("[1]")
    assert_refused(model, r"config\.json is damaged .*expected a JSON object")
    (model / "config.json").write_bytes(b"\xff\x00")
    assert_refused(model, r"config\.json is damaged")
    (model / "config.json").unlink()
    assert_refused(model, r"config\.json missing")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.gguf", "model.pth"])
def test_not_safetensors(model, name: str) -> None:
    (model / "model.safetensors").rename(model / name)
    assert_refused(model, f"not safetensors .*found {name}; convert")


def test_no_weights(model) -> None:
    (model / "model.safetensors").unlink()
    assert_refused(model, r"weights missing .*expected model\.safetensors")


@pytest.mark.parametrize("left", [0, 4, 8, 100, -1])
def test_truncated_shard(model, left: int) -> None:
    shard = model / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:left])
    assert_refused(model, r"truncated or damaged shard .*model\.safetensors")


def test_shard_with_bytes_behind_its_end(model) -> None:
    shard = model / "model.safetensors"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes() + b"\x00")
    assert_refused(model, f"truncated or damaged shard .*expected {size} bytes, found {size + 1} bytes")


def test_a_pointer_of_git_lfs(model) -> None:
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert_refused(model, "truncated or damaged shard")


@pytest.mark.parametrize(
    "header",
    [
        b"\xff\xfe",
        "[]",
        "{",
        json.dumps({"a": entry(dtype=3)}),
        json.dumps({"a": entry(dtype=[])}),
        "[" * 100_000,
        json.dumps({"a": entry(shape=3)}),
        json.dumps({"a": entry(shape=[-2])}),
        json.dumps({"a": entry(shape=[2.0])}),
        json.dumps({"a": entry(offsets=[0, 4])}),
        json.dumps({"a": entry(offsets=[4, 12])}),
        json.dumps({"a": entry(offsets=[8, 0])}),
        json.dumps({"a": entry(offsets=[0])}),
        json.dumps({"a": "x"}),
        json.dumps({"a": {"dtype": "F32"}}),
        json.dumps({"a": entry(), "b": entry()}),
    ],
)
def test_damaged_header(model, header: str | bytes) -> None:
    write_header(model, header, bytes(8))
    assert_refused(model, "truncated or damaged shard|tensor of dtype")


def test_unknown_dtype(model) -> None:
    write_header(model, json.dumps({"a": entry("F4", [4], [0, 2])}), bytes(2))
    assert_refused(model, r"tensor of dtype 'F4' .*: a\)")


def test_tensor_twice_in_one_shard(model) -> None:
    one = json.dumps(entry())
    two = json.dumps(entry(offsets=(8, 16)))
    write_header(model, f'{{"a": {one}, "a": {two}}}', bytes(16))
    assert_refused(model, "tensor given twice .*found 'a'")


def test_tensor_in_two_shards(sharded, weights) -> None:
    save_file({"model.layers.0.mlp.weight": torch.ones(2), "x": torch.ones(1)}, sharded / "b.safetensors")
    reindex(sharded, lambda names: names.update({"x": "b.safetensors"}))
    assert_refused(
        sharded,
        r"tensor given twice .*: expected model\.layers\.0\.mlp\.weight in a\.safetensors alone, found also in b",
    )


def test_shard_missing(sharded) -> None:
    (sharded / "b.safetensors").unlink()
    assert_refused(sharded, r"shard missing .*index\.json\): expected b\.safetensors")


def test_index_names_a_tensor_that_is_not_there(sharded) -> None:
    reindex(sharded, lambda names: names.update({"lm_head.weight": "a.safetensors"}))
    assert_refused(sharded, r"tensor missing .*a\.safetensors\): expected lm_head\.weight")


def test_index_lacks_a_tensor(sharded) -> None:
    reindex(sharded, lambda names: names.pop("model.norm.weight"))
    assert_refused(sharded, r"tensor not in the index .*found model\.norm\.weight in b\.safetensors")


@pytest.mark.parametrize("file", ["../model/a.safetensors", "/etc/passwd", "a.bin", 3])
def test_index_points_elsewhere(sharded, file: object) -> None:
    reindex(sharded, lambda names: names.update({"x": file}))
    assert_refused(sharded, "index is damaged")


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_damaged_index(sharded, text: str) -> None:
    (sharded / INDEX).write_text(text)
    assert_refused(sharded, "index.* is damaged")
