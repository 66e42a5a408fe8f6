"""What the embedded server offers over gRPC: predictions, metadata, status; with the real server's statuses."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence

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

log = logging.getLogger(__name__)

_LONGEST_TEXT = 1024  # of a status, in bytes
_LONGEST_NAME = 80  # in the log
_FOREVER_S = 1e8


class Readable(grpc.ServerInterceptor):
    """Messages that are none, and methods that are not offered, are the caller's fault, and no fault of ours.

    gRPC itself would answer INTERNAL, and print a traceback for each. Each call about a model has its line in
    the log: who, which model, what, status, milliseconds.
    """

    def intercept_service(self, continuation, handler_call_details):
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method

        def read(content: bytes):
            try:
                return handler.request_deserializer(content)
            except message.DecodeError as error:
                return error

        def answer(request, context):
            began, usual = time.monotonic(), grpc.StatusCode.UNKNOWN
            try:
                response = attempt(request, context)
                usual = grpc.StatusCode.OK
                return response
            finally:
                if not method.startswith("/grpc.health."):  # asked every few seconds
                    status, seconds = context.code() or usual, time.monotonic() - began
                    log.info("%s", _access_line(method, request, context.peer(), status, seconds))

        def attempt(request, context):
            if isinstance(request, message.DecodeError):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{method}: not its message ({request})")
            try:
                return handler.unary_unary(request, context)
            except NotImplementedError:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not offered here.")

        return grpc.unary_unary_rpc_method_handler(answer, read, handler.response_serializer)


def _access_line(method: str, request, peer: str, status: grpc.StatusCode, seconds: float) -> str:
    """E.g. "ipv4:127.0.0.1:51234  cun  int16  OK  812 ms": nothing of a case.

    What is no prediction is told by its method in place of a signature.
    """
    what = method.rpartition("/")[2]
    spec = getattr(request, "model_spec", None)
    if what == "Predict" and spec is not None:
        what = spec.signature_name or DEFAULT_SIGNATURE
    # Names come from the caller: no line breaks, and no end.
    named = [ascii(text[:_LONGEST_NAME])[1:-1] for text in (getattr(spec, "name", ""), what)]
    return "  ".join((peer, named[0] or "-", named[1], status.name, f"{1000 * seconds:.0f} ms"))


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

    def __init__(self, models: Models, max_workers: int, max_enqueued: int, as_content: bool):
        self._models = models
        self._turn = threading.BoundedSemaphore(max_workers)
        self._most = max_workers + max_enqueued
        self._place = threading.BoundedSemaphore(self._most)
        self._as_content = as_content

    @_answering
    def Predict(self, request, context):
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
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != "signature_def":
                raise invalid(f"Metadata field {name} is not supported")
        with self._models.using(request) as servable:
            content = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in servable.signatures.items():
                content.signature_def[name].CopyFrom(signature)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = servable.version
            response.metadata["signature_def"].Pack(content)
            return response


class Status(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus: the versions of a model and how each is."""

    def __init__(self, models: Models):
        self._models = models

    @_answering
    def GetModelStatus(self, request, context):
        states, spec = self._models.states(request), request.model_spec
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
