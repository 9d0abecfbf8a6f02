"""Pages of studies that take seconds to be read the first time, or that are being launched.

The answer comes at once, and asks again by itself.
"""

from typing import cast

from fastapi import Request
from starlette.responses import Response

from evomerge.dashboard.problems import Link, NotFoundError, refusal
from evomerge.dashboard.processes import Job, Processes
from evomerge.dashboard.shelf import Shelf
from evomerge.errors import OneLineError

PATIENCE = 0.05  # seconds that a page keeps its reader waiting
_AGAIN = "1"  # seconds until the browser asks again


class BeingReadError(OneLineError):
    """A study is being read, and will soon be there."""


class BeingLaunchedError(OneLineError):
    """The launch of a study goes on, or has failed, and the study has no folder.

    Args:
        job: the launch.
    """

    def __init__(self, job: Job) -> None:
        if job.state == "running":
            remedy = "wait a moment: this page asks again by itself"
            super().__init__("being launched: models and tasks are checked first", where=job.study, remedy=remedy)
        else:
            super().__init__("no such study: its launch has failed", where=job.study, found=job.error)
        self.job = job


def wait_shortly(request: Request) -> None:
    """Wait until the study of a page, or the list of all, can be shown.

    Raises:
        BeingReadError: that takes longer than a reader of the page should wait.
        BeingLaunchedError: there is no such study, and its launch goes on or has failed.
        NotFoundError: there is no such study, and nobody has launched it.
    """
    shelf: Shelf = request.app.state.shelf
    processes: Processes = request.app.state.processes
    name = request.path_params.get("study")
    try:
        ready = shelf.ready(name, PATIENCE)
    except NotFoundError:
        job = None if name is None else processes.last_search(name)
        if job is not None and job.state in ("running", "failed"):
            raise BeingLaunchedError(job) from None
        raise
    if not ready:
        remedy = "wait a moment: this page asks again by itself"
        raise BeingReadError("being read for the first time", where=name or "studies", remedy=remedy)


def being_read(request: Request, error: Exception) -> Response:
    """The answer of a page whose study is being read."""
    answer = refusal(request, cast(BeingReadError, error), 503)
    answer.headers.update({"Refresh": _AGAIN, "Retry-After": _AGAIN})
    return answer


def being_launched(request: Request, error: Exception) -> Response:
    """The answer of a page whose study has no folder yet."""
    known = cast(BeingLaunchedError, error)
    link = Link(url=f"/jobs#job-{known.job.id}", label="What it printed")
    if known.job.state != "running":
        return refusal(request, known, 404, link)
    answer = refusal(request, known, 503, link)
    # by its plain address: what the launch has said is told once
    answer.headers.update({"Refresh": f"{_AGAIN}; url={request.url.path}", "Retry-After": _AGAIN})
    return answer
