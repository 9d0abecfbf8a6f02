"""Which tensors of a model each group of layers, or each knot of a gradient, and each component holds."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from evomerge.errors import ConfigError, nearest
from evomerge.genome.config import GenomeConfig

_EMBEDDING = re.compile(r"embed(?!_out)|wte|wpe")  # goes with the first layers; all else outside of them with the last


@dataclass(frozen=True)
class ModelShape:
    """What a genome needs to know of the models it merges.

    Attributes:
        num_layers: number of layers.
        tensor_names: every tensor of the checkpoint.
    """

    num_layers: int
    tensor_names: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The places that have parameters of their own.

    Attributes:
        ranges: [first, end) of each layer group; of shape `smooth` a single range.
        places: a name for each group, or for each knot.
        components: filters, the tensors that fit none of them being None, which comes last.
        effective: each (place, component) that at least one tensor depends on, in order.
    """

    ranges: tuple[tuple[int, int], ...]
    places: tuple[str, ...]
    components: tuple[str | None, ...]
    effective: tuple[tuple[int, str | None], ...]


def make_layout(config: GenomeConfig, shape: ModelShape) -> Layout:
    """Lay a genome out over a model.

    Raises:
        ConfigError: groups that do not cover the layers, more groups than layers, or a component without tensors.
    """
    from evomerge.checkpoint.layers import layer_of  # brings torch, which whoever only reads a config can do without

    ranges = _ranges(config, shape.num_layers)
    components = (*config.components, None)
    if config.shape == "smooth":
        knots = len(ranges)
        places = tuple(f"knot_{knot}" for knot in range(knots))
        ranges = ((0, shape.num_layers),)
        effective = {
            (knot, _component(name, components))
            for name in shape.tensor_names
            for knot in _knots(layer_of(name), shape.num_layers, knots)
        }
    else:
        places = tuple(f"layers_{first}_{end}" for first, end in ranges)
        effective = {
            (_group(name, layer_of(name), ranges), _component(name, components)) for name in shape.tensor_names
        }
    for component in config.components:
        if not any(component == found for _, found in effective):
            parts = sorted({part for name in shape.tensor_names for part in name.split(".") if not part.isdigit()})
            raise ConfigError(
                "component without tensors of its own",
                where=f"genome.components: {component}",
                expected="part of a tensor's name that no earlier component has taken",
                remedy=nearest(component, parts),
            )
    pairs = tuple(pair for pair in product(range(len(places)), components) if pair in effective)
    return Layout(ranges, places, components, pairs)


def _ranges(config: GenomeConfig, layers: int) -> tuple[tuple[int, int], ...]:
    groups = layers if config.layer_groups == "each" else config.layer_groups
    if isinstance(groups, int):
        if groups > layers:
            raise ConfigError(
                "more groups than layers", where="genome.layer_groups", expected=f"1 to {layers}", found=groups
            )
        return tuple((group * layers // groups, (group + 1) * layers // groups) for group in range(groups))
    assert isinstance(groups, tuple)
    problem = next(_problems(groups, layers), None)
    if problem is not None:
        raise ConfigError(
            problem,
            where="genome.layer_groups",
            expected=f"[first, end) ranges that cover 0 to {layers} one after the other",
            found=[list(group) for group in groups],
        )
    return groups


def _problems(groups: tuple[tuple[int, int], ...], layers: int) -> Iterator[str]:
    covered = 0
    for first, end in groups:
        if end <= first:
            yield f"group [{first}, {end}) has no layers"
        if first > covered:
            yield f"layers [{covered}, {first}) belong to no group"
        if first < covered:
            yield f"layers [{first}, {min(end, covered)}) belong to two groups"
        if end > layers:
            yield f"layers [{max(first, layers)}, {end}) do not exist"
        covered = end
    if covered < layers:
        yield f"layers [{covered}, {layers}) belong to no group"


def _component(name: str, components: tuple[str | None, ...]) -> str | None:
    return next(component for component in components if component is None or component in name)


def _group(name: str, layer: int | None, ranges: tuple[tuple[int, int], ...]) -> int:
    if layer is None:
        return 0 if _EMBEDDING.search(name) else len(ranges) - 1
    return next((group for group, (first, end) in enumerate(ranges) if first <= layer < end), len(ranges) - 1)


def _knots(layer: int | None, layers: int, knots: int) -> tuple[int, ...]:
    """The knots between which a tensor's value lies: mergekit puts what is outside of the layers at the first."""
    if layer is None:
        return (0,)
    if layers == 1:
        return (knots - 1,)
    low, fraction = divmod(layer * (knots - 1), layers - 1)
    return (low, low + 1) if fraction else (low,)
