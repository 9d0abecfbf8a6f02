"""A journal whose last line was torn at any byte is cut back, and the study goes on as if the line had never begun."""

import os
from pathlib import Path

import optuna
import pytest

from evomerge.study import Environment, Result, Study, StudyView
from evomerge.study.journal import open_journal, repair

ENVIRONMENT = Environment(python="", platform="", packages={}, models=())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "night"
    with Study.create(folder, {"study": "night"}, ENVIRONMENT) as study:
        for objective in (0.5, 0.75):
            number = study.start([objective, 0.1], {"weight": objective}, {"weight": (0.0, 1.0)}, f"# {objective} ü")
            study.finish(number, Result(scores={"t": objective}, violations={"t": -0.1}, objective=objective))
    return folder


def lines(folder: Path) -> list[bytes]:
    return (folder / "study.journal").read_bytes().splitlines(keepends=True)


def test_every_offset_of_every_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands would be slow
    journal = tmp_path / "torn.journal"
    whole = b""
    for line in lines(folder):
        for offset in range(len(line)):
            journal.write_bytes(whole + line[:offset])
            assert repair(journal) == offset
            assert journal.stat().st_size == len(whole)
        whole += line
    assert journal.read_bytes() == whole[: -len(line)]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("dropped", range(1, 9))
def test_a_study_goes_on_after_any_torn_line(folder: Path, dropped: int, share: float):
    """The last lines of two candidates (create, outcome, constraints, state), each torn somewhere."""
    kept, torn = lines(folder)[:-dropped], lines(folder)[-dropped]
    (folder / "study.journal").write_bytes(b"".join(kept) + torn[: int(share * len(torn))])
    before = StudyView(folder).candidates()
    finished = [candidate for candidate in before if candidate.state == "complete"]
    with Study.open(folder) as study:
        assert study.candidates() == before
        for number, objective in enumerate((0.5, 0.75)):
            if number == len(study.candidates()):
                study.start([objective, 0.1], {"weight": objective}, {"weight": (0.0, 1.0)}, f"# {objective} ü")
            if study.candidate(number).state == "running":
                study.finish(number, Result(scores={"t": objective}, violations={"t": -0.1}, objective=objective))
        candidates = study.candidates()
    assert list(candidates[: len(finished)]) == finished
    assert [(each.number, each.x, each.objective) for each in candidates] == [
        (0, (0.5, 0.1), 0.5),
        (1, (0.75, 0.1), 0.75),
    ]
    assert StudyView(folder).candidates() == candidates
    theirs = optuna.load_study(study_name="night", storage=open_journal(folder / "study.journal"))
    assert theirs.best_trial.number == 1
    assert (folder / "best.yaml").read_text() == "# 0.75 ü"
