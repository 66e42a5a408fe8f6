"""What each address is answered, as TensorFlow Serving's REST API answers it. Knows no HTTP server.

    GET /v1/models/NAME                  how each version is
    GET /v1/models/NAME/versions/N       how one is; /labels/LABEL is passed over, as the real server does
    GET .../metadata                     the signatures of the latest, of version N, of LABEL
    GET /monitoring/prometheus/metrics   or what monitoring.config names

Predictions are refused: a case is too long as JSON (docs/how-to/serve.md has the figures).
"""

import json
import re
from typing import NamedTuple
from urllib import parse

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving import services
from serving.rest.metrics import Metrics
from serving.versions import CallError, invalid

# Of tensorflow_serving/model_servers/http_rest_api_util.cc.
_PREDICTION = re.compile(
    r"(?i)/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?:(classify|regress|predict)"
)
_QUESTION = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:/versions/([0-9]+)|/labels/([^/:]+))?(?:/(metadata))?")
_API = re.compile(r"(?i)/v1/.*")
_STATUSES = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNIMPLEMENTED: 501,
}
_LONGEST_TEXT = 1024  # of a refusal, which repeats what was asked
JSON, TEXT = "application/json", "text/plain"


class Reply(NamedTuple):
    """An answer.

    Attributes:
        code: gRPC's word for its status.
        model, what: of the line in the log; "" where the address names no model.
        is_scrape: of metrics, that were asked for rightly: some servers do every few seconds.
    """

    code: grpc.StatusCode
    body: bytes
    content_type: str = JSON
    model: str = ""
    what: str = ""
    is_scrape: bool = False

    @property
    def status(self) -> int:
        """Of HTTP."""
        return _STATUSES[self.code]

    @property
    def api(self) -> str:
        """Of the metrics: the real server names predictions alone."""
        return self.what if self.what in ("predict", "classify", "regress") else ""


class Replies:
    """The answers of one server.

    Args:
        metrics_path: None shows none.
        grpc_port: where predictions are to be had.
    """

    def __init__(self, models: services.Models, metrics: Metrics, metrics_path: str | None, grpc_port: int):
        self._models = models
        self._metrics = metrics
        self._metrics_path = metrics_path
        self._grpc_port = grpc_port

    def to(self, method: str, target: str) -> Reply:
        """What a request gets. Metrics are no models, so questions for them are not counted.

        Args:
            target: path and query as they were sent.
        """
        if target.partition("?")[0] == self._metrics_path:
            if target == self._metrics_path:
                page = self._metrics.page().encode()
                return Reply(grpc.StatusCode.OK, page, TEXT, what="metrics", is_scrape=True)
            text = f"Unexpected path: {target}. Should be {self._metrics_path}"
            return Reply(grpc.StatusCode.INVALID_ARGUMENT, text[:_LONGEST_TEXT].encode(), TEXT, what="metrics")
        if not _API.fullmatch(target):
            offered = ["/v1/models/NAME", "/v1/models/NAME/metadata", *filter(None, [self._metrics_path])]
            text = f"Nothing here. There is {', '.join(offered)}.\n"
            return Reply(grpc.StatusCode.NOT_FOUND, text.encode(), TEXT, what=method)
        return self._of_api(method, target)

    def _of_api(self, method: str, target: str) -> Reply:
        asked = {"GET": _QUESTION, "POST": _PREDICTION}.get(method)
        found = asked.fullmatch(target) if asked else None
        name, _, label, what = found.groups() if found else (None, None, None, None)
        model = parse.unquote(name or "")
        try:
            if found is None:
                raise invalid(f"Malformed request: {method} {target}")
            if method == "POST":
                raise CallError(grpc.StatusCode.UNIMPLEMENTED, self._no_predictions())
            if not model:
                raise invalid("Missing model name in request.")
            is_metadata = what == "metadata"
            text = (self._metadata if is_metadata else self._status)(_spec(model, found[2], label))
            return Reply(
                grpc.StatusCode.OK, text.encode(), JSON, model, "metadata" if is_metadata else "status"
            )
        except CallError as error:
            body = json.dumps({"error": str(error)[:_LONGEST_TEXT]}, indent=4).encode()
            return Reply(error.code, body, JSON, model, (what or "status") if found else method)

    def _status(self, spec: dict) -> str:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return _json(services.status(self._models, request))

    def _metadata(self, spec: dict) -> str:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=["signature_def"]
        )
        response = services.metadata(self._models, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        spec_text, signature_text = _json(response.model_spec), _json(signatures)
        return f'{{\n"model_spec":{spec_text},\n"metadata": {{"signature_def": {signature_text}}}\n}}\n'

    def _no_predictions(self) -> str:
        return (
            "Predictions are not served over REST here: as JSON, a case has some 90 MB and its answer 125 MB: "
            f"REST cannot leave the probabilities out. Ask by gRPC, port {self._grpc_port}: tfbrats call, or "
            "any client by docs/reference/wire.md."
        )


def _spec(model: str, version: str | None, label: str | None) -> dict:
    """As a ModelSpec has it. Raises CallError: there is no such number."""
    spec = {"name": model}
    if version is not None:
        if len(version) > 20 or int(version) >= 2**63:
            raise invalid(f"Failed to convert version: {version} to numeric.")
        spec["version"] = {"value": int(version)}
    if label is not None:
        spec["version_label"] = parse.unquote(label)
    return spec


def _json(message) -> str:
    return json_format.MessageToJson(
        message, indent=1, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )
