"""Simulated cases written as any BraTS edition would."""

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tfbrats.cases import case, nifti
from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES, Tissue
from tfbrats.machine import files
from tfbrats.phantoms import phantom_files
from tfbrats.phantoms.draws import Draws
from tfbrats.phantoms.simulation import FULL_SHAPE, simulate
from tfbrats.phantoms.tumour import is_enhancing

_TREATED = ("2024", "2025", "2026")  # editions of gliomas after surgery
_RESECTED_EVERY = 2  # in the editions after treatment


def is_resected(seed: int, number: int) -> bool:
    """Whether `write_cases` gives this case a resection cavity, in the 2024 edition."""
    return Draws(seed, number).is_one_in(_RESECTED_EVERY, "resected")


def _grade(seed: int, number: int) -> str:
    low = not is_enhancing(seed, number) or Draws(seed, number).is_one_in(7, "low grade")
    return "LGG" if low else "HGG"


def write_dataset(
    output: str | os.PathLike,
    cases: int,
    edition: str,
    seed: int,
    shape: Sequence[int] = FULL_SHAPE,
    first: int = 0,
    spacing_mm: Sequence[float] = (1, 1, 1),
    axes: Sequence[str] = nifti.AXES,
) -> list[str]:
    """Writes cases number `first` to `first + cases - 1` in an edition's layout.

    Args:
        output: folder, made if need be; cases of other numbers in it are left alone.
        edition: one of `phantom_files.EDITIONS`.
        shape: (I, J, K) towards left, back and head, whatever `axes` says.
        spacing_mm: along i, j, k.
        axes: of the files, e.g. ("R", "A", "S").

    Returns:
        The case ids, in order.

    Raises:
        InputError: an unknown edition, or a shape too small.
    """
    return list(write_cases(os.fspath(output), cases, edition, seed, shape, first, spacing_mm, axes))


def write_cases(
    output: str,
    cases: int,
    edition: str,
    seed: int,
    shape: Sequence[int] = FULL_SHAPE,
    first: int = 0,
    spacing_mm: Sequence[float] = (1, 1, 1),
    axes: Sequence[str] = nifti.AXES,
) -> Iterator[str]:
    """As `write_dataset`, one case at a time: gives each id as soon as the case's files are there."""
    if edition not in phantom_files.EDITIONS:
        raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(phantom_files.EDITIONS)}.")
    schema = phantom_files.schema(edition)
    grid = nifti.new_grid(_shape_along(axes, shape), spacing_mm, axes)
    grid.header["descrip"] = case.SIMULATED
    grades = {}
    for number in range(first, first + cases):
        image, tissues = simulate(
            shape, seed, number, spacing_mm, resected=edition in _TREATED and is_resected(seed, number)
        )
        if Tissue.CC in schema.value_of_tissue:
            tissues = with_cyst(tissues)
        case_id, grade = phantom_files.case_id(edition, number), _grade(seed, number)
        places = phantom_files.paths(output, edition, number, grade)
        _write_scans(image, edition, places, grid)
        _write(places["seg"], schema.to_values(tissues, case_id), grid)
        grades[case_id] = grade
        yield case_id
    phantom_files.write_tables(output, edition, grades)


def _shape_along(axes: Sequence[str], shape: Sequence[int]) -> list[int]:
    """The sides of a volume along a file's axes; `shape` is towards left, back and head."""
    pairs = ("LR", "PA", "SI")
    return [shape[next(n for n, pair in enumerate(pairs) if letter in pair)] for letter in axes]


def _write_scans(image: np.ndarray, edition: str, places: Mapping[str, str], grid: nifti.Grid) -> None:
    """A file for each modality; the Decathlon's four in one, in its own order."""
    by_modality = {modality: image[..., channel] for channel, modality in enumerate(MODALITIES)}
    if edition == "msd":
        stacked = np.stack([by_modality[m] for m in phantom_files.MSD_CHANNELS.values()], axis=-1)
        _write(places["flair"], stacked, grid)
        return
    for modality, scan in by_modality.items():
        _write(places[modality], scan, grid)


def _write(path: str, array: np.ndarray, grid: nifti.Grid) -> None:
    files.write_bytes(path, nifti.to_bytes(grid.to_file(array), grid, files.name(path), level=1))


def with_cyst(tissues: np.ndarray) -> np.ndarray:
    """The same tumour with a cyst: of its necrosis, what lies above the middle of it is Tissue.CC.

    Args:
        tissues: `labels.Tissue`, uint8 [I, J, K].
    """
    dead = tissues == Tissue.NCR
    heights = np.nonzero(dead)[2]
    if not heights.size:
        return tissues
    above = np.arange(tissues.shape[2]) > np.median(heights)
    return np.where(dead & above, np.uint8(Tissue.CC), tissues)
