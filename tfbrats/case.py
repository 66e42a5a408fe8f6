"""Read, check and write cases. The only file that knows nibabel.

Refuses to guess: a case that lacks a file, or whose files do not lie on one voxel grid, is an error that
names the file and the cure. Arrays are handed out in axis order i, j, k pointing to the patient's left,
back and head (LPS, as BraTS stores them), whatever the file's own order; writing turns them back.
"""

import gzip
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import nibabel
import numpy as np
from isal import igzip, isal_zlib
from nibabel import orientations

from tfbrats import files
from tfbrats.command import InputError
from tfbrats.labels import MODALITIES, LabelSchema
from tfbrats.layouts import CaseFiles

AXES = ("L", "P", "S")
_AFFINE_TOLERANCE_MM = 1e-3
_PIECE_BYTES = 2**16  # of a .gz unpacked at a time
_DEFLATE_RATIO = 1032  # the most that it ever saves: a file that claims more is damaged


class CaseError(InputError):
    """One case cannot be used. `faults` holds every reason as a sentence that names file and cure."""

    def __init__(self, case_id: str, faults: Sequence[str]):
        super().__init__(f"{case_id}: " + f"\n{case_id}: ".join(faults))
        self.case_id = case_id
        self.faults = tuple(faults)


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
        header: NIfTI header of the first modality's file, three-dimensional.
        affine: [4, 4] voxel of the file -> mm, of the file's own axes.
        to_axes: nibabel's orientation transform from the file's axes to `AXES`.
    """

    header: nibabel.Nifti1Header
    affine: np.ndarray
    to_axes: np.ndarray

    @property
    def file_shape(self) -> tuple[int, ...]:
        return tuple(self.header.get_data_shape())

    @property
    def placement(self) -> Placement:
        """What a segmentation written on this grid will say."""
        return _placement(self.header, "header of the scans")

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
class Case:
    """One patient at one time point.

    Attributes:
        image: [I, J, K, M] int16 if every file holds whole numbers of that range, else float32.
        modalities: canonical names, in the order of the last axis.
        label: tissues (`labels.Tissue`), uint8 [I, J, K], or None without a segmentation.
        spacing_mm: voxel size along i, j, k.
        schema: how the case's own files write tissues.
    """

    case_id: str
    patient_id: str
    image: np.ndarray
    modalities: tuple[str, ...]
    label: np.ndarray | None
    spacing_mm: tuple[float, float, float]
    schema: LabelSchema
    grid: Grid = field(repr=False)


# --- reading --------------------------------------------------------------------------------------------


def read_nifti(path: str | os.PathLike) -> tuple[np.ndarray, nibabel.Nifti1Image]:
    """One file: its array as stored (scaled if the header says so) and nibabel's image for the header alone.

    The array may not be written to, and the image has no voxels.

    Raises:
        InputError: not a NIfTI file, truncated, or damaged.
    """
    return _parse(_unpacked(files.read_bytes(path), path), path)


def read_stored(content: bytes, name: str) -> tuple[np.ndarray, Stored]:
    """A file's bytes, .nii or .nii.gz: its array as `read_nifti` gives it, and how it is stored.

    Args:
        name: of the file, named in errors.

    Raises:
        InputError: not a NIfTI file, truncated, or damaged.
    """
    content = _unpacked(content, name)
    array, image = _parse(content, name)
    header = image.header
    needed = int(image.dataobj.offset) + array.size * header.get_data_dtype().itemsize
    stored = Stored(
        placement=_placement(header, name),
        dtype=header.get_data_dtype(),
        scaled=(image.dataobj.slope, image.dataobj.inter) != (1, 0),  # nibabel blanks the header's own
        unused_bytes=len(content) - needed,
    )
    return array, stored


def _unpacked(content: bytes, path: str | os.PathLike) -> bytes | memoryview:
    if not content:
        raise InputError(f"{path}: the file is empty. Copy it again.")
    if content.lstrip()[:1] == b"<":
        raise InputError(
            f"{path}: an HTML or XML page, not an image (a log-in or error page was saved under this "
            "name). Download it again."
        )
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return _gunzipped(content)
    except (EOFError, isal_zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: truncated or damaged gzip data ({error}). Copy or download it again."
        ) from error


def _gunzipped(content: bytes) -> bytes | memoryview:
    """Piece by piece into one array of the size that the file's last bytes tell; the unusual goes a longer way.

    numpy asks the system for large pages, which bytes do not get: a fifth less time than `igzip.decompress`.
    """
    size = int.from_bytes(content[-4:], "little")
    if size <= _DEFLATE_RATIO * len(content):
        unpacked, filled = np.empty(size, np.uint8).data, 0
        member = isal_zlib.decompressobj(wbits=31)
        for start in range(0, len(content), _PIECE_BYTES):
            piece = member.decompress(content[start : start + _PIECE_BYTES])
            if member.unused_data or filled + len(piece) > size:
                break
            unpacked[filled : filled + len(piece)] = piece
            filled += len(piece)
            if member.eof and start + _PIECE_BYTES >= len(content):
                return unpacked
    return igzip.decompress(content)  # several members, zeros or something else behind, cut off, damaged


def _parse(content: bytes | memoryview, path: str | os.PathLike) -> tuple[np.ndarray, nibabel.Nifti1Image]:
    kind = nibabel.Nifti2Image if content[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Image
    try:
        header = kind.header_class(bytes(content[: kind.header_class.sizeof_hdr]), check=False)
        voxels_from = max(int(header.get_data_offset()), header.single_vox_offset)
        image = kind.from_bytes(bytes(content[:voxels_from]))
        header = image.header
        needed = int(image.dataobj.offset) + int(
            np.prod(header.get_data_shape(), dtype=np.int64) * header.get_data_dtype().itemsize
        )
        if len(content) < needed:
            raise InputError(
                f"{path}: truncated: {len(content)} bytes where its header needs {needed}. Copy it again."
            )
        return _voxels(content, image), image
    except InputError:
        raise
    except Exception as error:  # nibabel raises many kinds for what is not NIfTI
        raise InputError(f"{path}: not a NIfTI file ({error}).") from error


def _voxels(content: bytes | memoryview, image: nibabel.Nifti1Image) -> np.ndarray:
    stored = image.dataobj
    if (stored.slope, stored.inter) != (1, 0):
        return np.asanyarray(type(image).from_bytes(bytes(content)).dataobj)
    # The bytes are in memory already: nibabel would copy them.
    flat = np.frombuffer(content, stored.dtype, int(np.prod(stored.shape)), int(stored.offset))
    flat.flags.writeable = False
    return flat.reshape(stored.shape, order="F")


def _placement(header: nibabel.Nifti1Header, path: str | os.PathLike) -> Placement:
    try:
        qform = header.get_qform()
    except (ValueError, nibabel.spatialimages.HeaderDataError) as error:
        raise InputError(f"{path}: its qform is damaged ({error}). Repair the header.") from error
    return Placement(
        shape=tuple(map(int, header.get_data_shape())),
        qform=np.asarray(qform, np.float64),
        qform_code=int(header["qform_code"]),
        sform=np.asarray(header.get_sform(), np.float64),
        sform_code=int(header["sform_code"]),
    )


def _grid(image: nibabel.Nifti1Image, path: str) -> Grid:
    header = image.header.copy()
    header.set_data_shape(header.get_data_shape()[:3])
    orientation = orientations.io_orientation(image.affine)
    if np.isnan(orientation).any():
        raise InputError(f"{path}: its affine has an empty axis:\n{image.affine}\nRepair the header.")
    to_axes = orientations.ornt_transform(orientation, orientations.axcodes2ornt(AXES))
    return Grid(header, np.asarray(image.affine, np.float64), to_axes)


def _compact(array: np.ndarray) -> np.ndarray:
    """int16 where that loses nothing, else float32."""
    if array.dtype == np.int16:
        return array
    if array.dtype.kind in "iub":
        fits = array.size == 0 or (array.min() >= -32768 and array.max() <= 32767)
        return array.astype(np.int16 if fits else np.float32)
    return array.astype(np.float32)


def load(
    case: CaseFiles,
    modalities: Sequence[str] = MODALITIES,
    need_label: bool = False,
    read_label: bool = True,
) -> Case:
    """Reads a case and checks all that can be checked on it.

    Args:
        case: from `layouts.find`.
        modalities: which to read, and their order on the last axis.
        need_label: a missing segmentation is a fault.
        read_label: False leaves a segmentation unread: prediction does not depend on it.

    Raises:
        CaseError: with every fault found, not only the first.
    """
    faults = list(case.problems)
    sources = {modality: (path, channel) for modality, path, channel in case.images}
    missing = [modality for modality in modalities if modality not in sources]
    if missing:
        faults.append(
            f"no {', no '.join(missing)}; found {', '.join(map(files.name, case.paths())) or 'nothing'}. "
            "Add or rename the file."
        )
    if case.label is None and need_label:
        faults.append(
            f"no segmentation; found {', '.join(map(files.name, case.paths()))}. Add or rename the file."
        )
    opened: dict[str, tuple[np.ndarray, Grid]] = {}
    for path in case.paths():
        if path == case.label and not read_label:
            continue
        try:
            array, image = read_nifti(path)
            opened[path] = (array, _grid(image, path))
        except InputError as error:
            faults.append(str(error))
    arrays: dict[str, np.ndarray] = {}
    reference: tuple[str, Grid] | None = None
    for modality in modalities:
        path, channel = sources.get(modality, (None, None))
        if path not in opened:
            continue
        array, grid = opened[path]
        if channel is not None:
            if array.ndim != 4 or channel >= array.shape[3]:
                faults.append(f"{path}: shape {array.shape}; expected 4-D with channel {channel}.")
                continue
            array = array[..., channel]
        try:
            array = _volume(array, path)
        except InputError as error:
            faults.append(str(error))
            continue
        if reference is None:
            reference = (path, grid)
        elif path != reference[0]:
            faults += _grid_faults(path, grid, *reference)
        own_faults = _intensity_faults(path, modality, array)
        faults += own_faults
        if not own_faults:
            arrays[modality] = _compact(array)
    label = None
    if case.label in opened:
        array, grid = opened[case.label]
        if reference is not None:
            faults += _grid_faults(case.label, grid, *reference)
        try:
            values = _whole_numbers(_volume(array, case.label), case.label)
            label = case.schema.to_tissues(values, case.label)
        except InputError as error:
            faults.append(str(error))
    if not faults and all(_has_skull(array) for array in arrays.values()):
        faults.append(
            "the corners of the volume are not 0: skull or air is still there. Strip it first "
            "(HD-BET, SynthStrip) and set the background to 0."
        )
    if faults or reference is None:
        raise CaseError(case.case_id, faults or ["nothing to read."])
    grid = reference[1]
    whole = all(array.dtype == np.int16 for array in arrays.values())
    stacked = np.stack([arrays[m] for m in modalities], axis=-1, dtype=np.int16 if whole else np.float32)
    return Case(
        case_id=case.case_id,
        patient_id=case.patient_id,
        image=grid.from_file(stacked),
        modalities=tuple(modalities),
        label=None if label is None else grid.from_file(label),
        spacing_mm=grid.spacing_mm,
        schema=case.schema,
        grid=grid,
    )


def load_label(path: str | os.PathLike, schema: LabelSchema) -> tuple[np.ndarray, Grid]:
    """A segmentation alone: tissues, uint8 [I, J, K], and its grid.

    Raises:
        InputError: unreadable, or values outside the schema.
    """
    array, image = read_nifti(path)
    grid = _grid(image, str(path))
    values = _whole_numbers(_volume(array, str(path)), str(path))
    return grid.from_file(schema.to_tissues(values, str(path))), grid


def grid_differences(grid: Grid, reference: Grid) -> list[str]:
    """What keeps two files from lying on one grid: ["shape (1, 1, 1) against (2, 2, 2)", ...]."""
    found = []
    if grid.file_shape != reference.file_shape:
        found.append(f"shape {grid.file_shape} against {reference.file_shape}")
    spacing, other = (np.linalg.norm(g.affine[:3, :3], axis=0) for g in (grid, reference))
    if not np.allclose(spacing, other, atol=_AFFINE_TOLERANCE_MM):
        found.append(f"spacing {spacing.round(4)} mm against {other.round(4)} mm")
    elif not np.allclose(grid.affine, reference.affine, atol=_AFFINE_TOLERANCE_MM):
        found.append(f"affine {grid.affine[:3].tolist()} against {reference.affine[:3].tolist()}")
    return found


def _grid_faults(path: str, grid: Grid, reference_path: str, reference: Grid) -> list[str]:
    differences = grid_differences(grid, reference)
    if not differences:
        return []
    return [
        f"{path}: {'; '.join(differences)} of {files.name(reference_path)}. Resample it onto that grid "
        "(co-registration is not done here)."
    ]


def _intensity_faults(path: str, modality: str, array: np.ndarray) -> list[str]:
    if array.dtype.kind not in "iufb":
        return [f"{path}: voxels of type {array.dtype}; expected one real number each."]
    if array.dtype.kind == "f":
        # Beyond float32, which everything here computes in, is as good as infinite.
        bad = int(array.size - np.count_nonzero(np.abs(array) <= np.finfo(np.float32).max))
        if bad:
            return [f"{path}: {bad} voxels of {modality} are NaN or infinite. Write it again without them."]
    if array.size == 0 or array.min() == array.max():
        value = array.flat[0] if array.size else "nothing"
        return [f"{path}: {modality} is {value} everywhere. Write it again from the scan."]
    return []


def _volume(array: np.ndarray, path: str) -> np.ndarray:
    """Without the axes of length 1 that some tools append."""
    if array.ndim < 3 or array.size != np.prod(array.shape[:3]):
        raise InputError(f"{path}: shape {array.shape}; expected three dimensions.")
    return array.reshape(array.shape[:3])


def _whole_numbers(array: np.ndarray, path: str) -> np.ndarray:
    if array.dtype.kind not in "iufb":
        raise InputError(f"{path}: voxels of type {array.dtype}; expected one label value each.")
    if array.dtype.kind == "f":
        rounded = np.round(array)
        if not np.isfinite(array).all() or not np.array_equal(rounded, array):
            raise InputError(
                f"{path}: label values are not whole numbers. Was the mask interpolated? Resample it with "
                "nearest neighbours."
            )
        return rounded.astype(np.int64)
    return array


def _has_skull(array: np.ndarray) -> bool:
    return np.count_nonzero(array[np.ix_(*((0, -1),) * 3)]) >= 4


def check(case: CaseFiles) -> list[str]:
    """Every fault of one case as a sentence, its name in front; empty when it is sound."""
    try:
        load(case, need_label=case.label_expected)
    except CaseError as error:
        return [f"{case.case_id}: {fault}" for fault in error.faults]
    return []


# --- writing --------------------------------------------------------------------------------------------


def to_nifti_bytes(array: np.ndarray, grid: Grid, name: str, level: int = 5) -> bytes:
    """`array` [file axes, ...] under the grid's header, its own data type and no scaling.

    `level` is gzip's, for a `name` that ends in .gz: 1 is fast, and as good on noisy images.
    """
    header = grid.header.copy()
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header["cal_min"] = header["cal_max"] = 0
    header.extensions.clear()
    # No affine: nibabel then keeps the header's own qform, sform and codes.
    kind = nibabel.Nifti2Image if header["sizeof_hdr"] == 540 else nibabel.Nifti1Image
    image = kind(array, None, header=header)
    image.header.set_slope_inter(1, 0)
    content = image.to_bytes()
    # No time in the gzip header: the same segmentation is the same bytes.
    return gzip.compress(content, level, mtime=0) if name.lower().endswith(".gz") else content


def save_segmentation(path: str | os.PathLike, tissues: np.ndarray, grid: Grid, schema: LabelSchema) -> None:
    """Writes a label map as uint8 in the schema's values, on the reference's grid, and reads it back.

    Args:
        path: ends in .nii.gz or .nii.
        tissues: uint8 [I, J, K].
        grid: of the case the segmentation belongs to.
        schema: which value stands for which tissue.

    Raises:
        InputError: shape and grid differ, or a tissue has no value in the schema.
        OSError: what was read back differs from what was written.
    """
    array = grid.to_file(schema.to_values(tissues, str(path)))
    _save(path, array, grid)


def save_probabilities(path: str | os.PathLike, probabilities: np.ndarray, grid: Grid) -> None:
    """Writes float32 [I, J, K, regions] on the reference's grid, and reads it back. Errors as above."""
    _save(path, grid.to_file(probabilities.astype(np.float32)), grid)


def _save(path: str | os.PathLike, array: np.ndarray, grid: Grid) -> None:
    if array.shape[:3] != grid.file_shape:
        raise InputError(f"{path}: shape {array.shape} does not fit the case's {grid.file_shape}.")

    def compare(temporary: str) -> None:
        read, image = read_nifti(temporary)
        same = (
            np.array_equal(read, array)
            and np.array_equal(image.affine, _affine_of(grid.header))
            and all(
                np.array_equal(image.header[key], grid.header[key])
                for key in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z")
            )
            and np.array_equal(image.header.get_qform(), grid.header.get_qform())
            and np.array_equal(image.header["pixdim"][:4], grid.header["pixdim"][:4])
        )
        if not same:
            raise OSError(f"{path}: what was read back is not what was written; nothing was kept.")

    files.write_bytes(path, to_nifti_bytes(array, grid, files.name(path)), check=compare)


def _affine_of(header: nibabel.Nifti1Header) -> np.ndarray:
    return np.asarray(header.get_best_affine())


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
    return _grid(image, "new grid")
