"""More than ten thousand requests that no client of ours would send: each ends in a clean status.

The embedded server runs in a process of its own, on the tiny model, and its memory is watched. After each kind
of abuse (tests/serving/abuse.py) the next good request is answered, and rightly. What each ended in is printed:

    python -m pytest tests/serving/test_abuse.py -s
"""

import collections
import contextlib
import dataclasses
import gzip
import itertools
import math
import socket
import struct
import time
import zlib
from concurrent import futures

import abuse
import grpc
import http2
import numpy as np
import pytest
import served
import tensorflow as tf
import tiny_model
from tensorflow_serving.apis import predict_pb2

from tfbrats.exports import next_version
from tfbrats.labels import MODALITIES
from tfbrats.workflows import whole_run

CODE = grpc.StatusCode
AT_ONCE = 8  # fewer than the server takes, so that it refuses none for being full
HANGS_S = 30
MIB = 2**20
BOUND = 300 * MIB  # above what the server held before


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a call ended: a status, and with an error its text."""

    code: grpc.StatusCode
    text: str


class Target:
    """A server, the one channel to it, and what was sent so far."""

    def __init__(self, server):
        self.server = server
        # No limit of ours before the server's.
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.insecure_channel(server.address, unlimited)
        self.found = {}  # kind -> how often each end
        self._random = np.random.default_rng(0)

    def ask(self, call: abuse.Call, timeout=HANGS_S) -> Ended:
        try:
            self.channel.unary_unary(call.path)(call.content, timeout=timeout, metadata=call.metadata)
        except grpc.RpcError as error:
            return Ended(error.code(), error.details())
        return Ended(CODE.OK, "")

    def ask_all(self, calls) -> list[Ended]:
        with futures.ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self.ask, calls))

    def answer(self, call: abuse.Call) -> np.ndarray:
        """The label map that a good call gets."""
        content = self.channel.unary_unary(call.path)(call.content, timeout=HANGS_S)
        return tf.make_ndarray(predict_pb2.PredictResponse.FromString(content).outputs["segmentation"])

    def begin(self, call: abuse.Call, timeout) -> grpc.Future:
        return self.channel.unary_unary(call.path).future(call.content, timeout=timeout)

    def check_it_still_works(self) -> None:
        """A good request gets the right answer, by each signature, and nothing was left in the log."""
        images = abuse.images(self._random)
        wanted = np.array([0, 1, 2, 4], np.uint8)[tiny_model.tissues_by_rule(images)]
        for signature in tiny_model.WHOLE:
            answer = self.answer(abuse.predict(abuse.inputs(images, signature), signature))
            np.testing.assert_array_equal(np.squeeze(answer), wanted)
        assert "Traceback" not in self.server.said()


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    root = tmp_path_factory.mktemp("abused")
    tiny_model.write(root / "tiny")
    with served.serving(root / "tiny", root / "log.txt") as server:
        found = Target(server)
        yield found
        if found.found:
            print("\n" + "\n".join(_table(found.found)))


def _table(found) -> list[str]:
    lines = [f"{sum(one.total() for one in found.values()):>7,}  requests"]
    for kind, ended in found.items():
        statuses = ", ".join(f"{end} {count}" for end, count in ended.most_common())
        lines.append(f"{ended.total():>7,}  {kind}: {statuses}")
    return lines


# --- requests -------------------------------------------------------------------------------------------


def test_the_kinds_are_ten_thousand_requests():
    assert sum(kind.count for kind in abuse.KINDS.values()) >= 10_000


@pytest.mark.parametrize("name", abuse.KINDS)
def test_each_of_a_kind_ends_in_a_clean_status_and_the_next_good_request_is_answered(name, target):
    kind = abuse.KINDS[name]
    random = np.random.default_rng(zlib.crc32(name.encode()))
    calls = [kind.make(random) for _ in range(kind.count)]
    with target.server.watched() as most:
        before = most[0]
        ended = target.ask_all(calls)
    target.found[name] = collections.Counter(one.code.name for one in ended)
    unclean = [(n, one) for n, one in enumerate(ended) if one.code not in kind.ends_in]
    assert not unclean, f"{len(unclean)} of {len(ended)}; the first: {unclean[0]}"
    assert all(one.text for one in ended if one.code is not CODE.OK)
    assert max(len(one.text) for one in ended) < 2000
    assert most[0] - before < BOUND
    target.check_it_still_works()


def test_calls_that_run_out_of_time_or_are_given_up_free_their_place(target):
    random = np.random.default_rng(1)
    spin = abuse.predict({"rounds": tf.make_tensor_proto(np.int64(10**15))}, "spin")
    with futures.ThreadPoolExecutor(AT_ONCE) as pool:
        limits = random.uniform(0.001, 0.1, 60)
        ended = list(pool.map(lambda timeout: target.ask(spin, timeout), limits))
    given_up = [target.begin(spin, 3) for _ in range(60)]  # what runs already runs on for 3 s
    for call, wait in zip(given_up, random.exponential(0.005, 60), strict=True):
        time.sleep(wait)
        call.cancel()
    target.found["out of time"] = collections.Counter(one.code.name for one in ended)
    target.found["given up"] = collections.Counter(call.code().name for call in given_up)
    assert set(target.found["out of time"]) == {"DEADLINE_EXCEEDED"}
    # The last of them find the server full.
    assert set(target.found["given up"]) <= {"CANCELLED", "RESOURCE_EXHAUSTED"}
    wait_until(lambda: target.ask(abuse.predict(abuse.inputs(abuse.images(random)))).code is CODE.OK)
    target.check_it_still_works()


# --- connections ----------------------------------------------------------------------------------------


def wait_until(true, seconds=HANGS_S):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def _connected(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=HANGS_S)


def _end_of(server, content: bytes) -> str:
    """What becomes of a connection on which this is said, and no more."""
    with _connected(server) as line:
        try:
            line.sendall(content)
            with contextlib.suppress(OSError):  # ended already
                line.shutdown(socket.SHUT_WR)
            while line.recv(65536):
                pass
        except ConnectionError:
            return "reset"
        except TimeoutError:
            return "left open"
    return "closed"


def test_random_bytes_on_the_port_end_that_connection_alone(target):
    random = np.random.default_rng(2)
    said = [http2.connection(random) for _ in range(400)]
    with target.server.watched() as most, futures.ThreadPoolExecutor(AT_ONCE) as pool:
        before = most[0]
        ended = list(pool.map(lambda content: _end_of(target.server, content), said))
    target.found["random bytes on the port"] = collections.Counter(ended)
    assert "left open" not in ended, said[ended.index("left open")][:100]
    assert most[0] - before < 100 * MIB
    target.check_it_still_works()


def test_half_open_connections_keep_nobody_else_out(target):
    claim = http2.frame(http2.DATA, 0, 1, struct.pack(">BI", 0, 600 * MIB) + b"begun")
    begun = (
        b"",
        http2.hello()[:10],
        http2.hello(),
        http2.hello() + http2.begun_call()[:20],
        http2.hello() + http2.begun_call(),
        http2.hello() + http2.begun_call() + claim,
    )
    with contextlib.ExitStack() as lines, target.server.watched() as most:
        before = most[0]
        for content in itertools.islice(itertools.cycle(begun), 60):
            lines.enter_context(_connected(target.server)).sendall(content)
        time.sleep(0.2)
        target.check_it_still_works()
    assert most[0] - before < 100 * MIB
    target.check_it_still_works()


def test_calls_that_never_send_their_message_are_too_many_at_last_until_they_are_gone(target):
    good = abuse.predict(abuse.inputs(abuse.images(np.random.default_rng(3))))
    streams = itertools.count(1, 2)

    def is_full_after_one_more(line) -> bool:
        line.sendall(http2.begun_call(next(streams)))
        return target.ask(good).code is CODE.RESOURCE_EXHAUSTED

    with _connected(target.server) as line:
        line.sendall(http2.hello())
        wait_until(lambda: is_full_after_one_more(line))
    wait_until(lambda: target.ask(good).code is CODE.OK)
    target.check_it_still_works()


def test_a_message_above_the_limit_is_refused_before_it_is_read(target):
    header = struct.pack(">BI", 0, 2**31 - 1)
    with target.server.watched() as most, _connected(target.server) as line:
        before = most[0]
        line.sendall(http2.hello() + http2.begun_call() + http2.frame(http2.DATA, 0, 1, header + bytes(1000)))
        said = b""
        while b"grpc-status" not in said:
            said += line.recv(65536)
    assert f"grpc-status\x01{CODE.RESOURCE_EXHAUSTED.value[0]}".encode() in said
    assert most[0] - before < 50 * MIB
    target.check_it_still_works()


def test_a_message_packed_by_grpc_is_refused_and_not_unpacked(target):
    call = target.channel.unary_unary(abuse.PREDICT)
    with target.server.watched() as most:
        before = most[0]
        with pytest.raises(grpc.RpcError) as caught:
            call(bytes(150 * MIB), timeout=HANGS_S, compression=grpc.Compression.Gzip)
    assert caught.value.code() is CODE.UNIMPLEMENTED
    assert "gzip" in caught.value.details()
    assert most[0] - before < 50 * MIB
    target.check_it_still_works()


# --- a network ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(record_set, tmp_path_factory):
    """A server of a small exported network."""
    root = tmp_path_factory.mktemp("network")
    run = str(root / "run")
    whole_run.train(record_set.config(f"run.dir={run}", "train.epochs=1", "train.steps_per_epoch=2"))
    next_version.export(run, root / "models" / "tiny")
    with served.serving(root / "models" / "tiny", root / "log.txt") as server:
        yield Target(server)


def _filled(signature: str, shape, value=1) -> abuse.Call:
    """A case, or several, of one value, which is sent once for all."""
    one = (
        abuse.tensor(tf.int16.as_datatype_enum, shape, int_val=[value][: math.prod(shape)])
        if "int16" in signature
        else abuse.tensor(tf.float32.as_datatype_enum, shape, float_val=[value][: math.prod(shape)])
    )
    return abuse.predict(dict.fromkeys(MODALITIES, one), signature, ["segmentation"])


def _of_axes(axes: str | bytes, shape=(40, 40, 9)) -> abuse.Call:
    one = abuse.tensor(tf.int16.as_datatype_enum, shape, int_val=[1])
    sent = {**dict.fromkeys(MODALITIES, one), "axes": tf.make_tensor_proto(axes)}
    return abuse.predict(sent, "any_axes_int16", ["segmentation"])


def _packed(plane, count: int, content: bytes) -> abuse.Call:
    one = abuse.tensor(tf.string.as_datatype_enum, [count], string_val=[content][:count])
    sent = {**dict.fromkeys(MODALITIES, one), "plane": tf.make_tensor_proto(np.array(plane, np.int32))}
    return abuse.predict(sent, "gzip_int16", ["segmentation"])


OF_NETWORK = {
    "a bomb for each slice of BraTS": (lambda: _packed((240, 240), 155, abuse.bomb(2 * 240 * 240)), "refused"),
    "a bomb for each slice of the largest": (
        lambda: _packed((512, 512), 128, abuse.bomb(2 * 512 * 512)),
        "refused",
    ),
    "a million slices of one voxel": (lambda: _packed((1, 1), 2**20, gzip.compress(b"12")), "refused"),
    "a long and thin volume": (lambda: _filled("int16", (2**24, 1, 1)), "refused"),
    "a volume of very many slices": (lambda: _filled("int16", (1, 1, 2**24)), "refused"),
    "a volume as long as allowed": (lambda: _filled("int16", (512, 1, 1)), "answered"),
    "as many slices as allowed": (lambda: _filled("int16", (1, 1, 512)), "answered"),
    "half a million cases of one voxel": (lambda: _filled("cases_int16", (2**19, 1, 1, 1)), "refused"),
    "cases without end": (lambda: _filled("cases_int16", (2**19, 0, 0, 0)), "refused"),
    "no case": (lambda: _filled("cases_int16", (0, 5, 5, 5)), "either"),
    "axes of a million letters": (lambda: _of_axes("RAS" * 2**19), "refused"),
    "one axis twice": (lambda: _of_axes("RLS"), "refused"),
    "axes that a text cannot be": (lambda: _of_axes(b"\xff\0S"), "refused"),
    "thin along a turned axis": (lambda: _of_axes("SAR", (1, 1, 512)), "answered"),
    "not a number": (lambda: _filled("serving_default", (40, 40, 9), np.nan), "refused"),
    "infinite": (lambda: _filled("serving_default", (40, 40, 9), np.inf), "refused"),
    "nothing but background": (lambda: _filled("int16", (40, 40, 9), 0), "answered"),
    "no slice": (lambda: _filled("int16", (40, 40, 0)), "either"),
    "no plane": (lambda: _filled("int16", (0, 0, 9)), "either"),
    "no volume": (lambda: _filled("serving_default", (0, 0, 0)), "either"),
    "no packed slice": (lambda: _packed((40, 40), 0, b""), "either"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_NETWORK)
def test_a_network_takes_the_worst_as_calmly(name, network):
    call, how = OF_NETWORK[name]
    images = abuse.images(np.random.default_rng(4), (30, 30, 8))
    good = abuse.predict(abuse.inputs(images), outputs=["segmentation"])
    before = network.answer(good)
    with network.server.watched() as most:
        held, begun = most[0], time.monotonic()
        ended = network.ask(call())
        took = time.monotonic() - begun
    grown = (most[0] - held) / MIB
    print(f"\n{name}: {ended.code.name} in {took:.1f} s, {grown:.0f} MiB more. {ended.text[:100]}")
    refused, answered = {CODE.INVALID_ARGUMENT, CODE.DATA_LOSS}, {CODE.OK}
    allowed = {"refused": refused, "answered": answered, "either": refused | answered}
    assert ended.code in allowed[how], ended
    assert grown < 1024
    np.testing.assert_array_equal(network.answer(good), before)
    assert "Traceback" not in network.server.said()
