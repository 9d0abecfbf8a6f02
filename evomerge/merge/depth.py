"""How a config counts the layers of each network of a model, and the config of a model of another depth.

Encoder-decoders count both in one mapping under keys of their own (T5, BART, Whisper); models of several modalities
have a config for each (`text_config`, `vision_config`).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.checkpoint import DEPTH_KEYS
from evomerge.errors import ModelError
from evomerge.recipe import ModelRef

TEXT_SECTIONS = ("text_config", "llm_config", "language_config")
_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "text": TEXT_SECTIONS,
    "vision": ("vision_config", "visual_config", "vision_tower_config"),
    "audio": ("audio_config",),
    "encoder": ("encoder", "encoder_config"),
    "decoder": ("decoder", "decoder_config"),
}
_KEYS: Mapping[str, tuple[str, ...]] = {
    "text": DEPTH_KEYS,
    "vision": (*DEPTH_KEYS, "depth"),
    "audio": (*DEPTH_KEYS, "encoder_layers"),
    "encoder": ("encoder_layers", "num_encoder_layers", *DEPTH_KEYS),
    "decoder": ("decoder_layers", "num_decoder_layers"),
}
_BY_CHANCE = re.compile("architectures|token")  # in the names of lists that may be as long as there are layers
_LAYER_NUMBERS = (  # do not follow: what they say of layers is by number
    "attn_layer_indices",
    "cross_attention_layers",
    "first_k_dense_replace",
    "hybrid_override_pattern",
    "max_window_layers",
    "mlp_only_layers",
    "moe_layer_end_index",
    "moe_layer_start_index",
)
_OWN_CONFIG = ("text", "encoder", "decoder")  # networks that the top of a config may count

Path = tuple[str, ...]


def counted_layers(config: Mapping[str, Any], network: str = "text") -> int | None:
    """The layers of a network, None if the config does not count them."""
    return next((section[key] for _, section, key in _counts(config, network)), None)


def with_depth(
    config: Mapping[str, Any], network: str, layers: list[tuple[Mapping[str, Any], int]], reference: ModelRef
) -> dict[str, Any]:
    """The config of a model whose network has other layers.

    Lists with an entry for each layer, such as `layer_types`, follow.

    Args:
        config: the config to change; stays as it is.
        network: which network, `decoder` for the text network beside an encoder.
        layers: for each output layer the config of the model that leads it, and the layer's number there.
        reference: whose config it is, for errors.

    Raises:
        ModelError: the config does not count the layers of the network, or a leader's has no such list.
    """
    counts = list(_counts(config, network))
    if not counts:
        raise ModelError(
            "config does not count the layers",
            where=reference,
            expected=f"a depth of {network}",
            remedy="merge whole models",
        )
    changed = dict(config)
    for path, section, key in counts:
        new = dict(_at(changed, path))
        for name, value in section.items():
            if isinstance(value, list) and len(value) == section[key] and not _BY_CHANCE.search(name):
                new[name] = [_entry(_at(leader, path), name, layer, reference) for leader, layer in layers]
        new[key] = len(layers)
        changed = {**changed, path[0]: new} if path else new
    return changed


def fixed_layers(config: Mapping[str, Any], network: str) -> tuple[str, ...]:
    """Settings of a network that name layers by their numbers, and that `with_depth` leaves as they are."""
    return tuple(
        dict.fromkeys(
            name
            for _, section, _ in _counts(config, network)
            for name in _LAYER_NUMBERS
            if section.get(name) and (name != "max_window_layers" or section.get("use_sliding_window"))
        )
    )


def _counts(config: Mapping[str, Any], network: str) -> Iterator[tuple[Path, Mapping[str, Any], str]]:
    """Every place where the layers are counted: path of the mapping in the config, the mapping, the key."""
    paths: list[Path] = [(name,) for name in _SECTIONS[network] if isinstance(config.get(name), Mapping)]
    if network in _OWN_CONFIG:
        paths.append(())
    for path in paths:
        section = _at(config, path)
        keys = DEPTH_KEYS + _KEYS[network] if path else _KEYS[network]
        for key in dict.fromkeys(keys):
            if isinstance(section.get(key), int):
                yield path, section, key


def _at(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    section: Any = config
    for name in path:
        section = section.get(name) if isinstance(section, Mapping) else None
    return section if isinstance(section, Mapping) else {}


def _entry(config: Mapping[str, Any], name: str, layer: int, reference: ModelRef) -> Any:
    entries = config.get(name)
    if not isinstance(entries, list) or layer >= len(entries):
        raise ModelError(
            "configs differ", where=name, expected=f"an entry for layer {layer}, as in {reference}", found=repr(entries)
        )
    return entries[layer]
