import math
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import StudyError
from evomerge.study.items import baseline_items, candidate_items, holdout_items, read_items, write_items
from fitness.items import Scores, TaskScores

task_scores = st.lists(
    st.tuples(st.integers(0, 2**40), st.floats(allow_nan=False)), unique_by=lambda pair: pair[0], min_size=1, max_size=5
)


@settings(deadline=None)  # each example is written to the disk
@given(st.dictionaries(st.text(min_size=1, max_size=8), task_scores, max_size=3))
def test_items_come_back_bit_for_bit_and_in_order(tmp_path_factory: pytest.TempPathFactory, tasks: dict):
    folder = tmp_path_factory.mktemp("items")
    scores = {
        task: TaskScores(task, "acc", tuple(doc for doc, _ in rows), tuple(value for _, value in rows), 0.0, True)
        for task, rows in tasks.items()
    }
    write_items(folder, candidate_items(0), scores)
    found = read_items(folder, candidate_items(0))
    assert [list(found[task].items()) for task in tasks] == list(tasks.values())
    assert list(found) == list(tasks)


def test_the_file_is_a_table_of_task_doc_id_and_value(tmp_path: Path, scores: Callable[..., Scores]):
    write_items(tmp_path, candidate_items(12), scores(0.5, documents=2))
    assert pq.read_table(tmp_path / "000012.parquet").to_pydict() == {
        "task": ["shipping", "shipping", "prose", "prose"],
        "doc_id": [0, 2, 0, 2],
        "value": [0.5, 0.5, -0.5, -1.0],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["000012.parquet"]


def test_values_beyond_the_reals_survive(tmp_path: Path):
    values = (math.inf, -math.inf, -0.0, 5e-324)
    write_items(tmp_path, "a", {"t": TaskScores("t", "m", (0, 1, 2, 3), values, 0.0, True)})
    found = read_items(tmp_path, "a")["t"]
    assert tuple(found.values()) == values
    assert math.copysign(1, found[2]) == -1


def test_each_recipe_and_split_has_its_own_file(tmp_path: Path, scores: Callable[..., Scores]):
    names = [
        candidate_items(1),
        baseline_items("base"),
        baseline_items("org/model"),
        baseline_items("org%2Fmodel"),
        baseline_items(".."),
        holdout_items("1"),
        holdout_items("base"),
    ]
    for index, name in enumerate(names):
        write_items(tmp_path, name, scores(float(index)))
    assert [read_items(tmp_path, name)["shipping"][0] for name in names] == list(map(float, range(len(names))))
    assert len(list(tmp_path.iterdir())) == len(names)


def test_missing_and_damaged_items_are_one_line(tmp_path: Path):
    with pytest.raises(StudyError, match="no item scores"):
        read_items(tmp_path, candidate_items(3))
    (tmp_path / "000003.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(StudyError, match="item scores cannot be read"):
        read_items(tmp_path, candidate_items(3))
