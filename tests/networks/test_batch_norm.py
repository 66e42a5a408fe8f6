"""The fused batch normalisation against float64 by hand and against Keras' own."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbrats import config_file, networks
from tfbrats.networks import batch_norm

SHAPES = [(4, 12, 10, 3), (2, 6, 4, 5, 3)]
NAMES = ("y", "dx", "dgamma", "dbeta", "moving_mean", "moving_variance")


def by_hand(x, dy, gamma, beta):
    """In float64: output, gradients, and moving moments after one batch with momentum 0.9."""
    x, dy, axes = x.astype(np.float64), dy.astype(np.float64), tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes)
    slope = 1 / np.sqrt(variance + 1e-5)
    unit = (x - mean) * slope
    dgamma, dbeta, n = (dy * unit).sum(axes), dy.sum(axes), x.size / x.shape[-1]
    dx = gamma * slope * (dy - dbeta / n - unit * dgamma / n)
    return gamma * unit + beta, dx, dgamma, dbeta, 0.1 * mean, 0.9 + 0.1 * variance


def example(shape, offset):
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    gamma, beta = (rng.normal(size=shape[-1]).astype(np.float32) for _ in range(2))
    return x + np.float32(offset), dy, gamma, beta


def built(kind, shape, gamma, beta, dtype="float32"):
    layer = kind(momentum=0.9, epsilon=1e-5, dtype=dtype)
    layer.build(shape)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    return layer


def trained(layer, x, dy):
    x = tf.constant(x, layer.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    weights = [x, layer.gamma.value, layer.beta.value]
    gradients = tape.gradient(y, weights, output_gradients=tf.cast(dy, y.dtype))
    return [np.asarray(a).astype(np.float64) for a in (y, *gradients, layer.moving_mean, layer.moving_variance)]


def worst(found, wanted):
    """Of each output: the largest error beside the largest value."""
    errors = (float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, wanted, strict=True))
    return dict(zip(NAMES, errors, strict=True))


@pytest.mark.parametrize("shape", [*SHAPES, (4, 12, 10, 16)])  # in bfloat16 the last has a way of its own
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 0.02)])
def test_it_computes_what_its_formula_says(shape, dtype, tolerance):
    x, dy, gamma, beta = example(shape, 0.5)
    found = trained(built(batch_norm.BatchNormalization, shape, gamma, beta, dtype), x, dy)
    assert max(worst(found, by_hand(x, dy, gamma, beta)).values()) < tolerance


@pytest.mark.parametrize("shape", SHAPES)
def test_in_inference_it_is_keras_layer(shape):
    x, _, gamma, beta = example(shape, 0.5)
    ours, keras_own = (
        built(kind, shape, gamma, beta)
        for kind in (batch_norm.BatchNormalization, keras.layers.BatchNormalization)
    )
    assert [v.name for v in ours.weights] == [v.name for v in keras_own.weights]
    for layer in (ours, keras_own):
        layer.moving_mean.assign([0.5, -2.0, 3.0])
        layer.moving_variance.assign([0.1, 4.0, 1e-3])
    before = [v.numpy() for v in ours.weights]
    found, wanted = (layer(x, training=False).numpy() for layer in (ours, keras_own))
    assert np.abs(found - wanted).max() < 1e-6 * np.abs(wanted).max()
    assert all(np.array_equal(v, b) for v, b in zip(ours.weights, before, strict=True))


def test_it_compiles():
    x, dy, gamma, beta = example(SHAPES[1], 0.5)
    layer = built(batch_norm.BatchNormalization, x.shape, gamma, beta)
    y = tf.function(lambda x: layer(x, training=True), jit_compile=True)(x)
    assert np.abs(y - by_hand(x, dy, gamma, beta)[0]).max() < 1e-5


def test_a_mask_is_refused():
    layer = built(batch_norm.BatchNormalization, SHAPES[0], np.ones(3), np.zeros(3))
    with pytest.raises(NotImplementedError, match="takes no mask"):
        layer(np.zeros(SHAPES[0], np.float32), training=True, mask=np.ones(SHAPES[0][:-1], bool))


@pytest.mark.parametrize("name", ["cun.yaml", "msm.yaml"])
def test_the_networks_take_it_on_tensorflow(name):
    region = "WT" if name == "msm.yaml" else ""
    network = networks.build(config_file.load(name, ["model.width=2"]), region=region)
    norms = [x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert norms and {type(x) for x in norms} == {batch_norm.BatchNormalization}


# The mean is a hundred times the deviation.
FOUR_REPLICAS = """
import json, sys
sys.path.insert(0, "tests/networks")
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4)
from test_batch_norm import SHAPES, by_hand, example, worst
from tfbrats.networks import batch_norm

strategy = tf.distribute.MirroredStrategy([f"/cpu:{n}" for n in range(4)])
x, dy, gamma, beta = example(SHAPES[0], 100)
with strategy.scope():
    layer = batch_norm.BatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=True)
    layer.build(x.shape)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)

def share(array):
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(array, 4)[context.replica_id_in_sync_group]))

def on_replica(x, dy):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    return y, *tape.gradient(y, [x, layer.gamma.value, layer.beta.value], output_gradients=dy)

out = tf.function(lambda x, dy: strategy.run(on_replica, (x, dy)))(share(x), share(dy))
y, dx, dgamma, dbeta = ([np.array(a, np.float64) for a in strategy.experimental_local_results(o)] for o in out)
found = (np.concatenate(y), np.concatenate(dx), sum(dgamma), sum(dbeta),
         layer.moving_mean.numpy(), layer.moving_variance.numpy())
print(json.dumps(worst(found, by_hand(x, dy, gamma, beta))))
"""


def test_four_replicas_normalise_by_the_moments_of_the_global_batch():
    ended = subprocess.run([sys.executable, "-c", FOUR_REPLICAS], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    errors = json.loads(ended.stdout.splitlines()[-1])
    # x itself has seven digits, two of which the mean takes; Keras' E(x^2) - E(x)^2 leaves 2e-3 here.
    assert max(errors.values()) < 2e-4, errors
