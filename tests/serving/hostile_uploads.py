"""Uploads that a page should not get, as a stranger's program or a person's mistake sends them; seeded."""

import functools
import gzip
import io
import itertools
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import nibabel
import numpy as np
from asked_page import Asked

REFUSED = frozenset({400, 404, 408, 409, 411, 413, 415, 421, 422, 431})
TOLD_LATER = frozenset({200, 409, 422})  # what is wrong with voxels is told when they are read


class Upload(NamedTuple):
    """One attempt: what it is, how it is sent, and the statuses that are a clean answer (None: hung up)."""

    title: str
    send: Callable[[Asked, str], int | None]
    clean: frozenset[int | None]


def _image(shape=(6, 6, 6), change: Callable[[nibabel.Nifti1Header], None] = lambda header: None) -> bytes:
    image = nibabel.Nifti1Image(np.ones(shape, np.int16), np.eye(4))
    change(image.header)
    return image.to_bytes()


@functools.cache
def _zeros(mebibytes: int, head: bytes = b"") -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(head)
        for _ in range(mebibytes):
            file.write(bytes(2**20))
    return packed.getvalue()


def _claiming(shape: tuple[int, ...]) -> bytes:
    """A header that promises so many voxels, and six to begin with."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    header.set_sform(np.eye(4), 1)
    return header.binaryblock + bytes(10)


def _put(name: str, content: bytes, clean=REFUSED) -> Upload:
    return Upload(
        f"{name[:40]!r}, {len(content)} bytes", lambda page, s: page.put(s, name, content)[0], frozenset(clean)
    )


def _names(draw: random.Random) -> Iterator[Upload]:
    sound = _image()
    bad = (
        "../flair.nii.gz",
        "../../../../tmp/owned.nii.gz",
        "/etc/owned.nii.gz",
        "a/../../t1.nii",
        "./t1.nii",
        "a//t1.nii",
        "..\\..\\t1.nii",
        "C:\\t1.nii",
        "C:t1.nii",
        ".hidden.nii.gz",
        ".ssh/authorized_keys.nii",
        "t1\0.nii",
        "t1\n.nii",
        "\x1b[2Jt1.nii",
        "",
        "/",
        "..",
        ".",
        "a" * 300 + ".nii",
        "é" * 100 + ".nii",
        "/".join("abcdefgh") + "/t1.nii",
        "\u202eiin.1t/../x.nii",
        "%2e%2e/t1.nii/..",
    )
    for name in itertools.cycle(bad):
        yield _put(name, sound)
        yield Upload(
            "a name of half a character",
            lambda page, s: page.ask("PUT", f"{s}/file?name=%ed%a0%80{draw.randrange(9)}/../t1.nii", sound)[0],
            REFUSED,
        )
        yield Upload(
            "two names, or none",
            lambda page, s: page.ask("PUT", f"{s}/file{draw.choice(['', '?name=a.nii&name=b.nii'])}", sound)[0],
            REFUSED,
        )


def _types(draw: random.Random) -> Iterator[Upload]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../owned.nii", b"x")
    contents = (
        b"<!DOCTYPE html><html><script>alert(1)</script></html>",
        b"  <html></html>",
        b"<?xml version='1.0'?><x/>",
        gzip.compress(b"<html>packed</html>" * 30),
        b"%PDF-1.7 ...",
        b"\x89PNG\r\n\x1a\n" + bytes(99),
        b"\x7fELF" + bytes(400),
        archive.getvalue(),
        b"n+1",
        b"\x1f\x8b",
        b"\x1f\x8b\x08\x00" + bytes(50),
        b"#!/bin/sh\nrm -rf /\n",
        b"",
    )
    for content in itertools.cycle(contents):
        yield _put(f"{draw.randrange(9**6)}_t1.nii.gz", content)
        yield _put(
            f"scan.{draw.choice(['exe', 'svg', 'html', 'mha', 'nrrd', 'zip', 'py', 'nii.gz.html'])}", content
        )
        yield _put(f"{draw.randrange(9**6)}_t2.nii", draw.randbytes(draw.randrange(1, 5000)), TOLD_LATER)
        yield _put("dataset.json", b"[" * (2**20 + 1))


def _damaged(draw: random.Random) -> Iterator[Upload]:
    sound = gzip.compress(_image((20, 20, 20)), mtime=0)
    while True:
        cut = draw.randrange(20, len(sound))
        yield _put("cut_t1.nii.gz", sound[:cut])
        yield _put("twice_t1.nii.gz", gzip.compress(sound))
        flipped = bytearray(sound)
        flipped[draw.randrange(12, len(flipped))] ^= 1 << draw.randrange(8)
        yield _put("flipped_t1.nii.gz", bytes(flipped), TOLD_LATER)
        header = bytearray(_image())
        for _ in range(draw.randrange(1, 40)):
            header[draw.randrange(348)] = draw.randrange(256)
        yield _put("header_t1.nii", bytes(header), TOLD_LATER | {413})
        yield _put("promise_t1.nii", _claiming((30000, 30000, 30000)), TOLD_LATER)
        yield _put("promise_t1.nii.gz", gzip.compress(_claiming((32767, 32767, 32767))), TOLD_LATER)


def _bombs(draw: random.Random) -> Iterator[Upload]:
    while True:
        yield _put("bomb_flair.nii.gz", _zeros(700, _claiming((1000, 1000, 700))))
        yield _put("bomb_t1.nii.gz", _zeros(700))
        yield _put("bomb_t2.nii.gz", gzip.compress(_zeros(700, _claiming((1000, 1000, 700))), 1))
        yield _put("members_t1.nii.gz", _zeros(60, _claiming((1000, 1000, 60))) * draw.randrange(6, 9))


def _lengths(draw: random.Random) -> Iterator[Upload]:
    sound = _image()

    def head(page: Asked, session: str, *lines: str) -> bytes:
        first = f"PUT {session}/file?name={draw.randrange(9**6)}_t1.nii HTTP/1.1"
        own = [f"{name}: {value}" for name, value in page.own.items()]
        return "\r\n".join([first, *own, *lines, "", ""]).encode()

    def sent(*lines: str, body: bytes = sound, **how) -> Callable[[Asked, str], int | None]:
        return lambda page, session: page.raw(head(page, session, *lines) + body, **how)

    hung_up = REFUSED | {None}
    while True:
        yield Upload("no length", sent(), hung_up)
        yield Upload("a length below 0", sent("Content-Length: -5"), hung_up)
        yield Upload("a length that is a word", sent("Content-Length: ten"), hung_up)
        yield Upload("two lengths", sent("Content-Length: 5", "Content-Length: 9"), hung_up)
        yield Upload("in chunks", sent("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), hung_up)
        yield Upload("length and chunks", sent("Content-Length: 3", "Transfer-Encoding: chunked"), hung_up)
        yield Upload("a length of 8 EiB", sent(f"Content-Length: {2**63}"), hung_up)
        yield Upload("a length of 5000 digits", sent(f"Content-Length: {'9' * 5000}"), hung_up)
        yield Upload(
            "half, then gone", sent(f"Content-Length: {len(sound) * 2}", stay=False), frozenset({None})
        )
        yield Upload("half, then silence", sent(f"Content-Length: {len(sound) * 2}"), hung_up)
        yield Upload(
            "half a head, then gone", lambda page, s: page.raw(b"PUT /sess", stay=False), frozenset({None})
        )
        yield Upload("half a head, then silence", lambda page, s: page.raw(b"PUT /sess"), hung_up)
        yield Upload("no HTTP", lambda page, s: page.raw(draw.randbytes(200) + b"\r\n\r\n"), hung_up)
        yield Upload("a head of 200 kB", sent("X-Long: " + "x" * 200_000), hung_up)
        yield Upload(
            "compressed on its way", sent("Content-Encoding: gzip", "Content-Length: 3", body=b"abc"), hung_up
        )


def _strangers(draw: random.Random) -> Iterator[Upload]:
    sound = _image()

    def put(clean: set[int], **headers: str | None) -> Upload:
        return Upload(
            str(headers), lambda page, s: page.put(s, "t1.nii", sound, **headers)[0], frozenset(clean)
        )

    while True:
        for host in ("evil.example", "127.0.0.1.evil.example:80", "127.0.0.1", "", "localhost:1"):
            yield put({421, 400}, Host=host)
        for origin in ("https://evil.example", "null", "http://127.0.0.1", "file://", None):
            yield put({403}, Origin=origin)
        yield Upload(
            "no session", lambda page, s: page.put("/sessions/nobody", "t1.nii", sound)[0], frozenset({404})
        )
        yield Upload(
            "a path", lambda page, s: page.put("/sessions/..%2f..", "t1.nii", sound)[0], frozenset({404})
        )
        for body in (
            b"[" * 60_000,
            b"{}" * 60_000,
            b"\xff",
            b"[]",
            b'{"scans": 3}',
            b'{"scans": {"t1": ["x"]}}',
        ):
            yield Upload(f"segment {body[:12]!r}", _segment(body), REFUSED)
        names = {"scans": {draw.choice(["t1", "../t1"]): draw.choice(["../../etc/passwd", "/etc/passwd"])}}
        yield Upload("segment another's file", _segment(json.dumps(names).encode()), REFUSED)


def _segment(body: bytes) -> Callable[[Asked, str], int | None]:
    return lambda page, session: page.ask("POST", f"{session}/segment", body)[0]


def uploads(count: int, seed: int = 0) -> list[Upload]:
    """So many, of all kinds in turn."""
    draw = random.Random(seed)
    kinds = [
        kind(random.Random(draw.random())) for kind in (_names, _types, _damaged, _lengths, _strangers, _bombs)
    ]
    return [next(kind) for kind in itertools.islice(itertools.cycle(kinds), count)]
