"""What the embedded server says at the desk: what it serves, how it is called, and a line for each call."""

import re
import time

import grpc
import numpy as np
import pytest
import served
import tensorflow as tf
import tiny_model
from asked_rest import ask, free_port, wait_until
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfbrats.labels import MODALITIES


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_model.write(folder / "tiny")
    port = free_port()
    with served.serving(folder / "tiny", folder / "log.txt", "--rest_api_port", str(port)) as running:
        time.sleep(0.2)
        running.rest_port = port
        yield running


def request(signature="", model="tiny"):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name in MODALITIES:
        request.inputs[name].CopyFrom(tf.make_tensor_proto(np.ones((6, 5, 4), np.float32)))
    return request


def lines(running, count):
    """What it says next, once there are so many lines."""
    said, limit = "", time.monotonic() + 20
    while len(said.splitlines()) < count and time.monotonic() < limit:
        said += running.said()
        time.sleep(0.05)
    return said.splitlines()


def test_it_says_what_it_serves_and_how_it_is_called_and_nothing_of_tensorflow(running):
    warning, *others = running.log.read_text().splitlines()
    assert "no production server" in warning
    *_, ready, watching, following = others
    assert ready == f"ready: tiny version 1 on {running.address}"
    address = f"http://127.0.0.1:{running.rest_port}"
    assert watching == f"status: {address}/v1/models/tiny; metrics: /monitoring/prometheus/metrics"
    assert ask(running.rest_port, "/v1/models/tiny").status == 200
    wait_until(lambda: "  tiny  status  OK  " in running.log.read_text())  # written behind the answer
    asking = f"--server {running.address} --model-name tiny --input CASES --output predictions"
    assert following == f"next: tfbrats call {asking}"
    assert [line for line in others[:-3] if not line.startswith("serving tiny version 1")] == []


def test_each_call_has_one_line_with_peer_model_signature_status_time_bytes_and_id(running):
    running.said()
    with grpc.insecure_channel(running.address) as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        answer = predict(request(), timeout=20, metadata=[("x-request-id", "3f9c  OK  1 ms")])
        for wrong in (request("no\nsuch"), request(model="x" * 3000)):
            with pytest.raises(grpc.RpcError):
                predict(wrong, timeout=20)
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "tiny"
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status, timeout=20)
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(b"\xff" * 9, timeout=20)
    peer, sent = r"ipv[46]:\S+", request().ByteSize()
    took, none = rf"\d+ ms  {sent} B in", r"0 B out  id -"
    for line, told in zip(
        lines(running, 5),
        (
            rf"{peer}  tiny  serving_default  OK  {took}  {answer.ByteSize()} B out  id 3f9c\\x20\\x20OK.*",
            rf"{peer}  tiny  no\\nsuch  FAILED_PRECONDITION  \d+ ms  \d+ B in  {none}",
            rf"{peer}  x{{80}}  serving_default  NOT_FOUND  \d+ ms  \d+ B in  {none}",
            rf"{peer}  tiny  GetModelStatus  OK  \d+ ms  {status.ByteSize()} B in  \d+ B out  id -",
            rf"{peer}  -  Predict  INVALID_ARGUMENT  \d+ ms  9 B in  {none}",
        ),
        strict=True,
    ):
        assert re.fullmatch(told, line), line
