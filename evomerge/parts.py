"""The parts that a recipe is written in: mappings read strictly, and what is wrong with them told in one line."""

import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from evomerge.errors import RecipeError, nearest

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


def shown(value: object) -> str:
    """A value of a document, shortened where it is long."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"


def refusal(what: str, **facts: object) -> PydanticCustomError:
    """An error for a validator to raise; facts are expected, found and remedy, as in `OneLineError`."""
    return PydanticCustomError("refusal", "{what}", {"what": what, **facts})


class Part(BaseModel):
    """A mapping of a recipe: frozen, and an unknown key is answered with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, document: Any) -> Any:
        if isinstance(document, Mapping):
            for key in document:
                if key not in cls.model_fields:
                    raise refusal(f"unknown key {key!r}", remedy=nearest(str(key), tuple(cls.model_fields)))
        return document


def not_empty(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    """A validator that refuses an empty list."""
    if not entries:
        raise refusal("empty list", remedy="leave the key out or give it entries")
    return entries


def recipe_error(error: ValidationError, where: str) -> RecipeError:
    """The first of what pydantic found wrong, in one line; `where` names the document."""
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
    return RecipeError("bad value", where=place, expected=expected, found=shown(first["input"]))
