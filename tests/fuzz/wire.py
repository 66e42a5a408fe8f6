"""What goes over the wire: to the embedded server, to the graph that unpacks slices, and back to our client."""

import contextlib
import pathlib
import struct
from collections.abc import Iterator

from fuzz.parts import CALL_S, Fault, Try, gunzipped


def planes() -> list[bytes]:
    """I, J, and slices: each its length and its bytes."""
    import numpy as np

    from tfbrats.machine import packing

    seeds = []
    for shape in ((6, 5, 4), (1, 1, 1), (40, 3, 2)):
        slices = packing.packed(np.arange(np.prod(shape)).reshape(shape).astype(np.int16))
        body = b"".join(struct.pack("<H", len(one)) + one for one in slices)
        seeds.append(struct.pack("<hh", *shape[:2]) + body)
    return seeds


@contextlib.contextmanager
def try_unpacking(folder: pathlib.Path) -> Iterator[Try]:
    """Compressed slices in the graph: as the standard library unpacks them, or refused."""
    import numpy as np
    import tensorflow as tf

    from tfbrats.graphs import packing_graph

    specs = tf.TensorSpec([None], tf.string), tf.TensorSpec([2], tf.int32)
    unpacked = tf.function(packing_graph.unpacked).get_concrete_function(*specs)

    def attempt(content: bytes) -> None:
        plane, slices = struct.unpack("<hh", content[:4].ljust(4, b"\1")), []
        content = content[4:]
        while len(content) >= 2:
            size = struct.unpack("<H", content[:2])[0]
            slices.append(content[2 : 2 + size])
            content = content[2 + size :]
        try:
            volume = unpacked(
                tf.constant(slices, tf.string, [len(slices)]), tf.constant(plane, tf.int32)
            ).numpy()
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError):
            return
        seconds = [gunzipped(one) for one in slices]
        if volume.shape != (*plane, len(slices)):
            raise Fault(f"shape {volume.shape} of {len(slices)} slices of {plane}")
        for k, second in enumerate(seconds):
            if second is not None and np.ascontiguousarray(volume[..., k]).tobytes() != second:
                raise Fault(f"slice {k} is not what the standard library unpacks")

    yield attempt


def calls() -> list[bytes]:
    import abuse
    import numpy as np

    random_of, made = np.random.default_rng(0), []
    paths = (abuse.PREDICT, abuse.METADATA, abuse.STATUS)
    for signature in ("serving_default", "int16", "gzip_int16", "cases_int16"):
        made.append(abuse.predict(abuse.inputs(abuse.images(random_of), signature), signature))
    made += [kind.make(random_of) for kind in abuse.KINDS.values() for _ in range(3)]
    good = [call for call in made if call.path in paths and len(call.content) < 2**14]
    return [bytes([paths.index(call.path)]) + call.content for call in good]


@contextlib.contextmanager
def try_request(folder: pathlib.Path) -> Iterator[Try]:
    """A message to the embedded server, over gRPC."""
    import abuse
    import grpc
    import numpy as np
    import tiny_model

    from serving import server

    tiny_model.write(folder / "tiny")
    ends = frozenset().union(*(kind.ends_in for kind in abuse.KINDS.values()))
    good = abuse.predict(abuse.inputs(abuse.images(np.random.default_rng(1))))
    paths = (abuse.PREDICT, abuse.METADATA, abuse.STATUS)
    with (
        server.start(folder / "tiny", poll_s=600) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        calls = [channel.unary_unary(path) for path in paths]
        asked = iter(range(2**62))

        def attempt(content: bytes) -> None:
            try:
                calls[content[0] % 3 if content else 0](content[1:], timeout=CALL_S)
            except grpc.RpcError as error:
                spun = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and b"spin" in content
                if (error.code() not in ends and not spun) or not error.details():
                    raise Fault(f"{error.code().name}: {error.details()}") from error
            if next(asked) % 64 == 0:
                calls[0](good.content, timeout=CALL_S)

        yield attempt


def answers() -> list[bytes]:
    import numpy as np
    import tiny_model

    from serving import messages

    arrays = {"content": tiny_model.card().to_file(), "segmentation": np.zeros((3, 2, 2), np.uint8)}
    predicted = messages.PredictResponse()
    for name, array in arrays.items():
        predicted.outputs[name].CopyFrom(messages.to_tensor(array))
    by_value = messages.PredictResponse()
    by_value.outputs["content"].CopyFrom(messages.to_tensor("{}"))
    by_value.outputs["segmentation"].CopyFrom(
        messages.Tensor(dtype=4, tensor_shape={"dim": [{"size": 3}, {"size": 2}]}, int_val=[1, 2])
    )
    offered = messages.Signatures()
    offered.signature_def["int16"].inputs["t1"].dtype = 5
    told = messages.MetadataResponse()
    told.metadata["signature_def"].value = offered.SerializeToString()
    contents = [predicted.SerializeToString(), by_value.SerializeToString(), told.SerializeToString()]
    return [bytes([which]) + content for content in contents for which in (0, 1)]


@contextlib.contextmanager
def try_answer(folder: pathlib.Path) -> Iterator[Try]:
    """What a server that is none of ours answers our client."""
    from concurrent import futures

    import grpc

    from serving.connection import Client
    from tfbrats.errors import InputError

    answer = [b""]
    handler = grpc.unary_unary_rpc_method_handler(lambda *_: answer[0])

    class All(grpc.GenericRpcHandler):
        def service(self, details):
            return handler

    running = grpc.server(futures.ThreadPoolExecutor(2), handlers=[All()])
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    client = Client(f"127.0.0.1:{port}/tiny", timeout_s=CALL_S)

    def attempt(content: bytes) -> None:
        answer[0], client._fetched = content[1:], None
        with contextlib.suppress(InputError):
            if content[:1] and content[0] % 2:
                client._calls.signatures(None, client._calls.deadline())
            else:
                client.card()
        with contextlib.suppress(InputError):
            client._calls.predict({}, "int16", ("segmentation",), None, client._calls.deadline())

    try:
        yield attempt
    finally:
        client.close()
        running.stop(0)
