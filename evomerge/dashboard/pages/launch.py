"""The Launch page: choose options, see the config they compose and what it would cost, then start the search."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict

from evomerge.dashboard.launching import Checked, Group, LaunchForm, field_of, groups
from evomerge.dashboard.problems import Problem, problem
from evomerge.dashboard.rendering import render
from evomerge.dashboard.settings import Settings
from evomerge.errors import OneLineError

router = APIRouter()


class LaunchPage(BaseModel):
    """The Launch page.

    Attributes:
        form: what is asked for.
        groups: the choices, with all their options.
        config: what the form composes, as YAML; null until a preview or a check.
        checked: what a check has found; null until then.
        error: what is wrong with the form, null if nothing is known to be.
        field: the field of the form that the error is about; empty if it is about none.
        message: the error as the command line tells it; empty without one.
    """

    model_config = ConfigDict(frozen=True)

    form: LaunchForm
    groups: tuple[Group, ...]
    config: str | None
    checked: Checked | None
    error: Problem | None
    field: str
    message: str


def launch_page(
    settings: Settings,
    form: LaunchForm | None = None,
    *,
    config: str | None = None,
    checked: Checked | None = None,
    error: OneLineError | None = None,
) -> LaunchPage:
    """The page of a launch.

    Args:
        settings: the dashboard's.
        form: what is asked for; None: nothing yet.
        config: what it composes, as YAML, after a preview.
        checked: what was found, after a check.
        error: what is wrong with it.
    """
    form = form or LaunchForm()
    return LaunchPage(
        form=form,
        groups=groups(settings),
        config=config if checked is None else checked.config,
        checked=checked,
        error=None if error is None else problem(error),
        field="" if error is None else field_of(error, form),
        message="" if error is None else str(error),
    )


def launch_answer(
    request: Request,
    form: LaunchForm,
    *,
    config: str | None = None,
    checked: Checked | None = None,
    error: OneLineError | None = None,
) -> HTMLResponse:
    """The page that answers a form; its status is 422 if there is an error. See `launch_page`."""
    page = launch_page(request.app.state.settings, form, config=config, checked=checked, error=error)
    return render(request, "launch.html.jinja", page=page, status=200 if error is None else 422)


@router.get("/launch", response_class=HTMLResponse)
def launch(request: Request, form: Annotated[LaunchForm, Query()]) -> HTMLResponse:
    """What a launch can choose from; the address may fill in the form."""
    experiments = next(group.options for group in groups(request.app.state.settings) if group.name == "experiment")
    if form == LaunchForm() and len(experiments) == 1:  # there is nothing to choose
        form = LaunchForm(experiment=experiments[0])
    return launch_answer(request, form)
