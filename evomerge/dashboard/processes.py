"""Searches and merges that the dashboard has started. Each is a process of its own and outlives the dashboard.

A job is a folder: `command.json` (what was started), `output.log` (what it printed), `exit` (its exit code, once it has
ended) and `alive`, a file whose lock the process holds until it ends in whatever way, so that any dashboard tells a job
that runs from one that was killed. Launches and resumes lie in `runs_dir/.launches`, merges in `merges/` of their
study.
"""

import contextlib
import fcntl
import itertools
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from evomerge.dashboard.problems import NotFoundError
from evomerge.dashboard.signature import digest, signature
from evomerge.study.folder import StudyFolder, folders_in, replace_file, writing
from evomerge.study.log import tail

Kind: TypeAlias = Literal["search", "resume", "merge", "prompts"]
JobState: TypeAlias = Literal["running", "done", "paused", "failed", "killed"]

SEARCHES: tuple[Kind, ...] = ("search", "resume")
KEPT = 200  # launches; older ones that have ended are forgotten
_TOKEN = "EVOMERGE_TOKEN"
_LINES = 50  # of an output in which its error is looked for
_SAID = "evomerge: "  # how a command begins the line that tells its error
_WARNED = "evomerge: warning: "
_INTERRUPTED = 130
# the shell notes how the command ended, also when the dashboard has long gone
_NOTING = '"$@"; echo $? > "$0.partial"; mv "$0.partial" "$0"'


class Command(BaseModel):
    """What was started.

    Attributes:
        kind: of job.
        study: that it is about.
        words: the Python module that was run, and its arguments.
        started: UTC, ISO 8601.
        candidate: that is merged, or whose page asked for the prompts; null for other jobs.
        out: the folder that a merge makes; null for other jobs.
    """

    model_config = ConfigDict(frozen=True)

    kind: Kind
    study: str
    words: tuple[str, ...]
    started: str
    candidate: int | None = None
    out: str | None = None

    @property
    def searches(self) -> bool:
        """Whether it is a search, new or resumed."""
        return self.kind in SEARCHES


class Progress(BaseModel):
    """How far a merge is, as `evomerge merge --progress` tells it.

    Attributes:
        done: bytes that are written.
        total: bytes that there are to write.
        updated: when that was, UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True)

    done: int
    total: int
    updated: str


class Job(Command):
    """A job, as it stands.

    Attributes:
        id: what it is called here.
        state: `running`, `done`, `paused` (a search that was asked to), `failed`, or `killed`.
        exit: its exit code; null while it runs and when it was killed.
        ended: when it ended by itself, UTC, ISO 8601; null while it runs and when it was killed.
        error: why it failed, in one line; null if it did not.
        progress: of a merge; null for other jobs, and before it has begun to write.
    """

    id: str
    state: JobState
    exit: int | None
    ended: str | None
    error: str | None
    progress: Progress | None


class Processes:
    """Starts jobs, and finds those that any dashboard has started.

    Args:
        runs_dir: the folder of the studies.

    Attributes:
        starting: held by who looks whether a job is under way and starts it if it is not.
    """

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir.absolute()
        self.starting = threading.Lock()
        self._launches = self.runs_dir / ".launches"

    def start(self, kind: Kind, study: str, *words: str, candidate: int | None = None) -> Job:
        """Start a Python module that is about a study, with its arguments. Raises StudyError if the disk is full."""
        with writing(self._launches):
            self._launches.mkdir(exist_ok=True)
            self._forget_old()
            place = self._launches / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"
            place.mkdir()
        return _start(place, Command(kind=kind, study=study, words=words, started=_now(), candidate=candidate))

    def start_merge(self, folder: StudyFolder, candidate: int, recipe: str, out: Path) -> Job:
        """Start a merge of a candidate's recipe into the folder `out`. Raises as `start`."""
        with writing(folder.path):
            place = _numbered(folder.merges)
            replace_file(place / "recipe.yaml", recipe.encode())
        words = ("evomerge", "merge", str(place / "recipe.yaml"), str(out), "--progress", str(place / "progress.json"))
        study = folder.path.name
        return _start(
            place,
            Command(kind="merge", study=study, words=words, started=_now(), candidate=candidate, out=str(out)),
        )

    def jobs(self) -> tuple[Job, ...]:
        """All jobs, the latest first. Raises StudyError."""
        found = [job for place in self._places() if (job := _read(place)) is not None]
        return tuple(sorted(found, key=lambda job: (job.started, job.id), reverse=True))

    def job(self, name: str) -> Job:
        """The job of that id. Raises NotFoundError."""
        found = _read(self._place(name))
        if found is None:
            raise NotFoundError("no such job", where=name)
        return found

    def running(self, study: str, *kinds: Kind) -> Job | None:
        """The job about a study, of one of these kinds, that was started last and has not ended; None if none is."""
        running = (job for job in self.jobs() if job.kind in kinds and job.state == "running")
        return next((job for job in running if job.study == study), None)

    def searching(self, study: str) -> Job | None:
        """The search of a study, new or resumed, that was started last and has not ended; None if there is none."""
        return self.running(study, *SEARCHES)

    def searches(self) -> tuple[Job, ...]:
        """The search of each study, new or resumed, that was started last; the latest first."""
        latest: dict[str, Job] = {}
        with contextlib.suppress(OSError):  # nothing has been launched yet
            for place in sorted(self._launches.iterdir(), reverse=True):
                command = _command(place)
                if command is not None and command.searches and command.study not in latest:
                    latest[command.study] = _job(place, command)
        return tuple(latest.values())

    def last_search(self, study: str) -> Job | None:
        """The search of a study, new or resumed, that was started last; None if none was started from a page."""
        return next((job for job in self.searches() if job.study == study), None)

    def merging(self, out: Path) -> Job | None:
        """The merge into the folder `out` that has not ended; None if there is none."""
        return next((job for job in self.jobs() if job.out == str(out) and job.state == "running"), None)

    def output(self, name: str, lines: int) -> tuple[str, ...]:
        """The last lines that a job has printed. Raises NotFoundError."""
        return tail(self._place(name) / "output.log", lines)

    def version(self) -> str:
        """Another text whenever a job has changed. Raises StudyError."""
        return digest(
            (place, _is_alive(place), *(signature(place / name) for name in ("output.log", "progress.json")))
            for place in self._places()
        )

    def _forget_old(self) -> None:
        for place in sorted(self._launches.iterdir())[: -KEPT + 1]:
            if not _is_alive(place):
                shutil.rmtree(place, ignore_errors=True)

    def _places(self) -> Iterator[Path]:
        for parent in (self._launches, *(StudyFolder(folder).merges for folder in folders_in(self.runs_dir))):
            with contextlib.suppress(OSError):
                yield from sorted(parent.iterdir())

    def _place(self, name: str) -> Path:
        for place in self._places():
            if _id(place) == name:
                return place
        raise NotFoundError("no such job", where=name)


def child_environment() -> dict[str, str]:
    """The environment of what a dashboard starts: its own, without its token, and with output as it is printed."""
    return {key: value for key, value in os.environ.items() if key != _TOKEN} | {"PYTHONUNBUFFERED": "1"}


def said(lines: Sequence[str]) -> str | None:
    """The error among the lines that a command has printed; None if it told none."""
    told = [line for line in lines if line.startswith(_SAID) and not line.startswith(_WARNED)]
    return told[-1].removeprefix(_SAID) if told else None


def _start(place: Path, command: Command) -> Job:
    """Start a command whose job lies in the folder `place`. Raises StudyError."""
    with (
        writing(place),
        (place / "alive").open("w") as alive,
        (place / "output.log").open("wb") as output,
    ):
        fcntl.flock(alive, fcntl.LOCK_EX)
        replace_file(place / "command.json", command.model_dump_json(indent=2).encode())
        process = subprocess.Popen(
            ["/bin/sh", "-c", _NOTING, str(place / "exit"), sys.executable, "-m", *command.words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # no Ctrl-C and no hang-up of the dashboard's terminal reaches it
            pass_fds=(alive.fileno(),),
            env=child_environment(),
        )
    threading.Thread(target=process.wait, daemon=True).start()  # lest it stays a zombie
    return _job(place, command)


def _read(place: Path) -> Job | None:
    """The job in a folder; None if it is none, or is just being made."""
    command = _command(place)
    return None if command is None else _job(place, command)


def _command(place: Path) -> Command | None:
    with contextlib.suppress(OSError, ValidationError):
        return Command.model_validate_json((place / "command.json").read_bytes())
    return None


def _job(place: Path, command: Command) -> Job:
    alive = _is_alive(place)  # before the exit code is read, which is written while it is alive
    code, ended = (None, None) if alive else _exit(place)
    return Job(
        **command.model_dump(),
        id=_id(place),
        state="running" if alive else _state(code),
        exit=code,
        ended=ended,
        error=None if code in (None, 0, _INTERRUPTED) else _error(place, code),
        progress=_progress(place),
    )


def _id(place: Path) -> str:
    return place.name if place.parent.name == ".launches" else f"{place.parent.parent.name}-merge-{place.name}"


def _is_alive(place: Path) -> bool:
    with contextlib.suppress(OSError), (place / "alive").open("rb") as file:  # or it is no job
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _exit(place: Path) -> tuple[int | None, str | None]:
    """The exit code of a job and when it ended; None if it was killed."""
    with contextlib.suppress(OSError, ValueError):
        path = place / "exit"
        return int(path.read_text()), _moment(path.stat().st_mtime)
    return None, None


def _state(code: int | None) -> JobState:
    if code == _INTERRUPTED:
        return "paused"
    if code is None or code > 128:  # by a signal
        return "killed"
    return "done" if code == 0 else "failed"


def _error(place: Path, code: int) -> str:
    lines = [line for line in tail(place / "output.log", _LINES) if line.strip()]
    # without a line of ours it is a bug, whose traceback ends in what it is
    return said(lines) or (lines[-1] if lines else f"ended with exit code {code}")


def _progress(place: Path) -> Progress | None:
    with contextlib.suppress(OSError, ValidationError):
        return Progress.model_validate_json((place / "progress.json").read_bytes())
    return None


def _numbered(parent: Path) -> Path:
    """A new folder in `parent`, named by the first number that is free. Raises OSError."""
    parent.mkdir(exist_ok=True)
    for number in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            (parent / str(number)).mkdir()
            break
    return parent / str(number)


def _now() -> str:
    return _moment(time.time())


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
