"""An embedded server that answers as TensorFlow Serving does. For the desk and the tests: NO PRODUCTION SERVER.

    python -m serving.server --model_base_path models/cun --port 8500

Serves the highest integer-named version under the base path, looks for newer ones and swaps without
failing a request. Flags are named as tensorflow_model_server's, so that a command line can move there. It
has no REST, batching, metrics, TLS or several models: see serving/README.md.
"""

import argparse
import contextlib
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.versions import DEFAULT_SIGNATURE, CallError, Versions, invalid, run, signature_of, stamp_of
from tfbrats import command, files
from tfbrats.command import InputError

log = logging.getLogger(__name__)

# Threads wait here for their turn to run; more than `max_workers`, so that status is always answered.
_THREADS = 32
# A message of up to 2 GiB, protobuf's own limit: a float32 case of BraTS is 143 MB.
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


# --- the doors ------------------------------------------------------------------------------------------


def _answering(handler):
    """A handler whose CallError becomes the call's gRPC status."""

    def answer(self, request, context):
        try:
            return handler(self, request, context)
        except CallError as error:
            context.abort(error.code, str(error))

    return answer


def _model_spec(request):
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, served: Versions, max_workers: int, as_content: bool):
        self._served = served
        self._turn = threading.BoundedSemaphore(max_workers)
        self._as_content = as_content

    @_answering
    def Predict(self, request, context):
        spec = _model_spec(request)
        with self._served.using(spec) as servable:
            signature_of(servable, spec.signature_name or DEFAULT_SIGNATURE)
            with self._my_turn(context):
                outputs = run(servable, request, context.time_remaining())
            response = predict_pb2.PredictResponse()
            response.model_spec.name = spec.name
            response.model_spec.version.value = servable.version
            response.model_spec.signature_name = spec.signature_name or DEFAULT_SIGNATURE
        for alias, array in outputs.items():
            # A scalar comes as itself; bytes must stay objects, or NumPy would cut them at zeros.
            array = np.asarray(array, object if isinstance(array, bytes) else None)
            _write_tensor(response.outputs[alias], array, self._as_content)
        return response

    @contextlib.contextmanager
    def _my_turn(self, context) -> Iterator[None]:
        if not self._turn.acquire(timeout=context.time_remaining()):
            raise CallError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded while waiting to run.")
        try:
            if not context.is_active():  # the client has gone: nobody wants the answer
                raise CallError(grpc.StatusCode.CANCELLED, "The client has gone.")
            yield
        finally:
            self._turn.release()

    @_answering
    def GetModelMetadata(self, request, context):
        spec = _model_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != "signature_def":
                raise invalid(f"Metadata field {name} is not supported")
        with self._served.using(spec) as servable:
            content = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in servable.signatures.items():
                content.signature_def[name].CopyFrom(signature)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = spec.name
            response.model_spec.version.value = servable.version
            response.metadata["signature_def"].Pack(content)
            return response


class _Status(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, served: Versions):
        self._served = served

    @_answering
    def GetModelStatus(self, request, context):
        spec = _model_spec(request)
        states = self._served.states() if spec.name == self._served.name else {}
        if spec.HasField("version"):
            states = {v: state for v, state in states.items() if v == spec.version.value}
            missing = f"Could not find version {spec.version.value} of model {spec.name}"
        else:
            missing = f"Could not find any versions of model {spec.name}"
        if not states:
            raise CallError(grpc.StatusCode.NOT_FOUND, missing)
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, (state, error, text) in states.items():
            entry = response.model_version_status.add(version=version, state=state)
            entry.status.error_code = error
            entry.status.error_message = text
        return response


def _write_tensor(proto, array: np.ndarray, as_content: bool) -> None:
    """As the real server encodes: value by value by default, as bytes with its flag; strings as strings."""
    proto.dtype = tf.dtypes.as_dtype(array.dtype).as_datatype_enum
    proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    kind = array.dtype.kind
    if kind == "O":
        proto.string_val.extend(array.ravel().tolist())
    elif as_content:
        proto.tensor_content = array.tobytes()
    elif array.dtype in (np.float32, np.float64):
        values = proto.float_val if array.dtype == np.float32 else proto.double_val
        values.extend(array.ravel().tolist())
    elif kind == "b":
        proto.bool_val.extend(array.ravel().tolist())
    elif array.dtype == np.int64:
        proto.int64_val.extend(array.ravel().tolist())
    elif array.dtype in (np.uint8, np.int8, np.uint16, np.int16, np.int32):
        proto.int_val.extend(array.ravel().tolist())
    else:  # no exported signature has these
        raise CallError(grpc.StatusCode.UNIMPLEMENTED, f"output of type {array.dtype}")


class Server:
    """A running embedded server: `.port`, `.model_name`, `.version`, `.stop()`."""

    def __init__(self, grpc_server: grpc.Server, served: Versions, host: str, port: int, poll_s: float):
        self.host = host
        self.port = port
        self.model_name = served.name
        self._grpc = grpc_server
        self._served = served
        self._poll_s = poll_s
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="model versions", daemon=True)
        self._poller.start()

    @property
    def version(self) -> int | None:
        return self._served.version

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def _poll(self) -> None:
        while not self._stopping.wait(self._poll_s):
            try:
                self._served.refresh()
            except tf.errors.OpError as error:
                log.error("cannot look for new versions: %s", error.message)

    def wait(self) -> None:
        self._grpc.wait_for_termination()

    def stop(self, grace_s: float = 30) -> None:
        """Takes no new calls, lets running ones end within `grace_s`, frees the model."""
        self._stopping.set()
        self._grpc.stop(grace_s).wait()
        self._poller.join()
        self._served.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.stop(grace_s=0)


def start(
    model_base_path: str,
    port: int = 0,
    model_name: str | None = None,
    host: str = "127.0.0.1",
    tensor_content: bool = False,
    poll_s: float = 1,
    max_workers: int = 2,
    warm_up: bool = True,
) -> Server:
    """Serves the highest version under `model_base_path`; returns once it answers.

    Args:
        port: 0 picks a free one (see the returned server's `.port`).
        model_name: the base path's last part if None.
        tensor_content: answers hold bytes, not repeated values.
        poll_s: seconds between looks for new versions.
        max_workers: calls that run at once; others wait.
        warm_up: replay a version's warm-up records before it serves; one that fails fails the version.

    Raises:
        InputError: no such folder, no version in it, a highest version that cannot be loaded, or a port
            that is taken.
    """
    if not 0 <= port <= 65535:  # gRPC would take another, without a word
        raise InputError(f"--port {port}: there are ports 1 to 65535, and 0 for any free one.")
    base_path = str(model_base_path).rstrip("/")
    if not tf.io.gfile.isdir(base_path):
        raise InputError(
            f"{model_base_path}: no such folder. Give the folder that holds a model's versions, e.g. "
            "models/cun with models/cun/1 in it; `python -m tfbrats.export` writes one."
        )
    served = Versions(model_name or files.name(base_path), base_path, warm_up)
    served.refresh()
    if served.version is None:
        states = served.states()
        if states:
            version, (_, _, text) = max(states.items())
            raise InputError(
                f"{base_path}/{version}: the highest version cannot be loaded ({text}). Remove it or "
                "export it again."
            )
        hint = " It is itself one version: give its parent folder." if any(stamp_of(base_path)) else ""
        raise InputError(
            f"{base_path}: no version in it, i.e. no folder named by a whole number such as 1.{hint}"
        )
    grpc_server = grpc.server(
        futures.ThreadPoolExecutor(max(_THREADS, max_workers + 8), thread_name_prefix="call"),
        # Without this a second server on the port would share it, unnoticed.
        options=(*_UNLIMITED, ("grpc.so_reuseport", 0)),
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _Prediction(served, max_workers, tensor_content), grpc_server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Status(served), grpc_server)
    try:
        bound = grpc_server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        served.close()
        raise InputError(
            f"{host}:{port}: cannot listen there ({error}). Is another server running? Give another "
            "--port, or 0 for any free one."
        ) from error
    grpc_server.start()
    return Server(grpc_server, served, host, bound, poll_s)


def _flag(text: str) -> bool:
    """--flag, --flag=true, --flag=false, as the real server reads them."""
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r}: true or false")


def main(arguments: Sequence[str]) -> int | None:
    parser = command.parser("serving.server", __doc__)
    parser.add_argument("--model_base_path", required=True, help="folder of versions, e.g. models/cun")
    parser.add_argument("--port", type=int, default=8500, help="0 picks a free one (default: %(default)s)")
    parser.add_argument("--model_name", help="default: the last part of --model_base_path")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="default: %(default)s, this machine alone; there is no encryption and no log-in",
    )
    parser.add_argument(
        "--enable_serialization_as_tensor_content",
        type=_flag,
        nargs="?",
        const=True,
        default=False,
        metavar="BOOL",
        help="answers as bytes, not as repeated values (default: %(default)s)",
    )
    parser.add_argument(
        "--enable_model_warmup",
        type=_flag,
        nargs="?",
        const=True,
        default=True,
        metavar="BOOL",
        help="replay a version's warm-up records before it serves (default: %(default)s)",
    )
    parser.add_argument(
        "--file_system_poll_wait_seconds",
        type=float,
        default=1,
        help="between looks for new versions (default: %(default)s)",
    )
    parser.add_argument(
        "--max_workers", type=int, default=2, help="calls that run at once (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    if given.max_workers < 1 or given.file_system_poll_wait_seconds <= 0:
        raise InputError("--max_workers and --file_system_poll_wait_seconds must be above 0.")
    logging.getLogger("serving").setLevel(logging.INFO)
    print(
        "The embedded server of tfbrats, for the desk and the tests: no production server. "
        "serving/README.md has the real one.",
        flush=True,
    )
    server = start(
        given.model_base_path,
        port=given.port,
        model_name=given.model_name,
        host=given.host,
        tensor_content=given.enable_serialization_as_tensor_content,
        poll_s=given.file_system_poll_wait_seconds,
        max_workers=given.max_workers,
        warm_up=given.enable_model_warmup,
    )

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    print(f"ready: {server.model_name} version {server.version} on {server.address}", flush=True)
    stop.wait()
    print("stopping: calls under way may end", flush=True)
    server.stop()
    return None


if __name__ == "__main__":
    command.run(main)
