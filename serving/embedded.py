"""The embedded server at work: its models, its port, and its polling for new versions. Loads TensorFlow."""

import contextlib
import logging
import threading
from collections.abc import Sequence
from concurrent import futures

import grpc
import tensorflow as tf
from grpc_health.v1 import health, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving import model_config, services
from serving.model_config import ModelConfig
from serving.rest import http_port
from serving.rest.metrics import Metrics
from serving.rest.replies import Replies
from serving.rest.rest_application import RestApplication
from serving.versions import Versions
from tfbrats.errors import InputError

log = logging.getLogger(__name__)

GRACE_S = 30  # for calls under way when it is told to stop
# Calls that are no runs: status, metadata, health, and those that are refused.
_SPARE_CALLS = 8
# A float32 case of BraTS is 143 MB. The real server takes 2 GiB, but all messages under way lie in memory.
_MOST_MESSAGE_BYTES = 640 * 2**20
_CHANNEL = (
    ("grpc.max_receive_message_length", _MOST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    # gRPC's own compression is none: a few hundred kB would be unpacked to a message of the largest size.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.so_reuseport", 0),  # without this a second server on the port would share it, unnoticed
)


class Server:
    """A running embedded server: `.port`, `.rest_port`, `.models`, `.model_name`, `.version`, `.stop()`.

    `.rest_port` and `.metrics_path` are None where there is nothing over HTTP.
    """

    def __init__(
        self,
        grpc_server: grpc.Server,
        models: Sequence[Versions],
        host: str,
        port: int,
        poll_s: float,
        rest: http_port.HttpPort | None,
        metrics_path: str | None,
    ):
        self.host = host
        self.port = port
        self.rest_port = rest.number if rest else None
        self.metrics_path = metrics_path if rest else None
        self._rest = rest
        self.models = tuple(models)
        self._grpc = grpc_server
        self._poll_s = poll_s
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="model versions", daemon=True)
        self._poller.start()

    @property
    def model_name(self) -> str:
        """Of the first model."""
        return self.models[0].name

    @property
    def version(self) -> int:
        """The first model's latest."""
        return self.models[0].served[-1]

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def _poll(self) -> None:
        while not self._stopping.wait(self._poll_s):
            for model in self.models:
                try:
                    model.refresh()
                except tf.errors.OpError as error:
                    log.error("%s: cannot look for new versions: %s", model.name, error.message)

    def wait(self) -> None:
        self._grpc.wait_for_termination()

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Takes no new calls, lets running ones end within `grace_s`, cancels the rest, frees the models."""
        self._stopping.set()
        self._grpc.stop(grace_s).wait()
        if self._rest is not None:  # last, so that those who watch see the end
            self._rest.stop()
        self._poller.join()
        for model in self.models:
            model.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.stop(grace_s=0)


def _loaded(config: ModelConfig, warm_up: bool, metrics: Metrics) -> Versions:
    """A model, one version of it loaded at least.

    Raises:
        InputError: no such folder, no version in it, a highest version that cannot be loaded, or a label of a
            version that is not loaded.
    """
    if not tf.io.gfile.isdir(config.base_path):  # in a store: those on the disk have been looked at
        raise model_config.no_folder(config)
    model = Versions(config, warm_up, metrics)
    model.refresh()
    try:
        _check_served(config, model)
    except InputError:
        model.close()
        raise
    return model


def _check_served(config: ModelConfig, model: Versions) -> None:
    """Raises InputError: there is no version, none can be loaded, or a label is of one that is not."""
    states, loaded = model.states(), model.served
    if not states:
        raise model_config.no_version(config)
    if not loaded:
        version, (_, _, text) = max(states.items())
        raise InputError(
            f"{config.base_path}/{version}: the highest version cannot be loaded ({text}). Remove it or "
            "export it again."
        )
    for label, version in config.labels.items():
        if version not in loaded:
            raise InputError(
                f"{config.name}: its label {label!r} is version {version}'s, which is not loaded (loaded: "
                f"{', '.join(map(str, loaded))}). Name it in model_version_policy too, or export it."
            )


def start(
    configs: Sequence[ModelConfig],
    host: str,
    port: int,
    tensor_content: bool,
    poll_s: float,
    max_workers: int,
    max_enqueued: int,
    warm_up: bool,
    rest_port: int | None,
    metrics_path: str | None,
) -> Server:
    """Serves some models; returns once it answers. Arguments as `server.start`'s.

    Raises:
        InputError: a model that cannot be served (`_loaded`), or a port that is taken.
    """
    with contextlib.ExitStack() as begun:  # closes what was begun, if a later step fails
        listening = None
        if rest_port is not None:  # before the models, which take long to load
            advice = "Is another server running? Give another --rest_api_port."
            listening = begun.enter_context(http_port.bound(host, rest_port, advice))
        metrics = Metrics([config.name for config in configs])
        models = []
        for config in configs:
            models.append(_loaded(config, warm_up, metrics))
            begun.callback(models[-1].close)
        by_name = services.Models(models)
        prediction = services.Prediction(by_name, max_workers, max_enqueued, tensor_content, metrics)
        calls = max_workers + max_enqueued + _SPARE_CALLS
        grpc_server, bound = _listening(prediction, services.Status(by_name), f"{host}:{port}", calls)
        begun.callback(grpc_server.stop, 0)
        rest = None
        if listening is not None:
            replies = Replies(by_name, metrics, metrics_path, bound)
            rest = http_port.HttpPort(RestApplication(replies, metrics), listening, "rest")
        begun.pop_all()
    return Server(grpc_server, models, host, bound, poll_s, rest, metrics_path)


def _listening(
    prediction: services.Prediction, status: services.Status, address: str, calls: int
) -> tuple[grpc.Server, int]:
    """A gRPC server at work, and its port.

    Args:
        calls: that are taken at once.

    Raises:
        InputError: the port is taken.
    """
    pool = futures.ThreadPoolExecutor(calls, thread_name_prefix="call")
    grpc_server = grpc.server(
        pool, interceptors=[services.Readable()], maximum_concurrent_rpcs=calls, options=_CHANNEL
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, grpc_server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(status, grpc_server)
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), grpc_server)  # "" is SERVING
    try:
        port = grpc_server.add_insecure_port(address)
    except RuntimeError as error:
        raise InputError(
            f"{address}: cannot listen there ({error}). Is another server running? Give another "
            "--port, or 0 for any free one."
        ) from error
    grpc_server.start()
    return grpc_server, port
