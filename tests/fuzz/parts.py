"""What the targets of fuzzing share: what a target is, sound files, and a second reader of gzip."""

import contextlib
import gzip
import io
import pathlib
import zlib
from collections.abc import Callable
from typing import NamedTuple

Try = Callable[[bytes], None]
CALL_S = 60
_PLAIN_BYTES = 2**22  # to which an input may be unpacked by the second reader


class Fault(AssertionError):
    """The code under a target did something that it is not to do."""


class Target(NamedTuple):
    """What is tried.

    Attributes:
        opened: sets it up below a folder; a context manager.
        seeds: sound inputs, from which others are made.
        guided_by: modules of which the search wants to reach every line.
    """

    opened: Callable[[pathlib.Path], contextlib.AbstractContextManager[Try]]
    seeds: Callable[[], list[bytes]]
    guided_by: tuple[str, ...]


def nifti_file(shape=(6, 5, 4), kind="<i2", change=lambda header: None) -> bytes:
    import nibabel
    import numpy as np

    array = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    image = nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    change(image.header)
    return image.to_bytes()


def gunzipped(content: bytes) -> bytes | None:
    """By the standard library; None where it refuses, or the result is long."""
    try:
        plain = gzip.GzipFile(fileobj=io.BytesIO(content)).read(_PLAIN_BYTES)
    except (EOFError, OSError, zlib.error):
        return None
    return plain if len(plain) < _PLAIN_BYTES else None
