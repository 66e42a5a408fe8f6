r"""A page for the browser: drop a case's four scans, see the segmentation. It asks a model server.

    tfbrats serve --model_base_path models/cun --port 8500
    tfbrats page --server localhost:8500/cun
    tfbrats serve --model_base_path models/cun --page          # both in one

Then open http://127.0.0.1:8600. What one downloads there is what tfbrats predict writes, to the byte. Nothing
is kept: files and results are gone when the page is closed and when the command stops; what a killed one has
left, at the next start. Beyond this machine it is served only by TLS and with a token: docs/how-to/page.md.
Not for clinical use.
"""

import signal
import threading
from collections.abc import Sequence

from serving import addresses
from serving.page import door
from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.terminal import command, style


def parser() -> command.Parser:
    """The options."""
    options = command.parser("serving.page", __doc__)
    options.add_argument(
        "--server", default="localhost:8500", metavar="HOST:PORT/MODEL", help="the model server and the model"
    )
    options.add_argument("--model-name", metavar="NAME", help="of the model, where --server does not say it")
    options.add_argument("--model-version", metavar="N", type=int, help="default: the latest")
    options.add_argument("--timeout", type=float, default=600, help="seconds a case (default: %(default)s)")
    options.add_argument(
        "--tls-root-certificates",
        type=paths.argument,
        metavar="FILE",
        help="PEM; speak TLS to the server, trust these",
    )
    options.add_argument(
        "--port", type=int, default=door.PORT, help="of the page; 0 picks a free one (default: %(default)s)"
    )
    options.add_argument(
        "--host",
        default="127.0.0.1",
        help="of the page (default: %(default)s, this machine alone); any other needs TLS and a name",
    )
    options.add_argument(
        "--name",
        action="append",
        default=[],
        help="by which others open it, e.g. brats.example.org",
    )
    options.add_argument("--tls-certificate", type=paths.argument, metavar="FILE", help="PEM; the page's own")
    options.add_argument("--tls-key", type=paths.argument, metavar="FILE", help="PEM; its key")
    options.add_argument(
        "--token-file",
        type=paths.argument,
        metavar="FILE",
        help="the token that opens the page (default: a new one, where others can reach it)",
    )
    return options


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_args(arguments)
    address, model = options.server, options.model_name
    if model is None:
        address, model = addresses.parted(address)
    addresses.checked(address)
    asked = door.door(
        options.host, options.port, options.name, options.tls_certificate, options.tls_key, options.token_file
    )
    if options.tls_root_certificates and not files.exists(options.tls_root_certificates):
        raise InputError(f"{options.tls_root_certificates}: no such file.")
    import grpc

    from serving.connection import Client
    from serving.page import web

    roots = options.tls_root_certificates
    credentials = grpc.ssl_channel_credentials(files.read_bytes(roots)) if roots else None
    client = Client(address, model, options.model_version, timeout_s=options.timeout, credentials=credentials)
    with client:
        card = client.card()  # there, and ours: told now, not to whoever opens the page
        with web.Page(client, asked) as page:
            _serve_until_told(page.url, f"{card.name} version {card.version} on {address}")


def _serve_until_told(url: str, by: str) -> None:
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    print(f"ready: the page asks {by}", flush=True)
    print(style.following(f"open {url} in a browser; Ctrl-C ends it, and removes what was dropped"), flush=True)
    stop.wait()
    for number, handler in before.items():  # once more ends it at once
        signal.signal(number, handler)
    print("stopping: files and results are removed", flush=True)


if __name__ == "__main__":
    command.run(main)
