"""One search from the first click to the merged model, with all that can come in between."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from evomerge.recipe import Recipe
from evomerge.study import StudyView
from evomerge.study.folder import StudyFolder
from evomerge.study.lock import holder
from evomerge.study.status import read_status

STUDY = "story"
BUDGET = 2000  # more than any machine has done before the story lowers it
ENOUGH = 30  # candidates, of which some clear every gate
SLOW = 120_000  # ms; a session takes its time to load models and tasks
POINTS = (
    """figure => (figure.data ?? []).filter(each => /markers/.test(each.mode)).flatMap(each => [...each.x]).length"""
)


def until(reached: Callable[[], object], what: str, seconds: float = SLOW / 1000) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def badge(page: Page) -> Locator:
    return page.locator("h1 + .badge")


def press(page: Page, name: str) -> None:
    """Press the button at the top of the Study page."""
    page.locator("#head").get_by_role("button", name=name).click(timeout=SLOW)


def finished(folder: StudyFolder) -> int:
    return sum(each.state != "running" for each in StudyView(folder.path).candidates())


def searching(folder: StudyFolder) -> bool:
    status = read_status(folder)
    return status is not None and status.phase == "candidates"


@pytest.mark.timeout(900)
def test_from_the_first_click_to_the_merged_model(tmp_path: Path, dashboard, visit, accessible, keep):
    runs_dir = tmp_path / "runs"
    runs_dir.mkdir()
    folder = StudyFolder(runs_dir / STUDY)
    served = dashboard(runs_dir)
    page = visit(served)

    # launch
    page.get_by_role("link", name="Launch the first one").click()
    page.get_by_label("Experiment").select_option("demo")
    page.get_by_label("Name of the study").fill("no/such/place")
    page.get_by_role("button", name="Launch").click()
    expect(page.locator("#error")).to_contain_text("not a name for a study")
    page.get_by_label("Name of the study").fill(STUDY)
    page.get_by_label("Overrides").fill(f"budget.candidates={BUDGET}\nworkers.count=1\nfinalists=1")
    page.get_by_role("button", name="Launch").click(timeout=SLOW)
    until(lambda: folder.path.is_dir(), "the study has a folder")
    page.goto(f"{served.origin}/studies/{STUDY}")
    expect(badge(page)).to_have_text("running")

    # the curve moves, and nobody has reloaded the page
    page.evaluate("window.stays = true")
    curve = page.locator("[data-figure]").first
    expect(curve.locator(".main-svg").first).to_be_visible(timeout=SLOW)
    until(lambda: curve.evaluate(POINTS) > 0, "the first candidate is drawn")
    before = curve.evaluate(POINTS)
    until(lambda: curve.evaluate(POINTS) > before, "the curve moves")
    assert page.evaluate("window.stays")
    accessible(page)
    keep(page, "story-running-1440-light")

    # pause
    press(page, "Pause")
    expect(badge(page)).to_have_text("paused", timeout=SLOW)
    paused = finished(folder)
    assert holder(folder.lock) is None

    # resume, and pull the plug
    press(page, "Resume")
    expect(badge(page)).to_have_text("running", timeout=SLOW)
    until(lambda: searching(folder), "it goes on")
    until(lambda: finished(folder) > paused, "another candidate")
    os.kill(holder(folder.lock).pid, signal.SIGKILL)
    expect(badge(page)).to_have_text("interrupted", timeout=SLOW)
    page.goto(served.origin)
    expect(page.get_by_role("row").filter(has_text=STUDY)).to_contain_text("interrupted")
    keep(page, "story-interrupted-1440-light")

    # resume, and be content with less
    page.get_by_role("row").filter(has_text=STUDY).get_by_role("button", name="Resume").click(timeout=SLOW)
    page.goto(f"{served.origin}/studies/{STUDY}")
    expect(badge(page)).to_have_text("running", timeout=SLOW)
    until(lambda: searching(folder), "it goes on again")
    budget = max(ENOUGH, finished(folder) + 20)
    page.get_by_label("Candidates in all").fill(str(budget))
    page.get_by_role("button", name="Change").click()
    expect(page.get_by_role("status").filter(has_text=f"{budget} candidates")).to_be_visible(timeout=SLOW)
    expect(badge(page)).to_have_text("finished", timeout=2 * SLOW)
    study = StudyView(folder.path)
    assert [each.state for each in study.candidates()] == ["complete"] * budget
    winner = study.winner
    assert winner is not None
    expect(page.locator("#handover")).to_contain_text(f"candidate {winner.number}")
    keep(page, "story-finished-1440-light")

    # export
    page.get_by_label("Write the recipe").fill("exported.yaml")
    page.get_by_role("button", name="Export").click()
    expect(page.get_by_role("status").filter(has_text="exported.yaml")).to_be_visible()
    exported = folder.path / "exported.yaml"
    assert Recipe.from_yaml(exported.read_text()) == Recipe.from_yaml(winner.recipe)
    assert json.loads((folder.path / "exported.provenance.json").read_text())["candidate"] == winner.number
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    assert Path(download.value.path()).read_text() == winner.recipe
    with page.expect_download() as download:
        page.get_by_role("link", name="Report").click()
    assert "</html>" in Path(download.value.path()).read_text()

    # the candidate, with what its documents ask
    page.get_by_role("link", name=f"candidate {winner.number}").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Candidate {winner.number}")
    expect(page.locator("#recipe")).to_have_text(winner.recipe.strip())
    page.get_by_role("button", name="Read the prompts").click()
    done = page.get_by_role("article").filter(has_text="Reading the prompts")
    expect(done.locator(".badge")).to_have_text("done", timeout=SLOW)
    page.goto(f"{served.origin}/studies/{STUDY}/candidates/{winner.number}?outcome=level")
    rows = page.get_by_role("region", name=re.compile("^Documents of"))
    expect(rows.get_by_role("columnheader", name="Prompt")).to_be_visible()
    accessible(page)
    keep(page, "story-candidate-1440-light")

    # merge
    page.get_by_text("Merge it into a checkpoint").click()
    page.get_by_role("button", name="Merge").click()
    merge = page.get_by_role("article").filter(has_text="Merge of")
    expect(merge.locator(".badge")).to_have_text("done", timeout=SLOW)
    accessible(page)
    keep(page, "story-jobs-1440-light")
    model = folder.path / "models" / f"candidate-{winner.number}"
    assert (model / "config.json").is_file()
    assert list(model.glob("*.safetensors"))

    # a dashboard that is started again finds all of it
    page.close()  # it would complain that the server is gone
    served.stop()
    page = visit(dashboard(runs_dir), "/jobs")
    expect(page.get_by_role("article")).to_have_count(5)
    expect(page.locator("article .badge")).to_have_text(["done", "done", "done", "killed", "paused"])
    page.goto(page.url.replace("/jobs", f"/studies/{STUDY}"))
    expect(badge(page)).to_have_text("finished")
