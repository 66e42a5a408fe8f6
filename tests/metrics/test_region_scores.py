"""Scores: masks whose answer is known by hand, the empty-mask rules by name, independent tools' figures."""

import csv
import dataclasses
import math

import numpy as np
import pytest
from masks import ball, box

from tfbrats.cases import case
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, Tissue, region_mask
from tfbrats.metrics import region_scores, surfaces

MM = (1.0, 1.0, 1.0)
ON_SURFACES = (*region_scores.DISTANCES, "nsd_1mm")


def mask(*voxels, shape=(8, 8, 8)):
    array = np.zeros(shape, bool)
    for voxel in voxels:
        array[voxel] = True
    return array


def scores(prediction, reference, spacing_mm=MM, empty="brats"):
    """The row of two masks: those of cases with nothing but enhancing tumour, so that every region is alike."""
    tissues = (side.astype(np.uint8) * Tissue.ET for side in (prediction, reference))
    rows = region_scores.score_case(*tissues, spacing_mm, empty)
    assert len({str(dataclasses.replace(row, region="")) for row in rows}) == 1
    return rows[-1]


def distances(prediction, reference, spacing_mm=MM):
    """All distances of two masks, in the order of their names."""
    row = scores(prediction, reference, spacing_mm)
    return [getattr(row, name) for name in region_scores.DISTANCES]


# --- overlap --------------------------------------------------------------------------------------------


def test_overlap_scores_counted_by_hand():
    # 4 reference voxels and 3 predicted, 2 of them right, among 4 x 4 x 2 = 32.
    reference = mask((0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0), shape=(4, 4, 2))
    prediction = mask((0, 2, 0), (0, 3, 0), (1, 3, 0), shape=(4, 4, 2))
    row = scores(prediction, reference)
    assert row.dice == region_scores.dice(prediction, reference) == pytest.approx(2 * 2 / 7)
    assert row.sensitivity == 2 / 4
    assert row.specificity == 27 / 28
    # Tumour lies in the slice k = 0 only: 16 voxels, 12 of them negative, 1 falsely predicted.
    assert row.specificity_tumour_slices == 11 / 12


def test_a_false_positive_outside_the_tumour_slices_does_not_lower_their_specificity():
    reference = mask((1, 1, 0), shape=(4, 4, 2))
    row = scores(mask((1, 1, 0), (2, 2, 1), shape=(4, 4, 2)), reference)
    assert row.specificity == 30 / 31
    assert row.specificity_tumour_slices == 1


def test_dice_does_not_care_which_side_is_the_reference():
    a, b = box((2, 7), (2, 9), (1, 5)), box((4, 9), (3, 6), (1, 7))
    assert region_scores.dice(a, b) == region_scores.dice(b, a)
    assert 0 < region_scores.dice(a, b) < 1


# --- distances ------------------------------------------------------------------------------------------


def test_two_voxels_2mm_apart_have_a_distance_of_2mm():
    one = mask((3, 3, 3))
    # Spacing 3, 2, 1 mm: one step along j, or two along k; one step along i is 3 mm.
    assert distances(one, mask((3, 4, 3)), (3, 2, 1)) == pytest.approx([2] * 3, abs=1e-12)
    assert distances(one, mask((3, 3, 5)), (3, 2, 1)) == pytest.approx([2] * 3, abs=1e-12)
    assert distances(one, mask((4, 3, 3)), (3, 2, 1)) == pytest.approx([3] * 3, abs=1e-12)


def test_equal_masks_are_0mm_apart_even_at_the_edge_of_the_image():
    corner = box((0, 5), (0, 12), (7, 12))
    assert distances(corner, corner, (3, 2, 1)) == [0] * 3


def test_a_box_moved_by_a_step_of_3mm_is_3mm_away_whichever_side_is_the_reference():
    # Every piece of a thin plate is moved along its normal, so that every percentile is 3 mm.
    plate, moved = box((3, 4), (2, 9), (2, 9)), box((4, 5), (2, 9), (2, 9))
    there, back = distances(plate, moved, (3, 1, 1)), distances(moved, plate, (3, 1, 1))
    assert there == back == pytest.approx([3] * 3)


def test_distances_do_not_depend_on_where_in_the_image_the_masks_lie():
    a, b = mask((2, 2, 2), (2, 3, 2), shape=(9, 9, 9)), mask((4, 3, 3), shape=(9, 9, 9))
    expected = pytest.approx(distances(a, b, (3, 2, 1)), abs=1e-12)
    moved = [np.roll(m, (2, 4, 3), axis=(0, 1, 2)) for m in (a, b)]
    assert distances(*moved, (3, 2, 1)) == expected
    turned = [m.transpose(2, 0, 1) for m in (a, b)]
    assert distances(*turned, (1, 3, 2)) == expected


def test_the_surface_dice_is_1_within_1mm_and_0_beyond_at_any_spacing():
    # Plates a step apart along i: all of both surfaces but nothing less than that step away.
    plate, moved = box((3, 4), (2, 9), (2, 9)), box((4, 5), (2, 9), (2, 9))
    assert scores(plate, moved, (1, 1, 1)).nsd_1mm == 1
    # The plates share the faces halfway between them: less than all, more than nothing.
    assert 0 < scores(plate, moved, (1.01, 1, 1)).nsd_1mm < 1
    far = box((9, 10), (2, 9), (2, 9))
    assert scores(plate, far, (3, 1, 1)).nsd_1mm == 0
    assert scores(plate, far, (0.18, 1, 1)).nsd_1mm > 0


def test_one_far_voxel_raises_hausdorff_and_not_hd95():
    body = box((2, 9), (2, 9), (2, 9), shape=(12, 12, 40))
    stray = body.copy()
    stray[5, 5, 35] = True
    row = scores(stray, body)
    assert row.hausdorff_mm == 35 - 8
    assert row.hd95_pooled_mm == row.hd95_mm == 0


def test_the_two_definitions_of_hd95_differ_where_one_side_has_little_surface():
    # The far ball is a large part of the prediction's surface, a small part of both surfaces pooled.
    reference = ball((10, 10, 10), 8, MM, (21, 21, 60))
    prediction = ball((10, 10, 10), 2, MM, (21, 21, 60)) | ball((10, 10, 50), 1, MM, (21, 21, 60))
    row = scores(prediction, reference)
    assert row.hd95_mm > row.hd95_pooled_mm + 5


# --- empty masks ----------------------------------------------------------------------------------------

SOME, NOTHING = mask((3, 3, 3)), mask()


# One voxel among 8 x 8 x 8 = 512, in a slice of 64.
FAR = 373.1287
EMPTIES = {
    ("brats", "both"): {
        **{"dice": 1, "sensitivity": 1, "specificity": 1, "specificity_tumour_slices": math.nan},
        **{"hausdorff_mm": 0, "hd95_mm": 0, "hd95_pooled_mm": 0, "nsd_1mm": 1},
    },
    ("brats", "reference"): {
        **{"dice": 0, "sensitivity": 0, "specificity": 511 / 512, "specificity_tumour_slices": math.nan},
        **{"hausdorff_mm": FAR, "hd95_mm": FAR, "hd95_pooled_mm": FAR, "nsd_1mm": 0},
    },
    ("brats", "prediction"): {
        **{"dice": 0, "sensitivity": 0, "specificity": 1, "specificity_tumour_slices": 1},
        **{"hausdorff_mm": FAR, "hd95_mm": FAR, "hd95_pooled_mm": FAR, "nsd_1mm": 0},
    },
    ("nan", "both"): {
        **{"dice": math.nan, "sensitivity": math.nan, "specificity": 1, "specificity_tumour_slices": math.nan},
        **dict.fromkeys(("hausdorff_mm", "hd95_mm", "hd95_pooled_mm", "nsd_1mm"), math.nan),
    },
    ("nan", "reference"): {
        **{"dice": 0, "sensitivity": math.nan, "specificity": 511 / 512},
        **{"specificity_tumour_slices": math.nan},
        **dict.fromkeys(("hausdorff_mm", "hd95_mm", "hd95_pooled_mm", "nsd_1mm"), math.nan),
    },
    ("nan", "prediction"): {
        **{"dice": 0, "sensitivity": 0, "specificity": 1, "specificity_tumour_slices": 1},
        **dict.fromkeys(("hausdorff_mm", "hd95_mm", "hd95_pooled_mm", "nsd_1mm"), math.nan),
    },
}


@pytest.mark.parametrize("rule", ["brats", "nan"])
@pytest.mark.parametrize(
    ("lacking", "prediction", "reference"),
    [("both", NOTHING, NOTHING), ("reference", SOME, NOTHING), ("prediction", NOTHING, SOME)],
    ids=["both_empty", "reference_empty", "prediction_empty"],
)
def test_every_score_of_an_empty_mask_is_what_its_rule_says(rule, lacking, prediction, reference):
    row = dataclasses.asdict(scores(prediction, reference, empty=rule))
    assert row["empty"] == lacking
    judged = {name: row[name] for name in region_scores.SCORES if not name.endswith("_ml")}
    assert judged == pytest.approx(EMPTIES[rule, lacking], abs=0, nan_ok=True)


def test_the_distance_of_a_region_that_one_side_lacks_is_the_challenge_image_s_diagonal():
    assert pytest.approx(math.hypot(240, 240, 155), abs=5e-5) == region_scores.MISSING_REGION_MM == FAR


def test_an_unknown_rule_names_the_known_ones():
    with pytest.raises(InputError, match="brats, nan"):
        scores(SOME, SOME, empty="zero")


def test_masks_of_two_shapes_are_refused_with_both_shapes():
    with pytest.raises(InputError, match=r"\(8, 8, 8\).*\(8, 8, 9\)"):
        scores(SOME, mask(shape=(8, 8, 9)))


# --- whole cases ----------------------------------------------------------------------------------------


def a_pair():
    reference = np.zeros((10, 10, 10), np.uint8)
    reference[2:8, 2:8, 2:8] = Tissue.ED
    reference[3:7, 3:7, 3:7] = Tissue.NCR
    prediction = np.roll(reference, 1, axis=0)
    prediction[5, 5, 5] = Tissue.ET
    return prediction, reference


def alone(prediction, reference, region, spacing_mm):
    """A region's row as of a case that has nothing else."""
    return scores(region_mask(prediction, region), region_mask(reference, region), spacing_mm)


def test_a_case_gives_a_row_per_region_as_if_each_were_alone():
    prediction, reference = a_pair()
    spacing = (1.0, 2.0, 3.0)
    rows = {row.region: row for row in region_scores.score_case(prediction, reference, spacing)}
    assert list(rows) == ["WT", "TC", "ET"]
    for region, row in rows.items():
        expected = dataclasses.replace(
            alone(prediction, reference, region, spacing),
            region=region,
            specificity_tumour_slices=row.specificity_tumour_slices,
        )
        assert row == expected
        # The slices that hold tumour are the whole tumour's, for every region: k from 2 to 7.
        ours, theirs = (region_mask(tissues, region)[:, :, 2:8] for tissues in (prediction, reference))
        negatives = np.count_nonzero(~theirs)
        assert row.specificity_tumour_slices == 1 - np.count_nonzero(ours & ~theirs) / negatives
        assert row.specificity_tumour_slices < row.specificity < 1
    # 6 x 6 x 6 voxels of 6 mm3 are 1.296 ml.
    assert rows["WT"].reference_volume_ml == pytest.approx(1.296)
    assert rows["ET"].empty == "reference"
    assert rows["ET"].hd95_mm == 373.1287
    assert rows["ET"].volume_ml == pytest.approx(0.006)


def test_regions_of_one_size_on_one_side_only_keep_their_own_distances():
    # The reference's core is all enhancing; the predicted core is not, nor is the predicted tumour all core.
    reference = box((3, 7), (3, 7), (3, 7)).astype(np.uint8) * Tissue.ET
    prediction = np.roll(reference, 1, axis=0)
    prediction[1:3, 4, 4] = Tissue.NCR
    prediction[4, 4, 9:] = Tissue.ED
    rows = {row.region: row for row in region_scores.score_case(prediction, reference, MM)}
    for region, row in rows.items():
        expected = alone(prediction, reference, region, MM)
        assert [getattr(row, name) for name in ON_SURFACES] == [getattr(expected, name) for name in ON_SURFACES]
    assert len({row.hausdorff_mm for row in rows.values()}) == 3


def test_a_resection_cavity_belongs_to_no_region():
    prediction, reference = a_pair()
    with_cavity = reference.copy()
    with_cavity[0, 0, 0] = Tissue.RC
    assert region_scores.score_case(prediction, with_cavity, MM) == region_scores.score_case(
        prediction, reference, MM
    )


def test_without_reference_tumour_no_slice_holds_it_and_that_specificity_is_undefined():
    prediction, reference = a_pair()
    row = region_scores.score_case(prediction, np.zeros_like(reference), MM)[0]
    assert (row.empty, row.dice) == ("reference", 0)
    assert math.isnan(row.specificity_tumour_slices)
    assert row.specificity == (1000 - 216) / 1000


def test_the_rule_touches_what_it_settles():
    assert region_scores.touched_by_rule("dice", "both")
    assert region_scores.touched_by_rule("hd95_mm", "prediction")
    assert region_scores.touched_by_rule("nsd_1mm", "reference")
    assert not region_scores.touched_by_rule("sensitivity", "prediction")
    assert not region_scores.touched_by_rule("specificity", "both")
    assert not any(region_scores.touched_by_rule(score, "") for score in region_scores.SCORES)


def test_the_columns_are_those_that_readers_expect_in_their_order():
    names = [field.name for field in dataclasses.fields(region_scores.RegionScores)]
    assert " ".join(names) == (
        "region dice sensitivity specificity specificity_tumour_slices hausdorff_mm hd95_mm hd95_pooled_mm "
        "nsd_1mm volume_ml reference_volume_ml empty"
    )


# --- real masks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["baseline_attention", "waveloss_attention"])
@pytest.mark.parametrize("number", range(1, 6))
def test_real_masks_score_as_medpy_surface_distance_and_simpleitk_say(real_masks, number, model):
    case_id = f"BraTS20_Training_{number:03}"
    reference, _ = case.load_label(real_masks / f"{case_id}_seg.nii.gz", EDITIONS["2020"])
    prediction, _ = case.load_label(real_masks / f"{case_id}_pred_{model}.nii.gz", EDITIONS["2020"])
    ours = {row.region: row for row in region_scores.score_case(prediction, reference, MM)}
    with (real_masks / "reference_metrics.csv").open() as file:
        expected = [r for r in csv.DictReader(file) if (r["case"], r["model"]) == (case_id, model)]
    assert {row["region"] for row in expected} == set(ours)
    for row in expected:
        scores = ours[row["region"]]
        assert scores.dice == pytest.approx(float(row["dice"]), abs=1e-12)
        assert scores.hd95_mm == pytest.approx(float(row["deepmind_hd95"]), abs=1e-6)
        assert scores.hd95_pooled_mm == pytest.approx(float(row["medpy_hd95"]), abs=1e-6)
        assert scores.hausdorff_mm == pytest.approx(float(row["medpy_hd"]), abs=1e-6)
        assert scores.nsd_1mm == pytest.approx(float(row["deepmind_nsd1mm"]), abs=1e-6)
        masks = [region_mask(tissues, row["region"]) for tissues in (prediction, reference)]
        hd100_mm = surfaces.robust_hausdorff_mm(surfaces.element_distances(*masks, MM), 100)
        assert hd100_mm == pytest.approx(float(row["deepmind_hd100"]), abs=1e-6)
