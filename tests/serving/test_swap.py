"""Versions change and servers die while cases are segmented: no answer fails, none is lost or mixed up.

python -m pytest tests/serving/test_swap.py -s    # prints when each version answered
"""

import contextlib
import dataclasses
import pathlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import grpc
import nibabel
import numpy as np
import pytest
import served
import tiny_model
from asked_rest import ask, free_port, value
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from serving.client import Client
from tfbrats import export
from tfbrats.cases import case as cases
from tfbrats.datasets import layouts
from tfbrats.exports import next_version
from tfbrats.inference import saved_model, saved_segmenter
from tfbrats.labels import EDITIONS, MODALITIES
from tfbrats.phantoms import data_sets
from tfbrats.workflows import whole_run

STATE = get_model_status_pb2.ModelVersionStatus
CLIENTS = 2
PAUSE_S = 0.1  # of a client before its next case: the machine is to have time for an export, too
COUNT_OF_PREDICTIONS = (
    ':tensorflow:serving:request_latency_count{model_name="tiny",API="Predict",entrypoint="GRPC"}'
)
TAKES_S = 120  # at most: an export, or a server's start, on a busy machine


@dataclasses.dataclass(frozen=True)
class Model:
    """One model in two versions, of which the second labels as 2023 does.

    An answer of the second that were read by the card of the first would be wrong.
    """

    base: pathlib.Path  # holds version 1
    add_second: Callable[[], object]
    tissues: Callable[[cases.Case], np.ndarray]


def _rule(folder: pathlib.Path) -> Model:
    tiny_model.write(folder / "tiny")

    def second() -> None:
        tiny_model.write(folder / "made", 2, "2023").rename(folder / "tiny" / "2")

    return Model(folder / "tiny", second, lambda scan: tiny_model.tissues_by_rule(images_of(scan)))


@pytest.fixture(scope="module")
def run(record_set, tmp_path_factory) -> str:
    """A tiny training run. Read only."""
    folder = str(tmp_path_factory.mktemp("swap") / "run")
    whole_run.train(record_set.config(f"run.dir={folder}", "train.epochs=1", "train.steps_per_epoch=2"))
    return folder


@pytest.fixture(params=["rule", pytest.param("network", marks=pytest.mark.slow)])
def model(request, tmp_path) -> Model:
    """The tiny model; and a network as `tfbrats.export` writes it."""
    if request.param == "rule":
        return _rule(tmp_path)
    run = request.getfixturevalue("run")
    next_version.export(run, tmp_path / "tiny")
    return Model(
        tmp_path / "tiny",
        lambda: export.main(["--run", run, "--output", str(tmp_path / "tiny"), "--edition", "2023"]),
        lambda scan: saved_segmenter.SavedSegmenter(str(tmp_path / "tiny" / "1")).segment(scan).tissues,
    )


def images_of(scan: cases.Case) -> dict[str, np.ndarray]:
    return {name: scan.image[..., m] for m, name in enumerate(MODALITIES)}


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A simulated case that nothing was trained on."""
    folder = tmp_path_factory.mktemp("scan")
    data_sets.write_dataset(folder, 1, "2021", seed=9, shape=(50, 44, 19))
    return cases.load(layouts.find(folder).cases[0])


def wait_until(true, seconds=TAKES_S):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@dataclasses.dataclass(frozen=True)
class Answer:
    asked_s: float
    came_s: float
    client: int
    version: int
    tissues: np.ndarray


class Traffic:
    """Clients of ours that send the same case over and over, each from a thread of its own."""

    def __init__(self, address: str, scan: cases.Case):
        self._address, self._scan = address, scan
        self._start = time.monotonic()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CLIENTS)]
        self.answers: list[Answer] = []
        self.faults: list[Exception] = []
        self.events: list[tuple[float, str]] = []

    def _run(self, number: int) -> None:
        try:
            with Client(self._address, "tiny") as client:
                while not self._stop.wait(PAUSE_S):
                    asked = self.now()
                    found = client.segment(self._scan)
                    self.answers.append(Answer(asked, self.now(), number, found.model_version, found.tissues))
        except Exception as error:
            self.faults.append(error)

    def now(self) -> float:
        return time.monotonic() - self._start

    def note(self, what: str) -> None:
        self.events.append((self.now(), what))

    def by(self, version: int) -> list[Answer]:
        return [one for one in self.answers if one.version == version]

    def wait_for(self, count: int, version: int) -> None:
        """Until every client has had so many answers from a version from now on."""
        before = len(self.answers)

        def enough() -> bool:
            new = [one.client for one in self.answers[before:] if one.version == version]
            return bool(self.faults) or all(new.count(n) >= count for n in range(CLIENTS))

        wait_until(enough)

    @contextlib.contextmanager
    def running(self):
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(TAKES_S)

    def log(self) -> list[str]:
        """What happened and when, in order of time, with the first and last answer of each version."""
        lines = list(self.events)
        for version in sorted({one.version for one in self.answers}):
            of_it = sorted(self.by(version), key=lambda one: one.came_s)
            lines.append((of_it[0].came_s, f"first answer of version {version}"))
            lines.append((of_it[-1].came_s, f"last answer of version {version} ({len(of_it)} in all)"))
        longest = max(one.came_s - one.asked_s for one in self.answers)
        end = f"{len(self.answers)} answers, {len(self.faults)} failed; the slowest took {longest:.2f} s"
        return [f"{at:8.2f} s  {what}" for at, what in sorted(lines)] + [f"{self.now():8.2f} s  {end}"]


def states(address: str) -> dict[int, int]:
    with grpc.insecure_channel(address) as channel:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "tiny"})
        answer = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=20)
    return {entry.version: entry.state for entry in answer.model_version_status}


# --- versions -------------------------------------------------------------------------------------------


def test_a_new_version_takes_over_while_cases_are_segmented_and_none_fails(model, scan, tmp_path):
    wanted = model.tissues(scan)
    assert wanted.any()  # not an empty map that any two would agree on
    watched = free_port()
    with (
        served.serving(model.base, tmp_path / "log.txt", "--rest_api_port", str(watched)) as server,
        Traffic(server.address, scan).running() as traffic,
    ):
        traffic.note(f"{CLIENTS} clients begin")
        traffic.wait_for(2, version=1)
        traffic.note("the export of version 2 begins")
        model.add_second()
        traffic.note("the export of version 2 ends")
        traffic.wait_for(3, version=2)
        traffic.note(f"{CLIENTS} clients end")
        wait_until(lambda: states(server.address) == {1: STATE.END, 2: STATE.AVAILABLE})
        told = ask(watched, "/v1/models/tiny").json["model_version_status"]
        counted = value(ask(watched, "/monitoring/prometheus/metrics").text, COUNT_OF_PREDICTIONS)
    assert {int(entry["version"]): entry["state"] for entry in told} == {1: "END", 2: "AVAILABLE"}
    assert counted >= len(traffic.answers)  # and those by which the versions described themselves
    print("\n" + "\n".join(traffic.log()))
    assert not traffic.faults
    for number in range(CLIENTS):
        versions = [one.version for one in traffic.answers if one.client == number]
        assert set(versions) == {1, 2}
        assert versions == sorted(versions)  # none goes back
    for one in traffic.answers:
        np.testing.assert_array_equal(one.tissues, wanted)


def _without_a_model(version: pathlib.Path) -> None:
    (version / "saved_model.pb").write_bytes(b"no model")


def _with_half_of_its_weights(version: pathlib.Path) -> None:
    (weights,) = (version / "variables").glob("*.data-*")
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def _with_a_warm_up_that_fails(version: pathlib.Path) -> None:
    requests = version / saved_model.WARM_UP
    requests.parent.mkdir(exist_ok=True)
    requests.write_bytes(bytes(100))  # as a disk that was full may leave it


BROKEN = (_without_a_model, _with_half_of_its_weights, _with_a_warm_up_that_fails)


def test_broken_second_versions_leave_the_first_serving_until_one_is_mended(model, scan, tmp_path):
    """Copies keep the times of their files, so that only what is broken tells them apart."""
    second, log = model.base / "2", tmp_path / "log.txt"
    with served.serving(model.base, log) as server, Traffic(server.address, scan).running() as traffic:
        for number, spoil in enumerate(BROKEN):
            spoil(pathlib.Path(shutil.copytree(model.base / "1", tmp_path / f"broken{number}")))
            (tmp_path / f"broken{number}").rename(second)
            wait_until(lambda number=number: log.read_text().count("/2: cannot be loaded") == number + 1)
            traffic.note(f"a version 2 {spoil.__name__.strip('_').replace('_', ' ')} was tried")
            traffic.wait_for(2, version=1)
            assert states(server.address) == {1: STATE.AVAILABLE, 2: STATE.END}
            second.rename(tmp_path / f"gone{number}")
        assert {one.version for one in traffic.answers} == {1}
        shutil.copytree(model.base / "1", tmp_path / "mended")
        (tmp_path / "mended").rename(second)
        traffic.note("a version 2 that is whole was put there")
        traffic.wait_for(2, version=2)
    print("\n" + "\n".join(traffic.log()))
    assert not traffic.faults


# --- a server that dies ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Folder of two dozen simulated cases."""
    folder = tmp_path_factory.mktemp("many")
    data_sets.write_dataset(folder, 24, "2020", seed=3, shape=(56, 48, 32))
    return folder


@pytest.mark.slow
def test_a_folder_is_finished_though_the_server_is_killed_twice_while_it_is_sent(many, tmp_path):
    tiny_model.write(tmp_path / "tiny")
    output = tmp_path / "output"
    command = [sys.executable, "-m", "serving.client", "--model-name", "tiny", "--workers", "3"]
    command += ["--input", str(many), "--output", f"{output}/", "--connect-timeout", str(TAKES_S)]

    def done() -> int:
        return len(list(output.glob("*.nii.gz")))

    with contextlib.ExitStack() as ends:
        server = ends.enter_context(served.serving(tmp_path / "tiny", tmp_path / "first.txt"))
        client = ends.enter_context(
            subprocess.Popen([*command, "--server", server.address], stdout=subprocess.PIPE, text=True)
        )
        ends.callback(client.kill)  # if the test fails
        for name, finished in (("second", 3), ("third", 10)):
            wait_until(lambda finished=finished: done() >= finished)
            server.kill()
            assert client.poll() is None and done() < 24  # it happened in the middle
            again = served.serving(tmp_path / "tiny", tmp_path / f"{name}.txt", "--port", str(server.port))
            server = ends.enter_context(again)
        said, _ = client.communicate(timeout=TAKES_S)
    assert client.returncode == 0, said
    for entry in layouts.find(many).cases:
        assert sum(line.startswith(f"{entry.case_id}: ") for line in said.splitlines()) == 1
        written, _ = cases.load_label(output / f"{entry.case_id}.nii.gz", EDITIONS["2020"])
        np.testing.assert_array_equal(written, tiny_model.tissues_by_rule(images_of(cases.load(entry))))
    others = {path.name for path in output.iterdir() if not path.name.endswith(".nii.gz")}
    assert done() == 24 and others == {"tfbrats.json", "volumes.csv"}  # nothing half
    assert len((output / "volumes.csv").read_text().splitlines()) == 1 + 24
    assert nibabel.load(output / f"{entry.case_id}.nii.gz").shape == (56, 48, 32)
