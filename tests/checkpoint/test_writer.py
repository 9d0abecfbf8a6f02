"""What is written loads in safetensors and transformers, and appears whole or not at all."""

import errno
import json
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tokenizers import Tokenizer, models

from evomerge.checkpoint import AddedToken, OutputTokenizer, TensorHeader, open_checkpoint, parse_size, write_checkpoint
from evomerge.errors import UsageError, exit_code
from evomerge.recipe import ModelRef

CONFIG = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}


def write(out: Path, weights: Mapping[str, torch.Tensor], **changes) -> None:
    headers = [TensorHeader(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in weights.items()]
    arguments = {
        "pieces": [(name, 0, tensor.reshape(-1)) for name, tensor in weights.items() if tensor.numel()],
        "headers": headers,
        "config": CONFIG,
        "tokenizer": None,
        "max_shard_size": 10**9,
        "card": "# card\n",
    } | changes
    write_checkpoint(out, arguments.pop("pieces"), **arguments)


def read_with_safetensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def assert_same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("max_shard_size", [1, 40, 10**9])
def test_safetensors_reads_it(tmp_path, weights, max_shard_size: int) -> None:
    write(tmp_path / "out", weights, max_shard_size=max_shard_size)
    assert_same(read_with_safetensors(tmp_path / "out"), weights)
    checkpoint = open_checkpoint(ModelRef(str(tmp_path / "out")))
    assert_same({name: checkpoint.read(name) for name in checkpoint.headers}, weights)
    assert checkpoint.config == CONFIG
    assert (tmp_path / "out" / "README.md").read_text() == "# card\n"
    assert os.listdir(tmp_path) == ["out"]


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool]
SHAPES = st.lists(st.integers(0, 5), max_size=3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=6), st.integers(1, 200))
def test_any_shapes_and_dtypes_read_back(drawn, max_shard_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"t{i}": torch.randint(0, 2, shape, generator=generator).to(dtype) for i, (dtype, shape) in enumerate(drawn)
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        write(out, weights, max_shard_size=max_shard_size)
        checkpoint = open_checkpoint(ModelRef(str(out)))
        for found in (read_with_safetensors(out), {name: checkpoint.read(name) for name in checkpoint.headers}):
            assert {name: (part.dtype, part.tolist()) for name, part in found.items()} == {
                name: (part.dtype, part.tolist()) for name, part in weights.items()
            }


def test_one_shard_has_no_index(tmp_path, weights) -> None:
    write(tmp_path / "out", weights)
    assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "config.json", "model.safetensors"]


def test_shards_hold_at_most_their_size_and_keep_the_order(tmp_path) -> None:
    weights = {f"t{i}": torch.full((size,), float(i)) for i, size in enumerate([4, 4, 2, 20, 1, 1])}
    write(tmp_path / "out", weights, max_shard_size=32)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * 32
    assert index["weight_map"] == {
        "t0": "model-00001-of-00004.safetensors",
        "t1": "model-00001-of-00004.safetensors",
        "t2": "model-00002-of-00004.safetensors",
        "t3": "model-00003-of-00004.safetensors",
        "t4": "model-00004-of-00004.safetensors",
        "t5": "model-00004-of-00004.safetensors",
    }


def test_pieces_may_come_in_any_order(tmp_path, weights) -> None:
    pieces = [
        (name, first, tensor.reshape(-1)[first : first + 5])
        for name, tensor in weights.items()
        for first in range(0, tensor.numel(), 5)
    ]
    write(tmp_path / "out", weights, pieces=reversed(pieces), max_shard_size=30)
    assert_same(read_with_safetensors(tmp_path / "out"), weights)


def test_the_memory_of_a_piece_is_free_again_when_the_one_after_the_next_is_asked_for(tmp_path) -> None:
    weights = {f"t{number}": torch.full((1 << 16,), float(number)) for number in range(9)}
    buffers = [torch.empty(1 << 16) for _ in range(2)]
    pieces = ((name, 0, buffers[turn % 2].copy_(tensor)) for turn, (name, tensor) in enumerate(weights.items()))
    write(tmp_path / "out", weights, pieces=pieces)
    assert_same(read_with_safetensors(tmp_path / "out"), weights)


def test_wide_elements_are_aligned(tmp_path) -> None:
    weights = {"flag": torch.tensor([True]), "half": torch.ones(3, dtype=torch.bfloat16), "wide": torch.ones(2)}
    write(tmp_path / "out", weights)
    raw = (tmp_path / "out" / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    offsets = {
        name: entry["data_offsets"][0] for name, entry in json.loads(raw[8 : 8 + size]).items() if name in weights
    }
    assert size % 8 == 0
    assert offsets == {"wide": 0, "half": 8, "flag": 14}


def test_an_empty_folder_is_filled(tmp_path, weights) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    write(tmp_path / "out", weights)
    assert_same(read_with_safetensors(tmp_path / "real"), weights)


def test_folders_on_the_way_are_made(tmp_path, weights) -> None:
    write(tmp_path / "a" / "b" / "out", weights)
    assert (tmp_path / "a" / "b" / "out" / "config.json").exists()


def assert_refused(message: str, *arguments, **changes) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        write(*arguments, **changes)
    assert "\n" not in str(caught.value)
    assert exit_code(caught.value) == 2


def test_what_exists_is_kept(tmp_path, weights) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    (tmp_path / "file").write_text("kept")
    for name in ("out", "file"):
        assert_refused("output exists .*; choose another folder", tmp_path / name, weights)
    assert os.listdir(tmp_path / "out") == ["mine"]


def test_a_folder_that_cannot_be_made(tmp_path, weights) -> None:
    (tmp_path / "file").write_text("")
    assert_refused("cannot write the checkpoint .*file/out", tmp_path / "file" / "out", weights)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path, weights) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert_refused("cannot write .*found Permission denied", tmp_path / "locked" / "out", weights)


def test_a_full_disk_is_seen_before_the_merge(tmp_path, weights, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    asked = []
    pieces = (asked.append(name) for name in weights)
    assert_refused("disk full .*expected 95 bytes, found 10 bytes free", tmp_path / "out", weights, pieces=pieces)
    assert asked == []
    assert os.listdir(tmp_path) == []


def test_the_tokenizer_needs_room_too(tmp_path, weights, monkeypatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "tokenizer.json").write_text("x" * 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(5000, 4000, 1000))
    message = "disk full .*expected 1,095 bytes, found 1,000 bytes free"
    assert_refused(message, tmp_path / "out", weights, tokenizer=OutputTokenizer(source))


def test_a_full_disk_names_what_a_killed_merge_has_left(tmp_path, weights, monkeypatch) -> None:
    left = tmp_path / ".my [out].0123abcd.partial"
    left.mkdir()
    (tmp_path / ".other.0123abcd.partial").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    message = re.escape(f"make room; left by a merge that was killed, unless one is running there: rm -r '{left}'")
    assert_refused(f"{message}$", tmp_path / "my [out]", weights)
    assert left.exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no file system here that has no room at all")
def test_a_folder_that_cannot_be_made_is_no_full_disk(weights) -> None:
    assert_refused("cannot write the checkpoint .*/proc/out", Path("/proc/out"), weights)


def test_a_folder_that_cannot_be_looked_at(tmp_path, weights) -> None:
    assert_refused("cannot look at the output .*found File name too long", tmp_path / ("x" * 300), weights)
    assert_refused("cannot look at the output .*found Could not determine home", Path("~nobody-here/out"), weights)
    assert_refused("cannot write the checkpoint .*found File name too long", tmp_path / ("x" * 250), weights)
    assert os.listdir(tmp_path) == []


def test_a_file_too_large_leaves_nothing(tmp_path, weights) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        assert_refused("cannot write the checkpoint .*found File too large", tmp_path / "out", weights)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


def test_a_changed_tokenizer_that_is_too_large_leaves_nothing(tmp_path, weights) -> None:
    vocabulary = {f"word{index}": index for index in range(1000)}
    source = tmp_path / "source"
    source.mkdir()
    Tokenizer(models.WordLevel(vocabulary, unk_token="word0")).save(str(source / "tokenizer.json"))
    tokenizer = OutputTokenizer(source, added=(AddedToken("<new>"),))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        message = "cannot write the checkpoint .*found File too large; nothing was left behind"
        assert_refused(message, tmp_path / "out", weights, tokenizer=tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["source"]


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, weights, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert_refused("cannot write the checkpoint .*found No space left on device", tmp_path / "out", weights)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_a_merge_that_fails_leaves_nothing_and_keeps_its_error(tmp_path, weights, error) -> None:
    def pieces() -> Iterator[tuple[str, int, torch.Tensor]]:
        name, tensor = next(iter(weights.items()))
        yield name, 0, tensor.reshape(-1)
        raise error

    with pytest.raises(error):
        write(tmp_path / "out", weights, pieces=pieces())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: items[1:], "never came: .*"),
        (lambda items: [*items, items[0]], "12 elements of torch.bfloat16 at 0 of "),
        (lambda items: [*items, ("x", *items[0][1:])], "'x' is not among the headers"),
        (lambda items: [(*items[0][:2], items[0][2].float()), *items[1:]], "12 elements of torch.float32 at 0 of "),
    ],
)
def test_pieces_must_be_those_of_the_headers(tmp_path, weights, change, message: str) -> None:
    pieces = [(name, 0, tensor.reshape(-1)) for name, tensor in weights.items() if tensor.numel()]
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "out", weights, pieces=change(pieces))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("2GiB", 2 * 2**30), ("7", 7), ("10kb", 10_000), ("1T", 10**12)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-5GB", "0", "0.1", "5 bytes", "5XB", "nan"])
def test_not_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text)
