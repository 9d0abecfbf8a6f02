"""What a running search does at the moment, in a small file that it writes anew once a second."""

from contextlib import suppress
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from evomerge.study.folder import StudyFolder, replace_file
from evomerge.study.lock import Holder, holder
from evomerge.study.requests import Wish

Phase: TypeAlias = Literal["starting", "baselines", "candidates", "finalists", "export"]


class WorkerStatus(BaseModel):
    """What one worker does.

    Attributes:
        name: node and process id; "starting" until it has loaded the models.
        job: the name of what it merges and scores, such as "candidate 12"; null when it is idle.
        seconds: for how long it has been at it.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    job: str | None
    seconds: float


class Status(BaseModel):
    """How far a search is.

    Attributes:
        pid: of the search, on `host`.
        since: when the session began, UTC, ISO 8601.
        updated: when this was written, UTC, ISO 8601.
        phase: what the session is at.
        done: of that phase: recipes scored, or candidates of the budget that have their result.
        total: of that phase.
        rate: candidates per hour in this session; null until it is worth telling.
        seconds_left: until the budget is used up; null until it is worth telling.
        draining: what the search was asked for: it starts nothing new; null if nothing.
        workers: what each worker does.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    host: str
    since: str
    updated: str
    phase: Phase
    done: int
    total: int
    rate: float | None
    seconds_left: float | None
    draining: Wish | None
    workers: tuple[WorkerStatus, ...]


def read_status(folder: StudyFolder) -> Status | None:
    """What the search of a study does; None if none is running, or if it has not said so yet."""
    with suppress(OSError, ValidationError):
        at_work = holder(folder.lock)
        status = Status.model_validate_json(folder.status.read_bytes())
        # else it is left of one that was killed; in containers all searches may have one process id
        if at_work == Holder(status.pid, status.host, status.since):
            return status
    return None


def write_status(folder: StudyFolder, status: Status) -> None:
    """Replace what `read_status` reads. Raises OSError."""
    replace_file(folder.status, status.model_dump_json().encode(), durable=False)


def remove_status(folder: StudyFolder) -> None:
    """End what `read_status` reads. Raises OSError."""
    folder.status.unlink(missing_ok=True)


def duration(seconds: float) -> str:
    """Seconds as people say them, such as "2 h 05 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
