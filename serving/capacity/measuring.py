"""What is not in the file yet is measured and put into it: of so many cores, by so many callers at once."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from serving.capacity import forecast, load, under_test
from serving.capacity.load import Asked
from serving.capacity.measured import Measured, Row, this_machine
from tfbrats.machine import files
from tfbrats.predictions import model_card
from tfbrats.terminal import wording

_EMBEDDED = "the embedded server"


class Target(NamedTuple):
    """What is measured: a model's folder, or a server that runs; and the cases that it is sent.

    Attributes:
        server: host:port/MODEL, in place of the folder.
        pid: of the server, if it runs here.
        cases: folder of a data set.
    """

    model: str | None
    server: str | None
    pid: int | None
    cases: str


def measure(target: Target, path: str, cores: int, calls: Sequence[int], seconds: float) -> None:
    """Adds the rows that the file at `path` lacks, each as soon as it is there.

    Args:
        seconds: of each row, at least.

    Raises:
        InputError: the file is of another model, server or machine; the server fails.
    """
    known = _known(target, path)
    missing = [count for count in sorted(set(calls)) if known is None or not known.has(cores, count)]
    if not missing:
        return
    machine = this_machine()
    with _asked(target, cores, max(calls)) as (model, pid):
        measured = Measured(path, _about(target, model, machine))
        for count in missing:
            print(f"{wording.counted(cores, 'core')}, {count} at once ...", flush=True)
            with under_test.watched(pid) as seen:
                answers = load.in_turn(model, count, seconds)
            core_s = None if seen.cpu_s is None else seen.cpu_s / len(answers.seconds)
            took = (core_s, seen.ready_bytes, seen.peak_bytes, seen.others_cores)
            measured.add(Row(cores, count, answers.seconds, answers.cases_per_s, *took))


def check(target: Target, path: str, cores: int, share: float, seconds: float) -> None:
    """Adds a prediction from the rows and what came of it, if the file has none at that share of the pace."""
    measured = Measured(path)
    if measured.has_check(cores, share):
        return
    machine = this_machine()
    # A server of its own: it runs as many at once as the prediction is of, and its memory is as new.
    with _asked(target, cores, len(measured.pod(cores).rates)) as (model, pid):
        measured = Measured(path, _about(target, model, machine))
        print(f"{wording.counted(cores, 'core')}, cases at random times ...", flush=True)
        measured.add_check(forecast.tried(measured, model, pid, cores, share, seconds))


def _known(target: Target, path: str) -> Measured | None:
    """The file, if there is one. Raises InputError where it is of another model."""
    if not files.exists(path):
        return None
    if target.model is None:
        return Measured(path, {"server": target.server})
    card = model_card.read(model_card.version_folder(target.model))
    return Measured(path, {"server": _EMBEDDED, "model": card.name, "version": card.version})


def _about(target: Target, model: Asked, machine: dict) -> dict:
    return {
        "server": target.server or _EMBEDDED,
        "model": model.card.name,
        "version": model.card.version,
        "signature": model.signature,
        "shapes": [list(shape) for shape in model.shapes],
        "processor": machine["processor"],
        "machine_cores": machine["cores"],
    }


@contextlib.contextmanager
def _asked(target: Target, cores: int, calls: int) -> Iterator[tuple[Asked, int | None]]:
    """The model that is asked, and its server's process; callers keep to other cores, if there are."""
    if target.server:
        yield load.asked(target.server, target.cases), target.pid
        return
    of_server, ours = under_test.shared_out(cores)
    with (
        under_test.embedded(target.model, of_server, calls) as (address, pid),
        under_test.on(ours),
    ):
        yield load.asked(address, target.cases), pid
