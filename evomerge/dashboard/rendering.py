"""Pages as HTML: one Jinja environment, in which everything is escaped unless it is markup of ours.

Every template gets: `page` (its view model), `request`, `csrf_token(request)`, `flash` (what an action has just said:
`.text` and `.bad`, or None), `read_only` (why actions are off, or None), `seen` (the version of the studies that the
page was made from, or None; see `events`), `plotly` (the address of plotly.js) and `version`.
"""

import hmac
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

import plotly
from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel

import evomerge.study
from evomerge.dashboard.security import csrf_token
from evomerge.study.filters import FILTERS

TEMPLATES = Path(__file__).parent / "templates"
SHARED = Path(evomerge.study.__file__).parent / "templates"  # what pages and the report have in common
PLOTLY = f"/static/plotly-{plotly.__version__}.js"
_LONGEST_FLASH = 500  # characters
_TO_STRANGERS = (400, 401)  # what `security` answers to who has not shown the token


@dataclass(frozen=True)
class Flash:
    """What an action has just done, told at the top of the page that it leads to.

    Attributes:
        text: one line.
        bad: whether it is a warning.
    """

    text: str
    bad: bool = False

    @classmethod
    def of(cls, request: Request) -> Self | None:
        """The one that a request carries, if an action of its session has said so: no link may speak in our name."""
        for name in ("warning", "flash"):
            if text := request.query_params.get(name):
                genuine = hmac.compare_digest(request.query_params.get("signed", "").encode(), _signed(request, text))
                return cls(text, bad=name == "warning") if genuine else None
        return None

    def on(self, place: str, request: Request) -> str:
        """The address `place`, carrying it to the session that a request is of."""
        separator, text = "&" if "?" in place else "?", self.text[:_LONGEST_FLASH]
        return (
            place + separator + urlencode({"warning" if self.bad else "flash": text, "signed": _signed(request, text)})
        )


def _signed(request: Request, text: str) -> bytes:
    return hmac.new(csrf_token(request).encode(), text.encode(), "sha256").hexdigest().encode()


def render(request: Request, template: str, *, page: BaseModel, status: int = 200) -> HTMLResponse:
    """A page.

    Args:
        request: that it answers.
        template: name in `templates/` of the dashboard or of the study package.
        page: its view model.
        status: of the HTTP answer.
    """
    stranger = status in _TO_STRANGERS  # whom others' words could mislead, and whom our folders do not concern
    content = _TEMPLATES.get_template(template).render(
        request=request,
        page=page,
        flash=None if stranger else Flash.of(request),
        read_only=None if stranger else request.app.state.shelf.read_only,
        seen=getattr(request.state, "seen", None),
    )
    return HTMLResponse(content, status)


def lead(request: Request, place: str, flash: Flash) -> RedirectResponse:
    """Lead a browser on to a page after the action that it has asked for."""
    return RedirectResponse(flash.on(place, request), 303)


def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader([TEMPLATES, SHARED]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(csrf_token=csrf_token, plotly=PLOTLY, version=version("evomerge"))
    return environment


_TEMPLATES = _environment()
