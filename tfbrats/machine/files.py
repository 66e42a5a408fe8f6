"""One opener for every path: a local folder, gs://bucket/..., or memory:// in tests (fsspec).

Everything written here is written whole under a temporary name and then renamed, so that a reader
never sees half a file under its final name.
"""

import contextlib
import datetime
import errno
import io
import json
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import IO, Any

import fsspec

from tfbrats.errors import InputError
from tfbrats.machine import paths, stores

PARTIAL = ".partial"  # part of every temporary name

# What the person can mend; anything else that a disk raises is not said to be their mistake.
_REFUSED = (
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,  # on writing: a place that takes no new files, as /proc
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
    errno.EROFS,
)


def join(*parts: str | os.PathLike) -> str:
    """Parts of a path, local or a store's, as one path."""
    return posixpath.join(*(os.fspath(part) for part in parts))


def name(path: str | os.PathLike) -> str:
    return posixpath.basename(os.fspath(path).rstrip("/"))


def parent(path: str | os.PathLike) -> str:
    return posixpath.dirname(os.fspath(path).rstrip("/"))


def exists(path: str | os.PathLike) -> bool:
    fs, inner = stores.located(path)
    return fs.exists(inner)


def is_folder(path: str | os.PathLike) -> bool:
    fs, inner = stores.located(path)
    return fs.isdir(inner)


def is_local(path: str | os.PathLike) -> bool:
    return not paths.scheme(path)


def names_in(folder: str | os.PathLike) -> list[str]:
    """Names of the files and folders right in a folder, sorted; none where there is no such folder."""
    fs, inner = stores.located(folder)
    with _reached(folder):
        return sorted(map(name, fs.ls(inner, detail=False))) if fs.isdir(inner) else []


def canonical(path: str | os.PathLike) -> str:
    """One spelling for each place: absolute, and on the disk without links."""
    fs, inner = stores.located(path)
    return os.path.realpath(inner) if is_local(path) else fs.unstrip_protocol(inner)


def size(path: str | os.PathLike) -> int:
    fs, inner = stores.located(path)
    return int(fs.size(inner))


def stamp(path: str | os.PathLike) -> str | None:
    """What tells, without reading it, that a file was replaced: another text then. None where there is none."""
    fs, inner = stores.located(path)
    with contextlib.suppress(FileNotFoundError):
        return fs.ukey(inner) if fs.exists(inner) else None
    return None


def walk(folder: str | os.PathLike) -> dict[str, int]:
    """Every file under `folder`, as full path -> size in bytes, sorted by path.

    Links to folders are followed: a subset of a data set is often a folder of links.

    Raises:
        InputError: the folder does not exist, or one inside cannot be read, or a store does not answer.
    """
    fs, inner = stores.located(folder)
    with _reached(folder):
        if not fs.isdir(inner):
            if fs.exists(inner):
                raise InputError(f"{folder}: a file; expected a folder. Give the one that it lies in.")
            raise InputError(f"{folder}: no such folder.")
        stored = {} if fs is stores.DISK else fs.find(inner, detail=True)
    if fs is stores.DISK:
        return dict(sorted(_walk_local(inner)))
    return {fs.unstrip_protocol(path): int(info["size"] or 0) for path, info in sorted(stored.items())}


@contextlib.contextmanager
def _reached(path: str | os.PathLike) -> Iterator[None]:
    """Names the place when a store does not answer, or refuses; each store's library has errors of its own."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if is_local(path):
            raise
        raise InputError(
            f"{path}: cannot be listed ({type(error).__name__}: {error}). Check the name, the network, and "
            "that you are signed in with access to it (gs://: gcloud auth application-default login)."
        ) from error


def _walk_local(folder: str) -> Iterator[tuple[str, int]]:
    def unreadable(error: OSError):
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}). Change its permissions.")

    seen = set()  # a link may lead back to where it lies
    for here, subfolders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        if os.path.realpath(here) in seen:
            subfolders.clear()
            continue
        seen.add(os.path.realpath(here))
        for path in (os.path.join(here, entry) for entry in names):
            with contextlib.suppress(FileNotFoundError):  # renamed by a writer meanwhile, or a dead link
                yield path, os.stat(path).st_size


def read_bytes(path: str | os.PathLike) -> bytes:
    """The whole file.

    Raises:
        InputError: it is not there or cannot be read.
    """
    fs, inner = stores.located(path)
    try:
        return fs.cat_file(inner)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file.") from error
    except (OSError, PermissionError) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error


def read_chunks(path: str | os.PathLike, size: int = 2**24) -> Iterator[bytes]:
    """The file piece by piece, `size` bytes at a time. Errors as `read_bytes`."""
    fs, inner = stores.located(path)
    try:
        with fs.open(inner, "rb") as file:
            while piece := file.read(size):
                yield piece
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file.") from error
    except (OSError, PermissionError) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error


@contextlib.contextmanager
def on_disk(folder: str | os.PathLike) -> Iterator[str]:
    """A folder as libraries need it that know no stores: itself, or a copy that goes with the block.

    Raises:
        InputError: the store does not answer, or has no such folder.
    """
    fs, inner = stores.located(folder)
    if fs is stores.DISK:
        yield inner
        return
    with tempfile.TemporaryDirectory(prefix="tfbrats-") as copy:
        with _reached(folder):
            stores.copy_down(fs, inner, copy)
        yield copy


def read_text(path: str | os.PathLike) -> str:
    """A file that a person wrote, without the mark that some editors put first. Errors as `read_bytes`.

    Raises:
        InputError: it is no text in UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no text in UTF-8 ({error.reason}). Save it as UTF-8.") from error


def read_json(path: str | os.PathLike) -> Any:
    """What a JSON file holds. Errors as `read_bytes`.

    Raises:
        InputError: it is no JSON.
    """
    content = read_bytes(path)
    try:
        return json.loads(content)
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}).") from error


def temporary_name(path: str | os.PathLike) -> str:
    """A fresh name beside `path`, hidden, for what is not finished yet."""
    return join(parent(path), f".{name(path)}{PARTIAL}-{uuid.uuid4().hex[:8]}")


@contextlib.contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
    """Turns what a disk refuses in the block into an InputError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise InputError(
            f"{path}: cannot be written ({error.strerror}: {error.filename}). Choose another place, or change "
            "its permissions."
        ) from error


def check_can_hold(folder: str | os.PathLike) -> None:
    """Raises InputError where no file can be written into `folder`, which need not exist yet.

    Makes nothing, so that hours of work can be spared. Of gs:// nothing is known beforehand.
    """
    if not is_local(folder):
        return
    path = os.path.abspath(stores.located(folder)[1])
    with explained(folder):
        while not os.path.lexists(path):
            path = os.path.dirname(path)
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


@contextlib.contextmanager
def writing(path: str | os.PathLike, check: Callable[[str], None] | None = None) -> Iterator[IO[bytes]]:
    """A binary file that appears as `path` when the block ends well, and not at all otherwise.

    `check`, if given, is called with the temporary path once the file is closed; if it raises, nothing
    appears.

    Raises:
        InputError: a file stands where a folder is wanted, or the place may not be written to.
    """
    fs, inner = stores.located(path)
    temporary = temporary_name(inner)
    with explained(path):
        fs.makedirs(fs._parent(inner), exist_ok=True)
        opened = fs.open(temporary, "wb")
    try:
        with opened as file:
            yield file
        if check is not None:
            check(temporary if fs is stores.DISK else fs.unstrip_protocol(temporary))
        with explained(path):
            rename(temporary, inner, fs)
    except BaseException:
        with contextlib.suppress(OSError):
            if fs.exists(temporary):
                fs.rm_file(temporary)
        raise


def rename(source: str, target: str, fs: fsspec.AbstractFileSystem | None = None) -> None:
    """Moves a file or a local folder, replacing a file of that name: in one step where the disk can."""
    if fs is None:
        fs, source = stores.located(source)
        _, target = stores.located(target)
    stores.move(fs, source, target)


def write_bytes(path: str | os.PathLike, content: bytes, check: Callable[[str], None] | None = None) -> None:
    with writing(path, check) as file:
        file.write(content)


_NO_LINKS = (errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # a disk without them


def create(path: str | os.PathLike, content: bytes) -> bool:
    """Writes a file, whole, where there is none of that name.

    On a disk, of two commands at one time only one does. A store takes the later one's.

    Returns:
        whether it was written.

    Raises:
        InputError: the place may not be written to.
    """
    fs, inner = stores.located(path)
    if fs is not stores.DISK:
        if fs.exists(inner):
            return False
        write_bytes(path, content)
        return True
    temporary = temporary_name(inner)
    with explained(path):
        os.makedirs(os.path.dirname(inner), exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(content)
            return _linked(temporary, inner)
        finally:
            remove(temporary)


def _linked(source: str, target: str) -> bool:
    """Gives a file another name, unless that is taken already."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            return False
        os.replace(source, target)  # another may have come between: such a disk can do no better
    return True


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Indented, keys in the order given, with a closing newline. Never as one text in memory."""
    with writing(path) as file, io.TextIOWrapper(file, "utf-8", newline="\n") as text:
        json.dump(content, text, indent=2)
        text.write("\n")


def remove(path: str | os.PathLike) -> None:
    """Deletes a file or a folder with all it holds; nothing happens if it is not there."""
    fs, inner = stores.located(path)
    stores.remove(fs, inner)


def sweep(paths: Iterable[str | os.PathLike], older_than_s: float) -> None:
    """Removes what killed commands have left of these files under temporary names.

    Args:
        older_than_s: what was written to since may be a living command's and stays; 0 where there is no other.
    """
    names_in: dict[str, set[str]] = {}
    for path in paths:
        names_in.setdefault(parent(path) or ".", set()).add(name(path))
    for folder, names in names_in.items():
        fs, inner = stores.located(folder)
        for entry in fs.ls(inner, detail=False) if fs.isdir(inner) else ():
            final, partial, _ = name(entry).removeprefix(".").partition(PARTIAL)  # .NAME.partial-12345678
            with contextlib.suppress(FileNotFoundError):  # finished meanwhile
                if partial and final in names and _age_s(fs, entry) >= older_than_s:
                    fs.rm_file(entry)


def _age_s(fs: fsspec.AbstractFileSystem, inner: str) -> float:
    age = datetime.datetime.now(datetime.UTC) - fs.modified(inner)
    return max(0.0, age.total_seconds())  # clocks differ


def clear(folder: str | os.PathLike, kept: Collection[str]) -> None:
    """Deletes a folder with all it holds but files of the names in `kept`; what links lead to stays too."""
    if not is_local(folder):
        for path in walk(folder) if is_folder(folder) else ():
            if name(path) not in kept:
                remove(path)
        return
    for inner, folders, names in os.walk(canonical(folder), topdown=False):
        links = [entry for entry in folders if os.path.islink(os.path.join(inner, entry))]
        for entry in (*names, *links):
            if entry not in kept:
                os.unlink(os.path.join(inner, entry))
        with contextlib.suppress(OSError):  # not empty: a kept file is in it
            os.rmdir(inner)


def free_bytes(folder: str | os.PathLike) -> int | None:
    """Free space on the disk that `folder` is or will be on; None where that has no meaning (gs://)."""
    if not is_local(folder):
        return None
    path = os.path.abspath(stores.located(folder)[1])
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free
