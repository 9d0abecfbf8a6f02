import os
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.errors import StudyError, UsageError
from evomerge.study import Study
from evomerge.study.folder import StudyFolder
from evomerge.study.requests import ask, ask_budget, asked, asked_budget, withdraw


def test_the_last_wish_counts_until_it_is_withdrawn(study: Study):
    assert asked(study.folder) is None
    process = ask(study.folder, "pause")
    assert process == study.session
    assert process.pid == os.getpid()
    assert asked(study.folder) == "pause"
    ask(study.folder, "stop")
    assert asked(study.folder) == "stop"
    withdraw(study.folder)
    withdraw(study.folder)
    assert asked(study.folder) is None


@pytest.mark.parametrize("content", [b"", b"pau", b"pause\nstop", b"\xff\xfe", b"resume"])
def test_what_is_no_wish_is_none(study: Study, content: bytes):
    study.folder.request.write_bytes(content)
    assert asked(study.folder) is None


def test_a_session_is_not_asked_what_was_asked_of_the_one_before(study: Study):
    ask(study.folder, "stop")
    study.close()
    with Study.open(study.folder.path) as later:
        assert asked(later.folder) is None


def test_a_session_can_be_asked_before_it_has_opened_the_study(study: Study, monkeypatch: pytest.MonkeyPatch):
    study.close()
    monkeypatch.setattr("evomerge.study.store.repair", lambda _: ask(study.folder, "stop"))
    with Study.open(study.folder.path) as later:
        assert asked(later.folder) == "stop"


@pytest.mark.parametrize("how", ["paused", "stopped", "finished"])
def test_a_study_that_is_not_running_cannot_be_asked(folder: Path, created: Callable[..., Study], how):
    with created(folder) as study:
        study.end(how)
    with pytest.raises(UsageError, match=rf"not running.*found state {how}; evomerge resume {folder}"):
        ask(study.folder, "pause")
    assert not study.folder.request.exists()


def test_what_is_no_study_cannot_be_asked(tmp_path: Path):
    with pytest.raises(StudyError, match="not a study"):
        ask(StudyFolder(tmp_path), "pause")
    with pytest.raises(StudyError, match="not a study"):
        ask(StudyFolder(tmp_path / "missing"), "pause")


def test_of_each_key_of_the_budget_the_last_request_counts(study: Study):
    assert asked_budget(study.folder) == {}
    assert ask_budget(study.folder, {"candidates": 20, "hours": 4.5}) == study.session
    ask_budget(study.folder, {"hours": None})
    ask_budget(study.folder, {"candidates": 30})
    assert asked_budget(study.folder) == {"candidates": 30, "hours": None}
    assert asked(study.folder) is None
    study.close()
    with Study.open(study.folder.path) as later:
        assert asked_budget(later.folder) == {}


def test_a_budget_is_asked_of_a_running_search_only(folder: Path, created: Callable[..., Study]):
    with created(folder) as study:
        study.end("paused")
    with pytest.raises(UsageError, match=rf"found state paused; evomerge resume {folder} budget.candidates=20 goes on"):
        ask_budget(study.folder, {"candidates": 20})
    assert not any(path.exists() for path in study.folder.budget_requests.values())
