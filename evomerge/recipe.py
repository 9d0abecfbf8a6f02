"""Recipes: which models to merge and how, in the YAML language of mergekit 0.1.5, read strictly.

What mergekit accepts and ignores (a misspelt key, a key given twice, an empty list) is an error here; what is accepted
means the same in both.
"""

import hashlib
import json
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import yaml
from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    PositiveInt,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    ValidationError,
    model_validator,
)

from evomerge.errors import RecipeError, nearest
from evomerge.model_ref import ModelRef
from evomerge.parameters import (
    ConditionalValue,
    Kind,
    Parameters,
    Part,
    Setting,
    evaluate,
    not_empty,
    parameter,
    refusal,
)

__all__ = [
    "DTYPES",
    "ConditionalValue",
    "Kind",
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
    "parameter",
]

DTYPES = ("bfloat16", "float16", "float32", "float64")


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
    """A run of output layers, and the layers of each model that make it."""

    sources: Annotated[tuple[SliceSource, ...], AfterValidator(not_empty), AfterValidator(_distinct)]
    base_model: ModelRef | None = None
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
    pad_to_multiple_of: Annotated[PositiveInt, Field(strict=True)] | None = None


def _dtype(value: str) -> str:
    if value.removeprefix("torch.") not in DTYPES:
        raise refusal(f"unknown dtype {value!r}", remedy=nearest(value, DTYPES))
    return value


Dtype: TypeAlias = Annotated[StrictStr, AfterValidator(_dtype)]


class Recipe(Part):
    """A whole recipe.

    Exactly one of `models` (whole models), `slices` (layer ranges) and `modules` (either of these for each network of a
    model) is set. `parameters` hold for every input that has none of its own; an integer `random_seed` among them seeds
    the masks of DARE. `dtype` is the type of the output (and of mergekit's arithmetic), unless `out_dtype` is set.
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
    name: StrictStr | None = None

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
            raise _recipe_error(error, where) from None

    @classmethod
    def from_yaml(cls, text: str, where: str = "recipe") -> Self:
        """Read a recipe; `where` names its source in errors.

        Raises:
            RecipeError: `text` is not YAML, gives a key twice, or is not a recipe.
        """
        try:
            document = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
            raise RecipeError(f"not valid YAML: {getattr(error, 'problem', error)}", where=place) from None
        except (ValueError, RecursionError) as error:  # of a date or a tagged number that is none; of deep nesting
            raise RecipeError("not valid YAML", where=where, found=error) from None
        return cls.from_document(document, where)

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
        """The recipe as YAML that mergekit reads: what was set, in the order of the fields, and nothing else."""
        document = self.model_dump(mode="json", exclude_unset=True)
        return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the content; the order of keys and keys set to null do not count."""
        document = self.model_dump(mode="json", exclude_none=True)
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    @property
    def models_used(self) -> tuple[ModelRef, ...]:
        """Every model that gives weights, once each: the base first, then in order of appearance."""
        return tuple(dict.fromkeys(self._references()))

    def _references(self) -> Iterator[ModelRef]:
        if self.base_model is not None:
            yield self.base_model
        parts: tuple[Recipe | Module, ...] = (self, *(self.modules or {}).values())
        for part in parts:
            yield from (entry.model for entry in part.models or ())
            for run in part.slices or ():
                yield from (run.base_model,) if run.base_model is not None else ()
                yield from (source.model for source in run.sources)


_TYPES = {
    "bool_type": "a boolean",
    "dict_type": "a mapping",
    "int_type": "an integer",
    "model_type": "a mapping",
    "string_type": "a string",
    "tuple_type": "a list",
    "too_long": "two integers",
}
_MARKS = ("(", "[key]")  # what pydantic adds to a place: tags of unions, and that a key is meant


def _recipe_error(error: ValidationError, where: str) -> RecipeError:
    first = error.errors(include_url=False)[0]
    path = ""
    for key in first["loc"]:
        if isinstance(key, int):
            path += f"[{key}]"
        elif not key.startswith(_MARKS):
            path += f".{key}" if path else key
    facts = first.get("ctx", {})
    place = f"{where}: {path}" if path else where
    if first["type"] == "refusal":
        return RecipeError(
            facts["what"],
            where=place,
            expected=facts.get("expected"),
            found=facts.get("found"),
            remedy=facts.get("remedy"),
        )
    if first["type"] == "missing":
        return RecipeError("missing key", where=place)
    expected = _TYPES.get(first["type"], first["msg"].removeprefix("Input should be "))
    return RecipeError("bad value", where=place, expected=expected, found=reprlib.repr(first["input"]))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key given twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        first = {key.value: key for key in reversed(keys)}
        for key in keys:
            if key is not first[key.value]:
                raise yaml.composer.ComposerError(problem=f"key {key.value!r} given twice", problem_mark=key.start_mark)
        return node


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, without anchors, with lists of scalars on one line and text in blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, entries: list[Any]) -> yaml.Node:
    flow = not any(isinstance(entry, list | dict) for entry in entries)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", entries, flow_style=flow)


def _represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # PyYAML folds the separators other than a newline into one unless they are escaped.
    style = '"' if any(mark in text for mark in "\r\x85\u2028\u2029") else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_str)
