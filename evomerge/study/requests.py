"""Asking a running search to pause, to stop or to go on under another budget.

Any process may ask, on any machine that sees the study's folder.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, TypeAlias, get_args

from evomerge.errors import StudyError, UsageError
from evomerge.study.folder import StudyFolder, replace_file, writing
from evomerge.study.lock import Holder, holder
from evomerge.study.view import StudyView

Wish: TypeAlias = Literal["pause", "stop"]
"""`pause`: finish what is running and keep the rest for a resume. `stop`: the same, then choose the winner."""

Budget: TypeAlias = Mapping[str, float | None]
"""`candidates` and `hours`, or one of them; None takes a limit away."""


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
    asked_of = _running(folder)
    with writing(folder.path):
        replace_file(folder.request, wish.encode())
    return asked_of


def ask_budget(folder: StudyFolder, budget: Budget) -> Holder:
    """Ask the search that is running to go on under another budget; of each key the last request counts.

    Args:
        folder: of the study.
        budget: what is to change.

    Returns:
        The process that was asked.

    Raises:
        UsageError: no process is writing to the study.
        StudyError: it is no study, or the request cannot be written.
    """
    asked_of = _running(folder, *(f"budget.{key}={json.dumps(value)}" for key, value in budget.items()))
    with writing(folder.path):
        for key, value in budget.items():
            replace_file(folder.budget_requests[key], json.dumps(value).encode())
    return asked_of


def asked(folder: StudyFolder) -> Wish | None:
    """What was asked of the search that is running; None if nothing was."""
    with suppress(OSError, UnicodeDecodeError):
        text = folder.request.read_text(encoding="utf-8")
        return next((wish for wish in get_args(Wish) if wish == text), None)
    return None


def asked_budget(folder: StudyFolder) -> dict[str, Any]:
    """What the search that is running was asked to make of its budget: key -> JSON value, whatever that is."""
    found = {}
    for key, path in folder.budget_requests.items():
        with suppress(OSError, ValueError):
            found[key] = json.loads(path.read_bytes())
    return found


def withdraw(folder: StudyFolder) -> None:
    """Forget what was asked. Raises OSError."""
    for path in (folder.request, *folder.budget_requests.values()):
        path.unlink(missing_ok=True)


def _running(folder: StudyFolder, *overrides: str) -> Holder:
    """The process that is writing to a study; `overrides` is what a resume would have to be told."""
    try:
        found = holder(folder.lock)
    except OSError as error:
        raise StudyError("study cannot be read", where=folder.lock, found=error.strerror) from error
    if found is None:
        raise UsageError(
            "study is not running",
            where=folder.path,
            found=f"state {StudyView(folder.path).state}",
            remedy=f"{' '.join(['evomerge resume', str(folder.path), *overrides])} goes on with it",
        )
    return found
