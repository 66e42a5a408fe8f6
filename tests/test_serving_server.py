"""The contract of TensorFlow Serving, asked through its own stubs.

The first part runs against the server that TFBRATS_SERVING_ENDPOINT names (it must serve what
tests/tiny_model.py writes as `tiny`), or a tensorflow_model_server at TFSERVING_BIN, else the embedded one.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
import tiny_model
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from serving import server
from tfbrats.command import InputError
from tfbrats.labels import MODALITIES

CODE = grpc.StatusCode
STATE = get_model_status_pb2.ModelVersionStatus
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Base path with version 1 of the tiny model. Read only."""
    base = tmp_path_factory.mktemp("served") / "tiny"
    tiny_model.write(base)
    return base


class Caller:
    """TensorFlow Serving's own stubs on one address."""

    def __init__(self, address):
        channel = grpc.insecure_channel(address, options=UNLIMITED)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._model = model_service_pb2_grpc.ModelServiceStub(channel)

    def predict(self, inputs, signature="", model="tiny", version=None, outputs=(), timeout=20):
        request = predict_pb2.PredictRequest(output_filter=outputs)
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        for name, value in inputs.items():
            if not isinstance(value, TensorProto):
                value = tf.make_tensor_proto(value)
            request.inputs[name].CopyFrom(value)
        return self._prediction.Predict(request, timeout=timeout, wait_for_ready=True)

    def spin(self, rounds, timeout=20):
        return self.predict({"rounds": np.int64(rounds)}, "spin", timeout=timeout)

    def metadata(self, fields=("signature_def",), model="tiny"):
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        request.model_spec.name = model
        return self._prediction.GetModelMetadata(request, timeout=20)

    def status(self, model="tiny", version=None):
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        if version is not None:
            request.model_spec.version.value = version
        answer = self._model.GetModelStatus(request, timeout=20)
        return {entry.version: entry for entry in answer.model_version_status}


TensorProto = type(tf.make_tensor_proto(0))


@pytest.fixture(scope="module", params=[False, True], ids=["repeated_fields", "tensor_content"])
def endpoint(request, written):
    """(caller, whether answers come as tensor_content)."""
    address = os.environ.get("TFBRATS_SERVING_ENDPOINT")
    binary = os.environ.get("TFSERVING_BIN")
    if address:
        caller = Caller(address)
        content = caller.predict({"image": np.zeros((1, 2, 2, 4), np.float32)}, "slices")
        if bool(content.outputs["branch1"].tensor_content) != request.param:
            pytest.skip(f"{address} encodes the other way")
        yield caller, request.param
    elif binary:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = [f"--port={port}", "--model_name=tiny", f"--model_base_path={written}"]
        flag = f"--enable_serialization_as_tensor_content={str(request.param).lower()}"
        with subprocess.Popen([binary, *arguments, flag]) as process:
            yield Caller(f"127.0.0.1:{port}"), request.param
            process.terminate()
    else:
        with server.start(written, tensor_content=request.param) as running:
            yield Caller(running.address), request.param


@pytest.fixture(scope="module")
def caller(endpoint):
    return endpoint[0]


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return {name: random.uniform(0, 1500, (6, 5, 4)).astype(np.float32) for name in MODALITIES}


def refusal(call, *arguments, **named):
    """The status that a call which must fail ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **named)
    return caught.value.code(), caught.value.details()


# --- the contract ---------------------------------------------------------------------------------------


def test_the_answer_is_the_models_in_the_labels_of_its_edition(caller, images):
    answer = caller.predict(images)
    segmentation = tf.make_ndarray(answer.outputs["segmentation"])
    expected = np.array([0, 1, 2, 4], np.uint8)[tiny_model.tissues_by_rule(images)]
    assert len(np.unique(expected)) == 4
    assert segmentation.dtype == np.uint8
    np.testing.assert_array_equal(segmentation, expected)
    assert set(answer.outputs) == {"segmentation", "probabilities"}


def test_int16_and_float32_give_the_same_label_map(caller, images):
    whole = {name: image.astype(np.int16) for name, image in images.items()}
    same = {name: image.astype(np.float32) for name, image in whole.items()}
    a, b = caller.predict(whole, "int16"), caller.predict(same)
    assert a.outputs["segmentation"] == b.outputs["segmentation"]


def test_the_response_names_model_version_and_signature(caller, images):
    spec = caller.predict(images).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("tiny", 1, "serving_default")


def test_numbers_are_encoded_as_the_flag_says(endpoint, images):
    caller, as_content = endpoint
    answer = caller.predict(images).outputs
    assert bool(answer["segmentation"].tensor_content) == as_content
    assert bool(answer["probabilities"].tensor_content) == as_content
    assert len(answer["segmentation"].int_val) == (0 if as_content else 6 * 5 * 4)
    assert len(answer["probabilities"].float_val) == (0 if as_content else 6 * 5 * 4 * 3)


def test_inputs_may_come_as_bytes_as_values_or_as_one_value_for_all(caller, images):
    images["t2"] = np.full((6, 5, 4), 7, np.float32)
    as_values = {}
    for name, image in images.items():
        as_values[name] = TensorProto(dtype=1)
        as_values[name].tensor_shape.CopyFrom(tf.TensorShape(image.shape).as_proto())
        as_values[name].float_val.extend([7] if name == "t2" else image.ravel())
    assert caller.predict(as_values).outputs == caller.predict(images).outputs


def test_strings_travel_as_strings(caller):
    content = caller.predict({"file": "tfbrats.json"}, "describe").outputs["content"]
    assert content.string_val[0].decode() == tiny_model.card().to_json()


def test_output_filter_returns_those_outputs_alone(caller, images):
    assert set(caller.predict(images, outputs=["segmentation"]).outputs) == {"segmentation"}


def test_an_unknown_model_is_not_found(caller, images):
    assert refusal(caller.predict, images, model="nobody") == (
        CODE.NOT_FOUND,
        "Servable not found for request: Latest(nobody)",
    )


def test_an_unknown_version_is_not_found(caller, images):
    assert refusal(caller.predict, images, version=99) == (
        CODE.NOT_FOUND,
        "Servable not found for request: Specific(tiny, 99)",
    )


def test_an_unknown_signature_is_a_failed_precondition(caller, images):
    code, text = refusal(caller.predict, images, "sevring_default")
    assert code is CODE.FAILED_PRECONDITION
    assert 'Serving signature key "sevring_default" not found.' in text


def test_a_missing_and_an_extra_input_are_named(caller, images):
    del images["t1"]
    code, text = refusal(caller.predict, images)
    assert code is CODE.INVALID_ARGUMENT
    assert "input size does not match signature: 3!=4" in text
    assert "Sent extra: {}. Missing but required: {t1}." in text
    code, text = refusal(caller.predict, {**images, "t1": images["t2"], "pd": images["t2"]})
    assert code is CODE.INVALID_ARGUMENT
    assert "Sent extra: {pd}. Missing but required: {}." in text


def test_a_misnamed_input_is_named(caller, images):
    images["t1gd"] = images.pop("t1ce")
    code, text = refusal(caller.predict, images)
    assert code is CODE.INVALID_ARGUMENT
    assert "t1gd" in text or "t1ce" in text


@pytest.mark.parametrize(
    "wrong",
    [np.ones((6, 5, 4), np.float64), np.ones((6, 5), np.float32), np.ones((6, 5, 3), np.float32)],
    ids=["dtype", "rank", "another size than the others"],
)
def test_a_wrong_dtype_or_shape_is_an_invalid_argument(caller, images, wrong):
    code, text = refusal(caller.predict, {**images, "t1": wrong})
    assert code is CODE.INVALID_ARGUMENT
    assert text


def test_bytes_that_do_not_fill_the_shape_are_an_invalid_argument(caller, images):
    cut = tf.make_tensor_proto(images["t1"])
    cut.tensor_content = cut.tensor_content[:-4]
    code, text = refusal(caller.predict, {**images, "t1": cut})
    assert code is CODE.INVALID_ARGUMENT
    assert "tensor parsing error: t1" in text


def test_what_the_graph_refuses_is_an_invalid_argument_with_its_reason(caller, images):
    code, text = refusal(caller.predict, {**images, "t2": images["t2"] + tiny_model.TOO_BRIGHT})
    assert code is CODE.INVALID_ARGUMENT
    assert "t2 is too bright" in text


def test_an_unknown_output_is_an_invalid_argument(caller, images):
    code, text = refusal(caller.predict, images, outputs=["segmentaton"])
    assert code is CODE.INVALID_ARGUMENT
    assert "output tensor alias not found in signature: segmentaton" in text
    assert "{probabilities,segmentation}" in text
    assert refusal(caller.predict, images, outputs=["segmentation"] * 2)[0] is CODE.INVALID_ARGUMENT


def test_metadata_holds_every_signature(caller):
    answer = caller.metadata()
    content = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(content)
    assert {"serving_default", "int16", "slices", "describe"} <= set(content.signature_def)
    assert set(content.signature_def["serving_default"].inputs) == set(MODALITIES)
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("tiny", 1)


def test_metadata_wants_the_field_signature_def(caller):
    assert refusal(caller.metadata, fields=[])[0] is CODE.INVALID_ARGUMENT
    assert refusal(caller.metadata, fields=["assets"])[0] is CODE.INVALID_ARGUMENT
    assert refusal(caller.metadata, model="nobody")[0] is CODE.NOT_FOUND


def test_status_says_available(caller):
    assert caller.status()[1].state == STATE.AVAILABLE == 30
    assert caller.status(version=1)[1].status.error_code == 0
    assert refusal(caller.status, model="nobody")[0] is CODE.NOT_FOUND
    assert refusal(caller.status, version=99)[0] is CODE.NOT_FOUND


# --- the embedded server alone --------------------------------------------------------------------------


def add_version(base, version, source=1):
    """As export does: under another name first, then renamed."""
    shutil.copytree(base / str(source), base / f".{version}.partial")
    (base / f".{version}.partial").rename(base / str(version))


@pytest.fixture
def base(written, tmp_path):
    shutil.copytree(written, tmp_path / "tiny")
    return tmp_path / "tiny"


def wait_until(true, seconds=15):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_new_version_takes_over_without_a_failed_request(base, images):
    with server.start(base, poll_s=0.05) as running:
        caller = Caller(running.address)
        versions, faults, stop = [], [], threading.Event()

        def call():
            while not stop.is_set():
                try:
                    versions.append(caller.predict(images).model_spec.version.value)
                except grpc.RpcError as error:
                    faults.append(error)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(versions) > 5)
        add_version(base, 2)
        wait_until(lambda: versions.count(2) > 5)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert not faults
        assert set(versions) == {1, 2}
        wait_until(lambda: caller.status()[1].state == STATE.END)
        assert caller.status()[2].state == STATE.AVAILABLE
        assert refusal(caller.predict, images, version=1)[0] is CODE.NOT_FOUND


def test_a_broken_new_version_leaves_the_old_one_serving_until_repaired(base, images, caplog):
    with server.start(base, poll_s=0.05) as running:
        caller = Caller(running.address)
        (base / "2").mkdir()
        (base / "2" / "saved_model.pb").write_bytes(b"no model")
        wait_until(lambda: caller.status().get(2) and caller.status()[2].state == STATE.END)
        assert caller.status()[2].status.error_code != 0
        assert caller.predict(images).model_spec.version.value == 1
        assert f"{base}/2: cannot be loaded" in caplog.text
        shutil.rmtree(base / "2")
        add_version(base, 2)
        wait_until(lambda: caller.predict(images).model_spec.version.value == 2)


def test_removing_the_newest_version_brings_the_one_before_back(base, images):
    add_version(base, 2)
    with server.start(base, poll_s=0.05) as running:
        caller = Caller(running.address)
        assert caller.predict(images).model_spec.version.value == 2
        shutil.rmtree(base / "2")
        wait_until(lambda: caller.predict(images).model_spec.version.value == 1)


def test_a_version_whose_warm_up_fails_is_not_served(base, images):
    entry = prediction_log_pb2.PredictionLog()
    entry.predict_log.request.model_spec.name = "tiny"
    for name in MODALITIES[1:]:
        entry.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(0.0, shape=(2, 2, 2)))
    extra = base / "1" / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        writer.write(entry.SerializeToString())
    with pytest.raises(InputError, match=r"Missing but required: {flair}"):
        server.start(base)
    server.start(base, warm_up=False).stop()
    entry.predict_log.request.inputs["flair"].CopyFrom(tf.make_tensor_proto(0.0, shape=(2, 2, 2)))
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        writer.write(entry.SerializeToString())
    server.start(base).stop()


def test_the_deadline_ends_the_run_and_frees_the_place(written, images):
    with server.start(written, max_workers=1) as running:
        caller = Caller(running.address)
        start = time.monotonic()
        assert refusal(caller.spin, 10**12, timeout=0.5)[0] is CODE.DEADLINE_EXCEEDED
        caller.predict(images)
        assert time.monotonic() - start < 5


def test_a_call_whose_client_has_gone_is_not_started(written, monkeypatch):
    started = []
    run = server.run

    def counting(servable, request, seconds):
        started.append(request.model_spec.signature_name)
        return run(servable, request, seconds)

    monkeypatch.setattr(server, "run", counting)
    with server.start(written, max_workers=1) as running:
        caller = Caller(running.address)
        first = threading.Thread(target=refusal, args=(caller.spin, 10**12), kwargs={"timeout": 1.0})
        first.start()
        wait_until(lambda: started == ["spin"])
        code, _ = refusal(caller.predict, {"file": "tfbrats.json"}, "describe", timeout=0.2)
        assert code is CODE.DEADLINE_EXCEEDED
        assert caller.status()[1].state == STATE.AVAILABLE  # answered while the only place is taken
        first.join()
        caller.predict({"image": np.zeros((1, 2, 2, 4), np.float32)}, "slices")
        assert started == ["spin", "slices"]


def test_an_answer_above_grpcs_four_mebibytes_is_sent(written):
    shape = (180, 180, 50)
    large = {name: np.zeros(shape, np.int16) for name in MODALITIES}
    with server.start(written, tensor_content=True) as running:
        answer = Caller(running.address).predict(large, "int16", outputs=["probabilities"])
    assert len(answer.outputs["probabilities"].tensor_content) == np.prod(shape) * 3 * 4 > 4 * 2**20


@pytest.mark.parametrize("what", ["missing", "empty", "one version", "broken"])
def test_a_base_path_that_cannot_be_served_is_refused_with_what_to_do(what, base, written, tmp_path):
    path, says = {
        "missing": (tmp_path / "nowhere", "no such folder"),
        "empty": (tmp_path / "empty", "no version in it"),
        "one version": (base / "1", "give its parent folder"),
        "broken": (base, "/2: the highest version cannot be loaded"),
    }[what]
    (tmp_path / "empty").mkdir()
    if what == "broken":
        (base / "2").mkdir()
    with pytest.raises(InputError, match=says):
        server.start(path)
    with pytest.raises(InputError, match=says):
        server.main(["--model_base_path", str(path), "--port", "0"])


def test_a_port_that_is_taken_is_refused(written):
    with server.start(written) as running, pytest.raises(InputError, match="another server"):
        server.start(written, port=running.port)


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_a_port_that_does_not_exist_is_refused(written, port):
    with pytest.raises(InputError, match=f"{port}: there are ports"):
        server.main(["--model_base_path", str(written), f"--port={port}"])


def test_the_command_says_what_it_is_and_stops_on_sigterm(written):
    command = [sys.executable, "-m", "serving.server", "--model_base_path", str(written), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert "no production server" in process.stdout.readline()
        ready = process.stdout.readline().split()
        assert ready[:4] == ["ready:", "tiny", "version", "1"]
        assert Caller(ready[-1]).status()[1].state == STATE.AVAILABLE
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
