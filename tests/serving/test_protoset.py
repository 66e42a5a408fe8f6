"""serving/tfs.protoset is what the official stubs say, and holds every call that is served."""

import importlib.util

import foreign
import numpy as np
import pytest
import tiny_model
from google.protobuf import descriptor_pb2

from serving import server
from tfbrats.labels import MODALITIES

PREDICTION, STATUS = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"


def test_the_file_is_what_the_command_makes():
    spec = importlib.util.spec_from_file_location("generate_docs", foreign.ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert foreign.PROTOSET.read_bytes() == generate.protoset(), (
        "not what the installed tensorflow-serving-api says: run python docs/generate.py"
    )
    assert generate.made()[generate.PROTOSET] == generate.protoset()


def test_each_file_of_it_follows_those_that_it_imports():
    seen = set()
    for file in descriptor_pb2.FileDescriptorSet.FromString(foreign.PROTOSET.read_bytes()).file:
        assert set(file.dependency) <= seen, file.name
        seen.add(file.name)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    model = tmp_path_factory.mktemp("protoset") / "tiny"
    tiny_model.write(model)
    with server.start(model) as running:
        made = foreign.DescriptorsAlone(running.address)
        yield made
        made.close()


def test_who_has_the_file_alone_can_make_every_call(client):
    assert client.methods() >= {
        f"{PREDICTION}/Predict",
        f"{PREDICTION}/GetModelMetadata",
        "grpc.health.v1.Health/Check",
    }
    assert client.ask("grpc.health.v1.Health/Check", {}) == {"status": "SERVING"}
    (version,) = client.ask(f"{STATUS}/GetModelStatus", {"modelSpec": {"name": "tiny"}})["model_version_status"]
    assert (version["version"], version["state"]) == ("1", "AVAILABLE")
    asked = {"modelSpec": {"name": "tiny"}, "metadataField": ["signature_def"]}
    told = client.ask(f"{PREDICTION}/GetModelMetadata", asked)["metadata"]["signature_def"]["signatureDef"]
    assert set(told["serving_default"]["inputs"]) == set(MODALITIES)


def test_its_case_gets_the_model_s_labels_and_its_question_the_card(client):
    random = np.random.default_rng(0)
    images = {name: random.uniform(0, 1500, (6, 5, 4)).astype(np.float32) for name in MODALITIES}
    answer = client.ask(foreign.PREDICT, foreign.request(images, outputs=["segmentation"]))
    expected = np.array([0, 1, 2, 4], np.uint8)[tiny_model.tissues_by_rule(images)]
    assert len(np.unique(expected)) == 4 and set(answer["outputs"]) == {"segmentation"}
    np.testing.assert_array_equal(foreign.labels(answer), expected)
    described = client.ask(foreign.PREDICT, foreign.request({"file": "tfbrats.json"}, "describe"))
    assert foreign.text(described) == tiny_model.card().to_json()
