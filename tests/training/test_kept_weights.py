"""What is validated and kept, where training goes on with others: averages, moments, and the way back."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbrats.batches.stream import Share
from tfbrats.distribution import replicas
from tfbrats.machine import stopping
from tfbrats.networks.batch_norm import BatchNormalization
from tfbrats.runs.folder import RunFolder, chosen_by
from tfbrats.training import best_weights, checkpoints, kept_weights, slice_step
from tfbrats.training.recipes import recipe_for
from tfbrats.workflows import whole_run

ONE = tf.distribute.get_strategy()


def small_network():
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 3))
    x = BatchNormalization(momentum=0.9, epsilon=1e-5, name="first")(image)
    x = keras.layers.Conv2D(2, 1, name="conv")(x)
    return keras.Model(image, BatchNormalization(momentum=0.9, epsilon=1e-5, name="second")(x))


def batches(count):
    """Each brighter than the one before: the spread of their means is most of the variance."""
    rng = np.random.default_rng(0)
    return [tf.constant(rng.normal(n, 1 + n, (2, 4, 4, 3)), tf.float32) for n in range(count)]


def reestimated(network, some, is_stopped=lambda: False):
    see = kept_weights.seeing(ONE, network, lambda batch: batch)
    return kept_weights.reestimate_moments(network, see, some, is_stopped)


def test_moments_are_those_of_all_batches_together_and_of_nothing_before():
    network, some = small_network(), batches(5)
    network.get_layer("first").moving_mean.assign(np.full(3, 100.0))
    assert reestimated(network, some)
    together = np.concatenate([batch.numpy() for batch in some]).astype(np.float64)
    first, second = network.get_layer("first"), network.get_layer("second")
    assert first.moving_mean.numpy() == pytest.approx(together.mean((0, 1, 2)), rel=1e-5)
    assert first.moving_variance.numpy() == pytest.approx(together.var((0, 1, 2)), rel=1e-5)
    # The second sees what the first makes of a batch in training: normalised by that batch.
    inner = keras.Model(network.input, network.get_layer("conv").output)
    seen = np.concatenate([inner(batch, training=True).numpy() for batch in some]).astype(np.float64)
    assert second.moving_mean.numpy() == pytest.approx(seen.mean((0, 1, 2)), rel=1e-4, abs=1e-6)
    assert second.moving_variance.numpy() == pytest.approx(seen.var((0, 1, 2)), rel=1e-4)


def test_a_frozen_layer_keeps_its_moments_and_a_stop_is_heard():
    network = small_network()
    network.get_layer("first").trainable = False
    before = network.get_layer("first").moving_mean.numpy()
    assert reestimated(network, batches(2))
    assert np.array_equal(network.get_layer("first").moving_mean.numpy(), before)
    asked = iter([False, False, True])
    assert not reestimated(network, batches(5), lambda: next(asked))


def test_afterwards_the_weights_are_to_the_bit_what_they_were():
    network = small_network()
    before = network.get_weights()
    with pytest.raises(KeyboardInterrupt), kept_weights.own_afterwards(network):
        reestimated(network, batches(3))
        network.get_layer("conv").kernel.assign(np.ones((1, 1, 3, 2)))
        raise KeyboardInterrupt
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))


def test_averages_follow_the_steps_weights_and_begin_with_the_first():
    network = small_network()
    optimizer = replicas.SGD(0.1, 0.9, use_ema=True, ema_momentum=0.75)
    optimizer.build(network.trainable_variables)
    kernel, average = network.get_layer("conv").kernel, None
    before = kernel.numpy()
    kept_weights.take_averages(network, optimizer)
    assert np.array_equal(kernel.numpy(), before)  # there is no average yet
    for n in range(4):
        gradients = [tf.fill(v.shape, float(n + 1)) for v in network.trainable_variables]
        replicas.apply_gradients(optimizer, gradients, network)
        value = kernel.numpy()
        average = value if average is None else 0.75 * average + 0.25 * value
    kept_weights.take_averages(network, optimizer)
    assert kernel.numpy() == pytest.approx(average, rel=1e-6)
    assert np.abs(average - value).max() > 0.1


# --- in a run -------------------------------------------------------------------------------------------

ALL_ON = (
    *("train.epochs=2", "train.steps_per_epoch=4", "train.checkpoint_minutes=1e-9", "train.select=dice"),
    *("train.ema=0.6", "model.reestimate_moments=3"),
    # The network that is built and traced fastest.
    *("model.name=unet2d", "lws.enabled=false", "train.omega=0", "train.omega_floor=0"),
)


def kept(folder, which):
    path = checkpoints.newest_whole(RunFolder(folder).network().checkpoints_path(which))
    reader = tf.train.load_checkpoint(path)
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith(("network", "optimizer"))]
    return checkpoints.number(path), {name: reader.get_tensor(name) for name in names}


def same(one, other):
    return all(np.array_equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.slow  # three trainings
def test_stopped_anywhere_a_run_with_all_of_it_ends_as_an_undisturbed_one(record_set, tmp_path, monkeypatch):
    straight, stopped = (str(tmp_path / name) for name in ("straight", "stopped"))
    whole_run.train(record_set.config(f"run.dir={straight}", *ALL_ON))
    settings = record_set.config(f"run.dir={stopped}", *ALL_ON)
    # In the moments of the first epoch, and in the validation of the second: the first has four batches.
    for module, name, call in ((kept_weights, "seeing", 2), (slice_step, "validation_step", 5)):
        stop, real, calls = stopping.Stop(), getattr(module, name), []

        def build(*arguments, real=real, calls=calls, call=call, stop=stop):
            step = real(*arguments)

            def counted(*batch):
                calls.append(1)
                if len(calls) == call:
                    stop.ask()
                return step(*batch)

            return counted

        with monkeypatch.context() as patched:
            patched.setattr(module, name, build)
            whole_run.train(settings, stop=stop)
        assert stop.is_asked, name
    history = whole_run.train(settings)
    histories = [(pathlib.Path(one) / "history.csv").read_bytes() for one in (straight, stopped)]
    assert histories[0] == histories[1]
    for which in ("last", "best"):
        assert same(kept(straight, which), kept(stopped, which)), which
    assert kept(straight, "best")[0] == kept(stopped, "best")[0]
    _check_what_is_kept(record_set, settings, history)


def _check_what_is_kept(record_set, settings, history):
    """The best epoch is that of the highest Dice of cases, and its weights are those that were validated."""
    epoch, _ = kept(settings.run.dir, "best")
    row = min(history, key=lambda row: chosen_by(row, "dice"))
    assert epoch == row["epoch"]
    assert {"case_dice_wt", "case_dice_tc", "case_dice_et"} <= set(row)
    recipe = recipe_for(settings, record_set.manifest)
    network = best_weights.network_of(settings, "", best_weights.best_checkpoint(settings))
    step = recipe.validation_step(ONE, network)
    sums = sum(step(batch).numpy() for batch in recipe.validation(Share(4)))
    scores = recipe.validation_scores(sums)
    assert scores == pytest.approx({name: row[name] for name in scores}, rel=1e-5)
    # One validation case: the Dice of its volume is that of all its voxels.
    assert scores["case_dice_wt"] == pytest.approx(scores["dice_wt"])


TWO_DEVICES = """
import json, sys
import keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tfbrats.distribution import devices, replicas
from tfbrats.networks.batch_norm import BatchNormalization
from tfbrats.training import kept_weights

strategy = devices.strategy_for("auto")
keras.utils.set_random_seed(0)
with strategy.scope():
    image = keras.Input((4, 4, 3))
    norm = BatchNormalization(momentum=0.9, synchronized=sys.argv[1] == "synchronised")
    network = keras.Model(image, keras.layers.Conv2D(2, 1)(norm(image)))
    optimizer = replicas.SGD(0.1, 0.9, use_ema=True, ema_momentum=0.5)
    optimizer.build(network.trainable_variables)
rng = np.random.default_rng(0)
images = rng.normal(2, 3, (3, 4, 4, 4, 3)).astype(np.float32)
parts = tf.data.Dataset.from_tensor_slices({"image": images})

def step(part):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(network(part["image"], training=True) ** 2) / 1000
    replicas.apply_gradients(optimizer, tape.gradient(loss, network.trainable_variables), network)

run, kernel = tf.function(lambda batch: strategy.run(step, (batch,))), network.layers[-1].kernel
average = None
for batch in devices.shared_out(strategy, parts):
    run(batch)
    value = tf.convert_to_tensor(kernel.value).numpy()
    average = value if average is None else (average + value) / 2
values = [strategy.experimental_local_results(v.value) for v in network.variables]
replicas_agree = all(np.array_equal(a.numpy(), b.numpy()) for a, b in values)
before = [tf.convert_to_tensor(v.value).numpy() for v in network.variables]
with kept_weights.own_afterwards(network):
    kept_weights.take_averages(network, optimizer)
    see = kept_weights.seeing(strategy, network, lambda batch: batch["image"])
    kept_weights.reestimate_moments(network, see, devices.shared_out(strategy, parts), lambda: False)
    found = [tf.convert_to_tensor(v.value).numpy() for v in (kernel, norm.moving_mean, norm.moving_variance)]
after = [tf.convert_to_tensor(v.value).numpy() for v in network.variables]
wanted = [average, images.mean((0, 1, 2, 3)), images.var((0, 1, 2, 3))]
print(json.dumps({
    "replicas": strategy.num_replicas_in_sync,
    "agree": replicas_agree,
    "apart": [float(np.abs(a - b).max()) for a, b in zip(found, wanted)],
    "moved": float(np.abs(average - value).max()),
    "back": all(np.array_equal(a, b) for a, b in zip(before, after)),
}))
"""


@pytest.mark.parametrize("over", ["synchronised", "per_replica"])
def test_on_several_replicas_averages_and_moments_are_those_of_the_global_batches(over):
    """Whatever a replica normalises by in training, what is kept is one network."""
    command = [sys.executable, "-c", TWO_DEVICES, over]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["replicas"] == 2 and found["agree"] and found["back"] and found["moved"] > 1e-3
    assert max(found["apart"]) < 1e-4
