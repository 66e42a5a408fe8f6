"""The batch job on every Beam engine at hand and through what goes wrong: predict's bytes in the end.

Engines are found, and skipped where they are not there, as in test_engines.
"""

import gzip
import pathlib
import re
import signal
import subprocess
import sys
import time
import uuid

import apache_beam
import numpy as np
import psutil
import pytest
import test_engines
import test_faults
import tiny_model

from beam_pipelines import transforms
from tfbrats import predict
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.phantoms import data_sets
from tfbrats.predictions import model_card, results

CASES = 12
ALONE = ()
TWO = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")  # whatever memory is free
WORKERS = [pytest.param(ALONE, id="alone"), pytest.param(TWO, id="two")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A version's folder. Read only."""
    path = tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")
    (path / model_card.FILE).write_text(tiny_model.card().to_json())
    return path


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Simulated cases. Read only."""
    folder = tmp_path_factory.mktemp("engines") / "cases"
    data_sets.write_dataset(folder, CASES, "2020", seed=3, shape=(56, 64, 40), first=1)
    return folder


@pytest.fixture(scope="module")
def expected(model, cases, tmp_path_factory):
    """What predict writes, but its table of volumes: file -> bytes."""
    folder = tmp_path_factory.mktemp("expected")
    predict.main(["--model", str(model), "--input", str(cases), "--output", str(folder)])
    found = contents(folder)
    del found[results.VOLUMES]
    assert len(set(found.values())) == CASES + 1
    return found


def contents(folder) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file()
    }


def started(model, source, output, *more, **how):
    """The job, as `test_engines.started`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    given = (f"--model={model}", f"--input={source}", f"--output={output}", *more)
    return test_engines.started("-m", "beam_pipelines.segment_cases", *given, **{**pipes, **how})


def run(model, source, output, *more, **how) -> subprocess.CompletedProcess:
    with started(model, source, output, *more, **how) as process:
        out, err = process.communicate(timeout=test_engines.LIMIT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def workers_that_loaded_once(said: str) -> int:
    """How many workers there were, none of which loaded the model twice."""
    loads, workers = map(int, re.search(r"model loaded +(\d+) times? by (\d+) worker", said).groups())
    assert loads == workers
    return workers


# --- the same bytes -------------------------------------------------------------------------------------


@pytest.mark.slow  # what is killed and goes on below does so in two processes, every time
def test_two_processes_write_the_bytes_of_predict_and_each_loads_the_model_once(
    model, cases, expected, tmp_path
):
    ended = run(model, cases, tmp_path / "out", *TWO)
    assert ended.returncode == 0, ended.stderr
    assert contents(tmp_path / "out") == expected
    assert workers_that_loaded_once(ended.stdout) == 2


ENGINES = [  # the bytes on Flink are compared every time, on the others when there is time
    one if one.id == "flink" else pytest.param(*one.values, id=one.id, marks=(*one.marks, pytest.mark.slow))
    for one in test_engines.ENGINES
]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_with_workers_of_their_own_writes_the_bytes_of_predict(
    model, cases, expected, tmp_path, engine
):
    with test_engines.worker_pool() as workers, engine(workers, tmp_path) as options:
        ended = run(model, cases, tmp_path / "out", *options)
    assert ended.returncode == 0, ended.stderr
    assert contents(tmp_path / "out") == expected
    assert workers_that_loaded_once(ended.stdout) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", test_engines.ENGINES)
def test_a_corrupt_case_is_named_on_every_engine_and_ends_the_command_with_1(model, tmp_path, engine):
    ids = data_sets.write_dataset(tmp_path / "cases", 3, "2020", seed=3, shape=(32, 32, 20))
    broken = tmp_path / "cases" / ids[1] / f"{ids[1]}_t2.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-40])
    with test_engines.worker_pool() as workers, engine(workers, tmp_path) as options:
        ended = run(model, tmp_path / "cases", tmp_path / "out", *options)
    assert ended.returncode == 1
    said = ended.stderr[ended.stderr.index("error: ") :]
    assert said.startswith("error: 1 of 3 cases were rejected, more than --max-bad-fraction 0 allows")
    assert str(broken) in said and "Traceback" not in ended.stderr
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


@pytest.mark.slow
@pytest.mark.flink
def test_real_cases_get_one_label_map_on_flink_and_from_predict(model, real_cases, tmp_path):
    with pytest.raises(InputError, match=r"BraTS2021_01482: .*t2 is too bright"):
        predict.main(["--model", str(model), "--input", str(real_cases), "--output", str(tmp_path / "predict")])
    with test_engines.worker_pool() as workers, test_engines.flink(workers, tmp_path) as options:
        ended = run(model, real_cases, tmp_path / "flink", "--max-bad-fraction=0.2", *options)
    assert ended.returncode == 0, ended.stderr
    found = contents(tmp_path / "flink")
    assert b"t2 is too bright" in found.pop("rejected.jsonl")
    assert len(found) == 6 and found == contents(tmp_path / "predict")


# --- Dataflow, as far as it can be seen without an account ----------------------------------------------

apiclient = test_engines.apiclient


@pytest.mark.dataflow
def test_a_dataflow_job_is_built_of_remote_paths_alone(model, cases, apiclient, monkeypatch):
    from apache_beam.options.pipeline_options import PipelineOptions

    place = f"memory://{uuid.uuid4().hex}"
    for path in files.walk(cases):
        files.write_bytes(place + path.removeprefix(str(cases)), files.read_bytes(path))
    options = PipelineOptions(test_engines.DATAFLOW)
    pipeline = apache_beam.Pipeline(options=options)
    listed = f"{place}/tasks.jsonl.gz"
    transforms.list_cases(listed, layouts.find(place).cases)
    assert str(cases).encode() not in gzip.decompress(files.read_bytes(listed))
    transforms.segment_cases(pipeline, listed, "gs://my-bucket/models/cun/1", "gs://my-bucket/out", False)
    job = pipeline.run().job
    client = apiclient.DataflowApplicationClient(options, job.root_staging_location)
    staged = {}

    def keep(folder, name, stream, *_, **__):
        staged[name] = stream.read() if hasattr(stream, "read") else stream

    monkeypatch.setattr(client, "stage_file_with_retry", keep)
    client.create_job_description(job)
    inside = test_engines._unpacked(staged["pipeline.pb"])
    assert b"gs://my-bucket/models/cun/1" in inside and b"gs://my-bucket/out" in inside
    assert place.removeprefix("memory://").encode() in inside
    assert str(cases.parent.parent).encode() not in inside


@pytest.mark.dataflow
def test_the_dry_run_checks_a_dataflow_command_and_writes_nothing(model, cases, apiclient, tmp_path):
    ended = run(model, cases, tmp_path / "out", *test_engines.DATAFLOW)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("dry run: the job was built")
    assert not (tmp_path / "out").exists()


# --- the image of the workers ---------------------------------------------------------------------------

ROOT = test_engines.ROOT


def names(pattern, path) -> set[str]:
    return {name.lower() for name in re.findall(pattern, (ROOT / path).read_text(), re.MULTILINE)}


def test_the_requirements_of_workers_that_segment_are_the_package_s_own_ranges():
    lines = (ROOT / "beam_pipelines" / "requirements_segment.txt").read_text().splitlines()
    wanted = [line for line in lines if not line.startswith(("#", "-r"))]
    assert len(wanted) == 2 and "-r requirements.txt" in lines
    assert all(f'"{line}",' in (ROOT / "setup.py").read_text() for line in wanted)


def test_a_worker_that_segments_needs_what_its_requirements_name_and_nothing_else_of_the_package_s(
    model, cases, expected, tmp_path
):
    named = names(r"^([\w-]+)[>=]", "beam_pipelines/requirements.txt")
    named |= names(r"^([\w-]+)[>=]", "beam_pipelines/requirements_segment.txt")
    brought = {"grpcio", "protobuf", "keras", "tensorboard"}  # by Beam and TensorFlow
    others = names(r'^    "([\w-]+)[^"]*",', "setup.py") - named - brought
    assert {"tensorflow-serving-api", "matplotlib", "tenacity"} <= others
    code = (
        "import sys, importlib.metadata as m\n"
        "by_name = {n: {d.lower() for d in ds} for n, ds in m.packages_distributions().items()}\n"
        f"sys.modules.update({{n: None for n, ds in by_name.items() if ds & {others!r}}})\n"
        "from beam_pipelines import transforms\n"
        "from tfbrats.datasets import layouts\n"
        "entry = layouts.find(sys.argv[2]).cases[0]\n"
        "print(*transforms.SegmentCase(sys.argv[1], sys.argv[3], True).process(entry))\n"
    )
    arguments = [sys.executable, "-c", code, str(model), str(cases), str(tmp_path / "out")]
    ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=test_engines.LIMIT_S)
    assert ended.returncode == 0, ended.stderr
    assert "'rejected': None" in ended.stdout
    (result,) = results_in(tmp_path / "out")
    assert result.read_bytes() == expected[result.name]


# --- what goes wrong ------------------------------------------------------------------------------------


@pytest.fixture
def same_in_the_end(model, cases, expected, tally):
    """`same_in_the_end(fault, folder)`: what the fault left is whole; the command run again does the rest."""

    def check(fault: str, folder, *more):
        left = {name: content for name, content in contents(folder).items() if name in expected}
        bad = [name for name, content in left.items() if content != expected[name]]
        ended = run(model, cases, folder, *more)
        assert ended.returncode == 0, ended.stderr
        found = contents(folder)
        lost = sum(found.get(name) != content for name, content in expected.items())
        tally(f"batch prediction: {fault}", records_lost=lost, half_written=len(bad))
        assert bad == []
        assert found == expected  # no temporary file, no lock, no rows

    return check


def results_in(folder) -> list[pathlib.Path]:
    return [path for path in pathlib.Path(folder).glob("*.nii.gz") if not path.name.startswith(".")]


@pytest.mark.parametrize("number", [pytest.param(n, marks=pytest.mark.slow) for n in range(10)])
def test_killed_at_a_random_moment_and_run_again(number, model, cases, tmp_path, same_in_the_end):
    rng = np.random.default_rng(number)
    done = int(rng.integers(0, CASES))
    # No pipes: workers that were just starting would hold them for a while.
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    before, after = (TWO if number & bit else ALONE for bit in (1, 2))
    with started(model, cases, tmp_path / "out", *before, **nowhere) as process:
        test_faults.waited_for(lambda: len(results_in(tmp_path / "out")) >= done, process)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
    same_in_the_end("job killed", tmp_path / "out", *after)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_job_with_a_message(model, cases, tmp_path, same_in_the_end):
    with started(model, cases, tmp_path / "out", *TWO) as process:
        test_faults.waited_for(lambda: results_in(tmp_path / "out"), process)
        others = test_faults.workers_of(process)
        others.pop().kill()
        ended = test_faults.finished(process)
    assert ended.returncode == 1
    assert "a worker process died" in ended.stderr and "Finished cases are kept" in ended.stderr
    assert "Traceback" not in ended.stderr.partition("error: ")[2]
    _, alive = psutil.wait_procs(others, timeout=20)
    assert alive == []
    same_in_the_end("worker killed", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("workers", WORKERS)
def test_interrupted_by_hand_and_run_again(workers, model, cases, tmp_path, same_in_the_end):
    with started(model, cases, tmp_path / "out", *workers, things=["hears_ctrl_c"]) as process:
        test_faults.waited_for(lambda: results_in(tmp_path / "out"), process)
        process.send_signal(signal.SIGINT)
        ended = test_faults.finished(process)
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.rstrip().endswith("interrupted")
    same_in_the_end("interrupted (Ctrl-C)", tmp_path / "out")


@pytest.mark.slow
def test_a_file_that_may_not_grow_further_is_one_message(model, cases, expected, tmp_path, same_in_the_end):
    limit = min(len(content) for name, content in expected.items() if name.endswith(".nii.gz")) // 2
    ended = run(model, cases, tmp_path / "out", things=[f"files_up_to={limit}"])
    assert ended.returncode == 1
    assert "File too large" in ended.stderr and "Finished cases are kept" in ended.stderr
    assert "Traceback" not in ended.stderr
    same_in_the_end("file size limit", tmp_path / "out")


@pytest.mark.slow
def test_of_two_jobs_into_one_folder_at_once_one_is_told_to_wait(model, cases, tmp_path, same_in_the_end):
    with started(model, cases, tmp_path / "out") as first:
        test_faults.waited_for(lambda: (tmp_path / "out" / ".segmenting").exists(), first)
        second = run(model, cases, tmp_path / "out")
        codes = (test_faults.finished(first).returncode, second.returncode)
    # The second is refused, or came when the first had ended and found all there.
    assert codes in ((0, 0), (0, 1))
    assert second.returncode == 0 or "another job is writing into this folder" in second.stderr
    same_in_the_end("two jobs into one folder", tmp_path / "out")
