"""The files for the real TensorFlow Serving, read with the schema that their reader has."""

import pathlib
import re

import yaml
from google.protobuf import text_format

from tfbrats.machine import protobuf

SERVING = pathlib.Path(__file__).parents[2] / "serving"
KUBERNETES = SERVING / "kubernetes"
REST_PORT = 8501  # the image's

# What the stubs on PyPI lack. Names and types as in tensorflow_serving/config/{monitoring,ssl}_config.proto and
# servables/tensorflow/session_bundle_config.proto (its last two: bundle_factory_util.h, which reads them). The
# numbers are not theirs: text has no use for them.
_CLASSES = protobuf.message_classes(
    "server_files",
    {
        "Bool": {"value": (1, "bool")},
        "Int64": {"value": (1, "int64")},
        "String": {"value": (1, "string")},
        "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
        "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
        "SSLConfig": {
            "server_key": (1, "string"),
            "server_cert": (2, "string"),
            "custom_ca": (3, "string"),
            "client_verify": (4, "bool"),
        },
        "BatchingParameters": {
            "max_batch_size": (1, "Int64"),
            "batch_timeout_micros": (2, "Int64"),
            "max_enqueued_batches": (3, "Int64"),
            "num_batch_threads": (4, "Int64"),
            "thread_pool_name": (5, "String"),
            "allowed_batch_sizes": (6, "[int64]"),
            "pad_variable_length_inputs": (7, "bool"),
            "enable_large_batch_splitting": (8, "Bool"),
            "max_execution_batch_size": (9, "Int64"),
        },
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
    """Of the base: what every installation on Kubernetes has."""
    return yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())


def kubernetes(kind, name=None):
    """The one object of a kind, and of a name where there are several, of the base."""
    objects = [
        yaml.safe_load((KUBERNETES / "base" / file).read_text()) for file in kustomization()["resources"]
    ]
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
    text = (KUBERNETES / "base" / "deployment.yaml").read_text()
    own, case = re.search(r"# Reckoned: (\S+) GiB, and (\S+) GiB for each call under way", text).groups()
    return float(own) + (calls + 1) * float(case)
