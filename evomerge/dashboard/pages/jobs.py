"""The Jobs page: what this dashboard, or another one of the same runs folder, has started."""

import math
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict

from evomerge.dashboard.processes import Job, Processes
from evomerge.dashboard.rendering import render
from evomerge.dashboard.shelf import Shelf

JOBS = 20  # on a page
LINES = 20  # of what a job has printed

router = APIRouter()


class JobRow(BaseModel):
    """A job.

    Attributes:
        job: as it stands.
        output: the last lines that it has printed.
        listed: its study has a page.
    """

    model_config = ConfigDict(frozen=True)

    job: Job
    output: tuple[str, ...]
    listed: bool


class JobsPage(BaseModel):
    """The Jobs page.

    Attributes:
        page: the one that is shown, from 1.
        pages: how many there are, at least one.
        size: jobs on a page.
        total: how many jobs are known.
        rows: the latest first.
    """

    model_config = ConfigDict(frozen=True)

    page: int
    pages: int
    size: int
    total: int
    rows: tuple[JobRow, ...]


def jobs_page(processes: Processes, shelf: Shelf, page: int = 1) -> JobsPage:
    """A page of the jobs; one past the end is the last.

    Raises:
        StudyError: the runs folder cannot be read.
    """
    found, studies = processes.jobs(), set(shelf.names())
    pages = max(1, math.ceil(len(found) / JOBS))
    page = min(page, pages)
    return JobsPage(
        page=page,
        pages=pages,
        size=JOBS,
        total=len(found),
        rows=tuple(
            JobRow(job=job, output=processes.output(job.id, LINES), listed=job.study in studies)
            for job in found[(page - 1) * JOBS : page * JOBS]
        ),
    )


@router.get("/jobs", response_class=HTMLResponse)
def jobs(request: Request, page: Annotated[int, Query(ge=1, le=10**6)] = 1) -> HTMLResponse:
    """What has been started from pages."""
    state = request.app.state
    return render(request, "jobs.html.jinja", page=jobs_page(state.processes, state.shelf, page))
