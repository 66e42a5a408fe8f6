"""One job on every Beam engine at hand: the same bytes, and one clear message where it fails.

Engines that need more than the package are skipped with the command that installs them. They are looked for
in TFBRATS_FLINK_JAR and TFBRATS_PRISM, then where those commands put them.
"""

import ast
import base64
import bz2
import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid

import apache_beam
import pytest

from beam_pipelines import transforms
from tests import set_up
from tfbrats import config_file
from tfbrats.cases import dealing
from tfbrats.datasets import layouts
from tfbrats.machine import files
from tfbrats.phantoms import data_sets
from tfbrats.records import shards

ROOT = pathlib.Path(transforms.__file__).parents[1]
FLINK = "1.19"
LIMIT_S = 240  # of one command, on a busy machine; an engine takes 5 to 20 s on a free one


def digests(folder) -> dict[str, str]:
    """sha256 of every file but dataset.json, which tells how long the work took."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file() and path.name != "dataset.json"
    }


def job(source, output, *more):
    """The job on small cases, as `started`."""
    small = ("--config=smoke_2d.yaml", "records.slice_shape=[32, 32]")
    return started(
        *("-m", "beam_pipelines.nifti_to_tfrecord", *small, f"--input={source}", f"--output={output}", *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(source, output, *more) -> subprocess.CompletedProcess:
    with job(source, output, *more) as process:
        out, err = process.communicate(timeout=LIMIT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def foreign(said: str) -> list[str]:
    """Lines of stderr that are not ours; a line a minute tells how many cases are done, on a busy machine."""
    return [line for line in said.splitlines() if line and not line.startswith("cases: ")]


@contextlib.contextmanager
def started(*arguments, things=(), **options):
    """A Python process, which is killed at the end with all that it started; `python` is this one.

    Args:
        things: of `set_up.before`.
    """
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        set_up.before([sys.executable, *arguments], *things),
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        start_new_session=True,
        **options,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def server(*arguments, port_option, **options):
    """A Python server on a free port -> its address, once it answers."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with started(*arguments, f"{port_option}={port}", **quiet, **options) as process:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("localhost", port), timeout=1).close()
                break
            assert process.poll() is None and time.monotonic() < deadline, f"{arguments} did not start"
            time.sleep(0.1)
        yield f"localhost:{port}"


@contextlib.contextmanager
def worker_pool(**options):
    """Options for workers in processes of their own, which no engine started."""
    module = "apache_beam.runners.worker.worker_pool_main"
    with server("-m", module, port_option="--service_port", **options) as address:
        yield ["--environment_type=EXTERNAL", f"--environment_config={address}"]


# --- the engines, each as options of the job ------------------------------------------------------------


@contextlib.contextmanager
def in_this_mode(mode, _):
    yield [f"--direct_running_mode={mode}", f"--direct_num_workers={1 if mode == 'in_memory' else 2}"]


@contextlib.contextmanager
def job_server(workers, folder):
    module = "apache_beam.runners.portability.local_job_service_main"
    with server("-m", module, f"--staging_dir={folder / 'staging'}", port_option="--port") as address:
        yield ["--runner=PortableRunner", f"--job_endpoint={address}", *workers]


@contextlib.contextmanager
def flink(workers, folder):
    home = pathlib.Path.home() / ".m2" / "repository"
    beam = home / "org" / "apache" / "beam" / f"beam-runners-flink-{FLINK}-job-server" / apache_beam.__version__
    found = [
        *filter(None, [os.environ.get("TFBRATS_FLINK_JAR")]),
        *map(str, beam.glob("*.jar")),
        *map(str, (home / "tfbrats" / "flink-job-server" / FLINK).glob("*.jar")),
    ]
    if not found or not shutil.which("java"):
        pytest.skip(
            "no Java, or no job server for Flink; with Java 17 and Maven: "
            "mvn -q -f beam_pipelines/flink_job_server.xml install (or point TFBRATS_FLINK_JAR to one)"
        )
    opened = [
        f"--job_server_jvm_properties=--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in ("java.lang", "java.nio", "java.util")
    ]
    yield [
        *("--runner=FlinkRunner", f"--flink_version={FLINK}", "--flink_master=[local]", "--parallelism=2"),
        *(f"--flink_job_server_jar={found[0]}", "--sdk_worker_parallelism=2", *opened, *workers),
    ]


@contextlib.contextmanager
def prism(workers, folder):
    found = os.environ.get("TFBRATS_PRISM") or shutil.which("prism") or shutil.which("prism", path=_go_folder())
    if not found:
        pytest.skip(
            "no prism; with Go: go install github.com/apache/beam/sdks/v2/go/cmd/prism@v"
            f"{apache_beam.__version__} (or point TFBRATS_PRISM to one)"
        )
    yield ["--runner=PrismRunner", f"--prism_location={found}", *workers]


def _go_folder() -> str:
    return str(pathlib.Path.home() / "go" / "bin")


ENGINES = [
    pytest.param(job_server, id="job_server"),
    pytest.param(flink, id="flink", marks=pytest.mark.flink),
    pytest.param(prism, id="prism", marks=pytest.mark.prism),
]
FAILING = [  # the bytes are compared every time; how other languages' engines fail, when there is time
    ENGINES[0],
    *(pytest.param(*one.values, id=one.id, marks=(*one.marks, pytest.mark.slow)) for one in ENGINES[1:]),
]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Five tiny simulated cases. Read only."""
    folder = tmp_path_factory.mktemp("engines") / "cases"
    data_sets.write_dataset(folder, 5, "2020", seed=3, shape=(32, 32, 20))
    return folder


@pytest.fixture(scope="module")
def expected(cases, tmp_path_factory):
    """The digests of a run in this process, by file."""
    folder = tmp_path_factory.mktemp("expected")
    ended = run(cases, folder)
    assert ended.returncode == 0, ended.stderr
    found = digests(folder)
    assert len(found) == 5
    return found


# --- the same bytes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading", "multi_processing"])
def test_every_mode_of_the_local_runner_writes_the_same_bytes(cases, expected, tmp_path, mode):
    with in_this_mode(mode, tmp_path) as options:
        ended = run(cases, tmp_path / "out", *options)
    assert ended.returncode == 0, ended.stderr
    assert foreign(ended.stderr) == []
    assert digests(tmp_path / "out") == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_with_workers_of_their_own_writes_the_same_bytes(cases, expected, tmp_path, engine):
    with worker_pool() as workers, engine(workers, tmp_path) as options:
        ended = run(cases, tmp_path / "out", *options)
    assert ended.returncode == 0, ended.stderr
    assert foreign(ended.stderr) == []
    assert digests(tmp_path / "out") == expected


# --- one clear message ----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", FAILING)
def test_a_corrupt_case_is_named_and_ends_the_command_with_1(cases, expected, tmp_path, engine):
    shutil.copytree(cases, tmp_path / "cases")
    (broken,) = (tmp_path / "cases").rglob("*002_t2.nii.gz")
    broken.write_bytes(broken.read_bytes()[:-40])
    with worker_pool() as workers, engine(workers, tmp_path) as options:
        ended = run(tmp_path / "cases", tmp_path / "out", *options)
    assert ended.returncode == 1
    said = ended.stderr[ended.stderr.index("error: ") :]
    assert said.startswith("error: 1 of 5 cases were rejected, more than --max-bad-fraction 0 allows")
    assert str(broken) in said and "Traceback" not in ended.stderr


@pytest.mark.parametrize("engine", FAILING)
def test_a_worker_that_cannot_write_on_is_one_message_and_the_rerun_ends_it(cases, expected, tmp_path, engine):
    small_files = ["files_up_to=20000"]  # a shard has more
    with worker_pool(things=small_files) as workers, engine(workers, tmp_path) as options:
        ended = run(cases, tmp_path / "out", *options)
    assert ended.returncode == 1
    assert ended.stderr.count("error: ") == 1
    said = ended.stderr[ended.stderr.index("error: ") :]
    assert said.startswith("error: the Beam job stopped: OSError: [Errno 27] File too large")
    assert "run the same command again" in said
    assert "dataset.json" not in os.listdir(tmp_path / "out")
    assert run(cases, tmp_path / "out").returncode == 0
    assert digests(tmp_path / "out") == expected


# --- Dataflow, as far as it can be seen without an account ----------------------------------------------

DATAFLOW = (
    *("--runner=DataflowRunner", "--project=my-project", "--region=europe-west4", "--job_name=tfbrats"),
    *("--temp_location=gs://my-bucket/tmp", "--staging_location=gs://my-bucket/staging"),
    *("--dry_run=true", "--no_auth", "--machine_type=n2-highmem-4", "--max_num_workers=20"),
    *("--number_of_worker_harness_threads=1", "--sdk_location=container"),
    "--sdk_container_image=europe-docker.pkg.dev/my-project/tfbrats/worker:0.1.0",
)


@pytest.fixture
def apiclient():
    reason = 'no Dataflow client; pip install "tfbrats[gcp]"'
    pytest.importorskip("google.cloud.dataflow_v1beta3", reason=reason)
    return pytest.importorskip("apache_beam.runners.dataflow.internal.apiclient", reason=reason)


@pytest.mark.dataflow
def test_a_dataflow_job_is_built_of_remote_paths_alone_for_small_workers(cases, apiclient, monkeypatch):
    from apache_beam.options.pipeline_options import PipelineOptions

    name = uuid.uuid4().hex
    place = f"memory://{name}"
    for path in files.walk(cases):
        files.write_bytes(place + path.removeprefix(str(cases)), files.read_bytes(path))
    dataset = layouts.find(place)
    config = config_file.load("smoke_2d.yaml", [])
    dealt = dealing.split_cases(dataset, config.records.split, config.records.seed, None)
    tasks = shards.plan(dataset, dealt, config, "gs://my-bucket/records", 1e6)
    for task in tasks:
        assert not re.search(r'": "/|file://', json.dumps(dataclasses.asdict(task)))

    options = PipelineOptions(DATAFLOW)
    pipeline = apache_beam.Pipeline(options=options)
    listed = f"{place}/tasks.jsonl.gz"
    transforms.list_shards(listed, tasks)
    assert str(cases).encode() not in gzip.decompress(files.read_bytes(listed))
    transforms.write_shards(
        pipeline, "gs://my-bucket/records/parts/tasks.jsonl.gz", config.model_dump(mode="json")
    )
    job = pipeline.run().job
    client = apiclient.DataflowApplicationClient(options, job.root_staging_location)
    staged = {}

    def keep(folder, name, stream, *_, **__):
        staged[name] = stream.read() if hasattr(stream, "read") else stream

    monkeypatch.setattr(client, "stage_file_with_retry", keep)
    client.create_job_description(job)

    (workers,) = json.loads(job.json())["environment"]["workerPools"]
    assert workers["machineType"] == "n2-highmem-4" and workers["numThreadsPerWorker"] == 1
    assert workers["autoscalingSettings"]["maxNumWorkers"] == 20
    (image,) = workers["sdkHarnessContainerImages"]
    assert image["containerImage"].endswith("worker:0.1.0") and image["useSingleCorePerContainer"]
    assert all(one["location"].startswith("storage.googleapis.com/my-bucket") for one in workers["packages"])

    proto = apache_beam.portability.api.beam_runner_api_pb2.Pipeline.FromString(staged["pipeline.pb"])
    steps = {one.unique_name for one in proto.components.transforms.values()}
    assert {"tasks", "spread", "write shards"} <= steps
    inside = _unpacked(staged["pipeline.pb"])
    assert b"gs://my-bucket/records/parts/tasks.jsonl.gz" in inside
    assert str(cases).encode() not in inside and str(cases.parent.parent).encode() not in inside


def _unpacked(content: bytes) -> bytes:
    """All that travels to the workers, as plain bytes: what Beam pickles is bz2 in base64."""
    packed = re.findall(b"QlpoO[A-Za-z0-9+/]+=*", content)
    return b"\n".join([content, *(_unpacked(bz2.decompress(base64.b64decode(one))) for one in packed)])


@pytest.mark.dataflow
def test_the_dry_run_checks_a_dataflow_command_and_writes_nothing(cases, apiclient, tmp_path):
    ended = run(cases, tmp_path / "out", *DATAFLOW)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("dry run: the job was built")
    assert foreign(ended.stderr) == []
    assert not (tmp_path / "out").exists()


# --- the image of the workers ---------------------------------------------------------------------------


def test_the_workers_requirements_are_the_package_s_own_ranges():
    tree = ast.parse((ROOT / "setup.py").read_text())
    lists = [ast.literal_eval(node) for node in ast.walk(tree) if isinstance(node, ast.List)]
    ranges = {text.split("=")[0].rstrip("<>"): text for one in lists for text in one if isinstance(text, str)}
    lines = (ROOT / "beam_pipelines" / "requirements.txt").read_text().splitlines()
    wanted = {line.split("=")[0].rstrip("<>"): line for line in lines if line and not line.startswith("#")}
    version = re.search(r"ARG BEAM=(.+)", (ROOT / "beam_pipelines" / "Dockerfile").read_text()).group(1)
    assert wanted.pop("apache-beam") == f"apache-beam=={version}"
    assert version.startswith(ranges["apache-beam"].split(">=")[1].split(",")[0])
    assert wanted == {name: ranges[name] for name in wanted}


def test_a_worker_needs_what_its_requirements_name_and_nothing_else_of_the_package_s():
    def names(pattern, path):
        return {name.lower() for name in re.findall(pattern, (ROOT / path).read_text(), re.MULTILINE)}

    named = names(r"^([\w-]+)[>=]", "beam_pipelines/requirements.txt")
    others = (
        names(r'^    "([\w-]+)[^"]*",', "setup.py") - named - {"grpcio", "protobuf"}
    )  # Beam brings these two
    assert {"tensorflow", "keras", "tensorflow-serving-api", "matplotlib"} <= others
    code = (
        "import sys, importlib.metadata as m\n"
        "by_name = {n: {d.lower() for d in ds} for n, ds in m.packages_distributions().items()}\n"
        f"sys.modules.update({{n: None for n, ds in by_name.items() if ds & {others!r}}})\n"
        "import beam_pipelines.transforms\n"
        "import numpy as np\n"  # and what a case needs as it is prepared and cut
        "from tfbrats.cases import preprocess, slices\n"
        "volume = np.random.default_rng(0).uniform(1, 2, (16, 16, 16))\n"
        "preprocess.corrected_by_itk(volume, volume > 0, 2)\n"
        "slices.region_map(volume[0] > 0, volume[0] > 1.5, 4, (1, 1))\n"
        "print(*{d for n in sys.modules for d in by_name.get(n.partition('.')[0], ())})"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert said.returncode == 0, said.stderr
    assert named - {"gcsfs"} <= set(said.stdout.split())  # gcsfs is imported with the first gs:// path
