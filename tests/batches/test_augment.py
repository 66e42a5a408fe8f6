"""Rotation and flip turn everything on the pixel grid together, about the centre of the canvas."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from tfbrats.batches.augment import rotate_and_flip, with_other_intensities

CANVAS = (40, 44)


def _crop(origin=(3, 9), shape=(30, 26)):
    """A brain of 22 x 19 pixels in a crop that is larger than it."""
    rng = np.random.default_rng(0)
    region = np.zeros(shape, np.uint8)
    region[4:26, 2:21] = 1
    region[10:20, 6:16] = 2
    label = np.zeros(shape, np.uint8)
    label[10:20, 6:16] = 2
    label[12:15, 8:12] = 3
    noise = rng.normal(size=shape) * (region > 0)
    # The label also stands in the image, so that a mismatch shows.
    image = np.stack([label, noise], axis=-1).astype(np.float16)
    return {"image": image, "label": label, "region": region, "origin_ij": np.array(origin, np.int64)}


def _turned(crop, seed, degrees, flip, canvas=CANVAS):
    found = rotate_and_flip(crop, canvas, tf.constant(seed), degrees, flip)
    return {name: value.numpy() for name, value in found.items()}


def _placed(crop, name, canvas=CANVAS):
    array = crop[name].astype(np.float64)
    whole = np.zeros((*canvas, *array.shape[2:]))
    (top, left), (height, width) = crop["origin_ij"], array.shape[:2]
    whole[top : top + height, left : left + width] = array
    return whole


def _by_scipy(whole, seed, degrees, flip, order):
    """The same turn of the whole canvas: flipped after it is rotated."""
    uniform = tf.random.stateless_uniform([3], tf.constant(seed)).numpy().astype(np.float64)
    angle = np.radians((2 * uniform[0] - 1) * degrees)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = (np.array(whole.shape[:2]) - 1) / 2
    channels = whole.reshape(*whole.shape[:2], -1)
    turned = [
        ndimage.affine_transform(
            channels[..., n], rotation, middle - rotation @ middle, order=order, mode="grid-constant"
        )
        for n in range(channels.shape[-1])
    ]
    turned = np.stack(turned, axis=-1).reshape(whole.shape)
    for axis in (0, 1):
        if uniform[1 + axis] < flip:
            turned = np.flip(turned, axis)
    return turned


def test_no_rotation_and_no_flip_put_the_crop_in_its_place():
    crop = _crop()
    turned = _turned(crop, [1, 2], 0, 0)
    for name in ("image", "label", "region"):
        assert np.array_equal(turned[name], _placed(crop, name)), name


@pytest.mark.parametrize(("origin", "canvas"), [((3, 9), CANVAS), ((0, 0), CANVAS), ((0, 0), (30, 26))])
@pytest.mark.parametrize("degrees", [15, 90, 180])
def test_turning_the_crop_is_scipys_turning_of_the_whole_canvas(origin, canvas, degrees):
    """On the smallest canvas the brain leaves it."""
    crop = _crop(origin)
    if canvas != CANVAS:
        crop["region"][crop["region"] == 0] = 1
        crop["image"][..., 1] += 5
    for seed in range(12):
        turned = _turned(crop, [seed, 5], degrees, 0.5, canvas)
        expected = _by_scipy(_placed(crop, "image", canvas), [seed, 5], degrees, 0.5, order=1)
        assert np.allclose(turned["image"], expected, atol=2e-3)
        for name in ("label", "region"):
            expected = _by_scipy(_placed(crop, name, canvas), [seed, 5], degrees, 0.5, order=0)
            # Halfway between two pixels either is the nearest.
            assert np.mean(turned[name] != np.round(expected)) < 0.005, name


@pytest.mark.parametrize("seed", range(8))
def test_image_label_and_region_turn_together(seed):
    turned = _turned(_crop(), [seed, 7], 90, 0.5)
    inside = turned["label"] == 2
    # Away from edges bilinear and nearest neighbour agree: where the label is, the image holds its value.
    assert np.abs(turned["image"][..., 0][inside] - 2).mean() < 0.25
    assert (turned["region"][inside] == 2).all()


def test_flips_are_exact_mirrors():
    crop = _crop()
    whole = _placed(crop, "image")
    seen = set()
    for seed in range(24):
        turned = _turned(crop, [seed, 0], 0, 0.5)["image"]
        mirrors = {(a, b): whole[:: -1 if a else 1, :: -1 if b else 1] for a in (0, 1) for b in (0, 1)}
        which = [key for key, mirror in mirrors.items() if np.array_equal(turned, mirror)]
        assert len(which) == 1
        seen.add(which[0])
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_the_same_seed_is_the_same_turn_and_another_seed_another():
    first = _turned(_crop(), [3, 4], 15, 0.5)["image"]
    assert np.array_equal(first, _turned(_crop(), [3, 4], 15, 0.5)["image"])
    assert not np.array_equal(first, _turned(_crop(), [3, 5], 15, 0.5)["image"])


def test_labels_stay_labels_and_keep_their_types():
    for seed in range(5):
        turned = _turned(_crop(), [seed, 0], 15, 0.5)
        assert set(np.unique(turned["label"])) <= {0, 2, 3}
        assert set(np.unique(turned["region"])) <= {0, 1, 2}
        assert {name: value.dtype.name for name, value in turned.items()} == {
            "image": "float32",
            "label": "uint8",
            "region": "uint8",
        }


def test_a_tumour_outside_the_brain_is_turned_too():
    """An expert may mark where every modality is 0."""
    crop = _crop()
    crop["label"][28, 24] = 1
    assert (_turned(crop, [0, 0], 15, 0)["label"] == 1).sum() in (1, 2)


def test_a_slice_without_brain_stays_empty():
    crop = {name: np.zeros_like(value) for name, value in _crop().items()}
    turned = _turned(crop, [1, 1], 15, 0.5)
    assert turned["image"].shape == (*CANVAS, 2) and not any(value.any() for value in turned.values())


# --- intensities ----------------------------------------------------------------------------------------


def _scan(seed=0):
    image = np.random.default_rng(seed).normal(size=(30, 26, 2)).astype(np.float32) ** 3
    image[:8] = 0
    return image


def _changed(images, seed, change=0.3):
    return [one.numpy() for one in with_other_intensities(images, tf.constant(seed), change)]


def test_gain_and_offset_are_what_the_draws_say_and_nothing_else_moves_mean_and_spread():
    image = _scan()
    (found,) = _changed([image], [3, 4])
    gain, offset, _ = 0.3 * tf.random.stateless_uniform([3, 2], [3, 4], -1.0, 1.0).numpy()
    before, after = image[8:].reshape(-1, 2), found[8:].reshape(-1, 2)
    np.testing.assert_allclose(after.mean(0), np.exp(gain) * before.mean(0) + offset, atol=1e-4)
    np.testing.assert_allclose(after.std(0), np.exp(gain) * before.std(0), rtol=1e-4)
    assert (found[:8] == 0).all()


def test_a_modality_is_bent_upwards_or_downwards_and_keeps_its_order():
    image = _scan()
    bends = set()
    for seed in range(8):
        (found,) = _changed([image], [seed, 0])
        for channel in range(2):
            before, after = image[8:, :, channel].ravel(), found[8:, :, channel].ravel()
            order = np.argsort(before)
            assert (np.diff(after[order]) >= -1e-4).all()
            middle = (after.max() - after.min()) / 2 + after.min()
            share = np.interp((before.max() + before.min()) / 2, before[order], after[order]) - middle
            bends.add(np.sign(round(float(share), 3)))
    assert bends == {-1.0, 1.0}


def test_all_scales_change_alike_and_keep_their_types():
    image = _scan()
    whole, some = _changed([image, image[::2, ::2].astype(np.float16)], [5, 6])
    assert (whole.dtype, some.dtype) == (np.float32, np.float16)
    np.testing.assert_allclose(whole[::2, ::2], some, atol=0.02, rtol=0.01)


def test_no_change_and_no_brain_leave_an_example_as_it_was():
    image = _scan()
    np.testing.assert_allclose(_changed([image], [1, 2], 0.0)[0], image, rtol=1e-4, atol=1e-4)
    assert (_changed([np.zeros_like(image)], [1, 2])[0] == 0).all()
