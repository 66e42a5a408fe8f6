"""Surfaces of two masks and the distances between them, in mm. Pure numpy and SciPy.

Two kinds of surface, as the two public definitions of HD95 need: surface elements with an area
(surface-distance) and voxels that count alike (MedPy). Refuses empty masks: what a distance is then is a
rule's to say (`region_scores`, `lesions`).
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import spatial

from tfbrats.cases import boxes


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


# --- distances ------------------------------------------------------------------------------------------


def element_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """surface-distance's surfaces: the points where eight voxels meet and differ, with their areas.

    Args:
        prediction: bool [I, J, K], not empty.
        reference: bool, same shape, not empty.
        spacing_mm: voxel size along i, j, k.
    """
    return _element_distances(*_cropped(prediction, reference), spacing_mm)


def voxel_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """MedPy's surfaces: the mask's voxels with one of six neighbours outside it. Arguments as above."""
    return _voxel_distances(*_cropped(prediction, reference), spacing_mm)


def both_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[SurfaceDistances, SurfaceDistances]:
    """`element_distances` and `voxel_distances`, the masks cropped once. Arguments as above."""
    cropped = _cropped(prediction, reference)
    return _element_distances(*cropped, spacing_mm), _voxel_distances(*cropped, spacing_mm)


def _element_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    table = surface_area_table_mm2(tuple(map(float, spacing_mm)))
    points, areas = [], []
    for mask in (prediction, reference):
        codes = _neighbour_codes(mask)
        where = np.flatnonzero(codes - np.uint8(1) < 254)  # neither 0 (wraps to 255) nor 255
        points.append(_positions(where, codes.shape))
        areas.append(table[codes.ravel()[where]])
    return SurfaceDistances(*_nearest_mm(*points, spacing_mm), *areas)


def _voxel_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    points = []
    for mask in (prediction, reference):
        inside = mask[1:-1, 1:-1, 1:-1] & mask[:-2, 1:-1, 1:-1] & mask[2:, 1:-1, 1:-1]
        inside &= mask[1:-1, :-2, 1:-1] & mask[1:-1, 2:, 1:-1]
        inside &= mask[1:-1, 1:-1, :-2] & mask[1:-1, 1:-1, 2:]
        surface = mask[1:-1, 1:-1, 1:-1] ^ inside
        points.append(_positions(np.flatnonzero(surface), surface.shape))
    return SurfaceDistances(*_nearest_mm(*points, spacing_mm))


def _positions(where: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Flat indices [number] into an array of `shape` -> voxel positions [number, 3]."""
    return np.stack(np.unravel_index(where, shape), axis=-1)


def _nearest_mm(
    points: np.ndarray, others: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """From each point to the nearest of the others and back; both [number, 3] in voxels."""
    # k-d trees of the surfaces are several times as fast as distance transforms of the volume. Points of a
    # grid need no balance, and leaves that keep their large boxes make far queries twice as fast.
    spacing_mm = np.asarray(spacing_mm, float)
    points_mm, others_mm = points * spacing_mm, others * spacing_mm
    tree, others_tree = (
        spatial.cKDTree(each, leafsize=32, balanced_tree=False, compact_nodes=False)
        for each in (points_mm, others_mm)
    )
    there, back = others_tree.query(points_mm)[1], tree.query(others_mm)[1]
    # Again from whole steps: 31 * 0.7 - 30 * 0.7 is more than 0.7, and a tolerance of 0.7 mm would see it.
    return tuple(
        np.sqrt(np.square((here - near) * spacing_mm).sum(axis=-1))
        for here, near in ((points, others[there]), (others, points[back]))
    )


def _cropped(prediction: np.ndarray, reference: np.ndarray) -> list[np.ndarray]:
    """Both masks in the box that holds them, with a rim of one background voxel."""
    # The rim puts a voxel at the image's edge on the surface, as both public definitions do.
    box = boxes.box_of(prediction | reference)
    cropped = np.zeros((2, *(high - low + 2 for low, high in box)), bool)
    for room, mask in zip(cropped, (prediction, reference), strict=True):
        room[1:-1, 1:-1, 1:-1] = boxes.crop(mask, box)
    return list(cropped)


# --- what distances say ---------------------------------------------------------------------------------


def robust_hausdorff_mm(distances: SurfaceDistances, percent: float) -> float:
    """The percentile of each direction, weighted by area; then the larger. 100: surface-distance's HD100."""
    return max(
        _weighted_percentile(distances.prediction_to_reference_mm, distances.prediction_areas_mm2, percent),
        _weighted_percentile(distances.reference_to_prediction_mm, distances.reference_areas_mm2, percent),
    )


def pooled_percentile_mm(distances: SurfaceDistances, percent: float) -> float:
    """One percentile of both directions' distances, every piece alike: 95 is MedPy's HD95, 100 its HD."""
    pooled = (distances.prediction_to_reference_mm, distances.reference_to_prediction_mm)
    return float(np.percentile(np.concatenate(pooled), percent))


def area_within(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Share of both surfaces' area that lies within `tolerance_mm` of the other: surface-distance's NSD."""
    there = distances.prediction_areas_mm2[distances.prediction_to_reference_mm <= tolerance_mm].sum()
    back = distances.reference_areas_mm2[distances.reference_to_prediction_mm <= tolerance_mm].sum()
    return float((there + back) / (distances.prediction_areas_mm2.sum() + distances.reference_areas_mm2.sum()))


def voxels_within(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Share of each surface's voxels within `tolerance_mm` of the other, mean of the two: nnU-Net's NSD."""
    there = np.mean(distances.prediction_to_reference_mm <= tolerance_mm)
    back = np.mean(distances.reference_to_prediction_mm <= tolerance_mm)
    return float((there + back) / 2)


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
    codes = mask.view(np.uint8)
    codes = codes[:, :, :-1] | codes[:, :, 1:] << 1  # two corners along k
    codes = codes[:, :-1] | codes[:, 1:] << 2  # four on a face
    return codes[:-1] | codes[1:] << 4


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
