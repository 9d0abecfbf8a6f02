"""The code of a task: what functions of its own are made of, and what they may read."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import file_digest, sha256
from pathlib import Path

import lm_eval.tasks
from lm_eval.tasks._yaml_loader import load_yaml

from fitness.errors import SuiteError

FILES, BYTES = 10_000, 2**30  # that may lie beside a task; reading more would delay every start

_SHIPPED = Path(lm_eval.tasks.__file__).resolve().parent  # its version names these
_FUNCTION = b"!function"


@dataclass(frozen=True)
class Code:
    """The code of a task.

    Attributes:
        folders: of its task file and of those that this includes, resolved: there lm-eval looks for what they name.
        digest: of the files in these folders and below, by their places and content.
    """

    folders: tuple[Path, ...]
    digest: str


class CodeReader:
    """Reads the code of tasks, each folder once.

    Args:
        task_files: paths of all tasks. What a task takes from such a file is known otherwise, so these are left out:
            one task may change while a study of its neighbour goes on.
    """

    def __init__(self, task_files: Collection[Path]) -> None:
        self._task_files = task_files
        self._digest = lru_cache(None)(self._digest_of)

    def __call__(self, path: Path) -> Code | None:
        """The code of a task; None if there is no `!function` in its file nor in what this includes.

        Args:
            path: its task file, which can be loaded.

        Raises:
            OSError: a file cannot be read.
            SuiteError: more lies beside it than can be read at each start.
        """
        own = [file for file in _with_included(path) if not file.is_relative_to(_SHIPPED)]
        if not any(_FUNCTION in file.read_bytes() for file in own):
            return None
        folders = tuple(dict.fromkeys(file.parent for file in own))
        return Code(folders, sha256("".join(map(self._digest, folders)).encode()).hexdigest())

    @cached_property
    def _left_out(self) -> set[Path]:  # only where a digest is taken: lm-eval ships thousands
        return {file.resolve() for file in self._task_files}

    def _digest_of(self, folder: Path) -> str:
        digest, files, size = sha256(), 0, 0
        for path in _below(folder):
            if path.resolve() in self._left_out:
                continue
            files, size = files + 1, size + path.stat().st_size
            if files > FILES or size > BYTES:
                raise SuiteError(
                    "too much lies beside a task with functions of its own",
                    where=folder,
                    expected=f"at most {FILES} files and {BYTES >> 20} MiB, as any of them may be read by a function",
                    found=f"more, up to {path.relative_to(folder)}",
                    remedy="give the task, its functions and their data a folder of their own",
                )
            with path.open("rb") as file:
                content = file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()}\n{content}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


def _with_included(path: Path) -> Iterator[Path]:
    path = path.resolve()
    yield path
    included = load_yaml(path, resolve_func=False, recursive=False).get("include", [])
    for each in included if isinstance(included, list) else [included]:
        yield from _with_included(path.parent / each)


def _below(folder: Path) -> Iterator[Path]:
    """The files in a folder and in those in it, in an order of their names; none that is hidden or a Python cache."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        yield from (
            path for name in sorted(files) if not name.startswith(".") and (path := Path(place, name)).is_file()
        )
