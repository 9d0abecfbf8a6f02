"""The parts of a checkpoint, told by its tensors' names: what comes before the layers, the layers, and the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from evomerge.checkpoint import DEPTH_KEYS, Checkpoint, layer_of, rename_layer
from evomerge.errors import ModelError

Layer = Mapping[str, str]  # the name a tensor has in layer 0 -> its name in this layer

_EMBEDDING_WORDS = ("embed", "wte", "wpe")
_TOKEN_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
)
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
_DERIVED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")


@dataclass(frozen=True)
class Layout:
    """Names of a checkpoint's tensors by their place.

    Attributes:
        before: embeddings.
        stacks: name of a stack of layers, such as `model.layers` -> its layers. Most models have one stack.
        after: what follows the layers, without the head.
        embedding: the token embedding, None if there is none of a known name.
        head: the output embedding, None if the checkpoint has none.
        tied: the output embedding is the token embedding.
    """

    before: tuple[str, ...]
    stacks: Mapping[str, tuple[Layer, ...]]
    after: tuple[str, ...]
    embedding: str | None
    head: str | None
    tied: bool


_known: WeakKeyDictionary[Checkpoint, Layout] = WeakKeyDictionary()


def layout_of(checkpoint: Checkpoint) -> Layout:
    """The layout of a checkpoint, worked out once for each.

    Raises:
        ModelError: a layer that the config counts, or one below another, has no tensors.
    """
    if checkpoint not in _known:
        _known[checkpoint] = _layout(checkpoint)
    return _known[checkpoint]


def depth_key(config: Mapping[str, Any]) -> str | None:
    """The config key that counts the layers."""
    return next((key for key in DEPTH_KEYS if isinstance(config.get(key), int)), None)


def _layout(checkpoint: Checkpoint) -> Layout:
    outside: list[str] = []
    found: dict[str, dict[int, dict[str, str]]] = {}
    for name, header in checkpoint.headers.items():
        if name.endswith(_DERIVED) and (len(header.shape) != 1 or "rotary" in name):
            continue  # masks and frequencies of old checkpoints, which every model computes
        layer = layer_of(name)
        if layer is None:
            outside.append(name)
        else:
            first = rename_layer(name, 0)
            same_stack = found.setdefault(first.partition(".0.")[0], {})
            same_stack.setdefault(layer, {})[first] = name
    key = depth_key(checkpoint.config)
    for stack, layers in found.items():
        depth = checkpoint.config[key] if key and len(found) == 1 else max(layers) + 1
        missing = sorted(set(range(max(depth, max(layers) + 1))) - set(layers))
        if missing:
            raise ModelError(
                "layers missing",
                where=checkpoint.ref,
                expected=f"{depth} layers in {stack}",
                found=f"no tensor of layer {', '.join(map(str, missing))}",
                remedy="download the model again",
            )
    head = next((name for name in outside if name.endswith(_HEADS)), None)
    return Layout(
        before=tuple(name for name in outside if name != head and _is_embedding(name)),
        stacks={stack: tuple(layers[index] for index in range(len(layers))) for stack, layers in found.items()},
        after=tuple(name for name in outside if name != head and not _is_embedding(name)),
        embedding=next((name for name in outside if name != head and name.endswith(_TOKEN_EMBEDDINGS)), None),
        head=head,
        tied=head is None or checkpoint.config.get("tie_word_embeddings") is True,
    )


def _is_embedding(name: str) -> bool:
    return any(word in name for word in _EMBEDDING_WORDS)
