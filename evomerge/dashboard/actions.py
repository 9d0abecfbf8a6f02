"""All that changes anything: what the pages' buttons post to, and what they download.

Each does what the command of the same name does, through the same functions. A browser is led on to a page that says
what was done; a program that takes JSON gets an `Answer`.
"""

import os
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from evomerge.budget import change_budget, check_resume
from evomerge.dashboard import launching
from evomerge.dashboard.launching import LaunchForm
from evomerge.dashboard.pages.launch import launch_answer
from evomerge.dashboard.pages.study import refused_answer
from evomerge.dashboard.problems import wants_json
from evomerge.dashboard.processes import Job, Processes
from evomerge.dashboard.rendering import Flash, lead
from evomerge.dashboard.settings import Settings, lies_in
from evomerge.dashboard.state import Acts, Dashboard, Reads
from evomerge.errors import ConfigError, OneLineError, StudyError, StudyInUseError, UsageError
from evomerge.study import StudyView
from evomerge.study.export import caution, choose, write_export
from evomerge.study.folder import StudyFolder
from evomerge.study.report import report
from evomerge.study.requests import Wish, ask

PATIENCE = 10.0  # seconds in which most searches have either begun or said why they cannot
LOOK = 0.1  # seconds between looks at one
LONGEST_NAME = 255  # bytes of a name in a path
_CONTROLS = ("Cc", "Zl", "Zp")  # Unicode's categories of them, and of separators of lines and of paragraphs
NUMBER = Field(ge=0, le=10**9)


def _none_if_empty(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


Number = Annotated[int | None, BeforeValidator(_none_if_empty), NUMBER]
Count = Annotated[int | None, BeforeValidator(_none_if_empty), Field(ge=1, le=10**9)]
Hours = Annotated[float | None, BeforeValidator(_none_if_empty), Field(gt=0, allow_inf_nan=False)]


class BudgetForm(BaseModel):
    """The budget of a study from now on.

    Attributes:
        candidates: in all; null leaves them.
        hours: the same.
    """

    model_config = ConfigDict(frozen=True)

    candidates: Count = None
    hours: Hours = None

    @property
    def words(self) -> tuple[str, ...]:
        """As `evomerge budget` takes it."""
        given = {"budget.candidates": self.candidates, "budget.hours": self.hours}
        return tuple(f"{key}={value}" for key, value in given.items() if value is not None)


class ResumeForm(BudgetForm):
    """How a study goes on.

    Attributes:
        workers: how many from now on; null leaves them.
        overrides: one `key=value` a line, of budget.* or workers.*.
    """

    workers: Count = None
    overrides: str = Field(default="", max_length=launching.LONGEST)

    @property
    def words(self) -> tuple[str, ...]:
        """As `evomerge resume` takes it."""
        workers = () if self.workers is None else (f"workers.count={self.workers}",)
        lines = (line.strip() for line in self.overrides.splitlines())
        return (*super().words, *workers, *filter(None, lines))


class Answer(BaseModel):
    """What an action has done.

    Attributes:
        message: in one line.
        warning: what to watch, in one line; null if nothing.
        study: that it was done to.
        job: that was started; null if none.
        path: that was written; null if nothing was.
    """

    model_config = ConfigDict(frozen=True)

    message: str
    warning: str | None = None
    study: str
    job: Job | None = None
    path: str | None = None


router = APIRouter()


@router.post("/studies/{study}/pause")
def pause(request: Request, study: str, on: Acts) -> Response:
    """Let the candidates that are running finish, and keep the rest for later."""
    return _ask(request, on.shelf.study(study), "pause", "The search pauses once the running candidates are done.")


@router.post("/studies/{study}/stop")
def stop(request: Request, study: str, on: Acts) -> Response:
    """Let the candidates that are running finish, then choose the winner."""
    said = "The search ends once the running candidates are done and the finalists have met the holdout."
    return _ask(request, on.shelf.study(study), "stop", said)


@router.post("/studies/{study}/budget")
def budget(request: Request, study: str, form: Annotated[BudgetForm, Form()], on: Acts) -> Response:
    """Give a running search another budget."""
    view = on.shelf.study(study)
    try:
        if not form.words:
            raise ConfigError("nothing to change", where="budget.candidates", expected="a number")
        _require_running(view)
        said = change_budget(view, form.words)
    except OneLineError as error:
        return _budget_error(request, study, form, error)
    return _done(request, Answer(message=f"{said[0].upper()}{said[1:]}.", study=study), _page_of(study))


@router.post("/studies/{study}/resume")
def resume(request: Request, study: str, form: Annotated[ResumeForm, Form()], on: Acts) -> Response:
    """Go on with a study, perhaps under a larger budget."""
    view = on.shelf.study(study)
    try:
        job, begun = _resume(on, view, form.words)
    except OneLineError as error:
        return _budget_error(request, study, form, error)
    message = "The search goes on." if begun else "The search is starting; the Jobs page shows how that goes."
    return _done(request, Answer(message=message, study=study, job=job), _page_of(study))


def _resume(on: Dashboard, view: StudyView, words: Sequence[str]) -> tuple[Job, bool]:
    """Start the job that resumes a study; it, and whether it has begun its work.

    Raises:
        OneLineError: it cannot be resumed, or ended with an error at once.
    """
    config = launching.resumed(on.settings, view.config, words)
    if (writer := view.holder) is not None:
        raise StudyInUseError(
            "study is in use",
            where=view.folder.path,
            found=f"process {writer.pid} on {writer.host} since {writer.since}",
            remedy="pause it first, or give it another budget while it runs",
        )
    check_resume(view, config.budget, words)
    with on.processes.starting:
        job = on.processes.searching(view.name)
        if job is not None and job.started > (view.updated or ""):  # else it is one that has just ended
            raise StudyInUseError("study is being resumed", where=view.folder.path, found=f"job {job.id}")
        job = on.processes.start("resume", view.name, "evomerge", "resume", str(view.folder.path), *words)
    return job, _await(on.processes, job, lambda: view.holder is not None)


@router.post("/studies/{study}/export")
def export(
    request: Request, study: str, on: Acts, path: Annotated[str, Form()], candidate: Annotated[Number, Form()] = None
) -> Response:
    """Write a candidate's recipe, with its provenance beside it, to a file in an allowed folder."""
    view = on.shelf.study(study)
    chosen = choose(view, candidate)
    place = _place(on.settings, view.folder, path, view.folder.path, "path")
    if place.suffix not in (".yaml", ".yml"):
        raise UsageError("not a name for a recipe", where="path", expected="a name that ends in .yaml", found=path)
    for taken in (place, place.with_name(f"{place.stem}.provenance.json")):
        if os.path.lexists(taken):
            raise UsageError("file exists", where="path", found=taken, remedy="choose another name")
    write_export(view, chosen, place)
    answer = Answer(
        message=f"The recipe of candidate {chosen.number} is in {place}.",
        warning=caution(view, chosen),
        study=study,
        path=str(place),
    )
    return _done(request, answer, _page_of(study))


@router.post("/studies/{study}/merge")
def merge(
    request: Request,
    study: str,
    on: Acts,
    out: Annotated[str, Form()] = "",
    candidate: Annotated[Number, Form()] = None,
) -> Response:
    """Start to merge a candidate's recipe into a checkpoint."""
    view = on.shelf.study(study)
    chosen = choose(view, candidate)
    models = view.folder.path / "models"
    place = _place(on.settings, view.folder, out.strip() or f"candidate-{chosen.number}", models, "out")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError("folder is not empty", where="out", found=place, remedy="choose another name")
    with on.processes.starting:
        if (running := on.processes.merging(place)) is not None:
            raise StudyError("folder is being made", where=place, found=f"job {running.id}", remedy="wait for it")
        job = on.processes.start_merge(view.folder, chosen.number, chosen.recipe, place)
    answer = Answer(
        message=f"Candidate {chosen.number} is being merged into {place}.",
        warning=caution(view, chosen),
        study=study,
        job=job,
        path=str(place),
    )
    return _done(request, answer, "/jobs")


@router.post("/studies/{study}/prompts")
def read_prompts(request: Request, study: str, on: Acts, candidate: Annotated[Number, Form()] = None) -> Response:
    """Start to read the prompts of a study's documents off its tasks, for the page of a candidate."""
    view = on.shelf.study(study)
    number = None if candidate is None else choose(view, candidate).number
    with on.processes.starting:
        if (running := on.processes.running(study, "prompts")) is not None:
            raise StudyError("prompts are being read", where=study, found=f"job {running.id}", remedy="wait for it")
        command = ("evomerge.dashboard.prompts", str(view.folder.path))
        job = on.processes.start("prompts", study, *command, candidate=number)
    answer = Answer(message="The prompts are being read, which takes some seconds.", study=study, job=job)
    return _done(request, answer, "/jobs")


@router.get("/studies/{study}/recipe")
def recipe(study: str, on: Reads, candidate: Annotated[int | None, NUMBER, Query()] = None) -> Response:
    """A candidate's recipe, as a file: of the one that export hands over where no number is given."""
    chosen = choose(on.shelf.study(study), candidate)
    return _file(chosen.recipe, f"{study}-{chosen.number}.yaml", "application/yaml")


@router.get("/studies/{study}/report")
def download_report(study: str, on: Reads) -> Response:
    """The report of a study, as a file."""
    return _file(on.shelf.remember(study, "report", report), f"{study}.html", "text/html; charset=utf-8")


@router.post("/launch")
def launch(request: Request, form: Annotated[LaunchForm, Form()], on: Acts) -> Response:
    """Start a study."""
    try:
        config = launching.compose(on.settings, form)
        with on.processes.starting:
            if (job := on.processes.searching(config.study)) is not None:
                raise ConfigError("study is being launched", where="study", found=f"job {job.id}", remedy="wait for it")
            job = on.processes.start("search", config.study, *launching.command(on.settings, form))
        begun = _await(on.processes, job, config.folder.is_dir)
    except OneLineError as error:
        return _launch_error(request, form, error)
    said = "has begun" if begun else "is being launched"
    answer = Answer(message=f"Study {config.study} {said}.", study=config.study, job=job)
    return _done(request, answer, _page_of(config.study))


@router.post("/launch/preview")
def preview(request: Request, form: Annotated[LaunchForm, Form()], on: Reads) -> Response:
    """Show the config that a launch would have."""
    try:
        return launch_answer(request, form, config=launching.config_yaml(launching.compose(on.settings, form)))
    except OneLineError as error:
        return _launch_error(request, form, error)


@router.post("/launch/check")
def check(request: Request, form: Annotated[LaunchForm, Form()], on: Reads) -> Response:
    """Open the models and tasks of a launch, and show what was found."""
    try:
        return launch_answer(request, form, checked=launching.check(on.settings, form))
    except OneLineError as error:
        return _launch_error(request, form, error)


def _launch_error(request: Request, form: LaunchForm, error: OneLineError) -> Response:
    if wants_json(request):
        raise error
    return launch_answer(request, form, error=error)


def _budget_error(request: Request, study: str, form: BudgetForm, error: OneLineError) -> Response:
    if wants_json(request):
        raise error
    return refused_answer(request, study, form, error)


def _ask(request: Request, view: StudyView, wish: Wish, said: str) -> Response:
    _require_running(view)
    ask(view.folder, wish)
    return _done(request, Answer(message=said, study=view.name), _page_of(view.name))


def _require_running(view: StudyView) -> None:
    if view.holder is None:
        raise StudyError("study is not running", where=view.name, found=f"state {view.state}", remedy="resume it")


def _await(processes: Processes, job: Job, begun: Callable[[], bool]) -> bool:
    """Wait a little until a job has begun its work.

    Returns:
        Whether it has; False if that takes longer.

    Raises:
        OneLineError: it has ended with an error before.
    """
    deadline = time.monotonic() + PATIENCE
    while not begun() and time.monotonic() < deadline:
        time.sleep(LOOK)
        job = processes.job(job.id)
        if job.error is not None:
            raise OneLineError(job.error)
        if job.state != "running":
            break
    return begun()


def _place(settings: Settings, folder: StudyFolder, text: str, root: Path, field: str) -> Path:
    """A path that a page gives for what is made of a study.

    Args:
        settings: the dashboard's.
        folder: of the study.
        text: the path, relative to `root` or absolute.
        root: a folder.
        field: of the form.

    Raises:
        UsageError: it is no path, or lies outside of the allowed folders, in another study, or among what the program
            itself keeps of this one.
    """
    if any(unicodedata.category(each) in _CONTROLS for each in text.strip()):
        raise UsageError("not a path", where=field, expected="no line breaks and no control characters")
    try:
        place = (root / Path(text.strip()).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, no such home
        raise UsageError("not a path", where=field, found=repr(text)) from error
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in place.parts):
        raise UsageError("not a path", where=field, expected=f"names of at most {LONGEST_NAME} bytes")
    if not lies_in(place, settings.writable):
        raise UsageError(
            "outside of the allowed folders",
            where=field,
            expected=f"a place in {', '.join(map(str, settings.writable))}",
            found=place,
            remedy="start the dashboard with --allow DIR",
        )
    # whatever else lies in the runs folder is another study
    if lies_in(place, [settings.runs_dir]) and not lies_in(place, [folder.path]):
        raise UsageError("not a place for this study", where=field, expected=f"one in {folder.path}", found=place)
    if lies_in(place, [folder.items, folder.merges]):
        raise UsageError(
            "not a place for this study",
            where=field,
            expected=f"one outside of {folder.items} and {folder.merges}",
            found=place,
        )
    return place


def _page_of(study: str) -> str:
    return f"/studies/{quote(study, safe='')}"


def _done(request: Request, answer: Answer, place: str) -> Response:
    if wants_json(request):
        return JSONResponse(answer.model_dump(mode="json"))
    if answer.warning is None:
        return lead(request, place, Flash(answer.message))
    return lead(request, place, Flash(f"{answer.message} Mind: {answer.warning}.", bad=True))


def _file(content: str, name: str, media_type: str) -> Response:
    headers = {"Content-Disposition": f"attachment; filename*=utf-8''{quote(name, safe='')}"}
    return Response(content, headers=headers, media_type=media_type)
