"""Files that pages load: their look, their scripts, and plotly.js out of the plotly wheel. No network is needed."""

import functools
import gzip
from hashlib import sha256

from fastapi import APIRouter, Request
from fastapi.responses import Response
from plotly.offline import get_plotlyjs

from evomerge.dashboard.problems import NotFoundError
from evomerge.dashboard.rendering import PLOTLY, SHARED, TEMPLATES

_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_FILES = {path.name: path for folder in (SHARED, TEMPLATES.parent / "static") for path in folder.iterdir()}
_FOR_EVER = "public, max-age=31536000, immutable"

router = APIRouter()


@router.get(PLOTLY)
def plotly_script(request: Request) -> Response:
    """plotly.js; its address holds its version, so that browsers may keep it."""
    headers = {"Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding"}
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(get_plotlyjs(), headers=headers, media_type=_TYPES[".js"])
    headers["Content-Encoding"] = "gzip"
    return Response(_compressed_plotly(), headers=headers, media_type=_TYPES[".js"])


@router.get("/static/{name}")
def own_file(request: Request, name: str) -> Response:
    """One of our own files. Browsers keep it, and ask each time whether it has changed."""
    path = _FILES.get(name)
    if path is None or path.suffix not in _TYPES:
        raise NotFoundError("no such file", where=request.scope["path"])
    content = path.read_bytes()
    headers = {"Cache-Control": "no-cache", "ETag": f'"{sha256(content).hexdigest()[:32]}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=_TYPES[path.suffix])


@functools.cache
def _compressed_plotly() -> bytes:
    return gzip.compress(get_plotlyjs().encode(), 6, mtime=0)
