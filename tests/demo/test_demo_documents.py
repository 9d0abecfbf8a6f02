import itertools
import json

import pytest

from evomerge.demo import FOLDER
from evomerge.demo.documents import (
    DECISIONS,
    EVALUATION_SIZE,
    TASKS,
    YEARS,
    documents,
    split_documents,
    write_evaluation_documents,
)


def _shipped(task):
    lines = (FOLDER / "tasks" / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_shipped_documents_are_what_the_generator_writes(tmp_path):
    write_evaluation_documents(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{task}.jsonl" for task in TASKS)
    for task in TASKS:
        written, shipped = (folder / f"{task}.jsonl" for folder in (tmp_path, FOLDER / "tasks"))
        assert written.read_bytes() == shipped.read_bytes()


@pytest.mark.parametrize("task", TASKS)
def test_no_evaluation_prompt_was_trained_on(task):
    evaluated = {document["prompt"] for document in _shipped(task)}
    assert len(evaluated) == EVALUATION_SIZE
    for year in YEARS:
        trained = {document.prompt for document in split_documents(task, year)[0]}
        assert not evaluated & trained
        assert evaluated | trained == {document.prompt for document in documents(task, year)}


@pytest.mark.parametrize("task", TASKS)
def test_the_years_ask_the_same_and_answer_differently(task):
    last, this = (documents(task, year) for year in YEARS)
    assert [document.prompt for document in last] == [document.prompt for document in this]
    same = sum(a.answer == b.answer for a, b in zip(last, this, strict=True))
    assert same < 0.15 * len(this)


def test_refunds_turn_once_with_time():
    """A rule and not noise: for one item and condition the decision changes at most once as days go by."""
    runs: dict[tuple[str, str], list[str]] = {}
    for document in documents("refunds", "this"):
        _, item, _, _, _, condition, _ = document.prompt.split()
        runs.setdefault((item, condition), []).append(document.answer)
    assert all(len(answers) == 100 for answers in runs.values())
    changes = [sum(a != b for a, b in itertools.pairwise(answers)) for answers in runs.values()]
    assert max(changes) == 1


def test_refund_decisions_are_the_choices_of_the_task():
    answers = [document["answer"] for document in _shipped("refunds")]
    assert set(answers) == set(DECISIONS)
    assert max(answers.count(decision) for decision in DECISIONS) < 0.5 * len(answers)
