"""What reaches the page: files, and requests behind its HTTP reader."""

import asyncio
import contextlib
import gzip
import json
import os
import pathlib
import shutil
from collections.abc import Iterator

from fuzz.parts import Fault, Try, nifti_file
from fuzz.scans import dicoms

_NAMES = ("t1.nii.gz", "t1.nii", "IM0001", "a/IM0001.dcm", "dataset.json", "name_mapping.csv", "flair.nii.gz")


def uploads() -> list[bytes]:
    """Number of a name, or 255, a length and a name; then the bytes of the file."""
    tables = [
        b'{"channel_names": {"0": "T1"}, "labels": {"background": 0}}',
        b"BraTS_2020_subject_ID,Grade\nx,HGG\n",
    ]
    named = [
        (0, gzip.compress(nifti_file(), 1)),
        (1, nifti_file()),
        *((2, one) for one in dicoms()),
        (4, tables[0]),
    ]
    seeds = [
        bytes([number]) + content
        for number, content in [*named, (5, tables[1]), (6, gzip.compress(nifti_file()))]
    ]
    own = [b"a/../t1.nii", "ä/t1.nii".encode(), b"imagesTr/a_0000.nii.gz", b"memory://t1.nii"]
    return seeds + [bytes([255, len(name)]) + name + nifti_file() for name in own]


@contextlib.contextmanager
def try_upload(folder: pathlib.Path) -> Iterator[Try]:
    """A file sent to the page, and the look at what lies there then."""
    from serving.page import intake, sessions, uploads
    from serving.page.limits import MIB, Limits, RefusedError
    from tfbrats.errors import InputError

    limits = Limits(voxels=100_000, unpacked_bytes=MIB, file_bytes=4 * MIB, session_bytes=16 * MIB, files=20)
    own = folder / "server"
    own.mkdir()

    async def pieces(content: bytes):
        for start in range(0, len(content), 999):
            yield content[start : start + 999]

    def attempt(content: bytes) -> None:
        number, content = (content[0], content[1:]) if content else (0, b"")
        if number == 255 and content:
            size = content[0]
            name, content = content[1 : 1 + size].decode(errors="surrogateescape"), content[1 + size :]
        else:
            name = _NAMES[number % len(_NAMES)]
        session = sessions.Session(str(own), limits)
        session.files.clear()
        try:
            with contextlib.suppress(RefusedError):
                asyncio.run(uploads.receive(session, name, len(content), pieces(content), limits))
            with contextlib.suppress(RefusedError):
                described = intake.described(session)
                json.dumps(described)
                for case in described["cases"]:
                    with contextlib.suppress(InputError):
                        intake.chosen(session, case["id"], None)
            lying = {
                os.path.relpath(os.path.join(at, one), session.scans)
                for at, _, some in os.walk(own)
                for one in some
            }
            if lying != set(session.files):
                raise Fault(f"{sorted(lying)} lie there, and {sorted(session.files)} are told")
        finally:
            session.ended = True
            session.clear()
        if list(own.iterdir()) or sorted(one.name for one in folder.iterdir()) != ["server"]:
            shutil.rmtree(own)
            raise Fault("something is left, or lies elsewhere")

    yield attempt


def heads() -> list[bytes]:
    """Method, path and headers as lines, then the body."""
    own = "Host: 127.0.0.1:8600\nOrigin: http://127.0.0.1:8600\n"
    sound = [
        f"GET / \n{own}Cookie: tfbrats_8600=a-token-of-24-signs-\n\n",
        f"POST /login \n{own}\n" + '{"token": "a-token-of-24-signs-"}',
        f"POST /sessions \n{own}Cookie: tfbrats_8600=a-token-of-24-signs-\n\n",
        f"GET /sessions/x/download/pdf \n{own}Sec-Fetch-Site: same-origin\n\n",
        f"POST /sessions/SESSION/segment \n{own}\n" + '{"case": null, "scans": {"t1": "t1.nii"}}',
        f"PUT /sessions/SESSION/file name=t1.nii\n{own}Content-Length: 3\n\nabc",
        f"GET /sessions/SESSION/scans \n{own}\n",
        f"DELETE /sessions/SESSION/file name=t1.nii\n{own}\n",
    ]
    return [text.encode() for text in sound]


@contextlib.contextmanager
def try_head(folder: pathlib.Path) -> Iterator[Try]:
    """A request to the page behind its HTTP reader: the guard, the addresses, bodies that are JSON."""
    from serving.page import guard, sessions
    from serving.page.application import Application
    from serving.page.limits import Limits

    class Work:
        def model(self):
            return {}

        def begin(self, *_):
            pass

        try_phantom = begin

    limits, token, cookie = Limits(sessions=10**9), "a-token-of-24-signs-", "tfbrats_8600"
    known = sessions.Sessions(str(folder), limits)
    session = known.begin()
    inner = Application(known, Work(), limits, token, cookie, False).starlette()
    app = guard.Guard(inner, ["127.0.0.1:8600"], "http", token, cookie)

    async def asked(scope, body: bytes) -> list:
        sent, left = [], [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            return left.pop() if left else {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        await app(scope, receive, send)
        return sent

    def attempt(content: bytes) -> None:
        content = content.replace(b"SESSION", session.id.encode())
        head, _, body = content.partition(b"\n\n")
        first, *lines = head.split(b"\n")
        method, path, query, *_ = (*first.split(b" "), b"", b"", b"")
        headers = [(n.strip().lower(), v.strip()) for n, _, v in (line.partition(b":") for line in lines)]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": method.decode("latin-1").upper(),
            "path": path.decode(errors="replace"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8600),
        }
        messages = asyncio.run(asked(scope, body))
        status = messages[0]["status"]
        if status >= 500:
            raise Fault(f"status {status}")
        names = {name.lower() for name, _ in messages[0]["headers"]}
        if b"content-security-policy" not in names:
            raise Fault("an answer without a policy")
        cookies = b"; ".join(value for name, value in headers if name == b"cookie")
        if (
            status == 200
            and path.startswith(b"/sessions")
            and token.encode() not in cookies
            and b"\\" not in cookies
        ):
            raise Fault("let in without the token")
        if known.of(session.id) is not session:
            raise Fault("the session is another")

    try:
        yield attempt
    finally:
        known.end_all()
