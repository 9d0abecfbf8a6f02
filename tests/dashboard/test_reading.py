"""A study that takes seconds to be read keeps nobody waiting."""

import threading

import pytest

from evomerge.dashboard import reading, shelf
from evomerge.study import StudyView


@pytest.fixture
def slow(monkeypatch):
    """An event that the reading of every study waits for."""
    go = threading.Event()

    def read(path):
        assert go.wait(60)
        return StudyView(path)

    monkeypatch.setattr(shelf, "StudyView", read)
    yield go
    go.set()


@pytest.mark.parametrize("place", ["/", "/studies/night", "/studies/night/candidates/3"])
def test_a_page_says_so_and_asks_again(browser, slow, monkeypatch, place):
    monkeypatch.setattr(reading, "PATIENCE", 0.05)
    answer = browser.get(place)
    assert answer.status_code == 503
    assert answer.headers["refresh"] == answer.headers["retry-after"] == "1"
    assert "being read for the first time" in answer.text.lower()
    slow.set()
    monkeypatch.setattr(reading, "PATIENCE", 60.0)
    assert browser.get(place).status_code == 200


def test_pages_that_do_not_show_it_are_there(browser, slow, monkeypatch):
    monkeypatch.setattr(reading, "PATIENCE", 0.05)
    assert browser.get("/studies/night").status_code == 503
    assert browser.get("/launch").status_code == 200
    assert browser.get("/jobs").status_code == 200


def test_a_study_that_changes_is_not_read_for_the_first_time_again(browser, runs_dir, monkeypatch):
    assert browser.get("/studies/night").status_code == 200
    monkeypatch.setattr(reading, "PATIENCE", 0.0)
    with (runs_dir / "night" / "search.log").open("a") as log:
        log.write("another line\n")
    assert browser.get("/studies/night").status_code == 200


def test_no_study_and_a_broken_one_are_told_at_once(browser, runs_dir):
    (runs_dir / "torn").mkdir()
    assert browser.get("/studies/nigh").status_code == 404
    assert browser.get("/studies/torn").status_code == 409
    assert "torn" in browser.get("/").text
