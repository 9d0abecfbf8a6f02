"""One way from YAML data to a checked value: pydantic's first complaint becomes one line."""

from types import NoneType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from fitness.errors import OneLineError, nearest

ModelT = TypeVar("ModelT", bound=BaseModel)


def validated(model: type[ModelT], data: Any, where: str, error: type[OneLineError]) -> ModelT:
    """Check data against a pydantic model.

    Args:
        model: the pydantic model that `data` must fit.
        data: parsed YAML or JSON.
        where: the file or document that the data come from.
        error: the kind of error to raise.

    Raises:
        OneLineError: of the kind `error`, for the first thing that does not fit; an unknown key names the nearest.
    """
    try:
        return model.model_validate(data)
    except ValidationError as invalid:
        problems = invalid.errors(include_url=False)
        # a misspelt key is also a missing one: the misspelling is what to mend
        problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
        path = problem["loc"]
        key = ".".join(str(part) for part in path)
        if problem["type"] == "extra_forbidden":
            known = list(_known_keys(model, path[:-1]))
            remedy = nearest(str(path[-1]), known) if known else None
            raise error("unknown key", where=f"{where}: {key}", remedy=remedy) from invalid
        if problem["type"] == "refusal":  # what a validator of a recipe's part says
            raise error(**{"where": f"{where}: {key}", **problem["ctx"]}) from invalid
        message = _words(model, problem["type"], path) or problem["msg"]
        message = message.removeprefix("Value error, ").removeprefix("Input should be ")
        if problem["type"] == "missing":
            raise error("key missing", where=f"{where}: {key}", remedy=f"add {key}") from invalid
        found = problem["input"] if isinstance(problem["input"], (str, int, float, bool, NoneType)) else ...
        raise error(
            "not valid",
            where=f"{where}: {key}" if key else where,
            expected=message[0].lower() + message[1:],
            found=None if found is ... else repr(found),
        ) from invalid


def _words(model: type[BaseModel], kind: str, path: tuple[int | str, ...]) -> str | None:
    """What was expected, without the names of Python's types; None where pydantic's own words need none."""
    if kind == "model_type" and (keys := _known_keys(model, path)):
        return f"a mapping with keys such as {', '.join(keys)}"
    return "a list" if kind in ("tuple_type", "list_type") else None


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> tuple[str, ...]:
    """The keys that the (nested) model at `path` has."""
    current: type[BaseModel] | None = model
    for part in path:
        if current is None:
            return ()
        field = current.model_fields.get(str(part)) if isinstance(part, str) else None
        if field is None:
            continue
        current = _model_in(field.annotation)
    if current is None:
        return ()
    return tuple(field.alias or name for name, field in current.model_fields.items())


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for found in map(_model_in, get_args(annotation)) if found is not None), None)
