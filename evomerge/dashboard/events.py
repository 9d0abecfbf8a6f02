"""Live updates: server-sent events that say that something has changed, for pages to ask what.

An event is named `changed`; its data and its id are the version of what has changed. A page that was made from a known
version says so (`?version=`, or the header Last-Event-ID that browsers send when they connect again), and hears of
newer ones only. Nothing is watched while nobody listens.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.responses import Response

from evomerge.dashboard.problems import refusal
from evomerge.dashboard.processes import Processes
from evomerge.dashboard.shelf import Shelf
from evomerge.dashboard.signature import digest
from evomerge.errors import OneLineError

EVERY = 1.0  # seconds between looks at the files
HEARTBEAT = 15.0  # seconds; proxies cut what is silent for longer
MOST = 100  # listeners

router = APIRouter()


class Events:
    """Who listens, and what has changed.

    Args:
        shelf: the studies.
        processes: the jobs.
    """

    def __init__(self, shelf: Shelf, processes: Processes) -> None:
        self._shelf, self._processes = shelf, processes
        self._closing = False
        self._listeners = 0
        self._looks: dict[str | None, tuple[float, asyncio.Future[str]]] = {}

    @property
    def full(self) -> bool:
        """Whether nobody else may listen."""
        return self._listeners >= MOST

    def version(self, study: str | None) -> str:
        """The version of a study, or of all studies and jobs. Raises NotFoundError or StudyError."""
        if study is not None:
            return self._shelf.version(study)
        return digest((self._shelf.whole_version(), self._processes.version()))

    def close(self) -> None:
        """End every stream within a second, so that the server can end."""
        self._closing = True

    async def stream(self, study: str | None, known: str | None, request: Request) -> AsyncIterator[str]:
        """The events of one study, or of all studies and jobs, until the listener leaves or the server ends."""
        self._listeners += 1
        try:
            spoken = time.monotonic()
            yield ": listening\n\n"
            while not (self._closing or await request.is_disconnected()):
                try:
                    version = await self._shared_version(study)
                except OneLineError:  # the study is gone: the page that the listener asks for will say so
                    version = "gone"
                if version != known:
                    known, spoken = version, time.monotonic()
                    yield f"event: changed\nid: {version}\ndata: {version}\n\n"
                elif time.monotonic() - spoken > HEARTBEAT:
                    spoken = time.monotonic()
                    yield ": still here\n\n"
                await asyncio.sleep(EVERY)
        finally:
            self._listeners -= 1

    async def _shared_version(self, study: str | None) -> str:
        """The same, looked up once a second however many listen."""
        now = time.monotonic()
        since, found = self._looks.get(study, (0.0, None))
        if found is None or now - since > 0.9 * EVERY:
            found = asyncio.ensure_future(run_in_threadpool(self.version, study))
            self._looks[study] = now, found
        return await asyncio.shield(found)


def note_version(request: Request) -> None:
    """Note the version that a page is made from before it is made, so that it need not hear of that one."""
    request.state.seen = request.app.state.events.version(request.path_params.get("study"))


@router.get("/events")
@router.get("/studies/{study}/events")
async def events(
    request: Request,
    study: str | None = None,
    version: Annotated[str | None, Query(max_length=64)] = None,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> Response:
    """Say when a study, or any study or job, has changed."""
    hub: Events = request.app.state.events
    if study is not None:
        await run_in_threadpool(request.app.state.shelf.folder, study)
    if hub.full:
        return refusal(request, OneLineError("too many listeners", expected=f"at most {MOST}"), 503)
    stream = hub.stream(study, last_event_id or version, request)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
