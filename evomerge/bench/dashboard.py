"""`evomerge bench dashboard`: pages of a large study, and what a search loses to a page that follows it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from html import unescape
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

import torch

from evomerge.bench.browser import browsing, find_browser
from evomerge.bench.machine import Machine, describe_machine
from evomerge.bench.merge import check_range
from evomerge.bench.served import PATIENCE, Served, serving
from evomerge.bench.study import synthetic_suite, write_study
from evomerge.config import SearchConfig, search_config
from evomerge.errors import UsageError
from evomerge.study import Candidate, Result, Study, StudyView
from evomerge.study.folder import StudyFolder
from fitness.confidence import paired

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_STUDY = "large"
_WARM = 20  # candidates of a search before it is measured
_FOLLOWED = "followed"
# as the scripts of the pages have it, for a reader who looks at the top of the page
_REFRESH = 3.0  # seconds between two refreshes of a page that follows a search
_REDRAW = 6.0  # seconds between two drawings of a figure
_IN_VIEW = 2  # figures
_SETTLE = 3.0  # seconds after a page was opened or closed until its window begins
_FIGURE = re.compile(r'data-figure="([^"]+)"')
_DRAWN = """() => new Promise((resolve) => {
  const look = () => {
    const figure = document.querySelector("[data-figure] .main-svg");
    // a frame has been painted and the page listens again
    if (figure) requestAnimationFrame(() => setTimeout(() => {
      const [page] = performance.getEntriesByType("navigation");
      resolve([page.responseStart, page.domContentLoadedEventEnd, performance.now()].map((ms) => ms / 1000));
    }));
    else setTimeout(look, 10);
  };
  look();
})"""


@dataclass(frozen=True)
class PageCost:
    """One page, fetched from this machine.

    Attributes:
        path: with its query.
        first_byte: seconds, the median.
        slowest: the largest of those.
        whole: seconds until its last byte, the median.
        size: bytes over the wire, packed.
    """

    path: str
    first_byte: float
    slowest: float
    whole: float
    size: int


@dataclass(frozen=True)
class Seen:
    """The Study page in a browser that has nothing of it, as medians of seconds since the address was entered.

    Attributes:
        first_byte: it came.
        listening: page read, scripts run.
        usable: the first figure is drawn and the page answers to its user again.
    """

    first_byte: float
    listening: float
    usable: float


@dataclass(frozen=True)
class SearchCost:
    """What a search loses to a dashboard with a Study page that follows it, in windows of time with and without one.

    Attributes:
        windows: of each kind.
        without, following: candidates per hour.
        loss: share of the candidates per hour that is lost; (value, low, high) with 95 % confidence.
        busy: share of one core that the dashboard takes meanwhile; None where the system does not tell.
        idle: the same while nobody looks.
    """

    windows: int
    without: float
    following: float
    loss: tuple[float, float, float]
    busy: float | None
    idle: float | None


@dataclass(frozen=True)
class DashboardReport:
    """All that was measured.

    Attributes:
        machine: where.
        candidates, tasks, dimensions: of the large study.
        journal: its size in bytes.
        startup: seconds until a dashboard says its address.
        cold: first byte of the Study page, asked for at once, in seconds.
        ready: seconds from the start of the dashboard until it can show that study.
        memory: bytes that the dashboard takes at most; None where the system does not tell.
        pages: once the study is open.
        changed: first byte of the Study page just after a candidate was added, the median in seconds.
        seen: None without a browser.
        search: None if that was not asked for.
    """

    machine: Machine
    candidates: int
    tasks: int
    dimensions: int
    journal: int
    startup: float
    cold: float
    ready: float
    memory: int | None
    pages: tuple[PageCost, ...]
    changed: float
    seen: Seen | None
    search: SearchCost | None

    def to_json(self) -> str:
        """All of it as a JSON object."""
        return json.dumps(asdict(self), indent=2)


def bench_dashboard(
    candidates: int = 10_000,
    tasks: int = 5,
    *,
    repeat: int = 5,
    windows: int = 10,
    seconds: float = 20,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> DashboardReport:
    """Measure.

    Args:
        candidates: of the large study, which is synthetic; its genome is the one that is shipped as default.
        tasks: of the large study.
        repeat: how many requests a median is of.
        windows: of time with a page that follows a search of the demo, and as many without; 0 leaves that out.
        seconds: that each window lasts.
        keep: a folder for the large study, which is used again if it is there; None writes it and removes it.
        say: told what is under way.

    Raises:
        UsageError: an option is out of range, or the dashboard does not start.
        OneLineError: of the kind that fits, if a study cannot be written.
    """
    check_range("--candidates", candidates, 10, 1_000_000)
    check_range("--tasks", tasks, 1, 100)
    check_range("--repeat", repeat, 1, 1000)
    check_range("--windows", windows, 0, 1000)
    with tempfile.TemporaryDirectory(prefix="evomerge-bench-") as scratch:
        runs_dir = Path(scratch) if keep is None else keep.absolute()
        config = _large(runs_dir, candidates, tasks)
        if not config.folder.is_dir():
            write_study(config, candidates, items=False, say=say)
        view = StudyView(config.folder)
        some = view.candidates()
        browser = find_browser()
        say("opening the dashboard")
        with serving(runs_dir) as served:
            cold, ready = _open(served)
            pages = tuple(_page(served, path, repeat) for path in _paths(some))
            changed = _changed(served, config.folder, repeat, say)
            say("looking at the Study page")
            seen = None if browser is None else _see(served, browser, repeat)
            memory = served.memory()
        return DashboardReport(
            machine=describe_machine(torch.device("cpu")),
            candidates=len(some),
            tasks=len(config.suite.tasks),
            dimensions=len(some[0].x),
            journal=view.folder.journal.stat().st_size,
            startup=served.startup,
            cold=cold,
            ready=ready,
            memory=memory,
            pages=pages,
            changed=changed,
            seen=seen,
            search=_search_cost(Path(scratch) / "searches", windows, seconds, say) if windows else None,
        )


def _large(runs_dir: Path, candidates: int, tasks: int) -> SearchConfig:
    words = [f"study={_STUDY}", f"runs_dir={runs_dir}", "models=demo", "suite=demo", f"budget.candidates={candidates}"]
    config = search_config(words)
    return config.model_copy(update={"suite": synthetic_suite(tasks)})


def _paths(candidates: Sequence[Candidate]) -> Iterator[str]:
    last = candidates[-1].number
    yield "/"
    yield f"/studies/{_STUDY}"
    yield f"/studies/{_STUDY}?sort=-task:shipping&page={1 + last // 100}"
    yield f"/studies/{_STUDY}/candidates/{last}"
    yield f"/compare?with={_STUDY}:{last}&with={_STUDY}:{last // 2}"
    yield f"/api/studies/{_STUDY}/figures/objective"


def _open(served: Served) -> tuple[float, float]:
    """Seconds to the first byte of the Study page, asked for at once, and from the start until the study is shown."""
    began = time.perf_counter()
    cold = served.get(f"/studies/{_STUDY}").first_byte
    while served.get(f"/api/studies/{_STUDY}/candidates", accept="application/json").status != 200:
        if time.perf_counter() - began > 10 * PATIENCE:
            raise UsageError("the dashboard does not show the study", where=_STUDY)
        time.sleep(0.05)
    return cold, served.startup + time.perf_counter() - began


def _page(served: Served, path: str, repeat: int) -> PageCost:
    accept = "application/json" if path.startswith("/api/") else "text/html"
    answers = [served.get(path, accept=accept) for _ in range(repeat + 1)][1:]
    for answer in answers:
        if answer.status != 200:
            raise UsageError("the dashboard refuses", where=path, found=f"status {answer.status}")
    return PageCost(
        path=path,
        first_byte=median(answer.first_byte for answer in answers),
        slowest=max(answer.first_byte for answer in answers),
        whole=median(answer.whole for answer in answers),
        size=answers[0].size,
    )


def _changed(served: Served, folder: Path, repeat: int, say: Callable[[str], None]) -> float:
    """Median seconds to the first byte of the Study page when a candidate has just been added."""
    say("adding candidates")
    firsts = []
    with Study.open(folder) as study:
        model = study.candidates()[-1]
        space = {name: (0.0, 2.0) if isinstance(value, float) else (value,) for name, value in model.genome.items()}
        for _ in range(repeat):
            number = study.start(model.x, model.genome, space, model.recipe)
            study.finish(number, Result(scores=model.scores, violations=model.violations, objective=model.objective))
            firsts.append(served.get(f"/studies/{_STUDY}").first_byte)
        study.end()
    return median(firsts)


def _see(served: Served, program: str, repeat: int) -> Seen:
    with browsing(program) as browser:
        moments = [_visit(browser, served) for _ in range(repeat + 1)][1:]
    return Seen(*(median(each) for each in zip(*moments, strict=True)))


def _visit(browser: "Browser", served: Served) -> Sequence[float]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(served.entry)  # the way in is not counted
    page.goto(f"{served.origin}/studies/{_STUDY}", wait_until="commit")
    moments: Sequence[float] = page.evaluate(_DRAWN)
    context.close()
    return moments


def _search_cost(runs_dir: Path, windows: int, seconds: float, say: Callable[[str], None]) -> SearchCost:
    words = ["search", "experiment=demo", f"study={_FOLLOWED}", f"runs_dir={runs_dir}", "workers.count=1"]
    runs_dir.mkdir(parents=True)
    with _running([*words, "budget.candidates=100000"], runs_dir / ".output") as search, serving(runs_dir) as served:
        folder = StudyFolder(runs_dir / _FOLLOWED)
        say("waiting for a search to get going")
        deadline = time.monotonic() + 5 * PATIENCE
        while len(_finished(folder)) <= _WARM:
            search.check()
            if time.monotonic() > deadline:
                raise UsageError(
                    "a search of the demo does not get going", found=f"{len(_finished(folder))} candidates"
                )
            time.sleep(0.2)
        rates: dict[bool, list[float]] = {True: [], False: []}
        loads: dict[bool, list[float]] = {True: [], False: []}
        for place in range(2 * windows):
            following = place % 4 in (1, 2)  # a drift of the machine favours neither
            say(f"window {place + 1} of {2 * windows}: {'a page follows' if following else 'nobody looks'}")
            with _follower(served, following):
                time.sleep(_SETTLE)
                before, began = served.cpu_seconds(), time.time()
                time.sleep(seconds)
                after, ended = served.cpu_seconds(), time.time()
            search.check()
            rates[following].append(_rate(folder, began, ended))
            if before is not None and after is not None:
                loads[following].append((after - before) / (ended - began))
    lost = paired(rates[False], rates[True])
    whole = mean(rates[False])
    return SearchCost(
        windows=windows,
        without=whole,
        following=mean(rates[True]),
        loss=(lost.value / whole, lost.low / whole, lost.high / whole),
        busy=mean(loads[True]) if loads[True] else None,
        idle=mean(loads[False]) if loads[False] else None,
    )


@dataclass(frozen=True)
class _Search:
    process: subprocess.Popen[str]
    output: Path

    def check(self) -> None:
        """Raise UsageError if it has ended."""
        if self.process.poll() is not None:
            said = self.output.read_text(encoding="utf-8").strip().splitlines()
            raise UsageError("the search of the bench has ended", found=said[-1] if said else self.process.returncode)


@contextmanager
def _running(words: Sequence[str], output: Path) -> Iterator[_Search]:
    """A search in a process group of its own, which is killed when the block ends."""
    with (
        output.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            [sys.executable, "-m", "evomerge", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield _Search(process, output)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _finished(folder: StudyFolder) -> list[float]:
    """When each candidate was recorded, in order; its items are written just before."""
    return sorted(path.stat().st_mtime for path in folder.items.glob("[0-9]*.parquet"))


def _rate(folder: StudyFolder, began: float, ended: float) -> float:
    """Candidates per hour between the first and the last that a window holds."""
    moments = [moment for moment in _finished(folder) if began <= moment <= ended]
    if len(moments) < 3:
        remedy = "longer ones: --seconds"
        raise UsageError("too few candidates in a window", expected="3 or more", found=len(moments), remedy=remedy)
    return 3600 * (len(moments) - 1) / (moments[-1] - moments[0])


@contextmanager
def _follower(served: Served, follows: bool) -> Iterator[None]:
    """A Study page that is open meanwhile, if it is to be: what its script asks of the server, without its drawing,
    which another machine does."""
    if not follows:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(served, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE)


def _follow(served: Served, over: threading.Event) -> None:
    page = f"/studies/{_FOLLOWED}"
    figures = _FIGURE.findall(served.get(page, packed=False).body.decode())[:_IN_VIEW]
    drawn = 0.0
    with served.events(f"{page}/events") as changes:
        for _ in changes:
            if over.is_set():
                return
            served.get(page)
            if time.monotonic() - drawn > _REDRAW:
                drawn = time.monotonic()
                for figure in figures:
                    served.get(unescape(figure), accept="application/json")
            if over.wait(_REFRESH):
                return
