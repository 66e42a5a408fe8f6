"""The page at work: its port, its thread, its end. uvicorn speaks HTTP, and TLS beyond this machine.

uvicorn and Starlette, and not the standard library's http.server: that one says of itself that it is not for
production, and reads requests of strangers with few checks; here strangers' files come in.
"""

import asyncio
import contextlib
import errno
import ipaddress
import secrets
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.connection import Client
from serving.page import segmenting, sessions
from serving.page.application import Application
from serving.page.guard import Guard
from serving.page.limits import Limits
from tfbrats.errors import InputError
from tfbrats.machine import files

PORT = 8600  # as the commands' help says
_HEAD_S = 15  # for a request's head, once its connection is there
_CONNECTIONS = 64
_HEAD_BYTES = 16 * 1024
_LOOK_S = 5  # between looks for sessions that are silent
_STOP_S = 5
_LEAST_TOKEN = 16


@dataclass(frozen=True)
class Door:
    """Where the page is, and who may come in.

    Attributes:
        host: to listen at.
        port: 0 for any free one.
        names: by which others open it; beyond this machine at least one.
        certificate, key: PEM files, for https.
        token: that others have to know; None: none is asked for.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    names: tuple[str, ...] = ()
    certificate: str | None = None
    key: str | None = None
    token: str | None = None

    @property
    def is_of_this_machine(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def scheme(self) -> str:
        return "https" if self.certificate else "http"


def door(
    host: str, port: int, names: Sequence[str], certificate: str | None, key: str | None, token_file: str | None
) -> Door:
    """What a person asked for, where it is safe.

    Raises:
        InputError: beyond this machine without TLS or a name; half of what TLS needs; a weak token.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port {port}: there are ports 1 to 65535, and 0 for any free one.")
    if (certificate is None) != (key is None):
        raise InputError("--tls-certificate and --tls-key: the two go together.")
    for path in filter(None, (certificate, key)):
        if not files.exists(path):
            raise InputError(f"{path}: no such file.")
    token = None if token_file is None else _token(token_file)
    asked = Door(host, port, tuple(names), certificate, key, token)
    if asked.is_of_this_machine:
        return asked
    if certificate is None:
        raise InputError(
            f"--host {host}: others could read the scans on their way. Beyond this machine the page is served "
            "by TLS alone: give --tls-certificate and --tls-key (PEM), or leave --host out and come by an SSH "
            f"tunnel (ssh -L {port or PORT}:127.0.0.1:{port or PORT} THIS_MACHINE)."
        )
    if not names:
        raise InputError(
            f"--host {host}: by which name do others open it? Give --name, e.g. --name brats.example.org: the "
            "page answers to that name alone, so that no other site can use it."
        )
    return asked if token else Door(host, port, tuple(names), certificate, key, secrets.token_urlsafe(24))


def _token(path: str) -> str:
    token = files.read_text(path).strip()
    if len(token) < _LEAST_TOKEN or not token.isascii() or not all(c.isalnum() or c in "-_." for c in token):
        raise InputError(
            f"{path}: expected {_LEAST_TOKEN} or more letters, digits, - _ or . (openssl rand -hex 24)."
        )
    return token


class _Protocol(H11Protocol):
    """HTTP/1.1 of uvicorn, and a limit of time for a request's head: half of one would stay for ever."""

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._idle_looks = 0
        self._look = self.loop.call_later(_HEAD_S, self._look_at_head)

    def connection_lost(self, exc) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def _look_at_head(self) -> None:
        if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            self._idle_looks += 1
        else:
            self._idle_looks = 0
        if self._idle_looks > (
            0 if self.cycle is None else 1
        ):  # between two looks a new head may just have begun
            self.transport.close()
        else:
            self._look = self.loop.call_later(_HEAD_S, self._look_at_head)


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
