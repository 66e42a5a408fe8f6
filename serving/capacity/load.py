"""Cases sent to a server, as a client sends them: by so many callers in turn, or each at its time."""

import collections
import dataclasses
import threading
import time
from collections.abc import Sequence

import grpc

from serving import addresses, messages
from serving.case_request import CaseRequest
from serving.connection import Client
from tfbrats.cases import case as cases
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.predictions.model_card import ModelCard

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A pool of its own: else gRPC would give all callers of this process one connection.
    ("grpc.use_local_subchannel_pool", 1),
)
_LIMIT_S = 3600
_MOST_CASES = 4
_LEAST_ANSWERS = 2  # of each caller; more where every case would not have been sent


@dataclasses.dataclass(frozen=True)
class Asked:
    """A model at a server, and what it is sent.

    Attributes:
        server: host:port/MODEL.
        requests: serialised, as the client makes them.
        shapes: of the cases.
    """

    server: str
    card: ModelCard
    signature: str
    requests: tuple[bytes, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Answers:
    """Seconds of each answer, and cases a second of all callers together."""

    seconds: tuple[float, ...]
    cases_per_s: float


def asked(server: str, folder: str) -> Asked:
    """The first cases of a data set as requests; one is sent to see that the model takes it.

    Raises:
        InputError: no server, no such model, or cases that it does not take.
    """
    requests, shapes = [], []
    with Client(server, timeout_s=_LIMIT_S) as client:
        card = client.card()
        for files in layouts.find(folder).cases[:_MOST_CASES]:
            scan = cases.load(files, card.modalities, read_label=False)
            request = CaseRequest(scan)
            inputs, signature = request.inputs(card)
            outputs = request.outputs(card, signature)
            message = messages.predict_request({"name": client.model}, signature, inputs, outputs)
            requests.append(message.SerializeToString())
            shapes.append(tuple(scan.image.shape[:3]))
            if len(requests) == 1:
                request.answer(card, *client.predict(inputs, signature, outputs), client.model)
    if not requests:
        raise InputError(f"{folder}: no case.")
    return Asked(server, card, signature, tuple(requests), tuple(shapes))


class _Caller:
    """One connection. Its own: servers share out by connection."""

    def __init__(self, server: str):
        address, _ = addresses.parted(server)
        self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._predict = self._channel.unary_unary(messages.PREDICT)

    def seconds(self, request: bytes, since: float | None = None) -> float:
        """Sends a case and waits; from when it was sent, or was to be sent, to the answer."""
        since = time.perf_counter() if since is None else since
        self._predict(request, timeout=_LIMIT_S, wait_for_ready=True)
        return time.perf_counter() - since

    def close(self) -> None:
        self._channel.close()


def _in_threads(work, count: int) -> None:
    """Runs work(0) to work(count - 1) at once.

    Raises:
        InputError: a call failed.
    """
    failed: collections.Counter[str] = collections.Counter()

    def run(number: int) -> None:
        try:
            work(number)
        except grpc.RpcError as error:
            failed[f"{error.code().name}: {error.details()[:200]}"] += 1

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        text = "; ".join(f"{calls} calls ended with {status}" for status, calls in failed.items())
        raise InputError(f"{text}. A server that is measured must take as many calls at once as --calls says.")


def in_turn(model: Asked, callers: int, seconds: float) -> Answers:
    """So many callers, each of whom sends the next case when the last is answered. Each case is sent.

    Args:
        seconds: after which no more are sent.
    """
    least = max(_LEAST_ANSWERS, -(-len(model.requests) // callers))
    sent: list[list[float]] = [[] for _ in range(callers)]
    rates = [0.0] * callers
    began = time.perf_counter()

    def work(number: int) -> None:
        caller = _Caller(model.server)
        while len(sent[number]) < least or time.perf_counter() - began < seconds:
            place = (number + len(sent[number])) % len(model.requests)
            sent[number].append(caller.seconds(model.requests[place]))
        # By his own time: when one has ended, the others go on a little, faster than before.
        rates[number] = len(sent[number]) / (time.perf_counter() - began)
        caller.close()

    _in_threads(work, callers)
    # One caller's are in the order of the cases.
    return Answers(tuple(second for each in sent for second in each), sum(rates))


def at_their_times(model: Asked, times_s: Sequence[float]) -> Answers:
    """Each case at its time, whether or not the others have been answered."""
    seconds = [0.0] * len(times_s)
    began = time.perf_counter() + 1  # threads are started by then

    def work(number: int) -> None:
        caller = _Caller(model.server)
        due = began + times_s[number]
        time.sleep(max(0.0, due - time.perf_counter()))
        seconds[number] = caller.seconds(model.requests[number % len(model.requests)], due)
        caller.close()

    _in_threads(work, len(times_s))
    ended = max(time_s + took for time_s, took in zip(times_s, seconds, strict=True))
    return Answers(tuple(seconds), len(seconds) / ended)
