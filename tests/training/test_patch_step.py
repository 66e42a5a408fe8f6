"""Paper B's loss, one step down its gradient, and the sums that validation is scored by."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbrats import networks
from tfbrats.batches import patch_stream
from tfbrats.batches.stream import Share
from tfbrats.distribution import replicas
from tfbrats.inference import scales
from tfbrats.inference.scales import network_input
from tfbrats.networks import losses
from tfbrats.training import patch_step

ONE = tf.distribute.OneDeviceStrategy("/cpu:0")


def by_hand(logits, targets):
    """Equation 2 with its minus sign, in float64: y log p + (1 - y) log(1 - p)."""
    logits, targets = np.float64(logits), np.float64(targets)
    log_p, log_q = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)
    return -(targets * log_p + (1 - targets) * log_q)


def a_network(channels=1):
    """Logit = the patch's first channel, to be moved by one weight and one bias."""
    patch = keras.Input((None, None, None, channels), name="patch")
    conv = keras.layers.Conv3D(1, 1, kernel_initializer="ones", name="head")
    return keras.Model(patch, {"logits": conv(patch[..., :1])})


def a_batch(count=4, size=4, valid=None, seed=0, targets=None):
    random = np.random.default_rng(seed)
    if targets is None:
        targets = random.integers(0, 2, (count, size, size, size))
    return {
        "x1": tf.constant(random.normal(size=(count, size, size, size, 1)), tf.float16),
        "target": tf.constant(targets, tf.uint8),
        "valid": tf.constant(np.ones(count) if valid is None else valid, tf.float32),
    }


# --- the loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 1, 30, 1e4])
def test_the_loss_is_binary_cross_entropy_however_large_the_logits(scale):
    random = np.random.default_rng(1)
    logits = (scale * random.normal(size=(3, 5, 4, 6))).astype(np.float32)
    targets = random.integers(0, 2, logits.shape)
    weights = np.array([1, 0, 0.5], np.float32)
    expected = np.sum(weights[:, None, None, None] * by_hand(logits, targets))
    assert np.isfinite(expected)
    assert float(losses.binary_cross_entropy_sum(logits, targets, weights)) == pytest.approx(expected, rel=1e-5)


def test_a_sure_and_right_voxel_costs_nothing_a_sure_and_wrong_one_its_logit():
    logits = np.array([[200.0, -200.0], [200.0, -200.0]], np.float32)
    right, wrong = np.array([[1, 0]] * 2), np.array([[0, 1]] * 2)
    one = np.ones(2, np.float32)
    assert float(losses.binary_cross_entropy_sum(logits, right, one)) == 0
    assert float(losses.binary_cross_entropy_sum(logits, wrong, one)) == 800
    assert float(losses.binary_cross_entropy_sum(0 * logits, right, one)) == pytest.approx(4 * np.log(2))


@pytest.mark.parametrize("logit", [0.0, 3.0, -3.0, 500.0, -500.0])
@pytest.mark.parametrize("target", [0, 1])
def test_its_gradient_is_probability_less_target_and_always_finite(logit, target):
    logits = tf.constant([[logit]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.binary_cross_entropy_sum(logits, tf.constant([[target]]), tf.ones(1))
    found = float(tape.gradient(loss, logits)[0, 0])
    assert found == pytest.approx(1 / (1 + np.exp(-logit)) - target, abs=1e-6)


# --- a training step ------------------------------------------------------------------------------------


def test_a_step_reports_the_mean_over_the_voxels_and_goes_down_its_gradient():
    network, batch = a_network(), a_batch()
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build(network.trainable_variables)
    x, t = batch["x1"].numpy()[..., 0].astype(np.float32), batch["target"].numpy()
    found = patch_step.train_step(ONE, network, optimizer)(batch)
    assert list(found) == ["loss", "overlap_both", "overlap_predicted", "overlap_reference"]
    assert float(found["loss"]) == pytest.approx(by_hand(x, t).mean(), rel=1e-5)
    kernel, bias = (float(np.squeeze(v.numpy())) for v in network.trainable_variables)
    residual = 1 / (1 + np.exp(-np.float64(x))) - t
    assert kernel == pytest.approx(1 - 0.5 * np.mean(residual * x), abs=1e-5)
    assert bias == pytest.approx(-0.5 * np.mean(residual), abs=1e-5)


@pytest.mark.parametrize("value", [0, 1])
def test_a_batch_of_one_kind_of_voxel_alone_is_a_batch_like_any_other(value):
    """Negatives only (a case without the region), or a patch inside the tumour."""
    network = a_network()
    batch = a_batch(targets=np.full((4, 4, 4, 4), value))
    optimizer = keras.optimizers.Adam(0.1, 0.5, 0.9999)
    optimizer.build(network.trainable_variables)
    step = patch_step.train_step(ONE, network, optimizer)
    found = [float(step(batch)["loss"]) for _ in range(5)]
    assert np.all(np.isfinite(found)) and found[-1] < found[0]


def test_a_step_counts_its_own_batch_before_the_update_and_the_filling_not():
    """What `dice` makes of them is the Dice of the weights that the step began with."""
    network, batch = a_network(), a_batch(valid=[1, 1, 0, 1])
    optimizer = keras.optimizers.SGD(1e3)  # after it hardly a voxel is predicted as before
    optimizer.build(network.trainable_variables)
    found = patch_step.train_step(ONE, network, optimizer)(batch)
    kept = batch["valid"].numpy() > 0
    predicted = (batch["x1"].numpy()[..., 0].astype(np.float32) >= 0)[kept]
    reference = (batch["target"].numpy() > 0)[kept]
    assert {value.dtype for value in found.values()} == {tf.float32}
    assert float(found["overlap_both"]) == np.sum(predicted & reference)
    assert float(found["overlap_predicted"]) == predicted.sum()
    assert float(found["overlap_reference"]) == reference.sum()
    again = patch_step.train_step(ONE, network, optimizer)(batch)
    assert float(again["overlap_predicted"]) != predicted.sum()


def test_a_step_through_xla_gives_the_same_numbers():
    found = {}
    for compiled in (False, True):
        network, batch = a_network(), a_batch(valid=[1, 1, 0, 1])
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build(network.trainable_variables)
        step = patch_step.train_step(ONE, network, optimizer, jit_compile=compiled)
        found[compiled] = [float(value) for _ in range(3) for value in step(batch).values()]
        if compiled:  # TensorFlow refuses this for a function that XLA does not compile
            assert "HloModule" in step.experimental_get_compiler_ir(batch)(stage="hlo")
    assert found[True] == pytest.approx(found[False], rel=1e-5)


def test_the_step_puts_together_the_three_scales_that_networks_are_given_whole_elsewhere():
    """To the bit, in training and validation: float16 x1 and x0.5 travel, the network's input stays."""
    random = np.random.default_rng(0)
    batch = a_batch(size=8)
    batch |= {name: tf.constant(random.normal(size=(4, 8, 8, 8, 2)), tf.float16) for name in ("x1", "half")}
    whole = scales.multi_scale(batch["x1"], batch["half"])
    assert whole.dtype == tf.float32 and whole.shape == (4, 8, 8, 8, 6)
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, patch):
            tf.py_function(lambda given: seen.append(given.numpy()), [patch], [])
            return patch

    patch = keras.Input((8, 8, 8, 6), name="patch")
    network = keras.Model(patch, {"logits": keras.layers.Conv3D(1, 1)(Spy()(patch))})
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build(network.trainable_variables)
    patch_step.train_step(ONE, network, optimizer)(batch)
    patch_step.validation_step(ONE, network)(batch)
    assert len(seen) == 2 and all(np.array_equal(one, whole) for one in seen)


# --- validation -----------------------------------------------------------------------------------------


def test_validation_adds_up_batches_and_the_padding_counts_nothing():
    network = a_network()
    step = patch_step.validation_step(ONE, network)
    first, last = a_batch(seed=1), a_batch(seed=2, valid=[1, 0, 0, 0])
    sums = step(first).numpy() + step(last).numpy()
    x = np.concatenate(
        [first["x1"].numpy()[..., 0].astype(np.float32), last["x1"].numpy()[:1, ..., 0].astype(np.float32)]
    )
    t = np.concatenate([first["target"].numpy(), last["target"].numpy()[:1]])
    predicted, reference = x > 0, t > 0
    assert sums.dtype == np.float64
    assert sums[1:].tolist() == [t.size, (predicted & reference).sum(), predicted.sum(), reference.sum()]
    scores = patch_step.validation_scores(sums)
    assert scores["validation_loss"] == pytest.approx(by_hand(x, t).mean(), rel=1e-5)
    dice = 2 * (predicted & reference).sum() / (predicted.sum() + reference.sum())
    assert scores["dice"] == pytest.approx(dice)


@pytest.mark.parametrize(
    ("both", "predicted", "reference", "dice"),
    [(0, 0, 0, 1), (0, 5, 0, 0), (0, 0, 5, 0), (3, 3, 3, 1), (1, 3, 1, 0.5)],
)
def test_an_empty_reference_scores_one_if_nothing_was_found_and_zero_if_something_was(
    both, predicted, reference, dice
):
    scores = patch_step.validation_scores([12.0, 6.0, both, predicted, reference])
    assert scores == {"validation_loss": 2.0, "dice": dice}


def test_the_dice_of_cases_is_the_mean_over_cases_of_all_their_patches():
    predicted = tf.constant([[True, True], [True, False], [False, False], [True, True]])
    reference = tf.constant([[True, False], [True, True], [False, True], [True, True]])
    counts = replicas.overlap_of_cases(predicted, reference, tf.constant([1, 0, 1, 2]), 4).numpy()
    assert counts.tolist() == [[1, 1, 2], [1, 2, 2], [2, 2, 2], [0, 0, 0]]
    scores = patch_step.validation_scores([12.0, 6.0, 4, 5, 6, *counts.ravel()])
    assert scores["case_dice"] == pytest.approx((2 / 3 + 2 / 4 + 1 + 1) / 4)
    assert scores["dice"] == pytest.approx(8 / 11)


def test_a_probability_of_one_half_is_the_region_as_it_is_in_the_cascade():
    network = a_network()
    batch = a_batch(targets=np.ones((4, 4, 4, 4)), valid=[1, 1, 1, 0])
    batch["x1"] *= 0.0
    assert patch_step.validation_step(ONE, network)(batch).numpy()[3] == 3 * 4**3


# --- replicas -------------------------------------------------------------------------------------------

# Both sides with the synchronised formula of batch norm, as in test_train: what is compared is the loss.
TWO_DEVICES = """
import sys, json
import keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tfbrats import config_file, networks
from tfbrats.batches import patch_stream
from tfbrats.batches.stream import Share
from tfbrats.records import manifest as manifests
from tfbrats.distribution import devices
from tfbrats.training import patch_step

def first_step(strategy_name, per_replica):
    settings = config_file.load("smoke_3d.yaml", json.loads(sys.argv[1]) + [f"train.batch_size={per_replica}"])
    strategy = devices.strategy_for(strategy_name)
    manifest = manifests.read_manifest(settings.data.records)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        network = networks.build(settings, 2, "ET")
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(network.trainable_variables)
    stream = devices.shared_out(strategy, patch_stream.training(manifest, settings, "ET", 0, Share(4)))
    loss = float(patch_step.train_step(strategy, network, optimizer)(next(stream))["loss"])
    weights = np.concatenate([np.array(v.value).ravel() for v in network.variables])
    validate = patch_step.validation_step(strategy, network)
    batches = patch_stream.validation(manifest, settings, "ET", "validation", Share(4))
    sums = sum(validate(batch).numpy() for batch in devices.shared_out(strategy, batches))
    return strategy.num_replicas_in_sync, loss, weights, sums

n1, one, w1, s1 = first_step("one_device", 4)
n2, two, w2, s2 = first_step("auto", 2)
print(json.dumps({"replicas": [n1, n2], "loss": [one, two], "weights": float(np.abs(w1 - w2).max()),
                  "sums": [s1.tolist(), s2.tolist()]}))
"""


def test_loss_weights_and_scores_are_the_same_on_two_replicas_as_on_one(patch_records):
    settings = patch_records.config("patches")
    own = [f"data.records={settings.data.records}", "records.kind=patches"]
    ended = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, json.dumps([*patch_records.overrides, *own])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["replicas"] == [1, 2]
    assert found["loss"][1] == pytest.approx(found["loss"][0], rel=1e-5)
    assert found["weights"] < 1e-4
    one, two = found["sums"]
    assert one[1] == two[1] == 6 * 16**3  # every validation patch once, the padding not
    assert two == pytest.approx(one, rel=1e-2)


# --- precision ------------------------------------------------------------------------------------------


def built(precision, settings, region):
    keras.utils.set_random_seed(0)
    return networks.build(settings, region=region, precision=precision)


QUICK = {("msm", "WT", "mixed_bfloat16"), ("msm", "ET", "mixed_float16")}


@pytest.mark.parametrize(
    ("name", "region", "precision"),
    [
        pytest.param(*one, marks=() if one in QUICK else pytest.mark.slow)
        for one in (
            (name, region, precision)
            for name in ("msm", "msm_noaspp", "unet3d")
            for region in ("WT", "TC", "ET")
            for precision in ("mixed_bfloat16", "mixed_float16")
        )
    ],
)
def test_two_steps_in_mixed_precision_have_logits_and_loss_in_float32(patch_records, name, region, precision):
    """At 32 voxels for the original U-Net: its smallest grid is then as large as msm's at 16."""
    size = 32 if name == "unet3d" else 16
    own = (f"model.name={name}", f"sampling.patch_size={size}", f"train.precision={precision}")
    settings = patch_records.config("volumes", *own)
    manifest = patch_records.manifest("volumes")
    batches = list(patch_stream.training(manifest, settings, region, 0, Share(2)).take(2))
    network = built(precision, settings, region)
    assert network.layers[1].compute_dtype == precision.removeprefix("mixed_")
    optimizer = keras.optimizers.Adam(1e-3, 0.5, 0.9999)
    if precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(network.trainable_variables)
    before = network.get_weights()
    step = patch_step.train_step(ONE, network, optimizer)
    found = [step(batch)["loss"] for batch in batches]
    logits = network(network_input(batches[0]), training=False)["logits"]
    assert logits.dtype == tf.float32 and all(loss.dtype == tf.float32 for loss in found)
    assert np.all(np.isfinite(logits)) and np.all(np.isfinite(found))
    assert {v.dtype for v in network.trainable_variables} == {"float32"}
    after = network.get_weights()
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    exact = built("float32", settings, region)(network_input(batches[0]), training=True)["logits"][..., 0]
    assert float(found[0]) == pytest.approx(by_hand(exact, batches[0]["target"]).mean(), rel=0.05)
