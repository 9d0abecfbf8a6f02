"""The pages as JSON: each address below /api answers with the view model of the page of the same name.

Described in OpenAPI at /api/openapi.json. Scripts send the token as `Authorization: Bearer TOKEN`. Actions are not
repeated here: those of `actions` answer in JSON to who sends `Accept: application/json`.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from evomerge.dashboard import launching
from evomerge.dashboard.launching import Checked, Group, LaunchForm
from evomerge.dashboard.pages.candidate import CandidatePage, ItemsQuery, candidate_page
from evomerge.dashboard.pages.compare import ComparePage, comparison
from evomerge.dashboard.pages.jobs import JobsPage, jobs_page
from evomerge.dashboard.pages.studies import StudiesPage, StudiesQuery, studies_page
from evomerge.dashboard.pages.study import SteeredStudyPage, steered_study_page
from evomerge.dashboard.problems import ANSWERS
from evomerge.dashboard.processes import Job
from evomerge.dashboard.state import Reads
from evomerge.study import StudyView
from evomerge.study.facts import study_facts
from evomerge.study.figures import study_figure
from evomerge.study.page import CandidateQuery, CandidateTable, candidate_table, log_tail

LONGEST_LOG = 1000  # lines
PLOTLY: dict[int | str, dict[str, Any]] = {
    200: {"description": "data and layout", "content": {"application/json": {"schema": {"type": "object"}}}}
}


class Lines(BaseModel):
    """The last lines of a log or of an output."""

    model_config = ConfigDict(frozen=True)

    lines: tuple[str, ...]


class Composed(BaseModel):
    """A config, as YAML."""

    model_config = ConfigDict(frozen=True)

    config: str


Name = Annotated[str, Path(description="the name of a study", max_length=255)]
Number = Annotated[int, Path(description="of a candidate", ge=0, le=10**9)]
Tail = Annotated[int, Query(description="how many of the last lines", ge=1, le=LONGEST_LOG)]

router = APIRouter(prefix="/api", responses=ANSWERS)


@router.get("/studies")
def studies(on: Reads, query: Annotated[StudiesQuery, Query()]) -> StudiesPage:
    """Every study under the runs folder, the broken ones with the reason."""
    return studies_page(on.shelf.entries(), query, on.processes.searches())


@router.get("/studies/{study}")
def study(on: Reads, study: Name, query: Annotated[CandidateQuery, Query()]) -> SteeredStudyPage:
    """A study at a glance."""
    return steered_study_page(on.shelf, on.processes, study, query)


@router.get("/studies/{study}/candidates")
def candidates(on: Reads, study: Name, query: Annotated[CandidateQuery, Query()]) -> CandidateTable:
    """One page of a study's candidates."""
    return candidate_table(study_facts(on.shelf.study(study), on.shelf.snapshot(study).document), query)


@router.get("/studies/{study}/candidates/{number}")
def candidate(on: Reads, study: Name, number: Number, query: Annotated[ItemsQuery, Query()]) -> CandidatePage:
    """One candidate in full."""
    return candidate_page(on.shelf.study(study), on.shelf.snapshot(study).document, number, query)


@router.get("/studies/{study}/figures/{figure}", response_class=Response, responses=PLOTLY)
def figure(on: Reads, study: Name, figure: Annotated[str, Path(max_length=500)]) -> Response:
    """A figure that the study's page lists, in Plotly's JSON."""

    def draw(view: StudyView) -> str:
        # the document of this moment: one that was taken before would stay on the shelf as if it were new
        drawn: str = study_figure(view, on.shelf.snapshot(study).document, figure).to_json()
        return drawn

    return Response(on.shelf.remember(study, ("figure", figure), draw), media_type="application/json")


@router.get("/studies/{study}/log")
def log(on: Reads, study: Name, tail: Tail = 50) -> Lines:
    """The last lines of a search's log."""
    return Lines(lines=log_tail(on.shelf.study(study), tail))


@router.get("/compare")
def compare(
    on: Reads, asked: Annotated[list[str], Query(alias="with", description="STUDY or STUDY:NUMBER", max_length=20)]
) -> ComparePage:
    """A few candidates side by side, of one study or of several."""
    return comparison(on.shelf, asked)


@router.get("/jobs")
def jobs(on: Reads, page: Annotated[int, Query(ge=1, le=10**6)] = 1) -> JobsPage:
    """What dashboards have started, the latest first."""
    return jobs_page(on.processes, on.shelf, page)


@router.get("/jobs/{job}")
def job(on: Reads, job: Annotated[str, Path(max_length=500)]) -> Job:
    """One of them."""
    return on.processes.job(job)


@router.get("/jobs/{job}/output")
def output(on: Reads, job: Annotated[str, Path(max_length=500)], tail: Tail = 50) -> Lines:
    """The last lines that a job has printed."""
    return Lines(lines=on.processes.output(job, tail))


@router.get("/launch/options")
def options(on: Reads) -> tuple[Group, ...]:
    """What a launch can choose from."""
    return launching.groups(on.settings)


@router.post("/launch/preview")
def preview(on: Reads, form: LaunchForm) -> Composed:
    """The config that a launch would have."""
    return Composed(config=launching.config_yaml(launching.compose(on.settings, form)))


@router.post("/launch/check")
def check(on: Reads, form: LaunchForm) -> Checked:
    """The same, with its models and tasks opened: dimensions, documents, warnings and hours."""
    return launching.check(on.settings, form)
