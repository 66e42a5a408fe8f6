"""Read, check and write cases: loaded, every fault told, every guess noted; segmentations written.

Refuses to guess in silence: a case that lacks a file, or whose files do not lie on one voxel grid, is an
error that names the file and the cure. `nifti` reads each file, `placement` judges its header, `voxels` what is
in it.
"""

import dataclasses
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tfbrats.cases import nifti, voxels
from tfbrats.cases.nifti import Grid
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES, REGIONS, LabelSchema, Tissue
from tfbrats.machine import files

_AFFINE_TOLERANCE_MM = 1e-3
_NAMED = 3  # files that a note names before it counts the rest
# A phantom's files say what they are, in NIfTI's descrip; a segmentation on their grid says so too.
SIMULATED = b"simulated, no patient: tfbrats phantom"


class CaseError(InputError):
    """One case cannot be used. `faults` holds every reason as a sentence that names file and cure; `notes` what
    was guessed in reading it.
    """

    def __init__(self, case_id: str, faults: Sequence[str], notes: Sequence[str] = ()):
        super().__init__(f"{case_id}: " + f"\n{case_id}: ".join(faults))
        self.case_id = case_id
        self.faults = tuple(faults)
        self.notes = tuple(notes)


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Case:
    """One patient at one time point.

    Attributes:
        image: [I, J, K, M] int16 if every file holds whole numbers of that range, else float32.
        modalities: canonical names, in the order of the last axis.
        label: tissues (`labels.Tissue`), uint8 [I, J, K], or None without a segmentation.
        spacing_mm: voxel size along i, j, k.
        schema: how the case's own files write tissues.
        notes: guesses that were made in reading, each with the names of its files.
        edition_untold: whether nothing tells how its own files write tissues, and nobody said it; `schema` is
            then one that was taken for want of any.
    """

    case_id: str
    patient_id: str
    image: np.ndarray
    modalities: tuple[str, ...]
    label: np.ndarray | None
    spacing_mm: tuple[float, float, float]
    schema: LabelSchema
    grid: Grid
    notes: tuple[str, ...] = ()
    edition_untold: bool = False

    @property
    def volumes_ml(self) -> dict[str, float] | None:
        """Millilitres of WT, TC and ET in its segmentation; None without one."""
        return None if self.label is None else volumes_ml(self.label, self.spacing_mm)

    def __repr__(self) -> str:
        shape, spacing = (
            " x ".join(f"{side:g}" for side in of) for of in (self.image.shape[:3], self.spacing_mm)
        )
        volumes = self.volumes_ml
        tumour = "no segmentation" if volumes is None else f"WT {volumes['WT']:.1f} ml"
        return f"<Case {self.case_id}: {shape} voxels of {spacing} mm, {' '.join(self.modalities)}, {tumour}>"

    def _repr_html_(self) -> str:
        """Three planes of FLAIR and T1ce, the tissues outlined: what a notebook shows."""
        from tfbrats.cases import overlays

        tissues = np.zeros(self.image.shape[:3], np.uint8) if self.label is None else self.label
        scans = overlays.scans_shown(self.image, self.modalities)
        rows = [overlays.Row(title, grey, tissues) for title, grey in scans.items()]
        return overlays.three_planes_html(repr(self)[1:-1], rows, self.spacing_mm)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict:
        """Beside the pictures NiiVue's widget, in a notebook that has imported ipyniivue."""
        return self.niivue_bundle(self.label)

    def niivue_bundle(self, tissues: np.ndarray | None) -> dict:
        """NiiVue's widget with tissues [I, J, K] over a scan, for a notebook; {} where none is wanted."""
        from tfbrats.cases import overlays

        return overlays.niivue_bundle(self.image, self.modalities, tissues, self.grid)


def volumes_ml(tissues: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Region -> millilitres, of tissues [I, J, K] with voxels of that size."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    counts = np.bincount(tissues.ravel(), minlength=len(Tissue))
    return {
        region: round(sum(int(counts[tissue]) for tissue in parts) * voxel_ml, 6)
        for region, parts in REGIONS.items()
    }


# --- reading --------------------------------------------------------------------------------------------


def load(
    case: CaseFiles,
    modalities: Sequence[str] = MODALITIES,
    need_label: bool = False,
    read_label: bool = True,
) -> Case:
    """Reads a case in three steps, its files, its channels, its label; checks all that can be checked on it.

    Args:
        case: from `layouts.find`.
        modalities: which to read, and their order on the last axis.
        need_label: a missing segmentation is a fault.
        read_label: False leaves a segmentation unread: prediction does not depend on it.

    Raises:
        CaseError: with every fault of every step, not only the first.
    """
    volumes, of_files = _open(case, read_label)
    channels, reference, of_channels = _channels(case, modalities, volumes)
    label, of_label = _label(case, volumes, reference)
    steps = (of_files, of_channels, of_label)
    faults = [*case.problems, *_missing(case, modalities, need_label)]
    faults += [fault for step in steps for fault in step.faults]
    if not faults:
        faults += voxels.background_faults(channels)
    notes = noted(_by_path(steps))
    if faults or reference is None:
        raise CaseError(case.case_id, faults or ["nothing to read."], notes)
    grid = reference[1]
    is_whole = all(channel.dtype == np.int16 for channel in channels.values())
    dtype = np.int16 if is_whole else np.float32
    # The files' own order, the first axis in one piece: `np.stack` takes three times as long.
    image = np.empty((*grid.file_shape, len(modalities)), dtype, order="F")
    for m, modality in enumerate(modalities):
        image[..., m] = channels[modality]
    return Case(
        case_id=case.case_id,
        patient_id=case.patient_id,
        image=grid.from_file(image),
        modalities=tuple(modalities),
        label=None if label is None else grid.from_file(label),
        spacing_mm=grid.spacing_mm,
        schema=case.schema,
        grid=grid,
        notes=tuple(notes),
    )


class _Findings(NamedTuple):
    """What a step found wrong, as sentences; and what it noted, by path."""

    faults: list[str]
    notes: dict[str, list[str]]


def _by_path(steps: Sequence[_Findings]) -> dict[str, list[str]]:
    """The notes of all steps by path, in the order in which the files were opened."""
    joined: dict[str, list[str]] = {}
    for step in steps:
        for path, notes in step.notes.items():
            joined.setdefault(path, []).extend(notes)
    return joined


def _open(case: CaseFiles, read_label: bool) -> tuple[dict[str, nifti.Volume], _Findings]:
    """The first step: path -> volume, of the files that can be read."""
    volumes: dict[str, nifti.Volume] = {}
    findings = _Findings([], {})
    for path in case.paths():
        if path == case.label and not read_label:
            continue
        try:
            volumes[path] = nifti.read(path)
            findings.notes[path] = list(volumes[path].grid.notes)
        except InputError as error:
            findings.faults.append(str(error))
    return volumes, findings


def _channels(
    case: CaseFiles, modalities: Sequence[str], volumes: Mapping[str, nifti.Volume]
) -> tuple[dict[str, np.ndarray], tuple[str, Grid] | None, _Findings]:
    """The second step: modality -> [file axes], of the sound ones; path and grid of the first file."""
    channels: dict[str, np.ndarray] = {}
    reference: tuple[str, Grid] | None = None
    findings = _Findings([], {})
    sources = {modality: (path, number) for modality, path, number in case.images}
    for modality in modalities:
        path, number = sources.get(modality, (None, None))
        if path not in volumes:
            continue
        try:
            channel = _channel(volumes[path].array, number, path)
        except InputError as error:
            findings.faults.append(str(error))
            continue
        grid = volumes[path].grid
        if reference is None:
            reference = (path, grid)
        elif path != reference[0]:
            findings.faults.extend(_grid_faults(path, grid, *reference))
        faults, notes = voxels.intensity_faults(path, modality, channel)
        findings.faults.extend(faults)
        findings.notes.setdefault(path, []).extend(notes)
        if not faults:
            channels[modality] = voxels.compact(channel)
    return channels, reference, findings


def _channel(array: np.ndarray, number: int | None, path: str) -> np.ndarray:
    """One modality of a file, [file axes].

    Args:
        number: its place in a 4-D file; None for a file of its own.

    Raises:
        InputError: the file has another shape.
    """
    if number is not None:
        if array.ndim != 4 or number >= array.shape[3]:
            raise InputError(f"{path}: shape {array.shape}; expected 4-D with channel {number}.")
        array = array[..., number]
    channel = _volume(array, path)
    if min(channel.shape) < 2:
        raise InputError(f"{path}: shape {channel.shape}; expected a volume, not a single slice.")
    return channel


def _label(
    case: CaseFiles, volumes: Mapping[str, nifti.Volume], reference: tuple[str, Grid] | None
) -> tuple[np.ndarray | None, _Findings]:
    """The third step: tissues on the file's axes, or None where there is no segmentation that can be used.

    Args:
        reference: path and grid that the segmentation has to lie on.
    """
    path = case.label
    if path not in volumes:
        return None, _Findings([], {})
    faults = [] if reference is None else _grid_faults(path, volumes[path].grid, *reference)
    try:
        tissues, notes = _tissues(volumes[path], case.schema, path)
    except InputError as error:
        return None, _Findings([*faults, str(error)], {})
    return tissues, _Findings(faults, {path: list(notes)})


def _tissues(volume: nifti.Volume, schema: LabelSchema, path: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """A mask's tissues on its file's axes, and notes."""
    array = volume.array
    if array.ndim == 4 and array.shape[3] > 1 and array.dtype.kind in "iufb":
        low, high = np.min(array), np.max(array)
        if low >= 0 and high <= 1:
            raise InputError(
                f"{path}: shape {array.shape}; expected three dimensions. Its values are from 0 to 1: a "
                "channel for each label (one-hot, or probabilities). Write one volume, of the label of the "
                "largest channel."
            )
    return voxels.tissues(_volume(array, path), volume.scaling, schema, path)


def _missing(case: CaseFiles, modalities: Sequence[str], need_label: bool) -> list[str]:
    """What a case lacks, as faults."""
    there = ", ".join(map(files.name, case.paths()))
    present = {modality for modality, _, _ in case.images}
    faults = []
    if absent := [modality for modality in modalities if modality not in present]:
        faults.append(
            f"no {', no '.join(absent)}; found {there or 'nothing'}. {_pairs(case)}Add or rename the file."
        )
    if case.label is None and need_label:
        faults.append(f"no segmentation; found {there}. Add or rename the file.")
    return faults


def _pairs(case: CaseFiles) -> str:
    """A sentence on headers that lie beside a case's files with their voxels in a file of their own."""
    beside = {path for file in case.paths() for path in files.walk(files.parent(file) or ".")}
    headers = sorted(files.name(path) for path in beside if path.lower().endswith(".hdr"))
    return f"{', '.join(headers[:_NAMED])} and .img are not read: convert them to .nii.gz. " if headers else ""


def load_label(path: str | os.PathLike, schema: LabelSchema) -> tuple[np.ndarray, Grid]:
    """A segmentation alone: tissues, uint8 [I, J, K], and its grid, whose notes are those of the whole file.

    Raises:
        InputError: unreadable, or values outside the schema.
    """
    volume = nifti.read(path)
    tissues, notes = _tissues(volume, schema, str(path))
    grid = dataclasses.replace(volume.grid, notes=(*volume.grid.notes, *notes))
    return grid.from_file(tissues), grid


def is_simulated(grid: Grid) -> bool:
    """Whether the file itself says that it shows no patient; phantoms of an older version do not."""
    return grid.header["descrip"].item() == SIMULATED


def grid_differences(grid: Grid, reference: Grid) -> list[str]:
    """What keeps two files from lying on one grid: ["shape (1, 1, 1) against (2, 2, 2)", ...]."""
    differences = []
    if grid.file_shape != reference.file_shape:
        differences.append(f"shape {grid.file_shape} against {reference.file_shape}")
    spacing, other = (np.linalg.norm(g.affine[:3, :3], axis=0) for g in (grid, reference))
    if not np.allclose(spacing, other, atol=_AFFINE_TOLERANCE_MM):
        differences.append(f"spacing {spacing.round(4)} mm against {other.round(4)} mm")
    elif not np.allclose(grid.affine, reference.affine, atol=_AFFINE_TOLERANCE_MM):
        differences.append(f"affine {grid.affine[:3].tolist()} against {reference.affine[:3].tolist()}")
    return differences


def _grid_faults(path: str, grid: Grid, reference_path: str, reference: Grid) -> list[str]:
    differences = grid_differences(grid, reference)
    if not differences:
        return []
    return [
        f"{path}: {'; '.join(differences)} of {files.name(reference_path)}. Resample it onto that grid; what "
        "was not co-registered is that first (ANTs, elastix, BraTS Toolkit; docs/start/your-own-case.md)."
    ]


def _volume(array: np.ndarray, path: str) -> np.ndarray:
    """Without the axes of length 1 that some tools append."""
    if array.ndim < 3 or array.size != np.prod(array.shape[:3]):
        raise InputError(f"{path}: shape {array.shape}; expected three dimensions.")
    return array.reshape(array.shape[:3])


def noted(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Notes by path, as sentences that name the files: what several files share is said once."""
    paths: dict[str, list[str]] = {}
    for path, of_file in notes.items():
        for note in of_file:
            paths.setdefault(note, []).append(files.name(path))
    sentences = []
    for note, names in paths.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        sentences.append(f"{', '.join(names[:_NAMED])}{more}: {note}")
    return sentences


# --- writing --------------------------------------------------------------------------------------------


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
    nifti.write(path, grid.to_file(schema.to_values(tissues, str(path))), grid)


def save_probabilities(path: str | os.PathLike, probabilities: np.ndarray, grid: Grid) -> None:
    """Writes float32 [I, J, K, regions] on the reference's grid, and reads it back. Errors as above."""
    nifti.write(path, grid.to_file(probabilities.astype(np.float32)), grid)


def case_seed(seed: int, case_id: str) -> list[int]:
    """What seeds all that is random about one case: the same wherever and whenever it is drawn."""
    return [seed, zlib.crc32(case_id.encode())]
