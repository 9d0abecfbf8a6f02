"""Asking a running search to pause or to stop, from any process and any machine that sees the study's folder."""

from contextlib import suppress
from typing import Literal, TypeAlias, get_args

from evomerge.errors import StudyError, UsageError
from evomerge.study.folder import StudyFolder, replace_file, writing
from evomerge.study.lock import Holder, holder
from evomerge.study.view import StudyView

Wish: TypeAlias = Literal["pause", "stop"]
"""`pause`: finish what is running and keep the rest for a resume. `stop`: the same, then choose the winner."""


def ask(folder: StudyFolder, wish: Wish) -> Holder:
    """Ask the search that is running to end; the last wish counts. Returns at once.

    Args:
        folder: of the study.
        wish: how it is to end.

    Returns:
        The process that was asked.

    Raises:
        UsageError: no process is writing to the study.
        StudyError: it is no study, or the request cannot be written.
    """
    try:
        asked_of = holder(folder.lock)
    except OSError as error:
        raise StudyError("study cannot be read", where=folder.lock, found=error.strerror) from error
    if asked_of is None:
        raise UsageError(
            "study is not running",
            where=folder.path,
            found=f"state {StudyView(folder.path).state}",
            remedy=f"evomerge resume {folder.path} goes on with it",
        )
    with writing(folder.path):
        replace_file(folder.request, wish.encode())
    return asked_of


def asked(folder: StudyFolder) -> Wish | None:
    """What was asked of the search that is running; None if nothing was."""
    with suppress(OSError, UnicodeDecodeError):
        text = folder.request.read_text(encoding="utf-8")
        return next((wish for wish in get_args(Wish) if wish == text), None)
    return None


def withdraw(folder: StudyFolder) -> None:
    """Forget what was asked. Raises OSError."""
    folder.request.unlink(missing_ok=True)
