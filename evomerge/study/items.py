"""Per-item scores: one Parquet file per scored recipe, in long format (task, doc_id, value)."""

from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from evomerge.errors import StudyError
from evomerge.study.folder import replace_file
from fitness.items import Scores

SCHEMA = pa.schema([("task", pa.dictionary(pa.int32(), pa.string())), ("doc_id", pa.int64()), ("value", pa.float64())])


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
        scores: task -> its documents and their values.
    """
    columns = {
        "task": [task for task, each in scores.items() for _ in each.doc_ids],
        "doc_id": [doc_id for each in scores.values() for doc_id in each.doc_ids],
        "value": [value for each in scores.values() for value in each.values],
    }
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=SCHEMA), buffer)
    replace_file(_file(folder, name), buffer.getvalue().to_pybytes())


def read_items(folder: Path, name: str) -> dict[str, dict[int, float]]:
    """The items of one recipe: task -> doc_id -> value, in the order in which they were scored.

    Raises:
        StudyError: there is no such file, or it is damaged.
    """
    path = _file(folder, name)
    try:
        rows = pq.read_table(path).to_pydict()
        columns = (rows["task"], rows["doc_id"], rows["value"])
    except FileNotFoundError as error:
        raise StudyError("no item scores", where=path) from error
    except (OSError, pa.ArrowException, KeyError) as error:
        raise StudyError("item scores cannot be read", where=path, found=error) from error
    items: dict[str, dict[int, float]] = {}
    for task, doc_id, value in zip(*columns, strict=True):
        items.setdefault(task, {})[doc_id] = value
    return items


def _file(folder: Path, name: str) -> Path:
    return folder / f"{quote(name, safe=' ')}.parquet"
