"""The parts of a checkpoint, told by its tensors' names: what comes before the layers, the layers, and the rest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch

from evomerge.checkpoint import Checkpoint, TensorHeader, dtype_name, layer_of, rename_layer, stack_of
from evomerge.checkpoint.embeddings import HEADS, TOKEN_EMBEDDINGS, says_tied
from evomerge.errors import ModelError
from evomerge.merge.depth import counted_layers
from evomerge.merge.networks import TEXT, claims, counted_as, networks_of

Layer = Mapping[str, str]  # the name a tensor has in layer 0 -> its name in this layer

_EMBEDDING_WORDS = ("embed", "wte", "wpe")
HEAD_BIASES = (  # which a checkpoint has even if its head is tied
    "lm_head.bias",
    "lm_head.decoder.bias",
    "predictions.bias",
    "predictions.decoder.bias",
    "vocab_projector.bias",
)
_DERIVED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")
_QUANTIZED = (".qweight", ".qzeros", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".absmax", ".SCB")


@dataclass(frozen=True)
class Layout:
    """Names of a checkpoint's tensors by their place.

    Attributes:
        before: embeddings.
        stacks: name of a stack of layers, such as `model.layers` -> its layers. Most models have one stack.
        past: layers past those that the config counts, such as DeepSeek-V3's for the prediction of further tokens.
        after: what follows the layers, without the head.
        embedding: the token embedding, None if there is none of a known name.
        head: the output embedding, None if the checkpoint has none.
        tied: it has no head of its own: the output embedding, if there is one, is the token embedding.
    """

    before: tuple[str, ...]
    stacks: Mapping[str, tuple[Layer, ...]]
    past: tuple[str, ...]
    after: tuple[str, ...]
    embedding: str | None
    head: str | None
    tied: bool

    @property
    def depth(self) -> int:
        """The number of layers of the only stack; of the first one of several."""
        return next(map(len, self.stacks.values()), 0)


@dataclass(frozen=True)
class Selection:
    """Which of a model's tensors are meant.

    Attributes:
        modules: the modules of a recipe, by which tensors are told apart; none to tell them apart by networks.
        only: the modules or networks whose tensors are meant; None for all.
    """

    modules: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None

    def owners(self, checkpoint: Checkpoint) -> Mapping[str, str]:
        """The module or network of every tensor that has one."""
        return claims(checkpoint, self.modules) if self.modules else networks_of(checkpoint)

    def names(self, checkpoint: Checkpoint) -> Iterable[str]:
        """The tensors that are meant, in file order."""
        if self.only is None:
            return checkpoint.headers
        return [name for name, owner in self.owners(checkpoint).items() if owner in self.only]


EVERYTHING = Selection()

_known: WeakKeyDictionary[Checkpoint, dict[Selection, Layout]] = WeakKeyDictionary()


def layout_of(checkpoint: Checkpoint, selection: Selection = EVERYTHING) -> Layout:
    """The layout of a checkpoint or of a part of it, worked out once for each.

    Raises:
        ModelError: a layer that the config counts, or one below another, has no tensors; a tensor is quantized.
    """
    layouts = _known.setdefault(checkpoint, {})
    if selection not in layouts:
        layouts[selection] = _layout(checkpoint, selection.names(checkpoint))
    return layouts[selection]


def is_derived(header: TensorHeader) -> bool:
    """Whether a tensor is a mask or a frequency of an old checkpoint, which every model computes."""
    return header.name.endswith(_DERIVED) and (len(header.shape) != 1 or "rotary" in header.name)


def _layout(checkpoint: Checkpoint, names: Iterable[str]) -> Layout:
    outside: list[str] = []
    found: dict[str, dict[int, dict[str, str]]] = {}
    networks = networks_of(checkpoint)
    for name in names:
        header = checkpoint.headers[name]
        if is_derived(header):
            continue
        _refuse_quantized(checkpoint, header)
        layer, stack = layer_of(name), stack_of(name)
        if layer is None or stack is None or networks[name] == "projector":  # whose numbers may have gaps
            outside.append(name)
        else:
            found.setdefault(stack, {}).setdefault(layer, {})[rename_layer(name, 0)] = name
    network = counted_as(checkpoint, names)
    counted = counted_layers(checkpoint.config, network) if len(found) == 1 and network in (TEXT, "decoder") else None
    past: list[str] = []
    for stack, layers in found.items():
        depth = max(layers) + 1 if counted is None else counted
        missing = sorted(set(range(max(depth, max(layers) + 1))) - set(layers))
        if missing:
            raise ModelError(
                "layers missing",
                where=checkpoint.ref,
                expected=f"{depth} layers in {stack}",
                found=f"no tensor of layer {', '.join(map(str, missing))}",
                remedy="download the model again",
            )
        for layer in range(depth, max(layers) + 1):
            past += layers.pop(layer).values()
    head = next((name for name in outside if name.endswith(HEADS)), None)
    return Layout(
        before=tuple(name for name in outside if name != head and _is_embedding(name)),
        stacks={stack: tuple(layers[index] for index in range(len(layers))) for stack, layers in found.items()},
        past=tuple(past),
        after=tuple(name for name in outside if name != head and not _is_embedding(name)),
        embedding=next((name for name in outside if name != head and name.endswith(TOKEN_EMBEDDINGS)), None),
        head=head,
        tied=head is None or says_tied(checkpoint.config),
    )


def _is_embedding(name: str) -> bool:
    return any(word in name for word in _EMBEDDING_WORDS) or name.endswith(TOKEN_EMBEDDINGS)


def _refuse_quantized(checkpoint: Checkpoint, header: TensorHeader) -> None:
    small = header.dtype.itemsize == 1 and header.dtype != torch.bool
    if header.name.endswith(_QUANTIZED) or (small and (header.dtype.is_floating_point or len(header.shape) > 1)):
        raise ModelError(
            "quantized tensor",
            where=f"{checkpoint.ref}: {header.name}",
            found=dtype_name(header.dtype),
            remedy="dequantize it first",
        )
