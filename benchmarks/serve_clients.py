"""The clients of `serve.py`, in a process of their own that holds no TensorFlow; prints JSON, the last line.

    python benchmarks/serve_clients.py load --server localhost:8500/cun --cases DIR --clients 4 --seconds 300
    python benchmarks/serve_clients.py wire --server localhost:8500/cun --case DIR --signature int16

They speak the messages of `serving.messages` over bare channels, not through `serving.client`, which would ask
again where it is refused, and so hide it. Cases are sent as the scanner gave them, without N4.
"""

import argparse
import hashlib
import itertools
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence

import grpc
import numpy as np

from serving import messages
from tfbrats.cases import case as cases
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.machine import packing

_OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
_LIMIT_S = 1800
_AFTER_A_REFUSAL_S = 0.5


class _Line:
    """One channel to one model: requests and answers as bytes."""

    def __init__(self, server: str):
        address, _, self._model = server.rpartition("/")
        # A pool of its own: else gRPC would give all clients of this process one connection.
        options = (*_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        self._predict = grpc.insecure_channel(address, options).unary_unary(messages.PREDICT)

    def request(self, inputs: Mapping[str, np.ndarray], signature: str, outputs: Sequence[str]) -> bytes:
        message = messages.predict_request({"name": self._model}, signature, inputs, outputs)
        return message.SerializeToString()

    def answer(self, request: bytes) -> bytes:
        return self._predict(request, timeout=_LIMIT_S, wait_for_ready=True)


def _arrays(answer: bytes) -> dict[str, np.ndarray]:
    response = messages.PredictResponse.FromString(answer)
    return {name: messages.to_array(tensor) for name, tensor in response.outputs.items()}


def _read(folder: str, most: int) -> list[dict[str, np.ndarray]]:
    """Cases of a data set, each as modality -> int16 [I, J, K]."""
    found = []
    for entry in layouts.find(folder).cases[:most]:
        loaded = cases.load(entry, read_label=False)
        if loaded.image.dtype != np.int16:
            raise InputError(f"{entry.case_id}: expected whole numbers; found {loaded.image.dtype}.")
        found.append({name: loaded.image[..., m].copy() for m, name in enumerate(loaded.modalities)})
    return found


def _inputs(volumes: Mapping[str, np.ndarray], signature: str) -> dict[str, np.ndarray]:
    """What a whole-case signature takes; of cases_int16 the same case twice."""
    if signature == "serving_default":
        return {name: volume.astype(np.float32) for name, volume in volumes.items()}
    if signature == "gzip_int16":
        plane = np.array(next(iter(volumes.values())).shape[:2], np.int32)
        return {"plane": plane, **{name: packing.packed(volume) for name, volume in volumes.items()}}
    if signature == "cases_int16":
        return {name: np.stack([volume, volume]) for name, volume in volumes.items()}
    return dict(volumes)


# --- load -----------------------------------------------------------------------------------------------


def load(server: str, folder: str, count: int, seconds: float, signature: str) -> dict:
    """So many clients at once, each sending case after case for the time; every answer against the first.

    Returns:
        begun, ended: by the clock of the machine, without the first answers, which are what the others
            are held against; calls: [seconds, status, whether it is the first answer again] of each.
    """
    line = _Line(server)
    requests = [line.request(_inputs(one, signature), signature, ["segmentation"]) for one in _read(folder, 4)]
    first = [_arrays(line.answer(request))["segmentation"] for request in requests]
    calls = []
    begun = time.time()

    def run(number: int) -> None:
        own = _Line(server)
        for n in itertools.count(number):
            if time.time() - begun > seconds:
                return
            place = n % len(requests)
            asked = time.perf_counter()
            try:
                answer = own.answer(requests[place])
                took, status = time.perf_counter() - asked, "OK"
                same = np.array_equal(_arrays(answer)["segmentation"], first[place])
            except grpc.RpcError as error:
                took, status, same = time.perf_counter() - asked, error.code().name, True
                time.sleep(_AFTER_A_REFUSAL_S)
            calls.append((took, status, same))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = time.time()
    afterwards = np.array_equal(_arrays(line.answer(requests[0]))["segmentation"], first[0])
    return {
        "begun": begun,
        "ended": ended,
        "calls": calls,
        "request_bytes": [len(one) for one in requests],
        "right_afterwards": afterwards,
    }


# --- wire -----------------------------------------------------------------------------------------------


def wire(server: str, folder: str, signature: str, outputs: Sequence[str], repeats: int) -> dict:
    """One case so many times, one after the other, from its arrays to the answer's arrays.

    Returns:
        begun, ended: by the clock of the machine, of the calls; the first is before, as a warm-up.
        pack_s, wait_s, unpack_s: lists, of each call; sent_bytes, received_bytes: of one.
        sha256: of the label maps.
    """
    (volumes,) = _read(folder, 1)
    line = _Line(server)
    line.answer(line.request(_inputs(volumes, "int16"), "int16", ["segmentation"]))
    taken = {"pack_s": [], "wait_s": [], "unpack_s": []}
    begun = time.time()
    for _ in range(repeats):
        times = [time.perf_counter()]
        request = line.request(_inputs(volumes, signature), signature, outputs)
        times.append(time.perf_counter())
        answer = line.answer(request)
        times.append(time.perf_counter())
        arrays = _arrays(answer)
        times.append(time.perf_counter())
        for name, seconds in zip(taken, np.diff(times), strict=True):
            taken[name].append(float(seconds))
    maps = arrays["segmentation"] if signature == "cases_int16" else arrays["segmentation"][None]
    return {
        "begun": begun,
        "ended": time.time(),
        **taken,
        "sent_bytes": len(request),
        "received_bytes": len(answer),
        "sha256": sorted({hashlib.sha256(one.tobytes()).hexdigest() for one in maps}),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("load", "wire"))
    parser.add_argument("--server", required=True, help="host:port/MODEL")
    parser.add_argument("--cases", required=True, metavar="DIR", help="a data set; wire: of one case")
    parser.add_argument("--signature", default="gzip_int16")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--output", action="append", default=[], help="wire: an output to ask for (default: all)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="wire: calls")
    given = parser.parse_args(arguments)
    if given.what == "load":
        found = load(given.server, given.cases, given.clients, given.seconds, given.signature)
    else:
        found = wire(given.server, given.cases, given.signature, given.output, given.repeats)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
