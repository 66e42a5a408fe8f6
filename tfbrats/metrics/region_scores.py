"""Scores of one segmentation against its reference. Pure numpy and SciPy: no I/O, no TensorFlow.

Refuses to hide what is undefined: what a score is when a region is missing from the reference, the
prediction or both follows a rule that is chosen by name and reported beside the number.

Two public definitions of HD95 differ by several mm on the same masks, so both are here under their own
names: `hd95_mm` is surface-distance's, which the challenge has used since 2023, `hd95_pooled_mm` MedPy's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, region_mask
from tfbrats.metrics import one_grid, surfaces

# What the challenge gives to a region that only one side has: the diagonal of its 240 x 240 x 155 mm
# image, hypot(240, 240, 155), to the four places in which it is published.
MISSING_REGION_MM = 373.1287

EMPTY_RULES = {
    "brats": (
        "BraTS 2017-2021: region absent from both: Dice and surface Dice 1, sensitivity 1, distances 0; from "
        f"one: Dice and surface Dice 0, sensitivity 0, distances {MISSING_REGION_MM} mm, the diagonal of a "
        "240 x 240 x 155 mm image"
    ),
    "nan": "an undefined score is left out of the means (Dice without the region on either side, "
    "sensitivity without it in the reference, distances and surface Dice without it on any side)",
}


@dataclass(frozen=True)
class RegionScores:
    """One region of one case: a row of metrics.csv, its fields the columns.

    Attributes:
        specificity_tumour_slices: over the axial slices that hold reference WT; nan if none does.
        hausdorff_mm: the largest distance from a surface voxel to the other surface (paper B, eq. 4).
        hd95_mm: as surface-distance has it: percentile per direction, weighted by area, then the larger.
        hd95_pooled_mm: as MedPy has it: one percentile of both directions' distances.
        nsd_1mm: normalised surface Dice, surface-distance's: share of both surfaces' area that is at most 1 mm
            from the other surface.
        empty: which side lacks the region: "both", "reference", "prediction", or "" when neither does.
    """

    region: str
    dice: float
    sensitivity: float
    specificity: float
    specificity_tumour_slices: float
    hausdorff_mm: float
    hd95_mm: float
    hd95_pooled_mm: float
    nsd_1mm: float
    volume_ml: float
    reference_volume_ml: float
    empty: str


SCORES = tuple(field.name for field in fields(RegionScores) if field.type is float)
DISTANCES = ("hausdorff_mm", "hd95_mm", "hd95_pooled_mm")


def score_case(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], empty: str = "brats"
) -> list[RegionScores]:
    """All scores of one case, a row for each of WT, TC and ET.

    Args:
        prediction: tissues (`labels.Tissue`) [I, J, K], K the axial slices.
        reference: tissues of the same shape.
        spacing_mm: voxel size along i, j, k.
        empty: a key of `EMPTY_RULES`.

    Raises:
        InputError: the shapes differ, or the rule is unknown.
    """
    if empty not in EMPTY_RULES:
        raise InputError(f"empty-mask rule {empty!r} is unknown; choose from {', '.join(EMPTY_RULES)}.")
    one_grid.check(prediction, reference)
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    size, slice_size = reference.size, reference[:, :, :1].size
    # prediction, reference: 240 x 240 x 155; all that is neither is only counted
    prediction, reference = one_grid.cropped(prediction, reference)
    # cropped: ~110 x 140 x 110
    slices = region_mask(reference, "WT").any(axis=(0, 1))
    rows, on_surfaces = [], {}
    for region in REGIONS:
        masks = region_mask(prediction, region), region_mask(reference, region)
        overlap = Overlap.of(*masks, size)
        in_slices = Overlap.of(*(mask[:, :, slices] for mask in masks), slice_size * _count(slices))
        # Each region lies in the one before it: where it is as large, it is the same, as are its surfaces.
        key = (overlap.predicted, overlap.positives)
        if key not in on_surfaces:
            on_surfaces[key] = _surface_scores(*masks, spacing_mm, overlap.absent_from(), empty)
        rows.append(
            RegionScores(
                region=region,
                dice=overlap.dice(empty),
                sensitivity=overlap.sensitivity(empty),
                specificity=overlap.specificity(),
                specificity_tumour_slices=in_slices.specificity(),
                volume_ml=overlap.predicted * voxel_ml,
                reference_volume_ml=overlap.positives * voxel_ml,
                empty=overlap.absent_from(),
                **on_surfaces[key],
            )
        )
    return rows


def touched_by_rule(score: str, empty: str) -> bool:
    """Whether a row's `score` was settled by the empty-mask rule, given its `empty` entry."""
    if score == "sensitivity":  # an empty prediction has sensitivity 0 by the formula
        return empty in ("both", "reference")
    return bool(empty) and score in ("dice", "nsd_1mm", *DISTANCES)


def _count(mask: np.ndarray) -> int:
    return int(np.count_nonzero(mask))  # a plain int makes plain floats, which JSON and CSV can hold


@dataclass(frozen=True)
class Overlap:
    """Voxels of two masks counted once, for all scores that are made of counts.

    Attributes:
        positives: in the reference.
        predicted: in the prediction.
        hits: in both.
        size: of the image, which may be more than the masks show.
    """

    positives: int
    predicted: int
    hits: int
    size: int

    @classmethod
    def of(cls, prediction: np.ndarray, reference: np.ndarray, size: int) -> "Overlap":
        """Of two masks, bool and of one shape."""
        return cls(_count(reference), _count(prediction), _count(prediction & reference), size)

    def absent_from(self) -> str:
        """Which of the masks is empty: "both", "reference", "prediction" or "" (neither)."""
        if self.predicted:
            return "" if self.positives else "reference"
        return "prediction" if self.positives else "both"

    def dice(self, empty: str) -> float:
        """2 TP / (2 TP + FP + FN); both empty: 1 under rule `brats`, nan under rule `nan`."""
        if self.absent_from() == "both":
            return 1.0 if empty == "brats" else math.nan
        return 2 * self.hits / (self.predicted + self.positives)

    def sensitivity(self, empty: str) -> float:
        """TP / (TP + FN).

        Without reference the formula is 0 / 0. Rule `brats` then does as the challenge's scorer and GaNDLF do:
        1 if the prediction is empty too, else 0, so that inventing a structure is never free; `nan`: nan.
        """
        if self.positives == 0:
            return math.nan if empty == "nan" else float(not self.predicted)
        return self.hits / self.positives

    def specificity(self) -> float:
        """TN / (TN + FP); nan under any rule where nothing is negative.

        Over a whole volume it is close to 1 for any tumour; paper A's figures fit tumour-bearing slices.
        """
        negatives = self.size - self.positives
        if negatives == 0:
            return math.nan
        return (negatives - (self.predicted - self.hits)) / negatives


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) of two masks (bool, one shape); both empty: 1."""
    return Overlap.of(prediction, reference, reference.size).dice("brats")


def _surface_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], absent: str, empty: str
) -> dict[str, float]:
    """The scores of two masks that are made of distances, every surface and distance computed once.

    Args:
        absent: as `Overlap.absent_from`.
        empty: a key of `EMPTY_RULES`.
    """
    if absent:
        return {score: _by_rule(score, absent, empty) for score in (*DISTANCES, "nsd_1mm")}
    elements, voxels = surfaces.both_distances(prediction, reference, spacing_mm)
    return {
        "hausdorff_mm": surfaces.pooled_percentile_mm(voxels, 100),
        "hd95_mm": surfaces.robust_hausdorff_mm(elements, 95),
        "hd95_pooled_mm": surfaces.pooled_percentile_mm(voxels, 95),
        "nsd_1mm": surfaces.area_within(elements, 1),
    }


def _by_rule(score: str, absent: str, empty: str) -> float:
    if empty == "nan":
        return math.nan
    if score in DISTANCES:
        return 0.0 if absent == "both" else MISSING_REGION_MM
    return 1.0 if absent == "both" else 0.0
