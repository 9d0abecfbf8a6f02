"""Write a checkpoint as a stream: one tensor in memory at a time, and the folder appears whole or not at all."""

import json
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from evomerge.checkpoint.checkpoint import INDEX_FILE, WEIGHTS_FILE
from evomerge.checkpoint.dtypes import SAFETENSORS_NAMES
from evomerge.checkpoint.shard import TensorHeader
from evomerge.checkpoint.tokenizer import OutputTokenizer
from evomerge.errors import UsageError

_UNITS = ("", "K", "M", "G", "T")


def parse_size(text: str) -> int:
    """Bytes of a size such as `5GB`, `500MB`, `2GiB` or `1000`; KB is 1000 bytes and KiB 1024.

    Raises:
        UsageError: not a size of at least one byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    size = 0
    if match:
        number, unit, binary = match.groups()
        size = int(float(number) * (1024 if binary else 1000) ** _UNITS.index(unit.upper()))
    if size < 1:
        raise UsageError("not a size", expected="a number and a unit, such as 5GB", found=repr(text))
    return size


def check_output(out: Path) -> Path:
    """The resolved path of a folder that is to be made.

    Raises:
        UsageError: it exists and is not empty, it is a mount point, or it cannot be looked at.
    """
    try:
        out = out.expanduser().resolve()
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except (OSError, RuntimeError) as error:  # no permission, a name too long; no such home, a loop of links
        reason = getattr(error, "strerror", None) or error
        raise UsageError("cannot look at the output", where=out, found=reason, remedy="choose another folder") from None
    if taken:
        raise UsageError("output exists", where=out, remedy="choose another folder, or remove this one")
    if os.path.ismount(out):  # what is made beside it could not be renamed to it
        raise UsageError("output is a mount point", where=out, remedy="name a folder inside it")
    return out


def leftovers(out: Path) -> str | None:
    """How to remove the hidden folders that killed merges into `out`, a resolved path, have left; None without any.

    They are only named: a process, on whatever machine, may still be writing there.
    """
    pattern = re.compile(re.escape(f".{out.name}.") + r"[0-9a-f]{8}\.partial")
    try:
        found = sorted(str(path) for path in out.parent.iterdir() if pattern.fullmatch(path.name))
    except OSError:  # the parent is yet to be made, or may be written and not listed
        return None
    remove = shlex.join(["rm", "-r", *found])
    return f"left by a merge that was killed, unless one is running there: {remove}" if found else None


def write_checkpoint(
    out: Path,
    pieces: Iterable[tuple[str, int, torch.Tensor]],
    *,
    headers: Sequence[TensorHeader],
    config: Mapping[str, Any],
    tokenizer: OutputTokenizer | None,
    max_shard_size: int,
    card: str,
) -> None:
    """Write a Hugging Face checkpoint.

    All goes into a hidden folder beside `out`, is flushed to the disk, and is renamed at the end; a failure removes
    it. A process that is killed leaves the hidden folder `.<name>.<random>.partial`, and never a part of `out`; see
    `leftovers`.

    Args:
        out: the folder to make; it may exist if it is empty.
        pieces: (name, place of the first element, (m,) elements) until every element of every tensor of `headers` came
            once, in its dtype, on the CPU. A piece is written while the next one is made, and its memory is free again
            when the one after that is asked for.
        headers: name, dtype and shape of every tensor, in the order that the shards are to have.
        config: what config.json is to say.
        tokenizer: what to write beside the weights, with its chat template and the generation config.
        max_shard_size: most bytes of data in a shard, unless a single tensor is larger; at least 1.
        card: the model card, for README.md.

    Raises:
        UsageError: `out` exists and is not empty, or it cannot be written (read-only, disk full).
        ValueError: `pieces` and `headers` are not the same.
    """
    out = check_output(out)
    partial = out.parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    try:
        with _writing(out):
            needed = sum(header.nbytes for header in headers) + (0 if tokenizer is None else tokenizer.nbytes)
            out.parent.mkdir(parents=True, exist_ok=True)
            left = leftovers(out)
            partial.mkdir()
            _check_space(out.parent, needed, left)
            places = _lay_out(partial, headers, max_shard_size)
        _write_pieces(partial, out, places, pieces)
        with _writing(out):
            _write_json(partial / "config.json", config)
            (partial / "README.md").write_text(card, encoding="utf-8")
            if tokenizer is not None:
                tokenizer.save(partial)
            for path in partial.rglob("*"):
                _flush(path)
            partial.rename(out)
        with suppress(OSError):  # not every file system flushes folders, and all is there
            _flush(out.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _check_space(folder: Path, needed: int, left: str | None) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        remedy = "make room" + (f"; {left}" if left else "")
        raise UsageError(
            "disk full", where=folder, expected=f"{needed:,} bytes", found=f"{free:,} bytes free", remedy=remedy
        )


def _lay_out(folder: Path, headers: Sequence[TensorHeader], max_shard_size: int) -> dict[str, tuple[TensorHeader, int]]:
    """Make the shards, all but their data, and the index; tell where each tensor goes in its file."""
    shards: list[list[TensorHeader]] = [[]]
    filled = 0
    for header in headers:
        if shards[-1] and filled + header.nbytes > max_shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(header)
        filled += header.nbytes
    places: dict[str, tuple[TensorHeader, int]] = {}
    for number, shard in enumerate(shards, start=1):
        file = WEIGHTS_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        # Wide elements first, so that each tensor lies at a multiple of its element size.
        ordered = [replace(header, shard=file) for header in sorted(shard, key=lambda header: -header.dtype.itemsize)]
        places |= _create_shard(folder / file, ordered)
    if len(shards) > 1:
        total = {"total_size": sum(header.nbytes for header in headers)}
        weight_map = {name: header.shard for name, (header, _) in places.items()}
        _write_json(folder / INDEX_FILE, {"metadata": total, "weight_map": weight_map})
    return places


def _create_shard(path: Path, headers: Sequence[TensorHeader]) -> dict[str, tuple[TensorHeader, int]]:
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for header in headers:
        start, end = end, end + header.nbytes
        document[header.name] = {
            "dtype": SAFETENSORS_NAMES[header.dtype],
            "shape": list(header.shape),
            "data_offsets": [start, end],
        }
    raw = json.dumps(document, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    return {header.name: (header, 8 + len(raw) + document[header.name]["data_offsets"][0]) for header in headers}


def _write_pieces(
    folder: Path,
    out: Path,
    places: Mapping[str, tuple[TensorHeader, int]],
    pieces: Iterable[tuple[str, int, torch.Tensor]],
) -> None:
    """Write each piece while the next one is made."""
    missing = {name: header.size for name, (header, _) in places.items()}
    last: Future[None] | None = None
    with ExitStack() as stack, ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
        files: dict[str, BinaryIO] = {}
        for name, first, piece in pieces:
            if name not in places:
                raise ValueError(f"{name!r} is not among the headers")
            header, start = places[name]
            missing[name] -= piece.numel()
            if piece.dtype != header.dtype or missing[name] < 0:
                raise ValueError(f"{piece.numel()} elements of {piece.dtype} at {first} of {header}")
            with _writing(out):
                if last is not None:
                    last.result()
                if header.shard not in files:
                    files[header.shard] = stack.enter_context((folder / header.shard).open("r+b", buffering=0))
                file, offset = files[header.shard], start + first * header.dtype.itemsize
                last = writer.submit(_write_at, file, offset, piece)
        with _writing(out):
            if last is not None:
                last.result()
            stack.close()
    if any(missing.values()):
        raise ValueError(f"tensors that never came: {sorted(name for name in missing if missing[name])}")


def _write_at(file: BinaryIO, offset: int, piece: torch.Tensor) -> None:
    raw = piece.view(torch.uint8).numpy().data
    while raw:
        written = os.pwrite(file.fileno(), raw, offset)
        raw, offset = raw[written:], offset + written


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            "cannot write the checkpoint", where=out, found=error.strerror or error, remedy="nothing was left behind"
        ) from None
