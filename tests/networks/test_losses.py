"""Equation 1 and the regions' weights of paper A, by hand."""

import keras
import numpy as np
import pytest
from scipy import ndimage, special

from tfbrats.cases.slices import region_map
from tfbrats.labels import LwsRegion, Tissue
from tfbrats.networks import losses

# An 8 x 8 slice, written out. "." is black background; letters are brain: "b" normal, "n" NCR, "e" ED, "t" ET.
SLICE = """
........
.bbbbbb.
.beeebb.
.beteeb.
.benteb.
.beeebb.
.bbbbbb.
........
"""
# With a band 2 pixels wide (radius 1): tumour pixels with a 4-neighbour outside are contour, and so are
# their 4-neighbours outside. 0 S1, 1 S2, 2 S3, 3 S4.
REGIONS = """
00000000
01333110
03333310
03322330
03322330
03333310
01333110
00000000
"""


def _grid(text, table):
    return np.array([[table[letter] for letter in line] for line in text.split()])


@pytest.fixture
def tissues():
    return _grid(SLICE, {".": 0, "b": 0, "n": 1, "e": 2, "t": 3})


@pytest.fixture
def regions():
    return _grid(REGIONS, {"0": 0, "1": 1, "2": 2, "3": 3}).astype(np.uint8)


def test_the_region_map_is_the_one_written_out_by_hand(tissues, regions):
    brain = _grid(SLICE, {".": False, "b": True, "n": True, "e": True, "t": True})
    assert region_map(brain, tissues > 0, 2, (1, 1)).tolist() == regions.tolist()


def test_weights_of_each_region_are_the_papers(regions):
    draws = np.where(np.indices((8, 8)).sum(axis=0) % 2 == 0, 0.2, 0.8)[None].astype(np.float32)
    one, two = losses.sample_weights(regions[None], draws, 0.5, contour_weight=2)
    one, two = np.array(one)[0], np.array(two)[0]
    for weights, s3, s4 in ((one, 1, 2), (two, 1, 1)):
        assert set(weights[regions == LwsRegion.S1]) == {0}
        assert set(weights[regions == LwsRegion.S3]) == {s3}
        assert set(weights[regions == LwsRegion.S4]) == {s4}
    normal = regions == LwsRegion.S2
    assert (one[normal] == (draws[0][normal] < 0.5)).all()
    assert set(one[normal]) == {0, 1}
    assert not two[normal].any()


def test_p2_follows_equation_3_with_the_contour_counted(tissues, regions):
    positives, normals = losses.region_counts(regions[None], (tissues > 0)[None].astype(np.int32))
    assert float(positives[0]) == 14  # tumour pixels, contour or not; S3 alone would be 4
    assert float(normals[0]) == 8
    assert float(losses.sampling_probability(positives, normals, 0.1, 0.01)[0]) == pytest.approx(0.1 * 14 / 8)
    assert float(losses.sampling_probability(positives, normals, 1.5, 0.01)[0]) == 1
    assert float(losses.sampling_probability(np.float32(3), np.float32(100), 1.5, 0.01)) == pytest.approx(0.045)
    assert float(losses.sampling_probability(np.float32(0), np.float32(100), 1.5, 0.01)) == pytest.approx(0.01)


def test_equation_1_by_hand(tissues, regions):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 8, 8, 4)).astype(np.float32)
    draws = rng.random((1, 8, 8)).astype(np.float32)
    weights, _ = losses.sample_weights(regions[None], draws, 0.4, contour_weight=2)
    found = losses.ratio(
        losses.weighted_cross_entropy_sum(logits, tissues[None], weights), np.float32(np.sum(weights))
    )

    # The double sum of the paper, pixel by pixel, in float64.
    top = bottom = 0.0
    for i in range(8):
        for j in range(8):
            region = regions[i, j]
            w = {0: 0.0, 1: float(draws[0, i, j] < 0.4), 2: 1.0, 3: 2.0}[int(region)]
            scores = np.exp(logits[0, i, j].astype(np.float64))
            top += -np.log(scores[tissues[i, j]] / scores.sum()) * w
            bottom += w
    assert float(found) == pytest.approx(top / bottom, rel=1e-5)


def test_with_w_1_it_is_plain_cross_entropy(tissues):
    logits = np.random.default_rng(1).normal(size=(2, 8, 8, 4)).astype(np.float32)
    classes = np.stack([tissues, tissues[::-1]])
    ones = np.ones((2, 8, 8), np.float32)
    found = losses.ratio(losses.weighted_cross_entropy_sum(logits, classes, ones), np.float32(ones.sum()))
    reference = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(classes, logits)
    assert float(found) == pytest.approx(float(reference), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_cross_entropy_of_large_logits_is_exact(classes):
    """Value and gradient against float64, where one class is sure, rightly or wrongly, and where none is."""
    import tensorflow as tf

    rng = np.random.default_rng(classes)
    logits = (rng.normal(size=(2, 6, 5, classes)) * rng.choice([1e-3, 1, 60], (2, 6, 5, 1))).astype(np.float32)
    chosen = rng.integers(0, classes, (2, 6, 5))
    weights = rng.choice([0, 1, 2], (2, 6, 5)).astype(np.float32)
    x = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = losses.weighted_cross_entropy_sum(x, chosen, weights)
    likely = special.log_softmax(logits.astype(np.float64), axis=-1)
    right = np.eye(classes)[chosen]
    assert float(found) == pytest.approx(-(weights * (likely * right).sum(-1)).sum(), rel=1e-6)
    assert np.abs(tape.gradient(found, x) - weights[..., None] * (np.exp(likely) - right)).max() < 1e-6


def test_the_drawn_share_of_s2_matches_beta_within_sampling_error():
    rng = np.random.default_rng(2)
    regions = np.full((4, 200, 200), LwsRegion.S2, np.uint8)
    regions[:, :60, :60] = LwsRegion.S3
    whole = (regions == LwsRegion.S3).astype(np.int32)
    positives, normals = (np.sum(count) for count in losses.region_counts(regions, whole))
    p2 = losses.sampling_probability(positives, normals, beta=1.5, floor=0.01)
    draws = rng.random(regions.shape).astype(np.float32)
    weights, _ = losses.sample_weights(regions, draws, p2, contour_weight=2)
    drawn = np.array(weights)[regions == LwsRegion.S2].sum()
    wanted = 1.5 * positives  # eq. 3: p2 * N_S2 = beta * N_pos
    deviation = np.sqrt(float(normals) * float(p2) * (1 - float(p2)))
    assert abs(drawn - wanted) < 4 * deviation


def test_scope_slice_gives_each_slice_its_own_share():
    regions = np.full((2, 10, 10), LwsRegion.S2, np.uint8)
    regions[0, :5] = LwsRegion.S3
    whole = (regions == LwsRegion.S3).astype(np.int32)
    p2 = losses.sampling_probability(*losses.region_counts(regions, whole), 1.5, 0.01)
    draws = np.full((2, 10, 10), 0.5, np.float32)
    weights, _ = losses.sample_weights(regions, draws, p2, 2)
    assert np.array(p2) == pytest.approx([1.0, 0.01])
    assert np.array(weights)[0].sum() == 100
    assert np.array(weights)[1].sum() == 0


def test_a_batch_without_tumour_costs_unet2_nothing():
    assert float(losses.ratio(np.float32(0), np.float32(0))) == 0


def test_a_resection_cavity_counts_as_no_tumour():
    whole, parts = losses.targets(np.array([[[0, 1, 2, 3, 4]]], np.uint8))
    assert np.array(whole).tolist() == [[[0, 1, 1, 1, 0]]]
    assert np.array(parts).tolist() == [[[0, 1, 2, 3, 0]]]


def test_omega_weighs_the_eight_auxiliary_losses_and_no_branch():
    parts = {"branch1": 2.0, "branch2": 3.0, **{f"aux{n}": 1.0 for n in range(1, 9)}}
    assert losses.data_loss(parts, ("branch1", "branch2"), 0.1) == pytest.approx(5.8)


# --- BFCN's outlines ------------------------------------------------------------------------------------

# Oedema of 9 x 9 pixels round a core of one. Of the two drawings "#" is on an outline.
TUMOUR = """
.............
.............
..eeeeeeeee..
..eeeeeeeee..
..eeeeeeeee..
..eeeeeeeee..
..eeeeneeee..
..eeeeeeeee..
..eeeeeeeee..
..eeeeeeeee..
..eeeeeeeee..
.............
.............
"""
ONE_PX = """
.............
.............
..#########..
..#.......#..
..#.......#..
..#.......#..
..#...#...#..
..#.......#..
..#.......#..
..#.......#..
..#########..
.............
.............
"""
THREE_PX = """
.............
.###########.
.###########.
.###########.
.###.....###.
.###.###.###.
.###.###.###.
.###.###.###.
.###.....###.
.###########.
.###########.
.###########.
.............
"""


def _tissues(text):
    return _grid(text, {".": 0, "n": 1, "e": 2, "t": 3})


@pytest.mark.parametrize(("width_px", "drawn"), [(1, ONE_PX), (3, THREE_PX)])
def test_outlines_are_the_ones_drawn_by_hand(width_px, drawn):
    found = np.array(losses.outlines(_tissues(TUMOUR)[None], width_px))[0]
    assert found.tolist() == _grid(drawn, {".": 0, "#": 1}).tolist()


@pytest.mark.parametrize("width_px", [1, 3, 5])
def test_outlines_are_those_of_whole_tumour_core_and_enhancing_part(width_px):
    rng = np.random.default_rng(width_px)
    blobs = ndimage.gaussian_filter(rng.normal(size=(2, 40, 50)), (0, 4, 4))
    tissues = np.digitize(blobs, np.quantile(blobs, [0.6, 0.75, 0.9]))  # 0..3; some touch the edge
    found = np.array(losses.outlines(tissues, width_px))
    square = np.ones((3, 3), bool)
    for ours, classes in zip(found, tissues, strict=True):
        line = np.zeros(classes.shape, bool)
        for region in (classes > 0, (classes == 1) | (classes == 3), classes == 3):
            line |= region & ~ndimage.binary_erosion(region, square, border_value=1)
        wide = ndimage.binary_dilation(line, np.ones((width_px, width_px), bool))
        assert np.array_equal(ours, wide)


def test_where_the_slice_or_a_resection_cavity_ends_is_no_outline():
    assert not np.array(losses.outlines(np.full((1, 8, 8), 3), 3)).any()
    cavity = np.zeros((1, 8, 8), np.uint8)
    cavity[0, 2:6, 2:6] = 4
    assert not np.array(losses.outlines(cavity, 3)).any()


def test_a_balanced_pixel_weighs_the_inverse_of_its_frequency():
    line = np.zeros((2, 4, 4), np.int32)
    line[0, 1, :2] = 1
    line[1] = 1  # of a slice that only fills the batch up
    valid = np.ones((2, 4, 4), np.float32) * np.array([1, 0], np.float32)[:, None, None]
    weights = np.array(losses.balancing_weights(line, valid, np.float32(2), np.float32(16)))
    assert set(weights[0][line[0] == 1]) == {8}  # 2 of 16 pixels
    assert set(weights[0][line[0] == 0]) == {1}
    assert not weights[1].any()
    without = losses.balancing_weights(
        np.zeros((1, 4, 4), np.int32), np.float32(1), np.float32(0), np.float32(16)
    )
    assert set(np.array(without).ravel()) == {1}


def test_a_cyst_is_learned_as_core_and_a_cavity_as_no_tumour():
    tissues = np.array(
        [[[Tissue.BACKGROUND, Tissue.NCR, Tissue.ED, Tissue.ET, Tissue.RC, Tissue.CC]]], np.uint8
    )
    whole, parts = losses.targets(tissues)
    assert np.array(whole).tolist() == [[[0, 1, 1, 1, 0, 1]]]
    assert np.array(parts).tolist() == [[[0, 1, 2, 3, 0, 1]]]
