"""Numbers on uncertainty, held against QU-BraTS' own steps: a mask for each threshold, and sums."""

import itertools
import math

import numpy as np
import pytest

from tfbrats.metrics import uncertainty

SHAPE = (12, 11, 10)


@pytest.fixture
def drawn():
    """Prediction, reference, map and brain at random; errors are less sure."""
    rng = np.random.default_rng(0)
    brain = rng.random(SHAPE) < 0.7
    reference = (rng.random(SHAPE) < 0.3) & brain
    prediction = reference ^ ((rng.random(SHAPE) < 0.2) & brain)
    values = np.clip(rng.normal(20 + 40 * (prediction != reference), 20), 0, 100).round().astype(np.uint8)
    return prediction, reference, np.where(brain, values, 0).astype(np.uint8), brain


def by_thresholds(prediction, reference, values, brain):
    """Three areas by the steps that the paper describes, one threshold after another."""
    thresholds = np.arange(0, 100.1, 2.5)
    rows = []
    for threshold in thresholds:
        kept = values <= threshold
        both = (prediction & kept).sum() + (reference & kept).sum()
        dice = 2 * (prediction & reference & kept).sum() / both if both else 1.0
        positives, negatives = prediction & reference & brain, ~prediction & ~reference & brain
        rows.append((dice, *((which & ~kept).sum() / which.sum() for which in (positives, negatives))))
    return [sum((a + b) / 2 * 2.5 for a, b in itertools.pairwise(each)) / 100 for each in np.array(rows).T]


def test_the_areas_are_those_of_one_mask_a_threshold(drawn):
    found = uncertainty.histogram(*drawn).quality()
    dice, ftp, ftn = by_thresholds(*drawn)
    assert found["dice_auc"] == pytest.approx(dice) and 0.5 < dice < 1
    assert found["ftp_auc"] == pytest.approx(ftp) and found["ftn_auc"] == pytest.approx(ftn)
    assert found["score"] == pytest.approx((dice + 1 - ftp + 1 - ftn) / 3)


def test_how_often_a_wrong_voxel_is_less_sure_counts_every_pair(drawn):
    prediction, reference, values, brain = drawn
    wrong = (prediction != reference) & brain
    pairs = values[wrong].astype(int)[:, None] - values[brain & ~wrong].astype(int)
    expected = (pairs > 0).mean() + (pairs == 0).mean() / 2
    assert uncertainty.histogram(*drawn).auroc == pytest.approx(expected) and expected > 0.8


def test_error_rates_are_of_tenths_of_the_scale(drawn):
    prediction, reference, values, brain = drawn
    rates = uncertainty.histogram(*drawn).error_rates
    inside = brain & (values >= 30) & (values < 40)
    assert rates[3] == (inside.sum(), pytest.approx((prediction != reference)[inside].mean()))
    assert sum(voxels for voxels, _ in rates) == brain.sum()
    only_sure = uncertainty.histogram(prediction, prediction, np.zeros(SHAPE, np.uint8))
    assert only_sure.error_rates[0] == (math.prod(SHAPE), 0) and math.isnan(only_sure.error_rates[9][1])
    assert math.isnan(only_sure.auroc)


def test_a_region_that_is_nowhere_is_right_at_every_threshold():
    nothing = np.zeros(SHAPE, bool)
    found = uncertainty.histogram(nothing, nothing, np.zeros(SHAPE, np.uint8)).quality()
    assert found == {"dice_auc": 1, "ftp_auc": 0, "ftn_auc": 0, "score": 1}


def test_cases_are_added_up():
    one = uncertainty.histogram(np.ones(SHAPE, bool), np.ones(SHAPE, bool), np.full(SHAPE, 100, np.uint8))
    assert (one + one).true_positive[100] == 2 * math.prod(SHAPE)
