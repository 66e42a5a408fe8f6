"""The files for the real TensorFlow Serving are what it takes, and fit each other.

No such server was at hand. So each file is read as the server reads it (server_files.py), flags are looked up
in a frozen list of the server's, the models' configs are run by the embedded server and the commands in the
files' heads by a shell. test_kubernetes.py and test_monitoring.py do the same for the rest.
"""

import contextlib
import http.server
import re
import shutil
import subprocess
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
import tiny_model
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from server_files import (
    REST_PORT,
    SERVING,
    calls_at_once,
    commands,
    compose,
    container,
    frozen,
    kustomization,
    memory_gib,
    parsed,
)
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import model_config, server
from tfbrats.errors import InputError
from tfbrats.exports import op_list

MODEL_FILES = ("models.config", "models_canary.config", "models_batching.config")


# --- which models ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with models/cun/1, models/cun/2 and serving/. Read only but for other models."""
    folder = tmp_path_factory.mktemp("workspace")
    for version in (1, 2):
        tiny_model.write(folder / "models" / "cun", version)
    (folder / "serving").symlink_to(SERVING)
    return folder


@contextlib.contextmanager
def served(name, workspace, tmp_path):
    """The embedded server on one of the files: its Predict."""
    text = (SERVING / name).read_text()
    assert '"/models/' in text
    config = tmp_path / name
    config.write_text(text.replace('"/models/', f'"{workspace}/models/'))
    with (
        server.start(model_config_file=config) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict


def slices_of(model, label=None):
    """A call of the model's signature `slices`."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, "slices"
    if label is not None:
        request.model_spec.version_label = label
    values = np.arange(2 * 3 * 3 * 4, dtype=np.float32).reshape(2, 3, 3, 4)
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(values))
    return request


def test_models_config_serves_the_highest_version_of_cun(workspace, tmp_path):
    (model,) = model_config.read(SERVING / "models.config")
    assert (model.name, model.base_path, model.latest) == ("cun", "/models/cun", 1)
    with served("models.config", workspace, tmp_path) as predict:
        assert predict(slices_of("cun"), timeout=20).model_spec.version.value == 2


def test_the_canary_config_serves_both_versions_by_their_labels(workspace, tmp_path):
    with served("models_canary.config", workspace, tmp_path) as predict:
        versions = {
            label: predict(slices_of("cun", label), timeout=20).model_spec.version.value
            for label in ("stable", "canary", None)
        }
        assert versions == {"stable": 1, "canary": 2, None: 2}
        with pytest.raises(grpc.RpcError) as refused:
            predict(slices_of("cun", "beta"), timeout=20)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_canary_config_wants_the_canary_to_be_there(workspace, tmp_path):
    shutil.copytree(workspace / "models" / "cun" / "1", tmp_path / "models" / "cun" / "1")
    wanted = pytest.raises(InputError, match=r"label 'canary' is version 2's, which is not loaded")
    with wanted, served("models_canary.config", tmp_path, tmp_path):
        pass


@pytest.fixture(scope="module")
def copied(workspace):
    """The version that the commands in models_batching.config make."""
    warm_up = workspace / "models" / "cun" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    warm_up.parent.mkdir(exist_ok=True)
    warm_up.touch()
    lines = [line for line in commands("models_batching.config") if not line.startswith("--")]
    subprocess.run(["bash", "-euc", "\n".join(lines)], cwd=workspace, check=True)
    return workspace / "models" / "cun_batched" / "1"


def test_the_copy_for_batching_has_parameters_and_no_warm_up(workspace, copied):
    # The real server batches a version that holds this file, and sends the warm-up through the batches.
    assert parsed(copied / "batching_params.pbtxt", "BatchingParameters").max_batch_size.value == 4
    assert (workspace / "models" / "cun" / "1" / "assets.extra").exists()
    assert not (copied / "assets.extra").exists()
    assert [path.name for path in copied.parent.iterdir()] == ["1"]


def test_the_copy_for_batching_answers_as_the_model_does(workspace, copied, tmp_path):
    assert copied.exists()
    with served("models_batching.config", workspace, tmp_path) as predict:
        plain, other = (predict(slices_of(name), timeout=20) for name in ("cun", "cun_batched"))
    assert (plain.model_spec.version.value, other.model_spec.version.value) == (2, 1)
    assert plain.outputs == other.outputs


def test_whole_cases_keep_a_name_that_is_not_batched():
    whole, batched = model_config.read(SERVING / "models_batching.config")
    (plain,) = model_config.read(SERVING / "models.config")
    assert whole == plain
    assert batched.base_path != whole.base_path
    assert [line for line in commands("models_batching.config") if line.startswith("--")] == [
        "--enable_batching=true",
        "--enable_per_model_batching_parameters=true",  # else the first batches every model
        "--batching_parameters_file=/config/batching.config",
    ]


def test_batching_refuses_more_than_its_largest_batch_and_ends_its_sizes_there():
    config = parsed(SERVING / "batching.config", "BatchingParameters")
    sizes = list(config.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == config.max_batch_size.value == 4
    assert config.HasField("enable_large_batch_splitting")
    assert not config.enable_large_batch_splitting.value


@pytest.mark.parametrize("flags", [compose()["command"], container()["args"]], ids=["compose", "kubernetes"])
def test_the_largest_batch_can_be_filled_by_the_calls_that_run_at_once(flags):
    config = parsed(SERVING / "batching.config", "BatchingParameters")
    assert config.max_batch_size.value <= calls_at_once(flags)


# --- flags ----------------------------------------------------------------------------------------------

FLAGS = dict(frozen("server_flags.txt"))
VALUES = {"bool": r"true|false", "int": r"\d+", "float": r"\d*\.?\d+", "string": r"\S+"}


def wrong(flag):
    """What is wrong with a flag as it stands in a command; "" if nothing is."""
    name, equals, value = flag.removeprefix("--").partition("=")
    if name not in FLAGS:
        return f"{flag}: the server has no such flag"
    if not equals or not re.fullmatch(VALUES[FLAGS[name]], value):
        return f"{flag}: takes =VALUE, {FLAGS[name]}"
    return ""


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--enable_batching=true", ""),
        ("--enable_batchin=true", "--enable_batchin=true: the server has no such flag"),
        ("--enable_batching=yes", "--enable_batching=yes: takes =VALUE, bool"),
        ("--port", "--port: takes =VALUE, int"),
        ("--port=85OO", "--port=85OO: takes =VALUE, int"),
    ],
)
def test_a_flag_is_looked_up_by_name_and_by_kind(flag, says):
    assert wrong(flag) == says


@pytest.mark.parametrize("flags", [compose()["command"], container()["args"]], ids=["compose", "kubernetes"])
def test_every_flag_of_the_containers_is_the_servers(flags):
    assert [text for text in map(wrong, flags) if text] == []
    names = [flag.partition("=")[0] for flag in flags]
    assert len(set(names)) == len(names)
    assert "--allow_version_labels_for_unavailable_models=true" in flags  # else no start with labels
    assert "--enable_serialization_as_tensor_content=true" in flags


HOW_TO = SERVING.parent / "docs" / "how-to"
PAGES = [HOW_TO / f"{name}.md" for name in ("serve", "tensorflow-serving", "kubernetes")]
TEXTS = [*PAGES, *sorted(SERVING.glob("*.config"))]
# The server's flags but for --port and --version; Docker's and kubectl's have hyphens.
UNDERSCORED = r"--[a-z]+(?:_[a-z]+)+"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_flag_that_a_text_names_is_the_servers_or_our_own(path):
    sources = [source.read_text() for source in SERVING.glob("*.py")]
    ours = {name for source in sources for name in re.findall(rf'"({UNDERSCORED})"', source)}
    assert "--max_enqueued" in ours
    named = set(re.findall(UNDERSCORED, path.read_text()))
    assert sorted(name for name in named - ours if name.removeprefix("--") not in FLAGS) == []


def test_flags_that_a_text_shows_with_a_value_take_it():
    texts = [path.read_text() for path in TEXTS]
    shown = [flag for text in texts for flag in re.findall(rf"{UNDERSCORED}=[^\s`),;:]+", text)]
    assert "--enable_batching=true" in shown
    assert [text for text in map(wrong, shown) if text] == []


# --- compose --------------------------------------------------------------------------------------------


def test_compose_mounts_models_and_the_files_its_flags_name_read_only():
    models, config = compose()["volumes"]
    assert (models["target"], models["read_only"]) == ("/models", True)
    assert config == ".:/config:ro"
    named = re.findall(r"=/config/(\S+)", " ".join(compose()["command"]))
    assert named == ["models.config", "monitoring.config"]
    assert all((SERVING / name).is_file() for name in named)
    bases = [model.base_path for name in MODEL_FILES for model in model_config.read(SERVING / name)]
    assert all(base.startswith("/models/") for base in bases)


def test_compose_is_closed_to_other_machines_and_leaves_batching_off():
    ports = compose()["ports"]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert {port.rsplit(":", 1)[1] for port in ports} == {"8500", str(REST_PORT)}
    assert not any("batching" in flag for flag in compose()["command"])


def test_as_many_cases_as_the_threads_take_fit_into_the_memory_of_compose_and_one_more_would_not():
    calls = calls_at_once(compose()["command"])
    limit_gib = int(re.fullmatch(r"(\d+)g", compose()["mem_limit"]).group(1))
    assert memory_gib(calls) <= limit_gib < memory_gib(calls + 1)


@pytest.mark.parametrize(("status", "ready"), [(200, True), (404, False)])
def test_the_readiness_check_of_compose_asks_for_the_models_metadata(status, ready):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as rest:
        threading.Thread(target=rest.serve_forever, daemon=True).start()
        kind, *check = compose()["healthcheck"]["test"]
        assert kind == "CMD"
        check[-1] = check[-1].replace(str(REST_PORT), str(rest.server_port))
        done = subprocess.run(check, timeout=10)
        rest.shutdown()
    assert (done.returncode == 0) is ready
    assert asked == ["/v1/models/cun/metadata"]


def test_one_image_is_named_everywhere_and_is_of_the_tensorflow_whose_ops_an_export_is_held_against():
    (image,) = kustomization()["images"]
    assert image["name"] == container()["image"]  # without a tag: the kustomization sets it
    named = f"{image['name']}:{image['newTag']}"
    assert compose()["image"] == named
    pages = "".join(page.read_text() for page in PAGES)
    assert set(re.findall(r"tensorflow/serving:[\w.-]+", pages)) == {named}
    assert image["newTag"] == op_list.read().tensorflow  # whose ops an export is held against


# --- TLS ------------------------------------------------------------------------------------------------


def test_the_tls_file_as_it_comes_has_every_field_and_no_key():
    config = parsed(SERVING / "ssl.config", "SSLConfig")
    assert "YOUR KEY" in config.server_key and "YOUR CERTIFICATE" in config.server_cert
    assert not config.client_verify


@pytest.mark.parametrize("clients_show_one", [False, True])
def test_the_tls_file_that_its_commands_make_encrypts(clients_show_one, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    made = "-x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    files = "-keyout key.pem -out certificate.pem"
    command = ["openssl", "req", *made.split(), *files.split()]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    shutil.copy(tmp_path / "certificate.pem", tmp_path / "clients.pem")
    (tmp_path / "tls").mkdir()
    function, plain, with_clients = commands("ssl.config")
    lines = [function, plain, *([with_clients] if clients_show_one else [])]
    subprocess.run(["bash", "-euc", "\n".join(lines)], cwd=tmp_path, check=True)

    config = parsed(tmp_path / "tls" / "ssl.config", "SSLConfig")
    key, certificate = ((tmp_path / name).read_bytes() for name in ("key.pem", "certificate.pem"))
    assert (config.server_key.encode(), config.server_cert.encode()) == (key, certificate)
    assert config.client_verify is clients_show_one
    # As the server's server.cc builds them.
    credentials = grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
    with tls_server(credentials) as address:
        assert healthy(address, grpc.ssl_channel_credentials(certificate, key, certificate))
        assert healthy(address, grpc.ssl_channel_credentials(certificate)) is not clients_show_one


@contextlib.contextmanager
def tls_server(credentials):
    """A gRPC server with a health service: its address."""
    running = grpc.server(futures.ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), running)
    port = running.add_secure_port("localhost:0", credentials)
    running.start()
    yield f"localhost:{port}"
    running.stop(None).wait()


def healthy(address, credentials):
    """Whether the server answers a client with these credentials."""
    with grpc.secure_channel(address, credentials) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING
