"""A connection to a model on a server: a case in, its segmentation out. Imports no TensorFlow.

    with Client("localhost:8500/cun") as client:
        result = client.segment("BraTS20_Training_001")

Works against TensorFlow Serving and against the embedded server alike. The model says of itself what it
wants (tfbrats.json, by its signature `describe`): which modalities, which of them bias-corrected (N4, done
here), which values it labels with. Not for clinical use.
"""

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass

import grpc
import numpy as np
import tenacity

from serving import addresses, messages
from tfbrats.cases import case as cases
from tfbrats.cases import packing
from tfbrats.cases.case import Case
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.predictions import model_card, results
from tfbrats.predictions.model_card import ModelCard

DESCRIBE = "describe"
_GZIP = "gzip_int16"

# gRPC refuses answers over 4 MiB unless told otherwise; a label map of BraTS is 8.9 MB.
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Behind a name with several addresses (dns:///NAME:8500) each call goes to the next one.
    ("grpc.lb_policy_name", "round_robin"),
)
# Before a server that is away or full is asked again; before another may have the version that one has not.
_WAIT = tenacity.wait_exponential(multiplier=0.2, max=5) + tenacity.wait_random(0, 0.2)
_WAIT_FOR_VERSION = tenacity.wait_random(0.05, 0.3)
_MOST_MISSES = 6  # of a version that is to stay
_LONGEST_TIMEOUT_S = 1e7


class ServerError(InputError):
    """The server did not answer as asked. `code` is the gRPC status."""

    def __init__(self, text: str, code: grpc.StatusCode):
        super().__init__(text)
        self.code = code


class _ReplacedError(ServerError):
    """The version that was asked is not there any more."""


@dataclass(frozen=True)
class Segmentation(results.Segmentation):
    """What the model makes of a case.

    Attributes:
        model_version: that the server ran.
    """

    model_version: int


@dataclass(frozen=True)
class _Described:
    """What a version says of itself. No version: a card that was given, of whichever version answers."""

    version: int | None
    card: ModelCard


class _Prepared:
    """A case as a model wants it; made anew only for a model that wants it otherwise."""

    def __init__(self, case: Case):
        self.case = case
        self._made: tuple | None = None

    def inputs(self, card: ModelCard, signature: str | None) -> tuple[dict[str, np.ndarray], str]:
        """The inputs of the signature to call, by name, and the signature."""
        wants = (card.modalities, card.n4_modalities, card.n4_shrink, _GZIP in card.signatures, signature)
        if self._made is None or self._made[0] != wants:
            self._made = wants, _inputs(card, self.case, signature)
        return self._made[1]


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    options = _OPTIONS
    if addresses.is_of_this_machine(address):
        options += (("grpc.enable_http_proxy", 0),)  # http_proxy is for what is outside
    if credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, credentials, options=options)


class Client:
    """A connection to one model on one server. Threads may share it. Use it as a context manager.

    Args:
        address: host:port of the gRPC service, or host:port/MODEL. A server of this machine is asked
            directly, whatever http_proxy says.
        model: name the server knows it by, where the address does not say.
        version: None for the one the server thinks latest.
        label: in its place, a version's name in the server's models.config, e.g. "canary".
        timeout_s: for one case, retries included.
        credentials: `grpc.ssl_channel_credentials(...)`; None sends in the clear.
        connect_timeout_s: how long a server may not be there.
        card: what the model is, if it does not say so itself.
    """

    def __init__(
        self,
        address: str,
        model: str | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float = 600,
        credentials: grpc.ChannelCredentials | None = None,
        connect_timeout_s: float = 10,
        card: ModelCard | None = None,
    ):
        if model is None:
            address, model = _parted(address)
        self.address = addresses.checked(address)
        self.model = model
        if version is not None and label is not None:
            raise InputError(f"version {version} or label {label!r}: a model is asked for by one of the two.")
        self.version = version
        self.label = label
        for name, seconds in (("timeout", timeout_s), ("connect_timeout", connect_timeout_s)):
            if not 0 < seconds <= _LONGEST_TIMEOUT_S:
                raise InputError(f"{name} {seconds:g}: seconds above 0, and at most {_LONGEST_TIMEOUT_S:g}.")
        self._stays = False
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._encrypted = credentials is not None
        self._channel, self._health_channel = (_channel(address, credentials) for _ in range(2))
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
        self._given_card = card
        self._fetched: _Described | None = None
        self._known: set[tuple[int, str]] = set()  # version asked for, signature: they take what the card says

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()
        self._health_channel.close()

    def stay(self) -> ModelCard:
        """From now on asks for the version that says so of itself now, and no other; what it says of itself.

        Raises:
            ServerError: as `card`.
        """
        self._stays = True
        return self.card()

    def card(self) -> ModelCard:
        """What the model says of itself (fetched once), or the card that was given.

        Raises:
            ServerError: no server, no such model, or one that was not exported by tfbrats.
        """
        return self._described(self._deadline()).card

    def _described(self, deadline: float) -> "_Described":
        if self._given_card is not None:
            return _Described(None, self._given_card)
        known = self._fetched
        if known is None:
            spec = self._spec()
            outputs, version = self._predicted(
                {"file": model_card.FILE}, DESCRIBE, ("content",), spec, deadline
            )
            where = f"{self._what()} version {version}: {model_card.FILE}"
            self._fetched = known = _Described(version, model_card.parse(outputs["content"].item(), where))
        return known

    def _forget(self, described: "_Described") -> None:
        if self._fetched is described:  # another thread may know better by now
            self._fetched = None

    def signatures(self) -> tuple[int, dict[str, dict[str, str]]]:
        """What the server itself says: the version, and signature -> input -> its type.

        Raises:
            ServerError: no server, or no such model.
        """
        return self._offered(self._spec(), self._deadline())

    def _offered(self, spec, deadline: float) -> tuple[int, dict[str, dict[str, str]]]:
        request = messages.MetadataRequest(model_spec=spec, metadata_field=[messages.SIGNATURES])
        response = self._tried(self._metadata, request, deadline)
        told = messages.Signatures.FromString(response.metadata[messages.SIGNATURES].value)
        found = {
            name: {alias: messages.type_of(info.dtype) for alias, info in one.inputs.items()}
            for name, one in told.signature_def.items()
        }
        return response.model_spec.version.value, found

    def _check_signature(
        self, described: "_Described", name: str, inputs: Mapping[str, np.ndarray], deadline: float
    ) -> None:
        """Raises ServerError, before a case is sent, if the server's model does not take what its card says."""
        if (described.version, name) in self._known:
            return
        version, offered = self._offered(self._spec(described.version), deadline)
        if name not in offered:
            raise ServerError(
                f"{self._what()} version {version} has no signature {name!r}; it has "
                f"{', '.join(sorted(offered))}. Leave --signature out, or give one of these.",
                grpc.StatusCode.FAILED_PRECONDITION,
            )
        sent = {alias: _type_name(array) for alias, array in inputs.items()}
        if offered[name] != sent:
            raise ServerError(
                f"{self._what()} version {version}: its signature {name} takes {_listed_types(offered[name])}; "
                f"by {model_card.FILE} {_listed_types(sent)} would be sent. Was the model exported by tfbrats? "
                "If --card was given, it is another model's.",
                grpc.StatusCode.FAILED_PRECONDITION,
            )
        self._known.add((described.version, name))

    def segment(
        self, case: Case | str | os.PathLike, probabilities: bool = False, signature: str | None = None
    ) -> Segmentation:
        """The segmentation of a whole case. Runs N4 here first where the model wants it (slow).

        The version that described itself is the one that is asked; when it is gone meanwhile, the next one is.

        Args:
            case: loaded with the card's modalities; or a case's folder.
            probabilities: ask for them too; they are 12 times the label map's bytes.
            signature: None for the one with the fewest bytes that loses nothing: gzip_int16 where the case
                holds whole numbers and the model offers it, else int16, else serving_default.

        Raises:
            ServerError: as the server answered.
            InputError: the case lacks a modality, or the answer does not fit the case.
        """
        if isinstance(case, str | os.PathLike):
            case = cases.load(_only_case(case), self.card().modalities, read_label=False)
        prepared = _Prepared(case)
        prepared.inputs(self.card(), signature)  # before the clock starts
        deadline = self._deadline()
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_ReplacedError),
            wait=_WAIT_FOR_VERSION,
            stop=tenacity.stop_before_delay(self._timeout_s),
            reraise=True,
        )
        misses = itertools.count(1)

        def attempt() -> Segmentation:
            described = self._described(deadline)
            try:
                return self._segment(described, prepared, probabilities, signature, deadline)
            except _ReplacedError as error:
                # Once is no proof: of several servers behind the address another may still have it.
                missed = next(misses)
                if self._stays and missed == _MOST_MISSES:
                    raise ServerError(
                        f"{self._what()}: version {described.version}, with which this was begun, is not "
                        "served any more. Pass --version, or --overwrite to do all again by the one that is.",
                        error.code,
                    ) from error
                if not self._stays and missed % 2 == 0:
                    self._forget(described)
                raise

        return attempts(attempt)

    def _segment(
        self,
        described: "_Described",
        prepared: "_Prepared",
        probabilities: bool,
        signature: str | None,
        deadline: float,
    ) -> Segmentation:
        """By one version. Raises _ReplacedError if it is not there any more."""
        card = described.card
        inputs, chosen = prepared.inputs(card, signature)
        wanted = model_card.outputs(card, chosen, probabilities)
        spec = self._spec(described.version)
        try:
            self._check_signature(described, chosen, inputs, deadline)
            outputs, version = self._predicted(inputs, chosen, wanted, spec, deadline)
        except ServerError as error:
            if error.code is grpc.StatusCode.NOT_FOUND and described.version not in (None, self.version):
                raise _ReplacedError(str(error), error.code) from error
            raise
        if described.version not in (None, version):  # a label went to another version
            raise _ReplacedError(
                f"{self._what()}: another version at each call. Name one with --version.",
                grpc.StatusCode.FAILED_PRECONDITION,
            )
        return self._checked(card, prepared.case, outputs, version)

    def _checked(
        self, card: ModelCard, case: Case, outputs: Mapping[str, np.ndarray], version: int
    ) -> Segmentation:
        shape = case.image.shape[:3]
        where = f"{self._what()} version {version}, case {case.case_id}"
        expected = {
            "segmentation": (np.uint8, shape),
            "probabilities": (np.float32, (*shape, len(card.regions))),
            model_card.TILES: (np.int32, (len(card.regions),)),
        }
        for name, array in outputs.items():
            dtype, wanted = expected[name]
            if array.dtype != dtype or array.shape != wanted:
                raise InputError(
                    f"{where}: {name} came as {array.dtype} {array.shape}; expected {np.dtype(dtype)} "
                    f"{wanted}. Was the model exported by tfbrats?"
                )
        tissues = model_card.tissues(card, outputs["segmentation"], where)
        tiles = outputs.get(model_card.TILES)
        return Segmentation(tissues, outputs.get("probabilities"), tiles, card, version)

    def predict(
        self, inputs: Mapping[str, np.ndarray | str], signature: str, outputs: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], int]:
        """One Predict call: the named outputs of a signature, and the version that made them.

        A server that goes away in between, or has no room now, is tried again, with backoff, until the timeout.

        Raises:
            ServerError: the server's status, with what to do.
        """
        return self._predicted(inputs, signature, outputs, self._spec(), self._deadline())

    def _predicted(
        self, inputs: Mapping, signature: str, outputs: Sequence[str], spec, deadline: float
    ) -> tuple[dict[str, np.ndarray], int]:
        request = messages.PredictRequest(model_spec=spec, output_filter=outputs)
        request.model_spec.signature_name = signature
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(messages.to_tensor(array))
        response = self._tried(self._predict, request, deadline)
        answer = {}
        for name in outputs:
            if name not in response.outputs:
                raise InputError(f"{self._what()}: the answer lacks {name}. Was it exported by tfbrats?")
            try:
                answer[name] = messages.to_array(response.outputs[name])
            except ValueError as error:
                raise InputError(f"{self._what()}: {name} cannot be read: {error}") from error
        return answer, response.model_spec.version.value

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_s

    def _spec(self, version: int | None = None):
        """The model; of it the version or label that was asked for, else `version`."""
        spec = messages.ModelSpec(name=self.model)
        if self.label is not None:
            spec.version_label = self.label
        elif self.version is not None or version is not None:
            spec.version.value = version if self.version is None else self.version
        return spec

    def _tried(self, method: grpc.UnaryUnaryMultiCallable, request, deadline: float):
        """The answer to a call; a server that cannot take it now is asked again until the deadline."""
        # gRPC's own retries skip messages over 256 KiB.
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_will_pass),
            wait=_WAIT,
            stop=tenacity.stop_before_delay(_left(deadline)),
            reraise=True,
        )

        def call():
            self._wait_for_server(deadline)
            return method(request, timeout=_left(deadline), wait_for_ready=True)

        try:
            return attempts(call)
        except grpc.RpcError as error:
            raise self._explained(error, request.model_spec.signature_name) from error

    def _wait_for_server(self, deadline: float) -> None:
        seconds = min(_left(deadline), self._connect_timeout_s)
        try:
            self._health(b"", timeout=seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                return  # no health service, but somebody who says so
            tls = "" if self._encrypted else " If it wants TLS, give --tls_root_certificates."
            if proxy := addresses.proxy_to(self.address):
                tls += f" It was asked through a proxy ({proxy}): to ask it directly, add its host to no_proxy."
            raise ServerError(
                f"{self.address}: no gRPC server answers there (waited {seconds:.3g} s). Check host and port "
                "(gRPC's, mostly 8500; not REST's 8501), or start one: `python -m serving.server "
                f"--model_base_path models/{self.model} --port 8500`.{tls}",
                grpc.StatusCode.UNAVAILABLE,
            ) from error

    def _what(self) -> str:
        return f"{self.model} on {self.address}"

    def _explained(self, error: grpc.RpcError, signature: str) -> ServerError:
        code, said = error.code(), error.details()
        asked = self.model + (f" version {self.version}" if self.version is not None else "")
        if self.label is not None and "label" in said:
            return ServerError(f"{self._what()} has no version labelled {self.label!r} ({said}).", code)
        status = grpc.StatusCode
        if code is status.NOT_FOUND:
            text = (
                f"{self.address} serves no {asked} ({said}). Check --model and --version; the embedded "
                "server calls a model by the last part of its base path."
            )
        elif code is status.FAILED_PRECONDITION and "ignature" in said:
            text = f"{self._what()} has no signature {signature!r} ({said}). " + (
                "It was not exported by tfbrats, or long ago: give its tfbrats.json with --card."
                if signature == DESCRIBE
                else "Leave --signature out, or give serving_default."
            )
        elif code is status.INVALID_ARGUMENT:
            text = f"{self._what()} refuses the inputs: {said}"
        elif code is status.DEADLINE_EXCEEDED:
            text = f"{self._what()} did not answer within {self._timeout_s:g} s. Raise --timeout."
        elif code is status.RESOURCE_EXHAUSTED:
            text = f"{self._what()} has no room for the case ({said}). " + (
                "The real server takes up to 2 GiB."
                if "larger than max" in said
                else "Send fewer at once, or later."
            )
        elif code is status.UNAVAILABLE:
            text = f"{self.address}: the server went away ({said}). Look at its log, then try again."
        elif code is status.UNIMPLEMENTED:
            text = f"{self.address} speaks gRPC but is no TensorFlow Serving ({said}). Check host and port."
        else:
            text = f"{self._what()} failed with {code.name}: {said}. Look at the server's log."
        return ServerError(text, code)


def _left(deadline: float) -> float:
    return max(0.01, deadline - time.monotonic())


def _will_pass(error: BaseException) -> bool:
    """A server that is away or full; a message that is too long for it stays so."""
    if not isinstance(error, grpc.RpcError):
        return False
    full = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" not in error.details()
    return full or error.code() is grpc.StatusCode.UNAVAILABLE


def _inputs(card: ModelCard, case: Case, signature: str | None) -> tuple[dict[str, np.ndarray], str]:
    """The inputs of the signature to call, by name, and the signature."""
    arrays = model_card.inputs(card, case)
    natural = model_card.signature_for(arrays)
    chosen = signature or natural
    if signature is None and natural == "int16" and _GZIP in card.signatures:
        chosen = _GZIP
    if chosen == "serving_default":
        return {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}, chosen
    if chosen not in ("int16", _GZIP):
        raise InputError(
            f"--signature {chosen}: takes no whole case. Leave it out, or give serving_default, int16 or "
            f"{_GZIP}."
        )
    if natural != "int16":
        raise InputError(
            f"{case.case_id}: holds fractions (its files do, or N4 made them), which signature {chosen} cannot "
            f"take. Leave --signature out, or give {natural}."
        )
    if chosen == "int16":
        return arrays, chosen
    plane = np.array(case.image.shape[:2], np.int32)
    # Compressing frees the GIL: .05 s in place of .09 s on two cores.
    with futures.ThreadPoolExecutor(min(len(arrays), os.cpu_count() or 1)) as pool:
        packed = dict(zip(arrays, pool.map(packing.packed, arrays.values()), strict=True))
    return {"plane": plane, **packed}, chosen


def _parted(address: str) -> tuple[str, str]:
    """host:port/MODEL -> host:port and MODEL; an address may have slashes of its own, as dns:///host:port."""
    host, _, model = address.rpartition("/")
    if not host or not model or ":" in model:
        if "://" in address:
            addresses.checked(address.rstrip("/"))
        raise InputError(f"{address}: which model? Give it, or write {address}/MODEL.")
    return host, model


def _only_case(folder: str | os.PathLike) -> layouts.CaseFiles:
    found = layouts.find(folder).cases
    if len(found) != 1:
        raise InputError(f"{folder}: expected one case; found {len(found)}. Give a case's own folder.")
    return found[0]


def _type_name(array: np.ndarray | str) -> str:
    return "string" if isinstance(array, str) or array.dtype == object else array.dtype.name


def _listed_types(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in sorted(types.items()))
