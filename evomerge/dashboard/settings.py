"""What a dashboard is started with."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import evomerge.demo
from evomerge.config import check_config_dir
from evomerge.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a dashboard is started with. Relative paths are taken from the current folder.

    Attributes:
        runs_dir: the folder of the studies.
        token: what opens the dashboard.
        config_dir: the user's own options; None if there are none.
        host: the address or name to listen on.
        port: to listen on, in 0..65535; 0 takes a free one.
        allowed: more folders in which a launch from the page may name models and tasks, and to which an export or a
            merge may write.

    Raises:
        UsageError: the token is empty, or one of the folders of options and of `allowed` is not there.
    """

    runs_dir: Path
    token: str = field(repr=False)
    config_dir: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8765
    allowed: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.token:
            raise UsageError("token is empty", where="--token", expected="at least one character")
        if self.config_dir is not None:
            check_config_dir(self.config_dir)
        for folder in self.allowed:
            if not folder.is_dir():
                raise UsageError("no such folder", where=folder, expected="a folder", remedy="check --allow")

    @property
    def writable(self) -> tuple[Path, ...]:
        """The folders that pages may write to: `allowed` and that of the studies."""
        return (*self.allowed, self.runs_dir)

    @property
    def readable(self) -> tuple[Path, ...]:
        """The folders that a launch may name: the writable ones, that of options, the current one and the demo's."""
        own = () if self.config_dir is None else (self.config_dir,)
        return (*self.writable, *own, Path.cwd(), evomerge.demo.FOLDER)


def lies_in(path: Path, folders: Iterable[Path]) -> bool:
    """Whether a path lies in one of the folders once links and `..` are followed."""
    place = path.resolve()
    return any(place.is_relative_to(folder.resolve()) for folder in folders)
