"""Every page in a browser: on a phone and a desk, in light and dark, without scripts, by keyboard, with bad names."""

import re
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from evomerge.bench.served import Served
from evomerge.bench.study import write_study
from evomerge.config import search_config
from evomerge.study.page import CandidateQuery
from fitness.suite import Gate, SuiteConfig, TaskSpec

CANDIDATES, SIZE = 60, CandidateQuery().size
# (name of the picture, path): every page, and what pages are when things are not as they should be
PAGES = [
    ("studies", "/"),
    ("studies-none-such", "/?state=running"),
    ("study", "/studies/night"),
    ("study-broken", "/studies/torn"),
    ("candidate", "/studies/night/candidates/59"),
    ("candidate-failed", "/studies/night/candidates/50"),
    ("compare", "/compare?with=night:59&with=night:10&with=evening"),
    ("compare-nothing", "/compare"),
    ("launch", "/launch"),
    ("jobs", "/jobs"),
    ("error", "/studies/none-such"),
]
DESK, PHONE = 1440, 390
HOSTILE = "<img src=x onerror=pwned()><a href='javascript:pwned()'>\"'&"


@pytest.fixture(scope="module")
def served(tmp_path_factory, write, dashboard) -> Served:
    """A dashboard with two finished studies, one whose journal is torn, and one of hostile names."""
    runs_dir = tmp_path_factory.mktemp("pages")
    write(runs_dir, "night", CANDIDATES, "seed=3")
    write(runs_dir, "evening", 20, "genome=task_arithmetic")
    torn = write(runs_dir, "torn", 10) / "study.journal"
    torn.write_bytes(b"{" + torn.read_bytes())
    _write_hostile(runs_dir)
    return dashboard(runs_dir)


def _write_hostile(runs_dir: Path) -> None:
    tasks = (
        TaskSpec(name=HOSTILE, metric="acc", gate=Gate(at_least=0.6)),
        TaskSpec(name=f"b{HOSTILE}", metric=HOSTILE, gate=Gate(at_least=0.9, of="best_parent")),
    )
    words = ["study=plain", f"runs_dir={runs_dir}", "models=demo", "suite=demo", "genome=task_arithmetic"]
    folder = write_study(search_config(words).model_copy(update={"suite": SuiteConfig(tasks=tasks)}), 12)
    folder.rename(runs_dir / HOSTILE.replace("/", ""))


def settle(page: Page) -> None:
    """Bring all of a page into view, for then its figures are drawn, and wait for them."""
    assert page.viewport_size is not None
    height = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": page.viewport_size["width"], "height": height})
    for figure in page.locator("[data-figure]:visible").all():
        expect(figure.locator(".main-svg").first).to_be_visible(timeout=30_000)


@pytest.mark.parametrize(("name", "path"), PAGES, ids=[name for name, _ in PAGES])
def test_a_page_for_a_desk_and_for_a_phone(served, visit, accessible, keep, name, path):
    for width, scheme in ((DESK, "light"), (PHONE, "dark")):
        page = visit(served, path, width=width, scheme=scheme)
        settle(page)
        expect(page.locator("main h1")).to_have_count(1)
        assert page.title().endswith(" – evomerge")
        overhang = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overhang <= 0, f"{name} is {overhang} px wider than {width} px"
        accessible(page)
        keep(page, f"{name}-{width}-{scheme}")


def test_names_of_others_are_text_also_in_figures(served, visit):
    page = visit(served)
    ran = []
    page.expose_function("pwned", lambda *_: ran.append(page.url))
    page.on("dialog", lambda dialog: ran.append(dialog.message))
    study = f"/studies/{quote(HOSTILE.replace('/', ''), safe='')}"
    for path in (study, f"{study}/candidates/3", f"/compare?with={quote(HOSTILE.replace('/', '') + ':3')}"):
        page.goto(served.origin + path)
        settle(page)
        assert page.locator("main").get_by_text("onerror=pwned()").count() > 0
        assert page.locator("img").count() == 0
        for link in page.locator("a").all():
            assert not (link.get_attribute("href") or "").startswith("javascript:")
            assert not (link.get_attribute("xlink:href") or "").startswith("javascript:")
    assert ran == []


def test_without_scripts_everything_but_figures_is_there(served, visit):
    page = visit(served, "/studies/night", scripts=False)
    expect(page.get_by_role("heading", level=1)).to_contain_text("night")
    table = page.get_by_role("region", name="Candidates", exact=True)
    expect(table.get_by_role("row")).to_have_count(1 + SIZE)
    page.get_by_role("link", name="Next").click()
    expect(table.get_by_role("row")).to_have_count(1 + min(SIZE, CANDIDATES - SIZE))
    table.get_by_role("link", name=re.compile(r"^candidate \d")).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Candidate")
    page.goto(f"{served.origin}/studies/night?sort=number")
    for number in (3, 4):
        page.get_by_label(f"Compare candidate {number}", exact=True).check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", name="Recipe: from night:3 to night:4")).to_be_visible()
    page.goto(f"{served.origin}/launch")
    page.get_by_label("Experiment").select_option("demo")
    page.get_by_label("Overrides").fill("budget.candidates=7\nno.such=1")
    page.get_by_role("button", name="Preview").click()
    fault = page.locator("#error")
    expect(fault).to_contain_text("no")
    expect(page.get_by_label("Overrides")).to_have_attribute("aria-describedby", "error")
    page.get_by_label("Overrides").fill("budget.candidates=7")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("region", name="Composed config").last).to_contain_text("candidates: 7")


def test_by_keyboard(served, visit):
    page = visit(served)
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => {
                const { outlineStyle, boxShadow } = getComputedStyle(document.activeElement);
                return [document.activeElement.textContent.trim(), outlineStyle !== "none" || boxShadow !== "none"];
            }"""
        )
        if page.evaluate("document.activeElement === document.body"):
            break  # once around
        assert outline, f"nobody sees that {name} has the focus"
        seen.add(name)
    assert {"night", "evening", "torn", "Launch a search"} <= seen


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_nothing_moves_while_a_page_loads(served, visit, width):
    page = visit(served, width=width)
    page.add_init_script(
        """
        window.moved = 0;
        new PerformanceObserver((list) => {
          for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.moved += entry.value;
        }).observe({ type: "layout-shift", buffered: true });
        """
    )
    page.route("**/static/*.js", lambda route: (time.sleep(0.3), route.continue_()))  # the page is painted without
    page.goto(f"{served.origin}/studies/night")
    expect(page.locator("[data-figure] .main-svg").first).to_be_visible(timeout=30_000)
    page.wait_for_timeout(300)
    assert page.evaluate("window.moved") < 0.01


def test_on_a_phone_nothing_lies_on_a_figure_and_a_button_shows_all_of_it(served, visit):
    page = visit(served, "/studies/night", width=PHONE)
    settle(page)
    expect(page.locator(".modebar-btn")).to_have_count(0)
    figure, button = page.locator("#figure-task-0"), page.get_by_role("button", name="Show all of shipping", exact=True)
    entries, lowest = figure.locator(".legendtext"), "e => e.layout.yaxis.range[0]"
    cropped = figure.evaluate(lowest)
    expect(entries.get_by_text("base", exact=True)).to_have_count(0)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(entries.get_by_text("base", exact=True)).to_be_visible()
    assert figure.evaluate(lowest) < cropped
    page.evaluate("refresh()")  # which draws it anew
    page.emulate_media(color_scheme="dark")
    expect(entries.get_by_text("base", exact=True)).to_be_visible()
    button.click()
    expect(entries.get_by_text("base", exact=True)).to_have_count(0)
    assert figure.evaluate(lowest) == cropped


def test_at_a_desk_a_figure_has_buttons_while_it_is_pointed_at(served, visit):
    page = visit(served, "/studies/night")
    settle(page)
    buttons = page.locator("#figure-objective .modebar-group")
    expect(buttons).to_have_css("opacity", "0")
    page.locator("#figure-objective").hover()
    expect(buttons).to_have_css("opacity", "1")


def test_what_is_ticked_stays_so_when_the_table_is_refreshed(served, visit):
    page = visit(served, "/studies/night")
    box = page.locator("#table [type=checkbox]").nth(2)
    box.check()
    page.evaluate("document.querySelector('#table').append('out of date')")
    page.evaluate("refresh()")
    expect(page.locator("#table")).not_to_contain_text("out of date")
    expect(box).to_be_checked()
    expect(box).to_be_focused()
    expect(page.locator("#table :checked")).to_have_count(1)


@pytest.mark.parametrize(("width", "shown"), [(DESK, False), (PHONE, True)])
def test_a_phone_has_links_to_sort_studies_by(served, visit, width, shown):
    page = visit(served, "/", width=width)
    row = page.get_by_role("navigation", name="Sort by")
    expect(row).to_be_visible(visible=shown)
    if shown:
        row.get_by_role("link", name="Candidates").click()
        expect(row.locator("[aria-current]")).to_have_text("Candidates, descending")


def test_figures_take_the_colours_of_the_page(served, visit):
    page = visit(served, "/studies/night", scheme="light")
    settle(page)
    label = page.locator("[data-figure] .xtitle").first
    light = label.evaluate("each => getComputedStyle(each).fill")
    page.emulate_media(color_scheme="dark")
    expect(label).not_to_have_css("fill", light)
