"""The mapping between vectors in [0,1]^d and recipes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from evomerge.errors import ConfigError, RecipeError
from evomerge.genome.config import GenomeConfig
from evomerge.genome.layout import ModelShape, make_layout
from evomerge.genome.names import short_names
from evomerge.recipe import ConditionalValue, ModelRef, Recipe, Setting, Slice

if TYPE_CHECKING:
    from evomerge.genome.space import Dimension
    from evomerge.methods import Method

Vector: TypeAlias = npt.NDArray[np.float64]

BLEND = "blend"  # the option of a group that is merged, not taken whole
_NEUTRAL = {"density": 1.0, "lambda": 1.0}  # with these and a weight of 1 a model is taken as it is


@dataclass(frozen=True)
class _Gene:
    """Where in a recipe the number of a dimension stands; `model` is None for a parameter that all share."""

    parameter: str
    place: int
    component: str | None
    model: ModelRef | None


class Genome:
    """The space of recipes that is searched.

    Shape `step` gives a recipe of slices, one for each layer group; `smooth` one of whole models with gradients. Values
    differ by component through filters. Tensors outside of the layers follow the first group (embeddings) or the last
    (final norm, head), in a gradient its first knot, as in mergekit. A place and component that no tensor depends on
    has no dimension. A method for two models merges the base with one parent, or two parents.

    Args:
        config: the space.
        base: the common ancestor.
        parents: the models to merge.
        shape: their layers and tensors.
        dtype: of the merged model.
        tokenizer: the recipe's `tokenizer`, or, as a string, its `tokenizer_source`; None for neither.
        seed: `random_seed` of a method that draws at random, unless the config sets it.

    Raises:
        ConfigError: the config does not fit the method or the models, or leaves nothing to search.
        RecipeError: unknown method, or a value that the method does not allow.
    """

    def __init__(
        self,
        config: GenomeConfig,
        *,
        base: ModelRef,
        parents: Sequence[ModelRef],
        shape: ModelShape,
        dtype: str,
        tokenizer: Mapping[str, Any] | str | None,
        seed: int,
    ) -> None:
        # These bring torch, which whoever only reads a config can do without.
        from evomerge.genome.space import fixed, searched
        from evomerge.methods import get_method

        method = get_method(config.method, "genome.method")
        self._smooth = config.shape == "smooth"
        self._layout = make_layout(config, shape)
        self._parents = dict(zip(short_names(parents), parents, strict=True))
        self._models = _merged_models(config, method, base, tuple(parents))
        self._base = self._models[0] if method.base == "required" else None
        self._document: dict[str, Any] = {"merge_method": method.name}
        if self._base is not None:
            self._document["base_model"] = self._base
        self._fixed = fixed(config, method, seed)
        self._searched = {one.parameter.name: one for one in searched(config, method)}
        self._neutral = {p.name: _NEUTRAL[p.name] for p in method.parameters if p.name in _NEUTRAL and not p.inert}
        ...
