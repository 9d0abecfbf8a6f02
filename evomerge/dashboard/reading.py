"""Pages of studies that take seconds to be read the first time: an answer at once, which asks again by itself."""

from typing import cast

from fastapi import Request
from starlette.responses import Response

from evomerge.dashboard.problems import refusal
from evomerge.dashboard.shelf import Shelf
from evomerge.errors import OneLineError

PATIENCE = 0.05  # seconds that a page keeps its reader waiting
_AGAIN = "1"  # seconds until the browser asks again


class BeingReadError(OneLineError):
    """A study is being read, and will soon be there."""


def wait_shortly(request: Request) -> None:
    """Wait until the study of a page, or the list of all, can be shown.

    Raises:
        BeingReadError: that takes longer than a reader of the page should wait.
    """
    shelf: Shelf = request.app.state.shelf
    name = request.path_params.get("study")
    if not shelf.ready(name, PATIENCE):
        remedy = "wait a moment: this page asks again by itself"
        raise BeingReadError("being read for the first time", where=name or "studies", remedy=remedy)


def being_read(request: Request, error: Exception) -> Response:
    """The answer of a page whose study is being read."""
    answer = refusal(request, cast(BeingReadError, error), 503)
    answer.headers.update({"Refresh": _AGAIN, "Retry-After": _AGAIN})
    return answer
