"""Several networks and mirrored inputs as one: the mean of their probabilities, one pass after the other."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbrats.inference.ensemble import Ensemble, as_one, members_of

AS_IT_LIES = ((),)
ALL_FOUR = ((), (0,), (1,), (0, 1))


def a_network(seed, outputs, kernel=3, dimensions=2, scale=1.0):
    """A convolution for each output, which sees where left is."""
    image = keras.Input((*(None,) * dimensions, 2))
    layer = {2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[dimensions]
    start = keras.initializers.RandomNormal(stddev=scale, seed=seed)
    heads = {
        name: layer(classes, kernel, padding="same", kernel_initializer=start)(image)
        for name, classes in outputs.items()
    }
    return keras.Model(image, heads)


def probabilities(network, image):
    """Output -> its classes' probabilities, by Keras' own functions."""
    found = network(image, training=False)
    return {
        name: tf.sigmoid(logits) if logits.shape[-1] == 1 else tf.nn.softmax(logits)
        for name, logits in found.items()
    }


def _image(*shape):
    return tf.constant(np.random.default_rng(0).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize(
    ("outputs", "dimensions", "mirrors"),
    [
        ({"branch1_logits": 2, "branch2_logits": 4}, 2, ALL_FOUR),
        ({"logits": 4}, 2, AS_IT_LIES),
        ({"logits": 1}, 3, ((), (0,))),
    ],
)
def test_the_answer_is_the_mean_of_the_networks_on_each_mirrored_input(outputs, dimensions, mirrors):
    networks = [a_network(seed, outputs, dimensions=dimensions) for seed in range(3)]
    image = _image(2, *(8, 6, 4)[:dimensions], 2)
    expected = {name: [] for name in outputs}
    for network in networks:
        for mirror in mirrors:
            axes = [1 + axis for axis in mirror]
            for name, found in probabilities(network, np.flip(image, axes)).items():
                expected[name].append(np.flip(found, axes))
    several = Ensemble(networks, mirrors)
    assert several.passes == 3 * len(mirrors)
    found = probabilities(tf.function(several), image)
    for name, each in expected.items():
        assert np.std(each, axis=0).max() > 0.05  # they differ, so that a mean is not one of them
        assert np.allclose(found[name], np.mean(each, axis=0), atol=1e-6)


def test_logits_stay_numbers_where_all_networks_are_sure():
    for outputs in ({"logits": 1}, {"logits": 4}):
        several = Ensemble([a_network(seed, outputs, scale=1e4) for seed in (0, 1)])
        logits = several(_image(1, 8, 8, 2))["logits"]
        assert np.isfinite(logits).all()


def test_an_answer_to_a_mirrored_input_is_the_mirrored_answer():
    several = Ensemble([a_network(0, {"logits": 4})], ALL_FOUR)
    image = _image(1, 8, 6, 2)
    plain, mirrored = several(image)["logits"], several(tf.reverse(image, [1]))["logits"]
    assert np.allclose(tf.reverse(mirrored, [1]), plain, atol=1e-5)


def test_one_network_that_sees_inputs_as_they_lie_is_itself():
    network = a_network(0, {"logits": 4})
    assert as_one([network]) is network and members_of(network) == (network,)
    assert len(as_one([network], ALL_FOUR).variables) == len(network.variables)  # each weight once


def test_one_pass_is_over_before_the_next_begins():
    networks = [a_network(seed, {"logits": 1}) for seed in range(3)]
    graph = tf.function(Ensemble(networks, ((), (0,)))).get_concrete_function(tf.TensorSpec([1, 8, 8, 2])).graph
    convolutions = [op for op in graph.get_operations() if op.type == "Conv2D"]
    assert len(convolutions) == 6
    for before, after in itertools.pairwise(convolutions):
        assert _comes_after(after, before)


def _comes_after(op, other):
    """Whether `op` waits for `other`, by data or by control."""
    todo, known = [op], set()
    while todo:
        for source in (*(tensor.op for tensor in todo[-1].inputs), *todo.pop().control_inputs):
            if source is other:
                return True
            if source.name not in known:
                known.add(source.name)
                todo.append(source)
    return False
