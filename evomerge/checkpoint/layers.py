"""Layer numbers in tensor names."""

import re

_LAYER = re.compile(r"(?P<stack>(?:^|\.)(?:layers|layer|blocks|block|h)\.)(?P<index>\d+)(?=\.)")


def layer_of(name: str) -> int | None:
    """The layer a tensor belongs to, from `layers.N.`, `layer.N.`, `blocks.N.`, `block.N.` or `h.N.` in its name.

    The first of these in the name counts: `encoder.block.3.layer.0.k.weight` belongs to layer 3. None is a tensor
    outside of the layers.
    """
    match = _LAYER.search(name)
    return int(match["index"]) if match else None


def rename_layer(name: str, index: int) -> str:
    """The name of the same tensor in layer `index`; a name outside of the layers stays as it is."""
    return _LAYER.sub(rf"\g<stack>{index}", name, count=1)
