"""NIfTI files: read, placed on a grid, written, read back. The only file that knows nibabel.

Arrays come in axis order i, j, k pointing to the patient's left, back and head (LPS, as BraTS stores them) by
way of their `Grid`; writing turns them back. nibabel repairs headers as it reads and logs that without a file's
name: here it says nothing, and `placement` judges the header as it stands.
"""

import io
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import deflate
import nibabel
import numpy as np
from nibabel import arrayproxy, orientations

from tfbrats.cases import placement
from tfbrats.errors import InputError
from tfbrats.machine import files, gunzip

AXES = ("L", "P", "S")
_ERROR_LEVEL = 40  # nibabel's own, from which on it raises

_silent = logging.Logger("nibabel's repairs", level=logging.CRITICAL + 1)


@dataclass(frozen=True)
class Placement:
    """Where a header says its voxels lie, word by word; `Grid` is what is made of it.

    Attributes:
        qform, sform: [4, 4] voxel of the file -> mm, whether or not their codes say that they count.
    """

    shape: tuple[int, ...]
    qform: np.ndarray
    qform_code: int
    sform: np.ndarray
    sform_code: int


@dataclass(frozen=True)
class Stored:
    """How a file holds its voxels.

    Attributes:
        dtype: on the disk, before any scaling.
        scaled: the header has a slope or intercept that changes them.
        unused_bytes: behind the voxels that the header tells of.
    """

    placement: Placement
    dtype: np.dtype
    scaled: bool
    unused_bytes: int


@dataclass(frozen=True)
class Grid:
    """The voxel grid of a case's files, which a segmentation written for it must keep.

    Attributes:
        header: NIfTI header of the first modality's file, three-dimensional; what was damaged in it is mended.
        affine: [4, 4] voxel of the file -> mm, of the file's own axes.
        to_axes: nibabel's orientation transform from the file's axes to `AXES`.
        notes: guesses that were made in reading, each a sentence without full stop and without the file's name.
    """

    header: nibabel.Nifti1Header
    affine: np.ndarray
    to_axes: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def file_shape(self) -> tuple[int, ...]:
        return tuple(self.header.get_data_shape())

    @property
    def placement(self) -> Placement:
        """What a segmentation written on this grid will say."""
        return _placement(self.header)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along i, j, k, that is along `AXES`."""
        lengths = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        order = np.argsort(self.to_axes[:, 0])
        return tuple(float(round(value, 6)) for value in lengths[order])

    def from_file(self, array: np.ndarray) -> np.ndarray:
        """[file axes, ...] -> [I, J, K, ...]: flips and transposes only, nothing is resampled."""
        return orientations.apply_orientation(array, self.to_axes)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """[I, J, K, ...] -> [file axes, ...], the exact inverse of `from_file`."""
        back = np.empty_like(self.to_axes)
        for axis, (target, flip) in enumerate(self.to_axes):
            back[int(target)] = axis, flip
        return orientations.apply_orientation(array, back)


@dataclass(frozen=True)
class Volume:
    """A file's voxels and where they lie.

    Attributes:
        array: as stored, scaled if the header says so; may not be written to.
        scaling: scl_slope and scl_inter where they change the voxels; else None.
    """

    array: np.ndarray
    grid: Grid
    scaling: tuple[float, float] | None


@dataclass(frozen=True)
class _Parsed:
    """A file's bytes taken apart.

    Attributes:
        raw: the header as it stands.
        header: as nibabel repairs it, with the shape that is read.
        voxels_end: the byte behind the last voxel.
    """

    array: np.ndarray
    raw: nibabel.Nifti1Header
    header: nibabel.Nifti1Header
    scaling: tuple[float, float] | None
    voxels_end: int
    notes: tuple[str, ...]


# --- reading --------------------------------------------------------------------------------------------


def read(path: str | os.PathLike) -> Volume:
    """One file, .nii or .nii.gz.

    Raises:
        InputError: not a NIfTI file, truncated, damaged, or a header that does not tell where its voxels lie.
    """
    content = files.read_bytes(path)
    parsed = _parse(gunzip.unpacked(content, path), path)
    notes = (*gunzip.name_note(content, path), *parsed.notes)
    return Volume(parsed.array, _grid(parsed.raw, parsed.header, path, notes), parsed.scaling)


def read_grid(path: str | os.PathLike) -> Grid:
    """Where a file's voxels lie, by its first bytes alone; the voxels are not looked at. Errors as `read`."""
    content = gunzip.beginning(path, nibabel.Nifti2Header.sizeof_hdr)
    try:
        headers = _headers(content)
    except Exception as error:  # nibabel raises many kinds for what is not NIfTI
        raise InputError(f"{path}: not a NIfTI file ({error}).") from error
    return _grid(*headers, path)


def read_stored(content: bytes, name: str) -> tuple[np.ndarray, Stored]:
    """A file's bytes, .nii or .nii.gz: its array as `read` gives it, and how it is stored. Space is not judged.

    Args:
        name: of the file, named in errors.

    Raises:
        InputError: not a NIfTI file, truncated, or damaged.
    """
    content = gunzip.unpacked(content, name)
    parsed = _parse(content, name)
    try:
        with np.errstate(all="ignore"):
            placement = _placement(parsed.header)
    except (ValueError, nibabel.spatialimages.HeaderDataError) as error:
        raise InputError(f"{name}: its qform is damaged ({error}). Repair the header.") from error
    dtype = parsed.header.get_data_dtype()
    return parsed.array, Stored(placement, dtype, parsed.scaling is not None, len(content) - parsed.voxels_end)


def _headers(content: bytes | memoryview) -> tuple[nibabel.Nifti1Header, nibabel.Nifti1Header]:
    """As it stands, and as nibabel repairs it."""
    kind = nibabel.Nifti2Header if content[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Header
    raw = kind(bytes(content[: kind.sizeof_hdr]), check=False)
    fixed = raw.copy()
    fixed.check_fix(_silent, _ERROR_LEVEL)
    return raw, fixed


def _parse(content: bytes | memoryview, path: str | os.PathLike) -> _Parsed:
    try:
        raw, header = _headers(content)
        shape = header.get_data_shape()  # a length of 0 behind the third axis: there is no such axis
        shape = (*shape[:3], *(length or 1 for length in shape[3:]))
        if any(length < 1 for length in shape):
            raise InputError(f"{path}: its header says a shape of {shape}. Copy it again, or repair it.")
        header.set_data_shape(shape)
        offset, dtype = header.get_data_offset(), header.get_data_dtype()
        if offset < header.sizeof_hdr:
            raise InputError(
                f"{path}: vox_offset {offset} puts its voxels into its header. A .hdr with an .img beside it? "
                "Convert it to .nii.gz."
            )
        needed = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if len(content) < needed:
            raise InputError(
                f"{path}: truncated: {len(content)} bytes where its header needs {needed}. Copy it again."
            )
        notes = _mend_scaling(header)
        scaling = header.get_slope_inter()
        scaling = None if scaling == (1, 0) else scaling
        return _Parsed(_voxels(content, header, scaling is not None), raw, header, scaling, needed, notes)
    except InputError:
        raise
    except Exception as error:  # nibabel raises many kinds for what is not NIfTI
        raise InputError(f"{path}: not a NIfTI file ({error}).") from error


def _mend_scaling(header: nibabel.Nifti1Header) -> tuple[str, ...]:
    """Takes away a scaling that means nothing, as the standard (scl_slope 0) and SimpleITK do."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        header["scl_slope"], header["scl_inter"] = 1, 0
        if slope == 0 and np.isfinite(inter) and inter != 0:
            return (f"scl_slope is 0, so scl_inter {inter:g} is not added (the standard); SimpleITK adds it",)
    elif not np.isfinite(inter):
        header["scl_inter"] = 0
        return (f"scl_inter is {inter:g}: taken as 0",)
    return ()


def _voxels(content: bytes | memoryview, header: nibabel.Nifti1Header, is_scaled: bool) -> np.ndarray:
    if is_scaled:
        with np.errstate(all="ignore"):  # what becomes infinite is found by who reads
            return np.asanyarray(arrayproxy.ArrayProxy(io.BytesIO(content), header))
    shape = header.get_data_shape()  # the bytes are in memory already: nibabel would copy them
    flat = np.frombuffer(content, header.get_data_dtype(), int(np.prod(shape)), header.get_data_offset())
    flat.flags.writeable = False
    return flat.reshape(shape, order="F")


# --- the grid -------------------------------------------------------------------------------------------


def _placement(header: nibabel.Nifti1Header) -> Placement:
    return Placement(
        shape=tuple(map(int, header.get_data_shape())),
        qform=np.asarray(header.get_qform(), np.float64),
        qform_code=int(header["qform_code"]),
        sform=np.asarray(header.get_sform(), np.float64),
        sform_code=int(header["sform_code"]),
    )


def _about_space(raw: nibabel.Nifti1Header, header: nibabel.Nifti1Header) -> placement.Header:
    """The fields to be judged. `header` is nibabel's repair of `raw`."""
    pixdim = np.asarray(raw["pixdim"][:4], np.float64)
    quaternion = np.array([raw["quatern_b"], raw["quatern_c"], raw["quatern_d"]], np.float64)
    qform = np.full((4, 4), np.nan)
    if np.isfinite(quaternion).all():
        readable = header.copy()
        # As the NIfTI library reads them.
        readable["pixdim"][0] = -1 if pixdim[0] < 0 else 1
        readable["pixdim"][1:4] = np.where(np.isfinite(pixdim[1:]), readable["pixdim"][1:4], 1)
        if placement.excess_of(quaternion) or not _has_qform(readable):  # NIfTI-2's is refused from 7e-16 on
            qform = placement.qform_of_turn(
                quaternion, readable["pixdim"][:4], [readable[f"qoffset_{axis}"] for axis in "xyz"]
            )
        else:
            qform = np.asarray(readable.get_qform(), np.float64)
    return placement.Header(
        shape=(*map(int, header.get_data_shape()), 1, 1, 1)[:3],
        pixdim=pixdim,
        units=int(raw["xyzt_units"]) & 7,
        qform=qform,
        qform_code=int(raw["qform_code"]),
        quaternion=quaternion,
        sform=np.asarray(raw.get_sform(), np.float64),
        sform_code=int(raw["sform_code"]),
    )


def _mended(header: nibabel.Nifti1Header, judged: placement.Judgement) -> nibabel.Nifti1Header:
    """With what was damaged written anew, so that every program reads what was read here."""
    header = header.copy()
    header["qform_code"], header["sform_code"] = judged.codes
    rows = np.array([[1 / judged.unit_mm]] * 3 + [[1.0]])
    if judged.sform is not None:
        header.set_sform(judged.sform * rows, int(judged.codes[1]))
    sides = header["pixdim"][1:4].copy() if judged.sides is None else judged.sides / judged.unit_mm
    if judged.qform is not None:
        header.set_qform(judged.qform * rows, int(judged.codes[0]))
    elif not _has_qform(header):  # it does not count, and would stop who asks for it all the same
        header.set_qform(judged.affine * rows, int(judged.codes[0]))
    header["pixdim"][1:4] = sides  # which set_qform changes in their last digit
    return header


def _has_qform(header: nibabel.Nifti1Header) -> bool:
    """Whether the header's quaternion can be made a matrix, whatever qform_code says."""
    try:
        return bool(np.isfinite(header.get_qform()).all())
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        return False


def _grid(
    raw: nibabel.Nifti1Header, fixed: nibabel.Nifti1Header, path: str | os.PathLike, notes: Sequence[str] = ()
) -> Grid:
    header = fixed.copy()
    header.set_data_shape(header.get_data_shape()[:3])
    header["vox_offset"] = 0  # of the file that was read
    try:
        with np.errstate(all="ignore"):  # NaN and infinity are among what is judged
            judged = placement.judge(_about_space(raw, header))
            mended = _mended(header, judged)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    own_axes = orientations.io_orientation(judged.affine)
    to_axes = orientations.ornt_transform(own_axes, orientations.axcodes2ornt(AXES))
    return Grid(mended, judged.affine, to_axes, (*notes, *judged.notes))


def new_grid(shape: Sequence[int], spacing_mm: Sequence[float] = (1, 1, 1), axes: Sequence[str] = AXES) -> Grid:
    """A grid for simulated cases: BraTS' own header for 240 x 240 x 155 (LPS, origin at (0, -239, 0))."""
    to_ras = orientations.inv_ornt_aff(
        orientations.ornt_transform(orientations.axcodes2ornt(axes), orientations.axcodes2ornt("RAS")),
        shape,
    )
    affine = np.linalg.inv(to_ras)
    affine[:3] = np.diag(spacing_mm) @ affine[:3]
    if tuple(axes) == AXES:
        affine[:3, 3] = (0, spacing_mm[1] * (shape[1] - 1), 0)
    return grid_of(shape, affine)


def grid_of(shape: Sequence[int], affine: np.ndarray) -> Grid:
    """The grid that shape and affine alone tell of, as dataset.json keeps them: qform and sform say the same.

    Args:
        shape: voxels along the file's own axes.
        affine: [4, 4] voxel of the file -> mm; headers hold it in float32.
    """
    image = nibabel.Nifti1Image(np.zeros(tuple(shape), np.uint8), np.asarray(affine, np.float64))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    image.header.set_xyzt_units("mm")
    return _grid(image.header, image.header, "new grid")


# --- writing --------------------------------------------------------------------------------------------


def to_bytes(array: np.ndarray, grid: Grid, name: str, level: int = 6) -> bytes:
    """`array` [file axes, ...] under the grid's header, its own data type and no scaling.

    `level` is libdeflate's, for a `name` that ends in .gz: 1 is fast, and as good on noisy images.
    """
    header = grid.header.copy()
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header["cal_min"] = header["cal_max"] = 0
    header.extensions.clear()
    kind = nibabel.Nifti2Image if header["sizeof_hdr"] == 540 else nibabel.Nifti1Image
    image = kind(array, None, header=header)  # no affine: the header's own qform, sform and codes are kept
    image.header.set_slope_inter(1, 0)
    content = image.to_bytes()
    # No time in the gzip header: the same segmentation is the same bytes.
    return bytes(deflate.gzip_compress(content, level)) if name.lower().endswith(".gz") else content


def write(path: str | os.PathLike, array: np.ndarray, grid: Grid) -> None:
    """Writes `array` [file axes, ...] on a grid, and reads it back.

    Raises:
        InputError: shape and grid differ.
        OSError: what was read back differs from what was written.
    """
    if array.shape[:3] != grid.file_shape:
        raise InputError(f"{path}: shape {array.shape} does not fit the case's {grid.file_shape}.")

    def compare(temporary: str) -> None:
        again = read(temporary)
        if not (np.array_equal(again.array, array) and _same_header(again.grid.header, grid.header)):
            raise OSError(f"{path}: what was read back is not what was written; nothing was kept.")

    files.write_bytes(path, to_bytes(array, grid, files.name(path)), check=compare)


_ABOUT_SPACE = (
    *("qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def _same_header(header: nibabel.Nifti1Header, other: nibabel.Nifti1Header) -> bool:
    """Whether two headers say the same about space, word by word. NaN, where nothing counts, is itself."""
    pairs = [(header[name], other[name]) for name in _ABOUT_SPACE]
    pairs.append((header["pixdim"][:4], other["pixdim"][:4]))
    return all(np.array_equal(*pair, equal_nan=True) for pair in pairs)
