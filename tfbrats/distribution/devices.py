"""The devices that train: one, several of this machine, several machines, a TPU; and what happens when one of
them is lost.

TensorFlow's own errors for a wrong TF_CONFIG or a dead machine name neither the key nor the machine. Here each
becomes one message that says what to do.
"""

import contextlib
import dataclasses
import faulthandler
import functools
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

import tensorflow as tf

from tfbrats.distribution import meeting
from tfbrats.errors import InputError
from tfbrats.machine.memory import peak_resident_bytes

_MEETING_SECONDS = 600.0  # for all workers to be started
_STARTING_SECONDS = 120.0  # for TensorFlow to connect them then

_EXAMPLE = (
    '{"cluster": {"worker": ["first.example:2222", "second.example:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


# --- several machines -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What TF_CONFIG says.

    Attributes:
        addresses: host:port of all workers, the one that writes the run folder first.
        own: which of them is this process.
    """

    addresses: tuple[str, ...]
    own: int


def cluster() -> Cluster | None:
    """The machines that TF_CONFIG names; None where it is not set, or names none, as some schedulers leave it.

    Raises:
        InputError: it is not what TensorFlow reads from it.
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return None

    def wrong(what: str) -> InputError:
        return InputError(
            f"TF_CONFIG: {what}. Unset it to train on this machine alone; else set it on every worker to the "
            f"like of\n  {_EXAMPLE}"
        )

    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise wrong(f"not JSON ({error}); found {text[:80]!r}") from error
    if isinstance(content, dict) and not content.get("cluster"):
        return None
    parts = [content.get(key) if isinstance(content, dict) else None for key in ("cluster", "task")]
    for key, part in zip(("cluster", "task"), parts, strict=True):
        if not isinstance(part, dict) or not part:
            raise wrong(f"expected an object {key!r}; found {json.dumps(content)[:80]}")
    tasks, task = parts
    if strange := sorted(set(tasks) - {"chief", "worker"}):
        raise wrong(
            f"cluster: expected tasks of the types worker and, if you like, chief; found {strange[0]!r}"
        )
    for kind, addresses in tasks.items():
        if not isinstance(addresses, list) or not addresses or not all(map(_is_address, addresses)):
            raise wrong(f"cluster: expected a list of host:port for {kind!r}; found {json.dumps(addresses)}")
    if len(tasks.get("chief", [])) > 1:
        raise wrong(f"cluster: expected one chief; found {len(tasks['chief'])}")
    everyone = [(kind, n) for kind in ("chief", "worker") for n in range(len(tasks.get(kind, [])))]
    addresses = [tasks[kind][n] for kind, n in everyone]
    if twice := [address for address in addresses if addresses.count(address) > 1]:
        raise wrong(f"cluster: {twice[0]} is there twice; each worker listens at an address of its own")
    try:
        own = everyone.index((task.get("type"), int(task.get("index"))))
    except (TypeError, ValueError) as error:
        names = ", ".join(f"{kind} {n}" for kind, n in everyone)
        raise wrong(f"task: expected type and index of one of {names}; found {json.dumps(task)}") from error
    return Cluster(tuple(addresses), own)


def _is_address(text: object) -> bool:
    host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    return bool(host) and port.isdecimal() and int(port) < 2**16


def workers(strategy: tf.distribute.Strategy) -> int:
    """How many processes train together, each with the replicas of its machine."""
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return len(cluster().addresses) if several else 1


def worker(strategy: tf.distribute.Strategy) -> int:
    """Which of them this process is, from 0."""
    return cluster().own if workers(strategy) > 1 else 0


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run folder: the only one, or the first of the workers."""
    return worker(strategy) == 0


def sum_over_workers(strategy: tf.distribute.Strategy, numbers: Sequence[float]) -> list[float]:
    """Each number summed over all workers, which must all come here; float64."""
    if workers(strategy) == 1:
        return [float(number) for number in numbers]
    return _summed(strategy)(tf.constant(list(numbers), tf.float64)).numpy().tolist()


@functools.cache
def _summed(strategy: tf.distribute.Strategy) -> Callable:
    each = strategy.num_replicas_in_sync // workers(strategy)

    def of_replica(numbers):
        # One replica of each worker brings its numbers: shared out among them they would not add up to the bit.
        place = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.where(tf.equal(place % each, 0), numbers, tf.zeros_like(numbers))

    @tf.function  # eagerly, TensorFlow warns at every call that it is slow
    def summed(numbers):
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(of_replica, (numbers,)), axis=None)

    return summed


def shared_out(strategy: tf.distribute.Strategy, stream: tf.data.Dataset) -> Iterator:
    """A worker's batches, each in equal parts on its replicas' devices, one batch ahead.

    `strategy.experimental_distribute_dataset` would do the same, but behind each device's part it puts a stream
    that TensorFlow tunes: letting go of one takes up to a minute (`stream.untuned`).

    Args:
        stream: dict of tensors [N, ...], the same N in all batches, as many as replicas or a multiple.

    Yields:
        what `strategy.run` takes.
    """
    places = strategy.extended.worker_devices
    if len(places) == 1 and "GPU" not in places[0]:
        yield from stream
        return
    first = worker(strategy) * len(places)
    batches = iter(stream)

    def next_batch():
        batch = next(batches, None)
        if batch is None:
            return None
        with tf.device("CPU:0"):  # else the first GPU would take all of it in
            pieces = {name: tf.split(tensor, len(places)) for name, tensor in batch.items()}
        parts = []
        for n, place in enumerate(places):
            with tf.device(place):
                parts.append({name: tf.identity(piece[n]) for name, piece in pieces.items()})
        if len(parts) == 1:
            return parts[0]
        return strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group - first]
        )

    with futures.ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(next_batch)
        while (batch := waiting.result()) is not None:
            waiting = ahead.submit(next_batch)
            yield batch


def several_workers(name: str) -> bool:
    """Whether `train.strategy` is about more than this process, going by TF_CONFIG."""
    machines = cluster()
    return name in ("auto", "multi_worker") and machines is not None and len(machines.addresses) > 1


@contextlib.contextmanager
def lost_worker(strategy: tf.distribute.Strategy, run: str | os.PathLike) -> Iterator[None]:
    """Whatever waits for other workers belongs in here: when one is lost, the others end with a message.

    Args:
        run: the run folder, where what was saved stays.

    Raises:
        InputError: a worker, or a disk of all, died, was restarted alone, or has been silent for too long.
    """
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    ) as error:
        if workers(strategy) == 1:
            raise
        raise InputError(_lost(error, run)) from error


def _lost(error: tf.errors.OpError, run: str | os.PathLike) -> str:
    machines, message = cluster(), error.message
    others = [address for n, address in enumerate(machines.addresses) if n != machines.own]
    named = {_address_of(kind, int(n)) for kind, n in _TASK.findall(message)}
    if "CoordinationService" in message:  # the first worker runs it
        named.add(machines.addresses[0])
    gone = [address for address in others if address in named or not meeting.answers(address)]
    who = " and ".join(gone) or "a worker or the shared disk"
    lines = message.splitlines()
    reason = next((line for line in lines if "aborted by" in line), lines[0])
    return (
        f"{who}: lost ({reason.strip().rstrip(':')}). This worker ends too; what was saved stays in {run}. "
        "See what happened there, then run the same command on all workers again: they go on from there."
    )


_TASK = re.compile(r"/job:(chief|worker)(?:/replica:0)?/task:(\d+)")


def _address_of(kind: str, index: int) -> str:
    tasks = json.loads(os.environ["TF_CONFIG"])["cluster"]
    return tasks[kind][index]


# --- strategies -----------------------------------------------------------------------------------------


def strategy_for(
    name: str, jit_compile: bool = False, check: Callable[[], None] = lambda: None
) -> tf.distribute.Strategy:
    """The tf.distribute strategy that `train.strategy` names; it takes the devices, so call it first of all.

    "auto" is multi-worker when TF_CONFIG names several machines, mirrored when there is more than one device,
    else one device.

    Args:
        jit_compile: `train.jit_compile`.
        check: called while workers wait for each other; gives up by raising.

    Raises:
        InputError: "multi_worker" without TF_CONFIG or with a wrong one, "tpu" without a TPU, XLA on several
            replicas.
    """
    machines = cluster()
    if name == "multi_worker" and machines is None:
        raise InputError(
            "train.strategy=multi_worker: TF_CONFIG is not set. Set it on every worker, e.g. on the first to\n"
            f"  {_EXAMPLE}\nor train on this machine alone with train.strategy=auto."
        )
    if name == "multi_worker" or several_workers(name):
        strategy = _multi_worker(machines, check)
    elif name == "tpu":
        strategy = _tpu()
    else:
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if name == "mirrored" or (name == "auto" and len(devices) > 1):
            strategy = _mirrored(tuple(device.name for device in devices))
        else:
            strategy = tf.distribute.OneDeviceStrategy(devices[0].name)
    replicas = strategy.num_replicas_in_sync
    if jit_compile and replicas > 1:
        raise InputError(
            f"train.jit_compile=true: XLA compiles the step of one device; here are {replicas} replicas. Set "
            "it to false, or take train.strategy=one_device."
        )
    return strategy


def kind(strategy: tf.distribute.Strategy) -> str:
    """What its replicas run on: "GPU", "TPU", or "CPU", also where a GPU was hoped for."""
    return tf.DeviceSpec.from_string(strategy.extended.worker_devices[0]).device_type


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """One for each set of devices, kept as long as the process runs.

    A second one would number its collective operations from the start again, and fail: "collective_params
    ... mismatch", or devices that wait for each other for ever.
    """
    return tf.distribute.MirroredStrategy(devices)


@contextlib.contextmanager
def tf32(is_wanted: bool) -> Iterator[None]:
    """In the block a GPU of NVIDIA's kind Ampere or later may round what float32 products multiply to TF32.

    That is 10 bits of mantissa instead of 23, and faster; float16 and bfloat16 are not touched.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(is_wanted)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _multi_worker(machines: Cluster, check: Callable[[], None]) -> tf.distribute.Strategy:
    """Returns when all workers are there. Nothing may have used TensorFlow's devices before."""
    # Else gRPC goes through the proxy that http_proxy names, also to a machine that stands beside this one.
    options = (os.environ.get("TF_GRPC_DEFAULT_OPTIONS"), "grpc.enable_http_proxy=0")
    os.environ["TF_GRPC_DEFAULT_OPTIONS"] = ",".join(filter(None, options))
    # TensorFlow's first worker would wait for ever, deaf to Ctrl-C and to SIGTERM; so we meet before.
    meeting.meet(machines.addresses, machines.own, _MEETING_SECONDS, check)
    if len(machines.addresses) > 1:
        print(
            f"connects    {len(machines.addresses)} workers. If this ends with a traceback after "
            f"{_STARTING_SECONDS / 60:g} minutes, one has died meanwhile: start all of them again.",
            flush=True,
        )
    # One of them may still die in the second that is left. Only this watch runs while TensorFlow holds Python.
    faulthandler.dump_traceback_later(_STARTING_SECONDS, exit=True, file=sys.__stderr__)
    at_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        # No CommunicationOptions(timeout_seconds=...): it leaves a thread behind for every collective until
        # the time is up, thousands in minutes. TensorFlow's heartbeats find a dead or stopped worker in 10 s.
        return tf.distribute.MultiWorkerMirroredStrategy()
    finally:
        faulthandler.cancel_dump_traceback_later()
        # TensorFlow takes SIGTERM for itself, and does nothing with it.
        if at_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, at_sigterm)


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
    except (ValueError, tf.errors.OpError) as error:
        raise InputError(
            f"train.strategy=tpu: no TPU answers ({error}). Run on a machine that has one, or take "
            "train.strategy=auto."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def peak_bytes() -> dict[str, int]:
    """By place: each GPU by its name ("GPU:0"), else "process"."""
    names = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    if names:
        return {name: tf.config.experimental.get_memory_info(name)["peak"] for name in names}
    return {"process": peak_resident_bytes()}
