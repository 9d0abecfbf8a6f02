"""What a page says of an action, while what it says is true."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from evomerge.bench.served import Served
from evomerge.study import Study

SOON = 20_000  # ms; a page asks anew every few seconds


@pytest.fixture(scope="module")
def night(tmp_path_factory, write) -> Path:
    return write(tmp_path_factory.mktemp("steering"), "night", 12)


@pytest.fixture(scope="module")
def served(night, dashboard) -> Served:
    return dashboard(night.parent)


def said(page: Page, text: str):
    return page.locator(".notice").filter(has_text=text)


def test_what_an_action_has_said_goes_once_it_is_no_longer_so(served, night, visit):
    with Study.open(night) as study:
        study.begin()
        page = visit(served, "/studies/night")
        page.get_by_role("button", name="Pause").click()
        expect(said(page, "The search pauses once")).to_be_visible()
        expect(page).to_have_url(f"{served.origin}/studies/night")
        study.end("paused")
    expect(page.locator("h1 + .badge")).to_have_text("paused", timeout=SOON)
    expect(said(page, "The search pauses once")).to_have_count(0)


def test_a_budget_that_is_refused_is_told_beside_its_field_and_can_be_corrected(served, night, visit, accessible, keep):
    for width, scheme in ((1440, "light"), (390, "dark")):
        page = visit(served, "/studies/night", width=width, scheme=scheme)
        page.get_by_label("Candidates in all").fill("3")
        page.get_by_role("button", name="Resume").last.click()
        field = page.get_by_label("Candidates in all")
        expect(field).to_be_focused()
        expect(field).to_have_value("3")
        expect(page.locator("#budget .error")).to_contain_text("used up")
        expect(said(page, "This cannot be done.")).to_be_visible()
        expect(page).to_have_url(f"{served.origin}/studies/night")
        accessible(page)
        keep(page, f"study-refused-{width}-{scheme}", whole=False)
    # the answer follows the study as its page does
    with Study.open(night) as study:
        study.begin()
        field.blur()
        expect(page.locator("h1 + .badge")).to_have_text("running", timeout=SOON)
        expect(said(page, "This cannot be done.")).to_have_count(0)
    page.reload()
    expect(page.locator("#budget .error")).to_have_count(0)
