"""What a person's path means: one reading, taken once, where it comes in; after that it is only handed on.

`scheme://` of a store that fsspec knows is that store's; everything else is a name on this machine's disk, each
letter of it. A leading `~/` or `~user/` that the shell has left as it is, as in `--run=~/runs/a` or in a YAML,
is the home folder, as the shell would have had it; a folder called `~` stays that, and so does one called `-x`.
"""

import argparse
import os
import re
import shlex

import fsspec

from tfbrats.command import InputError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_DISK = ("file", "local")  # schemes of the disk itself


def scheme(path: str | os.PathLike) -> str:
    """E.g. "gs"; "" where it is a path on the disk."""
    match = _SCHEME.match(os.fspath(path))
    return "" if match is None or match[1] in _DISK else match[1]


def local(path: str | os.PathLike) -> str:
    """A path on the disk without the `file://` that may stand before it."""
    path = os.fspath(path)
    match = _SCHEME.match(path)
    return path[match.end() :] if match and match[1] in _DISK else path


def absolute(path: str | os.PathLike) -> str:
    """The same place for a process in another working folder; a store's address as it is."""
    if scheme(path):
        return os.fspath(path)
    path = os.path.join(os.getcwd(), local(path))
    # Behind a link to a folder, `..` is not the folder before it.
    return path.rstrip("/") or "/" if ".." in path.split("/") else os.path.abspath(path)


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
        if kind not in fsspec.available_protocols():
            raise InputError(
                f"{text}: {kind}:// is no store that is known here. Correct it (gs://bucket/folder), or write "
                f"./{text} for a folder of that name."
            )
        return text
    text = _from_home(local(text))
    return f"./{text}" if text.startswith(("~", "-")) else text  # for whoever reads it next


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


def command_line(module: str, *arguments: str | os.PathLike) -> str:
    """`python -m MODULE ARGUMENTS`, to be pasted into a shell."""
    return shlex.join(["python", "-m", module, *map(os.fspath, arguments)])
