"""What a user asks of a running search: by Ctrl-C or SIGTERM, or by a request in the study's folder."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pydantic import ValidationError

from evomerge.config import BudgetConfig
from evomerge.study.folder import StudyFolder
from evomerge.study.requests import Wish, asked, asked_budget


class Drain:
    """What a session was asked for. It can be asked for something else, but not to go on after all."""

    LOOK = 0.5  # seconds between looks into the folder

    def __init__(self) -> None:
        self._wish: Wish | None = None
        self._signalled = False
        self._budget: dict[str, Any] = {}
        self._folder: StudyFolder | None = None
        self._looked = float("-inf")

    def watch(self, folder: StudyFolder) -> None:
        """Look for requests in the folder of a study from now on."""
        self._folder = folder

    def wish(self) -> Wish | None:
        """What was asked last; Ctrl-C asks to pause, whatever else is asked."""
        self._look()
        return "pause" if self._signalled else self._wish

    def wish_to_pause(self) -> Wish | None:
        """The same without `stop`, which lets the winner be chosen."""
        return "pause" if self.wish() == "pause" else None

    def budget(self, budget: BudgetConfig) -> BudgetConfig:
        """A budget, changed as was asked last."""
        self._look()
        with suppress(ValidationError):  # what is no request is none
            return BudgetConfig.model_validate(budget.model_dump() | self._budget)
        return budget

    def interrupt(self, _signal: int, _frame: object) -> None:
        """The handler of a signal: the first lets running candidates finish, one while they do ends the process.

        Raises:
            KeyboardInterrupt: the search is draining already.
        """
        if self._signalled or self._wish is not None:
            raise KeyboardInterrupt
        self._signalled = True

    def _look(self) -> None:
        now = time.monotonic()
        if self._folder is not None and now - self._looked >= self.LOOK:
            self._looked = now
            self._wish = asked(self._folder) or self._wish
            self._budget = asked_budget(self._folder)


@contextmanager
def draining() -> Iterator[Drain]:
    """A drain that listens to Ctrl-C and SIGTERM, where this is the main thread."""
    drain = Drain()
    if threading.current_thread() is not threading.main_thread():
        yield drain
        return
    before = {number: signal.signal(number, drain.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield drain
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
