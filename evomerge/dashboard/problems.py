"""What goes wrong, in one shape: `{"error": {what, where, expected, found, remedy}}` as JSON, or a page of it."""

import logging
import re
from typing import cast
from urllib.parse import quote, unquote, urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response

from evomerge.dashboard.policy import HEADERS
from evomerge.dashboard.rendering import render
from evomerge.errors import (
    ConfigError,
    ModelError,
    NothingFeasibleError,
    OneLineError,
    RecipeError,
    StudyError,
    SuiteError,
    UsageError,
)

log = logging.getLogger(__name__)

TITLES = {
    400: "Not understood",
    401: "No access",
    403: "Refused",
    404: "Not found",
    405: "Not allowed",
    409: "Not possible now",
    413: "Too large",
    422: "Not valid",
    500: "A bug",
    503: "One moment",
}


class Problem(BaseModel):
    """An error that a user can mend; see `OneLineError`."""

    model_config = ConfigDict(frozen=True)

    what: str
    where: str | None = None
    expected: str | None = None
    found: str | None = None
    remedy: str | None = None


class ProblemDocument(BaseModel):
    """Every answer of the API that is not what was asked for."""

    model_config = ConfigDict(frozen=True)

    error: Problem


class Link(BaseModel):
    """Where to go on."""

    model_config = ConfigDict(frozen=True)

    url: str
    label: str


class ErrorPage(BaseModel):
    """The page that tells of an error.

    Attributes:
        status: of the HTTP answer.
        title: what kind of error it is.
        error: the error.
        link: where to go on, other than all studies; null if there is no such place.
    """

    model_config = ConfigDict(frozen=True)

    status: int
    title: str
    error: Problem
    link: Link | None


class NotFoundError(OneLineError):
    """There is no such study, candidate, figure or job."""


_STATUS: tuple[tuple[type[OneLineError], int], ...] = (
    (NotFoundError, 404),
    (StudyError, 409),
    (NothingFeasibleError, 409),
    (ConfigError, 422),
    (RecipeError, 422),
    (SuiteError, 422),
    (ModelError, 422),
)

ANSWERS: dict[int | str, dict[str, object]] = {
    status: {"model": ProblemDocument, "description": TITLES[status]} for status in (400, 401, 403, 404, 409, 422, 500)
}
"""What the OpenAPI document says of every route beside its own answer."""


def problem(error: OneLineError) -> Problem:
    """An error as a document."""
    facts = {name: getattr(error, name) for name in ("where", "expected", "found", "remedy")}
    return Problem(what=error.what, **{name: None if fact is None else str(fact) for name, fact in facts.items()})


def status_of(request: Request, error: OneLineError) -> int:
    """The HTTP status of an error, in 400..499."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    if str(error.where) in request.query_params:
        return 422
    if isinstance(error, UsageError):
        # an address that is only read and is not understood names what is not there
        return 404 if request.method in ("GET", "HEAD") else 422
    return 400


def wants_json(request: Request) -> bool:
    """Whether the client is a program: it asks below /api, or takes JSON and no HTML."""
    accepted = request.headers.get("accept", "")
    return request.scope["path"].startswith("/api/") or ("application/json" in accepted and "text/html" not in accepted)


def refusal(request: Request, error: OneLineError, status: int, link: Link | None = None) -> Response:
    """The answer that tells of an error, in the form that the client wants.

    Args:
        request: that it answers.
        error: what is wrong.
        status: of the HTTP answer.
        link: where to go on; None: back to the candidate or the study that the request is about.
    """
    told = problem(error)
    if wants_json(request):
        return JSONResponse(ProblemDocument(error=told).model_dump(), status)
    title = TITLES.get(status, "Not possible")
    page = ErrorPage(status=status, title=title, error=told, link=link or _back(request, error))
    return render(request, "error.html.jinja", page=page, status=status)


def add_handlers(app: FastAPI) -> None:
    """Answer every error of an app with `refusal`."""
    app.add_exception_handler(OneLineError, _one_line)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)


def _back(request: Request, error: OneLineError) -> Link | None:
    """The candidate's page, if a form of it was refused, or else the study's; None where there is no other."""
    study = request.path_params.get("study")
    if study is None or (isinstance(error, NotFoundError) and error.where == study):
        return None
    place, url = f"/studies/{study}", f"/studies/{quote(study, safe='')}"
    came = unquote(urlsplit(request.headers.get("referer", "")).path)
    if request.method == "POST" and (found := re.fullmatch(re.escape(place) + "/candidates/([0-9]+)", came)):
        return Link(url=f"{url}/candidates/{found[1]}", label=f"Back to candidate {found[1]}")
    return None if request.scope["path"] == place else Link(url=url, label=f"Back to {study}")


def _one_line(request: Request, error: Exception) -> Response:
    known = cast(OneLineError, error)
    return refusal(request, known, status_of(request, known))


def _invalid(request: Request, error: Exception) -> Response:
    first = cast(RequestValidationError, error).errors()[0]
    _, *names = first["loc"]  # the first is where in the request it stands, such as body
    where = ".".join(map(str, names)) or None
    return refusal(request, OneLineError("not valid", where=where, found=first["msg"]), 422)


def _http(request: Request, error: Exception) -> Response:
    status = cast(HTTPException, error).status_code
    if status == 404:
        told = OneLineError("no such page", where=request.scope["path"])
    elif status == 405:
        told = OneLineError("no such action", where=request.scope["path"], found=request.method)
    else:
        told = OneLineError(str(cast(HTTPException, error).detail), where=request.scope["path"])
    return refusal(request, told, status)


def _bug(request: Request, error: Exception) -> Response:
    log.error("%s %s", request.method, request.scope["path"], exc_info=error)
    told = OneLineError(
        f"a bug: {type(error).__name__}",
        where=request.scope["path"],
        remedy="the terminal of the dashboard shows more; please report it",
    )
    answer = refusal(request, told, 500)
    answer.headers.update(HEADERS)  # made outside of the middleware that sets them
    return answer
