"""Lesion-wise scores: masks worked out by hand, the borders of each rule, blunt second readings of it."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from tfbrats.errors import InputError
from tfbrats.labels import Tissue
from tfbrats.metrics import lesions, region_scores, surfaces

MM = (1.0, 1.0, 1.0)
SHAPE = (30, 30, 30)


def boxes(*bounds, tissue=Tissue.ET, shape=SHAPE):
    """Tissues with a box of `tissue` for each ((i, i), (j, j), (k, k))."""
    array = np.zeros(shape, np.uint8)
    for bound in bounds:
        array[tuple(slice(*side) for side in bound)] = tissue
    return array


def scores(prediction, reference, rule, region="WT", spacing_mm=MM):
    return {row.region: row for row in lesions.score_case(prediction, reference, spacing_mm, rule)}[region]


def hd95_mm(prediction, reference, spacing_mm):
    return surfaces.robust_hausdorff_mm(surfaces.element_distances(prediction, reference, spacing_mm), 95)


def counts(row):
    return (row.reference_lesions, row.found, row.missed, row.false)


# A and B are cubes of 4 x 4 x 4 voxels, far apart.
A, HALF_A = ((2, 6), (2, 6), (2, 6)), ((2, 6), (2, 6), (2, 4))
B = ((20, 24), (20, 24), (20, 24))

# --- masks worked out by hand ---------------------------------------------------------------------------


def test_first_mask_of_two_lesions_one_is_half_found_and_one_missed():
    reference, prediction = boxes(A, B), boxes(HALF_A)
    # A: Dice 2 * 32 / (64 + 32) = 2/3. Its far face lies 2 mm from the half's, with a sixth of the area.
    # B: missed, so Dice 0 and the penalty. Two lesions, nothing false.
    row = scores(prediction, reference, "2023")
    assert counts(row) == (2, 1, 1, 0)
    assert row.dice == pytest.approx((2 / 3 + 0) / 2)
    assert row.hd95_mm == pytest.approx((2 + 374) / 2)
    assert math.isnan(row.nsd_05mm)
    assert math.isnan(row.nsd_1mm)

    row = scores(prediction, reference, "2024")
    assert counts(row) == (2, 1, 1, 0)
    assert row.dice == pytest.approx((2 / 3 + 0) / 2)
    assert row.hd95_mm == pytest.approx((2 + 337) / 2)
    # Surface voxels of A by layer of k: 16, 12 (a ring), 12, 16, together 56; from the half they are 0, 0, 1
    # and 2 mm away. All 32 voxels of the half are surface; 28 are A's too, the inner 4 are 1 mm away.
    assert row.nsd_05mm == pytest.approx(((28 / 56 + 28 / 32) / 2 + 0) / 2)
    assert row.nsd_1mm == pytest.approx(((40 / 56 + 32 / 32) / 2 + 0) / 2)


def test_second_mask_a_lesion_found_exactly_and_one_invented():
    reference = boxes(A)
    # 2023 counts an invented voxel like an invented lesion: sums 1 and 0 + 374 over 1 + 1.
    speck = boxes(A, ((20, 21), (20, 21), (20, 21)))
    row = scores(speck, reference, "2023")
    assert counts(row) == (1, 1, 0, 1)
    assert (row.dice, row.hd95_mm) == (1 / 2, 374 / 2)
    # 2024 leaves 20 voxels or less out of the prediction too ...
    row = scores(speck, reference, "2024")
    assert counts(row) == (1, 1, 0, 0)
    assert row.ignored_prediction == 1
    assert (row.dice, row.hd95_mm, row.nsd_05mm, row.nsd_1mm) == (1, 0, 1, 1)
    # ... and counts 64.
    row = scores(boxes(A, B), reference, "2024")
    assert counts(row) == (1, 1, 0, 1)
    assert (row.dice, row.hd95_mm, row.nsd_05mm, row.nsd_1mm) == (1 / 2, 337 / 2, 1 / 2, 1 / 2)


def test_third_mask_two_fragments_are_one_lesion_and_one_lesion_is_too_small():
    # Cubes of 3 x 3 x 3 with 6 voxels between them: dilated by 3 each they touch. Each of 27 mm3 would be left
    # out; as one lesion of 54 mm3 they count.
    one, other = ((2, 5), (2, 5), (2, 5)), ((11, 14), (2, 5), (2, 5))
    small = ((20, 25), (20, 25), (20, 22))  # 50 mm3 are 50 or less
    row = scores(boxes(one), boxes(one, other, small), "2023")
    assert counts(row) == (1, 1, 0, 0)
    assert row.ignored_reference == 1
    # 27 of 54 found: 2 * 27 / (54 + 27). The other's far face, an eighth of the area, is 9 mm from the one.
    assert row.dice == pytest.approx(2 / 3)
    assert row.hd95_mm == pytest.approx(9)
    # 7 voxels between them: two lesions of 27 mm3, both left out; with nothing to find, nothing is wrong.
    apart = ((12, 15), (2, 5), (2, 5))
    row = scores(boxes(one), boxes(one, apart, small), "2023")
    assert counts(row) == (0, 0, 0, 0)
    assert (row.dice, row.hd95_mm, row.ignored_reference) == (1, 0, 3)


def test_volumes_and_distances_follow_an_anisotropic_spacing():
    spacing_mm = (3.0, 2.0, 1.0)  # a voxel is 6 mm3
    half_along_i = ((2, 4), (2, 6), (2, 6))
    eight = ((20, 22), (20, 22), (20, 22))  # 48 mm3, left out
    nine = ((20, 23), (20, 23), (20, 21))  # 54 mm3, counted
    row = scores(boxes(half_along_i), boxes(A, eight), "2023", spacing_mm=spacing_mm)
    assert counts(row) == (1, 1, 0, 0)
    assert row.ignored_reference == 1
    assert row.dice == pytest.approx(2 / 3)
    assert row.hd95_mm == pytest.approx(2 * 3)  # two voxels of 3 mm
    row = scores(boxes(half_along_i), boxes(A, nine), "2023", spacing_mm=spacing_mm)
    assert counts(row) == (2, 1, 1, 0)
    assert row.hd95_mm == pytest.approx((6 + 374) / 2)
    # 2024 counts voxels, whatever their volume: 9 are left out of WT.
    row = scores(boxes(half_along_i), boxes(A, nine), "2024", spacing_mm=spacing_mm)
    assert counts(row) == (1, 1, 0, 0)


# --- what belongs to a lesion ---------------------------------------------------------------------------


def test_a_prediction_within_reach_finds_a_lesion_it_does_not_touch():
    # 3 voxels beyond A's face is the last that a dilation by 3 reaches: found, with Dice 0 and a true HD95.
    near, beyond = ((8, 12), (2, 6), (2, 6)), ((9, 13), (2, 6), (2, 6))
    row = scores(boxes(near), boxes(A), "2023")
    assert counts(row) == (1, 1, 0, 0)
    assert row.dice == 0
    assert row.hd95_mm == pytest.approx(6)
    row = scores(boxes(beyond), boxes(A), "2023")
    assert counts(row) == (1, 0, 1, 1)
    assert (row.dice, row.hd95_mm) == (0, 374)


def test_a_prediction_in_reach_of_two_lesions_is_scored_with_both():
    # Two cubes 10 voxels apart are two lesions; a bar through both is one component in reach of each.
    other = ((16, 20), (2, 6), (2, 6))
    row = scores(boxes(((2, 20), (2, 6), (2, 6))), boxes(A, other), "2023")
    assert counts(row) == (2, 2, 0, 0)
    assert row.dice == pytest.approx(2 * 64 / (64 + 18 * 16))  # of each, so also of both


def test_what_lies_in_reach_of_an_ignored_lesion_is_neither_right_nor_false():
    small = ((20, 22), (20, 22), (20, 22))
    row = scores(boxes(A, small), boxes(A, small), "2023")
    assert counts(row) == (1, 1, 0, 0)
    assert (row.dice, row.ignored_reference) == (1, 1)


def test_fragments_that_touch_by_a_corner_are_one_component():
    corner = ((6, 10), (6, 10), (6, 10))
    row = scores(boxes(A, corner), boxes(B), "2023")
    assert counts(row) == (1, 0, 1, 1)


def test_fragments_join_less_far_along_a_diagonal_of_space_as_in_the_published_scorers():
    # Three steps to 18 neighbours reach 3 voxels along an axis and along a diagonal of a plane, but only 2
    # (6 in all) along one of space. The challenge's text has the full 3 x 3 x 3, which reaches 3 everywhere.
    def beside(*gaps):
        return tuple((6 + gap, 10 + gap) if gap else (2, 6) for gap in gaps)

    for rule, gaps, lesions_expected in (
        ("2023", (6, 6, 0), 1),
        ("2023", (7, 7, 0), 2),
        ("2023", (4, 4, 4), 1),
        ("2023", (5, 5, 5), 2),
        ("2023_26_neighbours", (6, 6, 6), 1),
        ("2023_26_neighbours", (7, 7, 7), 2),
        ("2024", (5, 5, 5), 2),
        ("2024_26_neighbours", (5, 5, 5), 1),
    ):
        assert scores(boxes(), boxes(A, beside(*gaps)), rule).missed == lesions_expected, (rule, gaps)


# --- rules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", lesions.RULES)
def test_without_any_lesion_every_score_is_perfect(rule):
    for row in lesions.score_case(boxes(), boxes(), MM, rule):
        surface_dice = (row.nsd_05mm, row.nsd_1mm)
        assert (row.dice, row.hd95_mm) == (1, 0)
        assert all(map(math.isnan, surface_dice)) if "2023" in rule else surface_dice == (1, 1)
        assert counts(row) == (0, 0, 0, 0)


@pytest.mark.parametrize(("rule", "penalty_mm"), [("2023", 374), ("2024", 337)])
def test_a_region_that_one_side_lacks_costs_the_penalty_of_its_edition(rule, penalty_mm):
    for prediction, reference in ((boxes(A), boxes()), (boxes(), boxes(A))):
        row = scores(prediction, reference, rule)
        assert (row.dice, row.hd95_mm) == (0, penalty_mm)


def test_regions_are_those_of_the_edition():
    tissues = boxes(A, tissue=Tissue.RC) + boxes(B, tissue=Tissue.NCR)
    assert [row.region for row in lesions.score_case(tissues, tissues, MM, "2023")] == ["WT", "TC", "ET"]
    rows = {row.region: row.found for row in lesions.score_case(tissues, tissues, MM, "2024")}
    assert rows == {"ET": 0, "NETC": 1, "RC": 1, "SNFH": 0, "TC": 1, "WT": 1}


def test_2024_dilates_cavity_and_non_enhancing_core_by_5_and_the_rest_by_3():
    # 10 voxels apart along i: 5 + 5 meet, 3 + 3 do not.
    nearby = ((16, 20), (2, 6), (2, 6))
    for region, tissue, lesions_expected in (
        ("RC", Tissue.RC, 1),
        ("NETC", Tissue.NCR, 1),
        ("SNFH", Tissue.ED, 2),
        ("ET", Tissue.ET, 2),
        ("TC", Tissue.NCR, 2),
        ("WT", Tissue.NCR, 2),
    ):
        reference = boxes(A, nearby, tissue=tissue)
        assert scores(boxes(), reference, "2024", region).missed == lesions_expected, region


def test_2024_leaves_out_20_voxels_of_a_region_but_only_10_of_enhancing_tumour():
    def line(length):
        return boxes(A, ((20, 21), (20, 21), (2, 2 + length)))

    for region, largest in (("WT", 20), ("TC", 20), ("ET", 10)):
        row = scores(line(largest), line(largest), "2024", region)
        assert (row.found, row.ignored_reference, row.ignored_prediction) == (1, 1, 1), region
        row = scores(line(largest + 1), line(largest + 1), "2024", region)
        assert (row.found, row.ignored_reference, row.ignored_prediction) == (2, 0, 0), region


def test_2024_judges_predicted_fragments_together_as_it_does_the_reference_s():
    fragments = [((at, at + 2), (20, 22), (20, 22)) for at in (2, 8, 14)]  # 3 x 8 = 24 voxels
    row = scores(boxes(*fragments), boxes(B), "2024")
    assert (row.false, row.ignored_prediction) == (1, 0)
    assert scores(boxes(*fragments), boxes(B), "2023").false == 3


def test_a_rule_says_what_it_means_with_its_own_values():
    meaning = lesions.RULES["2024"].meaning
    for value in ("2024", "3", "NETC 5", "RC 5", "20", "ET 10", "voxels", "either side", "337 mm"):
        assert value in meaning
    for value in ("2023 GLI", "by 3 voxels (18 neighbours)", "50 mm3", "the reference;", "374 mm"):
        assert value in lesions.RULES["2023"].meaning
    assert "2023 GLI" in lesions.RULES["2023_26_neighbours"].meaning
    assert "by 3 voxels (26 neighbours)" in lesions.RULES["2023_26_neighbours"].meaning


def test_the_columns_are_those_that_readers_expect_in_their_order():
    names = [field.name for field in dataclasses.fields(lesions.LesionScores)]
    assert " ".join(names) == (
        "region dice hd95_mm nsd_05mm nsd_1mm reference_lesions found missed false ignored_reference "
        "ignored_prediction"
    )


def test_an_unknown_rule_names_the_known_ones_and_two_grids_are_refused():
    with pytest.raises(InputError, match="2023, 2023_26_neighbours, 2024"):
        lesions.score_case(boxes(), boxes(), MM, "2022")
    with pytest.raises(InputError, match=r"\(30, 30, 30\).*\(30, 30, 31\)"):
        lesions.score_case(boxes(), boxes(shape=(30, 30, 31)), MM, "2023")


# --- a second reading -----------------------------------------------------------------------------------


def plainly(prediction, reference, spacing_mm, rule, region):
    """The same sums over the whole image, one lesion after the other, with nothing cropped or shared."""
    full = np.ones((3, 3, 3))
    step = ndimage.generate_binary_structure(3, {18: 2, 26: 3}[rule.dilation_neighbours])

    def dilated(mask):
        return ndimage.binary_dilation(mask, step, iterations=rule.dilations[region])

    def joined(mask):
        groups, number = ndimage.label(dilated(mask), full)
        return [mask & (groups == n + 1) for n in range(number)]

    def too_small(mask):
        size = mask.sum() * (np.prod(spacing_mm) if rule.ignored_unit == "mm3" else 1)
        return size <= rule.ignored_up_to[region]

    if rule.treats_prediction_alike:
        parts = [part for part in joined(prediction) if not too_small(part)]
    else:
        groups, number = ndimage.label(prediction, full)
        parts = [groups == n + 1 for n in range(number)]
    dice, hd95, judged, hit = 0.0, 0.0, 0, set()
    for lesion in joined(reference):
        near = [n for n, part in enumerate(parts) if (part & dilated(lesion)).any()]
        hit.update(near)
        if not too_small(lesion):
            ours = np.logical_or.reduce([parts[n] for n in near]) if near else np.zeros_like(lesion)
            dice += region_scores.dice(ours, lesion)
            hd95 += hd95_mm(ours, lesion, spacing_mm) if near else rule.penalty_mm
            judged += 1
    false = len(parts) - len(hit)
    judged += false
    return (dice / judged, (hd95 + false * rule.penalty_mm) / judged, false) if judged else (1, 0, 0)


@pytest.mark.parametrize("rule", lesions.RULES)
@pytest.mark.parametrize("seed", range(3))
def test_many_small_lesions_up_to_the_image_s_walls_score_as_a_plain_reading_says(rule, seed):
    random = np.random.default_rng(seed)
    shape, spacing_mm = (48, 44, 40), (1.0, 1.5, 2.0)
    corners = [(corner, corner + random.integers(1, 6, 3)) for corner in random.integers(0, shape, (16, 3))]
    bounds = [tuple(zip(*corner, strict=True)) for corner in corners]
    # Ten lesions; four of them are found, by what is a voxel off; six are invented.
    reference = boxes(*bounds[:10], shape=shape)
    prediction = np.roll(boxes(*bounds[:4], shape=shape), 1, axis=0) | boxes(*bounds[10:], shape=shape)
    row = scores(prediction, reference, rule, "ET", spacing_mm)
    assert min(row.found, row.missed, row.false) > 0
    assert (row.dice, row.hd95_mm, row.false) == pytest.approx(
        plainly(prediction > 0, reference > 0, spacing_mm, lesions.RULES[rule], "ET")
    )


# --- the published rule of 2023, written once more ------------------------------------------------------
#
# From its description: a mask is a set of voxels, each step is spelled out, nothing is shared with the package
# but the distance of two surfaces (which is compared with surface-distance elsewhere).

OFFSETS_26 = [offset for offset in itertools.product((-1, 0, 1), repeat=3) if any(offset)]
OFFSETS_18 = [offset for offset in OFFSETS_26 if sum(map(abs, offset)) <= 2]


def moved(voxel, offset):
    return voxel[0] + offset[0], voxel[1] + offset[1], voxel[2] + offset[2]


def grown(voxels, offsets):
    """Three steps; beyond the image's walls too, which no lesion reaches here."""
    edge = voxels
    for _ in range(3):
        edge = {moved(voxel, offset) for voxel in edge for offset in offsets} - voxels
        voxels = voxels | edge
    return voxels


def pieces(voxels):
    """26-connected components."""
    left, parts = set(voxels), []
    while left:
        edge, part = {left.pop()}, set()
        while edge:
            part |= edge
            edge = {moved(voxel, offset) for voxel in edge for offset in OFFSETS_26} & left
            left -= edge
        parts.append(part)
    return parts


def as_mask(voxels, shape):
    mask = np.zeros(shape, bool)
    mask[tuple(np.array(sorted(voxels)).T)] = True
    return mask


def published_2023(prediction, reference, offsets):
    """Dice, HD95, missed and false of one region of 1 mm voxels, a lesion at a time."""
    predicted = pieces(map(tuple, np.argwhere(prediction).tolist()))
    tumour = set(map(tuple, np.argwhere(reference).tolist()))
    hit, dice, hd95, missed = set(), [], [], 0
    for area in pieces(grown(tumour, offsets)):
        lesion = tumour & area  # whatever lies in one dilated piece is one lesion
        within = grown(lesion, offsets)
        here = [n for n, part in enumerate(predicted) if part & within]
        hit.update(here)
        if len(lesion) <= 50:
            continue
        if not here:
            missed += 1
            dice.append(0)
            hd95.append(374)
            continue
        overlapping = set().union(*(predicted[n] for n in here))
        dice.append(2 * len(overlapping & lesion) / (len(overlapping) + len(lesion)))
        masks = (as_mask(voxels, reference.shape) for voxels in (overlapping, lesion))
        hd95.append(hd95_mm(*masks, MM))
    false = len(predicted) - len(hit)
    judged = len(dice) + false
    return (sum(dice) / judged, (sum(hd95) + 374 * false) / judged, missed, false) if judged else (1, 0, 0, 0)


def crowded(seed):
    """Prediction and reference of many close fragments, some of them in both and a voxel apart."""
    random = np.random.default_rng(seed)

    def fragments(number):
        array = np.zeros((46, 44, 42), np.uint8)
        for corner in random.integers(4, 34, (number, 3)):
            sides = corner + random.integers(1, 7, 3)
            array[tuple(slice(*side) for side in zip(corner, sides, strict=True))] = Tissue.ET
        return array

    common = fragments(4)
    return np.roll(common, 1, random.integers(3)) | fragments(2), common | fragments(4)


def test_sixty_crowded_scenes_score_as_an_independent_writing_of_the_published_rule():
    differing = 0
    for seed in range(60):
        prediction, reference = crowded(seed)
        row = scores(prediction, reference, "2023", "ET")
        expected = published_2023(prediction, reference, OFFSETS_18)
        assert (row.dice, row.hd95_mm, row.missed, row.false) == pytest.approx(expected, abs=1e-12), seed
        differing += scores(prediction, reference, "2023_26_neighbours", "ET") != row
    assert differing >= 5  # else these scenes could not tell 18 neighbours from 26


def test_the_text_s_26_neighbours_are_its_independent_writing_too():
    for seed in range(5):
        row = scores(*crowded(seed), "2023_26_neighbours", "ET")
        expected = published_2023(*crowded(seed), OFFSETS_26)
        assert (row.dice, row.hd95_mm, row.missed, row.false) == pytest.approx(expected, abs=1e-12), seed
