"""The studies that a dashboard shows, kept open between requests and read anew only when something has changed."""

import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock, RLock, Thread
from typing import Any, TypeVar

from evomerge.dashboard.problems import NotFoundError
from evomerge.dashboard.signature import digest, signature
from evomerge.errors import OneLineError, StudyError, nearest
from evomerge.study import StudyView
from evomerge.study.document import StudyDocument, StudyEntry, study_document, study_entry
from evomerge.study.folder import StudyFolder, folders_in
from evomerge.study.lock import holder

T = TypeVar("T")

_KEPT = 64  # values that are remembered of one study
_DATABASE_EVERY = 5.0  # seconds; a database has no file whose change could be seen


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment.

    Attributes:
        document: the study.
        version: another one whenever the study, or what its search is doing, has changed.
    """

    document: StudyDocument
    version: str


class Shelf:
    """The studies in one folder. Safe to share between threads.

    A study is opened once and stays open while it is among the `capacity` that were asked for last. One that cannot be
    read raises for those who ask for it, and only for them.

    Args:
        runs_dir: the folder of the studies.
        capacity: studies to keep open.
    """

    def __init__(self, runs_dir: Path, capacity: int = 16) -> None:
        self.runs_dir = runs_dir.absolute()
        self._capacity = capacity
        self._lock = Lock()
        self._open: OrderedDict[str, _OpenStudy] = OrderedDict()
        self._entries: dict[str, tuple[str, StudyEntry]] = {}
        self._reading: dict[str | None, Thread] = {}

    @property
    def read_only(self) -> str | None:
        """Why nothing can be done to the studies, and what to do about that; None if it can."""
        if not self.runs_dir.is_dir():
            return f"The runs folder {self.runs_dir} does not exist. Make it with mkdir, or start with --runs-dir."
        if not os.access(self.runs_dir, os.W_OK):
            return f"The runs folder {self.runs_dir} cannot be written to. Change its mode, or start with --runs-dir."
        return None

    def require_writable(self) -> None:
        """Refuse an action where there is nothing to act on. Raises StudyError."""
        if reason := self.read_only:
            raise StudyError("actions are off", found=reason)

    def names(self) -> tuple[str, ...]:
        """The names of all studies, the broken ones too. Raises StudyError."""
        return tuple(folder.name for folder in folders_in(self.runs_dir))

    def folder(self, name: str) -> StudyFolder:
        """The folder of a study.

        Raises:
            NotFoundError: no study in the listing has that name.
        """
        names = self.names()
        if name not in names:
            remedy = nearest(name, names) if names else "there is none yet"
            raise NotFoundError("no such study", where=name, remedy=remedy)
        return StudyFolder(self.runs_dir / name)

    def study(self, name: str) -> StudyView:
        """A study, open.

        Raises:
            NotFoundError: no study in the listing has that name.
            StudyError: it cannot be read.
        """
        return self._find(name).view()

    def ready(self, name: str | None, seconds: float) -> bool:
        """Whether a study can be shown without reading all of it first; else it is being read from now on.

        Args:
            name: of the study; None for the list of all.
            seconds: to wait for it.

        Raises:
            NotFoundError: no study in the listing has that name.
            StudyError: the studies cannot be listed.
        """
        work: Callable[[], object] = self.entries
        if name is None:
            known = all(each in self._entries for each in self.names())
        else:
            known = self._find(name).is_open
            work = partial(self.remember, name, "document", study_document)
        if known:
            return True
        with self._lock:
            reader = self._reading.get(name)
            if reader is None or not reader.is_alive():
                reader = self._reading[name] = Thread(target=_quietly, args=(work,), daemon=True)
                reader.start()
        reader.join(seconds)
        return not reader.is_alive()

    def version(self, name: str) -> str:
        """Another text whenever a study, or what its search is doing, has changed. Raises NotFoundError."""
        return _version(self.folder(name))

    def whole_version(self) -> str:
        """Another text whenever any study, or what its search is doing, has changed. Raises StudyError."""
        return digest((path.name, _version(StudyFolder(path))) for path in folders_in(self.runs_dir))

    def snapshot(self, name: str) -> Snapshot:
        """A study's document, made anew only when its record has changed. Raises as `study`."""
        version = self.version(name)
        return Snapshot(self.remember(name, "document", study_document), version)

    def remember(self, name: str, key: Hashable, make: Callable[[StudyView], T]) -> T:
        """What `make` gives for a study, remembered under a key until the study's record changes.

        One value is made at a time for each study, so that many who ask at once cost no more than one. What a value
        shows of a search that is running, other than candidates, does not make it stale: read that afresh.

        Raises:
            NotFoundError: no study in the listing has that name.
            OneLineError: whatever `make` raises, and StudyError where the study cannot be read.
        """
        return self._find(name).remember(key, make)

    def entries(self) -> tuple[StudyEntry, ...]:
        """How every study stands, by name, the broken ones with the reason. Raises StudyError."""
        return tuple(map(self._entry, folders_in(self.runs_dir)))

    def _entry(self, path: Path) -> StudyEntry:
        folder = StudyFolder(path)
        version = _version(folder)
        known = self._entries.get(path.name)
        if known is not None and known[0] == version:
            return known[1]
        entry = study_entry(path, lambda _: self._take(folder).view())
        self._entries[path.name] = version, entry
        return entry

    def _find(self, name: str) -> "_OpenStudy":
        return self._take(self.folder(name))

    def _take(self, folder: StudyFolder) -> "_OpenStudy":
        with self._lock:
            name = folder.path.name
            study = self._open.pop(name, None) or _OpenStudy(folder)
            self._open[name] = study
            while len(self._open) > self._capacity:
                self._open.popitem(last=False)
            return study


class _OpenStudy:
    """One study, what was made of it, and the state of its files that both belong to."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self._lock = RLock()
        self._identity: object = None
        self._record: object = None
        self._view: StudyView | None = None
        self._failure: OneLineError | None = None
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    @property
    def is_open(self) -> bool:
        """Whether it was read, or could not be."""
        return self._view is not None or self._failure is not None

    def view(self) -> StudyView:
        with self._lock:
            record = _record(self._folder)
            if record != self._record:
                self._values.clear()
                self._failure = None
                identity = _identity(self._folder)
                if identity != self._identity:  # a resume has changed the config, or another study lies here now
                    self._view, self._identity = None, identity
                self._record = record
            if self._failure is not None:
                raise self._failure
            if self._view is None:
                try:
                    self._view = StudyView(self._folder.path)
                except OneLineError as error:
                    self._failure = error
                    raise
            return self._view

    def remember(self, key: Hashable, make: Callable[[StudyView], T]) -> T:
        with self._lock:
            view = self.view()
            if key not in self._values:
                self._values[key] = make(view)
                if len(self._values) > _KEPT:
                    self._values.popitem(last=False)
            value: T = self._values[key]
            return value


def _quietly(work: Callable[[], object]) -> None:
    with contextlib.suppress(OneLineError):  # who asks for the study is told
        work()


def _version(folder: StudyFolder) -> str:
    return digest((_record(folder), _activity(folder)))


def _record(folder: StudyFolder) -> object:
    """What changes with the record of a study: its config, its journal, and who writes to it."""
    try:
        writer: object = holder(folder.lock)
    except OSError as error:
        writer = error.errno
    journal = signature(folder.journal)
    # a study in a database has no journal
    tick = int(time.monotonic() / _DATABASE_EVERY) if journal is None else 0
    return signature(folder.config), journal, signature(folder.environment), writer, tick


def _activity(folder: StudyFolder) -> object:
    """What changes while a search is at work, with or without a new candidate."""
    return tuple(map(signature, (folder.status, folder.request, folder.path / "search.log")))


def _identity(folder: StudyFolder) -> object:
    """What changes when an open view would go on with what is no longer there."""
    journal = signature(folder.journal)
    return signature(folder.config), signature(folder.environment), None if journal is None else journal[0]
