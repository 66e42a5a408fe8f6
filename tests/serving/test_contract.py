"""The contract of TensorFlow Serving, asked through its own stubs.

The first part runs against the server that TFBRATS_SERVING_ENDPOINT names (docs/how-to/tensorflow-serving.md
says with which flags it must serve what tests/tiny_model.py writes), or a tensorflow_model_server at
TFSERVING_BIN, else the embedded one. `pytest tests/serving/test_contract.py -v` lists it.
"""

import contextlib
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
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from serving import server, services
from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES
from tfbrats.machine import packing

CODE = grpc.StatusCode
STATE = get_model_status_pb2.ModelVersionStatus
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Base path with version 1 of the tiny model. Read only."""
    base = tmp_path_factory.mktemp("served") / "tiny"
    tiny_model.write(base)
    tiny_model.write_config(base)
    return base


class Caller:
    """TensorFlow Serving's own stubs on one address."""

    def __init__(self, address, options=UNLIMITED):
        self.address = address
        channel = grpc.insecure_channel(address, options=options)
        self._health = health_pb2_grpc.HealthStub(channel)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._model = model_service_pb2_grpc.ModelServiceStub(channel)

    def predict(self, inputs, signature="", model="tiny", version=None, label=None, outputs=(), timeout=20):
        request = predict_pb2.PredictRequest(output_filter=outputs)
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
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

    def health(self, service=""):
        return self._health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20).status

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
        arguments = [f"--port={port}", f"--model_config_file={written / 'models.config'}"]
        arguments += ["--allow_version_labels_for_unavailable_models=true"]
        arguments += [f"--enable_serialization_as_tensor_content={str(request.param).lower()}"]
        arguments += ["--enable_grpc_healthcheck_service=true"]
        with subprocess.Popen([binary, *arguments]) as process:
            yield Caller(f"127.0.0.1:{port}"), request.param
            process.terminate()
    else:
        config = written / "models.config"
        with server.start(model_config_file=config, tensor_content=request.param) as running:
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


def test_compressed_and_int16_give_the_same_label_map(caller, images):
    whole = {name: image.astype(np.int16) for name, image in images.items()}
    packed = {name: packing.packed(image) for name, image in whole.items()}
    a = caller.predict(whole, "int16")
    b = caller.predict({"plane": np.array([6, 5], np.int32), **packed}, "gzip_int16")
    assert a.outputs == b.outputs


def test_what_is_no_gzip_is_refused(caller, images):
    packed = {name: packing.packed(image.astype(np.int16)) for name, image in images.items()}
    packed["t2"][1] = packed["t2"][1][:-9]
    code, _ = refusal(caller.predict, {"plane": np.array([6, 5], np.int32), **packed}, "gzip_int16")
    assert code in (CODE.INVALID_ARGUMENT, CODE.DATA_LOSS)


def test_several_cases_of_one_grid_are_answered_as_each_alone(caller, images):
    whole = {name: image.astype(np.int16) for name, image in images.items()}
    other = {name: image[::-1].copy() for name, image in whole.items()}
    both = {name: np.stack([whole[name], other[name]]) for name in whole}
    found = tf.make_ndarray(caller.predict(both, "cases_int16").outputs["segmentation"])
    for n, case in enumerate((whole, other)):
        alone = caller.predict(case, "int16", outputs=["segmentation"]).outputs["segmentation"]
        np.testing.assert_array_equal(found[n], tf.make_ndarray(alone))


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


def test_an_unknown_label_is_an_invalid_argument(caller, images):
    assert refusal(caller.predict, images, label="canary") == (
        CODE.INVALID_ARGUMENT,
        "Unrecognized servable version label: canary",
    )


def test_a_version_that_is_named_by_number_or_label_answers(caller, images):
    assert caller.predict(images, version=1).model_spec.version.value == 1
    assert caller.predict(images, label="stable").model_spec.version.value == 1


def test_a_call_that_names_no_model_is_an_invalid_argument(caller, images):
    assert refusal(caller.predict, images, model="")[0] is CODE.INVALID_ARGUMENT
    assert refusal(caller.metadata, model="")[0] is CODE.INVALID_ARGUMENT


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


def test_metadata_tells_types_and_shapes(caller):
    content = get_model_metadata_pb2.SignatureDefMap()
    caller.metadata().metadata["signature_def"].Unpack(content)
    for name, dtype in (("serving_default", tf.float32), ("int16", tf.int16)):
        signature = content.signature_def[name]
        for info in signature.inputs.values():
            assert (info.dtype, [dim.size for dim in info.tensor_shape.dim]) == (dtype, [-1, -1, -1])
        assert signature.outputs["segmentation"].dtype == tf.uint8


def test_metadata_wants_the_field_signature_def(caller):
    assert refusal(caller.metadata, fields=[])[0] is CODE.INVALID_ARGUMENT
    assert refusal(caller.metadata, fields=["assets"])[0] is CODE.INVALID_ARGUMENT
    assert refusal(caller.metadata, model="nobody")[0] is CODE.NOT_FOUND


def test_status_says_available(caller):
    assert caller.status()[1].state == STATE.AVAILABLE == 30
    assert caller.status(version=1)[1].status.error_code == 0
    assert refusal(caller.status, model="nobody")[0] is CODE.NOT_FOUND
    assert refusal(caller.status, version=99)[0] is CODE.NOT_FOUND


def test_a_call_without_a_deadline_is_answered_also_when_it_has_to_wait(caller, images):
    whole = tf.make_ndarray(caller.predict(images).outputs["segmentation"])
    busy = [
        threading.Thread(target=refusal, args=(caller.spin, 10**12), kwargs={"timeout": 1.0}) for _ in range(2)
    ]
    for wait in (False, True):
        if wait:
            for thread in busy:
                thread.start()
        answer = caller.predict(images, timeout=None)
        np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["segmentation"]), whole)
    for thread in busy:
        thread.join()


def test_the_deadline_ends_the_call_and_the_next_one_is_answered(caller, images):
    start = time.monotonic()
    assert refusal(caller.spin, 10**12, timeout=0.5)[0] is CODE.DEADLINE_EXCEEDED
    caller.predict(images)
    assert time.monotonic() - start < 10


def test_a_case_of_full_size_is_taken_as_float32(caller):
    # 4 x 35.7 MB there, 8.9 MB or as many values back
    whole = {name: np.zeros((240, 240, 155), np.float32) for name in MODALITIES}
    whole["flair"][100, 100, 100] = 1000
    answer = caller.predict(whole, outputs=["segmentation"], timeout=60)
    segmentation = tf.make_ndarray(answer.outputs["segmentation"])
    assert np.argwhere(segmentation).tolist() == [[100, 100, 100]]


def test_a_caller_that_did_not_raise_its_limit_is_refused_the_answer_by_its_own_side(caller):
    shape = (150, 150, 50)
    whole = {name: np.zeros(shape, np.int16) for name in MODALITIES}
    code, text = refusal(Caller(caller.address, ()).predict, whole, "int16", outputs=["probabilities"])
    assert code is CODE.RESOURCE_EXHAUSTED
    assert "larger than max" in text


def test_the_health_service_says_serving(caller):
    assert caller.health() == health_pb2.HealthCheckResponse.SERVING
    assert refusal(caller.health, "no.such.Service")[0] is CODE.NOT_FOUND


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


def config_file(folder, base, more="", **others):
    """models.config of `tiny` and of others, name=base_path."""
    path = folder / "models.config"
    entries = [f'name: "tiny" base_path: "{base}" {more}']
    entries += [f'name: "{name}" base_path: "{where}"' for name, where in others.items()]
    listed = " ".join(f'config {{ {entry} model_platform: "tensorflow" }}' for entry in entries)
    path.write_text(f"model_config_list {{ {listed} }}")
    return path


def test_two_versions_are_served_side_by_side_and_go_by_their_labels(base, images, tmp_path):
    add_version(base, 2)
    add_version(base, 3)
    more = """model_version_policy { specific { versions: 1 versions: 2 } }
        version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }"""
    with server.start(model_config_file=config_file(tmp_path, base, more)) as running:
        caller = Caller(running.address)

        def version(**spec):
            return caller.predict(images, **spec).model_spec.version.value

        assert [version(label="stable"), version(label="canary"), version()] == [1, 2, 2]
        assert [version(version=1), version(version=2)] == [1, 2]
        assert refusal(version, version=3)[0] is CODE.NOT_FOUND
        assert refusal(version, label="old") == (
            CODE.INVALID_ARGUMENT,
            "Unrecognized servable version label: old",
        )
        assert {v: entry.state for v, entry in caller.status().items()} == {
            1: STATE.AVAILABLE,
            2: STATE.AVAILABLE,
        }


def test_the_latest_two_stay_as_a_third_comes(base, images, tmp_path):
    add_version(base, 2)
    policy = "model_version_policy { latest { num_versions: 2 } }"
    with server.start(model_config_file=config_file(tmp_path, base, policy), poll_s=0.05) as running:
        caller = Caller(running.address)
        caller.predict(images, version=1)
        add_version(base, 3)
        wait_until(lambda: caller.predict(images).model_spec.version.value == 3)
        wait_until(lambda: caller.status()[1].state == STATE.END)
        assert caller.predict(images, version=2).model_spec.version.value == 2
        assert refusal(caller.predict, images, version=1)[0] is CODE.NOT_FOUND


def test_two_models_go_by_their_names(base, images, tmp_path):
    other = tmp_path / "other"
    tiny_model.write(other, 1, "2023")
    with server.start(model_config_file=config_file(tmp_path, base, other=other)) as running:
        caller = Caller(running.address)
        values = {
            name: set(np.unique(tf.make_ndarray(caller.predict(images, model=name).outputs["segmentation"])))
            for name in ("tiny", "other")
        }
    assert values == {"tiny": {0, 1, 2, 4}, "other": {0, 1, 2, 3}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model_config_list {", "cannot be read"),
        ("model_config_list { config { naem: 'tiny' } }", "cannot be read"),
        ("", "names no model"),
        ("model_config_list { config { base_path: '/m' } }", "has no name"),
        ("model_config_list { config { name: 'tiny' base_path: 'models/tiny' } }", "an absolute one"),
        ("model_config_list { config { name: 'tiny' base_path: '/m' } }", "model_platform is ''"),
        (
            "model_config_list {"
            + 2 * " config { name: 'a' base_path: '/m' model_platform: 'tensorflow' }"
            + "}",
            "a is named twice",
        ),
    ],
)
def test_a_models_config_that_the_real_server_would_refuse_is_refused(tmp_path, text, says):
    path = tmp_path / "models.config"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        server.start(model_config_file=path)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("version_labels { key: 'canary' value: 2 }", r"label 'canary' is version 2's, .* \(loaded: 1\)\."),
        ("model_version_policy { specific { versions: 7 } }", "no version in it.* of 7"),
        ("model_version_policy { specific { } }", "names no version"),
    ],
)
def test_versions_that_are_not_there_are_refused_at_the_start(base, tmp_path, more, says):
    with pytest.raises(InputError, match=says):
        server.start(model_config_file=config_file(tmp_path, base, more))


@pytest.mark.parametrize("name", ["20261121210000123456", "٣", "-2", "2.partial"])
def test_folders_that_no_call_could_ask_for_are_no_versions(base, images, name):
    shutil.copytree(base / "1", base / name)
    with server.start(base) as running:
        assert running.models[0].served == (1,)
        assert Caller(running.address).predict(images).model_spec.version.value == 1


def test_a_versions_folder_may_have_leading_zeros(base, images):
    (base / "1").rename(base / "0007")
    with server.start(base) as running:
        assert Caller(running.address).predict(images, version=7).model_spec.version.value == 7


def test_a_config_file_names_its_models_itself(base, tmp_path):
    with pytest.raises(InputError, match=r"--model_name tiny: .* names its models itself"):
        server.start(model_config_file=config_file(tmp_path, base), model_name="tiny")


def test_a_base_path_and_a_config_file_are_not_given_together(base, tmp_path):
    with pytest.raises(InputError, match="one of the two"):
        server.start(base, model_config_file=config_file(tmp_path, base))
    with pytest.raises(InputError, match="one of the two"):
        server.start()


@pytest.fixture
def started(monkeypatch):
    """Signatures of the calls that the embedded server has begun to run."""
    started = []
    run = services.run

    def counting(servable, request, seconds):
        started.append(request.model_spec.signature_name)
        return run(servable, request, seconds)

    monkeypatch.setattr(services, "run", counting)
    return started


def test_a_full_server_refuses_at_once_and_answers_again_later(written, images, started):
    with server.start(written, max_workers=1, max_enqueued=0) as running:
        caller = Caller(running.address)
        first = threading.Thread(target=refusal, args=(caller.spin, 10**12), kwargs={"timeout": 2.0})
        first.start()
        wait_until(lambda: started == ["spin"])
        code, text = refusal(caller.predict, images)
        assert (code, text) == (CODE.RESOURCE_EXHAUSTED, "No room: 1 at most may run or wait.")
        assert caller.status()[1].state == STATE.AVAILABLE  # who asks only how it is, is answered
        first.join()

        def is_answered():
            try:
                return caller.predict(images).model_spec.version.value == 1
            except grpc.RpcError as error:
                assert error.code() is CODE.RESOURCE_EXHAUSTED  # the run that was given up is still ending
                return False

        wait_until(is_answered)


def test_listening_to_others_is_said_to_be_open(written, capsys, monkeypatch):
    monkeypatch.setattr(server, "start", lambda *_, **__: (_ for _ in ()).throw(InputError("enough")))
    with pytest.raises(InputError, match="enough"):
        server.main(["--model_base_path", str(written), "--port", "0", "--host", "0.0.0.0"])
    assert "WARNING: listening on 0.0.0.0" in capsys.readouterr().out
    with pytest.raises(InputError, match="enough"):
        server.main(["--model_base_path", str(written), "--port", "0"])
    assert "WARNING" not in capsys.readouterr().out


def test_the_deadline_ends_the_run_and_frees_the_place(written, images):
    with server.start(written, max_workers=1) as running:
        caller = Caller(running.address)
        start = time.monotonic()
        assert refusal(caller.spin, 10**12, timeout=0.5)[0] is CODE.DEADLINE_EXCEEDED
        caller.predict(images)
        assert time.monotonic() - start < 5


def test_a_call_whose_client_has_gone_is_not_started(written, started):
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


def test_a_run_that_does_not_end_is_cancelled_when_the_server_stops(written, started):
    running = server.start(written)
    ended = []
    call = threading.Thread(
        target=lambda: ended.append(refusal(Caller(running.address).spin, 10**12, timeout=60)[0])
    )
    call.start()
    wait_until(lambda: started == ["spin"])
    running.stop(grace_s=0.2)
    call.join(10)
    assert ended and ended[0] in (CODE.CANCELLED, CODE.UNAVAILABLE)


def test_a_port_that_is_taken_is_refused(written):
    with server.start(written) as running, pytest.raises(InputError, match="another server"):
        server.start(written, port=running.port)


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_a_port_that_does_not_exist_is_refused(written, port):
    with pytest.raises(InputError, match=f"{port}: there are ports"):
        server.main(["--model_base_path", str(written), f"--port={port}"])


@contextlib.contextmanager
def command_at_work(base, program):
    """The server's command with a call under way that does not end by itself."""
    flags = ["--model_base_path", str(base), "--port", "0", "--max_workers", "1", "--max_enqueued", "0"]
    arguments = [sys.executable, *program, *flags]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert "no production server" in process.stdout.readline()
            ready = process.stdout.readline().split()
            assert ready[:4] == ["ready:", "tiny", "version", "1"]
            caller = Caller(ready[-1])

            def spin():
                # Where a look below has the only place, it is refused.
                while refusal(caller.spin, 10**12, timeout=300)[0] is CODE.RESOURCE_EXHAUSTED:
                    time.sleep(0.02)

            def is_full():
                try:
                    caller.predict({"file": "tfbrats.json"}, "describe")
                except grpc.RpcError as error:
                    return error.code() is CODE.RESOURCE_EXHAUSTED
                return False

            call = threading.Thread(target=spin)
            call.start()
            wait_until(is_full)
            assert caller.status()[1].state == STATE.AVAILABLE
            yield process
        finally:
            process.kill()
        call.join(20)


def test_the_command_ends_well_on_sigterm_also_with_a_run_under_way(written):
    soon = "import sys; from serving import embedded, server; embedded.GRACE_S = 1; server.main(sys.argv[1:])"
    with command_at_work(written, ["-c", soon]) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_told_twice_the_command_ends_at_once(written):
    with command_at_work(written, ["-m", "serving.server"]) as process:
        assert process.stdout.readline().startswith("next: tfbrats call ")
        process.send_signal(signal.SIGTERM)
        assert "stopping" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
