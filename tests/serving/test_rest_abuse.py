"""The REST port under those who mean harm: it stays bounded, and who asks rightly is answered."""

import contextlib
import itertools
import logging
import time

import numpy as np
import psutil
import pytest
import tiny_model
from asked_rest import ask, connected, is_hung_up, said, wait_until

from serving import server
from serving.rest import http_port

MIB = 2**20
METRICS = "/monitoring/prometheus/metrics"
METADATA = b"GET /v1/models/tiny/metadata HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    base = tmp_path_factory.mktemp("served") / "tiny"
    tiny_model.write(base)
    with server.start(base, rest_api_port=0) as running:
        yield running.rest_port


@pytest.fixture
def quick(monkeypatch):
    """Looks for connections that nothing comes of, more often."""
    monkeypatch.setattr(http_port, "_LOOK_S", 1)


def works(port) -> bool:
    return ask(port, "/v1/models/tiny").status == 200


def held() -> int:
    return psutil.Process().memory_info().rss


@pytest.mark.parametrize(
    "content",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
        b"GET /v1/models/tiny HTTP/1.1\r\n\r\n",  # no Host
        b"GET  /v1/models/tiny  HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nzz",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # a TLS client's hello
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_a_head_that_is_none_or_too_long_is_refused_and_hung_up_on(port, content, caplog):
    before = held()
    with connected(port) as line:
        with contextlib.suppress(ConnectionError):  # hung up on before all was sent
            line.sendall(content)
        answer = said(line)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))
    assert held() - before < 20 * MIB and works(port)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_five_hundred_odd_requests_are_answered_cleanly_and_grow_no_metrics(port, caplog):
    random = np.random.default_rng(0)
    odd = (
        b"/",
        b"%",
        b"%00",
        b"..",
        b"\xff",
        b":",
        b"?",
        b"#",
        b"tiny",
        b"labels",
        b"versions",
        b"9",
        b"metadata",
    )
    for number in range(500):
        parts = [odd[int(n)] for n in random.integers(len(odd), size=int(random.integers(1, 9)))]
        target = b"/v1/models/" + b"x%d" % number + b"".join(parts)
        method = (b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS")[int(random.integers(5))]
        with connected(port) as line:
            line.sendall(method + b" " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            status = said(line)[:12]
        assert status in (b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 501", b"HTTP/1.1 200"), (target, status)
    names = {text.partition('"')[0] for text in ask(port, METRICS).text.split('model_name="')[1:]}
    assert names <= {"", "tiny", "not_served"}
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_half_heads_keep_nobody_out_and_are_hung_up_on(port, quick):
    beginnings = (b"", b"G", METADATA[:-4], METADATA[:-2], METADATA + METADATA[:-2])
    with contextlib.ExitStack() as open_lines:
        lines = [open_lines.enter_context(connected(port)) for _ in range(40)]
        for line, begun in zip(lines, itertools.cycle(beginnings), strict=False):
            line.sendall(begun)
        assert works(port)
        for _ in range(6):  # a byte now and then makes no head
            time.sleep(0.5)
            for line in lines[1::5]:
                with contextlib.suppress(OSError):
                    line.sendall(b"E")
        wait_until(lambda: all(said_all(line) for line in lines))
    assert works(port)


def said_all(line) -> bool:
    """Whether the other side has hung up; takes what it said before."""
    line.setblocking(False)
    try:
        while line.recv(65536):
            pass
        return True
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_who_does_not_read_the_answers_is_hung_up_on(port, quick):
    before = held()
    with connected(port) as line:
        line.setblocking(False)
        with contextlib.suppress(BlockingIOError, ConnectionError):
            for _ in range(20_000):  # asks and asks, and reads nothing
                line.send(METADATA)
        assert works(port)

        def is_cut() -> bool:
            try:
                line.send(METADATA)
            except BlockingIOError:
                return False
            except ConnectionError:
                return True
            return False

        wait_until(is_cut)
    assert held() - before < 50 * MIB and works(port)


def test_connections_without_end_are_bounded_and_then_it_works_again(port, quick):
    most = 2 * http_port.CONNECTIONS
    with contextlib.ExitStack() as open_lines:
        lines = [open_lines.enter_context(connected(port)) for _ in range(most + 70)]
        wait_until(lambda: sum(map(is_hung_up, lines)) >= 70)
    wait_until(lambda: ask(port, "/v1/models/tiny").status == 200)


def test_a_body_without_end_is_let_go(port, monkeypatch):
    monkeypatch.setattr("serving.rest.rest_application._BODY_S", 1)
    before = held()
    with connected(port) as line:
        line.sendall(b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                line.sendall(bytes(MIB))
        answer = said(line)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 501")
    assert held() - before < 50 * MIB and works(port)


def test_a_body_that_turns_out_to_be_none_after_the_answer_is_hung_up_on(port, caplog):
    with connected(port) as line:
        line.sendall(b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert line.recv(12) == b"HTTP/1.1 501"
        line.sendall(b"no chunk\r\n")
        said(line)
    assert works(port)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_body_that_never_comes_is_not_waited_for(port, monkeypatch):
    monkeypatch.setattr("serving.rest.rest_application._BODY_S", 0.5)
    with connected(port) as line:
        line.sendall(b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nab")
        assert said(line).startswith(b"HTTP/1.1 501")
    assert works(port)
