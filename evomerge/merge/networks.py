"""The networks that a model consists of, told by its tensors' names: text, vision, audio, projector, encoder.

What no word of a name tells apart is the text network, so that embeddings, norm and head belong to it. The modules of a
recipe claim networks, by mergekit's names or others that are usual; or any part of a model, by a component of its
tensors' names.
"""

from collections.abc import Collection, Iterable, Mapping
from weakref import WeakKeyDictionary

from evomerge.checkpoint import Checkpoint, stack_of
from evomerge.errors import RecipeError, nearest

TEXT = "text"
WHOLE = "default"  # mergekit's name for the only module of a model

_MERGERS = ("merger", "deepstack_merger_list")  # projectors that Qwen-VL keeps inside the vision tower
_NAMES: Mapping[str, tuple[str, ...]] = {
    TEXT: ("text", "text_decoder", "text_model", "language_model", "decoder", "llm", "thinker"),
    "vision": ("vision", "vision_tower", "vision_model", "vision_encoder", "visual", "image_encoder"),
    "audio": ("audio", "audio_tower", "audio_model", "audio_encoder", "speech_encoder"),
    "projector": (
        "projector",
        "multi_modal_projector",
        "multimodal_projector",
        "mm_projector",
        "connector",
        "embed_vision",
        "embed_audio",
        *_MERGERS,
    ),
    "encoder": ("encoder",),
}
_NETWORK_OF = {name: network for network, names in _NAMES.items() for name in names}

_known: WeakKeyDictionary[Checkpoint, dict[str, str]] = WeakKeyDictionary()


def networks_of(checkpoint: Checkpoint) -> Mapping[str, str]:
    """The network of each tensor of a checkpoint, worked out once for each.

    The first telling component counts, so the encoder inside a vision tower is vision; but a merger is a projector. An
    encoder is a network of its own only beside a decoder that has layers.
    """
    if checkpoint not in _known:
        parts = {name: sorted(_path(name), key=lambda part: part not in _MERGERS) for name in checkpoint.headers}
        telling = {name: network for name, network in _NETWORK_OF.items() if network != TEXT}
        if not any("decoder" in parts[name] for name in parts if stack_of(name)):
            del telling["encoder"]
        _known[checkpoint] = {
            name: next((telling[part] for part in each if part in telling), TEXT) for name, each in parts.items()
        }
    return _known[checkpoint]


def claims(checkpoint: Checkpoint, modules: Collection[str]) -> dict[str, str]:
    """The module of a recipe that each tensor belongs to; tensors that none claims are left out."""
    if tuple(modules) == (WHOLE,):
        return dict.fromkeys(checkpoint.headers, WHOLE)
    of_network = {_NETWORK_OF[module]: module for module in modules if module in _NETWORK_OF}
    of_component = {module for module in modules if module not in _NETWORK_OF}
    claimed = {}
    for name, network in networks_of(checkpoint).items():
        module = next((part for part in _path(name) if part in of_component), None)
        module = module or of_network.get(network)
        if module is not None:
            claimed[name] = module
    return claimed


def check_modules(checkpoint: Checkpoint, modules: Iterable[str]) -> None:
    """Check that every module names a part of the model, and no two the same one.

    Raises:
        RecipeError: one does not; the remedy names the nearest.
    """
    names = tuple(modules)
    networks: dict[str, str] = {}
    for name in names:
        twin = networks.setdefault(_NETWORK_OF.get(name, name), name)
        if twin != name:
            raise RecipeError("network given twice", where="modules", found=f"{twin} and {name}, which are one network")
    found = set(claims(checkpoint, names).values())
    for name in names:
        if name not in found:
            parts = {part for tensor in checkpoint.headers for part in _path(tensor)}
            raise RecipeError(
                f"unknown module {name!r}",
                where="modules",
                expected=f"a part of {checkpoint.ref}",
                remedy=nearest(name, parts - {"weight", "bias"} | {WHOLE, *networks_of(checkpoint).values()}),
            )


def counted_as(checkpoint: Checkpoint, tensors: Iterable[str]) -> str:
    """The name by which a config counts the layers among `tensors` (see `depth`)."""
    networks = networks_of(checkpoint)
    with_layers = {network for name, network in networks.items() if stack_of(name)}
    if len(with_layers) == 1:
        return TEXT
    network = next((networks[name] for name in tensors if stack_of(name)), TEXT)
    return "decoder" if network == TEXT and "encoder" in with_layers else network


def _path(name: str) -> list[str]:
    """The components of a tensor's name up to its layer."""
    return (stack_of(name) or name).split(".")
