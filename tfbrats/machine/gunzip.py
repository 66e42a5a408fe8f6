"""Unpack a .nii.gz fast, and say what else its bytes are: a web page, nothing, cut off, packed twice."""

import gzip
import os

import numpy as np
from isal import igzip, isal_zlib

from tfbrats.errors import InputError
from tfbrats.machine import files

_PIECE_BYTES = 2**16  # of a .gz unpacked at a time
_DEFLATE_RATIO = 1032  # the most that it ever saves: a file that claims more is damaged
_GZIP = b"\x1f\x8b"


def unpacked(content: bytes, path: str | os.PathLike) -> bytes | memoryview:
    """The bytes of a .nii.gz unpacked; of a plain .nii as they are, whatever its name says.

    Raises:
        InputError: empty, a web page, truncated, damaged, or packed twice.
    """
    if not content:
        raise InputError(f"{path}: the file is empty. Copy it again.")
    if content.lstrip()[:1] == b"<":
        raise InputError(
            f"{path}: an HTML or XML page, not an image (a log-in or error page was saved under this "
            "name). Download it again."
        )
    if content[:2] != _GZIP:
        return content
    try:
        plain = _gunzipped(content)
    except (EOFError, isal_zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: truncated or damaged gzip data ({error}). Copy or download it again."
        ) from error
    if bytes(plain[:2]) == _GZIP:
        raise InputError(f"{path}: gzipped twice. Unpack it once (gunzip), and keep the .gz in its name.")
    return plain


def beginning(path: str | os.PathLike, size: int) -> bytes:
    """So many bytes of a file, unpacked; what is damaged further on is not noticed.

    Raises:
        InputError: as `unpacked`.
    """
    first = next(iter(files.read_chunks(path, _PIECE_BYTES)), b"")
    if first[:2] != _GZIP:
        return bytes(unpacked(first, path)[:size])
    try:
        return isal_zlib.decompressobj(wbits=31).decompress(first, size)
    except isal_zlib.error as error:
        raise InputError(
            f"{path}: truncated or damaged gzip data ({error}). Copy or download it again."
        ) from error


def name_note(content: bytes, path: str | os.PathLike) -> tuple[str, ...]:
    """What is to be told of a file whose name says otherwise than its bytes whether it is compressed."""
    packed = content[:2] == _GZIP
    if packed == files.name(path).lower().endswith(".gz"):
        return ()
    if packed:
        return ("gzip data, though its name does not end in .gz: nibabel and others refuse it",)
    return ("not compressed, though its name ends in .gz: nibabel and others refuse it",)


def _gunzipped(content: bytes) -> bytes | memoryview:
    """Piece by piece into one array of the size that the file's last bytes tell; the unusual goes a longer way.

    numpy asks the system for large pages, which bytes do not get: a fifth less time than `igzip.decompress`.
    """
    size = int.from_bytes(content[-4:], "little")
    if size <= _DEFLATE_RATIO * len(content):
        plain, filled = np.empty(size, np.uint8).data, 0
        member = isal_zlib.decompressobj(wbits=31)
        for start in range(0, len(content), _PIECE_BYTES):
            piece = member.decompress(content[start : start + _PIECE_BYTES])
            if member.unused_data or filled + len(piece) > size:
                break
            plain[filled : filled + len(piece)] = piece
            filled += len(piece)
            if member.eof and start + _PIECE_BYTES >= len(content):
                return plain
    return igzip.decompress(content)  # several members, zeros or something else behind, cut off, damaged
