"""Who may talk to a dashboard.

Every request has to name one of our hosts (against DNS rebinding) and to carry the token: once as `?token=`, which a
cookie then stands for, or as `Authorization: Bearer`. What changes something has to come from one of our pages as well:
from the same origin, and with the CSRF token of its session. A bearer needs none of that, since no page of somebody
else can send that header.
"""

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Callable
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from typing import TypeAlias
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evomerge.dashboard.policy import HEADERS
from evomerge.dashboard.settings import Settings
from evomerge.errors import OneLineError

Refuse: TypeAlias = Callable[[Request, OneLineError, int], Response]

LARGEST_BODY = 1 << 20  # bytes; forms are small
FIELD, HEADER = "csrf", "x-csrf-token"
_SAFE = ("GET", "HEAD", "OPTIONS")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")
_ASK = "open the address that `evomerge dashboard` printed, which ends in ?token=..."


def csrf_token(request: Request) -> str:
    """The token that the forms of this session carry; empty where there is no session."""
    token: str = request.scope.get("csrf", "")
    return token


class Security:
    """ASGI middleware that refuses who has no business here, before anything else sees the request.

    Args:
        app: what it guards.
        settings: the dashboard's.
        refuse: makes the answer to (request, error, status).
    """

    def __init__(self, app: ASGIApp, settings: Settings, refuse: Refuse) -> None:
        self._app, self._settings, self._refuse = app, settings, refuse
        self._cookie = f"evomerge-{settings.port}"  # cookies do not tell ports apart
        self._names = {*_LOOPBACK, settings.host.lower().strip("[]")}
        self._anywhere = settings.host in EVERYWHERE
        if self._anywhere:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope, receive)
        answer = self._admit(request)
        if answer is None and request.method not in _SAFE and not self._bearer(request.headers):
            body = await _body(receive)
            answer = self._check_origin(request, body)
            receive = _replay(body or b"", receive)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _admit(self, request: Request) -> Response | None:
        """The answer to one who may not enter, or who has just shown the token; else None."""
        host = request.headers.get("host", "")
        if not self._is_ours(host):
            remedy = "use localhost, or start the dashboard with --host NAME"
            return self._refuse(request, OneLineError("not a name of this dashboard", found=host, remedy=remedy), 400)
        path: str = request.scope["path"]
        if request.method in _SAFE and (path.startswith("/static/") or path == "/health"):
            return None
        if "authorization" in request.headers:
            return None if self._bearer(request.headers) else self._unknown(request, "wrong token")
        if request.method in _SAFE and "token" in request.query_params:
            if self._is_token(request.query_params["token"]):
                return self._enter(request)
            return self._unknown(request, "wrong token")
        session = _cookie(request.headers, self._cookie)
        if session is None or not self._is_session(session):
            return self._unknown(request, "token is missing")
        request.scope["csrf"] = self._sign("csrf", session)
        return None

    def _unknown(self, request: Request, what: str) -> Response:
        answer = self._refuse(request, OneLineError(what, remedy=_ASK), 401)
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    def _enter(self, request: Request) -> Response:
        query = [each for each in parse_qsl(request.url.query, keep_blank_values=True) if each[0] != "token"]
        # one slash: two would name another host
        place = "/" + quote(request.scope["path"].lstrip("/")) + (f"?{urlencode(query)}" if query else "")
        nonce = secrets.token_urlsafe(16)
        answer = RedirectResponse(place, 303)
        session = f"{nonce}.{self._sign('session', nonce)}"
        # lax: it comes with a link in a chat, too, which can only read; what acts is checked for more
        answer.set_cookie(self._cookie, session, httponly=True, samesite="lax", path="/")
        return answer

    def _check_origin(self, request: Request, body: bytes | None) -> Response | None:
        """The answer to what none of our pages has sent, else None."""
        if body is None:
            error = OneLineError("request is too large", expected=f"at most {LARGEST_BODY} bytes")
            return self._refuse(request, error, 413)
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin")
        host = request.headers["host"].lower()
        if site not in ("same-origin", "none") or (origin is not None and origin.lower().partition("://")[2] != host):
            error = OneLineError(
                "comes from another site", found=origin or site, remedy="use the dashboard's own pages"
            )
            return self._refuse(request, error, 403)
        given = request.headers.get(HEADER)
        if given is None and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            given = parse_qs(body.decode(errors="replace")).get(FIELD, [""])[0]
        if not _equal(given or "", csrf_token(request)):
            remedy = "go back, reload the page and try again"
            return self._refuse(request, OneLineError("CSRF token is missing or wrong", remedy=remedy), 403)
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        if name is None or "@" in host or "/" in host:
            return False
        return name in self._names or (self._anywhere and _is_address(name))

    def _bearer(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._is_token(token.strip())

    def _is_token(self, token: str) -> bool:
        return _equal(token, self._settings.token)

    def _is_session(self, session: str) -> bool:
        nonce, _, signature = session.partition(".")
        return _equal(signature, self._sign("session", nonce))

    def _sign(self, what: str, text: str) -> str:
        return hmac.new(self._settings.token.encode(), f"{what}:{text}".encode(), sha256).hexdigest()


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _is_address(name: str) -> bool:
    """Whether it is an IP address: those cannot be rebound."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie(headers: Headers, name: str) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return None if found is None else found.value


async def _body(receive: Receive) -> bytes | None:
    """The body of a request; None if it is larger than any of ours, or was cut off."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part: bytes = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > LARGEST_BODY:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
