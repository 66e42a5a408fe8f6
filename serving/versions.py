"""The versions of one model: load, warm up, run, swap. Knows no network.

A version runs as in the real server: a Session on its graph, fetching only the outputs asked for, with a
limit of time. What a caller did wrong is a CallError with the status and words of TensorFlow Serving.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_status_pb2, prediction_log_pb2

from tfbrats import files

log = logging.getLogger(__name__)

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
_State = get_model_status_pb2.ModelVersionStatus
_WARMUP = "assets.extra/tf_serving_warmup_requests"


class CallError(Exception):
    """What one caller did wrong, as the gRPC status that TensorFlow Serving answers."""

    def __init__(self, code: grpc.StatusCode, text: str):
        super().__init__(text)
        self.code = code


def invalid(text: str) -> CallError:
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, text)


# TensorFlow's error numbers are gRPC's.
_CODES = {code.value[0]: code for code in grpc.StatusCode}


# --- one version ----------------------------------------------------------------------------------------


@dataclass
class Servable:
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


def _load(path: str, version: int) -> Servable:
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
    return Servable(version, session, dict(meta_graph.signature_def))


def _braced(names: Sequence[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _feeds(signature, inputs) -> dict[str, np.ndarray]:
    """Graph tensor name -> array, checked against the signature."""
    sent, wanted = set(inputs), set(signature.inputs)
    if len(sent) != len(wanted):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({_braced(sent)}) != "
            f"len({_braced(wanted)}). Sent extra: {_braced(sent - wanted)}. "
            f"Missing but required: {_braced(wanted - sent)}."
        )
    feeds = {}
    for alias, tensor in inputs.items():
        if alias not in wanted:
            raise invalid(
                f"input tensor alias not found in signature: {alias}. "
                f"Inputs expected to be in the set {_braced(wanted)}."
            )
        info = signature.inputs[alias]
        expected = tf.dtypes.as_dtype(info.dtype)
        if tensor.dtype != info.dtype:
            received = "no dtype" if not tensor.dtype else tf.dtypes.as_dtype(tensor.dtype).name
            raise invalid(f"input {alias}: expected {expected.name}, received {received}.")
        shape = tf.TensorShape(info.tensor_shape)
        received = tf.TensorShape(tensor.tensor_shape)
        if not received.is_fully_defined() or not shape.is_compatible_with(received):
            raise invalid(f"input {alias}: expected shape {shape}, received {received}.")
        try:
            feeds[info.name] = tf.make_ndarray(tensor)
        except (TypeError, ValueError) as error:
            raise invalid(f"tensor parsing error: {alias} ({error})") from error
    return feeds


def _fetches(signature, output_filter: Sequence[str]) -> dict[str, str]:
    """Output alias -> graph tensor name: those asked for, or all."""
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_braced(signature.outputs)}."
            )
    if len(set(output_filter)) < len(output_filter):
        doubled = next(alias for alias in output_filter if list(output_filter).count(alias) > 1)
        raise invalid(f"duplicate output tensor alias: {doubled}")
    return {alias: signature.outputs[alias].name for alias in output_filter or sorted(signature.outputs)}


def signature_of(servable: Servable, name: str):
    if name not in servable.signatures:
        raise CallError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    return servable.signatures[name]


def run(servable: Servable, request, seconds: float | None) -> dict[str, np.ndarray]:
    """The outputs that a PredictRequest asks of a version, within `seconds`."""
    signature = signature_of(servable, request.model_spec.signature_name or DEFAULT_SIGNATURE)
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
        raise invalid(str(error)) from error


def _warm_up(path: str, servable: Servable) -> int:
    """Replays the version's warm-up records, as the real server does before it serves; their number."""
    records = files.join(path, _WARMUP)
    if not tf.io.gfile.exists(records):
        return 0
    number = 0
    for record in tf.compat.v1.io.tf_record_iterator(records):
        entry = prediction_log_pb2.PredictionLog.FromString(record)
        if entry.WhichOneof("log_type") == "predict_log":
            run(servable, entry.predict_log.request, None)
            number += 1
    return number


def stamp_of(path: str) -> tuple[int, int]:
    """When the SavedModel in a folder was written (ns) and its size; (0, 0) if there is none.

    TensorFlow tells times in whole seconds: alone they would not tell a model from what it replaced.
    """
    try:
        found = tf.io.gfile.stat(files.join(path, "saved_model.pb"))
    except tf.errors.OpError:
        return 0, 0
    return found.mtime_nsec, found.length


# --- versions -------------------------------------------------------------------------------------------


class Versions:
    """The versions under a base path: one is served, the highest; newer ones replace it."""

    def __init__(self, name: str, base_path: str, warm_up: bool):
        self.name = name
        self._base_path = base_path
        self._warm_up = warm_up
        self._lock = threading.Lock()
        self._current: Servable | None = None
        self._states: dict[int, tuple[int, int, str]] = {}  # version -> state, error number, error text
        self._broken: tuple | None = None  # version and stamp of what could not be loaded

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
        attempt = (version, stamp_of(path))
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

    def _close_if_idle(self, servable: Servable) -> None:
        with self._lock:
            if servable.calls or not servable.retired or servable.session is None:
                return
            session, servable.session = servable.session, None
        session.close()
        servable.ended()

    @contextlib.contextmanager
    def using(self, spec) -> Iterator[Servable]:
        """The version that a ModelSpec names, kept alive while the block runs."""
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        if spec.version_label:
            raise invalid(f"Unrecognized servable version label: {spec.version_label}")
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
