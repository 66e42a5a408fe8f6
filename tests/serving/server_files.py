"""The files for the real TensorFlow Serving, read with the schema that their reader has."""

import pathlib
import re

import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

SERVING = pathlib.Path(__file__).parents[2] / "serving"
REST_PORT = 8501  # the image's

_Field = descriptor_pb2.FieldDescriptorProto
_STRING, _BOOL, _INT64 = _Field.TYPE_STRING, _Field.TYPE_BOOL, _Field.TYPE_INT64


def _messages(**messages):
    """Message classes by name. A field is a type, another message's name, or a list of one: repeated."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="server_files.proto", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    for name, fields in messages.items():
        built = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            repeated = isinstance(kind, list)
            kind = kind[0] if repeated else kind
            entry = built.field.add(name=field, number=number)
            entry.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                entry.type, entry.type_name = _Field.TYPE_MESSAGE, kind
            else:
                entry.type = kind
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in messages}


# What the stubs on PyPI lack. Names and types as in tensorflow_serving/config/{monitoring,ssl}_config.proto and
# servables/tensorflow/session_bundle_config.proto (its last two: bundle_factory_util.h, which reads them). The
# numbers are not theirs: text has no use for them.
_CLASSES = _messages(
    PrometheusConfig={"enable": _BOOL, "path": _STRING},
    MonitoringConfig={"prometheus_config": ".PrometheusConfig"},
    SSLConfig={"server_key": _STRING, "server_cert": _STRING, "custom_ca": _STRING, "client_verify": _BOOL},
    BatchingParameters={
        "max_batch_size": ".google.protobuf.Int64Value",
        "batch_timeout_micros": ".google.protobuf.Int64Value",
        "max_enqueued_batches": ".google.protobuf.Int64Value",
        "num_batch_threads": ".google.protobuf.Int64Value",
        "thread_pool_name": ".google.protobuf.StringValue",
        "allowed_batch_sizes": [_INT64],
        "pad_variable_length_inputs": _BOOL,
        "enable_large_batch_splitting": ".google.protobuf.BoolValue",
        "max_execution_batch_size": ".google.protobuf.Int64Value",
    },
)


def parsed(path, message):
    """A file in protobuf's text format, as one of the messages above."""
    return text_format.Parse(pathlib.Path(path).read_text(), _CLASSES[message]())


def frozen(name):
    """The rows of a list beside this file, as lists of words."""
    lines = (pathlib.Path(__file__).parent / name).read_text().splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def commands(name):
    """What the comments at the head of a file have indented."""
    lines = (SERVING / name).read_text().splitlines()
    return [line.removeprefix("#").strip() for line in lines if line.startswith("#   ")]


def compose():
    """The one service of compose.yaml, the variables at their defaults."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (SERVING / "compose.yaml").read_text())
    return yaml.safe_load(text)["services"]["serving"]


def kustomization():
    return yaml.safe_load((SERVING / "kustomization.yaml").read_text())


def kubernetes(kind, name=None):
    """The one object of a kind, and of a name where there are several, under kubernetes/."""
    objects = [yaml.safe_load(path.read_text()) for path in (SERVING / "kubernetes").glob("*.yaml")]
    (found,) = (one for one in objects if one["kind"] == kind and name in (None, one["metadata"]["name"]))
    return found


def container():
    """Of the Deployment's pods."""
    (found,) = kubernetes("Deployment")["spec"]["template"]["spec"]["containers"]
    return found


def calls_at_once(flags):
    """How many calls run with these flags: one thread stays free to say RESOURCE_EXHAUSTED."""
    (threads,) = (flag.partition("=")[2] for flag in flags if flag.startswith("--grpc_max_threads="))
    return int(threads) - 1


def memory_gib(calls):
    """What the server takes with so many cases under way, by the figures in deployment.yaml's comment.

    One more is added for a version that warms up beside them.
    """
    text = (SERVING / "kubernetes" / "deployment.yaml").read_text()
    own, case = re.search(r"# Reckoned: (\S+) GiB, and (\S+) GiB for each call under way", text).groups()
    return float(own) + (calls + 1) * float(case)
