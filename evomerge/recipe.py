"""Recipes: which models to merge and how, in the YAML language of mergekit 0.1.5, read strictly.

What mergekit accepts and ignores (a misspelt key, a key given twice, an empty list) is an error here; what is accepted
means the same in both.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    FiniteFloat,
    PositiveInt,
    PrivateAttr,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    ValidationError,
    model_validator,
)

from evomerge.chain import chained
from evomerge.documents import read_documents, write_document
from evomerge.errors import RecipeError, nearest
from evomerge.model_ref import ModelRef
from evomerge.parameters import ConditionalValue, Kind, Lookup, Parameters, Setting, evaluate
from evomerge.parts import Part, not_empty, recipe_error, refusal

__all__ = [
    "DTYPES",
    "ConditionalValue",
    "Kind",
    "Lookup",
    "ModelRef",
    "ModelToken",
    "Module",
    "Parameters",
    "Recipe",
    "RecipeModel",
    "Setting",
    "Slice",
    "SliceSource",
    "TokenSpec",
    "TokenizerSpec",
    "ZeroToken",
    "evaluate",
]

DTYPES = ("bfloat16", "float16", "float32", "float64")
_LARGEST_PADDING = 1 << 20  # rows; no vocabulary is as large


def _distinct(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    seen = set()
    for part in inputs:
        if part.model in seen:
            raise refusal("model given twice", found=str(part.model), remedy="name each model once")
        seen.add(part.model)
    return inputs


class RecipeModel(Part):
    """A whole model as an input, with its own parameters."""

    model: ModelRef
    parameters: Parameters | None = None


class SliceSource(Part):
    """Layers [first, end) of a model as an input, with their own parameters."""

    model: ModelRef
    layer_range: tuple[StrictInt, StrictInt]
    parameters: Parameters | None = None

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        first, end = self.layer_range
        if not 0 <= first < end:
            raise refusal("bad layer_range", expected="[first, end) with 0 <= first < end", found=[first, end])
        return self


class Slice(Part):
    """A run of output layers, and the layers of each model that make it; `residual_weight` has no effect."""

    sources: Annotated[tuple[SliceSource, ...], AfterValidator(not_empty), AfterValidator(_distinct)]
    base_model: ModelRef | None = None
    residual_weight: FiniteFloat | None = None
    parameters: Parameters | None = None

    @model_validator(mode="after")
    def _check_depth(self) -> Self:
        depths = [end - first for first, end in (source.layer_range for source in self.sources)]
        if len(set(depths)) > 1:
            raise refusal("sources of unlike depth", expected="the same number of layers from each", found=depths)
        return self


Models: TypeAlias = Annotated[tuple[RecipeModel, ...], AfterValidator(not_empty), AfterValidator(_distinct)]
Slices: TypeAlias = Annotated[tuple[Slice, ...], AfterValidator(not_empty)]


class Module(Part):
    """One of the networks that a model consists of, made from whole models or from slices."""

    slices: Slices | None = None
    models: Models | None = None
    parameters: Parameters | None = None

    @model_validator(mode="after")
    def _check_inputs(self) -> Self:
        _check_one_of(slices=self.slices, models=self.models)
        return self


def _check_one_of(**inputs: Any) -> None:
    given = [key for key, value in inputs.items() if value is not None]
    if len(given) != 1:
        raise refusal("not one kind of input", expected=f"exactly one of {', '.join(inputs)}", found=given or "none")


class ModelToken(Part):
    """The embedding that a model has for one of its tokens."""

    kind: Literal["model_token"]
    model: ModelRef
    token_id: StrictInt | None = None
    token: StrictStr | None = None

    @model_validator(mode="after")
    def _check_token(self) -> Self:
        if (self.token_id is None) == (self.token is None):
            raise refusal("not one token", expected="exactly one of token, token_id")
        return self


class ZeroToken(Part):
    """An embedding of zeros."""

    kind: Literal["zero"]


def _embedding_form(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return "(model)" if kind is None else "(zero)" if kind == "zero" else "(model_token)"


class TokenSpec(Part):
    """Where the embedding of a token comes from; `force` replaces it in models that have the token, too."""

    source: (
        Annotated[
            Annotated[ModelToken, Tag("(model_token)")]
            | Annotated[ZeroToken, Tag("(zero)")]
            | Annotated[ModelRef, Tag("(model)")],
            Discriminator(_embedding_form),
        ]
        | None
    ) = None
    force: StrictBool = False


TokenizerSource: TypeAlias = Annotated[
    Annotated[Literal["union", "base"], Tag("(policy)")] | Annotated[ModelRef, Tag("(model)")],
    Discriminator(lambda value: "(policy)" if value in ("union", "base") else "(model)"),
]


class TokenizerSpec(Part):
    """The output vocabulary: the base's, a model's, or the union of all; and the embeddings of single tokens."""

    source: TokenizerSource = "union"
    tokens: dict[StrictStr, TokenSpec] | None = None
    pad_to_multiple_of: Annotated[PositiveInt, Field(strict=True, le=_LARGEST_PADDING)] | None = None


def _dtype(value: str) -> str:
    if value.removeprefix("torch.") not in DTYPES:
        raise refusal(f"unknown dtype {value!r}", remedy=nearest(value, DTYPES))
    return value


Dtype: TypeAlias = Annotated[StrictStr, AfterValidator(_dtype)]


def _name(value: str) -> str:
    if value in (".", "..") or not re.fullmatch(r"[^@+/\\\0]+", value):
        raise refusal("bad name", expected=r"the name of a folder, without / \ @ +", found=repr(value))
    return value


Name: TypeAlias = Annotated[StrictStr, AfterValidator(_name)]


class Recipe(Part):
    """A whole recipe.

    Exactly one of `models` (whole models), `slices` (layer ranges) and `modules` (either of these for each network of a
    model) is set. `parameters` hold for every input that has none of its own; an integer `random_seed` among them seeds
    the masks of DARE. `dtype` is the type of the output (and of mergekit's arithmetic), unless `out_dtype` is set.

    Several documents in one text are stages: wherever a model may stand, one may name another's `name`. The one without
    a name, or else the last, is the recipe, and has the others as its `stages`.
    """

    merge_method: StrictStr
    base_model: ModelRef | None = None
    models: Models | None = None
    slices: Slices | None = None
    modules: dict[StrictStr, Module] | None = None
    parameters: Parameters | None = None
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: TokenizerSource | None = None
    tokenizer: TokenizerSpec | None = None
    chat_template: StrictStr | None = None
    name: Name | None = None

    _stages: tuple["Recipe", ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _check_inputs(self) -> Self:
        _check_one_of(models=self.models, slices=self.slices, modules=self.modules or None)
        if self.tokenizer_source is not None and self.tokenizer is not None:
            raise refusal("tokenizer given twice", expected="one of tokenizer_source, tokenizer")
        return self

    @classmethod
    def from_document(cls, document: object, where: str = "recipe") -> Self:
        """Check what YAML gave.

        Raises:
            RecipeError: `document` is not a recipe; names the place and, for a misspelt key, the nearest known one.
        """
        if not isinstance(document, Mapping):
            raise RecipeError("not a recipe", where=where, expected="a mapping", found=type(document).__name__)
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise recipe_error(error, where) from None

    @classmethod
    def from_yaml(cls, text: str, where: str = "recipe") -> Self:
        """Read a recipe; `where` names its source in errors.

        Raises:
            RecipeError: `text` is not YAML, gives a key twice, or is not a recipe; or its stages do not fit together.
        """
        documents = read_documents(text, where)
        if len(documents) == 1:
            return cls.from_document(documents[0], where)
        stages = [
            cls.from_document(document, f"{where}, document {number}") for number, document in enumerate(documents, 1)
        ]
        _check_tokenizers(stages, where)
        needs = [dict.fromkeys(_references(stage)) for stage in stages]
        *order, last = chained([stage.name for stage in stages], needs, where)
        stages[last]._stages = tuple(stages[place] for place in order)
        return stages[last]

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read a recipe file.

        Raises:
            RecipeError: the file cannot be read, or is not a recipe.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError("cannot read the recipe", where=path, found=error.strerror) from None
        except UnicodeDecodeError:
            raise RecipeError("cannot read the recipe", where=path, expected="UTF-8 text") from None
        return cls.from_yaml(text, str(path))

    def to_yaml(self) -> str:
        """The recipe as YAML that mergekit reads: what was set, in the order of the fields, and nothing else.

        Stages come first, as documents of their own, as mergekit-multimerge reads them.
        """
        return "---\n".join(
            write_document(each.model_dump(mode="json", exclude_unset=True)) for each in (*self._stages, self)
        )

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the content; the order of keys, keys set to null and spellings of models do not count."""
        plain = {ref: replace(ref, spelling=None) for each in (*self._stages, self) for ref in _references(each)}
        documents = [
            _replaced(each, plain).model_dump(mode="json", exclude_none=True) for each in (*self._stages, self)
        ]
        document = documents if self._stages else documents[0]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    @property
    def stages(self) -> tuple["Recipe", ...]:
        """The other documents, each after those that it reads."""
        return self._stages

    @property
    def unused_stages(self) -> tuple[str, ...]:
        """Names of stages that the recipe does not come from."""
        used = {stage.name for stage in self._chain()}
        return tuple(str(stage.name) for stage in self._stages if stage.name not in used)

    @property
    def inputs(self) -> tuple[ModelRef, ...]:
        """Every model or stage that gives weights to the recipe itself: the base first, then in order of appearance."""
        base = () if self.base_model is None else (self.base_model,)
        parts: tuple[Recipe | Module, ...] = (self, *(self.modules or {}).values())
        weights = (ref for part in parts for entries in (part.models, part.slices) for ref in _references(entries))
        return tuple(dict.fromkeys((*base, *weights)))

    @property
    def models_used(self) -> tuple[ModelRef, ...]:
        """Every model that gives weights, also to a stage that is used, once each: the base first."""
        names = {stage.name for stage in self._stages}
        return tuple(dict.fromkeys(ref for each in self._chain() for ref in each.inputs if ref.path not in names))

    @property
    def models_named(self) -> tuple[ModelRef, ...]:
        """Every model that it names, also for tokens alone, once each in order of appearance."""
        names = {stage.name for stage in self._stages}
        every = (ref for each in (*self._stages, self) for ref in _references(each))
        return tuple(dict.fromkeys(ref for ref in every if ref.path not in names))

    @property
    def results(self) -> tuple["Recipe", ...]:
        """The stages and then the recipe, each with those of the stages that it comes from."""
        found = []
        for place, stage in enumerate(self._stages):
            alone = stage.model_copy()
            alone._stages = self._stages[:place]
            alone._stages = tuple(each for each in alone._stages if each.name not in alone.unused_stages)
            found.append(alone)
        return (*found, self)

    def stored_in(self, folder: Path) -> "Recipe":
        """The recipe without stages: what it reads of them lies in `folder`/name."""
        folders = {ModelRef(str(stage.name)): ModelRef(str(folder / str(stage.name))) for stage in self._stages}
        alone: Recipe = _replaced(self, folders)
        alone._stages = ()
        return alone

    def _chain(self) -> list["Recipe"]:
        """The recipe and the stages that it comes from, the recipe first."""
        found, needed = [self], set(self.inputs)
        for stage in reversed(self._stages):
            if ModelRef(str(stage.name)) in needed:
                found.append(stage)
                needed |= set(stage.inputs)
        return found


def _references(value: object) -> Iterator[ModelRef]:
    """All models in a part of a recipe, in order of appearance."""
    if isinstance(value, ModelRef):
        yield value
    elif isinstance(value, Part):
        yield from _references(tuple(getattr(value, key) for key in type(value).model_fields if key != "parameters"))
    elif isinstance(value, Mapping):
        yield from _references(tuple(value.values()))
    elif isinstance(value, tuple):
        for entry in value:
            yield from _references(entry)


def _check_tokenizers(stages: Sequence[Recipe], where: str) -> None:
    """Refuse a stage that gives tokens and no weights: it would have to be merged for its tokenizer alone."""
    names = {stage.name for stage in stages}
    for stage in stages:
        for ref in _references((stage.tokenizer_source, stage.tokenizer)):
            if ref.path in names and ref not in stage.inputs:
                raise RecipeError(
                    "tokenizer of a stage that is not merged",
                    where=f"{where}: {stage.name or 'the last document'}",
                    found=str(ref),
                    remedy="name a model that the stage takes its tokenizer from",
                )


def _replaced(value: Any, others: Mapping[ModelRef, ModelRef]) -> Any:
    """A part of a recipe with other models."""
    if isinstance(value, ModelRef):
        return others.get(value, value)
    if isinstance(value, Part):
        fields = {key: _replaced(getattr(value, key), others) for key in value.model_fields_set}
        return value.model_copy(update=fields)
    if isinstance(value, Mapping):
        return {key: _replaced(entry, others) for key, entry in value.items()}
    return tuple(_replaced(entry, others) for entry in value) if isinstance(value, tuple) else value
