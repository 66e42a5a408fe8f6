"""HTTP/2 by hand: what a stranger may say on a server's port that no gRPC library would."""

import struct

import abuse
import numpy as np

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_HEADERS = 4


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    """Of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def begun_call(stream: int = 1, path: str = abuse.PREDICT, **more: str) -> bytes:
    """The headers of a call, none of them compressed (RFC 7541, section 6.2.2)."""
    headers = {
        **{":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"},
        **{"te": "trailers", "content-type": "application/grpc"},
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    return frame(HEADERS, END_HEADERS, stream, block)


def hello() -> bytes:
    """What a client of HTTP/2 says first."""
    return _PREFACE + frame(SETTINGS, 0, 0, b"")


def _random_frames(random: np.random.Generator) -> bytes:
    def one() -> bytes:
        kind, flags, stream = random.integers(0, 256, 3)
        content = random.bytes(int(random.integers(0, 100)))
        return frame(int(kind) % 12, int(flags), int(stream) % 8, content)

    return b"".join(one() for _ in range(int(random.integers(1, 6))))


def connection(random: np.random.Generator) -> bytes:
    """All that one connection to the port says."""
    length = int(random.integers(0, 2**32))
    said = (
        random.bytes(int(random.integers(1, 2000))),
        b"GET /v1/models/tiny HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.bytes(500),  # a TLS client's hello
        _PREFACE[: int(random.integers(1, len(_PREFACE)))],
        _PREFACE + random.bytes(int(random.integers(1, 200))),
        hello() + random.bytes(int(random.integers(1, 200))),
        hello() + _random_frames(random),
        hello() + begun_call() + _random_frames(random),
        hello() + begun_call() + frame(DATA, 0, 1, struct.pack(">BI", 0, length) + b"begun"),
        hello() + begun_call() + frame(DATA, 0, 1, struct.pack(">BI", 1, 9) + b"no gzip!!"),
        hello() + begun_call(grpc_encoding="gzip") + frame(DATA, 0, 1, struct.pack(">BI", 1, 9) + b"no gzip!!"),
    )
    return said[int(random.integers(len(said)))]
