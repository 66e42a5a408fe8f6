"""pydicom at work: imported when it is needed, silent, and in bounded memory whatever a file claims.

pydicom makes an object of 1.4 kB of eight bytes (an empty item of a sequence), unpacks deflated files whole,
and raises many kinds of errors, some of them only when a value is asked for. What it reads here is counted
first, and what it raises is an InputError.
"""

import contextlib
import importlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tfbrats.errors import InputError
from tfbrats.machine import files, stores

NAMES = (".dcm", ".ima", ".dicom")  # of files that are DICOM even without the standard's mark
_ITEMS = b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"  # an item's tag, little and big endian
_LONGEST = 100  # characters of a text that is shown; a description has 64
_silent = threading.RLock()
_PIXEL_DATA = 0x7FE00010


@dataclass
class Allowance:
    """How much of headers may still be read: of one file or of several.

    An enhanced image of 10,000 frames has some 30 MiB and 150,000 items.

    Attributes:
        bytes: of what is read; what is skipped counts little. Of each up to 25 bytes of memory are made.
        items: of sequences; of each 1.4 kB.
    """

    bytes: int = 64 * 2**20
    items: int = 400_000


class MissingPackageError(InputError):
    """A package is not installed that all of DICOM needs."""


def package(name: str) -> ModuleType:
    """pydicom, or highdicom, or a module of theirs.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            f"DICOM needs the package {name.partition('.')[0]}: {error}. Install it with\n"
            "  pip install 'tfbrats[dicom]'\nor pip install pydicom highdicom."
        ) from error


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """In the block, also as a decorator, pydicom and highdicom warn of no odd value: they would print it.

    It may be a patient's name. What matters of a header is checked here. One thread at a time: it is set for
    the whole process.
    """
    log = logging.getLogger("pydicom")  # warns a second time, to whatever handler a program has set up
    with _silent, warnings.catch_warnings():
        was = log.disabled
        warnings.simplefilter("ignore")
        log.disabled = True
        try:
            yield
        finally:
            log.disabled = was


@contextlib.contextmanager
def understood(what: str) -> Iterator[None]:
    """In the block, a header whose values are not as the standard asks for is an InputError; names `what`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # pydicom raises many kinds, of its own too
        raise InputError(
            f"{what}: a header is not as DICOM asks for ({type(error).__name__}: {shown(error)}). Send the "
            "series from the scanner or the archive again."
        ) from error


def shown(text: Any) -> str:
    """A header's text as a message may hold it: on one line, not long, without signs that steer a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text)[:_LONGEST])


class _Counted:
    """A file as pydicom reads it, and an InputError before it makes more of it than it may."""

    def __init__(self, file: Any, name: str, left: Allowance):
        self._file, self._name, self._left = file, name, left
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:  # to unpack all that follows
            raise InputError(
                f"{self._name}: its header is deflated, which is not read here. Unpack it first (dcmconv +te "
                "of DCMTK)."
            )
        if size > self._left.bytes:
            raise self._too_long()
        content = self._file.read(size)
        self._left.bytes -= len(content)
        self._left.items -= sum(map(content.count, _ITEMS))
        if self._left.items < 0:
            raise self._too_long()
        return content

    def _too_long(self) -> InputError:
        return InputError(
            f"{self._name}: its header is longer than that of any image, or says so. Copy it again, or leave "
            "it out."
        )


def header(path: str, tags: Sequence[str] | None = None, allowance: Allowance | None = None) -> Any:
    """A file's header without its pixels: these tags alone, or all.

    Args:
        allowance: what may be read of it, which gets less; None: what one header may have.

    Raises:
        InputError: it takes too much memory, or is deflated.
        Exception: what pydicom raises on what is damaged.
    """
    fs, inner = stores.located(path)
    with fs.open(inner, "rb") as file:
        counted = _Counted(file, files.name(path), allowance or Allowance())
        return package("pydicom").dcmread(
            counted, stop_before_pixels=True, specific_tags=tags, force=path.lower().endswith(NAMES)
        )


def image(path: str) -> Any:
    """A file with its pixels, and without what stands behind them. Its header has been read by `header`.

    Raises:
        InputError: there is no such file.
        Exception: what pydicom raises on what is damaged.
    """
    content, forced = io.BytesIO(files.read_bytes(path)), path.lower().endswith(NAMES)
    reader = package("pydicom.filereader")
    return reader.read_partial(content, stop_when=lambda tag, *_: tag > _PIXEL_DATA, force=forced)
