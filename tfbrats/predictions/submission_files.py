"""The files of an upload: read from a folder or an archive where they lie, and packed as an archive."""

import functools
import io
import os
import zipfile
import zlib
from collections.abc import Sequence

from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.predictions.submission import Member, Verdict
from tfbrats.terminal.wording import counted

ARCHIVE_SUFFIX = ".zip"


def member(path: str | os.PathLike, name: str | None = None) -> Member:
    """A file on the disk or on gs://."""
    return Member(name or files.name(path), functools.partial(files.read_bytes, path))


def members(location: str | os.PathLike) -> list[Member]:
    """All files of a folder or a ZIP archive, at any depth, whatever they are.

    Raises:
        InputError: neither of the two, a damaged archive, or one under another name than .zip.
    """
    if files.is_folder(location):
        root = paths.absolute(location) if files.is_local(location) else files.canonical(location)
        return [member(path, path.removeprefix(root).lstrip("/")) for path in files.walk(location)]
    content = files.read_bytes(location)
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(
            f"{location}: no ZIP archive, or a damaged one ({error}). Give a folder or a .zip; pack it again."
        ) from error
    if not files.name(location).endswith(ARCHIVE_SUFFIX):
        raise InputError(
            f"{location}: a ZIP archive, but an upload's name ends in {ARCHIVE_SUFFIX}, in small letters. "
            "Rename it."
        )
    return [
        Member(info.filename, functools.partial(_read_packed, archive, info))
        for info in sorted(archive.infolist(), key=lambda info: info.filename)
        if not info.is_dir()
    ]


def _read_packed(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"{info.filename}: damaged or encrypted in the archive ({error}). Pack it again."
        ) from error


def pack(members: Sequence[Member], verdict: Verdict, path: str | os.PathLike) -> None:
    """Writes the accepted segmentations as a ZIP archive, side by side; the same files give the same bytes.

    Raises:
        InputError: they were not accepted, or the place may not be written to.
    """
    if not verdict.accepted:
        raise InputError(f"{path}: not written, for {counted(len(verdict.faults), 'fault')}.")
    segmentations = [member for member in members if member.name in set(verdict.segmentations)]
    with files.writing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for member in sorted(segmentations, key=lambda member: files.name(member.name)):
            info = zipfile.ZipInfo(files.name(member.name))  # dated 1980, whenever it is packed
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, member.read())  # stored: gzip has been over it


def check_target(path: str | os.PathLike, source: str | os.PathLike | None = None) -> None:
    """Raises InputError where no archive should be written, so that hours of work can be spared.

    Args:
        source: the folder or archive that it is to be made of: neither replaced nor added to.
    """
    if not files.name(path).endswith(ARCHIVE_SUFFIX) or files.is_folder(path):
        raise InputError(f"{path}: expected the name of an archive that ends in {ARCHIVE_SUFFIX}.")
    if source is not None:
        target, checked = files.canonical(path), files.canonical(source)
        if target == checked:
            raise InputError(f"{path}: is the archive that is checked. Choose another name.")
        if target.startswith(checked.rstrip("/") + "/"):
            raise InputError(
                f"{path}: lies in the folder that is checked; the next check would refuse it for the archive. "
                f"Choose a place outside of {source}."
            )
    files.check_can_hold(files.parent(path) or ".")
