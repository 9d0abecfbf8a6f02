"""Scores that are kept by what they depend on, so that no search under one runs_dir scores anew what another did."""

import json
import logging
import os
import uuid
import zlib
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from fitness.items import Scores, TaskScores

SCORES = ".scores"  # a folder in a runs_dir
LIMIT = 2**30  # bytes; most of an entry are the models' answers

log = logging.getLogger(__name__)


class ScoreCache:
    """One file for each scored recipe, in the folder `.scores` of a runs_dir.

    Any number of searches may share it while they run. A file that is torn or damaged counts as none and is written
    again. The folder may be removed at any time, to have everything scored anew.

    Args:
        runs_dir: the folder of the studies.
        limit: bytes that the entries may take, give or take a sixteenth; those longest unused go first.
    """

    def __init__(self, runs_dir: Path, limit: int = LIMIT) -> None:
        self.folder = runs_dir / SCORES
        self._limit = limit
        self._trim()

    def get(self, key: str) -> Scores | None:
        """The scores that were put under this key; None if there are none."""
        path = self.folder / key
        try:
            digest, _, body = path.read_bytes().partition(b"\n")
        except OSError:
            return None
        if digest.decode(errors="replace") != sha256(body).hexdigest():
            return None
        with suppress(OSError):
            os.utime(path)
        return {name: _task_scores(fields) for name, fields in json.loads(zlib.decompress(body)).items()}

    def put(self, key: str, scores: Scores) -> None:
        """Keep scores. A disk that cannot be written to costs the next search time and this one nothing."""
        body = zlib.compress(json.dumps({name: vars(task) for name, task in scores.items()}).encode(), level=1)
        partial = self.folder / f"{key}.{uuid.uuid4().hex}"  # two searches may put the same
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(sha256(body).hexdigest().encode() + b"\n" + body)
            partial.replace(self.folder / key)
        except OSError as error:
            log.warning("scores cannot be kept for later searches (%s): %s", self.folder, error.strerror)
            with suppress(OSError):
                partial.unlink()
        self._new += len(body)
        if self._new > self._limit // 16:
            self._trim()

    def _trim(self) -> None:
        self._new, room = 0, self._limit  # bytes
        with suppress(OSError), os.scandir(self.folder) as found:  # another search may be at it, too
            entries = [(facts.st_mtime, facts.st_size, entry.path) for entry in found for facts in [entry.stat()]]
            for _, size, path in sorted(entries, reverse=True):
                room -= size
                if room < 0:
                    os.unlink(path)


def _task_scores(fields: dict[str, Any]) -> TaskScores:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return TaskScores(**values)
