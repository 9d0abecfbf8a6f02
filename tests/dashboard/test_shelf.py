import os
import threading
import time
from pathlib import Path

import pytest

from evomerge.dashboard.problems import NotFoundError
from evomerge.dashboard.shelf import Shelf
from evomerge.errors import StudyError
from evomerge.study import Result, Study
from evomerge.study.view import StudyView

GENOME = {"weight": 0.5}
SPACE = {"weight": (0.0, 1.0)}


@pytest.fixture
def shelf(runs_dir) -> Shelf:
    return Shelf(runs_dir)


def add_candidate(folder: Path) -> None:
    with Study.open(folder) as study:
        number = study.start([0.5], GENOME, SPACE, "merge_method: linear\n")
        study.finish(number, Result(reason="a test"), None)


def test_names_are_those_of_the_listing(shelf, runs_dir):
    (runs_dir / ".hidden").mkdir()
    (runs_dir / "file").touch()
    assert shelf.names() == ("night",)


@pytest.mark.parametrize("name", ["nigh", "../runs/night", "night/", "./night", ".", "", "/", "night\0", ".hidden"])
def test_a_name_is_matched_and_never_joined(shelf, runs_dir, name):
    (runs_dir / ".hidden").mkdir()
    with pytest.raises(NotFoundError, match="no such study"):
        shelf.study(name)
    with pytest.raises(NotFoundError):
        shelf.version(name)


def test_a_document_is_made_anew_only_when_the_study_has_changed(shelf, runs_dir):
    first = shelf.snapshot("night")
    again = shelf.snapshot("night")
    assert again.document is first.document
    assert again.version == first.version
    add_candidate(runs_dir / "night")
    changed = shelf.snapshot("night")
    assert changed.version != first.version
    assert len(changed.document.candidates) == len(first.document.candidates) + 1


def test_who_writes_changes_the_state_at_once(shelf, runs_dir):
    before = shelf.snapshot("night")
    with Study.open(runs_dir / "night"):
        during = shelf.snapshot("night")
        assert during.document.state == "running"
    after = shelf.snapshot("night")
    assert after.document.state != "running"
    assert during.version not in (before.version, after.version)


def test_what_a_search_says_changes_the_version_but_not_the_document(shelf, runs_dir):
    before = shelf.snapshot("night")
    (runs_dir / "night" / "search.log").write_text("a line\n")
    after = shelf.snapshot("night")
    assert after.version != before.version
    assert after.document is before.document


def test_a_changed_config_is_read(shelf, runs_dir):
    assert shelf.study("night").config["budget"]["candidates"] == 12
    with Study.open(runs_dir / "night") as study:
        study.change_config(study.config | {"budget": {"candidates": 50, "hours": None}})
    assert shelf.study("night").config["budget"]["candidates"] == 50


def test_another_study_of_the_same_name_is_another_study(shelf, runs_dir, write):
    first = shelf.snapshot("night").document
    (runs_dir / "night").rename(runs_dir.parent / "elsewhere")
    with pytest.raises(NotFoundError):
        shelf.snapshot("night")
    write(runs_dir / "night", "seed=7")
    assert shelf.snapshot("night").document.candidates != first.candidates


def test_a_value_is_remembered_until_the_study_changes(shelf, runs_dir):
    made: list[int] = []

    def count(view: StudyView) -> int:
        made.append(len(view.candidates()))
        return made[-1]

    assert [shelf.remember("night", "count", count) for _ in range(3)] == [12, 12, 12]
    add_candidate(runs_dir / "night")
    assert shelf.remember("night", "count", count) == 13
    assert made == [12, 13]


def test_many_who_ask_at_once_cost_one(shelf):
    made: list[object] = []

    def slow(view: StudyView) -> object:
        made.append(view)
        time.sleep(0.2)
        return made[-1]

    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(shelf.remember("night", "slow", slow))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert found == made * 8


def test_a_study_that_cannot_be_read_hurts_no_other_and_mends(shelf, runs_dir):
    journal = (runs_dir / "night" / "study.journal").read_bytes()
    other = runs_dir / "other"
    other.mkdir()
    (other / "config.yaml").write_bytes((runs_dir / "night" / "config.yaml").read_bytes())
    for _ in range(2):
        with pytest.raises(StudyError, match=r"study cannot be read \(.*environment.json\): found No such file"):
            shelf.study("other")
    (other / "environment.json").write_bytes((runs_dir / "night" / "environment.json").read_bytes())
    for _ in range(2):
        with pytest.raises(StudyError, match="no journal"):
            shelf.study("other")
    assert [entry.state for entry in shelf.entries()] == ["finished", "broken"]
    (other / "study.journal").write_bytes(b"{torn}\n" + journal)
    assert "damaged" in (shelf.entries()[1].reason or "")
    assert shelf.snapshot("night").document.study == "night"
    (other / "study.journal").write_bytes(journal)
    assert shelf.study("other").name == "other"


def test_a_study_that_has_lost_its_environment_is_broken_until_it_is_there_again(shelf, runs_dir):
    environment = runs_dir / "night" / "environment.json"
    content = environment.read_bytes()
    assert [entry.state for entry in shelf.entries()] == ["finished"]
    environment.unlink()
    for listed in (shelf, Shelf(runs_dir)):  # one that has the study open, and one that has not
        [entry] = listed.entries()
        assert entry.state == "broken"
        assert entry.reason == f"study cannot be read ({environment}): found No such file or directory"
        with pytest.raises(StudyError, match="No such file or directory"):
            listed.snapshot("night")
    environment.write_bytes(content)
    assert [entry.state for entry in shelf.entries()] == ["finished"]


def test_a_record_that_nobody_expects_is_of_a_broken_study(shelf, runs_dir):
    journal = runs_dir / "night" / "study.journal"
    text = journal.read_text()
    journal.write_text(
        text.replace('"violations": {', '"violations": 1, "was": {').replace('"violations":{', '"violations":1,"was":{')
    )
    assert journal.read_text() != text
    [entry] = shelf.entries()
    assert (entry.state, (entry.reason or "").partition(" (")[0]) == ("broken", "study is damaged")


def test_only_so_many_studies_stay_open(runs_dir, write):
    write(runs_dir / "second")
    shelf = Shelf(runs_dir, capacity=1)
    first = shelf.study("night")
    assert shelf.study("night") is first
    shelf.study("second")
    assert shelf.study("night") is not first


def test_the_list_knows_each_study_as_it_is_now(shelf, runs_dir):
    assert shelf.entries()[0].candidates == 12
    assert shelf.entries() == shelf.entries()
    add_candidate(runs_dir / "night")
    assert shelf.entries()[0].candidates == 13


def test_a_runs_folder_that_is_not_there_has_no_studies_and_no_actions(tmp_path):
    shelf = Shelf(tmp_path / "nowhere")
    assert shelf.names() == ()
    assert shelf.entries() == ()
    assert "does not exist" in (shelf.read_only or "")
    with pytest.raises(StudyError, match="actions are off"):
        shelf.require_writable()


def test_a_runs_folder_that_cannot_be_written_says_so(shelf, monkeypatch):
    shelf.require_writable()
    assert shelf.read_only is None
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
    assert "cannot be written" in (shelf.read_only or "")
    with pytest.raises(StudyError, match="actions are off"):
        shelf.require_writable()
    assert shelf.snapshot("night").document.study == "night"


def test_a_value_that_is_made_while_the_study_changes_does_not_stay(shelf, runs_dir):
    def late(view: StudyView) -> int:
        number = len(view.candidates())
        if number == 12:
            add_candidate(runs_dir / "night")
        return number

    assert shelf.remember("night", "late", late) == 12
    assert shelf.remember("night", "late", late) == 13
