"""A network's input: x2 is the middle of x1 upsampled, as numpy and SciPy say; scales lie side by side."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage
from upsampling import upsampled_centre

from tfbrats.inference import patches_graph, scales


def _image(shape, channels=2, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, channels)).astype(np.float32)


@pytest.mark.parametrize("size", [4, 8, 16])
def test_x2_is_that_of_numpy_to_the_bit(size):
    x1 = np.stack([_image((size,) * 3, 3, seed) for seed in range(3)]).astype(np.float16)
    fine = scales.upsampled_centre(x1)
    for n in range(3):
        assert np.array_equal(fine[n], upsampled_centre(x1[n]))


def test_x2_is_scipys_trilinear_zoom_of_the_whole_image():
    image = np.random.default_rng(3).normal(size=(24, 24, 24)).astype(np.float16)
    centre = (11, 13, 12)
    x1, _ = patches_graph.cut(image[..., None], [centre], 16)
    whole = ndimage.zoom(image.astype(np.float64), 2, order=1, grid_mode=True, mode="grid-constant")
    expected = whole[tuple(slice(2 * at - 8, 2 * at + 8) for at in centre)]
    assert np.allclose(scales.upsampled_centre(x1)[0, ..., 0], expected, atol=1e-5)


def test_upsampling_is_scipys_on_the_grid_of_voxels():
    x1 = np.stack([_image((16, 16, 16), 2, seed) for seed in range(2)])
    fine = scales.upsampled_centre(x1)
    assert fine.shape == x1.shape
    for n in range(2):
        for m in range(2):
            whole = ndimage.zoom(x1[n, ..., m], 2, order=1, grid_mode=True, mode="nearest")
            assert np.allclose(fine[n, ..., m], whole[8:24, 8:24, 8:24], atol=1e-6)


@pytest.mark.parametrize("axis", range(3))
def test_a_ramp_stays_a_ramp_of_half_the_slope(axis):
    size = 16
    ramp = np.moveaxis(np.broadcast_to(np.arange(size, dtype=np.float32), (size,) * 3), -1, axis)
    fine = scales.upsampled_centre(ramp[None, ..., None])[0, ..., 0].numpy()
    # The centre of the patch, between voxels S / 2 - 1 and S / 2, stays its centre.
    expected = (np.arange(size) + 0.5) / 2 - 0.5 + size / 4
    assert np.allclose(np.moveaxis(fine, axis, -1), expected)


def test_scales_follow_each_other_on_the_channel_axis():
    x1, half = patches_graph.cut(_image((20, 20, 20), 3), [[9, 9, 9]], 8)
    together = scales.multi_scale(x1, half)
    assert together.shape == (1, 8, 8, 8, 9)
    assert np.array_equal(together[..., :3], x1)
    assert np.array_equal(together[..., 3:6], half)
    assert np.array_equal(together[..., 6:], scales.upsampled_centre(x1))


def test_in_a_graph_sizes_may_be_unknown_and_no_centre_gives_no_patch():
    specs = [tf.TensorSpec([None, None, None, 2]), tf.TensorSpec([None, 3], tf.int32)]
    scaled = tf.function(
        lambda image, centres: scales.multi_scale(*patches_graph.cut(image, centres, 8)), specs
    )
    assert scaled.get_concrete_function().output_shapes.as_list() == [None, 8, 8, 8, 6]
    image, centres = _image((9, 30, 4)), np.array([[1, 28, 3], [-5, 0, 2]], np.int32)
    eager = scales.multi_scale(*patches_graph.cut(image, centres, 8))
    assert np.array_equal(scaled(image, centres), eager)
    assert scaled(image, centres[:0]).shape == (0, 8, 8, 8, 6)
