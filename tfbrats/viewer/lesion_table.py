"""The lesions of one case as a table for people: how large, where, and whether they were found.

A lesion is a connected piece of the whole tumour (26 neighbours). The challenge's lesion-wise scores join and
leave out pieces by rules of their own (`metrics.lesion_rules`); here every piece counts, the largest first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tfbrats.cases.boxes import box_of, crop
from tfbrats.labels import region_mask
from tfbrats.metrics import components

MOST = 8  # rows; the rest is counted


@dataclass(frozen=True)
class Lesion:
    """One piece.

    Attributes:
        side: "reference"; "false", of a prediction, where it touches no piece of the reference; "prediction"
            where no reference is known.
        voxel: (i, j, k) in its thickest part.
        ml: region -> millilitres.
        found: share of a reference's piece that the prediction covers; None where there are not both.
    """

    side: str
    voxel: tuple[int, int, int]
    ml: dict[str, float]
    found: float | None = None

    @property
    def outcome(self) -> str:
        """E.g. "found, 93 %", "missed", "false"; "" where nothing is compared."""
        if self.side == "false":
            return "false"
        if self.found is None:
            return ""
        return f"found, {100 * self.found:.0f} %" if self.found else "missed"


@dataclass(frozen=True)
class Lesions:
    """The largest pieces, and what the others are together."""

    rows: tuple[Lesion, ...]
    others: int
    others_ml: float


def lesions(
    prediction: np.ndarray | None, reference: np.ndarray | None, spacing_mm: Sequence[float]
) -> Lesions:
    """Of the reference where there is one, with the prediction's false pieces; else of the prediction.

    Args:
        prediction: tissues [I, J, K], or None.
        reference: the same.
        spacing_mm: along i, j, k.
    """
    rows = []
    if reference is not None:
        predicted = None if prediction is None else region_mask(prediction, "WT")
        rows += _pieces(reference, spacing_mm, "reference", covered=predicted)
    if prediction is not None:
        if reference is None:
            rows += _pieces(prediction, spacing_mm, "prediction")
        else:
            rows += _pieces(prediction, spacing_mm, "false", apart_from=region_mask(reference, "WT"))
    rows.sort(key=lambda lesion: -lesion.ml["WT"])
    return Lesions(tuple(rows[:MOST]), len(rows[MOST:]), sum(lesion.ml["WT"] for lesion in rows[MOST:]))


def _pieces(
    tissues: np.ndarray,
    spacing_mm: Sequence[float],
    side: str,
    covered: np.ndarray | None = None,
    apart_from: np.ndarray | None = None,
) -> list[Lesion]:
    """Each piece of a label map's whole tumour.

    Args:
        covered: mask of the other side, by which `found` is measured.
        apart_from: leave out the pieces that touch this mask.
    """
    whole = region_mask(tissues, "WT")
    if not whole.any():
        return []
    box = box_of(whole)
    numbers = components.numbered(crop(whole, box))
    sizes = np.bincount(numbers.ravel())
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    parts = {
        region: np.bincount(numbers[crop(region_mask(tissues, region), box)], minlength=len(sizes))
        for region in ("WT", "TC", "ET")
    }
    hit = None if covered is None else np.bincount(numbers[crop(covered, box)], minlength=len(sizes))
    touched = () if apart_from is None else np.unique(numbers[crop(apart_from, box)])
    rows = []
    for number, piece_box in enumerate(components.boxes_of(numbers), start=1):
        if number in touched or piece_box is None:
            continue
        inside = np.pad(crop(numbers, piece_box) == number, 1)
        depth = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
        deepest = np.unravel_index(depth.argmax(), depth.shape)
        voxel = tuple(
            int(at) - 1 + near + far for at, (near, _), (far, _) in zip(deepest, piece_box, box, strict=True)
        )
        ml = {region: float(counts[number]) * voxel_ml for region, counts in parts.items()}
        found = None if hit is None else float(hit[number] / sizes[number])
        rows.append(Lesion(side, voxel, ml, found))
    return rows
