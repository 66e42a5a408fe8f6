"""An embedded server that answers as TensorFlow Serving does. For the desk and the tests: NO PRODUCTION SERVER.

    python -m serving.server --model_base_path models/cun --port 8500

Serves the highest integer-named version under the base path, looks for newer ones and swaps without
failing a request. Flags are named as tensorflow_model_server's, so that a command line can move there.
It runs a version as the real server does: a Session on the version's graph, fetching only the outputs
asked for, with the call's deadline as its limit. It has no REST, batching, metrics, TLS or several models:
see serving/README.md.
"""

import argparse
import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from tfbrats import command, files
from tfbrats.command import InputError

log = logging.getLogger(__name__)

_State = get_model_status_pb2.ModelVersionStatus
_DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
_WARMUP = "assets.extra/tf_serving_warmup_requests"
# Threads wait here for their turn to run; more than `max_workers`, so that status is always answered.
_THREADS = 32
# A message of up to 2 GiB, protobuf's own limit: a float32 case of BraTS is 143 MB.
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class CallError(Exception):
    """What one caller did wrong, as the gRPC status that TensorFlow Serving answers."""

    def __init__(self, code: grpc.StatusCode, text: str):
        super().__init__(text)
        self.code = code


def _invalid(text: str) -> CallError:
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, text)


# TensorFlow's error numbers are gRPC's.
_CODES = {code.value[0]: code for code in grpc.StatusCode}


# --- one version ----------------------------------------------------------------------------------------


@dataclass
class _Servable:
    """One loaded version. Closed when it is retired and its last call has ended."""

    version: int
    session: tf.compat.v1.Session
    signatures: dict[str, meta_graph_pb2.SignatureDef]
    calls: int = 0
    retired: bool = False
    ended: Callable[[], None] = field(default=lambda: None, repr=False)


@contextlib.contextmanager
def _without_deprecation_notes() -> Iterator[None]:
    """Spares the person at the desk what TensorFlow says about a function that its own server rests on."""

    def keep(record: logging.LogRecord) -> bool:
        return "is deprecated and will be removed" not in str(record.msg)

    tf.get_logger().addFilter(keep)
    try:
        yield
    finally:
        tf.get_logger().removeFilter(keep)


def _load(path: str, version: int) -> _Servable:
    """Raises what TensorFlow raises on a version it cannot load."""
    options = tf.compat.v1.ConfigProto()
    options.gpu_options.allow_growth = True  # others work on the desk's GPU too
    session = tf.compat.v1.Session(graph=tf.Graph(), config=options)
    try:
        # Not tf.saved_model.load: the real server reads the graph, not the Python objects.
        with session.graph.as_default(), _without_deprecation_notes():
            meta_graph = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], path)
    except BaseException:
        session.close()
        raise
    return _Servable(version, session, dict(meta_graph.signature_def))


def _braced(names: Sequence[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _feeds(signature, inputs) -> dict[str, np.ndarray]:
    """Graph tensor name -> array, checked against the signature."""
    sent, wanted = set(inputs), set(signature.inputs)
    if len(sent) != len(wanted):
        raise _invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({_braced(sent)}) != "
            f"len({_braced(wanted)}). Sent extra: {_braced(sent - wanted)}. "
            f"Missing but required: {_braced(wanted - sent)}."
        )
    feeds = {}
    for alias, tensor in inputs.items():
        if alias not in wanted:
            raise _invalid(
                f"input tensor alias not found in signature: {alias}. "
                f"Inputs expected to be in the set {_braced(wanted)}."
            )
        info = signature.inputs[alias]
        expected = tf.dtypes.as_dtype(info.dtype)
        if tensor.dtype != info.dtype:
            received = "no dtype" if not tensor.dtype else tf.dtypes.as_dtype(tensor.dtype).name
            raise _invalid(f"input {alias}: expected {expected.name}, received {received}.")
        shape = tf.TensorShape(info.tensor_shape)
        received = tf.TensorShape(tensor.tensor_shape)
        if not received.is_fully_defined() or not shape.is_compatible_with(received):
            raise _invalid(f"input {alias}: expected shape {shape}, received {received}.")
        try:
            feeds[info.name] = tf.make_ndarray(tensor)
        except (TypeError, ValueError) as error:
            raise _invalid(f"tensor parsing error: {alias} ({error})") from error
    return feeds


def _fetches(signature, output_filter: Sequence[str]) -> dict[str, str]:
    """Output alias -> graph tensor name: those asked for, or all."""
    for alias in output_filter:
        if alias not in signature.outputs:
            raise _invalid(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_braced(signature.outputs)}."
            )
    if len(set(output_filter)) < len(output_filter):
        doubled = next(alias for alias in output_filter if list(output_filter).count(alias) > 1)
        raise _invalid(f"duplicate output tensor alias: {doubled}")
    return {alias: signature.outputs[alias].name for alias in output_filter or sorted(signature.outputs)}


def _signature_of(servable: _Servable, name: str):
    if name not in servable.signatures:
        raise CallError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    return servable.signatures[name]


def _run(servable: _Servable, request, seconds: float | None) -> dict[str, np.ndarray]:
    """The outputs that a PredictRequest asks of a version, within `seconds`."""
    signature = _signature_of(servable, request.model_spec.signature_name or _DEFAULT_SIGNATURE)
    feeds = _feeds(signature, request.inputs)
    fetches = _fetches(signature, request.output_filter)
    options = tf.compat.v1.RunOptions()
    if seconds is not None:
        options.timeout_in_ms = max(1, int(seconds * 1000))
    try:
        return servable.session.run(fetches, feeds, options=options)
    except tf.errors.OpError as error:
        raise CallError(_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), error.message) from error
    except (TypeError, ValueError) as error:  # what the session refuses to be fed
        raise _invalid(str(error)) from error


def _warm_up(path: str, servable: _Servable) -> int:
    """Replays the version's warm-up records, as the real server does before it serves; their number."""
    records = files.join(path, _WARMUP)
    if not tf.io.gfile.exists(records):
        return 0
    number = 0
    for record in tf.compat.v1.io.tf_record_iterator(records):
        entry = prediction_log_pb2.PredictionLog.FromString(record)
        if entry.WhichOneof("log_type") == "predict_log":
            _run(servable, entry.predict_log.request, None)
            number += 1
    return number


# --- versions -------------------------------------------------------------------------------------------


class _Versions:
    """The versions under a base path: one is served, the highest; newer ones replace it."""

    def __init__(self, name: str, base_path: str, warm_up: bool):
        self.name = name
        self._base_path = base_path
        self._warm_up = warm_up
        self._lock = threading.Lock()
        self._current: _Servable | None = None
        self._states: dict[int, tuple[int, int, str]] = {}  # version -> state, error number, error text
        self._broken: tuple[int, int] | None = None  # version and date of what could not be loaded

    def refresh(self) -> None:
        """Loads the highest version if it is not the one served. Logs a broken one, and keeps serving."""
        found = [
            int(name.rstrip("/"))
            for name in tf.io.gfile.listdir(self._base_path)
            if name.rstrip("/").isdecimal()
        ]
        if not found or (self._current is not None and max(found) == self._current.version):
            return
        version = max(found)
        path = files.join(self._base_path, str(version))
        attempt = (version, _date(path))
        if attempt == self._broken:
            return
        self._set_state(version, _State.LOADING)
        try:
            servable = _load(path, version)
            try:
                replayed = _warm_up(path, servable) if self._warm_up else 0
            except BaseException:
                servable.session.close()
                raise
        except Exception as error:  # TensorFlow raises many kinds for what is no SavedModel
            self._broken = attempt
            number = getattr(error, "error_code", grpc.StatusCode.UNKNOWN.value[0])
            self._set_state(version, _State.END, number, f"{type(error).__name__}: {error}")
            log.error("%s: cannot be loaded, and is not served: %s", path, error)
            return
        servable.ended = lambda: self._set_state(version, _State.END)
        with self._lock:
            old, self._current = self._current, servable
        self._set_state(version, _State.AVAILABLE)
        log.info("serving %s version %d (%d warm-up records)", self.name, version, replayed)
        if old is not None:
            self._set_state(old.version, _State.UNLOADING)
            with self._lock:
                old.retired = True
            self._close_if_idle(old)

    def _set_state(self, version: int, state: int, error: int = 0, text: str = "") -> None:
        with self._lock:
            self._states[version] = (state, error, text)

    def _close_if_idle(self, servable: _Servable) -> None:
        with self._lock:
            if servable.calls or not servable.retired or servable.session is None:
                return
            session, servable.session = servable.session, None
        session.close()
        servable.ended()

    @contextlib.contextmanager
    def using(self, spec) -> Iterator[_Servable]:
        """The version that a ModelSpec names, kept alive while the block runs."""
        if not spec.name:
            raise _invalid("ModelSpec has no name specified.")
        if spec.version_label:
            raise _invalid(f"Unrecognized servable version label: {spec.version_label}")
        wanted = spec.version.value if spec.HasField("version") else None
        with self._lock:
            servable = self._current
            unknown = spec.name != self.name or servable is None
            if unknown or wanted not in (None, servable.version):
                text = f"Latest({spec.name})" if wanted is None else f"Specific({spec.name}, {wanted})"
                raise CallError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {text}")
            servable.calls += 1
        try:
            yield servable
        finally:
            with self._lock:
                servable.calls -= 1
            self._close_if_idle(servable)

    def states(self) -> dict[int, tuple[int, int, str]]:
        with self._lock:
            return dict(sorted(self._states.items()))

    @property
    def version(self) -> int | None:
        with self._lock:
            return self._current.version if self._current else None

    def close(self) -> None:
        with self._lock:
            servable, self._current = self._current, None
            if servable is not None:
                servable.retired = True
        if servable is not None:
            self._close_if_idle(servable)


def _date(path: str) -> int:
    try:
        return tf.io.gfile.stat(files.join(path, "saved_model.pb")).mtime_nsec
    except tf.errors.OpError:
        return 0


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
        raise _invalid("Missing ModelSpec")
    return request.model_spec


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, versions: _Versions, max_workers: int, as_content: bool):
        self._versions = versions
        self._turn = threading.BoundedSemaphore(max_workers)
        self._as_content = as_content

    @_answering
    def Predict(self, request, context):
        spec = _model_spec(request)
        with self._versions.using(spec) as servable:
            _signature_of(servable, spec.signature_name or _DEFAULT_SIGNATURE)
            with self._my_turn(context):
                outputs = _run(servable, request, context.time_remaining())
            response = predict_pb2.PredictResponse()
            response.model_spec.name = spec.name
            response.model_spec.version.value = servable.version
            response.model_spec.signature_name = spec.signature_name or _DEFAULT_SIGNATURE
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
            raise _invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != "signature_def":
                raise _invalid(f"Metadata field {name} is not supported")
        with self._versions.using(spec) as servable:
            content = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in servable.signatures.items():
                content.signature_def[name].CopyFrom(signature)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = spec.name
            response.model_spec.version.value = servable.version
            response.metadata["signature_def"].Pack(content)
            return response


class _Status(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, versions: _Versions):
        self._versions = versions

    @_answering
    def GetModelStatus(self, request, context):
        spec = _model_spec(request)
        states = self._versions.states() if spec.name == self._versions.name else {}
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

    def __init__(self, grpc_server: grpc.Server, versions: _Versions, host: str, port: int, poll_s: float):
        self.host = host
        self.port = port
        self.model_name = versions.name
        self._grpc = grpc_server
        self._versions = versions
        self._poll_s = poll_s
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="model versions", daemon=True)
        self._poller.start()

    @property
    def version(self) -> int | None:
        return self._versions.version

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def _poll(self) -> None:
        while not self._stopping.wait(self._poll_s):
            try:
                self._versions.refresh()
            except tf.errors.OpError as error:
                log.error("cannot look for new versions: %s", error.message)

    def wait(self) -> None:
        self._grpc.wait_for_termination()

    def stop(self, grace_s: float = 30) -> None:
        """Takes no new calls, lets running ones end within `grace_s`, frees the model."""
        self._stopping.set()
        self._grpc.stop(grace_s).wait()
        self._poller.join()
        self._versions.close()

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
    base_path = str(model_base_path).rstrip("/")
    if not tf.io.gfile.isdir(base_path):
        raise InputError(
            f"{model_base_path}: no such folder. Give the folder that holds a model's versions, e.g. "
            "models/cun with models/cun/1 in it; `python -m tfbrats.export` writes one."
        )
    versions = _Versions(model_name or files.name(base_path), base_path, warm_up)
    versions.refresh()
    if versions.version is None:
        states = versions.states()
        if states:
            version, (_, _, text) = max(states.items())
            raise InputError(
                f"{base_path}/{version}: the highest version cannot be loaded ({text}). Remove it or "
                "export it again."
            )
        hint = " It is itself one version: give its parent folder." if _date(base_path) else ""
        raise InputError(
            f"{base_path}: no version in it, i.e. no folder named by a whole number such as 1.{hint}"
        )
    grpc_server = grpc.server(
        futures.ThreadPoolExecutor(max(_THREADS, max_workers + 8), thread_name_prefix="call"),
        # Without this a second server on the port would share it, unnoticed.
        options=(*_UNLIMITED, ("grpc.so_reuseport", 0)),
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _Prediction(versions, max_workers, tensor_content), grpc_server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Status(versions), grpc_server)
    try:
        bound = grpc_server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        versions.close()
        raise InputError(
            f"{host}:{port}: cannot listen there ({error}). Is another server running? Give another "
            "--port, or 0 for any free one."
        ) from error
    grpc_server.start()
    return Server(grpc_server, versions, host, bound, poll_s)


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
    log.setLevel(logging.INFO)
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
