"""Sends cases to a model server and writes its segmentations: NIfTI in, NIfTI out. Imports no TensorFlow.

    python -m serving.client --server localhost:8500 --model cun --input CASE_DIR --output seg.nii.gz
    python -m serving.client --server localhost:8500 --model cun --input DATASET_DIR --output OUT_DIR/

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
from serving.connection import Client, Segmentation, ServerError
from tfbrats import labels
from tfbrats.cases.case import Case
from tfbrats.datasets import layouts
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.errors import InputError
from tfbrats.machine import command, files, paths
from tfbrats.predictions import model_card, provenance, results
from tfbrats.predictions.model_card import ModelCard
from tfbrats.predictions.results import Target

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


def _to_folder(given: argparse.Namespace) -> bool:
    return given.output.endswith(("/", os.sep)) or files.is_folder(given.output)


def _targets(given: argparse.Namespace) -> list[tuple[Target, CaseFiles]]:
    """Where the result of each case goes; refuses what cannot be meant."""
    dataset = layouts.find(given.input, given.edition)
    for note in dataset.guesses:
        print(f"note: {note}", flush=True)
    found = {entry.case_id: entry for entry in layouts.select(dataset, given.case)}
    targets = _in_folder(given, found) if _to_folder(given) else [_in_file(given, found)]
    layouts.check_outputs(tuple(found.values()), [path for target, _ in targets for path in target.paths])
    if given.provenance:
        provenance.check([target.segmentation for target, _ in targets])
    return targets


def _in_folder(given: argparse.Namespace, found: Mapping[str, CaseFiles]) -> list[tuple[Target, CaseFiles]]:
    if given.probabilities:
        raise InputError("--probabilities goes with one case: give --output FILE.nii.gz and --case.")
    files.check_can_hold(given.output)
    return [
        (results.target(name, given.output, with_provenance=given.provenance), entry)
        for name, entry in found.items()
    ]


def _in_file(given: argparse.Namespace, found: Mapping[str, CaseFiles]) -> tuple[Target, CaseFiles]:
    for path in filter(None, (given.output, given.probabilities)):
        if layouts.nifti_stem(path) is None:
            raise InputError(f"{path}: an output ends in .nii.gz or .nii; a folder ends in /.")
        if files.exists(path) and not given.overwrite:
            raise InputError(f"{path} exists. Give another name, or --overwrite.")
        files.check_can_hold(files.parent(path) or ".")
    if given.probabilities and files.canonical(given.probabilities) == files.canonical(given.output):
        raise InputError(f"{given.output}: named by --output and by --probabilities. Give two names.")
    if len(found) > 1:
        raise InputError(
            f"{given.input}: {len(found)} cases for one output file: {_listed(found)}. Name one with "
            "--case, or give a folder as --output (ending in /)."
        )
    return Target(given.output, given.probabilities, given.provenance), next(iter(found.values()))


def _listed(names: Sequence[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


class _OneVersion:
    """All results of a folder are one version's, also where a label moves or a card was given."""

    def __init__(self, client: Client, begun_with: ModelCard, output: str):
        self._client, self._begun_with, self._output = client, begun_with, output
        self._version: int | None = None
        self._lock = threading.Lock()

    def check(self, found: Segmentation) -> None:
        """Raises ServerError: another version's than those before it."""
        with self._lock:
            first = self._version if self._version is not None else found.model_version
            self._version = first
        if found.model_version != first or found.card != self._begun_with:
            raise ServerError(
                f"{self._output}: version {found.model_version} of {self._client.model} took over; the results "
                f"so far are of version {first}. Pass --version, or --overwrite to do all again.",
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
    given: argparse.Namespace,
) -> tuple[str, bool]:
    """Reads, sends and writes one case: a line that says what came out, or why nothing did; and which."""

    def segment(case: Case) -> Segmentation:
        found = client.segment(case, target.probabilities is not None, given.signature)
        if target.folder is not None:
            one_version.check(found)
        return found

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
    client: Client, begun_with: ModelCard, todo: Sequence[tuple[Target, CaseFiles]], given: argparse.Namespace
) -> Iterator[tuple[str, bool]]:
    """The cases as they end, --concurrency of them at a time. Left early, the others end with it."""
    one_version = _OneVersion(client, begun_with, given.output)
    with futures.ThreadPoolExecutor(given.concurrency, thread_name_prefix="case") as pool:
        cases = [
            pool.submit(_segment_one, client, begun_with, one_version, entry, target, given)
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


def _credentials(given: argparse.Namespace) -> grpc.ChannelCredentials | None:
    if (given.tls_certificate is None) != (given.tls_key is None) or (
        given.tls_certificate and not given.tls_root_certificates
    ):
        raise InputError(
            "--tls_certificate, --tls_key and --tls_root_certificates: the first two need all three."
        )
    if not given.tls_root_certificates:
        return None
    roots, key, certificate = (
        path and files.read_bytes(path)
        for path in (given.tls_root_certificates, given.tls_key, given.tls_certificate)
    )
    return grpc.ssl_channel_credentials(roots, key, certificate)


def _known(client: Client, targets: Sequence[Target], todo: Sequence, given: argparse.Namespace) -> ModelCard:
    """The model that is asked. The results that lie there are its, or --overwrite takes them away."""
    card = client.stay() if _to_folder(given) else client.card()
    folder = given.output if _to_folder(given) else files.parent(given.output) or "."
    results.prepare(card, folder, given.overwrite, targets)
    if todo and card.n4_modalities:
        print(
            f"The model wants N4 bias correction of {', '.join(card.n4_modalities)}: done here, "
            "some seconds each",
            flush=True,
        )
    return card


def main(arguments: Sequence[str]) -> int | None:
    given = _parser().parse_args(arguments)
    addresses.checked(given.server)
    pairs = _targets(given)
    if given.concurrency < 1:
        raise InputError(f"--concurrency {given.concurrency}: at least one case is needed.")
    todo = [(target, entry) for target, entry in pairs if given.overwrite or not target.is_done()]
    if len(todo) < len(pairs):
        print(f"{len(pairs) - len(todo)} of {len(pairs)} cases are done already (--overwrite redoes them)")
    credentials = _credentials(given)
    card = model_card.parse(files.read_bytes(given.card), given.card) if given.card else None
    faults = []
    with Client(
        given.server,
        given.model,
        given.version,
        given.version_label,
        given.timeout,
        credentials,
        given.connect_timeout,
        card,
    ) as client:
        try:
            begun_with = _known(client, [target for target, _ in pairs], todo, given)
        except ServerError as error:
            if todo or error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            print("no server answers: not compared with its model")
            return None
        try:
            # Quiet when it is not a terminal, and for one case.
            with (
                tqdm.tqdm(total=len(todo), unit="case", disable=True if len(pairs) == 1 else None) as bar,
                contextlib.closing(_under_way(client, begun_with, todo, given)) as ended,
            ):
                for line, is_written in ended:
                    if is_written:
                        bar.write(line)
                    else:
                        faults.append(line)
                    bar.update()
        finally:
            if faults and len(pairs) > 1:
                print(f"{len(faults)} of {len(todo)} cases failed:\n  " + "\n  ".join(faults))
    if faults and len(pairs) == 1:
        raise InputError(faults[0])
    return 1 if faults else None


if __name__ == "__main__":
    command.run(main)
