"""The web application.

How the parts fit: `create_app` puts `settings`, `shelf` (the studies), `processes` (searches and merges that were
started here) and `events` (live updates) on `app.state`, where handlers find them. A page is a module in `pages/` with
a typed view model, a pure function that makes it, and a `router` whose handler calls `rendering.render`; `api` gives
the same models as JSON, and `actions` is all that changes anything. Handlers that read studies are plain functions,
which run in a pool of threads. Errors are raised as `OneLineError`; `problems` turns them into answers.
"""

from importlib.metadata import version

from fastapi import Depends, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from evomerge.dashboard import actions, api, events, static
from evomerge.dashboard.events import Events
from evomerge.dashboard.pages import candidate, compare, jobs, launch, studies, study
from evomerge.dashboard.problems import add_handlers, refusal
from evomerge.dashboard.processes import Processes
from evomerge.dashboard.reading import BeingLaunchedError, BeingReadError, being_launched, being_read, wait_shortly
from evomerge.dashboard.security import Security
from evomerge.dashboard.settings import Settings
from evomerge.dashboard.shelf import Shelf


def create_app(settings: Settings) -> FastAPI:
    """The dashboard of a runs folder, as an ASGI application.

    Args:
        settings: the folder, the token, and what else the dashboard is started with.
    """
    app = FastAPI(
        title="evomerge",
        version=version("evomerge"),
        openapi_url="/api/openapi.json",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        middleware=[
            Middleware(Security, settings=settings, refuse=refusal),
            Middleware(GZipMiddleware, compresslevel=5),
        ],
    )
    app.state.settings = settings
    app.state.shelf = Shelf(settings.runs_dir)
    app.state.processes = Processes(settings.runs_dir)
    app.state.events = Events(app.state.shelf, app.state.processes)
    add_handlers(app)
    app.add_exception_handler(BeingReadError, being_read)
    app.add_exception_handler(BeingLaunchedError, being_launched)
    app.include_router(jobs.router, include_in_schema=False, dependencies=[Depends(events.note_version)])
    for page in (studies, study, candidate):
        follow = [Depends(wait_shortly), Depends(events.note_version)]
        app.include_router(page.router, include_in_schema=False, dependencies=follow)
    for part in (compare, launch, actions, events, static):
        app.include_router(part.router, include_in_schema=False)
    app.include_router(api.router)
    app.add_api_route("/health", health, include_in_schema=False)
    return app


def health() -> dict[str, str]:
    """That the server is there; needs no token."""
    return {"status": "ok"}
