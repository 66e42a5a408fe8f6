"""An embedded server that answers as TensorFlow Serving does. For the desk and the tests: NO PRODUCTION SERVER.

    tfbrats serve --model_base_path models/cun --port 8500

Serves the highest integer-named version under the base path, or what models.config names; looks for newer ones
and swaps without failing a request. Flags are named as tensorflow_model_server's, so that a command line can
move there. It has no REST, batching, metrics or TLS: see serving/README.md.
"""

if __name__ == "__main__" and not __package__:  # a file run as a script sees neither its package nor tfbrats
    raise SystemExit("error: run it as python -m serving.server from the folder above.")

import argparse
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Sequence
from concurrent import futures

import grpc
import tensorflow as tf
from grpc_health.v1 import health, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving import model_config, services
from serving.model_config import ModelConfig
from serving.versions import Versions, is_version
from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.terminal import command

log = logging.getLogger(__name__)

# Calls that are no runs: status, metadata, health, and those that are refused.
_SPARE_CALLS = 8
# A float32 case of BraTS is 143 MB. The real server takes 2 GiB, but all messages under way lie in memory.
_MOST_MESSAGE_BYTES = 640 * 2**20
_GRACE_S = 30  # for calls under way when it is told to stop
_CHANNEL = (
    ("grpc.max_receive_message_length", _MOST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    # gRPC's own compression is none: a few hundred kB would be unpacked to a message of the largest size.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.so_reuseport", 0),  # without this a second server on the port would share it, unnoticed
)


class Server:
    """A running embedded server: `.port`, `.models`, `.model_name`, `.version`, `.stop()`."""

    def __init__(
        self, grpc_server: grpc.Server, models: Sequence[Versions], host: str, port: int, poll_s: float
    ):
        self.host = host
        self.port = port
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

    def stop(self, grace_s: float = _GRACE_S) -> None:
        """Takes no new calls, lets running ones end within `grace_s`, cancels the rest, frees the models."""
        self._stopping.set()
        self._grpc.stop(grace_s).wait()
        self._poller.join()
        for model in self.models:
            model.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.stop(grace_s=0)


def _loaded(config: ModelConfig, warm_up: bool) -> Versions:
    """A model, one version of it loaded at least.

    Raises:
        InputError: no such folder, no version in it, a highest version that cannot be loaded, or a label of a
            version that is not loaded.
    """
    base_path = config.base_path
    if not tf.io.gfile.isdir(base_path):
        raise InputError(
            f"{base_path}: no such folder. Give the folder that holds a model's versions, e.g. models/cun with "
            "models/cun/1 in it; `tfbrats export` writes one."
        )
    model = Versions(config, warm_up)
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
        asked = f" or of {', '.join(map(str, config.specific))}, which are wanted" if config.specific else ""
        hint = " It is itself one version: give its parent folder." if is_version(config.base_path) else ""
        raise InputError(
            f"{config.base_path}: no version in it, i.e. no folder named by a whole number such as 1{asked}."
            f"{hint}"
        )
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
    model_base_path: str | os.PathLike | None = None,
    port: int = 0,
    model_name: str | None = None,
    host: str = "127.0.0.1",
    tensor_content: bool = False,
    poll_s: float = 1,
    max_workers: int = 2,
    max_enqueued: int = 22,
    warm_up: bool = True,
    model_config_file: str | os.PathLike | None = None,
) -> Server:
    """Serves the highest version under `model_base_path`, or what a config file names; returns once it answers.

    Args:
        port: 0 picks a free one (see the returned server's `.port`).
        model_name: the base path's last part if None.
        tensor_content: answers hold bytes, not repeated values.
        poll_s: seconds between looks for new versions.
        max_workers: calls that run at once.
        max_enqueued: calls that wait for their turn; more are refused with RESOURCE_EXHAUSTED, and a few above
            that before their message is read.
        warm_up: replay a version's warm-up records before it serves; one that fails fails the version.
        model_config_file: `models.config`, in place of one base path.

    Raises:
        InputError: a model that cannot be served (`_loaded`), or a port that is taken.
    """
    if not 0 <= port <= 65535:  # gRPC would take another, without a word
        raise InputError(f"--port {port}: there are ports 1 to 65535, and 0 for any free one.")
    configs = _configs(model_base_path, model_name, model_config_file)
    with contextlib.ExitStack() as loaded:  # closes what was loaded, if a later step fails
        models = []
        for config in configs:
            models.append(_loaded(config, warm_up))
            loaded.callback(models[-1].close)
        by_name = services.Models(models)
        prediction = services.Prediction(by_name, max_workers, max_enqueued, tensor_content)
        calls = max_workers + max_enqueued + _SPARE_CALLS
        grpc_server, bound = _listening(prediction, services.Status(by_name), f"{host}:{port}", calls)
        loaded.pop_all()
    return Server(grpc_server, models, host, bound, poll_s)


def _configs(
    model_base_path: str | os.PathLike | None,
    model_name: str | None,
    model_config_file: str | os.PathLike | None,
) -> list[ModelConfig]:
    """Which models are to be served. Raises InputError: not told, or told twice."""
    if (model_base_path is None) == (model_config_file is None):
        raise InputError("which models? Give --model_base_path or --model_config_file, one of the two.")
    if model_config_file is None:
        base_path = os.fspath(model_base_path).rstrip("/")
        return [ModelConfig(model_name or files.name(base_path), base_path)]
    if model_name is not None:
        raise InputError(
            f"--model_name {model_name}: {model_config_file} names its models itself. Leave it out."
        )
    return model_config.read(model_config_file)


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


def _flag(text: str) -> bool:
    """--flag, --flag=true, --flag=false, as the real server reads them."""
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r}: true or false")


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("serving.server", __doc__)
    parser.add_argument("--model_base_path", type=paths.argument, help="folder of versions, e.g. models/cun")
    parser.add_argument(
        "--model_config_file",
        type=paths.argument,
        help="in its place: models.config, several models, versions and their labels",
    )
    parser.add_argument("--port", type=int, default=8500, help="0 picks a free one (default: %(default)s)")
    parser.add_argument("--model_name", help="default: the last part of --model_base_path")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="default: %(default)s, this machine alone; 0.0.0.0 lets others in, without encryption or log-in",
    )
    parser.add_argument(
        "--enable_serialization_as_tensor_content",
        type=_flag,
        nargs="?",
        const=True,
        default=False,
        metavar="BOOL",
        help="answers as bytes, not as repeated values (default: %(default)s)",
    )
    parser.add_argument(
        "--enable_model_warmup",
        type=_flag,
        nargs="?",
        const=True,
        default=True,
        metavar="BOOL",
        help="replay a version's warm-up records before it serves (default: %(default)s)",
    )
    parser.add_argument(
        "--file_system_poll_wait_seconds",
        type=float,
        default=1,
        help="between looks for new versions (default: %(default)s)",
    )
    parser.add_argument(
        "--max_workers", type=int, default=2, help="calls that run at once (default: %(default)s)"
    )
    parser.add_argument(
        "--max_enqueued",
        type=int,
        default=22,
        help="calls that wait; more are refused with RESOURCE_EXHAUSTED (default: %(default)s)",
    )
    return parser


def _announce(host: str) -> None:
    print(
        "The embedded server of tfbrats, for the desk and the tests: no production server. "
        "serving/README.md has the real one.",
        flush=True,
    )
    if host not in ("127.0.0.1", "localhost", "::1"):
        print(
            f"WARNING: listening on {host}: whoever reaches this machine can send it cases and read what "
            "comes back, without encryption or log-in. Patients' scans do not belong on such a line.",
            flush=True,
        )


def _serve_until_told(server: Server) -> None:
    """Returns once SIGTERM or SIGINT has come, and calls under way have ended or been cancelled."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    for model in server.models:
        versions = ", ".join(map(str, model.served))
        print(f"ready: {model.name} version {versions} on {server.address}", flush=True)
    stop.wait()
    for number, handler in before.items():  # once more ends it at once
        signal.signal(number, handler)
    print(f"stopping: calls under way have {_GRACE_S} s to end", flush=True)
    server.stop(_GRACE_S)


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    if options.max_workers < 1 or options.file_system_poll_wait_seconds <= 0 or options.max_enqueued < 0:
        raise InputError(
            "--max_workers and --file_system_poll_wait_seconds must be above 0, --max_enqueued not below."
        )
    logging.getLogger("serving").setLevel(logging.INFO)
    _announce(options.host)
    server = start(
        options.model_base_path,
        model_config_file=options.model_config_file,
        port=options.port,
        model_name=options.model_name,
        host=options.host,
        tensor_content=options.enable_serialization_as_tensor_content,
        poll_s=options.file_system_poll_wait_seconds,
        max_workers=options.max_workers,
        max_enqueued=options.max_enqueued,
        warm_up=options.enable_model_warmup,
    )
    _serve_until_told(server)


if __name__ == "__main__":
    command.run(main)
