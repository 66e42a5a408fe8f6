"""Where a server shows its metrics: `monitoring.config` as TensorFlow Serving reads it."""

import os

from google.protobuf import text_format

from tfbrats.errors import InputError
from tfbrats.machine import files, protobuf

METRICS_PATH = "/monitoring/prometheus/metrics"  # of the real server, where its config names no other

# Names and types as in tensorflow_serving/config/monitoring_config.proto, which the stubs lack. The numbers are
# not its own: text has no use for them.
_CLASSES = protobuf.message_classes(
    "tfbrats.monitoring",
    {
        "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
        "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
    },
)


def read(path: str | os.PathLike) -> str | None:
    """The path of the metrics, or None where they are not switched on.

    Raises:
        InputError: no such file, or the real server would not take it either.
    """
    expected = "Text format of tensorflow.serving.MonitoringConfig; serving/monitoring.config is one."
    try:
        parsed = text_format.Parse(files.read_text(path), _CLASSES["MonitoringConfig"]())
    except text_format.ParseError as error:
        raise InputError(f"{path}: cannot be read: {error}. {expected}") from error
    prometheus = parsed.prometheus_config
    if prometheus.path and not prometheus.path.startswith("/"):
        raise InputError(f"{path}: its path is {prometheus.path!r}; expected one that begins with /.")
    return (prometheus.path or METRICS_PATH) if prometheus.enable else None
