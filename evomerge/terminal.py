"""What commands share: options, and how they print."""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from evomerge.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType


UNFOLDED = 1000  # columns of what is piped

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how much is done and how much there is in all."""


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """Where the user's own options are."""
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="your models/, suite/, experiment/ ... folders")


def add_runs_dir(parser: argparse.ArgumentParser) -> None:
    """Where studies are."""
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")


def add_study(parser: argparse.ArgumentParser) -> None:
    """Which study."""
    parser.add_argument("study", metavar="STUDY", help="a name under the runs folder, or a path")
    add_runs_dir(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where merges are computed."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda[:n] or any accelerator that torch knows")


def add_compile(parser: argparse.ArgumentParser, default: str) -> None:
    """When kernels are compiled."""
    parser.add_argument(
        "--compile",
        choices=["auto", "always", "never"],
        default=default,
        help="kernels: auto compiles where that saves more than it costs, and uses those of earlier runs "
        f"(default: {default})",
    )


def add_json(parser: "argparse.ArgumentParser | argparse._MutuallyExclusiveGroup") -> None:
    """A document instead of a table."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def show(*renderables: "RenderableType") -> None:
    """Print on standard output, one after another: as wide as the terminal or as $COLUMNS, elsewhere unfolded."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else UNFOLDED)
    for renderable in renderables:
        console.print(renderable)


@contextmanager
def progress_bar(what: str) -> Iterator[Progress | None]:
    """A bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM removes what is half written, as Ctrl-C does, and exits with 143, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit:
        print("evomerge: terminated", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def together(*listeners: Progress | None) -> Progress:
    """Progress that goes to all of these."""

    def tell(done: int, total: int) -> None:
        for listener in listeners:
            if listener is not None:
                listener(done, total)

    return tell


class ProgressFile:
    """Progress as a small JSON file, {"done", "total", "updated"}, replaced as a whole at most twice a second.

    Args:
        path: of the file.
    """

    EVERY = 0.5  # seconds

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(f".{path.name}.partial")
        self._written: float | None = None

    def __call__(self, done: int, total: int) -> None:
        """Take in how much is done and how much there is in all; the first and the last call are always written.

        Raises:
            UsageError: the first call cannot write the file; if a later one cannot, the work goes on.
        """
        now = time.monotonic()
        if self._written is None:
            try:
                self._write(done, total)
            except OSError as error:
                raise UsageError("progress cannot be written", where=self._path, found=error.strerror) from error
        elif done < total and now - self._written < self.EVERY:
            return
        else:
            with suppress(OSError):
                self._write(done, total)
        self._written = now

    def _write(self, done: int, total: int) -> None:
        document = {"done": done, "total": total, "updated": datetime.now(UTC).isoformat(timespec="seconds")}
        self._partial.write_text(json.dumps(document), encoding="utf-8")
        self._partial.replace(self._path)
