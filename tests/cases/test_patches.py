"""Where patches are cut, and what is in them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upsampling import upsampled_centre

from tfbrats import config
from tfbrats.cases import patches
from tfbrats.cases.preprocess import Prepared
from tfbrats.labels import Tissue, region_mask
from tfbrats.records import schema

SAMPLING = config.Sampling(
    patch_size=8, patches_per_case=40, region_fraction=0.5, boxes="reference", box_jitter=0
)
CASCADE = config.Cascade(mask="box", margin=2, stride=4, threshold=0.5, tile_batch=2)


def prepared(shape=(30, 26, 22), seed=0, label=None, box_low=(4, 5, 6)) -> Prepared:
    """A crop of noise with a tumour of all tissues in it."""
    rng = np.random.default_rng(seed)
    if label is None:
        label = np.zeros(shape, np.uint8)
        label[8:20, 8:18, 6:16] = Tissue.ED
        label[11:17, 10:16, 8:14] = Tissue.NCR
        label[12:14, 11:13, 9:11] = Tissue.ET
    return Prepared(
        case_id="case_1",
        image=rng.normal(size=(*shape, 4)).astype(np.float32),
        brain=np.ones(shape, bool),
        label=label,
        box_ijk=tuple((low, low + size) for low, size in zip(box_low, shape, strict=True)),
        shape_ijk=(60, 60, 60),
        spacing_mm=(1, 1, 1),
    )


def cut_all(case, region="TC", sampling=SAMPLING, cascade=CASCADE, seed=0):
    return list(patches.patches(case, region, sampling, cascade, seed))


# --- where ----------------------------------------------------------------------------------------------


def test_wt_is_looked_for_in_the_whole_crop_and_the_others_round_their_parents():
    label = prepared().label
    assert patches.parent_box(label, "WT", margin=2) == ((0, 30), (0, 26), (0, 22))
    assert patches.parent_box(label, "TC", margin=2) == ((6, 22), (6, 20), (4, 18))
    assert patches.parent_box(label, "ET", margin=2) == ((9, 19), (8, 18), (6, 16))


def test_a_margin_ends_at_the_border():
    assert patches.parent_box(prepared().label, "TC", margin=100) == ((0, 30), (0, 26), (0, 22))


def test_without_the_parent_the_next_region_above_gives_the_box():
    label = np.where(prepared().label > 0, np.uint8(Tissue.ED), np.uint8(0))
    assert patches.ancestor(label, "ET") == "WT"
    assert patches.parent_box(label, "ET", 2) == patches.parent_box(label, "TC", 2)
    nothing = np.zeros_like(label)
    assert patches.parent_box(nothing, "ET", 2) == ((0, 30), (0, 26), (0, 22))


@pytest.mark.parametrize("region", ["WT", "TC", "ET"])
def test_half_the_centres_are_on_the_region_and_the_rest_anywhere_in_the_box(region):
    case = prepared()
    box = patches.parent_box(case.label, region, 2)
    found = patches.centres(case.label, region, box, 400, 0.5, np.random.default_rng(0))
    low, high = np.array(box).T
    assert np.all((found >= low) & (found < high))
    inside = region_mask(case.label, region)[tuple(found.T)]
    assert np.all(inside[1::2])  # every second one is drawn on the region
    share = region_mask(case.label, region).sum() / np.prod(high - low)
    assert abs(inside[0::2].mean() - share) < 0.1
    # Uniform in the box: every face is reached.
    assert np.all(found[0::2].min(axis=0) <= low + 1) and np.all(found[0::2].max(axis=0) >= high - 2)


def test_every_voxel_of_the_region_is_drawn_sooner_or_later():
    case = prepared()
    found = patches.centres(case.label, "ET", ((0, 30), (0, 26), (0, 22)), 400, 1.0, np.random.default_rng(1))
    assert {tuple(c) for c in found} == {tuple(v) for v in np.argwhere(region_mask(case.label, "ET"))}


def test_a_case_without_the_region_gives_negatives_only():
    label = np.where(prepared().label == Tissue.ET, np.uint8(Tissue.NCR), prepared().label)
    found = cut_all(prepared(label=label), "ET")
    assert len(found) == SAMPLING.patches_per_case
    assert not any(region_mask(patch["label"], "ET").any() for patch in found)


@given(st.integers(1, 50), st.floats(0, 1))
def test_the_share_on_the_region_holds_for_any_run_of_patches(count, fraction):
    chosen = patches.on_region(np.arange(count), fraction)
    assert abs(chosen.sum() - count * fraction) <= 1


@given(st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_a_jittered_box_moves_by_no_more_than_the_jitter_and_stays_a_box(seed, jitter):
    shape, box = (30, 26, 22), ((0, 3), (10, 11), (15, 22))
    moved = patches.jittered(box, jitter, shape, np.random.default_rng(seed))
    for (low, high), (was_low, was_high), size in zip(moved, box, shape, strict=True):
        assert 0 <= low < high <= size
        assert abs(low - was_low) <= jitter
        assert abs(high - was_high) <= jitter or high == low + 1


def test_jitter_changes_where_patches_are_cut():
    still = {tuple(patch["centre_ijk"]) for patch in cut_all(prepared())}
    sampling = SAMPLING.model_copy(update={"box_jitter": 4})
    moved = {tuple(patch["centre_ijk"]) for patch in cut_all(prepared(), sampling=sampling)}
    assert still != moved


def test_draws_depend_on_seed_case_and_region_and_on_nothing_else():
    def centres(*changes, **settings):
        case = dataclasses.replace(prepared(), **dict(changes))
        return [tuple(patch["centre_ijk"]) for patch in cut_all(case, **settings)]

    assert centres() == centres()
    assert centres() != centres(seed=1)
    assert centres() != centres(("case_id", "case_2"))
    assert centres(region="WT") != centres(region="TC")


# --- what -----------------------------------------------------------------------------------------------


def marked(at, shape=(20, 20, 20)):
    image = np.zeros((*shape, 1), np.float16)
    image[at] = 8
    return image


def test_the_centre_voxel_lies_in_the_middle_of_each_scale():
    image = marked((9, 10, 11))
    x1, half = patches.cut(image, (9, 10, 11), 8)
    assert [tuple(v[:3]) for v in np.argwhere(x1)] == [(4, 4, 4)]
    # Twice the width: the voxel is one of the eight that the middle of x0.5 averages.
    assert [tuple(v[:3]) for v in np.argwhere(half)] == [(4, 4, 4)]
    assert half[4, 4, 4, 0] == 1
    # Half the width: the voxel fills the middle, 27 / 64 of it in each of the eight voxels it becomes.
    double = upsampled_centre(x1)[..., 0]
    assert np.all(double[4:6, 4:6, 4:6] == 8 * 0.75**3)
    assert np.count_nonzero(double) == 4**3


def test_the_three_scales_see_twice_as_much_as_much_and_half_as_much():
    def seen(offset):
        x1, half = patches.cut(marked((16 + offset, 16, 16), (32, 32, 32)), (16, 16, 16), 8)
        return half.any(), x1.any(), upsampled_centre(x1).any()

    reach = [sum(seen(offset)[scale] for offset in range(-16, 16)) for scale in range(3)]
    assert reach == [16, 8, 6]  # x2: four voxels, and a quarter of each neighbour


def test_outside_the_volume_a_patch_is_zero():
    image = np.full((5, 6, 7, 2), 2, np.float16)
    x1, half = patches.cut(image, (0, 0, 0), 8)
    assert np.all(x1[4:, 4:, 4:] == np.pad(image[:4, :4, :4], [(0, 0)] * 4))
    assert not x1[:4].any() and not x1[:, :4].any() and not x1[:, :, :4].any()
    assert not half[:4].any() and half[4, 4, 4, 0] == 2
    # Half a block outside: zeros count in the mean.
    assert patches.cut(image, (1, 0, 0), 8)[1][3, 4, 4, 0] == 1


def test_a_centre_far_outside_gives_an_empty_patch():
    x1, half = patches.cut(np.ones((5, 5, 5, 1), np.float16), (100, 2, 2), 8)
    assert not x1.any() and not half.any()


def test_x05_is_the_mean_of_blocks_in_any_order_of_adding():
    rng = np.random.default_rng(4)
    image = rng.normal(size=(16, 16, 16, 3)).astype(np.float16)
    _, half = patches.cut(image, (8, 8, 8), 8)
    expected = image.astype(np.float64).reshape(8, 2, 8, 2, 8, 2, 3).mean(axis=(1, 3, 5))
    assert np.allclose(half, expected, atol=1e-3)


def test_image_and_label_of_a_patch_are_of_the_same_voxels():
    case = prepared()
    case = dataclasses.replace(case, image=np.repeat(case.label[..., None], 4, axis=-1).astype(np.float32))
    for patch in cut_all(case):
        assert np.array_equal(patch["x1"][..., 0], patch["label"])


def test_multiply_blanks_what_lies_outside_the_parent_and_box_does_not():
    case = prepared()
    cascade = CASCADE.model_copy(update={"mask": "multiply"})
    for masked, whole in zip(cut_all(case, cascade=cascade), cut_all(case), strict=True):
        inside = region_mask(masked["label"], "WT")
        assert np.array_equal(masked["centre_ijk"], whole["centre_ijk"])
        assert not masked["x1"][~inside].any()
        assert np.array_equal(masked["x1"][inside], whole["x1"][inside])
        # The coarse scale is of the blanked image: nothing of the brain leaks in.
        if not region_mask(case.label, "WT").all():
            assert np.count_nonzero(masked["half"]) < np.count_nonzero(whole["half"])
    wt = [patch["x1"] for patch in cut_all(case, "WT", cascade=cascade)]
    assert all(np.array_equal(a, b["x1"]) for a, b in zip(wt, cut_all(case, "WT"), strict=True))


def test_a_patch_survives_the_record_to_the_bit_and_its_centre_is_of_the_whole_volume():
    case = prepared()
    for patch in cut_all(case, "ET"):
        found = schema.decode(schema.PATCHES, schema.encode(schema.PATCHES, patch))
        assert found["region"] == "ET" and found["case_id"] == "case_1"
        for name in ("x1", "half", "label", "centre_ijk"):
            assert np.array_equal(found[name], patch[name]) and found[name].dtype == patch[name].dtype
        in_crop = found["centre_ijk"] - [low for low, _ in case.box_ijk]
        x1, _ = patches.cut(case.image.astype(np.float16), in_crop, 8)
        assert np.array_equal(x1, patch["x1"])


def test_a_volume_survives_the_record_to_the_bit():
    case = prepared()
    volume = patches.volume(case)
    found = schema.decode(schema.VOLUMES, schema.encode(schema.VOLUMES, volume))
    assert found["case_id"] == "case_1"
    for name in ("image", "brain", "label", "origin_ijk", "shape_ijk"):
        assert np.array_equal(found[name], volume[name])


@pytest.mark.parametrize("corner", [(0, 0, 0), (-5, 3, -2), (7, -8, 11), (40, 0, 0)])
def test_a_patch_of_a_shared_halved_image_is_the_mean_of_its_own_voxels(corner):
    image = np.random.default_rng(3).standard_normal((21, 18, 15, 4)).astype(np.float16)
    scales = patches.MultiScale(image, 8)
    scales.cut(np.array(corner) + 9)  # another parity first
    wide = patches.window(image, corner, 16).astype(np.float32)
    wide = wide[0::2] + wide[1::2]
    wide = wide[:, 0::2] + wide[:, 1::2]
    wide = wide[:, :, 0::2] + wide[:, :, 1::2]
    half = scales.cut(np.array(corner) + 8)[1]
    assert half.tobytes() == (wide * np.float32(0.125)).astype(np.float16).tobytes()
