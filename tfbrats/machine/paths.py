"""What a person's path means: one reading, taken once, where it comes in; after that it is only handed on.

`scheme://` of a store that is known here is that store's; everything else is a name on this machine's disk,
each letter of it. A leading `~/` or `~user/` that the shell has left as it is, as in `--run=~/runs/a` or in a
YAML, is the home folder, as the shell would have had it; a folder called `~` stays that, and so does one called
`-x`.
"""

import argparse
import os
import re

from tfbrats.errors import InputError
from tfbrats.machine import surroundings

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_DISK = ("file", "local")  # schemes of the disk itself
# Stores that can be read and written, with what opens each.
OPENED_BY = {
    **dict.fromkeys(("gs", "gcs"), "tfbrats[gcp]"),
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("abfs", "abfss", "az"), "adlfs"),
}
_SECOND_NAMES = {"gcs": "gs"}  # TensorFlow and Beam know the first alone
_MEMORY = "memory"  # fsspec's, of this process: a command's is lost when it ends
STORES = frozenset((*OPENED_BY, _MEMORY))
_BUCKET = re.compile(r"[A-Za-z0-9$]")  # what its name begins with


def scheme(path: str | os.PathLike) -> str:
    """E.g. "gs"; "" where it is a path on the disk."""
    match = _SCHEME.match(os.fspath(path))
    return "" if match is None or match[1].lower() in _DISK else match[1].lower()


def local(path: str | os.PathLike) -> str:
    """A path on the disk without the `file://` that may stand before it.

    Raises:
        InputError: what stands behind `file://` is no place of this machine.
    """
    path = os.fspath(path)
    match = _SCHEME.match(path)
    if not match or match[1].lower() not in _DISK:
        return path
    place = path[match.end() :]
    inner = re.sub("^localhost/", "/", place, flags=re.IGNORECASE)
    if inner and not inner.startswith("/"):
        raise InputError(
            f"{path}: what stands between // and the next / is a machine, and this one has none of that name. "
            f"Write file:///{place} for /{place}, or ./{place} for a place in the working folder."
        )
    return inner


def absolute(path: str | os.PathLike) -> str:
    """The same place for a process in another working folder; a store's address as it is."""
    if scheme(path):
        return os.fspath(path)
    return os.path.abspath(direct(local(path)))


def direct(path: str) -> str:
    """The same place on the disk without a `..` behind a name.

    Behind a link to a folder, `..` is not the folder before it for the system; TensorFlow goes by the text.
    """
    parts = path.split("/")
    ups = [i for i, part in enumerate(parts) if part == ".." and set(parts[:i]) - {"", ".", ".."}]
    if not ups:
        return path
    return os.path.join(os.path.realpath("/".join(parts[: ups[-1] + 1])), *parts[ups[-1] + 1 :])


def given(text: str) -> str:
    """A path as a person gave it, as every reader and writer takes it.

    Raises:
        InputError: nothing can have this name, or two places could be meant.
    """
    if not local(text):
        raise InputError("an empty path. Name a folder or a file; the working folder is `.`.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{text!a}: a name that is not UTF-8, which neither a YAML nor TensorFlow can hold. Rename it."
        ) from error
    if control := re.search("[\x00-\x1f\x7f\x85\u2028\u2029]", text):
        raise InputError(
            f"{text!r}: holds {control[0]!r}, a line break or control character, which tears the lines of "
            "every list and message. Rename it."
        )
    if kind := scheme(text):
        return _in_store(text, kind)
    text = direct(_from_home(local(text)))
    return f"./{text}" if text.startswith(("~", "-")) else text  # for whoever reads it next


def _in_store(text: str, kind: str) -> str:
    inner = text[len(kind) + len("://") :]
    if kind == _MEMORY and not surroundings.is_command():
        return f"{kind}://{inner}"
    if kind not in OPENED_BY:
        raise InputError(
            f"{text}: {kind}:// is no store that is known here. Correct it (gs://bucket/folder), or write "
            f"./{text} for a folder of that name."
        )
    if not _BUCKET.match(inner):
        raise InputError(f"{text}: names no bucket. Write {kind}://bucket/folder.")
    return f"{_SECOND_NAMES.get(kind, kind)}://{inner}"


def _from_home(text: str) -> str:
    first, slash, _ = text.partition("/")
    if not slash or not first.startswith("~") or (expanded := os.path.expanduser(text)) == text:
        return text
    if os.path.lexists(first):
        raise InputError(
            f"{text}: a folder {first} lies here, and {first} is a home folder too. Write ./{text} or "
            f"{expanded}."
        )
    return os.path.join(os.getcwd(), expanded)


def argument(text: str) -> str:
    """`given` as the type of an option of argparse."""
    try:
        return given(text)
    except InputError as error:  # a ValueError, whose text argparse would drop
        raise argparse.ArgumentTypeError(str(error)) from error
