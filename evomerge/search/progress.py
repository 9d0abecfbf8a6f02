"""What the terminal shows while a search runs."""

import logging
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

SETTLED = 4  # candidates before a rate is worth telling

log = logging.getLogger(__name__)


class SearchProgress:
    """A live line on a terminal; elsewhere a plain line now and then. Writes to standard error.

    Args:
        total: candidates of the whole budget.
        done: candidates that earlier sessions finished.
        every: seconds between lines where there is no terminal.
    """

    def __init__(self, total: int, done: int, *, every: float = 30.0) -> None:
        self.console = Console(stderr=True)
        self._started, self._first, self._done, self._total = time.monotonic(), done, done, total
        self._cached = 0
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
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """One line above the bar, and in the log."""
        log.info(line)
        self.console.print(Text(line), soft_wrap=True)

    def begin(self) -> None:
        """Candidates begin now: what came before, such as loading models, does not count for their rate."""
        self._started = time.monotonic()

    def best(self, description: str) -> None:
        """What the best candidate is by now."""
        self._best = description

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
            rate = f"{3600 * (fresh - self._cached) / seconds:,.0f}/h, {_duration(left)} left"
        self._bar.update(self._task, completed=self._done, rate=rate, best=self._best)
        if self._bar.disable and (now - self._printed > self._every or self._done == self._total):
            self._printed = now
            parts = [f"{self._done}/{self._total} candidates", rate, self._best]
            self.console.print(Text("; ".join(filter(None, parts))), soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
