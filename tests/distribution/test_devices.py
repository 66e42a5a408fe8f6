"""Which devices train: what TF_CONFIG must say, and what is refused with which words."""

import contextlib
import json
import subprocess
import sys

import pytest
import tensorflow as tf

from tfbrats.distribution import devices
from tfbrats.errors import InputError

TWO = {"worker": ["a.example:1", "b.example:2"]}
FIRST = {"type": "worker", "index": 0}


def tf_config(monkeypatch, content):
    monkeypatch.setenv("TF_CONFIG", content if isinstance(content, str) else json.dumps(content))


def test_without_tf_config_there_is_no_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert devices.cluster() is None


@pytest.mark.parametrize(
    ("tasks", "task", "addresses", "own"),
    [
        (TWO, FIRST, ("a.example:1", "b.example:2"), 0),
        (TWO, {"type": "worker", "index": "1"}, ("a.example:1", "b.example:2"), 1),
        # With a chief it is the first; worker 0 comes after it and writes nothing.
        ({**TWO, "chief": ["c:3"]}, FIRST, ("c:3", "a.example:1", "b.example:2"), 1),
        ({**TWO, "chief": ["[::1]:3"]}, {"type": "chief", "index": 0}, ("[::1]:3", *TWO["worker"]), 0),
    ],
)
def test_the_cluster_is_the_workers_with_the_chief_first(monkeypatch, tasks, task, addresses, own):
    tf_config(monkeypatch, {"cluster": tasks, "task": task})
    assert devices.cluster() == devices.Cluster(addresses, own)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{'cluster'", "not JSON .*; found"),
        ([1], "expected an object 'cluster'"),
        ({"cluster": TWO}, "expected an object 'task'"),
        ({"cluster": TWO, "task": {"type": "worker"}}, "expected type and index of one of worker 0, worker 1"),
        ({"cluster": TWO, "task": {"type": "worker", "index": 2}}, 'found {"type": "worker", "index": 2}'),
        ({"cluster": TWO, "task": {"type": "chief", "index": 0}}, 'found {"type": "chief", "index": 0}'),
        ({"cluster": {**TWO, "ps": ["p:3"]}, "task": {"type": "ps", "index": 0}}, "found 'ps'"),
        ({"cluster": {"worker": "a:1"}, "task": FIRST}, "list of host:port for 'worker'"),
        ({"cluster": {"worker": ["a"]}, "task": FIRST}, "list of host:port for 'worker'"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": FIRST}, "a:1 is there twice"),
        ({"cluster": {**TWO, "chief": ["c:3", "d:4"]}, "task": FIRST}, "one chief; found 2"),
    ],
)
def test_a_wrong_tf_config_is_answered_with_what_is_wrong_and_a_right_one(monkeypatch, content, said):
    tf_config(monkeypatch, content)
    with pytest.raises(InputError, match=said) as raised:
        devices.strategy_for("auto")
    example = str(raised.value).splitlines()[-1]
    monkeypatch.setenv("TF_CONFIG", example.strip())
    assert devices.cluster().own == 0  # what the message shows is right


def test_multi_worker_without_tf_config_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(InputError, match="TF_CONFIG is not set"):
        devices.strategy_for("multi_worker")


def test_without_a_tpu_its_strategy_says_so(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(InputError, match="no TPU answers"):
        devices.strategy_for("tpu")


TWO_CPUS = """
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tfbrats.distribution import devices
from tfbrats.errors import InputError
print(type(devices.strategy_for("auto")).__name__, devices.strategy_for("auto").num_replicas_in_sync)
for size in 5, 7:  # a second training, with other shapes: a new strategy would number its sums from the start
    strategy = devices.strategy_for("auto")
    summed = tf.function(lambda: tf.distribute.get_replica_context().all_reduce("SUM", tf.ones([size])))
    print(tf.reduce_sum(tf.function(lambda: strategy.run(summed))().values[0]).numpy())
print(type(devices.strategy_for("one_device", jit_compile=True)).__name__)
try:
    devices.strategy_for("auto", jit_compile=True)
except InputError as error:
    print(error)
"""


def test_two_devices_are_mirrored_again_and_again_and_xla_wants_one():
    ended = subprocess.run([sys.executable, "-c", TWO_CPUS], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    auto, first, second, one, refusal = ended.stdout.splitlines()
    assert auto == "MirroredStrategy 2"
    assert (float(first), float(second)) == (10, 14)
    assert one == "OneDeviceStrategy"
    assert refusal.startswith("train.jit_compile=true: XLA compiles the step of one device; here are 2")


@pytest.mark.parametrize("before", [True, False])
def test_tf32_is_what_is_wanted_in_the_block_and_what_it_was_after_it(before):
    is_on, switch = (
        tf.config.experimental.tensor_float_32_execution_enabled,
        tf.config.experimental.enable_tensor_float_32_execution,
    )
    first = is_on()
    switch(before)
    try:
        for wanted in (True, False):
            with pytest.raises(KeyError), devices.tf32(wanted):
                assert is_on() == wanted
                raise KeyError
            assert is_on() == before
    finally:
        switch(first)


def test_a_batch_is_split_on_the_cpu_and_each_part_goes_to_its_device(monkeypatch):
    scope, calls = [], []

    @contextlib.contextmanager
    def device(name):  # there is no GPU: it is asked for, and not entered
        scope.append(name)
        yield
        scope.pop()

    def noted(name):
        real = getattr(tf, name)
        return lambda *given: calls.append((name, *scope)) or real(*given)

    gpu = "/job:localhost/replica:0/task:0/device:GPU:0"
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    monkeypatch.setattr(type(strategy.extended), "worker_devices", property(lambda _: (gpu,)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tf, "device", device)
        for name in ("split", "identity"):
            patched.setattr(tf, name, noted(name))
        (batch,) = devices.shared_out(strategy, tf.data.Dataset.from_tensors({"x": tf.range(4)}))
    assert batch["x"].numpy().tolist() == [0, 1, 2, 3]
    assert calls == [("split", "CPU:0"), ("identity", gpu)]


@pytest.mark.parametrize(
    "content", ["", "  ", "{}", '{"task": {"type": "worker", "index": 0}}', '{"cluster": {}}']
)
def test_a_tf_config_without_machines_changes_nothing(monkeypatch, content):
    tf_config(monkeypatch, content)
    assert devices.cluster() is None
    assert isinstance(devices.strategy_for("auto"), tf.distribute.OneDeviceStrategy)
    assert not devices.several_workers("auto")


def test_a_tf_config_of_one_machine_is_this_one_whatever_its_address(monkeypatch):
    tf_config(monkeypatch, {"cluster": {"worker": ["no.such.host.example:2222"]}, "task": FIRST})
    strategy = devices.strategy_for("auto")
    assert isinstance(strategy, tf.distribute.OneDeviceStrategy)
    assert devices.kind(strategy) == tf.config.list_logical_devices()[-1].device_type
    assert devices.kind(tf.distribute.OneDeviceStrategy("/gpu:1")) == "GPU"
    assert (devices.workers(strategy), devices.worker(strategy), devices.is_chief(strategy)) == (1, 0, True)


def test_a_process_alone_writes_the_run_folder_and_its_errors_stay_its_own(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    strategy = devices.strategy_for("one_device")
    assert devices.is_chief(strategy)
    assert devices.workers(strategy) == 1
    assert devices.sum_over_workers(strategy, [2.0]) == [2.0]
    with pytest.raises(tf.errors.UnavailableError), devices.lost_worker(strategy, "runs/one"):
        raise tf.errors.UnavailableError(None, None, "a disk")
