"""What the embedded server offers over gRPC: predictions, metadata, status; with the real server's statuses."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import message
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.rest import access_log
from serving.rest.metrics import Metrics
from serving.versions import (
    DEFAULT_SIGNATURE,
    CallError,
    Servable,
    Versions,
    invalid,
    not_found,
    run,
    signature_of,
)

_LONGEST_TEXT = 1024  # of a status, in bytes
_FOREVER_S = 1e8


class _Received(NamedTuple):
    """What a call brought: its message, or why it is none."""

    message: message.Message | message.DecodeError
    size: int


class _Answered(NamedTuple):
    """A call's answer, and the call, whose line in the log waits for the answer's bytes."""

    message: message.Message
    call: "_Call"


class Readable(grpc.ServerInterceptor):
    """Messages that are none, and methods that are not offered, are the caller's fault, and no fault of ours.

    gRPC itself would answer INTERNAL, and print a traceback for each. Each call about a model has its line in
    the log (`access_log`).
    """

    def intercept_service(self, continuation, handler_call_details):
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method

        def read(content: bytes) -> _Received:
            try:
                return _Received(handler.request_deserializer(content), len(content))
            except message.DecodeError as error:
                return _Received(error, len(content))

        def answer(received: _Received, context) -> _Answered:
            call = _Call(method, received, context)
            try:
                return _Answered(attempt(received.message, context), call)
            except BaseException:
                call.ended(context.code() or grpc.StatusCode.UNKNOWN, 0)
                raise

        def attempt(request, context):
            if isinstance(request, message.DecodeError):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{method}: not its message ({request})")
            try:
                return handler.unary_unary(request, context)
            except NotImplementedError:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not offered here.")

        def write(answered: _Answered) -> bytes:  # by the same thread, when `answer` has returned
            content = handler.response_serializer(answered.message)
            answered.call.ended(grpc.StatusCode.OK, len(content))
            return content

        return grpc.unary_unary_rpc_method_handler(answer, read, write)


class _Call:
    """A call that has begun. What is no prediction is told by its method in place of a signature."""

    def __init__(self, method: str, received: _Received, context):
        self._began = time.monotonic()
        self._context = context
        self._bytes_in = received.size
        self._is_health = method.startswith("/grpc.health.")  # asked every few seconds
        self._what = method.rpartition("/")[2]
        spec = getattr(received.message, "model_spec", None)
        self._model = getattr(spec, "name", "")
        if self._what == "Predict" and spec is not None:
            self._what = spec.signature_name or DEFAULT_SIGNATURE

    def ended(self, status: grpc.StatusCode, bytes_out: int) -> None:
        if self._is_health:
            return
        access_log.write(
            self._context.peer(),
            self._model,
            self._what,
            status.name,
            time.monotonic() - self._began,
            self._bytes_in,
            bytes_out,
            access_log.request_id_of(self._context.invocation_metadata()),
        )


def _cut(text: str) -> str:
    """As the real server cuts a status' text: gRPC refuses long ones on the way, and with them the status."""
    content = text.encode()
    short = content[:_LONGEST_TEXT].decode(errors="ignore")
    return short if len(content) <= _LONGEST_TEXT else f"{short}...TRUNCATED"


def _answering(handler):
    """A handler whose CallError becomes the call's gRPC status."""

    def answer(self, request, context):
        try:
            return handler(self, request, context)
        except CallError as error:
            context.abort(error.code, _cut(str(error)))

    return answer


def _seconds_left(context) -> float | None:
    """Until the call's deadline; None if it has none, for which gRPC gives billions of years."""
    seconds = context.time_remaining()
    return None if seconds is None or seconds > _FOREVER_S else seconds


class Models:
    """The models that are served, by name."""

    def __init__(self, models: Sequence[Versions]):
        self._by_name = {model.name: model for model in models}

    @contextlib.contextmanager
    def using(self, request) -> Iterator[Servable]:
        """The model version that a request names, kept alive while the block runs."""
        spec = self._spec(request)
        if spec.name not in self._by_name:
            choice = spec.WhichOneof("version_choice")
            raise not_found(spec.name, spec.version.value if choice == "version" else None)
        with self._by_name[spec.name].using(spec) as servable:
            yield servable

    def states(self, request) -> dict[int, tuple[int, int, str]]:
        spec = self._spec(request)
        model = self._by_name.get(spec.name)
        return model.states() if model else {}

    @staticmethod
    def _spec(request):
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.model_spec.name:
            raise invalid("ModelSpec has no name specified.")
        return request.model_spec


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata.

    Args:
        max_workers: calls that run at once.
        max_enqueued: calls that wait for their turn; more are refused with RESOURCE_EXHAUSTED.
        as_content: answers hold bytes, not repeated values.
    """

    def __init__(self, models: Models, max_workers: int, max_enqueued: int, as_content: bool, metrics: Metrics):
        self._models = models
        self._metrics = metrics
        self._turn = threading.BoundedSemaphore(max_workers)
        self._most = max_workers + max_enqueued
        self._place = threading.BoundedSemaphore(self._most)
        self._as_content = as_content

    @_answering
    def Predict(self, request, context):
        began, status = time.perf_counter(), grpc.StatusCode.UNKNOWN
        try:
            response = self._predicted(request, context)
            status = grpc.StatusCode.OK
            return response
        except CallError as error:
            status = error.code
            raise
        finally:
            seconds = time.perf_counter() - began
            self._metrics.answered(request.model_spec.name, "Predict", "GRPC", status.name, seconds)

    def _predicted(self, request, context) -> predict_pb2.PredictResponse:
        spec = request.model_spec
        with self._models.using(request) as servable:
            signature_of(servable, spec.signature_name or DEFAULT_SIGNATURE)
            with self._my_turn(context):
                outputs = run(servable, request, _seconds_left(context))
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
        if not self._place.acquire(blocking=False):
            raise CallError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"No room: {self._most} at most may run or wait."
            )
        with contextlib.ExitStack() as taken:
            taken.callback(self._place.release)
            if not self._turn.acquire(timeout=_seconds_left(context)):
                raise CallError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded while waiting to run.")
            taken.callback(self._turn.release)
            if not context.is_active():  # the client has gone: nobody wants the answer
                raise CallError(grpc.StatusCode.CANCELLED, "The client has gone.")
            yield

    @_answering
    def GetModelMetadata(self, request, context):
        return metadata(self._models, request)


class Status(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus: the versions of a model and how each is."""

    def __init__(self, models: Models):
        self._models = models

    @_answering
    def GetModelStatus(self, request, context):
        return status(self._models, request)


def metadata(models: Models, request) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of the version that a GetModelMetadataRequest names.

    Raises:
        CallError: it names none that is served, or asks for something else.
    """
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != "signature_def":
            raise invalid(f"Metadata field {name} is not supported")
    with models.using(request) as servable:
        content = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in servable.signatures.items():
            content.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = servable.version
        response.metadata["signature_def"].Pack(content)
        return response


def status(models: Models, request) -> get_model_status_pb2.GetModelStatusResponse:
    """How the version is that a GetModelStatusRequest names, or all of the model: a label is passed over.

    Raises:
        CallError: there is none.
    """
    states, spec = models.states(request), request.model_spec
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
    kind, flat = array.dtype.kind, array.ravel()
    # One Python number after the other: a list of all would take ten times the array's memory.
    values = flat.tolist() if kind == "O" else memoryview(flat)
    if kind == "O":
        proto.string_val.extend(values)
    elif as_content:
        proto.tensor_content = array.tobytes()
    elif array.dtype in (np.float32, np.float64):
        (proto.float_val if array.dtype == np.float32 else proto.double_val).extend(values)
    elif kind == "b":
        proto.bool_val.extend(values)
    elif array.dtype == np.int64:
        proto.int64_val.extend(values)
    elif array.dtype in (np.uint8, np.int8, np.uint16, np.int16, np.int32):
        proto.int_val.extend(values)
    else:  # no exported signature has these
        raise CallError(grpc.StatusCode.UNIMPLEMENTED, f"output of type {array.dtype}")
