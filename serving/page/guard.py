"""Who may ask the page: its own script, under its own name; beyond this machine with a token. Pure ASGI.

A browser also runs the pages of strangers. One of them may send requests to 127.0.0.1 (CSRF: its Origin
tells), or have its own name lead to 127.0.0.1 (DNS rebinding: the Host tells). Both are refused before anything
is read.
"""

import hmac
import json
from collections.abc import Collection
from http import cookies

_READING = ("GET", "HEAD")
_OPEN = ("/", "/login", "/page.css", "/page.js")  # what is needed to type a token
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """Lets through what the page's own script asks.

    Args:
        app: ASGI, behind it.
        hosts: that the page answers to, as a browser sends them, e.g. "127.0.0.1:8600".
        scheme: http or https.
        token: that a session has to know; None lets everybody in who reaches the address.
        cookie: that holds it.
    """

    def __init__(self, app, hosts: Collection[str], scheme: str, token: str | None, cookie: str):
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._scheme = scheme
        self._token = token
        self._cookie = cookie

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(send, *refusal)
            return

        async def with_headers(message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                more = [(n.encode(), v.encode()) for n, v in _HEADERS.items() if n.encode() not in own]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self._app(scope, receive, with_headers)

    def _refusal(self, scope) -> tuple[int, str] | None:
        """A status and a sentence for what is not let through."""
        hosts = _values(scope, b"host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return (
                421,
                f"This page answers to {' or '.join(sorted(self._hosts))} alone. Open it by that address.",
            )
        if scope["method"] not in _READING:
            if _values(scope, b"origin") != [f"{self._scheme}://{hosts[0]}"]:
                return 403, "Refused: only the page itself may send something, and no other site."
        elif scope["path"] != "/" and _values(scope, b"sec-fetch-site") not in ([], ["same-origin"], ["none"]):
            return 403, "Refused: another site asks for it."
        if self._token is not None and scope["path"] not in _OPEN and not self._knows_token(scope):
            return 401, "The page's token is missing or wrong. Open the address that the server printed."
        return None

    def _knows_token(self, scope) -> bool:
        for text in _values(scope, b"cookie"):
            try:
                morsel = cookies.SimpleCookie(text).get(self._cookie)
            except cookies.CookieError:
                continue
            if morsel is not None and hmac.compare_digest(morsel.value.encode(), self._token.encode()):
                return True
        return False


def _values(scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


async def _answer(send, status: int, text: str) -> None:
    body = json.dumps({"fault": text}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # what else was sent is not read
        *((name.encode(), value.encode()) for name, value in _HEADERS.items()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
