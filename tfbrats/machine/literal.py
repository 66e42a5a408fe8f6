"""Folders whose names TensorFlow takes for a pattern, under a second name that it takes as it stands.

Where TensorFlow looks for a checkpoint or a SavedModel, `* ? [` and a backslash in the path are a pattern: a
run in `my [v1]` is saved for hours and found by nobody, and one in `run*` has its old checkpoints deleted
together with those of `run2`. Such a folder is given to it as a link in a private temporary folder.
"""

import functools
import os
import re
import tempfile

from tfbrats.errors import InputError
from tfbrats.machine import files, paths

_PATTERN = re.compile(r"[*?\[\\]")


def check(path: str | os.PathLike) -> None:
    """Raises InputError for a store's address that TensorFlow takes for a pattern: no link leads there."""
    if not files.is_local(path) and (letter := _PATTERN.search(os.fspath(path))):
        raise InputError(
            f"{path}: TensorFlow takes {letter[0]} in a store's address for a pattern. Choose another name."
        )


def folder(path: str | os.PathLike) -> str:
    """The same folder, which need not exist yet, by a name in which TensorFlow finds no pattern.

    Returns:
        `path` itself, or a link to it that lasts as long as this process.

    Raises:
        InputError: there can be no link.
    """
    path = _named(path)
    if not _PATTERN.search(path):
        return path
    check(path)
    return _link_to(files.canonical(path))


def file(path: str | os.PathLike) -> str:
    """As `folder`, of a file in one, or of what the names of several begin with."""
    path = _named(path)
    return files.join(folder(files.parent(path)), files.name(path)) if _PATTERN.search(path) else path


def _named(path: str | os.PathLike) -> str:
    return paths.direct(paths.local(path)) if files.is_local(path) else os.fspath(path)


@functools.cache
def _link_to(place: str) -> str:
    links = _links().name
    link = os.path.join(links, str(len(os.listdir(links))))
    os.symlink(place, link)
    return link


@functools.cache
def _links() -> tempfile.TemporaryDirectory:
    made = tempfile.TemporaryDirectory(prefix="tfbrats-names-")  # goes with the process
    if _PATTERN.search(made.name):
        raise InputError(
            f"{made.name}: temporary files lie in a folder whose name TensorFlow takes for a pattern. Set "
            "TMPDIR to another."
        )
    return made
