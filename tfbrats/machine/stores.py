"""fsspec with its second readings left out: a name is a name, and never a pattern, a chain or a home folder.

Its `url_to_fs` reads `~`, `file:` and `a::b`; `rm`, `mv` and `get` read `*`, `?` and `[`, and may so take other
files than the one that was named. What goes from file to file here does not.
"""

import contextlib
import os
import shutil

import fsspec

from tfbrats.errors import InputError
from tfbrats.machine import paths

DISK = fsspec.filesystem("file")


def located(path: str | os.PathLike) -> tuple[fsspec.AbstractFileSystem, str]:
    """A file system, `DISK` or a store's, and the path in it: on the disk an absolute one.

    Raises:
        InputError: what the store needs is not installed, or no such store is known.
    """
    scheme = paths.scheme(path)
    if not scheme:
        return DISK, paths.absolute(path)
    if scheme not in paths.STORES:
        raise InputError(
            f"{path}: {scheme}:// is no store that is known here. Those that are: "
            f"{', '.join(sorted(paths.OPENED_BY))}."
        )
    address = scheme + os.fspath(path)[len(scheme) :]
    try:
        kind = fsspec.get_filesystem_class(scheme)
        # No cached listings: on gs:// they would hide what Beam's workers wrote since.
        fs = kind(**{"use_listings_cache": False, **kind._get_kwargs_from_urls(address)})
        return fs, kind._strip_protocol(address)
    except (ImportError, TypeError, ValueError) as error:
        cure = f" Install {paths.OPENED_BY[scheme]}." if scheme in paths.OPENED_BY else ""
        raise InputError(f"{path}: cannot be opened ({error}).{cure}") from error


def copy_down(fs: fsspec.AbstractFileSystem, inner: str, folder: str) -> None:
    """All files of a store's folder, into one on the disk.

    Raises:
        FileNotFoundError: the store has no such folder; or whatever the store raises.
    """
    content = fs.find(inner)
    if not content:
        raise FileNotFoundError(f"no such folder: {inner}")
    for path in content:
        target = os.path.join(folder, path.removeprefix(inner.rstrip("/")).lstrip("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        fs.get_file(path, target)


def move(fs: fsspec.AbstractFileSystem, source: str, target: str) -> None:
    """A file, or on the disk a folder too; replaces a file of that name."""
    if fs is DISK:
        os.replace(source, target)
    elif hasattr(fs, "mv_file"):
        fs.mv_file(source, target)
    else:
        fs.cp_file(source, target)
        fs.rm_file(source)


def remove(fs: fsspec.AbstractFileSystem, inner: str) -> None:
    """A file, or a folder with all it holds; nothing happens if it is not there."""
    with contextlib.suppress(FileNotFoundError):  # not there, or gone meanwhile
        if fs is not DISK:
            _remove_from_store(fs, inner)
        elif os.path.isdir(inner) and not os.path.islink(inner):
            shutil.rmtree(inner)
        else:
            os.remove(inner)


def _remove_from_store(fs: fsspec.AbstractFileSystem, inner: str) -> None:
    if not fs.isdir(inner):
        if fs.exists(inner):
            fs.rm_file(inner)
        return
    content = fs.find(inner, withdirs=True, detail=True)
    for path, info in sorted(content.items(), reverse=True):  # what lies in a folder before the folder
        with contextlib.suppress(FileNotFoundError):  # most stores know no folders beside their files
            if info["type"] == "directory":
                fs.rmdir(path)
            else:
                fs.rm_file(path)
    if "/" in inner:  # not the bucket
        with contextlib.suppress(FileNotFoundError):
            fs.rmdir(inner)
