"""A case in the graph is the case of the records: the same brain, the same box, the same z-scores."""

import numpy as np
import tensorflow as tf

from tfbrats.cases import case, preprocess
from tfbrats.datasets import layouts
from tfbrats.graphs import preprocess_graph
from tfbrats.labels import EDITIONS, MODALITIES


def _brain(shape, seed=0):
    """A volume with some brain in it, float32 [I, J, K, 4], noise away from 0."""
    image = np.zeros((*shape, 4), np.float32)
    i, j, _ = shape
    inside = image[i // 5 : -(i // 6), j // 7 : -(j // 8), 1:-2]
    inside[:] = np.random.default_rng(seed).integers(100, 900, inside.shape)
    return image


def _normalised(image):
    brain = preprocess_graph.brain_mask(tf.unstack(image, axis=-1))
    return preprocess_graph.z_score(image, brain), brain


def test_a_case_is_cropped_as_its_twin_crops_it():
    image = _brain((20, 24, 9))
    volumes = {name: tf.constant(image[..., m]) for m, name in enumerate(MODALITIES)}
    ours = preprocess_graph.cropped(volumes, MODALITIES)
    loaded = case.Case("case_1", "1", image, MODALITIES, None, (1, 1, 1), EDITIONS["2020"], grid=None)
    expected = preprocess.cropped(loaded, image)
    assert np.array_equal(ours.box, expected.box_ijk) and tuple(ours.shape.numpy()) == expected.shape_ijk
    assert np.array_equal(ours.brain, expected.brain)
    assert np.allclose(ours.image, expected.image, atol=1e-5)


def test_normalisation_in_the_graph_is_that_of_the_records():
    image = _brain((20, 24, 9))
    image[10, 10, 4] = -50.0  # interpolated data
    normalised, brain = _normalised(tf.constant(image))
    ours = preprocess.brain_mask(image)
    assert np.array_equal(brain, ours)
    assert np.allclose(normalised, preprocess.z_score(image, ours), atol=1e-5)


def test_the_size_of_a_volume_costs_no_digits_of_its_normalisation():
    """A float32 sum of all voxels, one after the other, would be off by a hundredth of a deviation."""
    image = _brain((200, 200, 100))
    image[image > 0] += 3000
    normalised, brain = _normalised(tf.constant(image))
    inside = image[brain.numpy()].astype(np.float64)
    exact = (inside - inside.mean(0)) / inside.std(0)
    assert len(inside) > 10**6
    assert np.abs(normalised.numpy()[brain.numpy()] - exact).max() < 1e-5


def test_a_real_case_is_normalised_as_the_records_are(real_cases):
    loaded = case.load(layouts.find(real_cases).cases[0], read_label=False)
    normalised, brain = _normalised(tf.constant(loaded.image, tf.float32))
    ours = preprocess.z_score(loaded.image.astype(np.float32), brain.numpy())
    assert np.abs(normalised.numpy() - ours).max() < 1e-5
