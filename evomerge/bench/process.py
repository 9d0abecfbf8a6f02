"""Child processes, timed and weighed from outside: a merge by the command line, and the bare `import torch`."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import UsageError

_SAMPLE_SECONDS = 0.005


@dataclass(frozen=True)
class Run:
    """One run of the command line.

    Attributes:
        startup: seconds from the start of the process until weights were first read, the floor's included.
        seconds: from then on.
        floor: seconds of the floor, just before, in the same process; None unless it was asked for.
        anonymous: most bytes of anonymous memory seen; None where the system does not tell.
    """

    startup: float
    seconds: float
    floor: float | None
    anonymous: int | None


def run_merge(arguments: Sequence[str], floor: Path | None = None) -> Run:
    """Run `evomerge merge` with these arguments in a process of its own.

    Args:
        arguments: of the command.
        floor: a file for the floor of that merge to write, which is then measured, too.

    Raises:
        UsageError: it failed; says how.
    """
    options = () if floor is None else ("--floor", str(floor))
    began = time.monotonic()
    said, anonymous = _watch("-m", "evomerge.bench.probe", *options, "merge", *arguments)
    moments = json.loads(said.splitlines()[-1])
    startup, seconds = moments["first_read"] - began, moments["end"] - moments["first_read"]
    return Run(startup, seconds, moments["floor"], anonymous)


def import_torch() -> tuple[float, int | None]:
    """Seconds that `python -c 'import torch'` takes, and most bytes of its anonymous memory, if the system tells."""
    began = time.monotonic()
    _, anonymous = _watch("-c", "import torch")
    return time.monotonic() - began, anonymous


def _watch(*arguments: str) -> tuple[str, int | None]:
    """What Python said when run with these arguments, and most bytes of its anonymous memory."""
    peaks = []
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            while True:
                try:
                    said, errors = child.communicate(timeout=_SAMPLE_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    peaks.append(_anonymous(child.pid))
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        reason = next(reversed(errors.strip().splitlines()), f"exit code {child.returncode}")
        raise UsageError("a process of the bench failed", found=reason.removeprefix("evomerge: "))
    return said, max((peak for peak in peaks if peak is not None), default=None)


def _anonymous(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:  # another system, or the process has just ended
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)
