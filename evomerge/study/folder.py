"""The folder of a study: its name, its layout, and files that are either whole or not there."""

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import ConfigError, StudyError, nearest

VERSION = 1  # of the layout and of what the journal holds
_NAME = re.compile(r"[A-Za-z0-9](?:\.?[A-Za-z0-9_-]+)*\.?")
_LONGEST_NAME = 100
_RUNS_DIR = Path("runs")  # where names are looked up unless --runs-dir says otherwise


@dataclass(frozen=True)
class StudyFolder:
    """Where the parts of a study lie."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config: the study's identity."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, machine, and digests and licences of the models."""
        return self.path / "environment.json"

    @property
    def journal(self) -> Path:
        """The Optuna journal."""
        return self.path / "study.journal"

    @property
    def lock(self) -> Path:
        """The file whose lock the writer holds."""
        return self.path / "study.lock"

    @property
    def request(self) -> Path:
        """What the running search was asked for, if anything."""
        return self.path / "request"

    @property
    def budget_requests(self) -> dict[str, Path]:
        """Key of the budget -> what the running search was asked to make of it, if anything."""
        return {key: self.path / f"request.{key}" for key in ("candidates", "hours")}

    @property
    def status(self) -> Path:
        """What the running search does."""
        return self.path / "status.json"

    @property
    def items(self) -> Path:
        """The folder of the per-item scores."""
        return self.path / "items"

    @property
    def merges(self) -> Path:
        """The folder of the merges that dashboards have started."""
        return self.path / "merges"

    @property
    def best(self) -> Path:
        """The best recipe that clears every gate."""
        return self.path / "best.yaml"

    @property
    def provenance(self) -> Path:
        """Where the best recipe comes from."""
        return self.path / "best.provenance.json"

    def read_config(self) -> dict[str, Any]:
        """The resolved config, without its version.

        Raises:
            StudyError: config.yaml is missing, damaged, or written by a newer evomerge.
        """
        try:
            document = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise StudyError("not a study", where=self.path, expected="a config.yaml in it") from error
        except OSError as error:
            raise StudyError("study cannot be read", where=self.config, found=error.strerror) from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise StudyError("study cannot be read", where=self.config, found=error) from error
        config: dict[str, Any] = document if isinstance(document, dict) else {}
        version = config.pop("version", None)
        if not isinstance(version, int) or not isinstance(config.get("study"), str):
            raise StudyError("not the config of a study", where=self.config, expected="keys version and study")
        if version > VERSION:
            raise StudyError(
                "study was written by a newer evomerge",
                where=self.config,
                expected=f"version {VERSION} or older",
                found=version,
                remedy="upgrade evomerge",
            )
        return config

    def write_config(self, config: dict[str, Any]) -> None:
        """Replace config.yaml. Raises OSError."""
        text = yaml.safe_dump({"version": VERSION, **config}, sort_keys=False, allow_unicode=True)
        replace_file(self.config, text.encode())


def check_name(name: str) -> None:
    """Refuse a study name that is not plainly the name of a folder.

    Raises:
        ConfigError: separators, `..`, a leading dot or dash, or characters that a shell would mind.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ConfigError(
            "not a name for a study",
            where="study",
            expected=f"at most {_LONGEST_NAME} letters, digits, - and _ and single dots, a letter or digit first",
            found=repr(name),
        )


def check_new(study: str, runs_dir: Path) -> None:
    """Refuse a new study that could not be made, before anything is done for it. Nothing is written.

    Raises:
        ConfigError: the name is not allowed or is taken.
        StudyError: `runs_dir` is not a folder that can be written.
    """
    check_name(study)
    if os.path.lexists(runs_dir / study):
        raise _taken(runs_dir / study)
    place = next(folder for folder in (runs_dir, *runs_dir.parents) if folder.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise StudyError(
            "study cannot be written",
            where=runs_dir / study,
            expected="a folder that can be written",
            found=place,
            remedy="choose another runs_dir",
        )


def study_folder(study: str, runs_dir: Path) -> Path:
    """The folder of a study that is given by name or by path.

    Raises:
        StudyError: there is no such folder.
    """
    folders = [folder for folder in (runs_dir / study, Path(study).expanduser()) if study and os.path.isdir(folder)]
    if folders:
        # `.` is the current folder before it is runs_dir
        return next((folder for folder in folders if StudyFolder(folder).config.is_file()), folders[0]).absolute()
    known = folders_in(runs_dir)
    remedy = nearest(study, [folder.name for folder in known]) if known else "start one: evomerge search"
    raise StudyError("no such study", where=study, expected=f"a study in {runs_dir}, or a path", remedy=remedy)


def folders_in(runs_dir: Path) -> list[Path]:
    """Every folder in `runs_dir` that is or was meant to be a study, by name; none if `runs_dir` is not there.

    Raises:
        StudyError: `runs_dir` cannot be read.
    """
    try:
        return sorted(entry for entry in runs_dir.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StudyError("studies cannot be listed", where=runs_dir, found=error.strerror) from error


@contextmanager
def new_folder(path: Path) -> Iterator[StudyFolder]:
    """A folder that appears under its name with all that was put into it, or not at all.

    Raises:
        ConfigError: the name is taken.
        StudyError: the disk is full or cannot be written.
    """
    if os.path.lexists(path):
        raise _taken(path)
    staging = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with writing(path):
            staging.mkdir(parents=True)
        yield StudyFolder(staging)
        with writing(path):
            sync_folder(staging)
            try:
                staging.rename(path)
            except OSError as error:
                if path.exists():  # another process took the name meanwhile
                    raise _taken(path) from error
                raise
            sync_folder(path.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader finds the old content or the new.

    Args:
        path: of the file.
        content: of the file.
        durable: a power cut, too, leaves the old content or the new.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")  # several may write it at once
    try:
        with partial.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed `replace_file` left. Raises OSError."""
    for partial in folder.glob(".*.partial"):
        if partial.is_file():  # a merge into this folder makes a folder of such a name
            partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Tell a full or read-only disk in one line.

    Raises:
        StudyError: for any OSError inside.
    """
    try:
        yield
    except OSError as error:
        raise StudyError(
            "study cannot be written",
            where=where,
            found=error.strerror or str(error),
            remedy="free some space or choose another runs_dir; a study that exists can be resumed",
        ) from error


def _taken(path: Path) -> ConfigError:
    named = path.name if path.parent.absolute() == _RUNS_DIR.absolute() else path
    return ConfigError(
        "study name already in use",
        where=f"study={path.name}",
        found=path,
        remedy=f"evomerge resume {named}, or choose another name",
    )
