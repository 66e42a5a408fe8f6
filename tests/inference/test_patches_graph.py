"""The graph cuts what numpy cuts, to the bit, at the borders too."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfbrats.cases import patches
from tfbrats.inference import patches_graph


def _reference(volume, start, size):
    """A cube by looking up voxel after voxel."""
    cube = np.zeros((size,) * 3 + volume.shape[3:], volume.dtype)
    for index in np.ndindex(size, size, size):
        source = tuple(np.add(start, index))
        if all(0 <= at < side for at, side in zip(source, volume.shape, strict=False)):
            cube[index] = volume[source]
    return cube


def _image(shape, channels=2, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, channels)).astype(np.float32)


SHAPES = [(20, 17, 19), (5, 9, 30), (1, 1, 1), (8, 8, 8)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_window_holds_the_volumes_voxels_and_0_outside(shape):
    volume = _image(shape)
    i, j, k = shape
    starts = [(0, 0, 0), (-3, j - 2, 1), (i - 1, -7, k - 5), (-8, 0, 0), (i, j, k), (-100, 2, 3), (90, 90, -90)]
    cubes = patches_graph.window(volume, np.array(starts), 8)
    for cube, start in zip(cubes.numpy(), starts, strict=True):
        assert np.array_equal(cube, _reference(volume, start, 8)), start


def test_a_label_is_cut_where_the_image_is():
    label = np.random.default_rng(0).integers(0, 4, (11, 12, 13)).astype(np.uint8)
    centres = np.array([[0, 0, 0], [5, 11, 6], [10, 3, 12]], np.int64)
    cubes = patches_graph.cut_label(label, centres, 8)
    assert cubes.dtype == tf.uint8
    x1, _ = patches_graph.cut(label[..., None].astype(np.float32), centres, 8)
    assert np.array_equal(cubes, x1[..., 0])
    assert cubes[1, 4, 4, 4] == label[5, 11, 6]  # the centre is voxel S / 2


def test_the_half_scale_looks_twice_as_far_round_the_same_centre():
    volume = _image((40, 40, 40), 1)
    centre = (20, 19, 22)
    _, half = patches_graph.cut(volume, [centre], 8)
    wide = volume[12:28, 11:27, 14:30].astype(np.float64)
    means = wide.reshape(8, 2, 8, 2, 8, 2, 1).mean(axis=(1, 3, 5))
    assert np.allclose(half[0], means, atol=1e-6)


def test_zeros_outside_count_in_the_half_scale():
    _, half = patches_graph.cut(np.ones((8, 8, 8, 1), np.float32), [[0, 4, 5]], 8)
    # Along k the patch covers -3 .. 12: a block with one voxel inside at either end holds 1 of 2.
    expected = np.zeros((8, 8, 8), np.float32)
    expected[4:8, 2:6, 2:5] = 1
    expected[4:8, 2:6, [1, 5]] = 0.5
    assert np.array_equal(half[0, ..., 0], expected)


starts_and_shapes = st.tuples(
    st.tuples(*[st.integers(1, 23)] * 3),
    st.lists(st.tuples(*[st.integers(-30, 50)] * 3), min_size=1, max_size=3),
    st.sampled_from([8, 16]),
    st.integers(0, 5),
)


@settings(max_examples=60, deadline=None)
@given(starts_and_shapes)
def test_the_twins_agree_to_the_bit(drawn):
    shape, centres, size, seed = drawn
    image = _image(shape, seed=seed).astype(np.float16)  # as the records hold it
    label = (image[..., 0] > 0).astype(np.uint8)
    x1, half = patches_graph.cut(image, np.array(centres), size)
    labels = patches_graph.cut_label(label, np.array(centres), size)
    for n, centre in enumerate(centres):
        expected_x1, expected_half = patches.cut(image, centre, size)
        assert np.array_equal(x1[n], expected_x1)
        assert np.array_equal(half[n].numpy().astype(np.float16), expected_half)
        assert np.array_equal(labels[n], patches.cut_label(label, centre, size))


def test_the_twins_agree_on_float32_sums_before_rounding():
    # Values whose sum depends on the order of adding.
    image = (_image((20, 20, 20)) * np.float32(10) ** _image((20, 20, 20), seed=1)).astype(np.float32)
    _, half = patches_graph.cut(image, [[9, 10, 3]], 8)
    pairs = patches.window(image, (1, 2, -5), 16)
    pairs = pairs[0::2] + pairs[1::2]
    pairs = pairs[:, 0::2] + pairs[:, 1::2]
    pairs = pairs[:, :, 0::2] + pairs[:, :, 1::2]
    assert np.array_equal(half[0], pairs * np.float32(0.125))
    other = patches.window(image, (1, 2, -5), 16).reshape(8, 2, 8, 2, 8, 2, 2).mean(axis=(5, 3, 1))
    assert not np.array_equal(half[0], other)  # so the order does matter here


@settings(max_examples=40, deadline=None)
@given(starts_and_shapes)
def test_patches_of_halves_made_once_are_those_cut_one_by_one_to_the_bit(drawn):
    shape, centres, size, seed = drawn
    image = _image(shape, seed=seed)
    _, expected = patches_graph.cut(image, np.array(centres), size)
    halved = patches_graph.halves(tf.constant(image))
    assert np.array_equal(patches_graph.cut_half(halved, np.array(centres, np.int32) - size, size), expected)
