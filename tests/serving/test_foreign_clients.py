"""Programs of other people call the server: grpcurl, ghz and min-tfs-client, each as its own manual says; and
the whole clients in Go and in Java that the page docs/how-to/other-languages.md shows.

Against the embedded server, and also against the server that TFBRATS_SERVING_ENDPOINT names, which serves what
tests/tiny_model.py writes (docs/how-to/tensorflow-serving.md). Programs in Go are built where there is none.
"""

import json
import os
import subprocess

import foreign
import nibabel
import numpy as np
import pytest
import tiny_model

from serving import server
from tfbrats.cases import case, nifti
from tfbrats.datasets import layouts
from tfbrats.labels import MODALITIES
from tfbrats.phantoms import data_sets

pytestmark = pytest.mark.slow(reason="grpcurl and ghz are built: a minute and a half of CPU time each")

OF_ENVIRONMENT = os.environ.get("TFBRATS_SERVING_ENDPOINT")
CALLS, AT_ONCE = 40, 4
EXAMPLES = foreign.ROOT / "serving" / "examples"


@pytest.fixture(scope="module", params=["embedded", *([OF_ENVIRONMENT] if OF_ENVIRONMENT else [])])
def address(request, tmp_path_factory):
    if request.param != "embedded":
        yield request.param
        return
    model = tmp_path_factory.mktemp("foreign") / "tiny"
    tiny_model.write(model)
    with server.start(model) as running:
        yield running.address


@pytest.fixture(scope="session")
def grpcurl(tmp_path_factory):
    program = foreign.go_program("grpcurl", tmp_path_factory.mktemp("grpcurl"))
    return lambda *arguments: foreign.grpcurl(program, *arguments)


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return {name: random.uniform(0, 1500, (6, 5, 4)).astype(np.float32) for name in MODALITIES}


@pytest.fixture(scope="module")
def expected(images):
    values = np.array([0, 1, 2, 4], np.uint8)[tiny_model.tissues_by_rule(images)]
    assert len(np.unique(values)) == 4
    return values


# --- grpcurl --------------------------------------------------------------------------------------------


def test_grpcurl_asks_for_health_status_signatures_and_card(grpcurl, address):
    assert grpcurl(address, "grpc.health.v1.Health/Check") == {"status": "SERVING"}
    asked = {"modelSpec": {"name": "tiny"}}
    (version,) = grpcurl(address, "tensorflow.serving.ModelService/GetModelStatus", asked)[
        "model_version_status"
    ]
    assert (version["version"], version["state"]) == ("1", "AVAILABLE")
    asked["metadataField"] = ["signature_def"]
    told = grpcurl(address, "tensorflow.serving.PredictionService/GetModelMetadata", asked)
    signatures = told["metadata"]["signature_def"]["signatureDef"]
    assert {info["dtype"] for info in signatures["serving_default"]["inputs"].values()} == {"DT_FLOAT"}
    described = grpcurl(address, foreign.PREDICT, foreign.request({"file": "tfbrats.json"}, "describe"))
    assert foreign.text(described) == tiny_model.card().to_json()


def test_grpcurl_sends_four_volumes_and_gets_the_labels(grpcurl, address, images, expected):
    answer = grpcurl(address, foreign.PREDICT, foreign.request(images, outputs=["segmentation"]))
    np.testing.assert_array_equal(foreign.labels(answer), expected)
    whole = {name: image.astype(np.int16) for name, image in images.items()}
    answer = grpcurl(address, foreign.PREDICT, foreign.request(whole, "int16", ["segmentation"]))
    found = np.array([0, 1, 2, 4], np.uint8)[tiny_model.tissues_by_rule(whole)]
    np.testing.assert_array_equal(foreign.labels(answer), found)


def test_grpcurl_reads_why_it_was_refused(grpcurl, address, images):
    with pytest.raises(RuntimeError, match=r"NotFound[\s\S]*Servable not found for request: Latest\(nobody\)"):
        grpcurl(address, foreign.PREDICT, foreign.request(images, model="nobody"))
    lacking = {name: image for name, image in images.items() if name != "t2"}
    with pytest.raises(RuntimeError, match=r"InvalidArgument[\s\S]*Missing but required: {t2}"):
        grpcurl(address, foreign.PREDICT, foreign.request(lacking))


# --- ghz ------------------------------------------------------------------------------------------------


def test_ghz_s_calls_all_end_well_and_it_draws_their_histogram(address, images, tmp_path, tmp_path_factory):
    program = foreign.go_program("ghz", tmp_path_factory.mktemp("ghz"))
    data = tmp_path / "request.json"
    data.write_text(json.dumps(foreign.request(images, outputs=["segmentation"])))
    command = [program, "--insecure", "--protoset", foreign.PROTOSET, "--call", foreign.PREDICT]
    command += ["--data-file", data, "--total", CALLS, "--concurrency", AT_ONCE, "--format", "json", address]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["count"] == CALLS and report["statusCodeDistribution"] == {"OK": CALLS}
    assert sum(bar["count"] for bar in report["histogram"]) == CALLS


# --- min-tfs-client -------------------------------------------------------------------------------------

_ITS_MANUAL = """
import json, sys
import numpy as np
from min_tfs_client.requests import TensorServingClient
from min_tfs_client.tensors import tensor_proto_to_ndarray

host, port, file = sys.argv[1:]
inputs = {name: np.array(values, np.float32) for name, values in json.load(open(file)).items()}
client = TensorServingClient(host=host, port=int(port))
tensor = client.predict_request(model_name="tiny", input_dict=inputs).outputs["segmentation"]
if tensor.tensor_content:  # --enable_serialization_as_tensor_content: its helper does not read that
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    labels = np.frombuffer(tensor.tensor_content, np.uint8).reshape(shape)
else:
    labels = tensor_proto_to_ndarray(tensor)
print(json.dumps(labels.tolist()))
"""


@pytest.fixture(scope="session")
def its_python(tmp_path_factory):
    return foreign.python_of_min_tfs_client(tmp_path_factory.mktemp("min_tfs_client"))


def test_min_tfs_client_gets_the_labels_of_the_default_signature(
    its_python, address, images, expected, tmp_path
):
    host, _, port = address.rpartition(":")
    file = tmp_path / "images.json"
    file.write_text(json.dumps({name: image.tolist() for name, image in images.items()}))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [its_python, "-c", _ITS_MANUAL, host, port, file]
    ended = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    np.testing.assert_array_equal(np.array(json.loads(ended.stdout), np.uint8), expected)


# --- the whole clients of serving/examples --------------------------------------------------------------


def scans(folder, axes=nifti.AXES):
    """The four files of a simulated case, in the order of the programs' arguments, and their voxels."""
    data_sets.write_dataset(folder, 1, "2021", seed=1, shape=(48, 40, 24), first=1, axes=axes)
    (entry,) = layouts.find(folder).cases
    paths = {modality: path for modality, path, _ in entry.images}
    image = case.load(entry, MODALITIES, read_label=False).image
    return [paths[name] for name in MODALITIES], {name: image[..., n] for n, name in enumerate(MODALITIES)}


@pytest.fixture(scope="session")
def go_client(tmp_path_factory):
    """The command that begins a call of it."""
    program = tmp_path_factory.mktemp("go_client") / "segment"
    foreign.installed("go", "https://go.dev")
    foreign.made(["go", "build", "-o", str(program), "."], "a Go program", where=EXAMPLES / "go")
    return [str(program)]


@pytest.fixture(scope="session")
def java_client(tmp_path_factory):
    file = tmp_path_factory.mktemp("java_client") / "classpath.txt"
    for name in ("java", "mvn"):
        foreign.installed(name, "Debian's openjdk-17-jdk-headless and maven")
    command = ["mvn", "-q", "-B", "dependency:build-classpath", f"-Dmdep.outputFile={file}"]
    foreign.made(command, "gRPC for Java", where=EXAMPLES / "java")
    return ["java", "-cp", file.read_text(), str(EXAMPLES / "java" / "Segment.java")]


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SRA"])
@pytest.mark.parametrize("language", ["go", "java"])
def test_a_whole_client_writes_the_labels_as_a_file_of_the_case_s_grid(
    language, axes, request, address, tmp_path
):
    client = request.getfixturevalue(f"{language}_client")
    paths, images = scans(tmp_path / "cases", tuple(axes))
    assert "".join(nibabel.aff2axcodes(nibabel.load(paths[0]).affine)) == axes
    output = tmp_path / "seg.nii"
    call = [*client, str(foreign.PROTOSET), address, "tiny", *paths, str(output)]
    ended = subprocess.run(call, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    written = nibabel.load(output)
    expected = np.array([0, 1, 2, 4], np.uint8)[tiny_model.tissues_by_rule(images)]
    assert len(np.unique(expected)) == 4
    codes = nibabel.orientations.axcodes2ornt
    turn = nibabel.orientations.ornt_transform(codes(axes), codes(nifti.AXES))
    found = nibabel.orientations.apply_orientation(np.asarray(written.dataobj), turn)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(written.affine, nibabel.load(paths[0]).affine)
