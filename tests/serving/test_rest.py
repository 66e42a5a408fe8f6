"""What dashboards and probes ask of the embedded server over HTTP; words and numbers as the real server's."""

import contextlib
import logging
import re
import socket
import threading

import grpc
import numpy as np
import psutil
import pytest
import tensorflow as tf
import tiny_model
from asked_rest import ask, value, wait_until
from google.protobuf import json_format
from server_files import SERVING, frozen
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import server
from serving.rest import monitoring_config
from serving.rest.metrics import METRICS, Metrics
from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES

METRICS_PATH = "/monitoring/prometheus/metrics"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("served") / "tiny"
    tiny_model.write(base)
    tiny_model.write_config(base)
    return base


@pytest.fixture(scope="module")
def running(base):
    with server.start(model_config_file=base / "models.config", rest_api_port=0) as running:
        yield running


@pytest.fixture
def get(running):
    return lambda path, method="GET", **more: ask(running.rest_port, path, method, **more)


def stubs(running):
    return prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(running.address))


def case(signature="", model="tiny"):
    request = predict_pb2.PredictRequest(model_spec={"name": model, "signature_name": signature})
    for name in MODALITIES:
        request.inputs[name].CopyFrom(tf.make_tensor_proto(np.ones((6, 5, 4), np.float32)))
    return request


# --- status and metadata --------------------------------------------------------------------------------

AVAILABLE = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/tiny",
        "/v1/models/tiny/versions/1",
        "/V1/Models/tiny",  # the real server's patterns take either case
        "/v1/models/t%69ny",
        "/v1/models/tiny/labels/stable",
        "/v1/models/tiny/labels/anything",  # a label is passed over
    ],
)
def test_a_model_tells_how_its_versions_are(get, path):
    answer = get(path)
    assert answer.status == 200 and answer.json == {"model_version_status": [AVAILABLE]}


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/v1/models/nobody", 404, "Could not find any versions of model nobody"),
        ("GET", "/v1/models/tiny?x=1", 404, "Could not find any versions of model tiny?x=1"),
        ("GET", "/v1/models/tiny/versions/7", 404, "Could not find version 7 of model tiny"),
        ("GET", f"/v1/models/tiny/versions/{2**63}", 400, f"Failed to convert version: {2**63} to numeric."),
        ("GET", "/v1/models/nobody/metadata", 404, "Servable not found for request: Latest(nobody)"),
        (
            "GET",
            "/v1/models/tiny/versions/7/metadata",
            404,
            "Servable not found for request: Specific(tiny, 7)",
        ),
        ("GET", "/v1/models/tiny/labels/no/metadata", 400, "Unrecognized servable version label: no"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("GET", "/v1/models/tiny/", 400, "Malformed request: GET /v1/models/tiny/"),
        ("GET", "/v1/models/tiny/versions/one", 400, "Malformed request: GET /v1/models/tiny/versions/one"),
        ("GET", "/v1/models/tiny:predict", 400, "Malformed request: GET /v1/models/tiny:predict"),
        ("POST", "/v1/models/tiny", 400, "Malformed request: POST /v1/models/tiny"),
        ("DELETE", "/v1/models/tiny", 400, "Malformed request: DELETE /v1/models/tiny"),
    ],
)
def test_what_is_asked_wrongly_is_answered_in_the_real_servers_words(get, method, path, status, error):
    answer = get(path, method)
    assert (answer.status, answer.json) == (status, {"error": error})


def test_an_address_that_is_none_tells_which_there_are(get):
    answer = get("/metrics")
    assert answer.status == 404 and "/v1/models/NAME" in answer.text and METRICS_PATH in answer.text


@pytest.mark.parametrize("which", ["", "/versions/1", "/labels/stable"])
def test_metadata_are_what_grpc_tells(running, get, which):
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec={"name": "tiny"}, metadata_field=["signature_def"]
    )
    told = stubs(running).GetModelMetadata(request, timeout=20)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    told.metadata["signature_def"].Unpack(signatures)
    answer = get(f"/v1/models/tiny{which}/metadata").json
    assert answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "1"}
    found = json_format.ParseDict(answer["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap())
    assert found == signatures
    flair = answer["metadata"]["signature_def"]["signature_def"]["int16"]["inputs"]["flair"]
    assert flair["dtype"] == "DT_INT16" and [dim["size"] for dim in flair["tensor_shape"]["dim"]] == ["-1"] * 3


@pytest.mark.parametrize("size", [30, 3_000_000])
def test_a_prediction_is_refused_with_what_to_do(running, get, size):
    answer = get("/v1/models/tiny:predict", "POST", body=b'{"instances": [' + b"1" * size + b"]}")
    assert answer.status == 501
    assert answer.json["error"].startswith("Predictions are not served over REST here: as JSON, a case has")
    assert f"gRPC, port {running.port}: tfbrats call" in answer.json["error"]


def test_it_listens_to_this_machine_alone(running):
    listening = {
        at.laddr.ip
        for at in psutil.Process().net_connections("tcp")
        if at.status == psutil.CONN_LISTEN and at.laddr.port == running.rest_port
    }
    assert listening == {"127.0.0.1"}


def test_a_request_has_its_line_and_a_scrape_has_none(get, caplog):
    with caplog.at_level(logging.INFO, "serving"):
        get(METRICS_PATH)
        get("/v1/models/nobody", X_Request_Id="7e1")
        wait_until(lambda: caplog.messages)
    (line,) = caplog.messages
    told = r"ipv4:127\.0\.0\.1:\d+  nobody  status  NOT_FOUND  \d+ ms  0 B in  62 B out  id 7e1"
    assert re.fullmatch(told, line)


# --- metrics --------------------------------------------------------------------------------------------


def test_names_kinds_and_labels_are_the_real_servers():
    known = {name: (kind, labels) for name, kind, *labels in frozen("server_metrics.txt")}
    for metric in METRICS:
        kind = "histogram" if metric.is_histogram else "counter"
        assert known[metric.name] == (kind, [",".join(metric.labels)] if metric.labels else []), metric.name
    batching = {name for name in known if ":batching_session:" in name}
    assert {metric.name for metric in METRICS} == set(known) - batching  # which needs batching


def test_a_histogram_has_the_real_servers_buckets():
    metrics = Metrics(["tiny"])
    for seconds in (0.000009, 0.00005, 3600):
        metrics.answered("tiny", "Predict", "GRPC", "OK", seconds)
    name = ":tensorflow:serving:request_latency"
    labels = 'model_name="tiny",API="Predict",entrypoint="GRPC"'
    lines = [line for line in metrics.page().splitlines() if line.startswith(name)]
    bounds = [bound for row in frozen("server_buckets.txt") for bound in row]
    assert [re.search('le="(.*)"', line)[1] for line in lines[:-2]] == bounds
    assert [line.rpartition(" ")[2] for line in lines[:5]] == ["1", "1", "1", "2", "2"]
    assert lines[-4:] == [
        f'{name}_bucket{{{labels},le="1.47476e+09"}} 2',
        f'{name}_bucket{{{labels},le="+Inf"}} 3',
        f"{name}_sum{{{labels}}} 3600000059",
        f"{name}_count{{{labels}}} 3",
    ]


def test_a_label_may_hold_any_character():
    metrics = Metrics(['a"b\\c\nd'])
    metrics.answered('a"b\\c\nd', "Predict", "GRPC", "NOT_FOUND", 1)
    assert 'request_count{model_name="a\\"b\\\\c\\nd",status="NOT_FOUND"} 1\n' in metrics.page()


def test_calls_are_counted_by_model_and_status(running, get):
    def now(status, model="tiny"):
        labels = f'{{model_name="{model}",status="{status}"}}'
        return value(get(METRICS_PATH).text, f":tensorflow:serving:request_count{labels}")

    timed = '_count{model_name="tiny",API="Predict",entrypoint="GRPC"}'
    ran = '_count{model_name="tiny",API="Predict",runtime="TF1"}'
    series = (
        f":tensorflow:serving:request_latency{timed}",
        f":tensorflow:serving:runtime_latency{ran}",
        ":tensorflow:core:graph_runs{}",
    )
    counts = [
        ("OK", "tiny"),
        ("FAILED_PRECONDITION", "tiny"),
        ("NOT_FOUND", "not_served"),
        ("NOT_FOUND", "tiny"),
    ]
    before = [now(*one) for one in counts] + [value(get(METRICS_PATH).text, one) for one in series]
    predict = stubs(running).Predict
    for request in (case(), case(), case("no such"), case(model="x"), case(model="y")):
        try:
            predict(request, timeout=20)
        except grpc.RpcError as error:
            assert error.code() is not grpc.StatusCode.UNKNOWN
    get("/v1/models/tiny/versions/7")  # questions are counted too, as the real server does
    after = [now(*one) for one in counts] + [value(get(METRICS_PATH).text, one) for one in series]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 2, 1, 2, 2, 2]
    path = f'{{model_path="{running.models[0]._config.base_path}/1",status="success"}}'
    assert value(get(METRICS_PATH).text, f":tensorflow:cc:saved_model:load_attempt_count{path}") == 1


def test_a_query_behind_the_address_of_metrics_is_refused_as_by_the_real_server(get):
    answer = get(f"{METRICS_PATH}?x=1")
    assert answer.status == 400
    assert answer.text == f"Unexpected path: {METRICS_PATH}?x=1. Should be {METRICS_PATH}"


# --- monitoring.config ----------------------------------------------------------------------------------


def test_our_monitoring_config_is_taken():
    assert monitoring_config.read(SERVING / "monitoring.config") == METRICS_PATH


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", None),
        ("prometheus_config { enable: false path: '/x' }", None),
        ("prometheus_config { enable: true }", METRICS_PATH),
        ("prometheus_config { enable: true path: '/x' }", "/x"),
    ],
)
def test_monitoring_config_switches_metrics_on_and_moves_them(tmp_path, text, path):
    (tmp_path / "monitoring.config").write_text(text)
    assert monitoring_config.read(tmp_path / "monitoring.config") == path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prometheus { }", "cannot be read: .*serving/monitoring.config is one"),
        ("prometheus_config { enable: true path: 'x' }", "its path is 'x'; expected one that begins with /"),
    ],
)
def test_a_monitoring_config_that_the_real_server_would_not_take_is_refused(tmp_path, text, told):
    (tmp_path / "monitoring.config").write_text(text)
    with pytest.raises(InputError, match=told):
        monitoring_config.read(tmp_path / "monitoring.config")


def test_metrics_lie_where_the_config_says(base, tmp_path):
    config = tmp_path / "monitoring.config"
    config.write_text("prometheus_config { enable: true path: '/elsewhere' }")
    with server.start(base, rest_api_port=0, monitoring_config_file=config) as running:
        assert ask(running.rest_port, METRICS_PATH).status == 404
        assert "# TYPE :tensorflow:" in ask(running.rest_port, "/elsewhere").text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rest_api_port": 70000}, "--rest_api_port 70000: there are ports 1 to 65535"),
        ({"monitoring_config_file": "m.config"}, "m.config: metrics need --rest_api_port"),
        ({"rest_api_port": 0, "monitoring_config_file": "/no/m.config"}, "/no/m.config"),
    ],
)
def test_what_is_wrong_with_the_options_is_told(base, options, told):
    with pytest.raises(InputError, match=told):
        server.start(base, **options)


def test_a_port_that_is_taken_is_told(base):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"127.0.0.1:{port}: cannot listen there.*--rest_api_port"):
            server.start(base, rest_api_port=port)


# --- versions -------------------------------------------------------------------------------------------


def test_the_status_shows_a_version_that_takes_over_and_one_that_ends_its_last_call(base, tmp_path):
    tiny_model.write(tmp_path / "tiny", 1)

    def states(port):
        answer = ask(port, "/v1/models/tiny").json["model_version_status"]
        return {int(entry["version"]): entry["state"] for entry in answer}

    with server.start(tmp_path / "tiny", poll_s=0.05, rest_api_port=0) as running:
        last_call = contextlib.ExitStack()
        last_call.enter_context(running.models[0].using(model_pb2.ModelSpec(name="tiny")))
        assert states(running.rest_port) == {1: "AVAILABLE"}
        seen, stop = set(), threading.Event()

        def look():
            while not stop.is_set():
                seen.add(tuple(states(running.rest_port).items()))

        looking = threading.Thread(target=look)
        looking.start()
        tiny_model.write(tmp_path / "made", 2).rename(tmp_path / "tiny" / "2")
        wait_until(lambda: states(running.rest_port) == {1: "UNLOADING", 2: "AVAILABLE"})
        assert ask(running.rest_port, "/v1/models/tiny/metadata").json["model_spec"]["version"] == "2"
        last_call.close()
        wait_until(lambda: states(running.rest_port) == {1: "END", 2: "AVAILABLE"})
        stop.set()
        looking.join()
    assert ((1, "AVAILABLE"), (2, "LOADING")) in seen
