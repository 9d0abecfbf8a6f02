"""One writer per study. The kernel drops the lock with the process, so kill -9 leaves nothing to clean up."""

import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from evomerge.errors import StudyInUseError
from evomerge.study.folder import writing

PATIENCE = 0.2  # seconds to keep trying: a probe holds the lock for an instant


@dataclass(frozen=True)
class Holder:
    """Who writes to a study.

    Attributes:
        pid: process id on `host`.
        host: node name.
        since: UTC time, ISO 8601.
    """

    pid: int
    host: str
    since: str


class StudyLock:
    """The exclusive right to write to a study, until `release`.

    Args:
        path: the lock file; it is made if need be and stays.

    Attributes:
        holder: this process.

    Raises:
        StudyInUseError: another process, or another `Study` of this one, holds it.
        StudyError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        with writing(path):
            self._file = path.open("a+b")
            try:
                self._acquire(path)
                now = datetime.now(UTC).isoformat(timespec="seconds")
                self.holder = Holder(os.getpid(), socket.gethostname(), now)
                self._file.truncate(0)
                self._file.write(json.dumps(asdict(self.holder)).encode())
                self._file.flush()
            except BaseException:
                self._file.close()
                raise

    def _acquire(self, path: Path) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    holder = _read(path)
                    raise StudyInUseError(
                        "study is in use",
                        where=path.parent,
                        found=f"process {holder.pid} on {holder.host} since {holder.since}" if holder else None,
                        remedy=f"wait for it, or ask it to end: evomerge pause {path.parent}",
                    ) from error
                time.sleep(0.01)

    def release(self) -> None:
        """Let another writer in."""
        self._file.close()


def holder(path: Path) -> Holder | None:
    """Who holds the lock, None if nobody does. Leaves the lock as it was.

    Raises:
        OSError: the file is there but cannot be read.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _read(path) or Holder(0, "unknown", "unknown")
    return None


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (ValueError, TypeError):  # the holder is just writing it
        return None
