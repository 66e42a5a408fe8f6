"""The page's addresses: what a browser asks, and what is answered. Starlette; the guard stands before it.

    POST   /sessions                        a new session: its id, and what the model is
    POST   /sessions/ID/alive               the page is still open
    POST   /sessions/ID/end                 it is not; so does the time
    PUT    /sessions/ID/file?name=NAME      one file, its bytes the body
    DELETE /sessions/ID/file?name=NAME
    POST   /sessions/ID/phantom             a simulated case in place of files
    GET    /sessions/ID/scans               which file is which, and what is wrong
    POST   /sessions/ID/segment             {"case": ID} or {"scans": {"flair": NAME, ...}}
    GET    /sessions/ID                     what has become of it: stage, seconds, notes, fault, result
    GET    /sessions/ID/view                the viewer, for an iframe
    GET    /sessions/ID/download/KIND       segmentation, dicom-seg, pdf, png, provenance

A refusal is a status and {"fault": a sentence}.
"""

import asyncio
import importlib.resources
import json
import logging
import os
import re
from collections.abc import Callable
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from serving.page import intake, uploads
from serving.page.limits import Limits, RefusedError
from serving.page.segmenting import DOWNLOADS, Segmenting
from serving.page.sessions import Session, Sessions
from tfbrats.errors import InputError

log = logging.getLogger(__name__)

_BODY_BYTES = 64 * 1024  # of a request that is no file
_TOKEN = re.compile(r"[\w.-]{1,200}", re.ASCII)
_STATIC = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# The viewer is one file with its code in it. It may do nothing but draw: no network, and not our origin.
_VIEWER_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob:; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; connect-src data: blob:; worker-src blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; sandbox allow-scripts allow-downloads"
)


class Application:
    """The page over its sessions and the model.

    Args:
        token: that opens it, and the cookie that holds it; None for none.
    """

    def __init__(
        self, sessions: Sessions, work: Segmenting, limits: Limits, token: str | None, cookie: str, secure: bool
    ):
        self._sessions = sessions
        self._work = work
        self._limits = limits
        self._token, self._cookie, self._secure = token, cookie, secure
        read = importlib.resources.files("serving.page")
        self._static = {path: read.joinpath(name).read_bytes() for path, name in _STATIC.items()}

    def starlette(self) -> Starlette:
        one = "/sessions/{id}"
        routes = [
            *(Route(path, self._page) for path in _STATIC),
            Route("/login", self._login, methods=["POST"]),
            Route("/sessions", self._begin, methods=["POST"]),
            Route(one, self._state),
            Route(f"{one}/alive", self._alive, methods=["POST"]),
            Route(f"{one}/end", self._end, methods=["POST"]),
            Route(f"{one}/file", self._put, methods=["PUT"]),
            Route(f"{one}/file", self._delete, methods=["DELETE"]),
            Route(f"{one}/phantom", self._phantom, methods=["POST"]),
            Route(f"{one}/scans", self._scans),
            Route(f"{one}/segment", self._segment, methods=["POST"]),
            Route(f"{one}/view", self._view),
            Route(f"{one}/download/{{kind}}", self._download),
        ]
        handlers: dict[Any, Callable] = {
            RefusedError: lambda _, error: _fault(error.status, str(error)),
            InputError: lambda _, error: _fault(422, str(error)),
            HTTPException: lambda _, error: _fault(error.status_code, error.detail),
            ClientDisconnect: lambda *_: _fault(400, "It stopped arriving."),
            Exception: lambda *_: _fault(500, "The page has failed. The server's log has more."),
        }
        return Starlette(routes=routes, exception_handlers=handlers)

    # --- the page itself --------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        path = request.scope["path"]
        kind = _TYPES[os.path.splitext(_STATIC[path])[1]]
        return Response(self._static[path], media_type=kind)

    async def _login(self, request: Request) -> Response:
        """Keeps the token in a cookie that no script reads; the guard compares it."""
        body = await self._json(request)
        answer, token = JSONResponse({}), body.get("token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise RefusedError(401, "That is no token.")
        if self._token is not None:
            answer.set_cookie(
                self._cookie,
                token,
                httponly=True,
                samesite="strict",
                secure=self._secure,
            )
        return answer

    # --- sessions ---------------------------------------------------------------------------------------

    async def _begin(self, request: Request) -> Response:
        model = await anyio.to_thread.run_sync(self._work.model)
        session = await anyio.to_thread.run_sync(self._sessions.begin)
        return JSONResponse({"id": session.id, "model": model})

    async def _alive(self, request: Request) -> Response:
        self._session(request)
        return JSONResponse({})

    async def _end(self, request: Request) -> Response:
        await anyio.to_thread.run_sync(self._sessions.end, self._session(request))
        return JSONResponse({})

    async def _state(self, request: Request) -> Response:
        work = self._session(request).work
        return JSONResponse(None if work is None else work.to_json())

    # --- files ------------------------------------------------------------------------------------------

    async def _put(self, request: Request) -> Response:
        session = self._session(request)
        length = request.headers.get("content-length", "")
        size = int(length) if length.isascii() and length.isdecimal() else None
        pieces = request.stream()
        try:
            name = await uploads.receive(session, _name(request), size, pieces, self._limits)
        except RefusedError:
            await uploads.let_pass(pieces, size, self._limits)
            raise
        return JSONResponse({"name": name})

    async def _delete(self, request: Request) -> Response:
        await anyio.to_thread.run_sync(uploads.remove, self._session(request), _name(request))
        return JSONResponse({})

    async def _phantom(self, request: Request) -> Response:
        session = self._session(request)
        await anyio.to_thread.run_sync(self._work.try_phantom, session)
        return JSONResponse({})

    async def _scans(self, request: Request) -> Response:
        return JSONResponse(await anyio.to_thread.run_sync(intake.described, self._session(request)))

    # --- the work ---------------------------------------------------------------------------------------

    async def _segment(self, request: Request) -> Response:
        session, body = self._session(request), await self._json(request)
        case_id, scans = body.get("case"), body.get("scans")
        if not isinstance(case_id, str | None) or not isinstance(scans, dict | None):
            raise RefusedError(400, "Expected a case, or a file for each scan.")
        if scans is not None and not all(isinstance(name, str) for name in scans.values()):
            raise RefusedError(400, "Expected a file for each scan.")
        await anyio.to_thread.run_sync(self._begin_work, session, case_id, scans)
        return JSONResponse({}, status_code=202)

    def _begin_work(self, session: Session, case_id: str | None, scans: dict[str, str] | None) -> None:
        try:
            self._work.begin(session, case_id, scans)
        except InputError as error:
            raise RefusedError(422, intake.words(session, str(error))) from error

    async def _view(self, request: Request) -> Response:
        path = self._made(request, "view")
        return FileResponse(path, media_type="text/html", headers={"content-security-policy": _VIEWER_POLICY})

    async def _download(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in DOWNLOADS:
            raise RefusedError(404, "There is no such file.")
        path = self._made(request, kind)
        return FileResponse(path, filename=os.path.basename(path))

    def _made(self, request: Request, kind: str) -> str:
        """A file of the session's result. Raises RefusedError: there is none yet."""
        work = self._session(request).work
        if work is None or work.result is None or kind not in work.files:
            raise RefusedError(404, "There is no such file yet.")
        return work.files[kind]

    async def _json(self, request: Request) -> dict[str, Any]:
        """The body as JSON, which is small. Raises RefusedError: it is something else, or does not come."""
        try:
            async with asyncio.timeout(self._limits.read_s):
                return await _json(request)
        except TimeoutError as error:
            raise RefusedError(408, "It stopped arriving.") from error

    def _session(self, request: Request) -> Session:
        return self._sessions.of(request.path_params["id"])


def _fault(status: int, text: str) -> Response:
    # What is left of a body that was refused is not read.
    headers = {"connection": "close"} if status >= 400 else {}
    return JSONResponse({"fault": text}, status, headers)


def _name(request: Request) -> str:
    names = request.query_params.getlist("name")
    if len(names) != 1:
        raise RefusedError(400, "Which file? Give its name.")
    return names[0]


async def _json(request: Request) -> dict[str, Any]:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _BODY_BYTES:
            raise RefusedError(413, "That is too long.")
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "That is no JSON.") from error
    if not isinstance(content, dict):
        raise RefusedError(400, "That is no JSON object.")
    return content
