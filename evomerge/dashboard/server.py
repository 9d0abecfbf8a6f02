"""Running the dashboard."""

import contextlib
import ipaddress
import os
import socket
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import replace
from threading import Thread

import uvicorn

from evomerge.dashboard.app import create_app
from evomerge.dashboard.security import EVERYWHERE
from evomerge.dashboard.settings import Settings
from evomerge.dashboard.shelf import Shelf
from evomerge.errors import StudyError, UsageError

LAST_PORT = 65535
PATIENCE = 3  # seconds that open connections get at the end


def run(settings: Settings, *, open_page: bool = False) -> None:
    """Serve the dashboard until Ctrl-C. Prints its address, with the token, on standard output once it answers.

    Args:
        settings: what to serve, and where.
        open_page: open it in the user's browser, too.

    Raises:
        UsageError: the address is in use or is not ours.
    """
    with _listening(settings.host, settings.port) as listener:
        settings = replace(settings, port=listener.getsockname()[1])
        app = create_app(settings)
        if not _is_loopback(settings.host):
            print(
                "evomerge: warning: without TLS anybody on the way can read the token: keep this to a network that you "
                "trust, or listen on 127.0.0.1 and come through ssh or a proxy with TLS",
                file=sys.stderr,
            )

        def announce() -> None:
            print(_address(settings), flush=True)
            Thread(target=_open_studies, args=(app.state.shelf,), daemon=True).start()
            if open_page:  # in a thread, for a browser in the terminal returns when it is left
                Thread(target=webbrowser.open, args=(_address(settings),), daemon=True).start()

        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=PATIENCE)
        with contextlib.suppress(KeyboardInterrupt):
            _Server(config, announce, app.state.events.close).run(sockets=[listener])


def _open_studies(shelf: Shelf) -> None:
    """Read the studies before somebody asks for them: a large one takes seconds, once."""
    with contextlib.suppress(StudyError):  # pages will tell
        shelf.entries()


class _Server(uvicorn.Server):
    """Says when it answers, and ends the streams of events first when it ends: they would keep it waiting.

    Args:
        config: uvicorn's.
        started: called once it answers.
        ending: called before it waits for open connections.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], None], ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._started, self._ending = started, ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        await super().shutdown(sockets)


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port <= LAST_PORT:
        raise UsageError("not a port", where="--port", expected=f"0 to {LAST_PORT}", found=port)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        unknown = isinstance(error, socket.gaierror)
        raise UsageError(
            "cannot listen",
            where=f"{host}:{port}",
            found="an unknown host" if unknown else os.strerror(error.errno or 0),
            remedy="check --host" if unknown else "choose another --port, or check --host",
        ) from error


def _address(settings: Settings) -> str:
    host = socket.gethostname() if settings.host in EVERYWHERE else settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/?token={settings.token}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
