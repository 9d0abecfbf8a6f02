"""The mapping between vectors in [0,1]^d and recipes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evomerge.errors import ConfigError, RecipeError
from evomerge.genome.config import GenomeConfig
from evomerge.genome.layout import ModelShape, make_layout
from evomerge.genome.names import BLEND, short_names
from evomerge.genome.space import Choice, Number, Searched, fixed, merged_models, searched
from evomerge.recipe import ModelRef, Recipe, RecipeModel, Slice, SliceSource

Vector: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Gene:
    """Where the number of a dimension stands in a recipe; `model` is None for a parameter that all models share."""

    parameter: str
    place: int
    component: str | None
    model: ModelRef | None


class Genome:
    """The space of recipes that is searched.

    Shape `step` gives a recipe of slices, one for each layer group; `smooth` one of whole models with gradients. Values
    differ by component through filters. Tensors outside of the layers follow the first group (embeddings) or the last
    (final norm, head), in a gradient its first knot, as in mergekit. A place and component that no tensor depends on
    has no dimension. A method for two models merges the base with one parent, or two parents; the first is the recipe's
    base. Where that is not `base`, the tokenizer policy `base` names it.

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
        RecipeError: an unknown method, or a value that the method does not allow.
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
        from evomerge.methods import get_method  # brings torch, which whoever only reads a config can do without

        method = get_method(config.method, "genome.method")
        self._config = config
        self._layout = make_layout(config, shape)
        self._parents = dict(zip(short_names(parents), parents, strict=True))
        self._models = merged_models(config, method, base, parents)
        self._base = self._models[0] if method.base == "required" else None
        if self._base != base:
            tokenizer = naming_base(tokenizer, base)
        self._frame: dict[str, Any] = {
            "merge_method": method.name,
            "base_model": self._base,
            "parameters": fixed(config, method, seed),
            "dtype": dtype,
            "tokenizer_source" if isinstance(tokenizer, str) else "tokenizer": tokenizer,
        }
        self._components = self._layout.components
        effective = {parameter.name for parameter in method.parameters if not parameter.inert}
        self._whole = dict(self._whole_slices(effective)) if config.selection != "none" else {}
        self._numbers = dict(self._make_numbers(tuple(searched(config, method))))
        self._choices = dict(self._make_choices())
        self._dimensions: tuple[Number | Choice, ...] = (*self._numbers.values(), *self._choices.values())
        if not self._dimensions:
            raise ConfigError("nothing to search", where="genome", remedy="give a parameter as {low, high}")

    @property
    def dimension(self) -> int:
        """The length d of a vector."""
        return len(self._dimensions)

    @property
    def names(self) -> tuple[str, ...]:
        """Of each dimension, such as `weight.layers_0_3.self_attn.shipping` or `source.layers_0_3`."""
        return tuple(dimension.name for dimension in self._dimensions)

    @property
    def space(self) -> dict[str, tuple[float, float] | tuple[str, ...]]:
        """(low, high) of each dimension in the parameter's own unit, or its options."""
        return {dimension.name: dimension.space for dimension in self._dimensions}

    @property
    def choices(self) -> tuple[int, ...]:
        """How many options each dimension has; 0 for a number."""
        return (0,) * len(self._numbers) + tuple(len(choice.options) for choice in self._choices.values())

    @property
    def initial(self) -> Vector:
        """(d,) float64 in [0,1], where a search begins."""
        return np.array([dimension.initial for dimension in self._dimensions])

    def values(self, x: Vector) -> dict[str, float | str]:
        """What a vector, (d,) in [0,1], means: name of the dimension -> number or option.

        Raises:
            ValueError: `x` is not such a vector.
        """
        numbers, options = self._decode(x)
        return dict(zip(self.names, [*numbers.values(), *options.values()], strict=True))

    def recipe(self, x: Vector) -> Recipe:
        """The recipe of a vector, (d,) in [0,1].

        Raises:
            ValueError: `x` is not such a vector.
        """
        numbers, options = self._decode(x)
        document = dict(self._frame)
        if self._config.shape == "smooth":
            document["models"] = [
                _with_parameters({"model": model}, self._settings(0, model, numbers)) for model in self._models
            ]
            document["parameters"] = self._frame["parameters"] | self._settings(0, None, numbers)
        else:
            document["slices"] = [
                self._slice(place, options.get(place, BLEND), numbers) for place in range(len(self._layout.ranges))
            ]
        return Recipe.from_document({name: document[name] for name in Recipe.model_fields if document.get(name)})

    def vector(self, recipe: Recipe) -> Vector:
        """The vector, (d,) float64 in [0,1], of a recipe of this genome.

        A number that the recipe does not show, because its group is taken whole, is the initial one; a number out of
        bounds becomes the nearest bound; a choice becomes the middle of its option's interval.

        Raises:
            RecipeError: the recipe is not of this genome.
        """
        if (recipe.merge_method, recipe.base_model) != (self._frame["merge_method"], self._base):
            raise _foreign(f"{recipe.merge_method} with base {recipe.base_model}")
        options = {place: self._option(place, choice, recipe) for place, choice in self._choices.items()}
        return np.array(
            [
                number.position(self._read(gene, recipe)) if options.get(gene.place, BLEND) == BLEND else number.initial
                for gene, number in self._numbers.items()
            ]
            + [choice.position(options[place]) for place, choice in self._choices.items()]
        )

    def _make_numbers(self, parameters: Sequence[Searched]) -> Iterator[tuple[_Gene, Number]]:
        names = {model: name for name, model in self._parents.items()}
        for one in parameters:
            for place, component in self._layout.effective:
                for model in self._models if one.per_model else (None,):
                    if model is not None and model == self._base:
                        continue
                    middle = [component or "rest"] if len(self._components) > 1 else []
                    last = [] if model is None else [names[model]]
                    name = ".".join([one.name, self._layout.places[place], *middle, *last])
                    yield _Gene(one.name, place, component, model), Number(name, one.low, one.high, one.init)

    def _make_choices(self) -> Iterator[tuple[int, Choice]]:
        blend = (BLEND,) if self._config.selection == "blend" else ()
        options = (*blend, *dict.fromkeys(name for _, name in self._whole))
        if len(options) > 1:
            for place, name in enumerate(self._layout.places):
                yield place, Choice(f"source.{name}", options, init=options[0 if blend else len(options) // 2])

    def _decode(self, x: Vector) -> tuple[dict[_Gene, float], dict[int, str]]:
        x = np.asarray(x, dtype=np.float64)
        if x.shape != (self.dimension,) or not np.all((x >= 0) & (x <= 1)):
            raise ValueError(f"expected a vector of {self.dimension} numbers in [0,1], found {x!r}")
        entries = iter(x.tolist())
        numbers = {gene: number.value(next(entries)) for gene, number in self._numbers.items()}
        return numbers, {place: choice.value(next(entries)) for place, choice in self._choices.items()}

    def _slice(self, place: int, option: str, numbers: Mapping[_Gene, float]) -> Slice:
        if option != BLEND:
            return self._whole[place, option]
        settings = {model: self._settings(place, model, numbers) for model in self._models}
        return self._make_slice(place, settings, self._settings(place, None, numbers))

    def _whole_slices(self, parameters: set[str]) -> Iterator[tuple[tuple[int, str], Slice]]:
        """For each group and each parent, the slice that takes the group whole from the parent."""
        for place in range(len(self._layout.ranges)):
            for name, chosen in self._parents.items():
                settings: dict[ModelRef, dict[str, Any]] = {model: {} for model in self._models}
                shared: dict[str, Any] = {}
                if self._config.selection == "whole":
                    settings = {chosen: {}}
                elif "t" in parameters:
                    shared = {"t": float(self._models.index(chosen))}
                else:
                    settings |= {model: {"weight": 0.0} for model in self._models if model != self._base}
                    settings[chosen] = {"weight": 1.0} | ({"density": 1.0} if "density" in parameters else {})
                    shared = {"lambda": 1.0} if "lambda" in parameters else {}
                yield (place, name), self._make_slice(place, settings, shared)

    def _make_slice(self, place: int, settings: Mapping[ModelRef, dict[str, Any]], shared: dict[str, Any]) -> Slice:
        layer_range = self._layout.ranges[place]
        sources = [
            _with_parameters({"model": model, "layer_range": layer_range}, own) for model, own in settings.items()
        ]
        return Slice.model_validate(_with_parameters({"sources": sources}, shared))

    def _settings(self, place: int, model: ModelRef | None, numbers: Mapping[_Gene, float]) -> dict[str, Any]:
        """What a recipe says of the parameters of one model, or, for None, of those that all models share."""
        settings = {}
        for parameter in dict.fromkeys(gene.parameter for gene in numbers):
            entries = []
            for component in self._components:
                knots = range(len(self._layout.places)) if self._config.shape == "smooth" else (place,)
                found = [numbers.get(_Gene(parameter, knot, component, model)) for knot in knots]
                known = [number for number in found if number is not None]
                if known:
                    # A knot that no tensor depends on needs some number, too.
                    gradient = [known[0] if number is None else number for number in found]
                    value = gradient if self._config.shape == "smooth" else gradient[0]
                    entries.append({"value": value} if component is None else {"filter": component, "value": value})
            if entries:
                settings[parameter] = entries if len(self._components) > 1 else entries[0]["value"]
        return settings

    def _option(self, place: int, choice: Choice, recipe: Recipe) -> str:
        found = self._slice_of(place, recipe)
        option = next((option for option in choice.options if self._whole.get((place, option)) == found), BLEND)
        if option not in choice.options:
            raise _foreign(f"slice {place} is no parent's layers")
        return option

    def _read(self, gene: _Gene, recipe: Recipe) -> float:
        smooth = self._config.shape == "smooth"
        part: Recipe | Slice = recipe if smooth else self._slice_of(gene.place, recipe)
        inputs: Sequence[RecipeModel | SliceSource] = (
            (recipe.models or ()) if isinstance(part, Recipe) else part.sources
        )
        owners = [part] if gene.model is None else [each for each in inputs if each.model == gene.model]
        setting: Any = next(((owner.parameters or {}).get(gene.parameter) for owner in owners), None)
        if len(self._components) > 1 and isinstance(setting, tuple):
            setting = next((each.value for each in setting if getattr(each, "filter", "") == gene.component), None)
        if smooth and isinstance(setting, tuple) and len(setting) == len(self._layout.places):
            setting = setting[gene.place]
        if isinstance(setting, bool) or not isinstance(setting, float | int):
            raise _foreign(f"no number for {self._numbers[gene].name}")
        return float(setting)

    def _slice_of(self, place: int, recipe: Recipe) -> Slice:
        slices = recipe.slices or ()
        ranges = tuple(source.layer_range for part in slices for source in part.sources[:1])
        if ranges != self._layout.ranges:
            raise _foreign(f"slices {list(ranges)}")
        return slices[place]


def naming_base(tokenizer: Any, base: ModelRef) -> Any:
    """A `tokenizer` or `tokenizer_source` for a recipe whose base, if any, is another: `base` gives way to a name."""
    if isinstance(tokenizer, Mapping) and "source" in tokenizer:
        return {**tokenizer, "source": naming_base(tokenizer["source"], base)}
    return str(base) if tokenizer == "base" else tokenizer


def _with_parameters(part: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    return part | ({"parameters": parameters} if parameters else {})


def _foreign(found: str) -> RecipeError:
    return RecipeError("not a recipe of this genome", found=found)
