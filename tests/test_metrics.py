"""Scores: masks whose answer is known by hand, the empty-mask rules by name, independent tools' figures."""

import csv
import dataclasses
import math

import numpy as np
import pytest

from tfbrats import case, metrics
from tfbrats.command import InputError
from tfbrats.labels import EDITIONS, Tissue, region_mask

MM = (1.0, 1.0, 1.0)


def mask(*voxels, shape=(8, 8, 8)):
    array = np.zeros(shape, bool)
    for voxel in voxels:
        array[voxel] = True
    return array


def box(*bounds, shape=(12, 12, 12)):
    array = np.zeros(shape, bool)
    array[tuple(slice(*bound) for bound in bounds)] = True
    return array


def ball(centre, radius_mm, spacing_mm, shape):
    grid = np.indices(shape).T * np.asarray(spacing_mm)
    return (np.linalg.norm(grid - np.asarray(centre) * spacing_mm, axis=-1) <= radius_mm).T


ALL_DISTANCES = (metrics.hd95_mm, metrics.hd95_pooled_mm, metrics.hausdorff_mm)

# --- overlap --------------------------------------------------------------------------------------------


def test_overlap_scores_counted_by_hand():
    # 4 reference voxels and 3 predicted, 2 of them right, among 4 x 4 x 2 = 32.
    reference = mask((0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0), shape=(4, 4, 2))
    prediction = mask((0, 2, 0), (0, 3, 0), (1, 3, 0), shape=(4, 4, 2))
    assert metrics.dice(prediction, reference) == pytest.approx(2 * 2 / 7)
    assert metrics.sensitivity(prediction, reference) == 2 / 4
    assert metrics.specificity(prediction, reference) == 27 / 28
    # Tumour lies in the slice k = 0 only: 16 voxels, 12 of them negative, 1 falsely predicted.
    assert metrics.specificity_tumour_slices(prediction, reference, reference) == 11 / 12


def test_a_false_positive_outside_the_tumour_slices_does_not_lower_their_specificity():
    reference = mask((1, 1, 0), shape=(4, 4, 2))
    stray = mask((1, 1, 0), (2, 2, 1), shape=(4, 4, 2))
    assert metrics.specificity(stray, reference) == 30 / 31
    assert metrics.specificity_tumour_slices(stray, reference, reference) == 1


def test_dice_does_not_care_which_side_is_the_reference():
    a, b = box((2, 7), (2, 9), (1, 5)), box((4, 9), (3, 6), (1, 7))
    assert metrics.dice(a, b) == metrics.dice(b, a)
    assert 0 < metrics.dice(a, b) < 1


# --- distances ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ALL_DISTANCES)
def test_two_voxels_2mm_apart_have_a_distance_of_2mm(score):
    one = mask((3, 3, 3))
    # Spacing 3, 2, 1 mm: one step along j, or two along k; one step along i is 3 mm.
    assert score(one, mask((3, 4, 3)), (3, 2, 1)) == pytest.approx(2, abs=1e-12)
    assert score(one, mask((3, 3, 5)), (3, 2, 1)) == pytest.approx(2, abs=1e-12)
    assert score(one, mask((4, 3, 3)), (3, 2, 1)) == pytest.approx(3, abs=1e-12)


@pytest.mark.parametrize("score", ALL_DISTANCES)
def test_equal_masks_are_0mm_apart_even_at_the_edge_of_the_image(score):
    corner = box((0, 5), (0, 12), (7, 12))
    assert score(corner, corner, (3, 2, 1)) == 0


@pytest.mark.parametrize("score", ALL_DISTANCES)
def test_a_box_moved_by_a_step_of_3mm_is_3mm_away_whichever_side_is_the_reference(score):
    # Every piece of a thin plate is moved along its normal, so that every percentile is 3 mm.
    plate, moved = box((3, 4), (2, 9), (2, 9)), box((4, 5), (2, 9), (2, 9))
    assert score(plate, moved, (3, 1, 1)) == pytest.approx(score(moved, plate, (3, 1, 1)))
    assert 0 < score(plate, moved, (3, 1, 1)) <= 3


@pytest.mark.parametrize("score", ALL_DISTANCES)
def test_distances_do_not_depend_on_where_in_the_image_the_masks_lie(score):
    a, b = mask((2, 2, 2), (2, 3, 2), shape=(9, 9, 9)), mask((4, 3, 3), shape=(9, 9, 9))
    moved = [np.roll(m, (2, 4, 3), axis=(0, 1, 2)) for m in (a, b)]
    assert score(*moved, (3, 2, 1)) == pytest.approx(score(a, b, (3, 2, 1)), abs=1e-12)
    turned = [m.transpose(2, 0, 1) for m in (a, b)]
    assert score(*turned, (1, 3, 2)) == pytest.approx(score(a, b, (3, 2, 1)), abs=1e-12)


def test_one_far_voxel_raises_hausdorff_and_not_hd95():
    body = box((2, 9), (2, 9), (2, 9), shape=(12, 12, 40))
    stray = body.copy()
    stray[5, 5, 35] = True
    assert metrics.hausdorff_mm(stray, body, MM) == 35 - 8
    assert metrics.hd95_pooled_mm(stray, body, MM) == 0
    assert metrics.hd95_mm(stray, body, MM) == 0


def test_the_two_definitions_of_hd95_differ_where_one_side_has_little_surface():
    # The far ball is a large part of the prediction's surface, a small part of both surfaces pooled.
    reference = ball((10, 10, 10), 8, MM, (21, 21, 60))
    prediction = ball((10, 10, 10), 2, MM, (21, 21, 60)) | ball((10, 10, 50), 1, MM, (21, 21, 60))
    assert metrics.hd95_mm(prediction, reference, MM) > metrics.hd95_pooled_mm(prediction, reference, MM) + 5


def test_hd95_weighs_pieces_by_area_and_takes_the_worse_direction():
    near, far = np.array([0.0, 10.0]), np.array([1.0, 1.0])
    little, much = np.array([96.0, 4.0]), np.array([94.0, 6.0])
    ones = np.ones(2)
    for areas_mm2, expected_mm in ((little, 1.0), (much, 10.0)):
        one_way = metrics.SurfaceDistances(near, far, areas_mm2, ones)
        other_way = metrics.SurfaceDistances(far, near, ones, areas_mm2)
        assert metrics.robust_hausdorff_mm(one_way, 95) == expected_mm
        assert metrics.robust_hausdorff_mm(other_way, 95) == expected_mm


# --- area of surface elements ---------------------------------------------------------------------------


def code(*corners):
    return sum(1 << metrics._CORNERS.index(corner) for corner in corners)


def test_surface_areas_of_hand_worked_neighbourhoods():
    table = metrics.surface_area_table_mm2((3.0, 2.0, 1.0))
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
    cube = metrics.surface_area_table_mm2(MM)
    hexagon = 3 * math.sqrt(3) / 2 * 0.5
    assert cube[code((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))] == pytest.approx(hexagon)


def test_inside_and_outside_share_one_surface():
    table = metrics.surface_area_table_mm2((0.7, 1.3, 5.0))
    np.testing.assert_array_equal(table, table[::-1])


# surface-distance 0.1 (Apache-2.0): sum of its 256 areas; independent of how corners are numbered.
@pytest.mark.parametrize(
    ("spacing_mm", "total", "largest"),
    [(MM, 241.34313970553745, 1.573132184970986), ((3.0, 2.0, 1.0), 950.4895895094023, 6.758189813209032)],
)
def test_surface_areas_add_up_to_those_of_surface_distance(spacing_mm, total, largest):
    table = metrics.surface_area_table_mm2(spacing_mm)
    assert table.sum() == pytest.approx(total, rel=1e-12)
    assert table.max() == pytest.approx(largest, rel=1e-12)


def test_the_surface_of_a_ball_is_near_its_true_area_at_any_spacing():
    for spacing_mm, shape in ((MM, (45, 45, 45)), ((0.5, 1.0, 2.0), (90, 45, 23))):
        centre = [(size - 1) / 2 for size in shape]
        found = ball(centre, 18, spacing_mm, shape)
        area = metrics.surface_element_distances(found, found, spacing_mm).reference_areas_mm2.sum()
        # A surface through voxel steps is somewhat larger than a smooth one.
        assert 1.0 < area / (4 * math.pi * 18**2) < 1.25


# --- empty masks ----------------------------------------------------------------------------------------

SOME, NOTHING = mask((3, 3, 3)), mask()


def test_brats_rule_both_empty_is_perfect():
    assert metrics.dice(NOTHING, NOTHING) == 1
    assert metrics.sensitivity(NOTHING, NOTHING) == 1
    assert [score(NOTHING, NOTHING, MM) for score in ALL_DISTANCES] == [0, 0, 0]


@pytest.mark.parametrize(("prediction", "reference"), [(SOME, NOTHING), (NOTHING, SOME)])
def test_brats_rule_one_empty_costs_the_image_diagonal(prediction, reference):
    assert metrics.dice(prediction, reference) == 0
    assert metrics.sensitivity(prediction, reference) == 0
    assert [score(prediction, reference, MM) for score in ALL_DISTANCES] == [373.1287] * 3
    assert pytest.approx(math.hypot(240, 240, 155), abs=5e-5) == metrics.MISSING_REGION_MM


def test_nan_rule_leaves_undefined_scores_undefined_and_defined_ones_defined():
    assert math.isnan(metrics.dice(NOTHING, NOTHING, "nan"))
    assert metrics.dice(SOME, NOTHING, "nan") == 0
    assert math.isnan(metrics.sensitivity(SOME, NOTHING, "nan"))
    assert metrics.sensitivity(NOTHING, SOME, "nan") == 0
    for pair in ((NOTHING, NOTHING), (SOME, NOTHING), (NOTHING, SOME)):
        assert all(math.isnan(score(*pair, MM, "nan")) for score in ALL_DISTANCES)


def test_an_unknown_rule_names_the_known_ones():
    with pytest.raises(InputError, match="brats, nan"):
        metrics.hd95_mm(SOME, SOME, MM, "zero")
    with pytest.raises(InputError, match="brats, nan"):
        metrics.score_case(SOME.astype(np.uint8), SOME.astype(np.uint8), MM, "zero")


def test_masks_of_two_shapes_are_refused_with_both_shapes():
    with pytest.raises(InputError, match=r"\(8, 8, 8\).*\(8, 8, 9\)"):
        metrics.hd95_mm(SOME, mask(shape=(8, 8, 9)), MM)


# --- whole cases ----------------------------------------------------------------------------------------


def a_pair():
    reference = np.zeros((10, 10, 10), np.uint8)
    reference[2:8, 2:8, 2:8] = Tissue.ED
    reference[3:7, 3:7, 3:7] = Tissue.NCR
    prediction = np.roll(reference, 1, axis=0)
    prediction[5, 5, 5] = Tissue.ET
    return prediction, reference


def test_a_case_gives_a_row_per_region_that_agrees_with_each_score_alone():
    prediction, reference = a_pair()
    spacing = (1.0, 2.0, 3.0)
    rows = {row.region: row for row in metrics.score_case(prediction, reference, spacing)}
    assert list(rows) == ["WT", "TC", "ET"]
    for region in ("WT", "TC"):
        ours, theirs = region_mask(prediction, region), region_mask(reference, region)
        assert rows[region].hd95_mm == metrics.hd95_mm(ours, theirs, spacing)
        assert rows[region].hd95_pooled_mm == metrics.hd95_pooled_mm(ours, theirs, spacing)
        assert rows[region].hausdorff_mm == metrics.hausdorff_mm(ours, theirs, spacing)
        assert rows[region].dice == metrics.dice(ours, theirs)
        assert rows[region].specificity_tumour_slices < rows[region].specificity < 1
    # 6 x 6 x 6 voxels of 6 mm3 are 1.296 ml.
    assert rows["WT"].reference_volume_ml == pytest.approx(1.296)
    assert rows["ET"].empty == "reference"
    assert rows["ET"].hd95_mm == 373.1287
    assert rows["ET"].volume_ml == pytest.approx(0.006)


def test_a_resection_cavity_belongs_to_no_region():
    prediction, reference = a_pair()
    with_cavity = reference.copy()
    with_cavity[0, 0, 0] = Tissue.RC
    assert metrics.score_case(prediction, with_cavity, MM) == metrics.score_case(prediction, reference, MM)


def test_without_reference_tumour_no_slice_holds_it_and_that_specificity_is_undefined():
    prediction, reference = a_pair()
    row = metrics.score_case(prediction, np.zeros_like(reference), MM)[0]
    assert (row.empty, row.dice) == ("reference", 0)
    assert math.isnan(row.specificity_tumour_slices)
    assert row.specificity == (1000 - 216) / 1000


def test_the_rule_touches_what_it_settles():
    assert metrics.touched_by_rule("dice", "both")
    assert metrics.touched_by_rule("hd95_mm", "prediction")
    assert not metrics.touched_by_rule("sensitivity", "prediction")
    assert not metrics.touched_by_rule("specificity", "both")
    assert not any(metrics.touched_by_rule(score, "") for score in metrics.SCORES)


def test_rows_open_with_the_columns_that_readers_expect():
    names = [field.name for field in dataclasses.fields(metrics.RegionScores)]
    assert names[:5] == ["region", "dice", "sensitivity", "specificity", "hd95_mm"]


# --- real masks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["baseline_attention", "waveloss_attention"])
@pytest.mark.parametrize("number", range(1, 6))
def test_real_masks_score_as_medpy_surface_distance_and_simpleitk_say(real_masks, number, model):
    case_id = f"BraTS20_Training_{number:03}"
    reference, _ = case.load_label(real_masks / f"{case_id}_seg.nii.gz", EDITIONS["2020"])
    prediction, _ = case.load_label(real_masks / f"{case_id}_pred_{model}.nii.gz", EDITIONS["2020"])
    ours = {row.region: row for row in metrics.score_case(prediction, reference, MM)}
    with (real_masks / "reference_metrics.csv").open() as file:
        expected = [r for r in csv.DictReader(file) if (r["case"], r["model"]) == (case_id, model)]
    assert {row["region"] for row in expected} == set(ours)
    for row in expected:
        scores = ours[row["region"]]
        assert scores.dice == pytest.approx(float(row["dice"]), abs=1e-12)
        assert scores.hd95_mm == pytest.approx(float(row["deepmind_hd95"]), abs=1e-6)
        assert scores.hd95_pooled_mm == pytest.approx(float(row["medpy_hd95"]), abs=1e-6)
        assert scores.hausdorff_mm == pytest.approx(float(row["medpy_hd"]), abs=1e-6)
        masks = [region_mask(tissues, row["region"]) for tissues in (prediction, reference)]
        hd100_mm = metrics.robust_hausdorff_mm(metrics.surface_element_distances(*masks, MM), 100)
        assert hd100_mm == pytest.approx(float(row["deepmind_hd100"]), abs=1e-6)
