"""References to models, in the spelling of mergekit."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, StrictStr, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, core_schema

from evomerge.errors import RecipeError
from evomerge.parts import Part, refusal

_PATH = r"([^@+]+)(?:@([^@+]+))?"
_REFERENCE = re.compile(rf"{_PATH}(?:\+{_PATH})?")


@dataclass(frozen=True)
class ModelRef:
    """A model: a local folder or a hub id, at a revision, with a LoRA adapter on top or without.

    Attributes:
        path: local folder or hub id.
        revision: branch, tag or commit on the hub; None is its default branch.
        adapter: local folder or hub id of a PEFT LoRA adapter.
        adapter_revision: revision of the adapter.
        spelling: the mapping that a recipe wrote instead of a string; equality and hash do not see it.
    """

    path: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None
    spelling: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read mergekit's string form, `path[@revision][+adapter[@revision]]`.

        Raises:
            RecipeError: an empty part, more than one `+`, or more than one `@` in a part.
        """
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise RecipeError(
                "not a model reference",
                expected="path[@revision][+adapter[@revision]]",
                found=repr(text),
                remedy="write a path that holds @ or + as {model: {path: ...}}",
            )
        path, revision, adapter, adapter_revision = match.groups()
        return cls(path, revision, adapter, adapter_revision)

    def __str__(self) -> str:
        parts = ((self.path, self.revision), (self.adapter, self.adapter_revision))
        return "+".join(f"{path}@{revision}" if revision else path for path, revision in parts if path)

    @property
    def document(self) -> str | dict[str, Any]:
        """What a recipe says for it: the string form, or mergekit's mapping where a name holds `@` or `+`."""
        if self.spelling is not None:
            return dict(self.spelling)
        match = _REFERENCE.fullmatch(str(self))
        if match is not None and match.groups() == (self.path, self.revision, self.adapter, self.adapter_revision):
            return str(self)
        document = {"model": {"path": self.path, "revision": self.revision}}
        if self.adapter is not None:
            document["lora"] = {"path": self.adapter, "revision": self.adapter_revision}
        return document

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            cls._validate,
            handler.generate_schema(_Reference),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda ref: ref.document),
        )

    @classmethod
    def _validate(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            try:
                return cls.parse(value)
            except RecipeError as error:
                raise refusal(error.what, expected=error.expected, found=error.found, remedy=error.remedy) from None
        if not isinstance(value, Mapping):
            raise refusal("not a model reference", expected="a string", found=repr(value))
        reference: _Reference = handler(value)
        model, adapter = reference.model, reference.lora
        return cls(
            model.path,
            model.revision,
            adapter.path if adapter else None,
            adapter.revision if adapter else None,
            spelling=value,
        )


def _split_path(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    path, *revision = value.split("@", 1)
    return {"path": path, "revision": revision[0]} if revision else {"path": path}


class _Path(Part):
    path: Annotated[StrictStr, Field(min_length=1)]
    revision: StrictStr | None = None


def _no_override(value: Any) -> None:
    if value is not None:
        raise refusal(
            "override_architecture has no effect", found=repr(value), remedy="remove it: names of tensors tell"
        )


class _Reference(Part):
    model: Annotated[_Path, BeforeValidator(_split_path)]
    lora: Annotated[_Path | None, BeforeValidator(_split_path)] = None
    override_architecture: Annotated[None, BeforeValidator(_no_override)] = None  # mergekit writes its null
