"""A connection to a model on a server: a case in, its segmentation out. Imports no TensorFlow.

    with Client("localhost:8500/cun") as client:
        result = client.segment("BraTS20_Training_001")

Works against TensorFlow Serving and against the embedded server alike. The model says of itself what it
wants (tfbrats.json, by its signature `describe`): which modalities, and which values it labels with. The bias
field (N4) is corrected there; here alone for models exported before they did so. Not for clinical use.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
import tenacity

from serving import addresses
from serving.calls import DESCRIBE, AskedModel, Calls, ServerError, checked_request_id
from serving.case_request import CaseRequest, Inputs, Segmentation, input_types, only_case, types_as_text
from tfbrats.cases import case as cases
from tfbrats.cases.case import Case
from tfbrats.errors import InputError
from tfbrats.predictions import model_card
from tfbrats.predictions.model_card import ModelCard

# Before another server may have the version that one has not.
_WAIT_FOR_VERSION = tenacity.wait_random(0.05, 0.3)
_MOST_MISSES = 6  # of a version that is to stay


class _ReplacedError(ServerError):
    """The version that was asked is not there any more."""


@dataclass(frozen=True)
class _Described:
    """What a version says of itself. No version: a card that was given, of whichever version answers."""

    version: int | None
    card: ModelCard


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
            address, model = addresses.parted(address)
        self.address = addresses.checked(address)
        self.model = model
        if version is not None and label is not None:
            raise InputError(f"version {version} or label {label!r}: a model is asked for by one of the two.")
        self.version = version
        self.label = label
        self._asked = AskedModel(self.address, model, version, label)
        self._calls = Calls(self._asked, timeout_s, credentials, connect_timeout_s)
        self._timeout_s = timeout_s
        self._stays = False
        self._given_card = card
        self._fetched: _Described | None = None
        self._checked: set[tuple[int | None, str]] = set()  # version, signature: they take what the card says

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._calls.close()

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
        return self._described(self._calls.deadline()).card

    def signatures(self) -> tuple[int, Mapping[str, Mapping[str, str]]]:
        """What the server itself says: the version, and signature -> input -> its type.

        Raises:
            ServerError: no server, or no such model.
        """
        return self._calls.signatures(None, self._calls.deadline())

    def predict(
        self, inputs: Inputs, signature: str, outputs: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], int]:
        """One Predict call: the named outputs of a signature, and the version that made them.

        A server that goes away in between, or has no room now, is tried again, with backoff, until the timeout.

        Raises:
            ServerError: the server's status, with what to do.
        """
        return self._calls.predict(inputs, signature, outputs, None, self._calls.deadline())

    def segment(
        self,
        case: Case | str | os.PathLike,
        probabilities: bool = False,
        signature: str | None = None,
        uncertainty: bool = False,
        request_id: str | None = None,
    ) -> Segmentation:
        """The segmentation of a whole case. Runs N4 here first where the graph does not (slow).

        The version that described itself is the one that is asked; when it is gone meanwhile, the next one is.

        Args:
            case: loaded with the card's modalities; or a case's folder.
            probabilities: ask for them too; they are 12 times the label map's bytes.
            signature: None for the one with the fewest bytes that loses nothing: gzip_int16 where the case
                holds whole numbers and the model offers it, else int16, else serving_default.
            uncertainty: ask for the entropy of each region too, of a model that is an average.
            request_id: of the case's calls in the server's log; a new one by default, which says nothing of the
                case.

        Raises:
            ServerError: as the server answered.
            InputError: the case lacks a modality, or the answer does not fit the case.
        """
        if isinstance(case, str | os.PathLike):
            case = cases.load(only_case(case), self.card().modalities, read_label=False)
        request = CaseRequest(case, signature, probabilities, uncertainty, checked_request_id(request_id))
        request.inputs(self.card())  # before the clock starts
        deadline = self._calls.deadline()
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
                return self._by_version(described, request, deadline)
            except _ReplacedError as error:
                self._missed(described, next(misses), error)
                raise

        return attempts(attempt)

    def _by_version(self, described: _Described, request: CaseRequest, deadline: float) -> Segmentation:
        """What one version makes of a case. Raises _ReplacedError if it is not there any more."""
        card, version = described.card, described.version
        inputs, signature = request.inputs(card)
        try:
            self._check_signature(version, signature, inputs, deadline, request.id)
            outputs, answering = self._calls.predict(
                inputs, signature, request.outputs(card, signature), version, deadline, request.id
            )
        except ServerError as error:
            if error.code is grpc.StatusCode.NOT_FOUND and version not in (None, self.version):
                raise _ReplacedError(str(error), error.code) from error
            raise
        if version not in (None, answering):  # a label went to another version
            raise _ReplacedError(
                f"{self._asked}: another version at each call. Name one with --model-version.",
                grpc.StatusCode.FAILED_PRECONDITION,
            )
        return request.answer(card, outputs, answering, str(self._asked))

    def _described(self, deadline: float) -> _Described:
        if self._given_card is not None:
            return _Described(None, self._given_card)
        described = self._fetched
        if described is None:
            outputs, version = self._calls.predict(
                {"file": model_card.FILE}, DESCRIBE, ("content",), None, deadline
            )
            where = f"{self._asked} version {version}: {model_card.FILE}"
            content = outputs["content"]
            if content.dtype != object or content.size != 1:
                raise InputError(f"{where}: expected one text; found {content.dtype} {content.shape}.")
            described = _Described(version, model_card.parse(content.item(), where))
            self._fetched = described
        return described

    def _missed(self, described: _Described, misses: int, error: _ReplacedError) -> None:
        """A version was not there. Raises ServerError after `_MOST_MISSES` of one that was to stay."""
        # Once is no proof: of several servers behind the address another may still have it.
        if self._stays and misses == _MOST_MISSES:
            raise ServerError(
                f"{self._asked}: version {described.version}, with which this was begun, is not "
                "served any more. Pass --model-version, or --overwrite to do all again by the one that is.",
                error.code,
            ) from error
        # Another thread may know better by now.
        if not self._stays and misses % 2 == 0 and self._fetched is described:
            self._fetched = None

    def _check_signature(
        self, version: int | None, signature: str, inputs: Inputs, deadline: float, request_id: str
    ) -> None:
        """Raises ServerError, before a case is sent, if the server's model does not take what its card says."""
        if (version, signature) in self._checked:
            return
        answering, offered = self._calls.signatures(version, deadline, request_id)
        if signature not in offered:
            raise ServerError(
                f"{self._asked} version {answering} has no signature {signature!r}; it has "
                f"{', '.join(sorted(offered))}. Leave --signature out, or give one of these.",
                grpc.StatusCode.FAILED_PRECONDITION,
            )
        sent = input_types(inputs)
        if offered[signature] != sent:
            raise ServerError(
                f"{self._asked} version {answering}: its signature {signature} takes "
                f"{types_as_text(offered[signature])}; by {model_card.FILE} {types_as_text(sent)} would be "
                "sent. Was the model exported by tfbrats? If --card was given, it is another model's.",
                grpc.StatusCode.FAILED_PRECONDITION,
            )
        self._checked.add((version, signature))
