import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from evomerge.errors import StudyError, UsageError
from evomerge.study import Candidate, Result, Study, StudyView
from evomerge.study.journal import open_journal

Add = Callable[..., Candidate]


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_view_follows_the_writer(study: Study, folder: Path, recorded: Add):
    view = StudyView(folder)
    assert view.candidates() == ()
    first = recorded(study, 0.5)
    number = study.start([0.5], {}, {}, "")
    assert view.candidates() == study.candidates()
    assert [candidate.state for candidate in view.candidates()] == ["complete", "running"]
    study.finish(number, Result(objective=0.75))
    assert view.candidates()[0] is view.candidates()[0]  # what has ended is not read again
    assert (view.best.number, view.candidate(0)) == (1, first)
    assert view.state == "running"
    assert view.holder.pid == os.getpid()


def test_a_view_sees_past_a_torn_line_and_mends_nothing(study: Study, folder: Path, recorded: Add):
    recorded(study, 0.5)
    study.close()
    journal = folder / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4,"stu')
    os.symlink("gone", folder / "study.journal.lock")
    before = snapshot(folder)
    view = StudyView(folder)
    assert view.best.number == 0
    assert view.state == "interrupted"
    assert view.holder is None
    assert snapshot(folder) == before
    assert (folder / "study.journal.lock").is_symlink()


def test_a_view_and_a_writer_do_not_hinder_each_other(folder: Path, created: Callable[..., Study], recorded: Add):
    created(folder).close()
    view = StudyView(folder)
    began = time.monotonic()
    with Study.open(folder) as study:
        recorded(study, 0.5)
        StudyView(folder)
        assert view.state == "running"
    Study.open(folder).close()
    assert time.monotonic() - began < 5
    assert view.best.number == 0


def test_an_unknown_number_names_the_known_ones(study: Study, recorded: Add):
    with pytest.raises(UsageError, match="the study has none yet"):
        study.candidate(0)
    recorded(study, 0.5)
    for number in (-1, 1):
        with pytest.raises(UsageError, match=f"expected 0 to 0, found {number}"):
            study.candidate(number)


def test_what_other_tools_do_to_a_study_does_not_break_it(study: Study, folder: Path):
    number = study.start([0.5], {}, {}, "")
    theirs = optuna.load_study(study_name="night", storage=open_journal(folder / "study.journal"))
    theirs.tell(number, state=optuna.trial.TrialState.FAIL)
    ended = study.candidates()[number]
    assert (ended.state, ended.reason, ended.feasible) == ("failed", "ended by another program", False)
    theirs.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StudyError, match=r"trial was not written by evomerge \(trial 1\): found COMPLETE"):
        study.candidates()


def test_a_damaged_environment_is_one_line(study: Study, folder: Path):
    (folder / "environment.json").write_text("{")
    with pytest.raises(StudyError, match="study cannot be read"):
        StudyView(folder).environment  # noqa: B018
    (folder / "environment.json").write_text(json.dumps({"python": "3.11"}))
    with pytest.raises(StudyError, match="key missing"):
        StudyView(folder).environment  # noqa: B018
    (folder / "environment.json").unlink()
    with pytest.raises(StudyError, match="study cannot be read"):
        StudyView(folder).environment  # noqa: B018
