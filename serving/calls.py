"""Calls to one model on one server. Imports no TensorFlow.

A server that is away or full is asked again until the deadline. A call that fails raises ServerError, which
says what to do.
"""

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
import tenacity
from google.protobuf.message import DecodeError

from serving import addresses, messages
from serving.case_request import Inputs
from serving.rest import access_log
from tfbrats.errors import InputError

DESCRIBE = "describe"  # the signature by which a model hands out its tfbrats.json

# gRPC refuses answers over 4 MiB unless told otherwise; a label map of BraTS is 8.9 MB.
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Behind a name with several addresses (dns:///NAME:8500) each call goes to the next one.
    ("grpc.lb_policy_name", "round_robin"),
)
# Before a server that is away or full is asked again.
_WAIT = tenacity.wait_exponential(multiplier=0.2, max=5) + tenacity.wait_random(0, 0.2)
_LONGEST_TIMEOUT_S = 1e7
_REASON_S = 2  # for gRPC to tell why there is no connection
# What gRPC's own words of a connection have in them, and what they mean; the first that is there counts.
_OF_TLS = {
    "certificate has expired": "its certificate has expired. It has to be renewed on the server.",
    "not yet valid": "its certificate is not valid yet. Compare the clocks of the two machines.",
    "Hostname Verification": "its certificate is for another name. Ask it by a name that stands in the "
    "certificate, or have one issued for this name.",
    "CERTIFICATE_VERIFY_FAILED": "its certificate was issued by nobody that --tls-root-certificates names. Is "
    "that the right file? Else it is another server.",
    "WRONG_VERSION_NUMBER": "it does not speak TLS. Is that the right port?",
    "Socket closed": "it ends the TLS connection. It may ask for a certificate of this client's own "
    "(--tls-certificate, --tls-key), or not trust the one that was given.",
}


def new_request_id() -> str:
    """By which a server's log tells a case's calls from others; says nothing of the case."""
    return secrets.token_hex(8)


def checked_request_id(request_id: str | None) -> str:
    """The id, or a new one. Raises InputError: one that cannot be sent, or is cut in a log."""
    if request_id is None:
        return new_request_id()
    if not re.fullmatch(r"[!-~]{1,80}", request_id):
        raise InputError(f"request_id {request_id!r}: 1 to 80 letters, digits and signs of ASCII, no blank.")
    return request_id


class ServerError(InputError):
    """The server did not answer as asked. `code` is the gRPC status."""

    def __init__(self, text: str, code: grpc.StatusCode):
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class AskedModel:
    """Which model is asked, and where.

    Attributes:
        version: None for the one that the server thinks latest.
        label: in its place, a version's name at the server.
    """

    address: str
    model: str
    version: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        return f"{self.model} on {self.address}"

    def spec(self, version: int | None = None):
        """As a ModelSpec message: of the version or label that was asked for, else of `version`."""
        spec = messages.ModelSpec(name=self.model)
        if self.label is not None:
            spec.version_label = self.label
        elif self.version is not None or version is not None:
            spec.version.value = version if self.version is None else self.version
        return spec


class Calls:
    """The calls that a model is asked by. Threads may share them.

    Args:
        timeout_s: until `deadline`.
        credentials: None sends in the clear.
        connect_timeout_s: how long a server may not be there.
    """

    def __init__(
        self,
        asked: AskedModel,
        timeout_s: float,
        credentials: grpc.ChannelCredentials | None,
        connect_timeout_s: float,
    ):
        for name, seconds in (("timeout", timeout_s), ("connect_timeout", connect_timeout_s)):
            if not 0 < seconds <= _LONGEST_TIMEOUT_S:
                raise InputError(f"{name} {seconds:g}: seconds above 0, and at most {_LONGEST_TIMEOUT_S:g}.")
        self._asked = asked
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._is_encrypted = credentials is not None
        self._channel, self._health_channel = (_channel(asked.address, credentials) for _ in range(2))
        self._predict = self._channel.unary_unary(
            messages.PREDICT,
            request_serializer=messages.PredictRequest.SerializeToString,
            response_deserializer=messages.PredictResponse.FromString,
        )
        self._metadata = self._channel.unary_unary(
            messages.METADATA,
            request_serializer=messages.MetadataRequest.SerializeToString,
            response_deserializer=messages.MetadataResponse.FromString,
        )
        # Whatever it answers, "no such service" included, somebody is there. (`channel_ready_future` would
        # do, but its thread complains when the channel is closed.)
        # On a channel of its own: calls go round the servers of a name, and of two servers one would get all
        # the questions and the other all the cases. The connections are the same.
        self._health = self._health_channel.unary_unary("/grpc.health.v1.Health/Check")

    def close(self) -> None:
        self._channel.close()
        self._health_channel.close()

    def deadline(self) -> float:
        """When a call that begins now is to have ended, as `time.monotonic` tells it."""
        return time.monotonic() + self._timeout_s

    def predict(
        self,
        inputs: Inputs,
        signature: str,
        outputs: Sequence[str],
        version: int | None,
        deadline: float,
        request_id: str | None = None,
    ) -> tuple[dict[str, np.ndarray], int]:
        """The named outputs of a signature, and the version that made them.

        Args:
            request_id: goes to the server's log; a new one by default.

        Raises:
            ServerError: the server's status, with what to do.
            InputError: the answer lacks an output, or one cannot be read.
        """
        request = messages.predict_request(self._asked.spec(version), signature, inputs, outputs)
        response = self._tried(self._predict, request, deadline, request_id)
        arrays = {}
        for name in outputs:
            if name not in response.outputs:
                raise InputError(f"{self._asked}: the answer lacks {name}. Was it exported by tfbrats?")
            try:
                arrays[name] = messages.to_array(response.outputs[name])
            except ValueError as error:
                raise InputError(f"{self._asked}: {name} cannot be read: {error}") from error
        return arrays, response.model_spec.version.value

    def signatures(
        self, version: int | None, deadline: float, request_id: str | None = None
    ) -> tuple[int, Mapping[str, Mapping[str, str]]]:
        """What the server itself says: the version, and signature -> input -> its type.

        Raises:
            ServerError: the server's status, with what to do.
            InputError: the answer cannot be read.
        """
        request = messages.MetadataRequest(
            model_spec=self._asked.spec(version), metadata_field=[messages.SIGNATURES]
        )
        response = self._tried(self._metadata, request, deadline, request_id)
        try:
            offered = messages.Signatures.FromString(response.metadata[messages.SIGNATURES].value)
        except DecodeError as error:
            raise InputError(f"{self._asked}: its signatures cannot be read: {error}") from error
        types = {
            name: {alias: messages.type_of(info.dtype) for alias, info in signature.inputs.items()}
            for name, signature in offered.signature_def.items()
        }
        return response.model_spec.version.value, types

    def _tried(self, method: grpc.UnaryUnaryMultiCallable, request, deadline: float, request_id: str | None):
        """The answer to a call; a server that cannot take it now is asked again until the deadline."""
        request_id = request_id or new_request_id()
        # gRPC's own retries skip messages over 256 KiB.
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_will_pass),
            wait=_WAIT,
            stop=tenacity.stop_before_delay(_left(deadline)),
            reraise=True,
        )

        def call():
            self._wait_for_server(deadline)
            return method(
                request,
                timeout=_left(deadline),
                wait_for_ready=True,
                metadata=((access_log.REQUEST_ID, request_id),),
            )

        try:
            return attempts(call)
        except grpc.RpcError as error:
            signature = request.model_spec.signature_name
            raise _explained(error, self._asked, signature, self._timeout_s, request_id) from error

    def _wait_for_server(self, deadline: float) -> None:
        seconds = min(_left(deadline), self._connect_timeout_s)
        try:
            self._health(b"", timeout=seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                return  # no health service, but somebody who says so
            raise self._nobody_there(seconds) from error

    def _nobody_there(self, seconds: float) -> ServerError:
        address = self._asked.address
        if self._is_encrypted and (reason := self._reason_of_tls()):
            return ServerError(
                f"{address}: no gRPC server answers there (waited {seconds:.3g} s): {reason}",
                grpc.StatusCode.UNAVAILABLE,
            )
        advice = "" if self._is_encrypted else " If it wants TLS, give --tls-root-certificates."
        if proxy := addresses.proxy_to(address):
            advice += f" It was asked through a proxy ({proxy}): to ask it directly, add its host to no_proxy."
        return ServerError(
            f"{address}: no gRPC server answers there (waited {seconds:.3g} s). Check host and port "
            "(gRPC's, mostly 8500; not REST's 8501), or start one: `tfbrats serve "
            f"--model_base_path models/{self._asked.model} --port 8500`.{advice}",
            grpc.StatusCode.UNAVAILABLE,
        )

    def _reason_of_tls(self) -> str:
        """Why TLS does not come about, in words; "" where it is not TLS. Who does not wait is told by gRPC."""
        try:
            self._health(b"", timeout=_REASON_S)
        except grpc.RpcError as error:
            details = error.details() or ""
            return next((words for sign, words in _OF_TLS.items() if sign in details), "")
        return ""


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    options = _OPTIONS
    if addresses.is_of_this_machine(address):
        options += (("grpc.enable_http_proxy", 0),)  # http_proxy is for what is outside
    if credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, credentials, options=options)


def _left(deadline: float) -> float:
    """Seconds until a deadline; above 0."""
    return max(0.01, deadline - time.monotonic())


def _will_pass(error: BaseException) -> bool:
    """A server that is away or full; a message that is too long for it stays so."""
    if not isinstance(error, grpc.RpcError):
        return False
    full = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" not in error.details()
    return full or error.code() is grpc.StatusCode.UNAVAILABLE


def _explained(
    error: grpc.RpcError, asked: AskedModel, signature: str, timeout_s: float, request_id: str
) -> ServerError:
    """A status as a sentence that says what to do, and which request it was."""
    code, details = error.code(), error.details()
    status = grpc.StatusCode
    if asked.label is not None and "label" in details:
        text = f"{asked} has no version labelled {asked.label!r} ({details})."
    elif code is status.NOT_FOUND:
        version = "" if asked.version is None else f" version {asked.version}"
        text = (
            f"{asked.address} serves no {asked.model}{version} ({details}). Check --model-name and "
            "--model-version; the embedded server calls a model by the last part of its base path."
        )
    elif code is status.FAILED_PRECONDITION and "ignature" in details:
        text = f"{asked} has no signature {signature!r} ({details}). " + (
            "It was not exported by tfbrats, or long ago: give its tfbrats.json with --card."
            if signature == DESCRIBE
            else "Leave --signature out, or give serving_default."
        )
    elif code is status.INVALID_ARGUMENT:
        text = f"{asked} refuses the inputs: {details}"
    elif code is status.DEADLINE_EXCEEDED:
        text = f"{asked} did not answer within {timeout_s:g} s. Raise --timeout."
    elif code is status.RESOURCE_EXHAUSTED:
        text = f"{asked} has no room for the case ({details}). " + (
            "The real server takes up to 2 GiB."
            if "larger than max" in details
            else "Send fewer at once, or later."
        )
    elif code is status.UNAVAILABLE:
        text = f"{asked.address}: the server went away ({details}). Look at its log, then try again."
    elif code is status.UNIMPLEMENTED:
        text = f"{asked.address} speaks gRPC but is no TensorFlow Serving ({details}). Check host and port."
    else:
        text = f"{asked} failed with {code.name}: {details}. Look at the server's log."
    return ServerError(f"{text} (request {request_id})", code)
