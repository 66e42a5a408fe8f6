"""The page at work: its port, its sessions, its end."""

import contextlib
import threading

from serving.connection import Client
from serving.page import segmenting, sessions
from serving.page.application import Application
from serving.page.door import Door
from serving.page.guard import Guard
from serving.page.limits import Limits
from serving.rest import http_port

_LOOK_S = 5  # between looks for sessions that are silent


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
            advice = "Is another page open there? Give another port, or 0 for any free one."
            listening = begun.enter_context(http_port.bound(asked.host, asked.port, advice))
            self.port = listening.getsockname()[1]
            cookie = f"tfbrats_{self.port}"
            application = Application(
                self.sessions, work, limits, asked.token, cookie, asked.scheme == "https"
            ).starlette()
            guard = Guard(application, _hosts(asked, self.port), asked.scheme, asked.token, cookie)
            self._http = http_port.HttpPort(guard, listening, "page", asked.certificate, asked.key)
            self._ending = begun.pop_all()
        shown = asked.names[0] if asked.names else asked.host
        shown = f"[{shown}]" if ":" in shown else shown
        self.url = f"{asked.scheme}://{shown}:{self.port}/" + (f"#token={asked.token}" if asked.token else "")
        self._stopping = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="page sessions", daemon=True)
        self._sweeper.start()

    def _sweep(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            self.sessions.end_silent()

    def stop(self) -> None:
        """Takes no more, ends what is under way, and removes every file."""
        self._stopping.set()
        self._http.stop()
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
