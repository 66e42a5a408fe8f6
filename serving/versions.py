"""The versions of one model: load, warm up, run, swap. Knows no network.

A version runs as in the real server (`tfbrats.inference.saved_model`). What a caller did wrong is a CallError
with the status and words of TensorFlow Serving.
"""

import contextlib
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_status_pb2, prediction_log_pb2

from serving.model_config import ModelConfig, numbered
from serving.rest.metrics import Metrics
from tfbrats.inference.saved_model import WARM_UP, SavedModel
from tfbrats.machine import files
from tfbrats.machine.packing import MOST_VOXELS

log = logging.getLogger(__name__)

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
_State = get_model_status_pb2.ModelVersionStatus


class CallError(Exception):
    """What one caller did wrong, as the gRPC status that TensorFlow Serving answers."""

    def __init__(self, code: grpc.StatusCode, text: str):
        super().__init__(text)
        self.code = code


def invalid(text: str) -> CallError:
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, text)


def not_found(model: str, version: int | None) -> CallError:
    which = f"Latest({model})" if version is None else f"Specific({model}, {version})"
    return CallError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {which}")


# One value can stand for all of a tensor, so that a few bytes claim any size: a float32 volume's at most.
_MOST_CLAIMED_BYTES = 4 * MOST_VOXELS
_STRING_BYTES = 64  # of an empty one in memory

# TensorFlow's error numbers are gRPC's.
_CODES = {code.value[0]: code for code in grpc.StatusCode}


# --- one version ----------------------------------------------------------------------------------------


@dataclass
class Servable:
    """One loaded version. Closed when it is retired and its last call has ended."""

    version: int
    model: SavedModel | None  # None: closed
    signatures: Mapping[str, meta_graph_pb2.SignatureDef]
    ran: Callable[[float], None]  # is told the seconds of a run
    calls: int = 0
    retired: bool = False
    ended: Callable[[], None] = field(default=lambda: None, repr=False)


def _braced(names: Sequence[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _arrays(signature, inputs) -> dict[str, np.ndarray]:
    """Input alias -> array, checked against the signature."""
    sent, expected = set(inputs), set(signature.inputs)
    if len(sent) != len(expected):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(expected)} len({_braced(sent)}) != "
            f"len({_braced(expected)}). Sent extra: {_braced(sent - expected)}. "
            f"Missing but required: {_braced(expected - sent)}."
        )
    arrays = {}
    for alias, tensor in inputs.items():
        if alias not in expected:
            raise invalid(
                f"input tensor alias not found in signature: {alias}. "
                f"Inputs expected to be in the set {_braced(expected)}."
            )
        _check_input(alias, tensor, signature.inputs[alias])
        try:
            arrays[alias] = tf.make_ndarray(tensor)
        except (TypeError, ValueError, OverflowError) as error:
            raise invalid(f"tensor parsing error: {alias} ({error})") from error
    return arrays


def _check_input(alias: str, tensor, info: meta_graph_pb2.TensorInfo) -> None:
    """Raises CallError: of another type or shape than the signature's, or it claims too much."""
    dtype = tf.dtypes.as_dtype(info.dtype)
    if tensor.dtype != info.dtype:
        number = tensor.dtype
        received = types_pb2.DataType.Name(number) if number in types_pb2.DataType.values() else number
        raise invalid(f"input {alias}: expected {dtype.name}, received {received}.")
    shape = tf.TensorShape(info.tensor_shape)
    sides = [dim.size for dim in tensor.tensor_shape.dim]
    has_shape = not tensor.tensor_shape.unknown_rank and min(sides, default=0) >= 0
    if not has_shape or not shape.is_compatible_with(sides):
        raise invalid(f"input {alias}: expected shape {shape}, received {sides if has_shape else 'no shape'}.")
    _check_claim(alias, tensor, dtype, sides)


def _check_claim(alias: str, tensor, dtype: tf.DType, sides: Sequence[int]) -> None:
    """Refuses, before it is made, a tensor that claims many bytes and sends few: it would be filled up."""
    if tensor.tensor_content:
        return  # as long as it claims, or refused
    claimed = math.prod(sides) * (_STRING_BYTES if dtype == tf.string else dtype.size)
    if claimed > _MOST_CLAIMED_BYTES:
        raise invalid(
            f"input {alias}: claims {claimed} bytes without sending them; at most {_MOST_CLAIMED_BYTES} are "
            "filled up."
        )


def _outputs(signature, output_filter: Sequence[str]) -> Sequence[str]:
    """Output aliases: those asked for, or all."""
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_braced(signature.outputs)}."
            )
    if len(set(output_filter)) < len(output_filter):
        doubled = next(alias for alias in output_filter if list(output_filter).count(alias) > 1)
        raise invalid(f"duplicate output tensor alias: {doubled}")
    return list(output_filter) or sorted(signature.outputs)


def signature_of(servable: Servable, name: str):
    if name not in servable.signatures:
        raise CallError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    return servable.signatures[name]


def run(servable: Servable, request, seconds: float | None) -> dict[str, np.ndarray]:
    """The outputs that a PredictRequest asks of a version, within `seconds`."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = signature_of(servable, name)
    arrays = _arrays(signature, request.inputs)
    outputs = _outputs(signature, request.output_filter)
    try:
        began = time.perf_counter()
        results = servable.model(name, arrays, outputs, seconds)
        servable.ran(time.perf_counter() - began)
        return results
    except tf.errors.OpError as error:
        raise CallError(_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), error.message) from error
    except (TypeError, ValueError) as error:  # what the session refuses to be fed
        raise invalid(str(error)) from error


def _warm_up(path: str, servable: Servable) -> int:
    """Replays the version's warm-up records, as the real server does before it serves; their number."""
    records = files.join(path, WARM_UP)
    if not tf.io.gfile.exists(records):
        return 0
    number = 0
    for record in tf.data.TFRecordDataset(records).as_numpy_iterator():
        entry = prediction_log_pb2.PredictionLog.FromString(record)
        if entry.WhichOneof("log_type") == "predict_log":
            run(servable, entry.predict_log.request, None)
            number += 1
    return number


def _stamp_of(path: str) -> frozenset[tuple[str, int, int]]:
    """Name, time of writing (ns) and size of each file of a version: tells it from what is put in its place.

    TensorFlow tells times in whole seconds, and who copies a version, late or again, may keep its times.
    """
    stamps = set()
    with contextlib.suppress(tf.errors.OpError):  # it changes under us: so does its stamp
        for folder, _, names in tf.io.gfile.walk(path):
            for name in names:
                file = tf.io.gfile.stat(files.join(folder, name))
                stamps.add((files.join(folder, name), file.mtime_nsec, file.length))
    return frozenset(stamps)


# --- versions -------------------------------------------------------------------------------------------


class Versions:
    """The versions under a model's base path: those that are wanted are served; newer ones replace older."""

    def __init__(self, config: ModelConfig, warm_up: bool, metrics: Metrics):
        self.name = config.name
        self._metrics = metrics
        self._config = config
        self._warm_up = warm_up
        self._lock = threading.Lock()
        self._served: dict[int, Servable] = {}
        self._states: dict[int, tuple[int, int, str]] = {}  # version -> state, error number, error text
        self._broken: dict[int, frozenset] = {}  # stamp of what could not be loaded

    def refresh(self) -> None:
        """Loads the versions that are wanted and retires the others. Logs a broken one, and keeps serving."""
        base_path = self._config.base_path
        folders = numbered(tf.io.gfile.listdir(base_path))
        to_serve = self._config.to_serve(folders)
        for version in to_serve:
            if version not in self._served:
                self._try(version, files.join(base_path, folders[version]))
        # As long as nothing that is to be served can be, what was served is.
        if any(version in self._served for version in to_serve):
            for version in [version for version in self._served if version not in to_serve]:
                self._retire(version)

    def _try(self, version: int, path: str) -> None:
        stamp = _stamp_of(path)
        if self._broken.get(version) == stamp:
            return
        self._set_state(version, _State.LOADING)
        try:
            model = self._loaded(path)
            servable = Servable(
                version, model, model.signatures, functools.partial(self._metrics.ran, self.name)
            )
            try:
                replayed = self._warmed_up(path, servable) if self._warm_up else 0
            except BaseException:
                model.close()
                raise
        except Exception as error:  # TensorFlow raises many kinds for what is no SavedModel
            self._broken[version] = stamp
            number = getattr(error, "error_code", grpc.StatusCode.UNKNOWN.value[0])
            self._set_state(version, _State.END, number, f"{type(error).__name__}: {error}")
            log.error("%s: cannot be loaded, and is not served: %s", path, error)
            return
        servable.ended = lambda: self._set_state(version, _State.END)
        with self._lock:
            self._served[version] = servable
        self._set_state(version, _State.AVAILABLE)
        log.info("serving %s version %d (%d warm-up records)", self.name, version, replayed)

    def _loaded(self, path: str) -> SavedModel:
        began, is_success = time.perf_counter(), False
        try:
            model = SavedModel(path)
            is_success = True
            return model
        finally:
            self._metrics.loaded(path, is_success, time.perf_counter() - began)

    def _warmed_up(self, path: str, servable: Servable) -> int:
        """Replays its warm-up records; their number."""
        began = time.perf_counter()
        number = _warm_up(path, servable)
        if number:
            self._metrics.warmed_up(path, time.perf_counter() - began)
        return number

    def _retire(self, version: int) -> None:
        self._set_state(version, _State.UNLOADING)
        with self._lock:
            servable = self._served.pop(version)
            servable.retired = True
        self._close_if_idle(servable)

    def _set_state(self, version: int, state: int, error: int = 0, text: str = "") -> None:
        with self._lock:
            self._states[version] = (state, error, text)

    def _close_if_idle(self, servable: Servable) -> None:
        with self._lock:
            if servable.calls or not servable.retired or servable.model is None:
                return
            model, servable.model = servable.model, None
        model.close()
        servable.ended()

    @contextlib.contextmanager
    def using(self, spec) -> Iterator[Servable]:
        """The version that a ModelSpec names, kept alive while the block runs."""
        choice = spec.WhichOneof("version_choice")
        with self._lock:
            if choice == "version_label" and spec.version_label not in self._config.labels:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
            named = {
                "version": spec.version.value,
                "version_label": self._config.labels.get(spec.version_label),
            }
            version = named[choice] if choice else max(self._served, default=None)
            servable = self._served.get(version)
            if servable is None:
                raise not_found(self.name, version if choice else None)
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
    def labels(self) -> Mapping[str, int]:
        return self._config.labels

    @property
    def served(self) -> tuple[int, ...]:
        """The versions that answer, ascending."""
        with self._lock:
            return tuple(sorted(self._served))

    def close(self) -> None:
        """Ends with all versions. What still runs is cancelled."""
        with self._lock:
            servables = list(self._served.values())
        for servable in servables:
            model = servable.model
            self._retire(servable.version)
            model.close()
