import math
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import StudyError
from evomerge.study.items import TaskItems, baseline_items, candidate_items, holdout_items, read_items, write_items
from fitness.items import Scores, TaskScores

task_scores = st.lists(
    st.tuples(
        st.integers(0, 2**40),
        st.floats(allow_nan=False),
        st.floats(0, allow_nan=False),
        st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    ),
    unique_by=lambda row: row[0],
    min_size=1,
    max_size=5,
)


@settings(deadline=None)  # each example is written to the disk
@given(st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(task_scores, st.booleans()), max_size=3))
def test_items_come_back_bit_for_bit_and_in_order(tmp_path_factory: pytest.TempPathFactory, tasks: dict):
    folder = tmp_path_factory.mktemp("items")
    scores = {}
    for task, (rows, weighed) in tasks.items():
        doc_ids, values, weights, answers = zip(*rows, strict=True)
        said = answers if any(answer is not None for answer in answers) else None
        scores[task] = TaskScores(task, "acc", doc_ids, values, 0.0, True, weights if weighed else None, said)
    write_items(folder, candidate_items(0), scores)
    found = read_items(folder, candidate_items(0))
    assert list(found) == list(tasks)
    assert {
        task: TaskScores(task, "acc", score=0.0, higher_is_better=True, **vars(each)) for task, each in found.items()
    } == scores


def test_the_file_is_a_table(tmp_path: Path, scores: Callable[..., Scores]):
    write_items(tmp_path, candidate_items(12), scores(0.5, documents=2))
    assert pq.read_table(tmp_path / "000012.parquet").to_pydict() == {
        "task": ["shipping", "shipping", "prose", "prose"],
        "doc_id": [0, 2, 0, 2],
        "value": [0.5, 0.5, -0.5, -1.0],
        "weight": [None, None, 5.0, 7.0],
        "answer": ["8 crowns", None, None, None],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["000012.parquet"]


def test_a_file_without_weights_and_answers_is_read(tmp_path: Path, scores: Callable[..., Scores]):
    """As an older evomerge wrote it."""
    write_items(tmp_path, candidate_items(0), scores(0.5))
    path = tmp_path / "000000.parquet"
    pq.write_table(pq.read_table(path, columns=["task", "doc_id", "value"]), path)
    assert read_items(tmp_path, candidate_items(0)) == {
        "shipping": TaskItems((0, 2, 4, 6), (0.5, 0.5, 0.5, 0.5)),
        "prose": TaskItems((0, 2), (-0.5, -1.0)),
    }


def test_the_jackknife_comes_back_bit_for_bit(tmp_path: Path):
    without = (0.1, 1 / 3, 5e-324, -0.0, 1e300)
    scores = {
        "bleu": TaskScores("bleu", "bleu", (0, 1), (1.0, 2.0), 7.0, True, jackknife=without),
        "acc": TaskScores("acc", "acc", (0, 1), (1.0, 0.0), 0.5, True),
    }
    write_items(tmp_path, "a", scores)
    found = read_items(tmp_path, "a")
    assert repr(found["bleu"].jackknife) == repr(without)
    assert found["acc"].jackknife is None


def test_values_beyond_the_reals_survive(tmp_path: Path):
    values = (math.inf, -math.inf, -0.0, 5e-324)
    write_items(tmp_path, "a", {"t": TaskScores("t", "m", (0, 1, 2, 3), values, 0.0, True)})
    found = read_items(tmp_path, "a")["t"]
    assert found.values == values
    assert math.copysign(1, found.values[2]) == -1


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
    assert [read_items(tmp_path, name)["shipping"].values[0] for name in names] == list(map(float, range(len(names))))
    assert len(list(tmp_path.iterdir())) == len(names)


def test_missing_and_damaged_items_are_one_line(tmp_path: Path):
    with pytest.raises(StudyError, match="no item scores"):
        read_items(tmp_path, candidate_items(3))
    (tmp_path / "000003.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(StudyError, match="item scores cannot be read"):
        read_items(tmp_path, candidate_items(3))
    scores = {"bleu": TaskScores("bleu", "bleu", (0, 1), (1.0, 2.0), 7.0, True, jackknife=(6.0, 8.0))}
    write_items(tmp_path, candidate_items(4), scores)
    path = tmp_path / "000004.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"jackknife": '{"bleu": [6.0, 8'}), path)
    with pytest.raises(StudyError, match="item scores cannot be read"):
        read_items(tmp_path, candidate_items(4))
