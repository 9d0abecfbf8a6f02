"""The Optuna storage of a study: a journal file that survives kill -9, or a database for a team."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from evomerge.errors import StudyError
from evomerge.study.folder import writing

STALE_AFTER = 0.5  # seconds; a living Optuna holds the lock of a journal for milliseconds
_BLOCK = 1 << 16

optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce every study on stderr


def open_journal(path: Path) -> JournalStorage:
    """Open a journal as it is; an unfinished last line is not read. Nothing is written.

    Raises:
        StudyError: the file is missing, unreadable, or damaged before its last line.
    """
    with reading(path):
        path.open("rb").close()  # Optuna would make an empty one
        # an absolute path, since Optuna spins for ever on a relative lock that it cannot stat
        name = str(path.absolute())
        return JournalStorage(JournalFileBackend(name, JournalFileOpenLock(name)))


def open_database(url: str) -> BaseStorage:
    """Open the database of a team.

    Raises:
        StudyError: it cannot be reached, or its driver is not installed.
    """
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:  # every driver has its own errors
        raise StudyError("study database cannot be opened", where=url.split("@")[-1], found=_cause(error)) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tell in one line why a storage cannot be read.

    Args:
        path: of the journal, if it is one.

    Raises:
        StudyError: for whatever Optuna raises inside.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise StudyError("study has no journal", where=path, expected="a file") from error
    except OSError as error:
        raise StudyError("study cannot be read", where=path, found=error.strerror) from error
    except StorageInternalError as error:
        raise StudyError("study database cannot be read", where=path.parent, found=_cause(error)) from error
    except (ValueError, LookupError, TypeError, AssertionError) as error:
        number = _first_damage(path)
        raise StudyError(
            "journal is damaged",
            where=path,
            found=f"line {number} is not a record of Optuna's" if number else repr(error),
            remedy=f"restore it, or give up all but its first {number - 1} lines" if number else "restore it",
        ) from error


@contextmanager
def understanding(folder: Path) -> Iterator[None]:
    """Tell in one line that the records of a study, which could be read, are not ours.

    Args:
        folder: of the study.

    Raises:
        StudyError: for whatever such records lead to inside.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StudyError("study is damaged", where=folder, found=repr(error), remedy="restore it") from error


@contextmanager
def recording(folder: Path) -> Iterator[None]:
    """Tell in one line why a storage cannot be written.

    Args:
        folder: of the study.

    Raises:
        StudyError: the disk is full or read-only, or the database fails.
    """
    try:
        with writing(folder):
            yield
    except StorageInternalError as error:
        raise StudyError("study database cannot be written", where=folder, found=_cause(error)) from error


def repair(path: Path) -> int:
    """Cut a journal back to its last whole line. Only for the holder of the study's lock.

    An append that was killed half-way leaves a line that Optuna skips, but the next append would make it fatal.

    Returns:
        How many bytes were cut off.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        end, whole = size, 0
        while end and not whole:
            start = max(0, end - _BLOCK)
            file.seek(start)
            whole = file.read(end - start).rfind(b"\n") + 1
            whole, end = (start + whole if whole else 0), start
    if whole < size:
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
    return size - whole


def remove_stale_lock(path: Path) -> None:
    """Remove the lock file that a killed writer left beside a journal. Only for the holder of the study's lock.

    Optuna itself would wait 30 seconds. Raises OSError.
    """
    lock = path.with_name(path.name + ".lock")
    seen = _identity(lock)
    deadline = time.monotonic() + STALE_AFTER
    while seen is not None and _identity(lock) == seen:
        if time.monotonic() > deadline:
            lock.unlink(missing_ok=True)
            break
        time.sleep(0.02)
    for left in path.parent.glob(f"{lock.name}*.rename"):
        left.unlink(missing_ok=True)


def _identity(lock: Path) -> tuple[int, int] | None:
    try:
        status = lock.lstat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _cause(error: Exception) -> str:
    """What the driver of the database says, without the statement."""
    return str(error.__cause__ or error).splitlines()[0]


def _first_damage(path: Path) -> int | None:
    """The number, from 1, of the first line that is not a record."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                json.loads(line)["op_code"]
            except (ValueError, LookupError, TypeError):
                return number
    return None
