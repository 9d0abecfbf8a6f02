import time
from pathlib import Path

import pytest

from evomerge.dashboard.pages.studies import StudiesQuery, studies_page
from evomerge.dashboard.processes import Job, Processes
from evomerge.study.document import BrokenStudy, StudySummary


def summary(study: str, **facts: object) -> StudySummary:
    usual = {
        "folder": f"/runs/{study}",
        "state": "finished",
        "candidates": 10,
        "done": 10,
        "total": 20,
        "feasible": 2,
        "objective": 0.5,
        "objective_interval": (0.4, 0.6),
        "gates_cleared": 3,
        "gates": 3,
        "hours": 1.0,
        "rate": None,
        "seconds_left": None,
        "begun": "2026-01-01T00:00:00+00:00",
        "updated": "2026-01-01T01:00:00+00:00",
    }
    return StudySummary(**usual | {"study": study} | facts)


BROKEN = BrokenStudy(study="torn", folder="/runs/torn", reason="journal cannot be read")
ENTRIES = (
    summary("early", objective=0.9, done=20, updated="2026-01-01T00:30:00+00:00"),
    summary("late", objective=None, gates_cleared=1, updated="2026-03-01T00:30:00+00:00"),
    summary(
        "now", state="running", objective=0.7, done=5, rate=100.0, seconds_left=540.0, updated="2026-02-01T00:00:00"
    ),
    BROKEN,
    summary("asleep", state="paused", objective=0.8, total=None, updated=None),
)


def names(**query: object) -> list[str]:
    return [row.entry.study for row in studies_page(ENTRIES, StudiesQuery(**query)).rows]


@pytest.mark.parametrize(
    "query, expected",
    [
        ({}, ["now", "late", "early", "asleep", "torn"]),  # what runs is being updated
        ({"sort": "study", "descending": False}, ["asleep", "early", "late", "now", "torn"]),
        ({"sort": "study"}, ["torn", "now", "late", "early", "asleep"]),
        ({"sort": "objective"}, ["early", "asleep", "now", "late", "torn"]),
        ({"sort": "objective", "descending": False}, ["now", "asleep", "early", "late", "torn"]),
        ({"sort": "progress"}, ["early", "late", "now", "asleep", "torn"]),
        ({"sort": "gates", "descending": False}, ["late", "asleep", "early", "now", "torn"]),
        ({"sort": "rate"}, ["now", "asleep", "early", "late", "torn"]),
        ({"sort": "state", "descending": False}, ["now", "asleep", "early", "late", "torn"]),
    ],
)
def test_what_has_no_value_comes_last_either_way(query, expected):
    assert names(**query) == expected


def test_a_filter_leaves_the_counts_of_all():
    page = studies_page(ENTRIES, StudiesQuery(state="finished"))
    assert [row.entry.study for row in page.rows] == ["late", "early"]
    assert page.counts == {"running": 1, "paused": 1, "finished": 2, "broken": 1}
    assert page.total == 5


def test_actions_fit_the_state():
    actions = {row.entry.study: row.actions for row in studies_page(ENTRIES, StudiesQuery()).rows}
    assert actions["now"] == ("pause", "stop")
    assert actions["asleep"] == ("resume",)
    assert actions["early"] == actions["torn"] == ()


def search(study: str, **facts: object) -> Job:
    usual = {"id": study, "kind": "resume", "words": (), "started": "2026-01-01T00:10:00+00:00", "progress": None}
    ended = {"state": "failed", "exit": 4, "ended": "2026-01-01T00:20:00+00:00", "error": "no such model"}
    return Job(**usual | ended | {"study": study} | facts)


@pytest.mark.parametrize("state", ["interrupted", "paused", "finished"])
@pytest.mark.parametrize(
    ("updated", "told"),
    [
        (None, True),
        ("2026-01-01T00:05:00+00:00", True),
        ("2026-01-01T00:15:00+00:00", True),  # by the candidates that it scored before it failed
        ("2026-01-01T00:25:00+00:00", False),  # by somebody who has gone on with it
    ],
)
def test_a_failure_is_told_until_something_has_come_after_it(state, updated, told):
    entries = [summary("night", state=state, updated=updated)]
    assert bool(studies_page(entries, StudiesQuery(), [search("night")]).failed) == told


def test_a_failure_is_not_told_of_a_study_that_runs_nor_is_a_success():
    jobs = [search("now"), search("late", state="done", exit=0, error=None), search("torn"), search("gone")]
    assert [job.study for job in studies_page(ENTRIES, StudiesQuery(), jobs).failed] == ["torn", "gone"]


def test_a_launch_is_listed_and_followed_before_its_study_has_a_folder(opened, browser, runs_dir: Path):
    go = runs_dir.parent / "go"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\nexit('evomerge: no model')"
    processes = Processes(runs_dir)
    job = processes.start("search", "soon", "timeit", "-n1", "-r1", wait)
    notice = next(each for each in opened("/").with_id("studies").all("div") if each.get("role") == "note")
    assert notice.text.startswith("soon is being launched")
    assert [link.get("href") for link in notice.all("a")] == ["/studies/soon", f"/jobs#job-{job.id}"]
    assert "Being launched: models and tasks are checked first" in opened("/studies/soon?flash=x", 503).text
    assert browser.get("/studies/soon?flash=x").headers["refresh"] == "1; url=/studies/soon"
    go.touch()
    while processes.job(job.id).state == "running":
        time.sleep(0.05)
    assert "is being launched" not in opened("/").text
    page = opened("/studies/soon", 404)
    assert "its launch has failed" in page.text
    assert "no model" in page.text
    assert "Back to" not in opened("/studies/another", 404).text


def test_the_page_lists_a_study_and_a_broken_one(opened, runs_dir):
    (runs_dir / "<b>torn").mkdir()
    rows = [row.text for row in opened("/").with_id("studies").all("tr")]
    assert rows[0] == "Study State Candidates Best Gates Per hour Time left Updated Actions"
    assert "night finished 12 of 12" in rows[1]
    assert "<b>torn broken not a study" in rows[2]


def test_a_gate_that_nothing_clears_is_no_success(opened, runs_dir, write):
    write(runs_dir / "strict", "suite.tasks.0.gate.at_least=2")
    rows = {row.text.split()[0]: row for row in opened("/").with_id("studies").all("tr")}
    for study, colour in (("night", "cleared"), ("strict", "missed")):
        classes = {each.get("class") for each in rows[study].all("span")}
        assert classes & {"cleared", "missed"} == {colour}


def test_a_head_sorts_and_sorts_the_other_way_around(opened):
    def head(url: str) -> tuple[str | None, str | None]:
        cell = next(each for each in opened(url).all("th") if each.text.startswith("Best"))
        return cell.get("aria-sort"), next(cell.all("a")).get("href")

    assert head("/") == (None, "/?sort=objective&descending=true")
    assert head("/?sort=objective&descending=true") == ("descending", "/?sort=objective&descending=false")
    assert head("/?sort=objective&descending=false&state=finished")[0] == "ascending"


def test_a_phone_sorts_by_the_links_of_the_heads(opened, runs_dir, write):
    assert not [each for each in opened("/").all("nav") if each.get("aria-label") == "Sort by"]  # there is one study
    write(runs_dir / "noon")
    page = opened("/?sort=objective&descending=true&state=finished")
    row = next(each for each in page.all("nav") if each.get("aria-label") == "Sort by")
    heads = [link for cell in page.all("th") if cell.get("scope") == "col" for link in cell.all("a")]
    assert [each.get("href") for each in row.all("a")] == [each.get("href") for each in heads]
    [chosen] = [each for each in row.all("a") if each.get("aria-current")]
    assert (chosen.text, chosen.get("data-order")) == ("Best , descending", "descending")


def test_a_filter_that_lets_nothing_through_says_so(opened):
    assert "No study is running" in opened("/?state=running").text


def test_no_study_yet(opened, runs_dir: Path):
    (runs_dir / "night").rename(runs_dir.parent / "night")
    assert "There is no study yet" in opened("/").text


@pytest.mark.parametrize("url", ["/?sort=size", "/?state=asleep"])
def test_an_unknown_order_or_state_is_refused(opened, url):
    assert "Not valid" in opened(url, 422).text


def test_without_a_runs_folder_actions_are_off_and_the_page_says_why(opened, runs_dir):
    runs_dir.rename(runs_dir.parent / "elsewhere")
    page = opened("/")
    assert "Actions are off. The runs folder" in page.text
    [launch] = [each for each in page.with_id("main").all("a", "button") if "aunch" in each.text]
    assert (launch.name, "disabled" in launch.attributes) == ("button", True)
