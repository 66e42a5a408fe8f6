"""A file on its way from a browser to the session's folder: counted as it comes, looked at, or gone.

One file a request, its bytes alone in the body: nothing of it is ever held in memory as a whole. What a header
or a gzip says of its size is not believed; it is unpacked piece by piece and counted, before anything reads it.
"""

import asyncio
import contextlib
import gzip
import os
import shutil
from collections.abc import AsyncIterator

import anyio.to_thread
from isal import igzip, isal_zlib

from serving.page import names
from serving.page.limits import MIB, Limits, RefusedError
from serving.page.sessions import Session
from tfbrats.cases import nifti
from tfbrats.datasets.scan_names import nifti_stem
from tfbrats.dicom import headers, parsing
from tfbrats.errors import InputError
from tfbrats.predictions import own_scans

_TABLES = (".json", ".csv", ".tsv")  # that data sets keep beside their scans, e.g. dataset.json
_TABLE_BYTES = MIB
_SERIES = 8  # of DICOM, as large as the largest scan: a study has more than the four
_HEADER_BYTES = 4096  # of a NIfTI file, with what may stand between it and the voxels
_PIECE_BYTES = MIB
_LOOK_BYTES = 16 * MIB  # that arrive between looks at the disk


async def receive(
    session: Session, name: str, size: int | None, pieces: AsyncIterator[bytes], limits: Limits
) -> str:
    """Stores one file of a session; returns its name.

    Args:
        name: as the browser sent it.
        size: that it announced.
        pieces: of the body.

    Raises:
        RefusedError: its name, its size or what it holds is not taken. Nothing of it is left.
    """
    name = names.inside(name)
    _check_size(name, size, limits, session)
    # In threads: who works on the session may hold its lock for long, and all others' requests would wait too.
    await anyio.to_thread.run_sync(session.expect, name, size)
    part = os.path.join(session.folder, f"arriving-{os.urandom(8).hex()}")
    try:
        try:
            async with asyncio.timeout(limits.file_s):
                await _written(part, pieces, name, size, limits)
        except TimeoutError as error:
            raise RefusedError(408, f"{name}: it stopped arriving. Drop it again.") from error
        with _refusing(session):
            await anyio.to_thread.run_sync(_put, session, part, name, limits)
    except OSError as error:  # the disk, or a folder in the place of a file
        session.check_open()
        raise RefusedError(
            507, f"{name}: cannot be stored ({error.strerror}). Rename it, or try later."
        ) from error
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_end_arrival, session, part, name)
    session.check_open()
    return name


def _end_arrival(session: Session, part: str, name: str) -> None:
    with contextlib.suppress(OSError):
        os.remove(part)
    session.arrived(name)


async def let_pass(pieces: AsyncIterator[bytes], size: int | None, limits: Limits) -> None:
    """Reads what is left of a file that was refused: a browser that is still sending would not see why."""
    if size is None or size > limits.file_bytes:
        return
    with contextlib.suppress(TimeoutError, RuntimeError):  # read to its end already
        async with asyncio.timeout(limits.read_s):
            async for _ in pieces:
                pass


def remove(session: Session, name: str) -> None:
    """Forgets one file."""
    with session.lock:
        session.check_open()
        if name not in session.files or name in session.arriving or session.is_busy:
            raise RefusedError(404, f"{names.shown(name)}: there is no such file here.")
        del session.files[name]
        session.voxels.pop(name, None)
        os.remove(session.path_of(name))


def _check_size(name: str, size: int | None, limits: Limits, session: Session) -> None:
    if size is None:
        raise RefusedError(411, f"{name}: how long is it? Send Content-Length.")
    if size == 0:
        raise RefusedError(422, f"{name}: the file is empty. Copy it again.")
    most = _TABLE_BYTES if name.lower().endswith(_TABLES) else limits.file_bytes
    if size > most:
        raise RefusedError(413, f"{name}: {size / MIB:.0f} MiB, and {most / MIB:.0f} MiB a file are taken.")
    _check_disk(name, size, session.folder, limits)


def _check_disk(name: str, more: int, folder: str, limits: Limits) -> None:
    if shutil.disk_usage(folder).free - more < limits.spare_disk_bytes:
        raise RefusedError(507, f"{name}: the server's disk has no room for it. Tell whoever runs it.")


async def _written(part: str, pieces: AsyncIterator[bytes], name: str, size: int, limits: Limits) -> None:
    """Writes what comes, and no byte more than was announced. Raises TimeoutError: it stopped coming."""
    written = 0
    iterator = pieces.__aiter__()
    with open(part, "xb") as file:
        while True:
            try:
                piece = await asyncio.wait_for(anext(iterator), limits.read_s)
            except StopAsyncIteration:
                break
            if written // _LOOK_BYTES < (written + len(piece)) // _LOOK_BYTES:  # others write too
                _check_disk(name, size - written, os.path.dirname(part), limits)
            written += len(piece)
            if written > size:
                raise RefusedError(400, f"{name}: longer than it said. Drop it again.")
            file.write(piece)
    if written != size:
        raise RefusedError(400, f"{name}: {written} of {size} bytes came. Drop it again.")


@contextlib.contextmanager
def _refusing(session: Session):
    """What the intake finds wrong, as an answer; without the session's folder, which tells a person nothing."""
    try:
        yield
    except InputError as error:
        raise RefusedError(422, str(error).replace(f"{session.scans}/", "")) from error


def _put(session: Session, part: str, name: str, limits: Limits) -> None:
    """Moves a file that has come to its place, and looks at it there: messages name a file by its path.

    Raises:
        InputError: what it is, in the words of the package.
        RefusedError: no scan, or larger than it may be.
    """
    path = session.path_of(name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.replace(part, path)
    try:
        if nifti_stem(name) is not None:
            _check_nifti(path, name, limits)
        elif headers.is_dicom(path) or name.lower().endswith(parsing.NAMES):
            _check_dicom(session, path, name, limits)
        elif not name.lower().endswith(_TABLES):
            raise RefusedError(
                415,
                f"{name}: expected a .nii.gz or .nii file, or DICOM. Convert it first; see {own_scans.PAGE}.",
            )
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # the session has ended
            os.remove(path)
        raise


def _check_dicom(session: Session, path: str, name: str, limits: Limits) -> None:
    """Raises RefusedError: more voxels than there may be in a file, or in all of a session's."""
    (series,) = headers.series_below(path, allowance=session.headers)
    voxels = series.voxel_count
    with session.lock:
        session.voxels[name] = voxels
        if voxels > limits.voxels or sum(session.voxels.values()) > _SERIES * limits.voxels:
            del session.voxels[name]
            raise RefusedError(413, f"{name}: too many voxels. Drop the four series alone.")


def _check_nifti(path: str, name: str, limits: Limits) -> None:
    """Raises InputError: no NIfTI file, or damaged; RefusedError: larger than it may be."""
    grid = nifti.read_grid(path)
    most = min(limits.unpacked_bytes, limits.voxels * grid.header.get_data_dtype().itemsize + _HEADER_BYTES)
    if _unpacked_bytes(path, most) > most:
        raise RefusedError(
            413,
            f"{name}: it unpacks to more than {most / MIB:.0f} MiB; files of up to {limits.voxels / 1e6:.0f} "
            "million voxels are taken. Resample it, or crop it to the brain.",
        )


def _unpacked_bytes(path: str, most: int) -> int:
    """How many bytes a .nii or .nii.gz unpacks to; counted until there are more than `most`.

    Raises:
        InputError: truncated or damaged.
    """
    total = 0
    with open(path, "rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return os.path.getsize(path)
        file.seek(0)
        try:
            with igzip.IGzipFile(fileobj=file) as stream:
                while total <= most and (piece := stream.read(_PIECE_BYTES)):
                    total += len(piece)
        except (EOFError, isal_zlib.error, gzip.BadGzipFile) as error:
            raise InputError(
                f"{path}: truncated or damaged gzip data ({error}). Copy or download it again."
            ) from error
    return total
