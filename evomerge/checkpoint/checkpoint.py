"""Checkpoints in the Hugging Face layout: config.json beside model.safetensors, or beside shards with an index."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml

from evomerge.checkpoint.adapter import open_adapter
from evomerge.checkpoint.embeddings import TEXT_KEYS, Embeddings, embeddings_of, with_vocab_size
from evomerge.checkpoint.folder import locate, read_json
from evomerge.checkpoint.layers import layer_of
from evomerge.checkpoint.shard import Shard, TensorHeader
from evomerge.checkpoint.tokenizer import OutputTokenizer
from evomerge.errors import ModelError
from evomerge.recipe import ModelRef

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

DEPTH_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


class Checkpoint(Protocol):
    """A model whose tensors are read one at a time: one on disk, or the result of an earlier stage of a recipe.

    Attributes:
        ref: the reference that it was opened by.
        tokenizer: its tokenizer, if it has one.
        config: its config.json.
        headers: name, dtype and shape of every tensor, in the order in which reading them is cheapest.
    """

    ref: ModelRef
    tokenizer: OutputTokenizer
    config: Mapping[str, Any]
    headers: Mapping[str, TensorHeader]

    @property
    def licence(self) -> str | None:
        """The licence that it states, such as `apache-2.0`; None if it states none."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What its user should know."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """The tensor, with the dtype and shape of its header, on the CPU. It must not be written to.

        Raises:
            ModelError: no tensor of this name.
        """
        ...

    def prefetch(self, name: str) -> None:
        """Have the system read a tensor's bytes in the background."""
        ...

    def release(self) -> None:
        """Give the memory that reads have filled back to the system; tensors that were read stay valid."""
        ...

    def digest(self) -> str:
        """SHA-256, in hex, that tells one model from another without reading all of it."""
        ...


class StoredCheckpoint:
    """A model on disk. Headers are read and checked at once, tensors when asked for; threads may share it.

    Attributes:
        ref, tokenizer, config: as of every checkpoint.
        folder: where its files are.
        headers: in file order, shard after shard.

    Raises:
        ModelError: the folder is incomplete or damaged, or its adapter does not fit.
    """

    def __init__(self, ref: ModelRef, folder: Path) -> None:
        self.ref = ref
        self.folder = folder
        self.tokenizer = OutputTokenizer(folder)
        self.config: Mapping[str, Any] = read_json(folder / "config.json")
        self._shards = _open_shards(folder)
        headers = {name: header for shard in self._shards.values() for name, header in shard.headers.items()}
        self._stored = headers
        self._adapter = None
        self.headers: Mapping[str, TensorHeader] = headers
        if ref.adapter:
            embeddings = embeddings_of(headers, self.config)
            self._adapter = open_adapter(ref.adapter, ref.adapter_revision, headers, embeddings)
            self.headers = headers | self._adapter.headers
            if embeddings is not None:
                self._fit(embeddings, unties=self._adapter.unties)

    def read(self, name: str) -> torch.Tensor:
        """The tensor, with the dtype and shape of its header, on the CPU.

        Without an adapter it is a view of the file, which must not be written to.

        Raises:
            ModelError: no tensor of this name.
        """
        if name not in self.headers:
            raise ModelError("tensor missing", where=self.ref, expected=name)
        stored = self._stored[name]
        tensor = self._shards[stored.shard].read(stored.name)
        return tensor if self._adapter is None else self._adapter.apply(name, tensor)

    def prefetch(self, name: str) -> None:
        """Have the system read a tensor's bytes in the background."""
        stored = self._stored[name]
        self._shards[stored.shard].prefetch(stored.name)

    def release(self) -> None:
        """Give the memory that reads have filled back to the system; tensors that were read stay valid."""
        for shard in self._all_shards:
            shard.release()

    def digest(self) -> str:
        """SHA-256, in hex, that tells one model from another without reading all of it.

        It covers config.json, the tokens and, of each tensor, name, dtype, shape and its first and last 4 KiB; with an
        adapter, the same of the adapter. A change in the middle of a large tensor alone does not show.
        """
        configs = [self.config, *([self._adapter.config] if self._adapter else [])]
        digest = hashlib.sha256(json.dumps([*configs, self.tokenizer.digest()], sort_keys=True).encode())
        for shard in self._all_shards:
            for name, header in shard.headers.items():
                digest.update(f"\n{name} {header.dtype} {header.shape}\n".encode())
                digest.update(shard.edges(name))
        return digest.hexdigest()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that its weights are read from."""
        return tuple(shard.path for shard in self._all_shards)

    @property
    def num_layers(self) -> int:
        """Number of layers, from config.json, or from the tensor names where it does not say."""
        for config in (self.config, self.config.get("text_config") or {}):
            for key in DEPTH_KEYS:
                if isinstance(config.get(key), int):
                    return int(config[key])
        return 1 + max((layer for layer in map(layer_of, self.headers) if layer is not None), default=-1)

    @cached_property
    def licence(self) -> str | None:
        """The licence that the model card's front matter names, such as `apache-2.0`."""
        try:
            opening, front, _ = (self.folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
            metadata = yaml.safe_load(front)
        except (OSError, ValueError, yaml.YAMLError):
            return None
        if opening or not isinstance(metadata, dict):
            return None
        licence = metadata.get("license")
        if licence == "other":
            licence = metadata.get("license_name", licence)
        return ", ".join(map(str, licence)) if isinstance(licence, list) else licence

    @property
    def warnings(self) -> tuple[str, ...]:
        """What its user should know."""
        trained_on = self._adapter.config.get("base_model_name_or_path") if self._adapter else None
        names = (self.ref.path, self.config.get("_name_or_path"))
        warnings = []
        if isinstance(trained_on, str) and not any(_last(trained_on) == _last(str(name)) for name in names):
            warnings.append(
                f"adapter {self.ref.adapter} was trained on {trained_on}, and is applied to {self.ref.path}"
            )
        if self._adapter is not None and self._adapter.unties:
            warnings.append(
                f"{self.ref.path} ties its head to its embedding, which adapter {self.ref.adapter} changes apart: "
                "the model has a head of its own"
            )
        return tuple(warnings)

    def _fit(self, embeddings: Embeddings, *, unties: bool) -> None:
        """Let config and head follow what an adapter has made of the embeddings."""
        config = dict(self.config)
        rows = self.headers[embeddings.tokens].shape[0]
        if rows != self._stored[embeddings.tokens].shape[0]:
            config = with_vocab_size(config, rows)
        if unties and embeddings.head is not None:
            untied = {"tie_word_embeddings": False}
            sections = [key for key, value in config.items() if key.startswith(TEXT_KEYS) and isinstance(value, dict)]
            config |= {key: config[key] | untied for key in sections if "tie_word_embeddings" in config[key]} | untied
            self._stored = self._stored | {embeddings.head: self._stored[embeddings.tokens]}
        self.config = config

    @property
    def _all_shards(self) -> list[Shard]:
        return [*self._shards.values(), *([self._adapter.shard] if self._adapter else [])]


def open_checkpoint(ref: ModelRef) -> StoredCheckpoint:
    """Open a local folder, or a hub repository at its revision, with its adapter if it has one.

    Raises:
        ModelError: no such model; not safetensors; a file is missing, truncated or damaged; a tensor is given twice
            or is not where the index says; the adapter does not fit.
    """
    return StoredCheckpoint(ref, locate(ref.path, ref.revision, _weight_files))


def _last(path: str) -> str:
    """The last part of a path or a hub id, by which a model is known wherever its files are."""
    return path.rstrip("/").rpartition("/")[2].lower()


def _weight_files(folder: Path) -> list[str]:
    if (folder / INDEX_FILE).exists() and not (folder / WEIGHTS_FILE).exists():
        return sorted(set(_weight_map(folder).values()))
    return [WEIGHTS_FILE]


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError("index is damaged", where=folder / INDEX_FILE, expected="a weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise ModelError(
                "index is damaged",
                where=folder / INDEX_FILE,
                expected=f"a safetensors file beside it for {name!r}",
                found=repr(file),
            )
    return weight_map


def _open_shards(folder: Path) -> dict[str, Shard]:
    if (folder / WEIGHTS_FILE).exists():
        return {WEIGHTS_FILE: Shard(folder / WEIGHTS_FILE)}
    if not (folder / INDEX_FILE).exists():
        _refuse_weights(folder)
    weight_map = _weight_map(folder)
    shards = {}
    for file in _weight_files(folder):
        if not (folder / file).exists():
            raise ModelError(
                "shard missing", where=folder / INDEX_FILE, expected=file, remedy="download the missing file"
            )
        shards[file] = Shard(folder / file)
    for file, shard in shards.items():
        for name in shard.headers:
            if weight_map.get(name) != file:
                raise _index_error(folder, name, file, weight_map.get(name))
    for name, file in weight_map.items():
        if name not in shards[file].headers:
            raise ModelError("tensor missing", where=folder / file, expected=f"{name}, as the index says")
    return shards


def _index_error(folder: Path, name: str, file: str, indexed: str | None) -> ModelError:
    if indexed is None:
        return ModelError("tensor not in the index", where=folder / INDEX_FILE, found=f"{name} in {file}")
    return ModelError(
        "tensor given twice", where=folder, expected=f"{name} in {indexed} alone", found=f"also in {file}"
    )


def _refuse_weights(folder: Path) -> None:
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".gguf", ".ckpt"))
    if others:
        raise ModelError(
            "not safetensors",
            where=folder,
            expected=f"{WEIGHTS_FILE} or {INDEX_FILE}",
            found=others[0],
            remedy="convert it with save_pretrained of transformers",
        )
    raise ModelError(
        "weights missing",
        where=folder,
        expected=f"{WEIGHTS_FILE} or {INDEX_FILE}",
        remedy="check that the folder is complete",
    )
