"""What a stage missed and what an earlier one had lost: parts that add up, and masks worked out by hand."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, Tissue, region_mask
from tfbrats.metrics import stage_misses
from tfbrats.reporting import score_text

ML = (10, 10, 10)  # mm: a voxel is 1 ml


def losses(prediction, reference, spacing_mm=ML, margin=None):
    """Region -> row."""
    rows = stage_misses.score_case(np.asarray(prediction), np.asarray(reference), spacing_mm, margin)
    return {row.region: row for row in rows}


def line(*tissues):
    """A map of one row of voxels, [I, 1, 1]."""
    return np.array(tissues, np.uint8).reshape(-1, 1, 1)


def rows_of(case_id, prediction, reference, margin=None):
    return [
        {"case_id": case_id, **dataclasses.asdict(row)}
        for row in stage_misses.score_case(prediction, reference, ML, margin)
    ]


maps = hnp.arrays(np.uint8, (4, 3, 5), elements=st.sampled_from([int(tissue) for tissue in Tissue]))


# --- one case -------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(maps, maps, st.integers(0, 4))
def test_the_parts_add_up(prediction, reference, margin):
    found = losses(prediction, reference, margin=margin)
    for region, row in found.items():
        ours, theirs = region_mask(prediction, region), region_mask(reference, region)
        assert row.reference_ml == np.count_nonzero(theirs)
        assert row.reference_ml - row.missed_ml == np.count_nonzero(ours & theirs)
        assert row.missed_ml == row.missed_here_ml + row.lost_before_ml
        assert row.lost_before_ml == row.lost_by_wt_ml + row.lost_by_tc_ml
        assert row.false_ml == np.count_nonzero(ours & ~theirs)
        assert 0 <= row.lost_outside_box_ml <= row.lost_before_ml
        assert 0 <= row.false_before_ml <= row.false_ml
    # What a stage lost of the next region, it missed of its own; nothing comes before the first.
    assert found["TC"].lost_before_ml <= found["WT"].missed_here_ml
    assert found["ET"].lost_by_wt_ml <= found["TC"].lost_by_wt_ml
    assert found["ET"].lost_by_tc_ml <= found["TC"].missed_here_ml
    assert found["WT"].lost_before_ml == found["WT"].false_before_ml == found["TC"].lost_by_tc_ml == 0


@settings(max_examples=30, deadline=None)
@given(maps, maps)
def test_a_larger_margin_never_loses_more(prediction, reference):
    rows = [losses(prediction, reference, margin=margin) for margin in range(6)]
    for region in REGIONS:
        outside = [row[region].lost_outside_box_ml for row in rows]
        assert outside == sorted(outside, reverse=True)


def test_each_voxel_of_a_line_goes_where_it_was_lost():
    ncr, ed, et = Tissue.NCR, Tissue.ED, Tissue.ET
    #                 kept  missed by ET   lost by TC   lost by WT
    reference = line(et, et, et, et, et, et, ncr, ed)
    prediction = line(et, ncr, ncr, ed, 0, 0, 0, 0)
    found = losses(prediction, reference)
    et_row = found["ET"]
    assert (et_row.reference_ml, et_row.missed_ml, et_row.missed_here_ml) == (6, 5, 2)
    assert (et_row.lost_before_ml, et_row.lost_by_wt_ml, et_row.lost_by_tc_ml) == (3, 2, 1)
    tc = found["TC"]
    assert (tc.reference_ml, tc.missed_ml, tc.missed_here_ml, tc.lost_by_wt_ml) == (7, 4, 1, 3)
    assert (found["WT"].missed_ml, found["WT"].missed_here_ml) == (4, 4)


def test_the_box_reaches_margin_voxels_beyond_the_parent_and_not_one_more():
    reference = line(*[Tissue.ET] * 12)
    prediction = line(*[0] * 5, Tissue.ED, Tissue.ED, *[0] * 5)  # WT box: voxels 5 and 6
    for margin, outside in ((0, 10), (1, 8), (3, 4), (4, 2), (5, 0), (50, 0)):
        assert losses(prediction, reference, margin=margin)["TC"].lost_outside_box_ml == outside
    # A voxel inside the box and outside the parent is lost all the same.
    assert losses(prediction, reference, margin=50)["TC"].lost_before_ml == 10


def test_the_box_of_two_far_parts_spans_what_lies_between():
    reference = line(*[Tissue.NCR] * 9)
    prediction = line(0, Tissue.NCR, 0, 0, 0, 0, 0, Tissue.NCR, 0)
    row = losses(prediction, reference, margin=0)["TC"]
    assert (row.lost_before_ml, row.lost_outside_box_ml) == (7, 2)


def test_the_box_lies_along_the_axes_of_the_volume():
    reference = np.full((5, 7, 9), Tissue.NCR, np.uint8)
    prediction = np.zeros_like(reference)
    prediction[1:3, 4, 2:6] = Tissue.ED
    row = losses(prediction, reference, margin=1)["TC"]
    assert row.lost_outside_box_ml == 5 * 7 * 9 - 4 * 3 * 6


def test_without_a_predicted_parent_everything_lies_outside_its_box():
    reference = line(Tissue.ED, Tissue.NCR, Tissue.ET, Tissue.ET)
    found = losses(np.zeros_like(reference), reference, margin=5)
    assert (found["WT"].missed_here_ml, found["WT"].lost_outside_box_ml) == (4, 0)
    for region, volume in (("TC", 3), ("ET", 2)):
        row = found[region]
        assert row.missed_here_ml == 0
        assert row.lost_before_ml == row.lost_outside_box_ml == row.lost_by_wt_ml == volume


def test_without_a_margin_the_box_is_unknown_and_the_rest_is_not():
    reference = line(Tissue.ED, Tissue.ET)
    found = losses(np.zeros_like(reference), reference)
    assert all(math.isnan(row.lost_outside_box_ml) for row in found.values())
    assert found["ET"].lost_before_ml == 1


def test_false_positives_are_told_by_whether_their_parent_was_false_too():
    reference = line(Tissue.ED, Tissue.NCR, 0, 0)
    prediction = line(Tissue.ET, Tissue.ET, Tissue.ET, Tissue.ED)
    found = losses(prediction, reference)
    assert (found["WT"].false_ml, found["WT"].false_before_ml) == (2, 0)
    assert (found["TC"].false_ml, found["TC"].false_before_ml) == (2, 1)
    assert (found["ET"].false_ml, found["ET"].false_before_ml) == (3, 2)


def test_a_perfect_prediction_loses_nothing():
    reference = line(0, Tissue.ED, Tissue.NCR, Tissue.ET)
    for row in losses(reference, reference, margin=0).values():
        assert sum(getattr(row, name) for name in stage_misses.VOLUMES) == row.reference_ml


def test_volumes_count_the_voxels_size_and_the_margin_counts_voxels():
    # 2 x 3 x 4 mm: 0.024 ml. The margin is in voxels, however thick they are.
    reference = line(Tissue.ET, Tissue.ET, Tissue.ET, Tissue.ET)
    prediction = line(Tissue.ED, 0, 0, 0)
    row = losses(prediction, reference, (2, 3, 4), margin=1)["ET"]
    assert row.reference_ml == pytest.approx(0.096)
    row = losses(prediction, reference, (2, 3, 4), margin=1)["TC"]
    assert row.missed_here_ml == pytest.approx(0.024)
    assert row.lost_before_ml == pytest.approx(0.072)
    assert row.lost_outside_box_ml == pytest.approx(0.048)


def test_the_resection_cavity_is_part_of_no_region():
    reference = line(Tissue.RC, Tissue.ED)
    found = losses(line(0, Tissue.ED), reference)
    assert found["WT"].missed_ml == 0
    assert losses(line(Tissue.RC, Tissue.RC), reference)["WT"].false_ml == 0


def test_the_maps_are_left_as_they_were():
    reference, prediction = line(Tissue.ET, Tissue.ED), line(Tissue.ED, 0)
    before = reference.copy(), prediction.copy()
    losses(prediction, reference, margin=1)
    np.testing.assert_array_equal(reference, before[0])
    np.testing.assert_array_equal(prediction, before[1])


def test_two_shapes_and_a_negative_margin_are_refused():
    with pytest.raises(InputError, match=r"\(2, 1, 1\), reference of shape \(1, 1, 1\)"):
        losses(line(0, 0), line(0))
    with pytest.raises(InputError, match="-1 voxels"):
        losses(line(0), line(0), margin=-1)


# --- over the cases -------------------------------------------------------------------------------------


def test_sums_add_volumes_and_shares_are_means_over_the_cases_that_have_the_region():
    half = rows_of("a", line(Tissue.ET, 0), line(Tissue.ET, Tissue.ET))
    whole = rows_of("b", line(0, 0, 0, 0), line(*[Tissue.ET] * 4))
    absent = rows_of("c", line(Tissue.ED, Tissue.ET), line(Tissue.ED, Tissue.ED))
    of_et = stage_misses.summarise([*half, *whole, *absent])["ET"]
    assert of_et["cases"] == 2
    assert of_et["mean_share"]["missed_ml"] == of_et["mean_share"]["lost_before_ml"] == 0.75
    assert of_et["mean_share"]["missed_here_ml"] == 0
    assert (of_et["sum_ml"]["missed_ml"], of_et["sum_ml"]["false_ml"]) == (5, 1)
    assert math.isnan(of_et["mean_share"]["lost_outside_box_ml"])


def test_a_region_that_no_case_has_has_no_share():
    of_et = stage_misses.summarise(rows_of("a", line(Tissue.ED), line(Tissue.ED)))["ET"]
    assert of_et["cases"] == 0
    assert of_et["sum_ml"]["missed_ml"] == 0
    assert all(math.isnan(value) for value in of_et["mean_share"].values())


def test_cases_come_worst_first_and_those_without_tumour_last():
    rows = [
        *rows_of("healthy", line(0), line(0)),
        *rows_of("perfect", line(Tissue.ET), line(Tissue.ET)),
        *rows_of("missed", line(0), line(Tissue.ET)),
        *rows_of("missed ET", line(Tissue.NCR), line(Tissue.ET)),
        *rows_of("also missed", line(0), line(Tissue.ED)),
    ]
    names = [case_id for case_id, _ in stage_misses.ranked(rows)]
    assert names == ["also missed", "missed", "missed ET", "perfect", "healthy"]


def test_the_table_shows_what_can_be_and_leaves_out_what_is_unknown():
    pair = line(Tissue.ED, Tissue.NCR, 0, 0), line(*[Tissue.ET] * 4)
    known = score_text.stage_table(stage_misses.summarise(rows_of("a", *pair, margin=0))).splitlines()
    assert "lost, outside box" in known[0]
    # missed, by its own stage, lost by WT, lost by TC, outside the box, cases
    assert [text.split() for text in known[1:]] == [
        ["WT", "50.0%", "50.0%", "-", "-", "-", "1"],
        ["TC", "75.0%", "25.0%", "50.0%", "-", "50.0%", "1"],
        ["ET", "100.0%", "25.0%", "50.0%", "25.0%", "75.0%", "1"],
    ]
    unknown = score_text.stage_table(stage_misses.summarise(rows_of("a", *pair)))
    assert "lost, outside box" not in unknown
    nobody = score_text.stage_table(stage_misses.summarise(rows_of("a", line(0), line(0))))
    assert [text.split() for text in nobody.splitlines()[1:]] == [[region, "0"] for region in REGIONS]
