"""The TFRecord frame: length, checksum, content. No TensorFlow."""

import os
import struct
from collections.abc import Iterator

import google_crc32c

from tfbrats.errors import InputError
from tfbrats.machine import files

REWRITE = "Run tfbrats prepare again: it rewrites only what does not match dataset.json."
FRAME_BYTES = 16  # what `frame` adds
_PIECE_BYTES = 2**20  # of a file, read at once


def _masked_crc(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(content: bytes) -> bytes:
    """One record as it lies in the file: length, its checksum, content, its checksum."""
    length = struct.pack("<Q", len(content))
    return length + _masked_crc(length) + content + _masked_crc(content)


def read_frames(
    path: str | os.PathLike, checksum: google_crc32c.Checksum | None = None
) -> Iterator[tuple[int, bytes | None]]:
    """(first byte in the file, content) of each record of a TFRecord file; None is what a damaged one holds.

    Keeps a record in memory, never the file. Behind a damaged length nothing tells where the next record
    begins: that record is the last.

    Args:
        checksum: takes in every byte that is read, so that one pass checks file and records.
    """
    pieces = files.read_chunks(path, _PIECE_BYTES)
    piece, at = b"", 0

    def take(count: int) -> bytes:
        nonlocal piece, at
        parts = [piece[at : at + count]]
        at += len(parts[0])
        missing = count - len(parts[0])
        while missing and (piece := next(pieces, b"")):
            if checksum is not None:
                checksum.update(piece)
            parts.append(piece[:missing])
            at = len(parts[-1])
            missing -= at
        return b"".join(parts)

    place = 0
    while head := take(12):
        length, length_crc = head[:8], head[8:]
        if _masked_crc(length) != length_crc:
            yield place, None
            return
        (size,) = struct.unpack("<Q", length)
        body, body_crc = take(size), take(4)
        sound = len(body) == size and _masked_crc(body) == body_crc
        yield place, body if sound else None
        place += FRAME_BYTES + size


def read_records(path: str | os.PathLike) -> Iterator[bytes]:
    """The contents of a TFRecord file, one in memory at a time.

    Raises:
        InputError: a checksum does not match, or the file ends inside a record.
    """
    for number, (place, content) in enumerate(read_frames(path)):
        if content is None:
            raise InputError(f"{path}: record {number} (at byte {place}) is damaged. {REWRITE}")
        yield content


def file_crc32c(path: str | os.PathLike) -> str:
    checksum = google_crc32c.Checksum()
    for piece in files.read_chunks(path):
        checksum.update(piece)
    return checksum.hexdigest().decode()
