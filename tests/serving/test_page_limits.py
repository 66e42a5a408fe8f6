"""The page's limits as a stranger would get round them: each holds, and nobody else has to wait."""

import asyncio
import dataclasses
import json
import os
import pathlib
import socket
import threading
import time

import numpy as np
import pytest
from asked_page import Asked

from serving.page import intake, segmenting, sessions, uploads, web
from serving.page.application import Application
from serving.page.door import Door
from serving.page.guard import Guard
from serving.page.limits import MIB, Limits, RefusedError
from serving.rest import http_port
from tfbrats.cases import nifti, overlays
from tfbrats.errors import InputError


class Idle:
    """In the place of a model: nothing is segmented."""

    def model(self):
        return {"modalities": []}


@pytest.fixture
def session(tmp_path):
    return sessions.Session(str(tmp_path / "server"), Limits(session_bytes=MIB, files=3, spare_disk_bytes=0))


def scan(side=20) -> bytes:
    return nifti.to_bytes(np.zeros((side, side, side), np.uint8), nifti.new_grid((side, side, side)), "t1.nii")


def put(session, name, content, limits, size=None):
    async def pieces():
        yield content

    asyncio.run(uploads.receive(session, name, len(content) if size is None else size, pieces(), limits))


def lying_bytes(session) -> int:
    return sum(path.stat().st_size for path in pathlib.Path(session.scans).rglob("*") if path.is_file())


def test_a_file_that_is_sent_again_in_part_still_counts(session):
    """What lies there was forgotten, and its bytes were free for others."""
    limits, content = session._limits, scan()
    put(session, "t1.nii", content, limits)
    for cut, wrong in ((content[:9], len(content)), (b"<html>" * 99, None)):
        with pytest.raises(RefusedError):
            put(session, "t1.nii", cut, limits, wrong)
        assert sum(session.files.values()) == lying_bytes(session)
    assert not session.arriving


def test_what_is_replaced_lies_there_until_it_is_and_counts(session):
    limits, content = dataclasses.replace(session._limits, session_bytes=10_000), scan()
    session._limits = limits
    put(session, "t1.nii", content, limits)
    with pytest.raises(RefusedError, match="together"):
        put(session, "t1.nii", content, limits)
    assert list(session.files) == ["t1.nii"]


def test_files_on_their_way_count_among_the_files(session):
    for number in range(3):
        session.expect(f"{number}.nii", 10)
    with pytest.raises(RefusedError, match="3 files at most"):
        session.expect("more.nii", 10)


def test_the_disk_is_looked_at_again_while_a_file_arrives(session, monkeypatch):
    """Each of many files found room, for none of them was there yet."""
    monkeypatch.setattr(uploads, "_LOOK_BYTES", 1000)
    monkeypatch.setattr(uploads, "_check_size", lambda *_: None)
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 500}))
    with pytest.raises(RefusedError, match="no room") as caught:
        put(session, "t1.nii", scan(), session._limits)
    assert caught.value.status == 507 and not session.files and lying_bytes(session) == 0


def test_a_session_that_ends_while_a_file_is_put_there_leaves_no_folder(session, monkeypatch):
    def ended(part, path):
        session.ended = True
        session.clear()
        os.makedirs(os.path.dirname(path))  # as a thread that came too late
        raise FileNotFoundError(part)

    monkeypatch.setattr(uploads.os, "replace", ended)
    with pytest.raises(RefusedError, match="has ended"):
        put(session, "patient/t1.nii", scan(), session._limits)
    assert not os.path.exists(session.folder)


def test_a_dicom_file_that_claims_frames_below_0_makes_no_room(session):
    import dicom_files
    import pydicom

    folder = dicom_files.write(
        pathlib.Path(session.folder), dicom_files.scans((8, 7, 3))["t1"], dicom_files.affine()
    )
    path = next(folder.glob("IM*"))
    image = pydicom.dcmread(path)
    image.NumberOfFrames = -(10**9)
    image.save_as(path)
    with pytest.raises(RefusedError, match="NumberOfFrames"):
        put(session, "IM1", path.read_bytes(), session._limits)
    assert not session.voxels


def test_odd_values_of_a_header_are_not_logged(session, caplog, recwarn):
    """pydicom warns of a value that is none, and shows it: it may be a patient's name in the wrong place."""
    import dicom_files

    folder = dicom_files.write(
        pathlib.Path(session.folder), dicom_files.scans((8, 7, 3))["t1"], dicom_files.affine()
    )
    content = next(folder.glob("IM*")).read_bytes()
    name = b"1.2.826.0.1.3680043.8.498."
    put(session, "IM1", content.replace(name, b"Doe^Jane.1.3680043.8.498.."), session._limits)
    intake.described(session)
    assert "Doe" not in caplog.text and not [one for one in recwarn if "Doe" in str(one.message)]


def test_headers_of_dicom_count_over_all_files_of_a_session(session):
    import dicom_files

    folder = dicom_files.write(
        pathlib.Path(session.folder), dicom_files.scans((8, 7, 3))["t1"], dicom_files.affine()
    )
    content = next(folder.glob("IM*")).read_bytes()
    session.headers.bytes = 10_000
    with pytest.raises(RefusedError, match="longer than that of any image"):
        for number in range(99):
            put(session, f"IM{number % 2}", content, session._limits)


# --- nobody else waits ----------------------------------------------------------------------------------


def test_who_is_silent_and_busy_inside_keeps_no_other_waiting(tmp_path):
    """The list of sessions stays free while one of them cannot be ended yet."""
    known = sessions.Sessions(str(tmp_path), Limits(silent_s=0, sessions=9))
    silent, other = known.begin(), known.begin()
    with silent.lock:
        silent.heard, other.heard = 0, time.monotonic() + 99
        sweeper = threading.Thread(target=known.end_silent)
        sweeper.start()
        finder = threading.Thread(target=known.of, args=(other.id,))
        finder.start()
        finder.join(20)
        assert not finder.is_alive() and sweeper.is_alive()
    sweeper.join(20)
    assert len(known) == 1


def test_a_case_that_takes_long_to_be_read_keeps_no_request_waiting(session, monkeypatch):
    """Its session says that it is busy, and its lock is free."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_):
        begun.set()
        go_on.wait(60)
        raise InputError("no case")

    monkeypatch.setattr(intake, "chosen", slow)
    work = segmenting.Segmenting(client=None)
    ended = []

    def begin():
        try:
            work.begin(session, "case", None)
        except InputError as error:
            ended.append(error)

    thread = threading.Thread(target=begin)
    thread.start()
    begun.wait(60)
    with pytest.raises(RefusedError, match="being segmented"):
        session.expect("t1.nii", 5)
    go_on.set()
    thread.join(60)
    assert ended and session.work is None and not session.is_busy
    work._pool.shutdown()


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page of no model behind uvicorn, whose patience is short."""

    class Client:
        def close(self):
            pass

        def card(self):
            raise InputError("no model")

    with web.Page(Client(), Door(port=0), Limits(read_s=0.5), str(tmp_path / "page")) as running:
        monkeypatch.setattr(http_port, "_LOOK_S", 0.3)
        yield Asked(running.port)


def ends(connection: socket.socket, seconds=60) -> bool:
    """Whether the other side ends a connection on which a byte is sent now and then."""
    connection.settimeout(0.1)
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            connection.sendall(b"x")
            if not connection.recv(65536):
                return True
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize("head", ["GET /page.css HTTP/1.1", "POST /login HTTP/1.1"])
def test_a_body_that_comes_byte_by_byte_holds_no_connection(page, head):
    """64 of them, and nobody else was served: one needed no token for it."""
    lines = [head, *(f"{name}: {value}" for name, value in page.own.items()), "Content-Length: 1000000", "", ""]
    with socket.create_connection(("127.0.0.1", page.port)) as connection:
        connection.sendall("\r\n".join(lines).encode())
        assert ends(connection)
    assert page.ask("GET", "/page.css")[0] == 200


def test_whoever_takes_no_answer_is_left(page, monkeypatch):
    ended, lost = threading.Event(), http_port._Protocol.connection_lost

    def connection_lost(self, exc):
        lost(self, exc)
        ended.set()

    monkeypatch.setattr(http_port._Protocol, "connection_lost", connection_lost)
    lines = ["GET /page.js HTTP/1.1", *(f"{name}: {value}" for name, value in page.own.items()), "", ""]
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", page.port))
        # Answers that nobody reads fill first what the system keeps for them.
        connection.sendall("\r\n".join(lines).encode() * 1000)
        assert ended.wait(60)
    assert page.ask("GET", "/page.css")[0] == 200


# --- words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["\u20ac", "a;b", "a\r\nb", "", None, "x" * 201, ["a"]])
def test_what_can_be_no_token_is_refused_and_is_no_failure(tmp_path, token):
    application = Application(None, Idle(), Limits(), "a-token-of-24-signs-", "cookie", False)
    app = Guard(application.starlette(), ["h"], "http", "a-token-of-24-signs-", "cookie")
    sent, body = [], json.dumps({"token": token}).encode()

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        **{"type": "http", "method": "POST", "path": "/login", "query_string": b"", "root_path": ""},
        "headers": [(b"host", b"h"), (b"origin", b"http://h")],
    }
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 401 and b"set-cookie" not in dict(sent[0]["headers"])


def test_no_case_id_is_in_the_log(session, caplog):
    """It may be a patient's name; so may the folder that it came in."""
    work = segmenting.Segmenting(client=None)  # which fails
    done = session.work = segmenting.Work()
    work._done(session, done, None, "Doe_Jane")
    work._pool.shutdown()
    assert "a case failed" in caplog.text and "Doe_Jane" not in caplog.text and done.fault


def test_a_name_in_dollars_is_no_formula(tmp_path):
    """matplotlib refused the sheet of a case that was called so."""
    from matplotlib.figure import Figure

    with overlays.own_style():
        figure = Figure()
        figure.text(0, 0, "Case $\\frac{x$")
        figure.savefig(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").exists()
