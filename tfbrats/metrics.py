"""Scores of one segmentation against its reference. Pure numpy and SciPy: no I/O, no TensorFlow.

Refuses to hide what is undefined: what a score is when a region is missing from the reference, the
prediction or both follows a rule that is chosen by name and reported beside the number.

Two public definitions of HD95 differ by several mm on the same masks, so both are here under their own
names: `hd95_mm` is surface-distance's, which the challenge has used since 2023, `hd95_pooled_mm` MedPy's.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage, spatial

from tfbrats.command import InputError
from tfbrats.labels import REGIONS, region_mask

# What the challenge gives to a region that only one side has: the diagonal of its 240 x 240 x 155 mm
# image, hypot(240, 240, 155), to the four places in which it is published.
MISSING_REGION_MM = 373.1287

EMPTY_RULES = {
    "brats": (
        "BraTS 2017-2021: region absent from both: Dice 1, sensitivity 1, distances 0; from one: Dice 0, "
        f"sensitivity 0, distances {MISSING_REGION_MM} mm, the diagonal of a 240 x 240 x 155 mm image"
    ),
    "nan": "an undefined score is left out of the means (Dice without the region on either side, "
    "sensitivity without it in the reference, distances without it on any side)",
}


@dataclass(frozen=True)
class RegionScores:
    """One region of one case: a row of metrics.csv, its fields the columns.

    Attributes:
        empty: which side lacks the region: "both", "reference", "prediction", or "" when neither does.
        specificity_tumour_slices: over the axial slices that hold reference WT; nan if none does.
    """

    region: str
    dice: float
    sensitivity: float
    specificity: float
    hd95_mm: float
    specificity_tumour_slices: float
    hausdorff_mm: float
    hd95_pooled_mm: float
    volume_ml: float
    reference_volume_ml: float
    empty: str


SCORES = tuple(field.name for field in fields(RegionScores) if field.type is float)
DISTANCES = ("hd95_mm", "hausdorff_mm", "hd95_pooled_mm")


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
    _check(prediction, reference, empty)
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    whole_tumour = region_mask(reference, "WT")
    rows = []
    for region in REGIONS:
        ours, theirs = region_mask(prediction, region), region_mask(reference, region)
        distances = _surface_scores(ours, theirs, spacing_mm, empty)
        rows.append(
            RegionScores(
                region=region,
                dice=dice(ours, theirs, empty),
                sensitivity=sensitivity(ours, theirs, empty),
                specificity=specificity(ours, theirs),
                specificity_tumour_slices=specificity_tumour_slices(ours, theirs, whole_tumour),
                volume_ml=_count(ours) * voxel_ml,
                reference_volume_ml=_count(theirs) * voxel_ml,
                empty=absent_from(ours, theirs),
                **distances,
            )
        )
    return rows


def absent_from(prediction: np.ndarray, reference: np.ndarray) -> str:
    """Which of two masks is empty: "both", "reference", "prediction" or "" (neither)."""
    if prediction.any():
        return "" if reference.any() else "reference"
    return "prediction" if reference.any() else "both"


def touched_by_rule(score: str, empty: str) -> bool:
    """Whether a row's `score` was settled by the empty-mask rule, given its `empty` entry."""
    if score == "sensitivity":  # an empty prediction has sensitivity 0 by the formula
        return empty in ("both", "reference")
    return bool(empty) and score in ("dice", *DISTANCES)


def _check(prediction: np.ndarray, reference: np.ndarray, empty: str) -> None:
    if empty not in EMPTY_RULES:
        raise InputError(f"empty-mask rule {empty!r} is unknown; choose from {', '.join(EMPTY_RULES)}.")
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise InputError(
            f"prediction of shape {prediction.shape}, reference of shape {reference.shape}; expected one "
            "shape [I, J, K]. Resample one onto the other's grid."
        )


def _count(mask: np.ndarray) -> int:
    return int(np.count_nonzero(mask))  # a plain int makes plain floats, which JSON and CSV can hold


# --- overlap --------------------------------------------------------------------------------------------


def dice(prediction: np.ndarray, reference: np.ndarray, empty: str = "brats") -> float:
    """2 TP / (2 TP + FP + FN) of two masks (bool, same shape); both empty: 1, or nan under rule `nan`."""
    sizes = _count(prediction) + _count(reference)
    if sizes == 0:
        return 1.0 if empty == "brats" else math.nan
    return 2 * _count(prediction & reference) / sizes


def sensitivity(prediction: np.ndarray, reference: np.ndarray, empty: str = "brats") -> float:
    """TP / (TP + FN) of two masks (bool, same shape).

    Without reference the formula is 0 / 0. Rule `brats` then does as the challenge's scorer and GaNDLF do:
    1 if the prediction is empty too, else 0, so that inventing a structure is never free; `nan`: nan.
    """
    positives = _count(reference)
    if positives == 0:
        return math.nan if empty == "nan" else float(not prediction.any())
    return _count(prediction & reference) / positives


def specificity(prediction: np.ndarray, reference: np.ndarray) -> float:
    """TN / (TN + FP) of two masks (bool, same shape); nan under any rule where nothing is negative.

    Over a whole volume it is close to 1 for any tumour; paper A's figures fit tumour-bearing slices.
    """
    negatives = reference.size - _count(reference)
    if negatives == 0:
        return math.nan
    return (negatives - _count(prediction & ~reference)) / negatives


def specificity_tumour_slices(
    prediction: np.ndarray, reference: np.ndarray, reference_whole_tumour: np.ndarray
) -> float:
    """Specificity over the axial slices k in which `reference_whole_tumour` (bool [I, J, K]) has a voxel."""
    slices = reference_whole_tumour.any(axis=(0, 1))
    return specificity(prediction[:, :, slices], reference[:, :, slices])


# --- distances ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SurfaceDistances:
    """How far each piece of one surface is from the other surface, both ways.

    Attributes:
        prediction_to_reference_mm: [pieces of the predicted surface].
        reference_to_prediction_mm: [pieces of the reference surface].
        prediction_areas_mm2: area of each piece, or None where pieces are voxels and count alike.
        reference_areas_mm2: same.
    """

    prediction_to_reference_mm: np.ndarray
    reference_to_prediction_mm: np.ndarray
    prediction_areas_mm2: np.ndarray | None = None
    reference_areas_mm2: np.ndarray | None = None


def surface_element_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """surface-distance's surfaces: the points where eight voxels meet and differ, with their areas.

    Args:
        prediction: bool [I, J, K], not empty.
        reference: bool, same shape, not empty.
        spacing_mm: voxel size along i, j, k.
    """
    codes = [_neighbour_codes(mask) for mask in _crop(prediction, reference)]
    points = [np.argwhere((code != 0) & (code != 255)) for code in codes]
    table = surface_area_table_mm2(tuple(map(float, spacing_mm)))
    areas = [table[code[tuple(where.T)]] for code, where in zip(codes, points, strict=True)]
    return SurfaceDistances(*_nearest_mm(*points, spacing_mm), *areas)


def surface_voxel_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """MedPy's surfaces: the mask's voxels with one of six neighbours outside it. Arguments as above."""
    # The crop has a rim of background, so a voxel at the image's edge lies on the surface, as in MedPy.
    points = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) for mask in _crop(prediction, reference)]
    return SurfaceDistances(*_nearest_mm(*points, spacing_mm))


def robust_hausdorff_mm(distances: SurfaceDistances, percent: float) -> float:
    """The percentile of each direction, weighted by area; then the larger. 100: surface-distance's HD100."""
    return max(
        _weighted_percentile(distances.prediction_to_reference_mm, distances.prediction_areas_mm2, percent),
        _weighted_percentile(distances.reference_to_prediction_mm, distances.reference_areas_mm2, percent),
    )


def hd95_mm(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], empty: str = "brats"
) -> float:
    """HD95 as surface-distance has it: percentile per direction, weighted by area, then the larger.

    Args:
        prediction: bool [I, J, K].
        reference: bool, same shape.
        spacing_mm: voxel size along i, j, k.
        empty: a key of `EMPTY_RULES`.

    Raises:
        InputError: the shapes differ, or the rule is unknown.
    """

    def defined() -> float:
        return robust_hausdorff_mm(surface_element_distances(prediction, reference, spacing_mm), 95)

    return _or_by_rule(defined, prediction, reference, empty)


def hd95_pooled_mm(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], empty: str = "brats"
) -> float:
    """HD95 as MedPy has it: one percentile of both directions' distances. As `hd95_mm` otherwise."""

    def defined() -> float:
        return _pooled_percentile(surface_voxel_distances(prediction, reference, spacing_mm), 95)

    return _or_by_rule(defined, prediction, reference, empty)


def hausdorff_mm(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], empty: str = "brats"
) -> float:
    """The largest distance from a surface voxel to the other surface (paper B, eq. 4). As `hd95_mm`."""

    def defined() -> float:
        return _pooled_percentile(surface_voxel_distances(prediction, reference, spacing_mm), 100)

    return _or_by_rule(defined, prediction, reference, empty)


def _surface_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], empty: str
) -> dict[str, float]:
    """The three distances above with every surface and distance computed once."""
    absent = absent_from(prediction, reference)
    if absent:
        return dict.fromkeys(DISTANCES, _distance_by_rule(absent, empty))
    prediction, reference = _crop(prediction, reference)
    voxels = surface_voxel_distances(prediction, reference, spacing_mm)
    return {
        "hd95_mm": robust_hausdorff_mm(surface_element_distances(prediction, reference, spacing_mm), 95),
        "hausdorff_mm": _pooled_percentile(voxels, 100),
        "hd95_pooled_mm": _pooled_percentile(voxels, 95),
    }


def _or_by_rule(
    defined: Callable[[], float], prediction: np.ndarray, reference: np.ndarray, empty: str
) -> float:
    _check(prediction, reference, empty)
    absent = absent_from(prediction, reference)
    return _distance_by_rule(absent, empty) if absent else defined()


def _distance_by_rule(absent: str, empty: str) -> float:
    if empty == "nan":
        return math.nan
    return 0.0 if absent == "both" else MISSING_REGION_MM


def _crop(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks in the box that holds them, with a rim of one background voxel."""
    either = prediction | reference
    box = []
    for axis in range(3):
        found = np.flatnonzero(either.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(found[0], found[-1] + 1))
    return tuple(np.pad(mask[tuple(box)], 1) for mask in (prediction, reference))


def _nearest_mm(
    points: np.ndarray, others: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """From each point to the nearest of the others and back; both [number, 3] in voxels."""
    # A k-d tree of the surfaces is three times as fast as distance transforms of the volume.
    points, others = points * np.asarray(spacing_mm), others * np.asarray(spacing_mm)
    there, _ = spatial.cKDTree(others).query(points)
    back, _ = spatial.cKDTree(points).query(others)
    return there, back


def _pooled_percentile(distances: SurfaceDistances, percent: float) -> float:
    pooled = [distances.prediction_to_reference_mm, distances.reference_to_prediction_mm]
    return float(np.percentile(np.concatenate(pooled), percent))


def _weighted_percentile(distances_mm: np.ndarray, areas_mm2: np.ndarray, percent: float) -> float:
    order = np.lexsort((areas_mm2, distances_mm))
    share = np.cumsum(areas_mm2[order]) / areas_mm2.sum()
    place = min(np.searchsorted(share, percent / 100), len(order) - 1)
    return float(distances_mm[order[place]])


# --- area of surface elements ---------------------------------------------------------------------------
#
# Eight voxels that meet in a point are the corners of a cube; their bits are its neighbour code. Where
# inside and outside share an edge of the cube, the surface crosses it halfway. The crossings form closed
# loops, and a loop cut into triangles is the surface element. A loop of five or more crossings is not flat
# and its area depends on the cut: of all cuts the one of largest area (of a cubic voxel) gives exactly
# surface-distance's table, for all 256 codes and any spacing.

_CORNERS = tuple(itertools.product((0, 1), repeat=3))


def _neighbour_codes(mask: np.ndarray) -> np.ndarray:
    """Mask [I, J, K] -> uint8 [I-1, J-1, K-1]: bit n says whether corner n of that point is inside."""
    codes = np.zeros([size - 1 for size in mask.shape], np.uint8)
    for bit, corner in enumerate(_CORNERS):
        view = mask[tuple(slice(at, at + size) for at, size in zip(corner, codes.shape, strict=True))]
        codes |= view.astype(np.uint8) << bit
    return codes


@functools.lru_cache(maxsize=16)
def surface_area_table_mm2(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Area of the surface inside one voxel's box for each neighbour code: float64 [256], in mm2."""
    i, j, k = spacing_mm
    scaled = _triangle_area_vectors() * (j * k, i * k, i * j)
    table = np.linalg.norm(scaled, axis=-1).sum(axis=-1)
    table.flags.writeable = False  # shared by all callers
    return table


@functools.cache
def _triangle_area_vectors() -> np.ndarray:
    """For each code its triangles' normals, as long as the triangle's area: [256, 4, 3], cubic voxels."""
    vectors = np.zeros((256, 4, 3))
    for code in range(256):
        inside = {corner for bit, corner in enumerate(_CORNERS) if code >> bit & 1}
        if len(inside) > 4:  # the same surface seen from the other side
            inside = set(_CORNERS) - inside
        triangles = [triangle for loop in _crossing_loops(inside) for triangle in _largest_cut(loop)]
        vectors[code, : len(triangles)] = np.reshape(triangles, (-1, 3))
    return vectors


def _crossing_loops(inside: set[tuple[int, int, int]]) -> list[np.ndarray]:
    """The loops of crossings, each as points [number, 3] in order."""
    crossings = [(a, b) for a in sorted(inside) for b in _CORNERS if b not in inside and math.dist(a, b) == 1]
    neighbours = {crossing: [] for crossing in crossings}
    for axis, side in itertools.product(range(3), (0, 1)):
        on_face = [(a, b) for a, b in crossings if a[axis] == b[axis] == side]
        for one, other in itertools.combinations(on_face, 2):
            # Four crossings on a face: two inside corners face each other; they are kept apart.
            if len(on_face) == 2 or one[0] == other[0]:
                neighbours[one].append(other)
                neighbours[other].append(one)
    loops = []
    while neighbours:
        crossing, loop = next(iter(neighbours)), []
        while crossing is not None:
            loop.append(np.mean(crossing, axis=0))
            crossing = next((n for n in neighbours.pop(crossing) if n in neighbours), None)
        loops.append(np.array(loop))
    return loops


def _largest_cut(loop: np.ndarray) -> list[np.ndarray]:
    """Area vectors of the triangles into which `loop` (points [number, 3]) is cut for the largest area."""
    cuts = list(_cuts(loop))
    return max(cuts, key=lambda vectors: round(sum(np.linalg.norm(v) for v in vectors), 9))


def _cuts(loop: np.ndarray) -> Iterator[list[np.ndarray]]:
    if len(loop) < 3:
        yield []
        return
    for apex in range(1, len(loop) - 1):
        triangle = np.cross(loop[apex] - loop[0], loop[-1] - loop[0]) / 2
        for before, after in itertools.product(_cuts(loop[: apex + 1]), _cuts(loop[apex:])):
            yield [triangle, *before, *after]
