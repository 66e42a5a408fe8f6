"""Every slice of a case as a few pictures that a page makes into volumes: one of each scan, one of labels.

A sprite holds all axial slices in rows and columns, cut to the head. Scans are 8-bit and WebP, which is lossy
and small; labels are exact. `reporting/slices.js` reads them and draws any plane of three.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfbrats.cases.boxes import box_of, crop, grown
from tfbrats.labels import Tissue
from tfbrats.pictures import encoding, marks

# Of all slices of a scan. On FLAIR and T1ce a tumour is drawn: they keep most.
MOST_BYTES = {"FLAIR": 160_000, "T1ce": 160_000}
MOST_BYTES_OF_OTHERS = 110_000
MOST_VOXELS = 8_000_000  # of a whole BraTS volume with its air 8.9: what a telephone's canvas still holds
PAIRS = len(Tissue)  # a voxel's number is PAIRS * reference + prediction ...
STEP = 7  # ... times this: a browser that blurs what it reads back by a little is noticed, and does no harm
_MARGIN = 2  # voxels round the head


@dataclass(frozen=True)
class Sprites:
    """A case's slices, and where they lie in its volume.

    Attributes:
        scans: modality's title -> data URI.
        labels: of reference and prediction; a data URI.
        columns: slices in a row of a sprite.
        size: voxels along i, j, k in the sprites.
        first: the volume's index of their first voxel.
        every: how many of the volume's voxels make one of theirs, along i, j, k: 1 but for huge volumes.
        count: voxels of the volume.
        spacing_mm: of the volume.
        at: the voxel, in the sprites, that the planes go through at first.
    """

    scans: Mapping[str, str]
    labels: str
    columns: int
    size: Sequence[int]
    first: Sequence[int]
    every: Sequence[int]
    count: Sequence[int]
    spacing_mm: Sequence[float]
    at: Sequence[int]

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script reads; as JSON."""
        named = ("scans", "labels", "columns", "size", "first", "every", "count", "at")
        mm = [float(side) for side in self.spacing_mm]
        return {name: getattr(self, name) for name in named} | {"spacing": mm}

    @property
    def places(self) -> list[marks.Slice]:
        """The axial, the coronal and the sagittal slice that are shown at first."""
        return [
            marks.Slice(
                axis, self.first[axis] + self.every[axis] * self.at[axis], self.count[axis], self.spacing_mm
            )
            for axis in (2, 1, 0)
        ]


def sprites_of(
    greys: Mapping[str, np.ndarray],
    reference: np.ndarray,
    prediction: np.ndarray,
    voxel: Sequence[int],
    spacing_mm: Sequence[float],
) -> Sprites:
    """All slices of a case.

    Args:
        greys: modality's title -> 0 to 1, [I, J, K].
        reference: tissues, same shape.
        prediction: same shape.
        voxel: the planes go through at first.
        spacing_mm: along i, j, k.
    """
    box = head_box(greys, reference, prediction)
    every = _every([high - low for low, high in box], spacing_mm)
    steps = tuple(slice(None, None, step) for step in every)
    pairs = crop(PAIRS * reference + prediction, box)[steps].astype(np.uint8)
    columns = _columns(pairs.shape)
    scans = {
        title: encoding.small(
            _sheet(np.round(crop(grey, box)[steps] * 255).astype(np.uint8), columns),
            MOST_BYTES.get(title, MOST_BYTES_OF_OTHERS),
        )
        for title, grey in greys.items()
    }
    at = [
        min((place - low) // step, size - 1)
        for place, (low, _), step, size in zip(voxel, box, every, pairs.shape, strict=True)
    ]
    return Sprites(
        scans=scans,
        labels=encoding.exact(_sheet(STEP * pairs, columns)),
        columns=columns,
        size=list(pairs.shape),
        first=[int(low) for low, _ in box],
        every=every,
        count=list(reference.shape),
        spacing_mm=spacing_mm,
        at=[int(place) for place in at],
    )


def head_box(
    greys: Mapping[str, np.ndarray], reference: np.ndarray, prediction: np.ndarray
) -> Sequence[tuple[int, int]]:
    """The head with a small margin: the air around it is a third of a BraTS image."""
    filled = (reference > 0) | (prediction > 0)
    for grey in greys.values():
        filled |= grey > 0
    if not filled.any():
        return [(0, size) for size in filled.shape]
    return grown(box_of(filled), _MARGIN, filled.shape)


def _every(size: Sequence[int], spacing_mm: Sequence[float]) -> list[int]:
    """How many voxels make one along each axis, the finest first, until there are at most `MOST_VOXELS`."""
    every = [1, 1, 1]
    while np.prod([-(-side // step) for side, step in zip(size, every, strict=True)]) > MOST_VOXELS:
        finest = int(np.argmin(np.multiply(every, spacing_mm)))
        every[finest] += 1
    return every


def _columns(size: Sequence[int]) -> int:
    """How many slices [I, J] of K make a row, so that the sprite is about square."""
    width, height, number = size
    return max(1, min(number, round((number * height / width) ** 0.5)))


def _sheet(volume: np.ndarray, columns: int) -> np.ndarray:
    """Axial slices of [I, J, K], rows along j, `columns` of them side by side: [rows, columns of pixels]."""
    width, height, number = volume.shape
    rows = -(-number // columns)
    padded = np.zeros((width, height, rows * columns), volume.dtype)
    padded[..., :number] = volume
    # i, j, (row, column) -> (row, j), (column, i)
    return (
        padded.reshape(width, height, rows, columns)
        .transpose(2, 1, 3, 0)
        .reshape(rows * height, columns * width)
    )
