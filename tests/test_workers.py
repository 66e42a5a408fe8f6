"""Several workers, as processes of this machine: one run together, one message when one of them is lost."""

import contextlib
import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from loopback import free_addresses

from tfbrats import networks
from tfbrats.batches import slice_stream
from tfbrats.batches.stream import Share
from tfbrats.training import slice_step

# All that a training does with others, without the training: it meets them, over and over.
MEETING_WORKER = """
import sys, time
from tfbrats.terminal import command
from tfbrats.distribution import devices

def main(_):
    devices._MEETING_SECONDS = float(sys.argv[1])
    strategy = devices.strategy_for("auto")
    number, count = devices.worker(strategy), devices.workers(strategy)
    print("met", number, count, devices.is_chief(strategy), flush=True)
    with devices.lost_worker(strategy, "runs/one"):
        for n in range(int(sys.argv[2])):
            print("sums", devices.sum_over_workers(strategy, [number, n]), flush=True)
            time.sleep(0.1)

command.run(main)
"""


class Worker:
    """A process with its place in the cluster; what it says goes to a file."""

    def __init__(self, arguments, addresses, index, log: pathlib.Path):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if len(addresses) > 1:
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
            environment["http_proxy"] = (
                "http://127.0.0.1:9"  # nobody is there: workers talk to each other directly
            )
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], env=environment, stdout=file, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, pattern: str, seconds: float = 300) -> None:
        until = time.monotonic() + seconds
        while not re.search(pattern, self.said):
            assert self.process.poll() is None and time.monotonic() < until, self.said[-3000:]
            time.sleep(0.02)

    def end(self, seconds: float = 300) -> int:
        """Its exit code; fails if it takes longer."""
        return self.process.wait(seconds)


@contextlib.contextmanager
def started(arguments, count, folder: pathlib.Path, without=()):
    """`count` workers that know each other; `without` some that are never started."""
    addresses = free_addresses(count)
    folder.mkdir(parents=True, exist_ok=True)
    found = {n: Worker(arguments, addresses, n, folder / f"{n}.log") for n in range(count) if n not in without}
    try:
        yield found, addresses
    finally:
        for one in found.values():
            one.process.kill()
            one.process.wait()


def meeting_workers(count, folder, times, wait=100, without=()):
    return started(["-c", MEETING_WORKER, str(wait), str(times)], count, folder, without)


# --- meeting --------------------------------------------------------------------------------------------


def test_a_worker_that_never_comes_is_named(tmp_path):
    with meeting_workers(2, tmp_path, 1, wait=1, without=(1,)) as (found, addresses):
        assert found[0].end() == 1
        assert f"error: TF_CONFIG: {addresses[1]} has not come" in found[0].said
        assert "Traceback" not in found[0].said


# The first worker runs TensorFlow's coordination service: without it the others notice in another way.
@pytest.mark.parametrize(
    ("count", "lost", "by"),
    [
        (3, 2, signal.SIGTERM),  # which TensorFlow would take for itself, and ignore
        pytest.param(2, 1, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(2, 0, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(2, 1, signal.SIGSTOP, marks=pytest.mark.slow),
        pytest.param(2, 0, signal.SIGSTOP, marks=pytest.mark.slow),
        pytest.param(3, 1, signal.SIGSTOP, marks=pytest.mark.slow),
    ],
)
def test_workers_know_their_places_and_end_with_a_message_when_one_dies_or_falls_silent(
    tmp_path, count, lost, by
):
    with meeting_workers(count, tmp_path, 10000) as (found, addresses):
        found[lost].wait_for(r"sums.*\nsums")
        for n, one in found.items():
            one.wait_for(rf"met {n} {count} {n == 0}\nsums \[{count * (count - 1) / 2}, 0.0\]")
        found[lost].process.send_signal(by)
        for n, one in found.items():
            if n != lost:
                assert one.end(120) == 1
                last = one.said.splitlines()[-1]
                assert re.match(rf"error: .*{addresses[lost]}.*: lost", last), one.said[-3000:]
                assert "what was saved stays in runs/one" in last
                assert "run the same command on all workers again" in last
                assert "Traceback" not in one.said


# --- training -------------------------------------------------------------------------------------------


def training(record_set, folder, *more):
    return [
        *("-m", "tfbrats.train", "--config", "smoke_2d.yaml", "--run", str(folder)),
        *(*record_set.overrides, *more),
    ]


def history(folder) -> list[dict]:
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def weights(folder) -> dict:
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(folder / "checkpoints" / "last")))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name.startswith(("network", "optimizer"))}


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_workers_that_read_all_shards_give_the_run_that_one_device_gives(record_set, tmp_path, count):
    """Three shards do not divide: each worker reads all of them and takes its part of every batch."""
    small = ("train.epochs=1", "train.steps_per_epoch=2")
    together = training(record_set, tmp_path / "many", *small, f"train.batch_size={8 // count}")
    with started(together, count, tmp_path / "logs") as (found, _):
        assert [one.end() for one in found.values()] == [0] * count, found[0].said[-3000:]
        assert "shards by DATA" in found[0].said
    with started(training(record_set, tmp_path / "one", *small, "train.batch_size=8"), 1, tmp_path / "log") as (
        found,
        _,
    ):
        assert found[0].end() == 0, found[0].said[-3000:]
    (many,), (one,) = history(tmp_path / "many"), history(tmp_path / "one")
    for key in ("loss", "loss1", "loss2", "auxiliary", "validation_loss"):
        assert float(many[key]) == pytest.approx(float(one[key]), rel=1e-3), key


@pytest.mark.slow
def test_workers_with_shards_of_their_own_share_one_ratio_over_the_global_batch(record_set, tmp_path):
    """Three shards, three workers: the loss is that of one batch made of what each of them reads."""
    small = ("train.epochs=1", "train.steps_per_epoch=1", f"run.dir={tmp_path / 'run'}")
    arguments = training(record_set, tmp_path / "run", *small)
    with started(arguments, 3, tmp_path / "logs") as (found, _):
        assert [one.end() for one in found.values()] == [0, 0, 0], found[0].said[-3000:]
        assert "shards by FILE" in found[0].said
    settings = record_set.config(*small)
    keras.utils.set_random_seed(settings.train.seed)  # the order in tf.data hangs on it too
    streams = [
        slice_stream.training(record_set.manifest, settings, 0, Share(12, 3, worker)).unbatch().take(4)
        for worker in range(3)
    ]
    batch = next(iter(streams[0].concatenate(streams[1]).concatenate(streams[2]).batch(12)))
    keras.utils.set_random_seed(settings.train.seed)
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        network, optimizer = networks.build(settings, 3), keras.optimizers.SGD(0.01)
        optimizer.build(network.trainable_variables)
    one = slice_step.train_step(strategy, network, optimizer, settings)(
        batch, tf.constant(settings.train.omega)
    )
    (many,) = history(tmp_path / "run")
    for key in ("loss", "loss1", "loss2", "auxiliary"):
        assert float(many[key]) == pytest.approx(float(one[key]), rel=1e-4), key


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_and_all_together_go_on_to_the_same_weights(record_set, tmp_path):
    small = ("train.epochs=2", "train.steps_per_epoch=3", "train.checkpoint_minutes=1e-9")
    for name in ("straight", "killed"):
        with started(training(record_set, tmp_path / name, *small), 2, tmp_path / f"{name}_logs") as (found, _):
            if name == "killed":
                found[0].wait_for("seconds\n    1  ")
                found[1].process.send_signal(signal.SIGKILL)
                assert found[0].end(120) == 1
                assert re.search("error: .*: lost .*what was saved stays in", found[0].said)
                continue
            assert [one.end() for one in found.values()] == [0, 0], found[0].said[-3000:]
    with started(training(record_set, tmp_path / "killed", *small), 2, tmp_path / "again") as (found, _):
        assert [one.end() for one in found.values()] == [0, 0], found[0].said[-3000:]
        assert "resumes     at" in found[0].said
    straight, killed = weights(tmp_path / "straight"), weights(tmp_path / "killed")
    assert straight.keys() == killed.keys()
    for name, value in straight.items():
        np.testing.assert_array_equal(value, killed[name], err_msg=name)
    assert history(tmp_path / "straight") == history(tmp_path / "killed")


# --- several replicas a worker --------------------------------------------------------------------------

# As workers with two GPUs each have: TensorFlow itself takes one CPU device a worker.
TWO_REPLICAS_EACH = """
import tensorflow as tf
from tensorflow.python.distribute import collective_all_reduce_strategy
from tfbrats.distribution import devices

def local_devices(self, resolver, device):
    return tuple(f"{device}/device:CPU:{n}" for n in range(2)), "CPU"

collective_all_reduce_strategy.CollectiveAllReduceExtended._initialize_local_devices = local_devices
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = devices.strategy_for("auto")
sums = devices.sum_over_workers(strategy, [7.1, devices.worker(strategy)])
stream = tf.data.Dataset.from_tensor_slices({"n": tf.range(8)}).batch(4)
for batch in devices.shared_out(strategy, stream):
    parts = [part.numpy().tolist() for part in strategy.experimental_local_results(batch["n"])]
    print("parts", parts, flush=True)
print("sums", strategy.num_replicas_in_sync, devices.workers(strategy), sums == [2 * 7.1, 1.0], flush=True)
"""


def test_a_worker_s_number_counts_once_and_its_batch_is_shared_out_however_many_replicas_it_has(tmp_path):
    with started(["-c", TWO_REPLICAS_EACH], 2, tmp_path) as (found, _):
        for one in found.values():
            assert one.end() == 0, one.said[-3000:]
            assert "parts [[0, 1], [2, 3]]\nparts [[4, 5], [6, 7]]\nsums 4 2 True" in one.said
