"""Layer numbers in tensor names."""

import re
from functools import lru_cache

_LAYER = re.compile(r"(?P<stack>(?:^|\.)(?:layers|layer|blocks|block|resblocks|h)\.)(?P<index>\d+)(?=\.)")


def layer_of(name: str) -> int | None:
    """The layer a tensor belongs to, from `layers.N.`, `layer.N.`, `blocks.N.`, `block.N.`, `resblocks.N.` or `h.N.`.

    The first of these in the name counts: `encoder.block.3.layer.0.k.weight` belongs to layer 3. None is a tensor
    outside of the layers.
    """
    match = _LAYER.search(name)
    return int(match["index"]) if match else None


@lru_cache(maxsize=1 << 16)  # a search asks for the same names with every candidate
def rename_layer(name: str, index: int) -> str:
    """The name of the same tensor in layer `index`; a name outside of the layers stays as it is."""
    return _LAYER.sub(rf"\g<stack>{index}", name, count=1)


@lru_cache(maxsize=1 << 16)
def stack_of(name: str) -> str | None:
    """The stack of layers that a tensor belongs to, such as `model.layers`; None for a tensor outside of the layers."""
    match = _LAYER.search(name)
    return name[: match.start("index") - 1] if match else None
