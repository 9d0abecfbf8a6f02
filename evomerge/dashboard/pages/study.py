"""The Study page: what `evomerge.study.page` makes of a study, with what can be done to it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict

from evomerge.dashboard.events import note_version
from evomerge.dashboard.pages.studies import has_failed_last
from evomerge.dashboard.problems import status_of
from evomerge.dashboard.processes import Job, Processes
from evomerge.dashboard.rendering import render
from evomerge.dashboard.shelf import Shelf
from evomerge.errors import OneLineError
from evomerge.study.page import CandidateQuery, StudyPage, study_page

FIELDS = {"budget.candidates": "candidates", "budget.hours": "hours", "workers.count": "workers"}  # key -> its field

router = APIRouter()


class SteeredStudyPage(StudyPage):
    """The page of a study that can be launched and resumed from here.

    Attributes:
        failed: its last launch or resume, where that has failed and nothing has come after; null otherwise.
    """

    failed: Job | None


class RefusedForm(BaseModel):
    """The form of a study's budget, as it was sent, and why nothing came of it.

    Attributes:
        values: field -> what was in it.
        field: the one that the error is about; empty if it is about none.
        message: the error as the command line tells it.
    """

    model_config = ConfigDict(frozen=True)

    values: dict[str, str]
    field: str
    message: str


class OpenedStudyPage(SteeredStudyPage):
    """The same in a browser.

    Attributes:
        refused: the form that this page answers; null where it answers none.
    """

    refused: RefusedForm | None


def steered_study_page(shelf: Shelf, processes: Processes, name: str, query: CandidateQuery) -> SteeredStudyPage:
    """The page of a study.

    Raises:
        OneLineError: as `Shelf.study`, and as `evomerge.study.page.study_page`.
    """
    view = shelf.study(name)
    page = study_page(view, shelf.snapshot(name).document, query)
    last = processes.last_search(name)
    failed = last if last is not None and has_failed_last(last, page.state, view.updated) else None
    return SteeredStudyPage(**dict(page), failed=failed)


def study_answer(
    request: Request, name: str, query: CandidateQuery, refused: RefusedForm | None = None, status: int = 200
) -> HTMLResponse:
    """The page of a study, as the browser gets it. Raises as `steered_study_page`."""
    state = request.app.state
    page = steered_study_page(state.shelf, state.processes, name, query)
    return render(request, "study.html.jinja", page=OpenedStudyPage(**dict(page), refused=refused), status=status)


def refused_answer(request: Request, name: str, form: BaseModel, error: OneLineError) -> HTMLResponse:
    """The page of a study that answers a form of its budget with an error, beside the field that it is about.

    Raises:
        OneLineError: as `steered_study_page`.
    """
    note_version(request)
    field = FIELDS.get(str(error.where).removeprefix("override: "), "")
    values = {key: str(value) for key, value in form.model_dump().items() if value is not None}
    refused = RefusedForm(values=values, field=field, message=str(error))
    return study_answer(request, name, CandidateQuery(), refused, status_of(request, error))


@router.get("/studies/{study}", response_class=HTMLResponse)
def study(request: Request, study: str, query: Annotated[CandidateQuery, Query()]) -> HTMLResponse:
    """One study."""
    return study_answer(request, study, query)
