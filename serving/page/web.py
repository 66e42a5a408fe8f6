"""The page at work: its port, its thread, its end. uvicorn speaks HTTP, and TLS beyond this machine.

uvicorn and Starlette, and not the standard library's http.server: that one says of itself that it is not for
production, and reads requests of strangers with few checks; here strangers' files come in.
"""

import asyncio
import contextlib
import errno
import socket
import threading

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.connection import Client
from serving.page import segmenting, sessions
from serving.page.application import Application
from serving.page.door import Door
from serving.page.guard import Guard
from serving.page.limits import Limits
from tfbrats.errors import InputError

_HEAD_S = 15  # for a request's head, once its connection is there
_CONNECTIONS = 64
_HEAD_BYTES = 16 * 1024
_LOOK_S = 5  # between looks for sessions that are silent
_STOP_S = 5


class _Protocol(H11Protocol):
    """HTTP/1.1 of uvicorn, and an end to connections that are kept for nothing.

    uvicorn waits for ever for the rest of a request's head, for that of a body whose request is answered, and
    for whoever does not take an answer. With `_CONNECTIONS` of these nobody else is served.
    """

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._idle_looks = self._stuck_looks = self._unsent = 0
        self._look = self.loop.call_later(_HEAD_S, self._look_at_peer)

    def connection_lost(self, exc) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def _look_at_peer(self) -> None:
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
        else:
            self._look = self.loop.call_later(_HEAD_S, self._look_at_peer)


class Page:
    """A running page: `.url` to open, `.stop()`."""

    def __init__(self, client: Client, asked: Door, limits: Limits | None = None, parent: str | None = None):
        """Begins to serve.

        Args:
            client: to the model; closed with the page.
            parent: where the sessions' folders lie; by default in the system's folder for temporary files.

        Raises:
            InputError: the port is taken, TLS cannot be had, or no folder can be made.
        """
        limits = limits or Limits()
        self._ending = contextlib.ExitStack()
        with contextlib.ExitStack() as begun:
            self.folder = begun.enter_context(sessions.server_folder(parent))
            work = begun.enter_context(segmenting.by(client))
            self.sessions = sessions.Sessions(self.folder, limits)
            listening = begun.enter_context(_listening(asked))
            self.port = listening.getsockname()[1]
            cookie = f"tfbrats_{self.port}"
            application = Application(
                self.sessions, work, limits, asked.token, cookie, asked.scheme == "https"
            ).starlette()
            guard = Guard(application, _hosts(asked, self.port), asked.scheme, asked.token, cookie)
            self._server = uvicorn.Server(_config(guard, asked))
            self._ending = begun.pop_all()
        shown = asked.names[0] if asked.names else asked.host
        shown = f"[{shown}]" if ":" in shown else shown
        self.url = f"{asked.scheme}://{shown}:{self.port}/" + (f"#token={asked.token}" if asked.token else "")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(listening,), name="page", daemon=True)
        self._sweeper = threading.Thread(target=self._sweep, name="page sessions", daemon=True)
        self._thread.start()
        self._sweeper.start()

    def _serve(self, listening: socket.socket) -> None:
        asyncio.run(self._server.serve(sockets=[listening]))

    def _sweep(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            self.sessions.end_silent()

    def stop(self) -> None:
        """Takes no more, ends what is under way, and removes every file."""
        self._stopping.set()
        self._server.should_exit = True
        self._thread.join()
        self._sweeper.join()
        self.sessions.end_all()
        self._ending.close()

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_) -> None:
        self.stop()


def _hosts(asked: Door, port: int) -> list[str]:
    """As browsers send them: without the port where it is the scheme's own."""
    names = list(asked.names)
    if asked.is_of_this_machine:
        names += ["127.0.0.1", "localhost", "[::1]"]
    default = {"http": 80, "https": 443}[asked.scheme]
    return [f"{name}:{port}" for name in names] + ([*names] if port == default else [])


def _listening(asked: Door) -> socket.socket:
    """A socket at work. Raises InputError: the port is taken, or there is no such address."""
    where = f"{asked.host}:{asked.port}"
    try:
        family, *_, address = socket.getaddrinfo(asked.host, asked.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
            listening.listen(_CONNECTIONS)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        taken = " Is another page open there? Give another port, or 0 for any free one."
        advice = taken if error.errno in (errno.EADDRINUSE, errno.EACCES) else " Give another --host."
        raise InputError(f"{where}: cannot listen there ({error.strerror or error}).{advice}") from error
    return listening


def _config(guard: Guard, asked: Door) -> uvicorn.Config:
    config = uvicorn.Config(
        guard,
        http=_Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_HEAD_S - 5,
        timeout_graceful_shutdown=_STOP_S,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        ssl_certfile=asked.certificate,
        ssl_keyfile=asked.key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"{asked.certificate}, {asked.key}: no certificate with its key ({error}).") from error
    return config
