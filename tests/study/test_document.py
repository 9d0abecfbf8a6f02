import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.cli import main
from evomerge.errors import UsageError
from evomerge.study import Candidate, Result, Study, StudyView
from evomerge.study.document import StudyDocument, candidate_detail, list_studies, study_document
from evomerge.study.table import SHOWN, ending_table, study_table

Add = Callable[..., Candidate]


def strict(text: str) -> dict:
    """Parse JSON as every other language does: without Infinity and NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_the_document_has_the_keys_that_are_promised(study: Study, folder: Path, recorded: Add):
    recorded(study, 0.9, violation=0.5)
    recorded(study, 0.5)
    recorded(study, None)
    study.start([0.5], {"source": "a"}, {"source": ("a", "b")}, "")
    study.add_baseline("base", "# base", Result(scores={"shipping": 0.2}, objective=0.2))
    document = strict(study_document(StudyView(folder)).model_dump_json())
    assert (document["study"], document["state"], document["best"]["number"]) == ("night", "running", 1)
    assert [baseline["name"] for baseline in document["baselines"]] == ["base"]
    first, second, third, fourth = document["candidates"]
    assert (
        first.items()
        >= {
            "number": 0,
            "state": "complete",
            "genome": {"weight.layers_0_3.shipping": 0.3, "density.layers_0_3.shipping": 0.55, "source": "b"},
            "scores": {"shipping": 0.5, "prose": 7.0},
            "gates": {"shipping": False},
            "feasible": False,
            "objective": 0.9,
            "seconds": 2.0,
            "reason": None,
        }.items()
    )
    assert (first["intervals"], first["objective_interval"], first["limits"]) == ({}, None, {})
    assert second["feasible"]
    assert (third["state"], third["objective"], third["reason"]) == ("failed", None, "worker died")
    assert (fourth["state"], fourth["seconds"], fourth["gates"], fourth["attempts"]) == ("running", None, {}, 1)


def test_intervals_are_kept_and_shown(study: Study, folder: Path):
    number = study.start([0.5], {}, {}, "")
    result = Result(
        scores={"shipping": 0.9},
        intervals={"shipping": (0.8, 0.95)},
        violations={"shipping": 0.1},
        limits={"shipping": 0.81},
        objective=0.9,
        objective_interval=(0.8, 0.95),
    )
    recorded = study.finish(number, result)
    assert (recorded.intervals, recorded.objective_interval) == (result.intervals, result.objective_interval)
    assert StudyView(folder).candidate(number) == recorded
    (shown,) = strict(study_document(StudyView(folder)).model_dump_json())["candidates"]
    assert (shown["intervals"], shown["objective_interval"]) == ({"shipping": [0.8, 0.95]}, [0.8, 0.95])
    assert shown["limits"] == {"shipping": 0.81}


def test_what_workers_hand_back_in_any_order_is_listed_in_one(study: Study, recorded: Add):
    for objective in (0.4, 0.6, 0.5):
        recorded(study, objective)
    study.note("baselines", ["base", "first", "uniform", "ties"])
    for name in ("first", "base", "ties", "older", "uniform"):
        study.add_baseline(name, "# a source", Result(objective=0.2))
    for name, number in (("0", 0), ("ties", None), ("2", 2), ("base", None), ("1", 1), ("first", None)):
        study.add_finalist(name, number, Result(objective=0.3))
    document = study_document(study)
    assert [each.name for each in document.baselines] == ["base", "first", "uniform", "ties", "older"]
    assert [each.name for each in document.finalists] == ["base", "first", "ties", "1", "2", "0"]
    assert [each.name for each in study.finalists()] == ["base", "first", "ties", "0", "2", "1"]


@pytest.mark.parametrize("count", [SHOWN, SHOWN + 1])
def test_a_table_that_leaves_candidates_out_says_so(study: Study, recorded: Add, count: int):
    recorded(study, None)
    for _ in range(count):
        recorded(study, 0.5)
    told = [str(each) for each in study_table(study_document(study))]
    assert (f"the best 15 of {count} that were scored; --json has all" in told) == (count > SHOWN)


def test_what_is_piped_is_not_folded(study: Study, folder: Path, recorded: Add, capsys, monkeypatch):
    recorded(study, 0.5, **{"a task of a very long name": 0.5, "another, no less long than this": 0.5})
    study.add_baseline("task_arithmetic_0.2", "# a merge", Result(scores={"a task of a very long name": 0.5}))
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["show", str(folder)]) == 0
    unfolded = capsys.readouterr().out
    assert any({"dev", "objective"} <= set(line.split()) for line in unfolded.splitlines())
    assert "task_arithmetic_0.2 " in unfolded
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["show", str(folder)]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_infinity_is_null(study: Study):
    number = study.start([0.5], {}, {}, "")
    study.finish(number, Result(scores={"prose": math.inf}, objective=0.1, violations={"prose": math.inf}))
    document = strict(study_document(study).model_dump_json())
    assert document["candidates"][0]["scores"] == {"prose": None}
    assert document["candidates"][0]["gates"] == {"prose": False}


def test_a_lead_without_an_interval_is_what_the_schema_says(study: Study, recorded: Add):
    recorded(study, 0.5)
    lead = {"candidate": 0, "rival": "uniform", "split": "dev", "objective": (0.1, -math.inf, math.inf), "tasks": {}}
    study.note("differences", [lead])
    document = study_document(study)
    assert strict(document.model_dump_json())["differences"][0]["objective"] == [0.1, None, None]
    assert StudyDocument.model_validate_json(document.model_dump_json()).differences == document.differences


def test_one_candidate_in_full(study: Study, recorded: Add):
    candidate = recorded(study, 0.5)
    assert strict(candidate_detail(study, 0).model_dump_json())["holdout"] is None
    study.add_finalist("0", 0, Result(scores={"shipping": 0.4}, objective=0.4))
    detail = strict(candidate_detail(study, 0).model_dump_json())
    assert (detail["study"], detail["x"], detail["recipe"]) == ("night", [0.25, 0.5, 0.75], candidate.recipe)
    assert detail["holdout"]["scores"] == {"shipping": 0.4}
    with pytest.raises(UsageError):
        candidate_detail(study, 1)


def test_benchmarks_that_steered_are_said_everywhere_and_first(study: Study, folder: Path, recorded: Add):
    assert study_document(study).benchmarks == ()
    study.note("benchmarks", ["maths: openai/gsm8k (test)", "qa: cais/mmlu (test)"])
    recorded(study, 0.5)
    document = study_document(StudyView(folder))
    for text in (document.model_dump_json(), (folder / "best.provenance.json").read_text()):
        assert strict(text)["benchmarks"] == ["maths: openai/gsm8k (test)", "qa: cais/mmlu (test)"]
    for table in (ending_table, study_table):
        first, *others = map(str, table(document))
        assert "steered this search: maths: openai/gsm8k (test), qa: cais/mmlu (test)." in first
        assert not any("benchmark" in other for other in others)
        assert not any("benchmark" in str(each) for each in table(document.model_copy(update={"benchmarks": ()})))


def test_a_list_shows_the_objective_of_the_winner(tmp_path: Path, created: Callable[..., Study], recorded: Add):
    for name, winner in (("elected", 1), ("refused", None)):
        with created(tmp_path / name) as study:
            recorded(study, 0.6)
            recorded(study, 0.5)
            study.elect(winner)
    assert [(entry.study, entry.objective, entry.feasible) for entry in list_studies(tmp_path)] == [
        ("elected", 0.5, 2),
        ("refused", None, 2),
    ]


def test_broken_studies_are_listed_with_the_reason(tmp_path: Path, created: Callable[..., Study], recorded: Add):
    with created(tmp_path / "good") as study:
        recorded(study, 0.5)
        recorded(study, 0.9, violation=1.0)
        study.end()
    created(tmp_path / "torn").close()
    torn = tmp_path / "torn" / "study.journal"
    torn.write_bytes(torn.read_bytes() + b"{")
    created(tmp_path / "damaged").close()
    (tmp_path / "damaged" / "study.journal").write_bytes(b"x\n{}\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "config.yaml").write_text("version: 9\nstudy: newer\n")
    (tmp_path / "README.md").touch()
    entries = {entry.study: entry for entry in list_studies(tmp_path)}
    assert list(entries) == ["damaged", "empty", "good", "newer", "torn"]
    assert {name: entry.state for name, entry in entries.items()} == {
        "damaged": "broken",
        "empty": "broken",
        "good": "finished",
        "newer": "broken",
        "torn": "interrupted",
    }
    assert "line 1 is not a record" in entries["damaged"].reason
    assert "config.yaml" in entries["empty"].reason
    assert "newer evomerge" in entries["newer"].reason
    good = entries["good"]
    assert (good.candidates, good.feasible, good.objective, good.reason) == (2, 1, 0.5, None)
    assert list_studies(tmp_path / "missing") == ()
