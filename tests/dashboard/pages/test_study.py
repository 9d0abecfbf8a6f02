import json
import re
from pathlib import Path

import pytest
from fastapi import Request

from evomerge.cli import main
from evomerge.dashboard.rendering import Flash
from evomerge.study import Result, Study

BOX = ("checkbox", "with")


def posting(page) -> list:
    """The forms that change something; the other one compares candidates."""
    forms = list(page.all("form"))
    assert [form.get("action") for form in forms if form.get("method") != "post"] == ["/compare"]
    return [form for form in forms if form.get("method") == "post"]


def buttons(page) -> dict[str, str]:
    """The label of each button that posts -> the address."""
    found = {}
    for form in posting(page):
        found |= {button.text.split()[0]: form.get("action") for button in form.all("button")}
    return found


def test_a_finished_study(opened, browser):
    page = opened("/studies/night")
    assert page.with_id("head").text.startswith("night finished")
    assert buttons(page) == {
        "Resume": "/studies/night/resume",
        "Export": "/studies/night/export",
        "Merge": "/studies/night/merge",
    }
    figures = [each for each in page.all("div") if each.get("data-figure")]
    assert {"figure-objective", "figure-task-0", "figure-layers-0"} <= {each.get("id") for each in figures}
    for each in figures:
        answer = browser.get(each.get("data-figure"))
        assert answer.status_code == 200
        assert answer.json()["layout"]["height"] == int(each.get("data-height"))
    places = {link.get("href") for link in page.with_id("places").all("a")}
    assert {"#objective", "#candidates", "#best", "#actions"} <= places
    for place in places:
        page.with_id(place.removeprefix("#"))


def test_the_table_is_sorted_filtered_and_paged_by_links(opened):
    page = opened("/studies/night?size=5")
    rows = [row.text for row in page.with_id("table").all("tr")][1:]
    assert len(rows) == 5
    following = next(each for each in page.with_id("table").all("a") if each.text == "Next")
    assert [row.text for row in opened(following.get("href")).with_id("table").all("tr")][1:] != rows
    heads = {each.text: each for each in page.with_id("table").all("th") if each.get("scope") == "col"}
    assert heads["Rank"].get("aria-sort") == "ascending"
    by_number = opened(next(heads["Candidate"].all("a")).get("href"))
    names = [row.text for row in by_number.with_id("table").all("th") if row.get("scope") == "row"]
    assert names == [f"candidate {number}" for number in (11, 10, 9, 8, 7)]
    kinds = next(by_number.with_id("table").all("nav"))
    feasible = next(each for each in kinds.all("a") if each.text.startswith("Feasible"))
    assert "sort=-number&filter=feasible" in feasible.get("href")
    opened(feasible.get("href"))


def test_candidates_are_ticked_to_be_compared(opened, runs_dir: Path):
    with Study.open(runs_dir / "night") as study:
        study.finish(study.start([0.5], {}, {}, "# failed"), Result(reason="out of memory"))
    form = next(each for each in opened("/studies/night").with_id("table").all("form"))
    values = [each.get("value") for each in form.all("input") if (each.get("type"), each.get("name")) == BOX]
    assert sorted(values) == sorted(f"night:{number}" for number in range(12))  # and not the one that has no scores
    page = opened(f"{form.get('action')}?with={values[3]}&with={values[1]}")
    names = [each.text.split()[0] for each in next(page.all("thead")).all("th")][1:]
    assert names == [values[3], values[1]]


@pytest.mark.parametrize("query", ["filter=good", "page=0", "size=999"])
def test_a_query_that_makes_no_sense_is_a_page(opened, query):
    assert query.partition("=")[0] in opened(f"/studies/night?{query}", 422).text


def test_a_remedy_that_asks_ends_as_a_question(opened):
    assert "What to do: Did you mean 'night'? " in opened("/studies/nigh", 404).text


def test_an_unknown_column_is_a_page(opened):
    assert "cannot be sorted by that" in opened("/studies/night?sort=nothing", 422).text


def test_what_an_action_said_is_told_once(opened):
    csrf = next(each.get("value") for each in opened("/launch").all("input") if each.get("name") == "csrf")
    said = Flash("The search goes on.")
    page = opened(said.on("/studies/night?size=5", Request({"type": "http", "csrf": csrf})))
    assert "The search goes on." in page.text
    links = [each.get("href") for each in page.with_id("table").all("a")]
    assert not any("flash" in link for link in links)


def test_a_candidate_that_holdout_refused_is_no_success(opened, runs_dir: Path):
    with Study.open(runs_dir / "night") as study:
        study.elect(None)
    head = opened("/studies/night").with_id("summary")
    assert "Best on dev, refused on holdout" in head.text
    assert not [each for each in head.all("dd") if each.get("class") == "cleared"]


def test_a_running_study_can_be_paused_and_stopped(opened, runs_dir: Path):
    with Study.open(runs_dir / "night"):
        page = opened("/studies/night")
    assert page.with_id("head").text.startswith("night running")
    assert {"Pause", "Stop"} <= buttons(page).keys()
    assert "Resume" not in buttons(page)
    assert "The search goes on meanwhile" in page.with_id("budget").text


def test_a_study_with_damaged_records_is_a_page_that_says_so(opened, browser, runs_dir, capsys):
    journal = runs_dir / "night" / "study.journal"
    text = journal.read_text()
    journal.write_text(re.sub(r'"violations": ?{', '"violations": 1, "was": {', text))
    assert "study is damaged" in opened("/").text
    for path in ("/studies/night", "/studies/night/candidates/3"):
        page = opened(path, 409)
        assert "Study is damaged" in page.text
        assert str(runs_dir / "night") in page.text
        assert "Restore it." in page.text
    for path in ("/api/studies/night", "/api/studies/night/figures/objective", "/studies/night/recipe"):
        answer = browser.get(path, headers={"Accept": "application/json"})
        assert (answer.status_code, answer.json()["error"]["what"]) == (409, "study is damaged")
    assert main(["show", str(runs_dir / "night")]) == 5
    assert "study is damaged" in capsys.readouterr().err


def test_where_nothing_can_be_written_no_button_can_be_pressed(opened, runs_dir: Path, monkeypatch):
    monkeypatch.setattr("evomerge.dashboard.shelf.Shelf.read_only", "The runs folder cannot be written to.")
    page = opened("/studies/night")
    assert all("disabled" in button.attributes for form in posting(page) for button in form.all("button"))
    assert "The runs folder cannot be written to." in page.text


def test_the_page_and_the_api_show_the_same(opened, browser):
    page = opened("/studies/night")
    model = json.loads(browser.get("/api/studies/night").text)
    assert model["verdict"] in page.text
    assert model["recipe"] in page.with_id("recipe").children
    numbers = [row["number"] for row in model["table"]["rows"]]
    names = [each.text for each in page.with_id("table").all("th") if each.get("scope") == "row"]
    assert names == [f"candidate {number}" for number in numbers]
