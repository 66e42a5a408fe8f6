"""An embedded server that answers as TensorFlow Serving does. For the desk and the tests: NO PRODUCTION SERVER.

    tfbrats serve --model_base_path models/cun --port 8500
    tfbrats serve --model_base_path models/cun --page       # and a page for the browser (tfbrats page)
    tfbrats serve --model_base_path models/cun --rest_api_port 8501    # and status and metrics over HTTP

Serves the highest integer-named version under the base path, or what models.config names; looks for newer ones
and swaps without failing a request. Flags are named as tensorflow_model_server's, so that a command line can
move there. Over HTTP it answers what dashboards and probes ask, and no predictions. It has no batching and no
TLS: see docs/how-to/serve.md.
"""

if __name__ == "__main__" and not __package__:  # a file run as a script sees neither its package nor tfbrats
    raise SystemExit("error: run it as python -m serving.server from the folder above.")

import argparse
import logging
import os
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from serving import model_config
from serving.model_config import ModelConfig
from serving.page import door
from serving.rest import monitoring_config
from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.terminal import command, style, verbs

if TYPE_CHECKING:
    from serving.embedded import Server
    from serving.page.web import Page


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
    rest_api_port: int | None = None,
    monitoring_config_file: str | os.PathLike | None = None,
) -> "Server":
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
        rest_api_port: for status and metrics over HTTP; None for neither, 0 for any free one.
        monitoring_config_file: `monitoring.config`, which moves the metrics or switches them off.

    Raises:
        InputError: a model that cannot be served, or a port that is taken.
    """
    for option, number in (("--port", port), ("--rest_api_port", rest_api_port or 0)):
        if not 0 <= number <= 65535:  # gRPC would take another, without a word
            raise InputError(f"{option} {number}: there are ports 1 to 65535, and 0 for any free one.")
    if rest_api_port is None and monitoring_config_file is not None:
        raise InputError(
            f"--monitoring_config_file {monitoring_config_file}: metrics need --rest_api_port, e.g. 8501."
        )
    metrics_path = monitoring_config.METRICS_PATH
    if monitoring_config_file is not None:
        metrics_path = monitoring_config.read(monitoring_config_file)
    configs = _configs(model_base_path, model_name, model_config_file)
    for config in configs:
        model_config.check_folder(config)
    from serving import embedded  # TensorFlow: after all that can be told without it

    return embedded.start(
        configs,
        host,
        port,
        tensor_content,
        poll_s,
        max_workers,
        max_enqueued,
        warm_up,
        rest_api_port,
        metrics_path,
    )


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


def _flag(text: str) -> bool:
    """--flag, --flag=true, --flag=false, as the real server reads them."""
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r}: true or false")


def parser() -> command.Parser:
    """The options."""
    options = command.parser("serving.server", __doc__)
    options.add_argument("--model_base_path", type=paths.argument, help="folder of versions, e.g. models/cun")
    options.add_argument(
        "--model_config_file",
        type=paths.argument,
        help="in its place: models.config, several models, versions and their labels",
    )
    options.add_argument("--port", type=int, default=8500, help="0 picks a free one (default: %(default)s)")
    options.add_argument("--model_name", help="default: the last part of --model_base_path")
    options.add_argument(
        "--host",
        default="127.0.0.1",
        help="default: %(default)s, this machine alone; 0.0.0.0 lets others in, without encryption or log-in",
    )
    options.add_argument(
        "--enable_serialization_as_tensor_content",
        type=_flag,
        nargs="?",
        const=True,
        default=False,
        metavar="BOOL",
        help="answers as bytes, not as repeated values (default: %(default)s)",
    )
    options.add_argument(
        "--enable_model_warmup",
        type=_flag,
        nargs="?",
        const=True,
        default=True,
        metavar="BOOL",
        help="replay a version's warm-up records before it serves (default: %(default)s)",
    )
    options.add_argument(
        "--file_system_poll_wait_seconds",
        type=float,
        default=1,
        help="between looks for new versions (default: %(default)s)",
    )
    options.add_argument(
        "--max_workers", type=int, default=2, help="calls that run at once (default: %(default)s)"
    )
    options.add_argument(
        "--max_enqueued",
        type=int,
        default=22,
        help="calls that wait; more are refused with RESOURCE_EXHAUSTED (default: %(default)s)",
    )
    _add_http(options)
    return options


def _add_http(options: command.Parser) -> None:
    """What is told over HTTP."""
    options.add_argument(
        "--rest_api_port",
        type=int,
        default=0,
        help="status and metrics over HTTP, mostly 8501; 0: none (default: %(default)s)",
    )
    options.add_argument(
        "--monitoring_config_file",
        type=paths.argument,
        help="monitoring.config: another path of the metrics, or none",
    )
    options.add_argument(
        "--page",
        action="store_true",
        help="a page for this machine's browser too: drop four scans, see the answer",
    )
    options.add_argument(
        "--page_port", type=int, default=door.PORT, help="0 picks a free one (default: %(default)s)"
    )


def _announce(host: str) -> None:
    print(
        "The embedded server of tfbrats, for the desk and the tests: no production server. "
        "docs/how-to/tensorflow-serving.md has the real one.",
        flush=True,
    )
    if host not in ("127.0.0.1", "localhost", "::1"):
        risk = (
            f"listening on {host}: whoever reaches this machine can send it cases and read what comes back, "
            "without encryption or log-in. Patients' scans do not belong on such a line."
        )
        print(style.warning(risk), flush=True)


def _page(server: "Server", port: int) -> "Page":
    """A page for this machine's browser, that asks the server as any client does; of the first model."""
    from serving.connection import Client
    from serving.page import web

    host = "127.0.0.1" if server.host in ("0.0.0.0", "::") else server.host
    try:
        return web.Page(Client(f"{host}:{server.port}", server.model_name), door.Door(port=port))
    except InputError:  # its port is taken
        server.stop(0)
        raise


def _serve_until_told(server: "Server", page: "Page | None") -> None:
    """Returns once SIGTERM or SIGINT has come, and calls under way have ended or been cancelled."""
    from serving.embedded import GRACE_S

    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    for model in server.models:
        versions = ", ".join(map(str, model.served))
        print(f"ready: {model.name} version {versions} on {server.address}", flush=True)
    if server.rest_port is not None:
        host = f"[{server.host}]" if ":" in server.host else server.host
        watching = f"http://{host}:{server.rest_port}/v1/models/{server.model_name}"
        print(
            f"status: {watching}" + (f"; metrics: {server.metrics_path}" if server.metrics_path else ""),
            flush=True,
        )
    asking = ("--server", server.address, "--model-name", server.model_name)
    calling = verbs.command_line("serving.client", *asking, "--input", "CASES", "--output", "predictions")
    print(style.following(calling if page is None else f"open {page.url} in a browser"), flush=True)
    stop.wait()
    for number, handler in before.items():  # once more ends it at once
        signal.signal(number, handler)
    print(f"stopping: calls under way have {GRACE_S} s to end", flush=True)
    if page is not None:
        page.stop()
    server.stop(GRACE_S)


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_args(arguments)
    if options.max_workers < 1 or options.file_system_poll_wait_seconds <= 0 or options.max_enqueued < 0:
        raise InputError(
            "--max_workers and --file_system_poll_wait_seconds must be above 0, --max_enqueued not below."
        )
    door.check_port(options.page_port)
    logging.getLogger("serving").setLevel(logging.INFO)
    _announce(options.host)
    server = start(
        options.model_base_path,
        model_config_file=options.model_config_file,
        port=options.port,
        rest_api_port=options.rest_api_port or None,
        monitoring_config_file=options.monitoring_config_file,
        model_name=options.model_name,
        host=options.host,
        tensor_content=options.enable_serialization_as_tensor_content,
        poll_s=options.file_system_poll_wait_seconds,
        max_workers=options.max_workers,
        max_enqueued=options.max_enqueued,
        warm_up=options.enable_model_warmup,
    )
    _serve_until_told(server, _page(server, options.page_port) if options.page else None)


if __name__ == "__main__":
    command.run(main)
