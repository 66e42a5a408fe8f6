"""The files for the real TensorFlow Serving are what its own protos and flags take."""

import http.server
import pathlib
import re
import subprocess
import threading

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

import serving

HERE = pathlib.Path(serving.__file__).parent
Field = descriptor_pb2.FieldDescriptorProto


def message(name, **fields):
    """A message class: the stubs on PyPI lack these two. field = (number, type, whether repeated)."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{name}.proto", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(name="enable", number=1, type=Field.TYPE_BOOL, label=Field.LABEL_OPTIONAL)
    prometheus.field.add(name="path", number=2, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    built = file.message_type.add(name=name)
    for field, (number, kind, repeated) in fields.items():
        entry = built.field.add(name=field, number=number)
        entry.label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
        if isinstance(kind, str):
            entry.type, entry.type_name = Field.TYPE_MESSAGE, kind
        else:
            entry.type = kind
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


_INT64 = ".google.protobuf.Int64Value"
# tensorflow_serving/servables/tensorflow/session_bundle_config.proto
BatchingParameters = message(
    "BatchingParameters",
    max_batch_size=(1, _INT64, False),
    batch_timeout_micros=(2, _INT64, False),
    max_enqueued_batches=(3, _INT64, False),
    num_batch_threads=(4, _INT64, False),
    thread_pool_name=(5, ".google.protobuf.StringValue", False),
    allowed_batch_sizes=(6, Field.TYPE_INT64, True),
    pad_variable_length_inputs=(7, Field.TYPE_BOOL, False),
)
# tensorflow_serving/config/monitoring_config.proto
MonitoringConfig = message("MonitoringConfig", prometheus_config=(1, ".PrometheusConfig", False))


def models(text):
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config


def test_models_config_serves_the_latest_version_of_cun():
    (model,) = models((HERE / "models.config").read_text())
    assert (model.name, model.base_path, model.model_platform) == ("cun", "/models/cun", "tensorflow")
    assert model.model_version_policy.latest.num_versions == 1


def test_the_labels_of_models_config_work_once_uncommented():
    text = (HERE / "models.config").read_text()
    text = text.replace("    model_version_policy { latest { num_versions: 1 } }\n", "")
    text = re.sub(r"^( +)# ((?:model_version_policy|version_labels) \{)", r"\1\2", text, flags=re.MULTILINE)
    (model,) = models(text)
    assert list(model.model_version_policy.specific.versions) == [1, 2]
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}


def test_batching_config_ends_its_sizes_at_the_largest_batch():
    config = text_format.Parse((HERE / "batching.config").read_text(), BatchingParameters())
    sizes = list(config.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == config.max_batch_size.value == 4


def test_monitoring_config_exposes_metrics():
    config = text_format.Parse((HERE / "monitoring.config").read_text(), MonitoringConfig())
    assert config.prometheus_config.enable
    assert config.prometheus_config.path.startswith("/monitoring/")


@pytest.fixture
def service():
    return yaml.safe_load((HERE / "compose.yaml").read_text())["services"]["serving"]


def test_compose_mounts_every_file_its_flags_name_and_the_models_read_only(service):
    mounts = {}
    for volume in service["volumes"]:
        if isinstance(volume, str):
            source, target, mode = volume.split(":")
            mounts[target] = (HERE / source, mode == "ro")
        else:
            mounts[volume["target"]] = (None, volume["read_only"])
    assert all(read_only for _, read_only in mounts.values())
    named = re.findall(r"=(/config/\S+)", " ".join(service["command"]))
    assert set(named) == set(mounts) - {"/models"}
    assert all(mounts[path][0].is_file() for path in named)
    (model,) = models((HERE / "models.config").read_text())
    assert model.base_path.startswith("/models/")


def test_compose_is_closed_to_other_machines_and_leaves_batching_off(service):
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert {port.rsplit(":", 1)[1] for port in service["ports"]} == {"8500", "8501"}
    assert not any("batching" in flag for flag in service["command"])
    assert "${TFSERVING_TAG" in service["image"]


@pytest.mark.parametrize(("status", "ready"), [(200, True), (404, False)])
def test_the_readiness_check_of_compose_asks_for_the_models_metadata(service, status, ready):
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
        kind, *check = service["healthcheck"]["test"]
        assert kind == "CMD"
        check[-1] = check[-1].replace("8501", str(rest.server_port))
        done = subprocess.run(check, timeout=10)
        rest.shutdown()
    assert (done.returncode == 0) is ready
    assert asked == ["/v1/models/cun/metadata"]
