"""The Study page: what `evomerge.study.page` makes of a study, with what can be done to it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from evomerge.dashboard.pages.studies import nothing_came_after
from evomerge.dashboard.processes import Job, Processes
from evomerge.dashboard.rendering import render
from evomerge.dashboard.shelf import Shelf
from evomerge.study.page import CandidateQuery, StudyPage, study_page

router = APIRouter()


class SteeredStudyPage(StudyPage):
    """The page of a study that can be launched and resumed from here.

    Attributes:
        failed: its last launch or resume, where that has failed and nothing has come after; null otherwise.
    """

    failed: Job | None


def steered_study_page(shelf: Shelf, processes: Processes, name: str, query: CandidateQuery) -> SteeredStudyPage:
    """The page of a study.

    Raises:
        OneLineError: as `Shelf.study`, and as `evomerge.study.page.study_page`.
    """
    view = shelf.study(name)
    page = study_page(view, shelf.snapshot(name).document, query)
    failed = next((job for job in processes.failed() if job.study == name), None)
    if failed is not None and not nothing_came_after(failed, page.state, view.updated):
        failed = None
    return SteeredStudyPage(**dict(page), failed=failed)


@router.get("/studies/{study}", response_class=HTMLResponse)
def study(request: Request, study: str, query: Annotated[CandidateQuery, Query()]) -> HTMLResponse:
    """One study."""
    state = request.app.state
    return render(request, "study.html.jinja", page=steered_study_page(state.shelf, state.processes, study, query))
