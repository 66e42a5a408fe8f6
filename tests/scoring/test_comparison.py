"""Paired differences of two runs: what must hold of any interval, and numbers worked out by hand."""

import dataclasses
import math
import warnings

import numpy as np
import pytest

from tfbrats.errors import InputError
from tfbrats.reporting import score_text
from tfbrats.scoring import comparison
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.scoring.origin import Model


def rows(values, **more):
    """A row per case and region, the same value in WT, TC and ET."""
    return [
        {"case_id": f"case{n:02}", "region": region, "dice": value, **more}
        for n, value in enumerate(values)
        for region in ("WT", "TC", "ET")
    ]


def difference(ours, theirs, **how):
    """WT's."""
    return comparison.differences(rows(ours), rows(theirs), ["dice"], **how)[0]


@pytest.fixture
def two_runs():
    random = np.random.default_rng(7)
    theirs = random.uniform(0.5, 0.9, 12)
    return theirs + random.normal(0.02, 0.03, 12), theirs


def test_two_cases_worked_out_by_hand():
    # Differences 0 and 0.4. Drawn twice with replacement their mean is 0, 0.2 or 0.4, by 1, 2 and 1 in 4.
    found = difference([0.5, 0.9], [0.5, 0.5])
    assert (found.mean, found.other_mean, found.cases) == (pytest.approx(0.7), 0.5, 2)
    assert found.difference == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0), pytest.approx(0.4))
    assert difference([0.5, 0.9], [0.5, 0.5], confidence=0.4).low == pytest.approx(0.2)


def test_the_interval_is_near_the_normal_one_for_many_cases():
    each = np.random.default_rng(3).normal(0.1, 0.5, 400)
    found = difference(each, np.zeros(400))
    half = 1.96 * each.std() / math.sqrt(400)
    assert (found.low, found.high) == pytest.approx((each.mean() - half, each.mean() + half), abs=0.005)


def test_a_row_per_score_and_region():
    found = comparison.differences(rows([0.5], hd95_mm=2.0), rows([0.4], hd95_mm=3.0), ["hd95_mm", "dice"])
    assert [(one.score, one.region) for one in found] == [
        (score, region) for score in ("hd95_mm", "dice") for region in ("WT", "TC", "ET")
    ]
    assert found[0].difference == -1


def test_swapped_sides_give_the_mirrored_interval(two_runs):
    ours, theirs = two_runs
    here, there = difference(ours, theirs), difference(theirs, ours)
    assert (here.difference, here.low, here.high) == pytest.approx((-there.difference, -there.high, -there.low))
    assert here.low < here.difference < here.high


def test_a_run_does_not_differ_from_itself(two_runs):
    found = difference(two_runs[0], two_runs[0])
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert not found.excludes_0


def test_more_cases_of_the_same_kind_give_a_narrower_interval(two_runs):
    ours, theirs = two_runs
    few = difference(ours, theirs)
    many = difference(np.tile(ours, 4), np.tile(theirs, 4))
    assert many.difference == pytest.approx(few.difference)
    # Half as wide, since the width falls with the root of the number.
    assert (many.high - many.low) / (few.high - few.low) == pytest.approx(0.5, abs=0.05)


def test_more_confidence_gives_a_wider_interval(two_runs):
    wide, narrow = (difference(*two_runs, confidence=share) for share in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_pairing_takes_out_what_makes_a_case_hard_for_both(two_runs):
    ours, theirs = two_runs
    paired, mixed = difference(ours, theirs), difference(ours, np.roll(theirs, 1))
    assert paired.difference == pytest.approx(mixed.difference)
    assert paired.high - paired.low < (mixed.high - mixed.low) / 2


def test_the_same_seed_gives_the_same_interval_and_the_order_of_rows_does_not_matter(two_runs):
    ours, theirs = two_runs
    assert difference(ours, theirs) == difference(ours, theirs)
    assert difference(ours, theirs, seed=1) != difference(ours, theirs)
    assert comparison.differences(rows(ours)[::-1], rows(theirs), ["dice"]) == comparison.differences(
        rows(ours), rows(theirs), ["dice"]
    )


@pytest.mark.parametrize("ours", [[0.7], [0.7] * 5, [0.7] * 6])
def test_one_case_or_a_constant_difference_leaves_no_width_and_no_warning(ours):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = difference(ours, [0.5] * len(ours))
    assert found.low == found.high == found.difference == pytest.approx(0.2)
    assert found.excludes_0 == (len(ours) > 5)  # five of one sign come by chance in 6 of 100 times


def test_no_case_at_all_is_no_crash():
    found = comparison.differences([], [], ["dice"])
    assert len(found) == 3 and all(one.cases == 0 and math.isnan(one.low) for one in found)
    assert (
        score_text.comparison_text("a", "b", found, {"dice": "Dice"}).count(
            "no case has a number on both sides"
        )
        == 3
    )


def test_a_case_undefined_on_either_side_is_left_out():
    found = difference([0.5, math.nan, 0.7, 0.9], [0.4, 0.3, math.nan, 0.8])
    assert found.cases == 2
    assert (found.mean, found.other_mean) == (pytest.approx(0.7), pytest.approx(0.6))
    assert difference([math.nan], [0.5]).cases == 0


def test_cases_that_one_side_has_are_named_the_first_few_and_their_number():
    with pytest.raises(InputError) as error:
        difference([0.5] * 7, [0.5] * 2)
    assert "5 cases only on this side: case02, case03, case04 and 2 more" in str(error.value)
    assert "case05" not in str(error.value)
    with pytest.raises(InputError, match="1 case only on the other: case02"):
        difference([0.5] * 2, [0.5] * 3)


def test_scores_against_two_references_are_not_compared():
    with pytest.raises(InputError, match=r"case00: the reference's ET has 12\.000 ml .* 13\.000 ml"):
        comparison.differences(
            rows([0.5], reference_volume_ml=12.0), rows([0.5], reference_volume_ml=13.0), ["dice"]
        )


def test_what_to_call_a_run():
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(Evaluation))
    assert Evaluation(**nothing | {"model": Model(row="cun_lws")}).name("scores/a") == "cun_lws"
    assert Evaluation(**nothing | {"model": Model(name="tumours")}).name("scores/a/") == "a"
    assert Evaluation(**nothing).name("scores/a") == "a"


def test_the_text_marks_what_excludes_0():
    found = [
        comparison.Difference("WT", "dice", 0.9, 0.888, 0.012, -0.003, 0.027, 12),
        comparison.Difference("WT", "hd95_mm", 3.0, 5.0, -2.0, -3.0, -1.0, 11),
        comparison.Difference("WT", "nsd_1mm", 1.0, 1.0, 0.0, 0.0, 0.0, 12),
    ]
    assert score_text.comparison_text(
        "cun_lws", "cun", found, {"hd95_mm": "HD95 mm", "dice": "Dice"}
    ).splitlines() == [
        "cun_lws minus cun: HD95 mm WT -2.000 [-3.000, -1.000], 11 cases *",
        "cun_lws minus cun: Dice WT +0.012 [-0.003, +0.027], 12 cases",
    ]
    assert "* the interval excludes 0" in score_text.EXPLAINED
