"""Surfaces and the distances between them: areas worked out by hand, borders, what a percentile weighs."""

import math

import numpy as np
import pytest
from masks import ball, box

from tfbrats.metrics import surfaces

MM = (1.0, 1.0, 1.0)

# --- distances ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distances", [surfaces.element_distances, surfaces.voxel_distances])
def test_every_distance_is_the_one_found_by_trying_all_pairs(distances):
    shape, spacing_mm = (14, 12, 10), (0.7, 1.3, 2.9)
    a, b = (np.random.default_rng(seed).random(shape) < 0.03 for seed in (1, 2))
    found = distances(a, b, spacing_mm)

    def surface(mask):  # by its definition, voxel by voxel; the pieces' order is that of the array
        around = np.pad(mask, 1)
        if distances is surfaces.voxel_distances:
            steps = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
            pieces = [p for p in np.argwhere(around) if not all(around[tuple(p + step)] for step in steps)]
        else:
            corners = [np.s_[p[0] : p[0] + 2, p[1] : p[1] + 2, p[2] : p[2] + 2] for p in np.ndindex(15, 13, 11)]
            cubes = {tuple(side.start for side in corner): around[corner] for corner in corners}
            pieces = [p for p, cube in cubes.items() if cube.any() and not cube.all()]
        return np.array(pieces) * spacing_mm

    there, back = surface(a), surface(b)
    apart = np.linalg.norm(there[:, None] - back[None], axis=-1)
    np.testing.assert_allclose(found.prediction_to_reference_mm, apart.min(axis=1), atol=1e-12)
    np.testing.assert_allclose(found.reference_to_prediction_mm, apart.min(axis=0), atol=1e-12)


@pytest.mark.parametrize("distances", [surfaces.element_distances, surfaces.voxel_distances])
def test_one_step_is_exactly_one_step_wherever_it_lies(distances):
    # 31 * 0.7 - 30 * 0.7 is not 0.7: a tolerance of 0.7 mm would miss some steps. The first voxel, which both
    # masks have, keeps the others from being counted from their own place.
    for at in range(5, 38):
        a, b = (box((0, 1), (2, 3), (2, 3), shape=(40, 5, 5)) for _ in range(2))
        a[at, 2, 2] = b[at + 1, 2, 2] = True
        found = distances(a, b, (0.7, 1.0, 1.0))
        assert found.prediction_to_reference_mm.max() == found.reference_to_prediction_mm.max() == 0.7


def test_both_kinds_at_once_are_what_each_gives_alone():
    a, b = ball((6, 6, 6), 4, MM, (13, 13, 13)), ball((7, 5, 6), 5, MM, (13, 13, 13))
    elements, voxels = surfaces.both_distances(a, b, (1, 2, 3))
    alone = surfaces.element_distances(a, b, (1, 2, 3))
    np.testing.assert_array_equal(elements.reference_to_prediction_mm, alone.reference_to_prediction_mm)
    np.testing.assert_array_equal(elements.prediction_areas_mm2, alone.prediction_areas_mm2)
    alone = surfaces.voxel_distances(a, b, (1, 2, 3))
    np.testing.assert_array_equal(voxels.prediction_to_reference_mm, alone.prediction_to_reference_mm)


def test_masks_laid_out_along_k_first_have_the_same_distances():
    # NIfTI files are read so: the strides run the other way round.
    a, b = ball((6, 6, 6), 4, MM, (13, 13, 13)), ball((7, 5, 6), 5, MM, (13, 13, 13))
    plain = surfaces.element_distances(a, b, (1, 2, 3))
    turned = surfaces.element_distances(np.asfortranarray(a), np.asfortranarray(b), (1, 2, 3))
    np.testing.assert_array_equal(plain.prediction_to_reference_mm, turned.prediction_to_reference_mm)


# --- what distances say ---------------------------------------------------------------------------------


def test_hd95_weighs_pieces_by_area_and_takes_the_worse_direction():
    near, far = np.array([0.0, 10.0]), np.array([1.0, 1.0])
    little, much = np.array([96.0, 4.0]), np.array([94.0, 6.0])
    ones = np.ones(2)
    for areas_mm2, expected_mm in ((little, 1.0), (much, 10.0)):
        one_way = surfaces.SurfaceDistances(near, far, areas_mm2, ones)
        other_way = surfaces.SurfaceDistances(far, near, ones, areas_mm2)
        assert surfaces.robust_hausdorff_mm(one_way, 95) == expected_mm
        assert surfaces.robust_hausdorff_mm(other_way, 95) == expected_mm


def test_the_surface_dice_of_areas_is_their_share_within_the_tolerance():
    distances = surfaces.SurfaceDistances(
        np.array([0.0, 1.0, 1.5]), np.array([0.5, 3.0]), np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0])
    )
    assert surfaces.area_within(distances, 1) == pytest.approx((1 + 2 + 4) / (6 + 9))  # 1 mm is within 1 mm
    # Voxels count alike, and each surface for half: 2 of 3, and 1 of 2.
    assert surfaces.voxels_within(distances, 1) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_wider_tolerance_never_lowers_the_surface_dice():
    a, b = ball((9, 9, 9), 6, (1, 1, 2), (19, 19, 19)), ball((11, 8, 9), 7, (1, 1, 2), (19, 19, 19))
    distances = surfaces.element_distances(a, b, (1, 1, 2))
    shares = [surfaces.area_within(distances, tolerance_mm) for tolerance_mm in (0, 0.5, 1, 2, 4, 8)]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1] == 1


def test_the_surface_dice_is_1_within_any_tolerance_and_0_beyond():
    # Plates a step of 3 mm apart along i: all of both surfaces but nothing less than 3 mm away.
    plate, moved = box((3, 4), (2, 9), (2, 9)), box((4, 5), (2, 9), (2, 9))
    near = surfaces.element_distances(plate, moved, (3, 1, 1))
    assert surfaces.area_within(near, 3) == 1
    # The plates share the faces halfway between them: less than all, more than nothing.
    assert 0 < surfaces.area_within(near, 2.9) < 1
    far = box((9, 10), (2, 9), (2, 9))
    assert surfaces.area_within(surfaces.element_distances(plate, far, (3, 1, 1)), 2.9) == 0
    assert surfaces.area_within(surfaces.element_distances(plate, far, (0.5, 1, 1)), 2.9) > 0


def test_pooled_percentiles_count_both_directions_alike():
    distances = surfaces.SurfaceDistances(np.arange(51.0), np.arange(51.0, 101.0))
    assert surfaces.pooled_percentile_mm(distances, 95) == 95
    assert surfaces.pooled_percentile_mm(distances, 100) == 100


# --- area of surface elements ---------------------------------------------------------------------------


def code(*corners):
    return sum(1 << surfaces._CORNERS.index(corner) for corner in corners)


def test_surface_areas_of_hand_worked_neighbourhoods():
    table = surfaces.surface_area_table_mm2((3.0, 2.0, 1.0))
    assert table[code()] == 0
    # One corner of a 3 x 2 x 1 mm box is cut off by the triangle through three edge midpoints.
    one = math.sqrt((2 * 1) ** 2 + (3 * 1) ** 2 + (3 * 2) ** 2) / 8
    assert table[code((0, 0, 0))] == pytest.approx(one)
    # Opposite corners: two such triangles.
    assert table[code((0, 0, 0), (1, 1, 1))] == pytest.approx(2 * one)
    # A face: the rectangle halfway, 3 mm x 2 mm.
    assert table[code((0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0))] == pytest.approx(3 * 2)
    # An edge along i: a rectangle of 3 mm by the slanted half diagonal of the 2 x 1 mm face.
    assert table[code((0, 0, 0), (1, 0, 0))] == pytest.approx(3 * math.hypot(1, 0.5))
    # A corner and its three neighbours in a cube: the regular hexagon with sides of half a diagonal.
    cube = surfaces.surface_area_table_mm2(MM)
    hexagon = 3 * math.sqrt(3) / 2 * 0.5
    assert cube[code((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))] == pytest.approx(hexagon)


def test_inside_and_outside_share_one_surface():
    table = surfaces.surface_area_table_mm2((0.7, 1.3, 5.0))
    np.testing.assert_array_equal(table, table[::-1])


# surface-distance 0.1 (Apache-2.0): sum of its 256 areas; independent of how corners are numbered.
@pytest.mark.parametrize(
    ("spacing_mm", "total", "largest"),
    [(MM, 241.34313970553745, 1.573132184970986), ((3.0, 2.0, 1.0), 950.4895895094023, 6.758189813209032)],
)
def test_surface_areas_add_up_to_those_of_surface_distance(spacing_mm, total, largest):
    table = surfaces.surface_area_table_mm2(spacing_mm)
    assert table.sum() == pytest.approx(total, rel=1e-12)
    assert table.max() == pytest.approx(largest, rel=1e-12)


def test_the_surface_of_a_ball_is_near_its_true_area_at_any_spacing():
    for spacing_mm, shape in ((MM, (45, 45, 45)), ((0.5, 1.0, 2.0), (90, 45, 23))):
        centre = [(size - 1) / 2 for size in shape]
        found = ball(centre, 18, spacing_mm, shape)
        area = surfaces.element_distances(found, found, spacing_mm).reference_areas_mm2.sum()
        # A surface through voxel steps is somewhat larger than a smooth one.
        assert 1.0 < area / (4 * math.pi * 18**2) < 1.25
