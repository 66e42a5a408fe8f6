"""The embedded server under load, and what a whole case costs on the wire by each signature.

    python benchmarks/serve.py load                            # about 20 minutes
    python benchmarks/serve.py wire --case BraTS2021_00006     # about 10 minutes
    python benchmarks/serve.py load --minutes 1 --model models/cun --json load.json

Server and clients run in processes of their own, both on this machine, so that they share its cores. Without
--model, a small one is made: paper A's network at width 2, one short epoch on simulated cases of BraTS' size,
so that the server and not the network is tried.

`load`: 1, 4 and 16 clients at once, each sending case after case as gzip_int16, the next one when the last is
answered, against a fresh server each. Every answer must be the first one to that case again. The server's
resident memory is looked at every half second: when it is ready, after a warm-up (the first fifth of the
time), at the end, and its slope from warm-up to end, by least squares. Then an overload: twice as many clients
as run and wait together, which ask again half a second after they were refused; nothing but RESOURCE_EXHAUSTED
may come of it, and the next call must be right.

`wire`: a case three times by each signature, from its arrays to the answer's, once with answers as repeated
values (the server's default), once as bytes. Memory is the most that a process held during the calls above
what it held before the first of them, looked at 100 times a second. All label maps must be the same. "float32,
everything" is what a client does that asks for nothing in particular.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import psutil

from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.terminal import command, wording
from tfbrats.workflows import chain as steps

_HERE = pathlib.Path(__file__).parent
_START_S = 300
MIB = 2**20
_RUN, _WAIT = 2, 22  # --max_workers and --max_enqueued of the server
_SHAPE = ("240", "240", "155")
_SMALL = (
    *("records.slice_shape=[240, 240]", "records.split=[3, 1, 0]", "model.width=2"),
    *("train.epochs=1", "train.steps_per_epoch=10"),
)


# --- what is served -------------------------------------------------------------------------------------


def _simulated(chain: steps.Steps, work: pathlib.Path) -> str:
    """Folder of four cases."""
    cases = str(work / "cases")
    chain.run(
        "Simulate cases",
        *("tfbrats.phantom", "--output", cases, "--cases", "4", "--edition", "2021"),
        *("--seed", "1", "--shape", *_SHAPE),
    )
    return cases


def _small_model(chain: steps.Steps, work: pathlib.Path, cases: str) -> pathlib.Path:
    """Base path of a network that has hardly learned anything."""
    sets, run, model = str(work / "records"), str(work / "run"), work / "models" / "small"
    config = ("--config", "smoke_2d.yaml")
    chain.run(
        "Make records",
        *("beam_pipelines.nifti_to_tfrecord", *config, "--input", cases, "--output", sets, *_SMALL),
    )
    chain.run("Train a little", "tfbrats.train", *config, "--records", sets, "--run", run, *_SMALL)
    chain.run("Export", "tfbrats.export", "--run", run, "--output", str(model))
    return model


@contextlib.contextmanager
def _server(model: pathlib.Path, log: pathlib.Path, *options: str) -> Iterator[tuple[str, int]]:
    """The embedded server on a free port until the block ends: host:port/MODEL, and its process' number."""
    arguments = [sys.executable, "-m", "serving.server", "--model_base_path", str(model), "--port", "0"]
    with (
        log.open("w") as file,
        subprocess.Popen([*arguments, *options], stdout=file, stderr=subprocess.STDOUT) as process,
    ):
        try:
            limit, ready = time.monotonic() + _START_S, None
            while ready is None:
                if process.poll() is not None or time.monotonic() > limit:
                    raise InputError(f"{model}: the server did not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.1)
                ready = re.search(r"^ready: .* on (\S+:\d+)$", log.read_text(), re.MULTILINE)
            yield f"{ready[1]}/{model.name}", process.pid
        finally:
            process.terminate()


class _Memory:
    """Resident bytes of a process, looked at again and again until the block ends."""

    def __init__(self, pid: int, every_s: float):
        self._process, self._every_s = psutil.Process(pid), every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._seen: list[tuple[float, int]] = []

    def _look(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while True:
                self._seen.append((time.time(), self._process.memory_info().rss))
                if self._stop.wait(self._every_s):
                    return

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def between(self, begun: float, ended: float) -> np.ndarray:
        """[n, 2]: time and bytes, with the last look before the time begins."""
        seen = np.array(self._seen)
        first = max(np.searchsorted(seen[:, 0], begun) - 1, 0)
        return seen[first : np.searchsorted(seen[:, 0], ended)]


def _clients(*arguments: str) -> list[str]:
    return [sys.executable, str(_HERE / "serve_clients.py"), *arguments]


def _told(process: subprocess.Popen) -> dict:
    said, _ = process.communicate()
    if process.returncode:
        raise InputError(f"the clients failed (exit code {process.returncode}); the error is above.")
    return json.loads(said.splitlines()[-1])


def _markdown(rows: Sequence[Sequence[object]]) -> None:
    """Prints rows under a first one of headings."""
    first, *others = rows
    for row in (first, ["---", *["---:"] * (len(first) - 1)], *others):
        print(f"| {' | '.join(map(str, row))} |", flush=True)


# --- load -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Load:
    """What so many clients met. Bytes are the server's resident memory."""

    clients: int
    minutes: float
    answers: int
    p50_s: float
    p95_s: float
    p99_s: float
    refused: int
    failed: dict[str, int]  # by status
    wrong: int
    right_afterwards: bool
    start_bytes: int
    warm_bytes: int
    end_bytes: int
    peak_bytes: int
    slope_bytes_per_minute: float


def _loaded(model: pathlib.Path, cases: str, work: pathlib.Path, clients: int, minutes: float) -> Load:
    """A fresh server, and so many clients for so long."""
    options = ("--enable_serialization_as_tensor_content", f"--max_workers={_RUN}", f"--max_enqueued={_WAIT}")
    with _server(model, work / f"server-{clients}.txt", *options) as (server, pid), _Memory(pid, 0.5) as memory:
        arguments = ("--server", server, "--cases", cases, "--clients", str(clients))
        started = _clients("load", *arguments, "--seconds", str(60 * minutes))
        found = _told(subprocess.Popen(started, stdout=subprocess.PIPE, text=True))
    begun, ended = found["begun"], found["ended"]
    seen = memory.between(0, ended)
    warm = seen[seen[:, 0] >= begun + (ended - begun) / 5]
    calls = found["calls"]
    seconds = [took for took, status, _ in calls if status == "OK"]
    others = [status for _, status, _ in calls if status not in ("OK", "RESOURCE_EXHAUSTED")]
    if not seconds:
        raise InputError(f"{wording.counted(clients, 'client')}: no call was answered; {sorted(set(others))}.")
    p50, p95, p99 = np.percentile(seconds, (50, 95, 99))
    return Load(
        clients=clients,
        minutes=(ended - begun) / 60,
        answers=len(seconds),
        p50_s=float(p50),
        p95_s=float(p95),
        p99_s=float(p99),
        refused=sum(status == "RESOURCE_EXHAUSTED" for _, status, _ in calls),
        failed={status: others.count(status) for status in sorted(set(others))},
        wrong=sum(not same for *_, same in calls),
        right_afterwards=found["right_afterwards"],
        start_bytes=int(seen[0, 1]),
        warm_bytes=int(warm[0, 1]),
        end_bytes=int(seen[-1, 1]),
        peak_bytes=int(seen[:, 1].max()),
        slope_bytes_per_minute=float(60 * np.polyfit(warm[:, 0] - begun, warm[:, 1], 1)[0]),
    )


_LOAD_HEADS = (
    *("clients", "minutes", "answers", "a minute", "p50 s", "p95 s", "p99 s", "refused", "failed", "wrong"),
    *("ready MiB", "warm MiB", "end MiB", "peak MiB", "MiB/min"),
)


def _load_row(name: str, one: Load) -> list[str]:
    sizes = (one.start_bytes, one.warm_bytes, one.end_bytes, one.peak_bytes)
    return [
        *(name, f"{one.minutes:.1f}", one.answers, f"{one.answers / one.minutes:.1f}"),
        *(f"{seconds:.2f}" for seconds in (one.p50_s, one.p95_s, one.p99_s)),
        *(one.refused, sum(one.failed.values()), one.wrong),
        *(f"{size / MIB:.0f}" for size in sizes),
        f"{one.slope_bytes_per_minute / MIB:+.1f}",
    ]


def load(given: argparse.Namespace, work: pathlib.Path) -> tuple[dict, bool]:
    """The figures by number of clients, and whether the server did what it should."""
    chain = steps.Steps(work / "logs")
    made = None if given.model and given.cases else _simulated(chain, work)
    model, cases = given.model or _small_model(chain, work, made), given.cases or made
    too_many = 2 * (_RUN + _WAIT)
    found = {}
    for count in given.clients:
        print(f"\n{wording.counted(count, 'client')} for {given.minutes:g} minutes", flush=True)
        found[count] = _loaded(model, cases, work, count, given.minutes)
    print(f"\noverload: {too_many} clients; {_RUN} calls run and {_WAIT} wait", flush=True)
    over = _loaded(model, cases, work, too_many, given.overload_minutes)
    print()
    rows = [_load_row(str(count), one) for count, one in found.items()]
    _markdown([_LOAD_HEADS, *rows, _load_row(f"{too_many} (overload)", over)])
    faults = [
        f"{count} clients: {one.failed}" for count, one in [*found.items(), (too_many, over)] if one.failed
    ]
    faults += [f"{count} clients: {one.refused} refused" for count, one in found.items() if one.refused]
    everyone = [*found.values(), over]
    if wrong := sum(one.wrong + (not one.right_afterwards) for one in everyone):
        faults.append(f"{wrong} answers were not the first one again")
    if not over.refused:
        faults.append("the overload was no overload: nobody was refused")
    print("\n" + ("\n".join(faults) or "no failed call, no wrong answer; the overload was refused and passed."))
    figures = {str(count): dataclasses.asdict(one) for count, one in found.items()}
    return {**figures, "overload": dataclasses.asdict(over)}, not faults


# --- wire -----------------------------------------------------------------------------------------------

_LABELS, _EVERYTHING = ("segmentation",), ("segmentation", "probabilities")
# What is sent -> signature and the outputs asked for (none: all).
WAYS = {
    "float32, everything": ("serving_default", ()),
    "float32, labels": ("serving_default", _LABELS),
    "int16, labels": ("int16", _LABELS),
    "gzip_int16, labels": ("gzip_int16", _LABELS),
    "gzip_int16, probabilities too": ("gzip_int16", _EVERYTHING),
    "cases_int16, labels of 2 cases": ("cases_int16", _LABELS),
}


@dataclasses.dataclass(frozen=True)
class Wire:
    """What a call takes: medians of seconds, and the most bytes of memory above what was held before."""

    way: str
    answers_as: str
    sent_bytes: int
    received_bytes: int
    pack_s: float
    wait_s: float
    unpack_s: float
    client_bytes: int
    server_bytes: int
    sha256: tuple[str, ...]  # of the label maps


def _sent(model: pathlib.Path, case: str, work: pathlib.Path, way: str, as_bytes: bool, repeats: int) -> Wire:
    """A fresh server and a fresh client."""
    signature, outputs = WAYS[way]
    flag = f"--enable_serialization_as_tensor_content={str(as_bytes).lower()}"
    with _server(model, work / "server.txt", flag) as (server, pid):
        arguments = ["--server", server, "--cases", case, "--signature", signature, "--repeats", str(repeats)]
        arguments += [text for name in outputs for text in ("--output", name)]
        process = subprocess.Popen(_clients("wire", *arguments), stdout=subprocess.PIPE, text=True)
        with _Memory(pid, 0.01) as of_server, _Memory(process.pid, 0.01) as of_client:
            found = _told(process)
    above = []
    for memory in (of_client, of_server):
        held = memory.between(found["begun"], found["ended"])[:, 1]
        above.append(int(held.max() - held[0]))
    medians = {name: float(np.median(found[name])) for name in ("pack_s", "wait_s", "unpack_s")}
    sizes = {name: found[name] for name in ("sent_bytes", "received_bytes")}
    encoding = "bytes" if as_bytes else "values"
    return Wire(
        way,
        encoding,
        **sizes,
        **medians,
        client_bytes=above[0],
        server_bytes=above[1],
        sha256=tuple(found["sha256"]),
    )


def _wire_row(one: Wire) -> list[str]:
    return [
        *(one.way, one.answers_as),
        *(f"{size / 1e6:.1f}" for size in (one.sent_bytes, one.received_bytes)),
        *(f"{seconds:.2f}" for seconds in (one.pack_s, one.wait_s, one.unpack_s)),
        f"{one.pack_s + one.wait_s + one.unpack_s:.2f}",
        *(f"{size / MIB:.0f}" for size in (one.client_bytes, one.server_bytes)),
    ]


_WIRE_HEADS = (
    *("sent, and asked for", "answer as", "sent MB", "received MB", "pack s", "wait s", "unpack s", "all s"),
    *("client MiB", "server MiB"),
)


def wire(given: argparse.Namespace, work: pathlib.Path) -> tuple[dict, bool]:
    """The figures of each way and encoding, and whether all label maps are the same."""
    if len(layouts.find(given.case).cases) != 1:
        raise InputError(f"{given.case}: expected one case's folder.")
    chain = steps.Steps(work / "logs")
    model = given.model or _small_model(chain, work, _simulated(chain, work))
    found = []
    for way in WAYS:
        for as_bytes in (False, True):
            found.append(_sent(model, given.case, work, way, as_bytes, given.repeats))
            print(f"    {way}, answers as {found[-1].answers_as}: {found[-1].wait_s:.2f} s", flush=True)
    print()
    _markdown([_WIRE_HEADS, *map(_wire_row, found)])
    same = len({digest for one in found for digest in one.sha256}) == 1
    print(f"\nlabel maps: {'all the same' if same else 'NOT the same'}")
    return {"calls": [dataclasses.asdict(one) for one in found]}, same


def main(arguments: Sequence[str]) -> int:
    parser = command.parser("serve", __doc__)
    parser.prog = "python benchmarks/serve.py"
    parts = parser.add_subparsers(dest="what", required=True)
    of_load, of_wire = parts.add_parser("load", help="many clients"), parts.add_parser("wire", help="one call")
    for part in (of_load, of_wire):
        part.add_argument(
            "--model",
            type=pathlib.Path,
            metavar="DIR",
            help="folder of versions (default: a small one is made)",
        )
        part.add_argument("--json", type=pathlib.Path, metavar="FILE", help="the figures, for programs")
    of_load.add_argument("--cases", metavar="DIR", help="data set, its first 4 (default: simulated ones)")
    of_load.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16], metavar="N")
    of_load.add_argument("--minutes", type=float, default=5, help="of each (default: %(default)s)")
    of_load.add_argument("--overload-minutes", type=float, default=1, help="(default: %(default)s)")
    of_wire.add_argument("--case", required=True, metavar="DIR", help="the folder of one case")
    of_wire.add_argument("--repeats", type=int, default=3, help="calls (default: %(default)s)")
    given = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as work:
        figures, well = {"load": load, "wire": wire}[given.what](given, pathlib.Path(work))
    if given.json:
        files.write_json(given.json, {"cores": os.cpu_count(), **figures})
    return 0 if well else 1


if __name__ == "__main__":
    command.run(main)
