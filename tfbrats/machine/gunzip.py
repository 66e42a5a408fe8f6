"""Unpack a .nii.gz fast, and say what else its bytes are: a web page, nothing, cut off, packed twice."""

import contextlib
import gzip
import os
import re

import deflate
from isal import igzip, isal_zlib

from tfbrats.errors import InputError
from tfbrats.machine import files

_PIECE_BYTES = 2**16  # of a .gz unpacked at a time
_DEFLATE_RATIO = 1032  # the most that it ever saves: a file that claims more is damaged
_GZIP = b"\x1f\x8b"
# How a further member would begin: deflate is the only method that there is, of eight flags three are reserved.
# Three bytes alone are found by chance in one file of twenty.
_MEMBER = re.compile(_GZIP + rb"\x08[\x00-\x1f]")


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
    """One member that is all of the file by libdeflate, in half of ISA-L's time; the unusual goes a longer way.

    libdeflate looks at the first member alone: nothing may look like another one, and the file's last bytes
    must be the checksum and the length of what came out.
    """
    checksum, size = (int.from_bytes(four, "little") for four in (content[-8:-4], content[-4:]))
    # No size: nothing was packed, or zeros lie behind.
    if 0 < size <= _DEFLATE_RATIO * len(content) and not _MEMBER.search(content, 1):
        with contextlib.suppress(deflate.DeflateError):
            plain = deflate.gzip_decompress(content, size)
            if len(plain) == size and deflate.crc32(plain) == checksum:
                return memoryview(plain).toreadonly()
    return igzip.decompress(content)  # several members, zeros or something else behind, cut off, damaged
