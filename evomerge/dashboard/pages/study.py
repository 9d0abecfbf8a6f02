"""The Study page: what `evomerge.study.page` makes of a study, with what can be done to it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from evomerge.dashboard.rendering import render
from evomerge.dashboard.shelf import Shelf
from evomerge.study.page import CandidateQuery, study_page

router = APIRouter()


@router.get("/studies/{study}", response_class=HTMLResponse)
def study(request: Request, study: str, query: Annotated[CandidateQuery, Query()]) -> HTMLResponse:
    """One study."""
    shelf: Shelf = request.app.state.shelf
    view = shelf.study(study)
    return render(request, "study.html.jinja", page=study_page(view, shelf.snapshot(study).document, query))
