"""The methods for people and programs: all of it derives from their records."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from evomerge.methods._method import Method, Parameter


def method_document(method: Method) -> dict[str, Any]:
    """The record for JSON; a bound that is infinite is null."""
    return {
        "name": method.name,
        "summary": method.summary,
        "source": method.source,
        "base": method.base,
        "min_models": method.min_models,
        "max_models": method.max_models,
        "parameters": [
            asdict(parameter) | {"low": _finite(parameter.low), "high": _finite(parameter.high)}
            for parameter in method.parameters
        ],
    }


def markdown_table(methods: Iterable[Method]) -> str:
    """One row for each method, with the parameters that have an effect."""
    lines = ["| method | base | models | parameters | what it does | source |", "|---|---|---|---|---|---|"]
    for method in methods:
        parameters = ", ".join(f"`{_brief(parameter)}`" for parameter in method.parameters if not parameter.inert)
        cells = (f"`{method.name}`", method.base, _models(method), parameters or "-", method.summary, method.source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def methods_table(methods: Iterable[Method]) -> Table:
    """One row for each method."""
    table = Table("method", "base", "models", "parameters", "what it does", box=None)
    for method in methods:
        parameters = ", ".join(parameter.name for parameter in method.parameters if not parameter.inert)
        table.add_row(method.name, method.base, _models(method), Text(parameters), Text(method.summary))
    return table


def method_table(method: Method) -> Sequence[RenderableType]:
    """Everything about one method."""
    table = Table("parameter", "of", "default", "values", "search", "meaning", box=None)
    for parameter in method.parameters:
        table.add_row(
            parameter.name,
            "each model" if parameter.per_model else "the merge",
            "must be given" if parameter.default is None else _value(parameter.default),
            parameter.range,
            "-" if parameter.search is None else "{:g} to {:g}".format(*parameter.search),
            parameter.doc + (" (no effect)" if parameter.inert else ""),
        )
    return [
        Text(f"{method.name}: {method.summary}", style="bold"),
        Text(f"source: {method.source}"),
        Text(f"base model: {method.base}; other models: {_models(method)}"),
        *([table] if method.parameters else [Text("no parameters")]),
    ]


def _models(method: Method) -> str:
    """How many models there may be, the base not counted."""
    low, high = method.min_models, method.max_models
    return f"{low} or more" if high is None else str(low) if low == high else f"{low} to {high}"


def _brief(parameter: Parameter) -> str:
    return parameter.name if parameter.default is None else f"{parameter.name}={_value(parameter.default)}"


def _value(value: float | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None
