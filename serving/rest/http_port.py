"""A port that speaks HTTP/1.1, in a thread of its own: of the REST side of the server, and of the page.

uvicorn, and not the standard library's http.server: that one says of itself that it is not for production, and
reads requests of strangers with few checks. What uvicorn leaves open is closed here: half of a head, an answer
that nobody reads, and connections without end take no more than a bounded time, and a bounded number of them.
"""

import asyncio
import errno
import logging
import socket
import threading

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tfbrats.errors import InputError

_LOOK_S = 15  # between looks at a connection; by then its first request's head is there
_HEAD_BYTES = 16 * 1024
_STOP_S = 5
CONNECTIONS = 64  # at once; as many more are told that there is no room, the next are hung up on


class _Protocol(H11Protocol):
    """HTTP/1.1 of uvicorn, and an end to connections that are kept for nothing.

    uvicorn waits for ever for the rest of a request's head, for that of a body whose request is answered, and
    for whoever does not take an answer. With `CONNECTIONS` of these nobody else is served.
    """

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._idle_looks = self._stuck_looks = self._unsent = 0
        self._next_look = self.loop.call_later(_LOOK_S, self._look)
        if len(self.connections) > 2 * CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc) -> None:
        self._next_look.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """To what is no HTTP; also to a body that turns out to be none, whose head may be answered already."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # the application's answer, if it is to come yet, goes nowhere
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _look(self) -> None:
        is_answered = self.cycle is not None and self.cycle.response_complete
        sends_on = is_answered and self.conn.their_state is h11.SEND_BODY
        if sends_on or (self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None):
            self._idle_looks += 1
        else:
            self._idle_looks = 0
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        self._stuck_looks = self._stuck_looks + 1 if self._unsent and self._unsent == before else 0
        if self._stuck_looks > 1:
            self.transport.abort()  # closing would wait until it is sent
        # Behind an answer, a new head may have begun just before a look.
        elif self._idle_looks > (0 if self.cycle is None else 1):
            self.transport.close()
        if self._stuck_looks <= 1:  # also of a connection that is to close when all is sent
            self._next_look = self.loop.call_later(_LOOK_S, self._look)


def bound(host: str, port: int, advice: str) -> socket.socket:
    """A socket that holds its port; nobody can connect before `HttpPort` begins.

    Args:
        port: 0 for any free one.
        advice: what to do where the port is taken.

    Raises:
        InputError: the port is taken, or there is no such address.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
        told = f" {advice}" if taken else " Give another --host."
        raise InputError(f"{host}:{port}: cannot listen there ({error.strerror or error}).{told}") from error
    return bound


class HttpPort:
    """An application on a port: it answers until `.stop()`. `.number` is the port.

    Args:
        application: ASGI.
        name: of the thread.
        certificate, key: PEM files, for https.

    Raises:
        InputError: certificate and key are none.
    """

    def __init__(
        self,
        application,
        listening: socket.socket,
        name: str,
        certificate: str | None = None,
        key: str | None = None,
    ):
        # What strangers get wrong is answered with 400; a line for each would fill the log.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._server = uvicorn.Server(_config(application, certificate, key))
        self._listening = listening
        self.number = listening.getsockname()[1]
        listening.listen(CONNECTIONS)
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listening]))

    def stop(self) -> None:
        """Takes no more, and ends what is under way."""
        self._server.should_exit = True
        self._thread.join()
        self._listening.close()


def _config(application, certificate: str | None, key: str | None) -> uvicorn.Config:
    config = uvicorn.Config(
        application,
        http=_Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=CONNECTIONS,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=_LOOK_S - 5,
        timeout_graceful_shutdown=_STOP_S,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"{certificate}, {key}: no certificate with its key ({error}).") from error
    return config
