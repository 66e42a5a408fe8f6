r"""Sends cases to a model server and writes its segmentations: NIfTI in, NIfTI out. Imports no TensorFlow.

    tfbrats call --server localhost:8500 --model-name cun --input BraTS2020 --output predictions
    tfbrats call --model-name cun --input patient1 --output seg.nii.gz
    tfbrats call --model-name cun --flair a.nii.gz --t1 b.nii.gz --t1ce c.nii.gz --t2 d.nii.gz \
        --output seg.nii.gz

What it writes is what tfbrats predict writes, to the byte. Run again, it goes on with the cases that have no
result yet. Scans have to be stripped of the skull and lie on one grid: docs/start/your-own-case.md. `Client`
is for programs (`connection`). Not for clinical use.
"""

if __name__ == "__main__" and not __package__:  # a file run as a script sees neither its package nor tfbrats
    raise SystemExit("error: run it as python -m serving.client from the folder above.")

from collections.abc import Sequence

from serving import addresses
from tfbrats.errors import InputError
from tfbrats.machine import paths
from tfbrats.predictions import options as asking
from tfbrats.terminal import command, style

_NEW_NAMES = {"--model": "--model-name", "--version": "--model-version", "--concurrency": "--workers"}


def __getattr__(name: str):
    """`Client`, for programs: imported when it is asked for, so that --help need not wait for gRPC."""
    if name == "Client":
        from serving.connection import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def parser() -> command.Parser:
    """The options."""
    options = command.parser("serving.client", __doc__)
    options.renamed(_NEW_NAMES)
    options.add_argument("--server", default="localhost:8500", help="host:port (default: %(default)s)")
    options.add_argument("--model-name", metavar="NAME", required=True, help="it is served by, e.g. cun")
    options.add_argument("--model-version", metavar="N", type=int, help="default: the latest")
    options.add_argument(
        "--version-label", metavar="LABEL", help="in its place: a version's name at the server, e.g. canary"
    )
    asking.add_input(options)
    asking.add_output(options)
    options.add_argument(
        "--card", type=paths.argument, help="tfbrats.json of the model, if the server cannot hand it out"
    )
    options.add_argument(
        "--signature",
        help="serving_default (float32), int16 or gzip_int16 (default: the shortest that loses nothing)",
    )
    options.add_argument(
        "--workers", type=int, default=1, metavar="N", help="cases under way at once (default: %(default)s)"
    )
    options.add_argument(
        "--probabilities", type=paths.argument, metavar="FILE", help="write WT, TC, ET as 4-D FILE.nii.gz too"
    )
    options.add_argument("--timeout", type=float, default=600, help="seconds a case (default: %(default)s)")
    options.add_argument(
        "--connect-timeout",
        type=float,
        default=10,
        help="seconds to wait for a server that is not there (default: %(default)s)",
    )
    options.add_argument(
        "--tls-root-certificates", type=paths.argument, metavar="FILE", help="PEM; speak TLS, trust these"
    )
    options.add_argument(
        "--tls-certificate",
        type=paths.argument,
        metavar="FILE",
        help="PEM; this client's own, where the server asks for one",
    )
    options.add_argument("--tls-key", type=paths.argument, metavar="FILE", help="PEM; its key")
    return options


def main(arguments: Sequence[str]) -> int | None:
    options = parser().parse_args(arguments)
    if options.workers < 1:
        raise InputError(f"--workers {options.workers}: at least one case is needed.")
    addresses.checked(options.server)
    asking.check_there(options)
    # What takes long to import comes after the options, gRPC after all that can be wrong here.
    from tfbrats.datasets import id_tables
    from tfbrats.predictions import wanted

    dataset = wanted.dataset_of(options)
    for note in dataset.guesses:
        print(style.note(note), flush=True)
    if options.probabilities and not wanted.is_file(options.output):
        raise InputError(
            "--probabilities goes with one case: give --output FILE.nii.gz, and --case where --input holds "
            "several."
        )
    asked = wanted.wanted(
        dataset,
        id_tables.chosen(options),
        options.output,
        options.probabilities,
        options.provenance,
        options.overwrite,
        options.uncertainty,
        options.dicom_seg,
    )
    from serving import rounds

    return rounds.ask(asked, options)


if __name__ == "__main__":
    command.run(main)
