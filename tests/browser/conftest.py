"""The dashboard as people use it: a process of its own and a real browser, without any network."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urldefrag

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

from evomerge.bench.browser import browsing, find_browser
from evomerge.bench.served import Served, serving
from evomerge.bench.study import write_study
from evomerge.config import search_config
from evomerge.study.folder import StudyFolder, folders_in
from evomerge.study.lock import holder

ARTIFACTS = Path(__file__).parent / "artifacts"
SEVERE = ("serious", "critical")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the browser: the one that is installed, else Debian's, which is installed if that can be."""
    why = ""
    if find_browser() is None:
        why = _install()
    found = find_browser()
    if found is None:
        message = f"no browser: {why}; install chromium, or name one in $CHROMIUM"
        (pytest.fail if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip)(message)
    return found


def _install() -> str:
    """Install Debian's chromium; why that could not be, if it could not."""
    if shutil.which("apt-get") is None:
        return "this is no Debian"
    if os.geteuid() != 0:
        return "only root may install it"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        try:
            done = subprocess.run(["apt-get", *words], env=environment, capture_output=True, text=True, timeout=240)
        except subprocess.TimeoutExpired:
            return f"apt-get {words[0]} took too long"
        if done.returncode != 0:
            return f"apt-get {words[0]} failed: {(done.stderr.strip().splitlines() or [''])[-1]}"
    return ""


# not for longer than a module: while it lives, its event loop counts as running in this thread
@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Browser]:
    with browsing(chromium) as browser:
        yield browser


@pytest.fixture(scope="package")
def dashboard() -> Iterator[Callable[..., Served]]:
    """dashboard(runs_dir, *options): one that answers. With the tests it ends, and so do all searches in its folder."""
    with ExitStack() as stack:
        folders = []

        def start(runs_dir: Path, *options: str) -> Served:
            folders.append(runs_dir)
            return stack.enter_context(serving(runs_dir, *options))

        yield start
        stack.close()
        for folder in (each for runs_dir in folders for each in folders_in(runs_dir)):
            if writer := holder(StudyFolder(folder).lock):
                with suppress(ProcessLookupError):
                    os.kill(writer.pid, signal.SIGKILL)


@pytest.fixture(scope="package")
def write() -> Callable[..., Path]:
    """write(runs_dir, name, candidates, *overrides): a study of the demo's models and tasks, its scores drawn."""

    def make(runs_dir: Path, name: str, candidates: int, *overrides: str) -> Path:
        words = [f"study={name}", f"runs_dir={runs_dir}", "models=demo", "suite=demo", *overrides]
        return write_study(search_config([*words, f"budget.candidates={candidates}"]), candidates)

    return make


class Visitor:
    """Opens pages and hears what the browser complains of: scripts that fail or are refused, foreign addresses."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._pages: set[str] = set()
        self.complaints: list[str] = []

    def __call__(
        self, served: Served, path: str = "/", *, width: int = 1440, scheme: str = "light", scripts: bool = True
    ) -> Page:
        """A page of a dashboard, entered by the address with the token."""
        context = self._browser.new_context(
            viewport={"width": width, "height": 844 if width < 600 else 900},
            color_scheme=scheme,  # type: ignore[arg-type]
            java_script_enabled=scripts,
            reduced_motion="reduce",
            has_touch=width < 600,
            accept_downloads=True,
        )
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: self._hear(said) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda asked: self._look(asked, served.origin))
        page.goto(served.entry)
        if path != "/":
            page.goto(served.origin + path)
        return page

    def _hear(self, said: ConsoleMessage) -> None:
        drawn_by_software = "WebGL" in said.text or "GPU" in said.text
        # what a page itself answers is for the test to look at
        refused = said.text.startswith("Failed to load resource") and urldefrag(said.location["url"]).url in self._pages
        if not (drawn_by_software or refused):
            self.complaints.append(said.text)

    def _look(self, asked: Request, origin: str) -> None:
        if asked.is_navigation_request():
            self._pages.add(urldefrag(asked.url).url)
        if not asked.url.startswith((f"{origin}/", "data:", "blob:")):
            self.complaints.append(f"foreign address: {asked.url}")

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def visit(browser) -> Iterator[Visitor]:
    """visit(served, path, ...): a page. The test fails if the browser had to complain."""
    visitor = Visitor(browser)
    yield visitor
    visitor.close()
    assert visitor.complaints == []


@pytest.fixture
def accessible() -> Callable[[Page], None]:
    """accessible(page): axe-core finds nothing serious in it."""

    def check(page: Page) -> None:
        found = Axe().run(page).response["violations"]
        told = {
            each["id"]: (each["help"], [(node["html"][:200], node["failureSummary"]) for node in each["nodes"][:3]])
            for each in found
            if each["impact"] in SEVERE
        }
        assert not told, json.dumps(told, indent=2)

    return check


@pytest.fixture
def keep() -> Callable[..., None]:
    """keep(page, name, whole=True): a picture of a page, or of what is in view, among the artifacts of the tests."""

    def picture(page: Page, name: str, *, whole: bool = True) -> None:
        ARTIFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=whole)

    return picture
