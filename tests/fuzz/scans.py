"""Scans as strangers hand them in: gzip, NIfTI, DICOM."""

import contextlib
import gzip
import pathlib
from collections.abc import Iterator

from fuzz.parts import Fault, Try, gunzipped, nifti_file


def packed_by(way: int, content: bytes) -> bytes:
    """As it is, or as gzip: in one member, in two, or with something behind."""
    if way % 4 == 0:
        return content
    if way % 4 == 1:
        return gzip.compress(content, 1, mtime=0)
    if way % 4 == 2:
        half = len(content) // 2
        return gzip.compress(content[:half], 1, mtime=0) + gzip.compress(content[half:], 1, mtime=0)
    return gzip.compress(content, 1, mtime=0) + content[:9]


# --- files ----------------------------------------------------------------------------------------------


def niftis() -> list[bytes]:
    import nibabel
    import numpy as np

    def scaled(header):
        header.set_slope_inter(2, 1)

    second = nibabel.Nifti2Image(np.ones((3, 4, 5), np.float32), np.eye(4)).to_bytes()
    turned = nibabel.Nifti1Image(np.ones((3, 4, 5), "u1"), np.diag([2.0, -1.0, 1.5, 1.0])).to_bytes()
    kinds = [nifti_file(kind=kind) for kind in ("u1", "<i2", ">i2", "<f4", "<f8")]
    return [*kinds, nifti_file((6, 5, 4, 2)), nifti_file(change=scaled), second, turned]


@contextlib.contextmanager
def try_gunzip(folder: pathlib.Path) -> Iterator[Try]:
    """`.nii.gz` unpacked: as the standard library does it, or refused."""
    from tfbrats.errors import InputError
    from tfbrats.machine import gunzip

    path = folder / "scan.nii.gz"

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        with contextlib.suppress(InputError):
            if len(gunzip.beginning(path, 540)) > 540:
                raise Fault("more than was asked for")
        try:
            plain = bytes(gunzip.unpacked(content, "scan.nii.gz"))
        except InputError:
            return
        second = gunzipped(content) if content[:2] == b"\x1f\x8b" else content
        if second is not None and plain != second:
            raise Fault(f"{len(plain)} bytes, and {len(second)} by the standard library")

    yield attempt


@contextlib.contextmanager
def try_scan(folder: pathlib.Path) -> Iterator[Try]:
    """A NIfTI file as one of a case's scans, and by itself."""
    import numpy as np

    from tfbrats.cases import case, nifti
    from tfbrats.datasets.layouts import CaseFiles
    from tfbrats.errors import InputError
    from tfbrats.labels import EDITIONS

    good, path = folder / "good.nii", folder / "scan.nii.gz"
    good.write_bytes(nifti_file())
    scans = (("flair", str(good), None), ("t1", str(path), None))
    entry = CaseFiles("case", "case", "none", EDITIONS["2020"], scans, str(path))

    def attempt(content: bytes) -> None:
        content = packed_by(content[0], content[1:]) if content else content
        path.write_bytes(content)
        for read in (nifti.read_grid, lambda path: nifti.read_stored(path.read_bytes(), "scan.nii.gz")):
            with contextlib.suppress(InputError):
                read(path)
        with contextlib.suppress(InputError):
            volume = nifti.read(path)
            if volume.array.nbytes > 64 * len(content) * 1032:
                raise Fault(f"{volume.array.nbytes} bytes of {len(content)}")
        with contextlib.suppress(InputError):
            loaded = case.load(entry, ("flair", "t1"))
            if loaded.image.dtype.kind == "f" and not np.isfinite(loaded.image).all():
                raise Fault("a case with values that are no numbers")

    yield attempt


def dicoms() -> list[bytes]:
    """A single-frame file of each series, and an enhanced one."""
    import tempfile

    import dicom_files

    with tempfile.TemporaryDirectory() as place:
        folder, images = pathlib.Path(place), dicom_files.scans((8, 7, 3))
        dicom_files.write(folder / "single", images["t1"], dicom_files.affine(), 11, "AX T1")
        dicom_files.write(folder / "enhanced", images["t2"], dicom_files.affine(), 12, "AX T2", enhanced=True)
        return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]


@contextlib.contextmanager
def try_dicom(folder: pathlib.Path) -> Iterator[Try]:
    """A file among a series' own, or alone: found, placed, decoded, made a case of, written onto."""
    import dicom_files
    import numpy as np

    from tfbrats.dicom import geometry, headers, parsing, pixels, segmentation_object, study
    from tfbrats.errors import InputError
    from tfbrats.labels import EDITIONS

    images = dicom_files.scans((8, 7, 3))
    dicom_files.write(folder / "t1", images["t1"], dicom_files.affine(), 11, "AX T1", shuffled=False)
    (folder / "alone").mkdir()
    among, alone = folder / "t1" / "IM0001", folder / "alone" / "IM0001.dcm"
    read = (
        lambda: study.find(folder / "t1"),
        lambda: study.named({"t1": str(folder / "t1"), "t2": str(alone)}),
        lambda: object_on(study.alone(str(alone), "--dicom-seg")),
    )
    algorithm = segmentation_object.Algorithm("tiny", "1", "tests", {})

    def object_on(series) -> None:
        tissues = np.zeros(series.grid.from_file(np.empty(series.grid.file_shape, bool)).shape, np.uint8)
        with contextlib.suppress(
            OSError
        ):  # documented: what was read back is not what was written, nothing is kept
            segmentation_object.content(series, tissues, series.grid, EDITIONS["2021"], algorithm)

    @parsing.unwarned()
    def volumes(place: pathlib.Path) -> None:
        for series in headers.series_below(place):
            with contextlib.suppress(InputError):
                array, _ = pixels.volume(series, geometry.of(series))
                if array.dtype.kind not in "if":
                    raise Fault(f"voxels of {array.dtype}")

    def attempt(content: bytes) -> None:
        alone.write_bytes(content)
        with contextlib.suppress(InputError):
            volumes(alone)
        try:
            if not headers.series_below(alone):
                raise Fault("nothing lies there, and nothing was said")
        except InputError:  # what stands behind need not be tried: it reads the same headers first
            return
        among.write_bytes(content)
        with contextlib.suppress(InputError):
            volumes(folder / "t1")
        for way in read:
            with contextlib.suppress(InputError):
                way()

    yield attempt
