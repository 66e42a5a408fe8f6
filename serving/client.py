"""Sends cases to a model server and writes its segmentations: NIfTI in, NIfTI out. Imports no TensorFlow.

    tfbrats call --server localhost:8500 --model cun --input CASE_DIR --output seg.nii.gz
    tfbrats call --server localhost:8500 --model cun --input DATASET_DIR --output OUT_DIR/

What it writes is what tfbrats.predict writes, to the byte. Run again, it goes on with the cases that have no
result yet. `Client` is for programs (`connection`). Not for clinical use.
"""

if __name__ == "__main__" and not __package__:  # a file run as a script sees neither its package nor tfbrats
    raise SystemExit("error: run it as python -m serving.client from the folder above.")

import argparse
import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures

import grpc
import numpy as np
import tqdm

from serving import addresses
from serving.calls import ServerError
from serving.case_request import Segmentation
from serving.connection import Client
from tfbrats import labels
from tfbrats.cases.case import Case
from tfbrats.datasets import layouts
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.predictions import model_card, provenance, results
from tfbrats.predictions.model_card import ModelCard
from tfbrats.predictions.results import Target
from tfbrats.terminal import command

# Faults of the server or of what was asked of it, not of the one case sent.
_CONCERNS_ALL = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
}


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("serving.client", __doc__)
    parser.add_argument("--server", default="localhost:8500", help="host:port (default: %(default)s)")
    parser.add_argument("--model", required=True, help="the name it is served by, e.g. cun")
    parser.add_argument("--version", type=int, help="default: the latest")
    parser.add_argument("--version_label", help="in its place: a version's name at the server, e.g. canary")
    parser.add_argument(
        "--input", type=paths.argument, required=True, help="a case's folder, or one with many cases"
    )
    parser.add_argument(
        "--output",
        type=paths.argument,
        required=True,
        help="seg.nii.gz; or a folder (existing, or ending in /) for CASE_ID.nii.gz of every case",
    )
    parser.add_argument("--case", action="append", metavar="ID", help="only this case; may be repeated")
    parser.add_argument("--edition", help="of the input's labels, if its names do not say")
    parser.add_argument(
        "--card", type=paths.argument, help="tfbrats.json of the model, if the server cannot hand it out"
    )
    parser.add_argument(
        "--signature",
        help="serving_default (float32), int16 or gzip_int16 (default: the shortest that loses nothing)",
    )
    parser.add_argument(
        "--concurrency", type=int, default=1, metavar="N", help="cases under way at once (default: %(default)s)"
    )
    parser.add_argument(
        "--provenance", action="store_true", help="write CASE.json beside each: model, hashes, versions"
    )
    parser.add_argument(
        "--probabilities", type=paths.argument, metavar="FILE", help="write WT, TC, ET as 4-D FILE.nii.gz too"
    )
    parser.add_argument("--timeout", type=float, default=600, help="seconds a case (default: %(default)s)")
    parser.add_argument(
        "--connect_timeout",
        type=float,
        default=10,
        help="seconds to wait for a server that is not there (default: %(default)s)",
    )
    parser.add_argument(
        "--tls_root_certificates", type=paths.argument, metavar="FILE", help="PEM; speak TLS, trust these"
    )
    parser.add_argument(
        "--tls_certificate",
        type=paths.argument,
        metavar="FILE",
        help="PEM; this client's own, where the server asks for one",
    )
    parser.add_argument("--tls_key", type=paths.argument, metavar="FILE", help="PEM; its key")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    return parser


def _to_folder(options: argparse.Namespace) -> bool:
    return options.output.endswith(("/", os.sep)) or files.is_folder(options.output)


def _targets(options: argparse.Namespace) -> list[tuple[Target, CaseFiles]]:
    """Where the result of each case goes; refuses what cannot be meant."""
    dataset = layouts.find(options.input, options.edition)
    for note in dataset.guesses:
        print(f"note: {note}", flush=True)
    entries = {entry.case_id: entry for entry in layouts.select(dataset, options.case)}
    targets = _in_folder(options, entries) if _to_folder(options) else [_in_file(options, entries)]
    layouts.check_outputs(tuple(entries.values()), [path for target, _ in targets for path in target.paths])
    if options.provenance:
        provenance.check([target.segmentation for target, _ in targets])
    return targets


def _in_folder(options: argparse.Namespace, entries: Mapping[str, CaseFiles]) -> list[tuple[Target, CaseFiles]]:
    if options.probabilities:
        raise InputError("--probabilities goes with one case: give --output FILE.nii.gz and --case.")
    files.check_can_hold(options.output)
    return [
        (results.target(name, options.output, with_provenance=options.provenance), entry)
        for name, entry in entries.items()
    ]


def _in_file(options: argparse.Namespace, entries: Mapping[str, CaseFiles]) -> tuple[Target, CaseFiles]:
    for path in filter(None, (options.output, options.probabilities)):
        if layouts.nifti_stem(path) is None:
            raise InputError(f"{path}: an output ends in .nii.gz or .nii; a folder ends in /.")
        if files.exists(path) and not options.overwrite:
            raise InputError(f"{path} exists. Give another name, or --overwrite.")
        files.check_can_hold(files.parent(path) or ".")
    if options.probabilities and files.canonical(options.probabilities) == files.canonical(options.output):
        raise InputError(f"{options.output}: named by --output and by --probabilities. Give two names.")
    if len(entries) > 1:
        raise InputError(
            f"{options.input}: {len(entries)} cases for one output file: {_listed(entries)}. Name one with "
            "--case, or give a folder as --output (ending in /)."
        )
    return Target(options.output, options.probabilities, options.provenance), next(iter(entries.values()))


def _listed(names: Sequence[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


class _OneVersion:
    """All results of a folder are one version's, also where a label moves or a card was given."""

    def __init__(self, client: Client, begun_with: ModelCard, output: str):
        self._client, self._begun_with, self._output = client, begun_with, output
        self._version: int | None = None
        self._lock = threading.Lock()

    def check(self, result: Segmentation) -> None:
        """Raises ServerError: another version's than those before it."""
        with self._lock:
            first = self._version if self._version is not None else result.model_version
            self._version = first
        if result.model_version != first or result.card != self._begun_with:
            raise ServerError(
                f"{self._output}: version {result.model_version} of {self._client.model} took over; the "
                f"results so far are of version {first}. Pass --version, or --overwrite to do all again.",
                grpc.StatusCode.FAILED_PRECONDITION,
            )


def _concerns_all(error: Exception) -> bool:
    return getattr(error, "code", None) in _CONCERNS_ALL


def _segment_one(
    client: Client,
    begun_with: ModelCard,
    one_version: _OneVersion,
    entry: CaseFiles,
    target: Target,
    options: argparse.Namespace,
) -> tuple[str, bool]:
    """Reads, sends and writes one case: a line that says what came out, or why nothing did; and which."""

    def segment(case: Case) -> Segmentation:
        result = client.segment(case, target.probabilities is not None, options.signature)
        if target.folder is not None:
            one_version.check(result)
        return result

    def tell(note: str) -> None:
        tqdm.tqdm.write(f"note: {entry.case_id}: {note}")

    done = results.attempt(segment, entry, begun_with, target, _concerns_all, tell)
    if done.fault:
        return done.fault.reason, False
    voxel_ml = float(np.prod(done.case.spacing_mm)) / 1000
    volumes = ", ".join(
        f"{name} {labels.region_mask(done.found.tissues, name).sum() * voxel_ml:.1f} ml"
        for name in labels.REGIONS
    )
    return (
        f"{entry.case_id}: {volumes} by {client.model} version {done.found.model_version} "
        f"in {sum(done.seconds.values()):.1f} s -> {target.segmentation}"
        + ("" if done.found.tiles is None else f"\n    {model_card.tiles_line(done.found.tiles)}")
    ), True


def _under_way(
    client: Client, begun_with: ModelCard, todo: Sequence[tuple[Target, CaseFiles]], options: argparse.Namespace
) -> Iterator[tuple[str, bool]]:
    """The cases as they end, --concurrency of them at a time. Left early, the others end with it."""
    one_version = _OneVersion(client, begun_with, options.output)
    with futures.ThreadPoolExecutor(options.concurrency, thread_name_prefix="case") as pool:
        cases = [
            pool.submit(_segment_one, client, begun_with, one_version, entry, target, options)
            for target, entry in todo
        ]
        try:
            for ended in futures.as_completed(cases):
                yield ended.result()
        except BaseException as error:  # a generator that is left gets GeneratorExit
            pool.shutdown(wait=False, cancel_futures=True)
            client.close()  # ends what is under way
            if isinstance(error, KeyboardInterrupt):
                print("ending: a case that is being read or corrected ends first", flush=True)
            raise


def _credentials(options: argparse.Namespace) -> grpc.ChannelCredentials | None:
    if (options.tls_certificate is None) != (options.tls_key is None) or (
        options.tls_certificate and not options.tls_root_certificates
    ):
        raise InputError(
            "--tls_certificate, --tls_key and --tls_root_certificates: the first two need all three."
        )
    if not options.tls_root_certificates:
        return None
    roots, key, certificate = (
        path and files.read_bytes(path)
        for path in (options.tls_root_certificates, options.tls_key, options.tls_certificate)
    )
    return grpc.ssl_channel_credentials(roots, key, certificate)


def _begun_with(
    client: Client, targets: Sequence[Target], todo: Sequence, options: argparse.Namespace
) -> ModelCard:
    """The card of the model that is asked. Results that lie there are its, or --overwrite takes them away."""
    card = client.stay() if _to_folder(options) else client.card()
    folder = options.output if _to_folder(options) else files.parent(options.output) or "."
    results.prepare(card, folder, options.overwrite, targets)
    if todo and card.n4_modalities:
        print(
            f"The model wants N4 bias correction of {', '.join(card.n4_modalities)}: done here, "
            "some seconds each",
            flush=True,
        )
    return card


def _client(options: argparse.Namespace) -> Client:
    credentials = _credentials(options)
    card = model_card.parse(files.read_bytes(options.card), options.card) if options.card else None
    return Client(
        options.server,
        options.model,
        options.version,
        options.version_label,
        options.timeout,
        credentials,
        options.connect_timeout,
        card,
    )


def _segment_all(
    client: Client,
    begun_with: ModelCard,
    todo: Sequence[tuple[Target, CaseFiles]],
    options: argparse.Namespace,
    is_alone: bool,
) -> list[str]:
    """Segments the cases and prints what came out; what is wrong with those that failed.

    Args:
        is_alone: one case was asked for, so that a fault is told by the command's end.
    """
    faults: list[str] = []
    try:
        with (
            # Without a terminal, or for one case, there is no bar.
            tqdm.tqdm(total=len(todo), unit="case", disable=True if is_alone else None) as bar,
            contextlib.closing(_under_way(client, begun_with, todo, options)) as ended,
        ):
            for line, is_written in ended:
                if is_written:
                    bar.write(line)
                else:
                    faults.append(line)
                bar.update()
    finally:
        if faults and not is_alone:
            print(f"{len(faults)} of {len(todo)} cases failed:\n  " + "\n  ".join(faults))
    return faults


def main(arguments: Sequence[str]) -> int | None:
    options = _parser().parse_args(arguments)
    addresses.checked(options.server)
    pairs = _targets(options)
    if options.concurrency < 1:
        raise InputError(f"--concurrency {options.concurrency}: at least one case is needed.")
    todo = [(target, entry) for target, entry in pairs if options.overwrite or not target.is_done()]
    if len(todo) < len(pairs):
        print(f"{len(pairs) - len(todo)} of {len(pairs)} cases are done already (--overwrite redoes them)")
    with _client(options) as client:
        try:
            begun_with = _begun_with(client, [target for target, _ in pairs], todo, options)
        except ServerError as error:
            if todo or error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            print("no server answers: not compared with its model")
            return None
        faults = _segment_all(client, begun_with, todo, options, is_alone=len(pairs) == 1)
    if faults and len(pairs) == 1:
        raise InputError(faults[0])
    return 1 if faults else None


if __name__ == "__main__":
    command.run(main)
