"""Cases asked of a server, several at a time: written, measured, told. Behind `client`, whose options it takes.

Imports no TensorFlow.
"""

import argparse
import contextlib
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import NamedTuple

import grpc

from serving.calls import ServerError
from serving.case_request import Segmentation
from serving.connection import Client
from tfbrats.cases.case import Case
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.predictions import model_card, results, volumes
from tfbrats.predictions import wanted as what_is_wanted
from tfbrats.predictions.model_card import ModelCard
from tfbrats.predictions.results import Target
from tfbrats.predictions.wanted import Wanted
from tfbrats.terminal import bars, style

# Faults of the server or of what was asked of it, not of the one case sent.
_CONCERNS_ALL = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
}


def ask(wanted: Wanted, options: argparse.Namespace) -> int | None:
    """Segments the cases by a server; 1 where some of several failed.

    Args:
        options: of `client.parser`.

    Raises:
        ServerError: no server, no such model, or it does not answer as asked.
        InputError: the one case cannot be segmented, or results of another model lie there.
    """
    todo = wanted.todo(options.overwrite)
    if len(todo) < len(wanted.pairs):
        done = len(wanted.pairs) - len(todo)
        print(f"{done} of {len(wanted.pairs)} cases are done already (--overwrite redoes them)")
    with _client(options) as client:
        try:
            # In a folder, all results are one version's.
            card = client.stay() if wanted.folder is not None else client.card()
        except ServerError as error:
            if todo or error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            print("no server answers: not compared with its model")
            return None
        wanted, table = _begun(card, wanted, options.overwrite)
        faults, versions = _segment_all(_Round(client, card, wanted, table, options), options)
    if faults and len(wanted.pairs) == 1:
        raise InputError(faults[0])
    if table is not None:  # also where cases failed: what a killed command left is there to be measured
        for note in table.complete([(entry, target) for entry, target in wanted.pairs if target.is_done()]):
            print(style.note(note))
    if faults:
        return 1
    version = " and ".join(map(str, sorted(versions))) or card.version
    for line in what_is_wanted.ending(wanted, f"{client.model} version {version}", [e for e, _ in todo]):
        print(line)
    return None


def _begun(card: ModelCard, wanted: Wanted, overwrite: bool) -> tuple[Wanted, volumes.Table | None]:
    """What is wanted of the model that is asked, and the table of volumes.

    Results that lie there are the model's, or --overwrite takes them away.
    """
    if any(target.uncertainty for target in wanted.targets):
        model_card.check_is_average(card)
    wanted, notes = wanted.by(card)
    for note in notes:
        print(style.note(note), flush=True)
    wanted.prepare(card, overwrite)
    if wanted.folder is None:
        return wanted, None
    return wanted, volumes.Table(wanted.folder, [entry.case_id for entry, _ in wanted.todo(overwrite)])


def _client(options: argparse.Namespace) -> Client:
    credentials = _credentials(options)
    card = model_card.parse(files.read_bytes(options.card), options.card) if options.card else None
    return Client(
        options.server,
        options.model_name,
        options.model_version,
        options.version_label,
        options.timeout,
        credentials,
        options.connect_timeout,
        card,
    )


def _credentials(options: argparse.Namespace) -> grpc.ChannelCredentials | None:
    if (options.tls_certificate is None) != (options.tls_key is None) or (
        options.tls_certificate and not options.tls_root_certificates
    ):
        raise InputError(
            "--tls-certificate, --tls-key and --tls-root-certificates: the first two need all three."
        )
    if not options.tls_root_certificates:
        return None
    roots, key, certificate = (
        path and files.read_bytes(path)
        for path in (options.tls_root_certificates, options.tls_key, options.tls_certificate)
    )
    return grpc.ssl_channel_credentials(roots, key, certificate)


# --- several at a time ----------------------------------------------------------------------------------


class Ended(NamedTuple):
    """What came of a case: lines that say it, and the version that answered; None where it failed."""

    lines: str
    version: int | None


class _Round:
    """All cases of one command, by one model."""

    def __init__(
        self,
        client: Client,
        card: ModelCard,
        wanted: Wanted,
        table: volumes.Table | None,
        options: argparse.Namespace,
    ):
        self.client, self.card, self.table = client, card, table
        self.todo = wanted.todo(options.overwrite)
        self.is_alone = len(wanted.pairs) == 1
        self._output = options.output
        self._signature = options.signature
        self._version: int | None = None
        self._lock = threading.Lock()

    def segment_one(self, entry: CaseFiles, target: Target) -> Ended:
        """Reads, sends and writes one case."""

        def segment(loaded: Case) -> Segmentation:
            result = self.client.segment(
                loaded, target.probabilities is not None, self._signature, bool(target.uncertainty)
            )
            if target.folder is not None:
                self._check_version(result)
            return result

        def tell(note: str) -> None:
            bars.write(style.note(f"{entry.case_id}: {note}"))

        done = results.attempt(segment, entry, self.card, target, _concerns_all, tell)
        if done.fault:
            if done.fault.traceback:
                bars.write(done.fault.traceback, file=sys.stderr)
            return Ended(done.fault.reason, None)
        lines = volumes.told(entry.case_id, done, self.table)
        first, *others = lines.splitlines()
        lines = "\n".join([f"{first} (request {done.found.request_id})", *others])
        return Ended(lines, done.found.model_version)

    def _check_version(self, result: Segmentation) -> None:
        """All results of a folder are one version's, also where a label moves or a card was given.

        Raises:
            ServerError: another version's than those before it.
        """
        with self._lock:
            first = self._version if self._version is not None else result.model_version
            self._version = first
        if result.model_version != first or result.card != self.card:
            raise ServerError(
                f"{self._output}: version {result.model_version} of {self.client.model} took over; the "
                f"results so far are of version {first}. Pass --model-version, or --overwrite to do all again.",
                grpc.StatusCode.FAILED_PRECONDITION,
            )


def _concerns_all(error: Exception) -> bool:
    return getattr(error, "code", None) in _CONCERNS_ALL


def _under_way(cases: _Round, workers: int) -> Iterator[Ended]:
    """The cases as they end, `workers` of them at a time. Left early, the others end with it."""
    with futures.ThreadPoolExecutor(workers, thread_name_prefix="case") as pool:
        begun = [pool.submit(cases.segment_one, entry, target) for entry, target in cases.todo]
        try:
            for ended in futures.as_completed(begun):
                yield ended.result()
        except BaseException as error:  # a generator that is left gets GeneratorExit
            pool.shutdown(wait=False, cancel_futures=True)
            cases.client.close()  # ends what is under way
            if isinstance(error, KeyboardInterrupt):
                print("ending: a case that is being read or corrected ends first", flush=True)
            raise


def _segment_all(cases: _Round, options: argparse.Namespace) -> tuple[list[str], set[int]]:
    """Segments the cases and prints what came out.

    A fault of one case that was asked for alone is told by the command's end.

    Returns:
        what is wrong with those that failed; and the versions that answered.
    """
    faults: list[str] = []
    versions: set[int] = set()
    try:
        with (
            bars.bar(total=len(cases.todo), desc="cases", unit="case", hidden=cases.is_alone) as bar,
            contextlib.closing(_under_way(cases, options.workers)) as ended,
        ):
            for lines, version in ended:
                if version is None:
                    faults.append(lines)
                else:
                    versions.add(version)
                    bars.write(lines)
                bar.update()
    finally:
        if faults and not cases.is_alone:
            print(f"{len(faults)} of {len(cases.todo)} cases failed:\n  " + "\n  ".join(faults))
    return faults, versions
