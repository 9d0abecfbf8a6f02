from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from evomerge.errors import StudyError, UsageError
from evomerge.study import Candidate, Result, Study
from evomerge.study.document import study_document
from evomerge.study.facts import study_facts
from evomerge.study.figures import figure_facts
from evomerge.study.page import CandidateQuery, StudyPage, failures, log_tail, study_page

Add = Callable[..., Candidate]

SUITE = {
    "tasks": [
        {"name": "shipping", "metric": "exact_match", "gate": {"at_least": 0.5}},
        {"name": "prose", "metric": "word_perplexity"},
    ]
}
SOURCE = "merge_method: passthrough\nmodels:\n- model: org/x\n"


@pytest.fixture
def night(folder: Path, created: Callable[..., Study]) -> Study:
    config = {"models": {"base": "b", "parents": ["org/x"]}, "suite": SUITE, "budget": {"candidates": 9}}
    with created(folder, **config) as study:
        yield study


@pytest.fixture
def mixed(night: Study, recorded: Add) -> Study:
    """One candidate of each kind: 0 misses a gate, 1 and 2 are feasible, 3 failed, 4 was stopped, 5 is running."""
    recorded(night, 0.9, 0.5, shipping=0.4, prose=3.0)
    recorded(night, 0.3, -0.1, shipping=0.7, prose=5.0)
    recorded(night, 0.6, -0.2, shipping=0.6, prose=4.0)
    recorded(night, None)
    stopped = Result(scores={"shipping": 0.9}, objective=0.95, stopped="certain to miss", rung=1)
    night.finish(night.start([0.5], {}, {}, ""), stopped)
    night.start([0.5], {}, {}, "")
    return night


def page_of(study: Study, **query) -> StudyPage:
    return study_page(study, study_document(study), CandidateQuery(**query))


def numbers(study: Study, **query) -> list[int]:
    return [row.number for row in page_of(study, **query).table.rows]


def test_a_study_at_a_glance(mixed: Study):
    page = page_of(mixed)
    assert (page.study, page.state, page.done, page.total) == ("night", "running", 5, 9)
    assert (page.best, page.leader.number, page.leader.rank, page.leader.feasible) == (2, 2, 1, True)
    assert page.recipe == mixed.candidate(2).recipe
    assert page.counts == {"all": 6, "feasible": 2, "infeasible": 1, "stopped": 1, "failed": 1, "running": 1}
    assert [row.number for row in page.matrix] == [2, 1, 0]
    assert page.verdict.startswith("On dev candidate 2 clears every gate")
    assert page.figures == figure_facts(study_facts(mixed, study_document(mixed)))
    assert page.status is None
    assert StudyPage.model_validate_json(page.model_dump_json()) == page


def test_without_a_feasible_candidate_the_nearest_leads(night: Study, recorded: Add):
    assert page_of(night).leader is None
    recorded(night, 0.9, 0.5)
    recorded(night, 0.3, 0.1)
    page = page_of(night)
    assert (page.leader.number, page.best, page.recipe) == (1, None, None)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("rank", [2, 1, 0, 3, 4, 5]),
        ("-rank", [0, 1, 2, 3, 4, 5]),
        ("number", [0, 1, 2, 3, 4, 5]),
        ("-number", [5, 4, 3, 2, 1, 0]),
        ("objective", [1, 2, 0, 4, 3, 5]),
        ("-objective", [4, 0, 2, 1, 3, 5]),
        ("task:shipping", [0, 3, 2, 1, 4, 5]),
        ("-task:prose", [3, 1, 2, 0, 4, 5]),
        ("seconds", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_what_has_no_value_comes_last_either_way(mixed: Study, sort, expected):
    assert numbers(mixed, sort=sort) == expected


def test_a_table_of_one_kind(mixed: Study):
    kinds = {kind: numbers(mixed, filter=kind) for kind in ("feasible", "infeasible", "stopped", "failed", "running")}
    assert kinds == {"feasible": [2, 1], "infeasible": [0], "stopped": [4], "failed": [3], "running": [5]}
    row = page_of(mixed, filter="stopped").table.rows[0]
    assert (row.kind, row.rank, row.stopped) == ("stopped", None, "certain to miss")


def test_pages_of_a_table(mixed: Study):
    table = page_of(mixed, sort="number", size=4, page=2).table
    assert ([row.number for row in table.rows], table.page, table.pages, table.found) == ([4, 5], 2, 2, 6)
    assert page_of(mixed, sort="number", size=4, page=99).table == table
    empty = page_of(mixed, filter="feasible", size=200).table
    assert (empty.page, empty.pages, empty.found) == (1, 1, 2)


def test_a_query_that_makes_no_sense_is_refused(mixed: Study):
    with pytest.raises(UsageError, match=r"cannot be sorted by that .*did you mean 'objective'"):
        page_of(mixed, sort="-objectiv")
    with pytest.raises(UsageError):
        page_of(mixed, sort="task:nowhere")
    for query in ({"page": 0}, {"size": 201}, {"filter": "good"}):
        with pytest.raises(ValidationError):
            CandidateQuery(**query)
    assert CandidateQuery(flash="The search goes on.") == CandidateQuery()


def test_failures_are_grouped_by_reason(night: Study, recorded: Add):
    night.finish(night.start([0.5], {}, {}, ""), Result(reason="NaN in its logits"))
    for _ in range(13):
        recorded(night, None)
    recorded(night, 0.5)
    night.add_baseline("ties", SOURCE, Result(reason="worker died"))
    night.add_finalist("x", None, Result(reason="timeout"))
    most, first, last = failures(study_document(night))
    assert (most.reason, most.count) == ("worker died", 14)
    assert most.names == tuple(f"candidate {number}" for number in range(1, 13))
    assert (first.reason, first.names) == ("NaN in its logits", ("candidate 0",))
    assert (last.reason, last.names) == ("timeout", ("x on holdout",))


def test_the_last_lines_of_the_log(night: Study):
    assert log_tail(night, 3) == ()
    log = night.folder.path / "search.log"
    log.write_bytes(b"one\ntwo \xff\nthree\n")
    assert log_tail(night, 2) == ("two \ufffd", "three")
    assert log_tail(night, 9) == ("one", "two \ufffd", "three")
    log.write_text("".join(f"line {number} {'x' * 100}\n" for number in range(2000)))
    tail = log_tail(night, 5000)
    assert tail[-1].startswith("line 1999 ")
    assert len(tail) < 2000
    assert all(line.startswith("line ") for line in tail)


def test_facts_are_worked_out_once_for_a_document(mixed: Study):
    document = study_document(mixed)
    facts = study_facts(mixed, document)
    assert study_facts(mixed, document) is facts
    assert study_facts(mixed, study_document(mixed)) is not facts


def test_a_study_of_something_else_is_a_study_error(folder: Path, created: Callable[..., Study]):
    with created(folder) as study, pytest.raises(StudyError, match="not the config of a search"):
        page_of(study)
