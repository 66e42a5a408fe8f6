"""Simulated cases written as any BraTS edition would."""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from tfbrats.cases import nifti
from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES, Tissue
from tfbrats.machine import files
from tfbrats.phantoms import phantom_files
from tfbrats.phantoms.phantom_files import case_id
from tfbrats.phantoms.simulation import FULL_SHAPE, simulate
from tfbrats.phantoms.tumour import every, is_enhancing

_TREATED = ("2024", "2025", "2026")  # editions of gliomas after surgery


_RESECTED_EVERY = 2  # in the editions after treatment


def is_resected(seed: int, number: int) -> bool:
    """Whether `write_dataset` gives this case a resection cavity, in the 2024 edition."""
    return every(seed, number, _RESECTED_EVERY, "resected")


def _grade(seed: int, number: int) -> str:
    low = not is_enhancing(seed, number) or every(seed, number, 7, "low grade")
    return "LGG" if low else "HGG"


def _write(path: str, array: np.ndarray, grid: nifti.Grid) -> None:
    files.write_bytes(path, nifti.to_bytes(grid.to_file(array), grid, files.name(path), level=1))


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


def write_cases(output, cases, edition, seed, shape, first, spacing_mm, axes) -> Iterator[str]:
    if edition not in phantom_files.EDITIONS:
        raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(phantom_files.EDITIONS)}.")
    schema = phantom_files.schema(edition)
    file_shape = [shape[["LR", "PA", "SI"].index(next(p for p in ("LR", "PA", "SI") if a in p))] for a in axes]
    grid = nifti.new_grid(file_shape, spacing_mm, axes)
    has_cavities, has_cysts = edition in _TREATED, Tissue.CC in schema.value_of_tissue
    rows = {}
    for number in range(first, first + cases):
        resected = has_cavities and is_resected(seed, number)
        image, tissues = simulate(shape, seed, number, spacing_mm, resected)
        if has_cysts:
            tissues = with_cyst(tissues)
        name, grade = case_id(edition, number), _grade(seed, number)
        paths = phantom_files.paths(output, edition, number, grade)
        by_modality = {m: image[..., channel] for channel, m in enumerate(MODALITIES)}
        if edition == "msd":
            stacked = np.stack([by_modality[m] for m in phantom_files.MSD_CHANNELS.values()], axis=-1)
            _write(paths["flair"], stacked, grid)
        else:
            for modality, array in by_modality.items():
                _write(paths[modality], array, grid)
        rows[name] = grade
        _write(paths["seg"], schema.to_values(tissues, name), grid)
        yield name
    phantom_files.write_tables(output, edition, rows)


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
