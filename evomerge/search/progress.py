"""How far a search is: a live line on the terminal, and a small file for whoever looks from elsewhere."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from evomerge.study.folder import StudyFolder
from evomerge.study.lock import Holder
from evomerge.study.requests import Wish
from evomerge.study.status import Phase, Status, WorkerStatus, duration, remove_status, write_status

SETTLED = 4  # candidates before a rate is worth telling

log = logging.getLogger(__name__)


class StatusBoard:
    """Keeps the status file of a study as it is now, until `clear`.

    Args:
        folder: of the study.
        session: the process that searches.
        workers: what each worker does.
        wish: what the search was asked for.
    """

    EVERY = 1.0  # seconds

    def __init__(
        self,
        folder: StudyFolder,
        session: Holder,
        workers: Callable[[], Sequence[WorkerStatus]],
        wish: Callable[[], Wish | None],
    ) -> None:
        self._folder, self._session, self._workers, self._wish = folder, session, workers, wish
        self._shown: tuple[float, Phase | None] = (float("-inf"), None)

    def show(self, phase: Phase, done: int, total: int, rate: float | None, seconds_left: float | None) -> None:
        """Say how far the search is: at once in a new phase, else at most once a second."""
        now, (last, before) = time.monotonic(), self._shown
        if phase == before and now - last < self.EVERY:
            return
        self._shown = (now, phase)
        status = Status(
            pid=self._session.pid,
            host=self._session.host,
            since=self._session.since,
            updated=datetime.now(UTC).isoformat(timespec="seconds"),
            phase=phase,
            done=done,
            total=total,
            rate=rate,
            seconds_left=seconds_left,
            draining=self._wish(),
            workers=tuple(self._workers()),
        )
        with suppress(OSError):  # the record of the study tells of a full disk
            write_status(self._folder, status)

    def clear(self) -> None:
        """The search has ended."""
        with suppress(OSError):
            remove_status(self._folder)


class SearchProgress:
    """A live line on a terminal; elsewhere a plain line now and then. Writes to standard error.

    Args:
        total: candidates of the whole budget.
        done: candidates that earlier sessions finished.
        every: seconds between lines where there is no terminal.
        board: shows the same to other processes.
    """

    def __init__(self, total: int, done: int, *, every: float = 30.0, board: StatusBoard | None = None) -> None:
        self.console = Console(stderr=True)
        self._started, self._first, self._done, self._total = time.monotonic(), done, done, total
        self._cached = 0
        self._rate: float | None = None  # candidates per hour
        self._deadline: float | None = None  # when the budget will be used up, on the monotonic clock
        self._phase: Phase = "starting"
        self._scored = self._to_score = 0  # recipes of a phase other than that of the candidates
        self._board = board
        self._every, self._printed = every, float("-inf")
        self._best = "no candidate yet"
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[best]}"),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("candidates", total=total, completed=done, rate="", best="")

    def __enter__(self) -> Self:
        self._bar.start()
        self.tick()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._board is not None:
            self._board.clear()

    def say(self, line: str) -> None:
        """One line above the bar, and in the log."""
        log.info(line)
        self.console.print(Text(line), soft_wrap=True)

    def phase(self, phase: Phase, recipes: int) -> None:
        """A phase begins in which so many recipes are to be scored; `begin` is that of the candidates."""
        self._phase, self._scored, self._to_score = phase, 0, recipes
        self.tick()

    def scored(self) -> None:
        """Count one more recipe of the phase."""
        self._scored += 1

    def begin(self) -> None:
        """Candidates begin now: what came before, such as loading models, does not count for their rate."""
        self._started = time.monotonic()
        self.phase("candidates", 0)

    def best(self, description: str) -> None:
        """What the best candidate is by now."""
        self._best = description

    def budget(self, total: int) -> None:
        """The budget has changed: so many candidates in all, and until the next of them nobody knows how much time."""
        self._total, self._deadline = total, None
        self._bar.update(self._task, total=total)

    def tick(self) -> None:
        """Time has passed."""
        if self._board is None:
            return
        candidates = self._phase == "candidates"
        done, total = (self._done, self._total) if candidates else (self._scored, self._to_score)
        left = None if self._deadline is None or not candidates else max(0.0, self._deadline - time.monotonic())
        self._board.show(self._phase, done, total, self._rate, left)

    def candidate_done(self, seconds_left: float | None, cached: bool = False) -> None:
        """Count one more candidate.

        Args:
            seconds_left: until the budget of hours is used up; None without one.
            cached: its scores were known, so it does not count for the rate.
        """
        self._done += 1
        self._cached += cached
        now = time.monotonic()
        fresh = self._done - self._first
        rate = ""
        if fresh >= SETTLED:
            seconds = max(now - self._started, 1e-9)
            left = (self._total - self._done) * seconds / fresh
            left = left if seconds_left is None else max(0.0, min(left, seconds_left))
            self._rate, self._deadline = 3600 * (fresh - self._cached) / seconds, now + left
            rate = f"{self._rate:,.0f}/h, {duration(left)} left"
        self._bar.update(self._task, completed=self._done, rate=rate, best=self._best)
        if self._bar.disable and (now - self._printed > self._every or self._done == self._total):
            self._printed = now
            parts = [f"{self._done}/{self._total} candidates", rate, self._best]
            self.console.print(Text("; ".join(filter(None, parts))), soft_wrap=True)
