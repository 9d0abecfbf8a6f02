"""LoRA adapters of PEFT, merged into the base's tensors as these are read.

W' = W + scaling * B @ A with scaling = alpha / r, or alpha / sqrt(r) for rsLoRA.
An adapter changes embedding and head each on its own, also where the base ties them, as PEFT does while it trains; the
model is then no longer tied, unless both end up alike.
References: Hu et al., LoRA, arXiv 2106.09685, section 4.1; Kalajdzievski, rsLoRA, arXiv 2312.03732.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from evomerge.checkpoint.embeddings import HEADS, Embeddings
from evomerge.checkpoint.folder import locate, read_json
from evomerge.checkpoint.shard import Shard, TensorHeader
from evomerge.errors import ModelError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(?:\.weight)?")
_MERGE_FIRST = "merge it into its base with PEFT first"
_PLAIN_INITS = (None, True, False, "gaussian", "eva")
_UNSUPPORTED = (
    "alora_invocation_tokens",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)


@dataclass(frozen=True)
class _Delta:
    a: str
    b: str
    scaling: float
    transposed: bool


class Adapter:
    """A LoRA adapter over a base.

    Attributes:
        shard: the adapter's own tensors.
        config: its adapter_config.json.
        headers: the headers of the base's tensors that it changes: float32 where a product is added, else as stored;
            with the head, changed or not, where `unties`.
        unties: the base ties its head to its embedding, and the adapter does not change them alike.
    """

    def __init__(self, folder: Path, base: Mapping[str, TensorHeader], embeddings: Embeddings | None) -> None:
        self.config = read_json(folder / CONFIG_FILE)
        self._folder = folder
        self._check_config()
        self.shard = Shard(folder / WEIGHTS_FILE)
        self.headers: dict[str, TensorHeader] = {}
        self._replacements: dict[str, str] = {}
        self._deltas: dict[str, _Delta] = {}
        if embeddings is not None and embeddings.tied and embeddings.head is not None:
            base = {**base, embeddings.head: replace(base[embeddings.tokens], name=embeddings.head)}
        self._pair(base, embeddings)
        self.unties = embeddings is not None and self._check_embeddings(base, embeddings)

    def apply(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The base's tensor `name` with the adapter on it, in the dtype of its header; `tensor` stays as it is."""
        if name in self._replacements:
            tensor = self.shard.read(self._replacements[name])
        delta = self._deltas.get(name)
        if delta is None:
            return tensor
        product = self.shard.read(delta.b).float() @ self.shard.read(delta.a).float()
        return torch.add(tensor.float(), product.T if delta.transposed else product, alpha=delta.scaling)

    def _check_config(self) -> None:
        kind, init = self.config.get("peft_type"), self.config.get("init_lora_weights")
        if kind != "LORA":
            raise ModelError("unsupported adapter", where=self._folder, expected="peft_type LORA", found=repr(kind))
        for key in _UNSUPPORTED:
            if self.config.get(key):
                raise ModelError("unsupported adapter", where=self._folder, found=key, remedy=_MERGE_FIRST)
        if init not in _PLAIN_INITS:
            # PiSSA, OLoRA, LoftQ and their like train on a base that they have changed.
            raise ModelError(
                "unsupported adapter", where=self._folder, found=f"init_lora_weights {init}", remedy=_MERGE_FIRST
            )

    def _pair(self, base: Mapping[str, TensorHeader], embeddings: Embeddings | None) -> None:
        factors: dict[str, dict[str, str]] = {}
        by_token = set()
        for stored in self.shard.headers:
            match = _FACTOR.fullmatch(stored)
            if ".original_module." in stored:  # beside the trained one, which replaces it
                continue
            if match is None:
                name = stored.removeprefix("base_model.model.")
                name = re.sub(r"\.(modules_to_save|base_layer)(?=\.)", "", name)
                self._replacements[name] = stored
            else:
                name = match["module"].removeprefix("base_model.model.").removesuffix(".base_layer") + ".weight"
                factors.setdefault(name, {})[match["factor"]] = stored
                if match["embedding"]:
                    by_token.add(name)
        for name in (*self._replacements, *factors):
            if name not in base:
                if embeddings is not None and embeddings.tied and name.endswith(HEADS):
                    raise self._tied(embeddings, name)
                raise ModelError(
                    "adapter does not fit its base",
                    where=self._folder,
                    expected=f"a tensor {name!r} in the base",
                    remedy=self._remedy,
                )
        if embeddings is not None and embeddings.tied and embeddings.head is not None:
            self._share_base_layer(embeddings.tokens, embeddings.head, factors)
        for name, stored in self._replacements.items():
            self.headers[name] = replace(self.shard.headers[stored], name=name)
        for name, pair in factors.items():
            header = self.headers.get(name, base[name])
            self._deltas[name] = self._delta(header, pair, name in by_token)
            self.headers[name] = replace(header, dtype=torch.float32, widened_from=header.stored)

    def _share_base_layer(self, tokens: str, head: str, factors: Collection[str]) -> None:
        """Replace a tied embedding or head, of which the file has nothing, by the layer under the other's factors.

        PEFT stores that layer, resized or not, with a LoRA on one of the two; the other one still is that layer.
        """
        for one, other in ((tokens, head), (head, tokens)):
            stored = self._replacements.get(one, "")
            if ".base_layer." in stored and other not in factors:
                self._replacements.setdefault(other, stored)

    def _check_embeddings(self, base: Mapping[str, TensorHeader], embeddings: Embeddings) -> bool:
        """Whether token embedding and head are tied no longer; a tied head that is as the embedding is dropped."""
        tokens, head = embeddings.tokens, embeddings.head
        if not {tokens, head} & self.headers.keys():
            return False
        if head is None:
            if embeddings.tied:
                raise self._tied(embeddings, tokens)
            return False
        if embeddings.tied and self._alike(tokens, head):
            for known in (self.headers, self._replacements, self._deltas):
                known.pop(head, None)
            return False
        shapes = [self.headers.get(name, base[name]).shape for name in (tokens, head)]
        if base[tokens].shape == base[head].shape and shapes[0] != shapes[1]:
            raise ModelError(
                "adapter does not fit its base",
                where=self._folder,
                expected=f"{tokens} and {head} of one shape" + (", as the base ties them" if embeddings.tied else ""),
                found=shapes,
                remedy=_MERGE_FIRST,
            )
        if embeddings.tied:
            self.headers.setdefault(head, base[head])
        return embeddings.tied

    def _alike(self, one: str, other: str) -> bool:
        """Whether two tensors that are one in the base are alike with the adapter."""
        parts = [(self._replacements.get(name), self._deltas.get(name)) for name in (one, other)]
        (first, delta), (second, twin) = parts
        if (first is None, delta is None) != (second is None, twin is None):
            return False
        pairs = [] if first is None or second is None else [(self.shard.read(first), self.shard.read(second))]
        if delta is not None and twin is not None:
            if delta.scaling != twin.scaling:
                return False
            pairs += zip(self._factors(delta), self._factors(twin), strict=True)
        alike = all(left.dtype == right.dtype and torch.equal(left, right) for left, right in pairs)
        self.shard.release()
        return alike

    def _factors(self, delta: _Delta) -> tuple[torch.Tensor, torch.Tensor]:
        """The two matrices whose product is added to a tensor."""
        b, a = self.shard.read(delta.b), self.shard.read(delta.a)
        return (a.T, b.T) if delta.transposed else (b, a)

    def _tied(self, embeddings: Embeddings, name: str) -> ModelError:
        return ModelError(
            "unsupported adapter",
            where=self._folder,
            found=f"a change of {name}, where the base ties its head to {embeddings.tokens}",
            remedy=_MERGE_FIRST,
        )

    def _delta(self, base: TensorHeader, pair: Mapping[str, str], embedding: bool) -> _Delta:
        shapes = {factor: self.shard.headers[stored].shape for factor, stored in pair.items()}
        transposed = embedding or bool(self.config.get("fan_in_fan_out"))
        shape = tuple(reversed(base.shape)) if transposed else base.shape
        rank = self._of_module("rank_pattern", base.name, self.config.get("r"))
        alpha = self._of_module("alpha_pattern", base.name, self.config.get("lora_alpha"))
        if shapes.keys() == {"A", "B"} and (shapes["A"][:1], shapes["B"][1:]) != ((rank,), (rank,)):
            raise ModelError(
                "adapter rank mismatch",
                where=f"{self._folder}: {base.name}",
                expected=f"factors of rank {rank}, as {CONFIG_FILE} says",
                found=shapes,
                remedy="save the adapter again",
            )
        wanted = {"A": (rank, *shape[1:]), "B": (*shape[:1], rank)}
        if shapes != wanted or len(shape) != 2:
            raise ModelError(
                "adapter does not fit its base",
                where=f"{self._folder}: {base.name}",
                expected=f"factors of shape {wanted}",
                found=shapes,
                remedy=self._remedy,
            )
        return _Delta(
            pair["A"], pair["B"], alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank), transposed
        )

    @property
    def _remedy(self) -> str | None:
        trained_on = self.config.get("base_model_name_or_path")
        return f"it was trained on {trained_on}" if trained_on else None

    def _of_module(self, key: str, name: str, default: Any) -> Any:
        module = name.removesuffix(".weight")
        patterns = self.config.get(key) or {}
        number = next((patterns[entry] for entry in patterns if re.fullmatch(rf"(.*\.)?({entry})", module)), default)
        if isinstance(number, bool) or not isinstance(number, int | float) or number <= 0:
            raise ModelError("damaged adapter", where=self._folder, expected="r and lora_alpha above 0", found=number)
        return number


def open_adapter(
    path: str, revision: str | None, base: Mapping[str, TensorHeader], embeddings: Embeddings | None
) -> Adapter:
    """Open a PEFT LoRA adapter over the tensors of `base`, of which some are its embeddings.

    Raises:
        ModelError: it is missing or damaged, of an unsupported kind, or its factors do not fit the base.
    """
    folder = locate(path, revision, lambda _: [WEIGHTS_FILE])
    if not (folder / WEIGHTS_FILE).exists() and (folder / "adapter_model.bin").exists():
        raise ModelError("not safetensors", where=folder, found="adapter_model.bin", remedy="save it as safetensors")
    return Adapter(folder, base, embeddings)
