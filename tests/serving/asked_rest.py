"""The REST side of a server, asked over HTTP; and byte by byte, as no client would."""

import contextlib
import http.client
import json
import socket
import time
from typing import NamedTuple


class Answer(NamedTuple):
    status: int
    text: str

    @property
    def json(self):
        return json.loads(self.text)


def ask(port: int, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """One request on a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): v for name, v in headers.items()})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as line:
        return line.getsockname()[1]


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def said(line: socket.socket) -> bytes:
    """All that the other side says until it hangs up."""
    content = b""
    with contextlib.suppress(ConnectionError):
        while piece := line.recv(65536):
            content += piece
    return content


def is_hung_up(line: socket.socket) -> bool:
    """Whether the other side has ended a connection on which it has nothing to say."""
    line.setblocking(False)
    try:
        return not line.recv(1)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def wait_until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def value(page: str, series: str) -> float:
    """Of a series, as the page of metrics has it; 0 where it is not there."""
    found = [line.rpartition(" ")[2] for line in page.splitlines() if line.startswith(f"{series} ")]
    return float(found[0]) if found else 0
