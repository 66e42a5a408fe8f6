"""The REST side of the server as an ASGI application: a reply to each request, counted, and told in the log."""

import asyncio
import contextlib
import time

from serving.rest import access_log
from serving.rest.metrics import Metrics
from serving.rest.replies import JSON, Replies, Reply

# A body is never used. Who is hung up on while still sending may not get to read the answer, so it is let come
# for a while, and thrown away.
_BODY_S = 5
_BODY_BYTES = 64 * 2**20


class RestApplication:
    """Answers what `Replies` say."""

    def __init__(self, replies: Replies, metrics: Metrics):
        self._replies = replies
        self._metrics = metrics

    async def __call__(self, scope, receive, send) -> None:
        began = time.monotonic()
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        reply = self._replies.to(scope["method"], target)
        seconds = time.monotonic() - began
        if reply.content_type == JSON:  # the API's: the rest is about no model
            self._metrics.answered(reply.model, reply.api, "REST", reply.code.name, seconds)
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", str(len(reply.body)).encode()),
        ]
        has_body = _has_body(scope)
        if has_body:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body, "more_body": has_body})
        bytes_in = await _thrown_away(receive) if has_body else 0
        if has_body:
            await send({"type": "http.response.body"})
        if not reply.is_scrape:
            _tell(scope, reply, seconds, bytes_in)


def _has_body(scope) -> bool:
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return lengths not in ([], [b"0"]) or any(name == b"transfer-encoding" for name, _ in scope["headers"])


async def _thrown_away(receive) -> int:
    """Bytes of a body that came."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_BODY_S):
            while size < _BODY_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    break
    return size


def _tell(scope, reply: Reply, seconds: float, bytes_in: int) -> None:
    host, port = scope["client"]
    peer = f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
    request_id = access_log.request_id_of((n.decode("latin-1"), v) for n, v in scope["headers"])
    access_log.write(
        peer, reply.model, reply.what, reply.code.name, seconds, bytes_in, len(reply.body), request_id
    )
