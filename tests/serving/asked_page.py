"""The page asked over HTTP as its own script asks it, and as a stranger's might."""

import contextlib
import http.client
import json
import os
import pathlib
import socket
import time
import urllib.parse
from typing import Any

from serving.connection import Client
from serving.page import door, web
from serving.page.limits import Limits

ANYWHERE = door.Door(port=0)
QUICK = Limits(read_s=1, silent_s=900, crowded_s=900)


class Asked:
    """One page on this machine. Each request has a connection of its own; threads may share it."""

    def __init__(self, port: int):
        self.port = port
        self.own = {"Host": f"127.0.0.1:{port}", "Origin": f"http://127.0.0.1:{port}"}

    def ask(self, method: str, path: str, body: Any = None, headers: dict | None = None) -> tuple[int, Any]:
        """Status and content: parsed where it is JSON, else bytes. A header of None is left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        sent = {name: value for name, value in {**self.own, **(headers or {})}.items() if value is not None}
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in sent:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        is_json = answer.headers.get_content_type() == "application/json" and path.find("download") < 0
        return answer.status, json.loads(content) if is_json else content

    def raw(self, content: bytes, then_s: float = 0, stay: bool = True) -> int | None:
        """The status that such bytes are answered with; None where the connection just ends.

        Args:
            then_s: seconds between the first half and the second.
            stay: wait for the answer, else hang up.
        """
        half = len(content) // 2 if then_s else len(content)
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(content[:half])
            if then_s:
                time.sleep(then_s)
                connection.sendall(content[half:])
            if not stay:
                return None
            try:
                answer = connection.recv(65536)
            except ConnectionError:
                return None
        return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else None

    def begin(self) -> str:
        """A session's path."""
        status, content = self.ask("POST", "/sessions")
        assert status == 200, content
        return f"/sessions/{content['id']}"

    def put(self, session: str, name: str, content: bytes, **headers: str | None) -> tuple[int, Any]:
        return self.ask("PUT", f"{session}/file?name={urllib.parse.quote(name, safe='')}", content, headers)

    def segmented(self, session: str, **chosen: Any) -> dict[str, Any]:
        """What has become of a case once it is over."""
        status, content = self.ask("POST", f"{session}/segment", json.dumps(chosen).encode())
        assert status == 202, content
        while True:
            status, work = self.ask("GET", session)
            assert status == 200, work
            if work["stage"] is None:
                return work
            time.sleep(0.05)


@contextlib.contextmanager
def opened(served, parent, asked=ANYWHERE, limits=QUICK):
    """A page of a served model, and how it is asked."""
    client = Client(f"{served.address}/{served.model_name}")
    with web.Page(client, asked, limits, os.fspath(parent)) as page:
        yield page, Asked(page.port)


def sent(page, folder, below=True) -> str:
    """A session that has been sent every file of a folder, with the folder's name before theirs or without."""
    session = page.begin()
    for path in sorted(folder.iterdir()):
        name = f"{folder.name}/{path.name}" if below else path.name
        status, content = page.put(session, name, path.read_bytes())
        assert status == 200, content
    return session


def held(folder: pathlib.Path) -> list[str]:
    """Files and folders below a folder; without locks, and the folders that servers have."""
    return [
        str(path) for path in folder.rglob("*") if path.name != ".lock" and not path.name.startswith("server-")
    ]


def is_left(folder: pathlib.Path, seconds: float = 60) -> bool:
    """Whether something is still there after a while: work that was under way ends by itself."""
    limit = time.monotonic() + seconds
    while held(folder) and time.monotonic() < limit:
        time.sleep(0.05)
    return bool(held(folder))
