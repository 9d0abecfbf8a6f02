"""Per-item scores: one Parquet file per scored recipe, in long format (task, doc_id, value, weight, answer)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from evomerge.errors import StudyError
from evomerge.study.folder import replace_file
from fitness.items import Scores

_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [("task", _TEXT), ("doc_id", pa.int64()), ("value", pa.float64()), ("weight", pa.float64()), ("answer", _TEXT)]
)
_JACKKNIFE = b"jackknife"  # in the file's metadata, as JSON: task -> scores, a number for each group of documents


@dataclass(frozen=True)
class TaskItems:
    """What is kept of the documents of one task, in the order in which they were scored; see `TaskScores`.

    Attributes:
        doc_ids: documents.
        values: of the metric.
        weights: words or bytes; None where all count the same, and in a file of an older evomerge.
        answers: of the model; None where there are none, and in a file of an older evomerge.
        jackknife: the task's score without each group of documents; None where there is none, and in such a file.
    """

    doc_ids: tuple[int, ...]
    values: tuple[float, ...]
    weights: tuple[float, ...] | None = None
    answers: tuple[str | None, ...] | None = None
    jackknife: tuple[float, ...] | None = None


def candidate_items(number: int) -> str:
    """The name under which the dev items of a candidate are kept."""
    return f"{number:06d}"


def baseline_items(name: str) -> str:
    """The name under which the dev items of a baseline are kept."""
    return f"baseline-{name}"


def holdout_items(name: str) -> str:
    """The name under which the holdout items of a finalist are kept."""
    return f"holdout-{name}"


def write_items(folder: Path, name: str, scores: Scores) -> None:
    """Write the items of one recipe; an older file of that name is replaced at once. Raises OSError.

    Args:
        folder: the `items` folder of a study.
        name: which recipe and split.
        scores: task -> its documents, their values, weights, answers and jackknife.
    """
    columns = {
        "task": [task for task, each in scores.items() for _ in each.doc_ids],
        "doc_id": [doc_id for each in scores.values() for doc_id in each.doc_ids],
        "value": [value for each in scores.values() for value in each.values],
        "weight": [weight for each in scores.values() for weight in each.weights or [None] * len(each.doc_ids)],
        "answer": [answer for each in scores.values() for answer in each.answers or [None] * len(each.doc_ids)],
    }
    without = {task: each.jackknife for task, each in scores.items() if each.jackknife is not None}
    schema = SCHEMA.with_metadata({_JACKKNIFE: json.dumps(without)}) if without else SCHEMA
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema), buffer, compression="zstd")  # answers are text
    replace_file(_file(folder, name), buffer.getvalue().to_pybytes())


def read_items(folder: Path, name: str) -> dict[str, TaskItems]:
    """The items of one recipe, by task.

    Raises:
        StudyError: there is no such file, or it is damaged.
    """
    path = _file(folder, name)
    try:
        table = pq.read_table(path)
        columns = [table[name].to_pylist() for name in ("task", "doc_id", "value")]
        columns += [
            table[name].to_pylist() if name in table.column_names else [None] * len(table)
            for name in ("weight", "answer")
        ]
        without = json.loads((table.schema.metadata or {}).get(_JACKKNIFE, "{}"))
    except FileNotFoundError as error:
        raise StudyError("no item scores", where=path) from error
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise StudyError("item scores cannot be read", where=path, found=error) from error
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for task, *row in zip(*columns, strict=True):
        rows.setdefault(task, []).append(tuple(row))
    items = {}
    for task, each in rows.items():
        doc_ids, values, weights, answers = zip(*each, strict=True)
        jackknife = tuple(without[task]) if task in without else None
        items[task] = TaskItems(doc_ids, values, _any(weights), _any(answers), jackknife)
    return items


def _any(column: tuple[Any, ...]) -> tuple[Any, ...] | None:
    return None if all(each is None for each in column) else column


def _file(folder: Path, name: str) -> Path:
    return folder / f"{quote(name, safe=' ')}.parquet"
