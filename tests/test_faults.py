"""What goes wrong while records are made, done for real: nothing is lost, nothing half-written is left.

Each fault is one that a night of work on a cluster or a laptop meets. After it, the same command must end with
the bytes of a run that nothing disturbed. The summary of the test run counts faults, lost records and
half-written files.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import nibabel
import numpy as np
import psutil
import pytest

from beam_pipelines import nifti_to_tfrecord as job
from tests import set_up
from tfbrats.cases.rejected import Rejected
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.phantoms import data_sets, phantom_files
from tfbrats.records import manifest, schema, tfrecord

ROOT = pathlib.Path(job.__file__).parents[1]
SMALL = (
    "--config=smoke_2d.yaml",
    "records.slice_shape=[64, 64]",
    "records.min_shards=4",
    "records.split=[8, 1, 1]",
    *("preprocess.n4_modalities=[t1ce]", "preprocess.n4=itk"),  # takes time: most kills fall into it
)
CASES = 10


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Ten simulated cases. Read only."""
    folder = tmp_path_factory.mktemp("faults") / "cases"
    data_sets.write_dataset(folder, CASES, "2020", seed=6, shape=(56, 64, 40), first=1)
    return folder


@pytest.fixture(scope="module")
def undisturbed(cases, tmp_path_factory):
    """What the job writes when nothing happens: file -> bytes, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    ended = finished(start(cases, folder))
    assert ended.returncode == 0, ended.stderr
    return contents(folder), time.monotonic() - started


def start(source, output, *more, things=(), **how) -> subprocess.Popen:
    """The job in a process of its own, with things of `set_up.before`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", job.__name__, *SMALL, f"--input={source}", f"--output={output}", *more]
    return subprocess.Popen(
        set_up.before(command, *things),
        cwd=ROOT,
        **{**pipes, **how},
    )


def finished(process: subprocess.Popen) -> subprocess.CompletedProcess:
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def contents(folder) -> dict[str, bytes]:
    """The files of a folder by name, dataset.json without the seconds that the work took."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }
    found["dataset.json"] = re.sub(rb'"seconds\w*": \{[^}]*\}', b"", found["dataset.json"])
    return found


def half_written(folder) -> list[str]:
    """Files under a final name that are not whole."""
    bad = []
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file() and files.PARTIAL not in path.name:
            try:
                if path.suffix == ".tfrecord":
                    list(tfrecord.read_records(path))
                elif path.suffix == ".json":
                    files.read_json(path)
            except InputError:
                bad.append(path.name)
    return bad


def contents_of_records(folder) -> set[bytes]:
    return {
        content for path in pathlib.Path(folder).glob("*.tfrecord") for content in tfrecord.read_records(path)
    }


def rejected(folder) -> list[Rejected]:
    lines = (pathlib.Path(folder) / "rejected.jsonl").read_text().splitlines()
    return [Rejected.model_validate_json(line) for line in lines]


@pytest.fixture
def same_in_the_end(cases, undisturbed, tally):
    """`same_in_the_end(fault, folder)`: what the fault left is whole; the command run again mends the rest."""

    def check(fault: str, folder, *more):
        bad = half_written(folder)
        ended = finished(start(cases, folder, *more))
        assert ended.returncode == 0, ended.stderr
        found = contents(folder)
        lost = sum(found.get(name) != content for name, content in undisturbed[0].items())
        tally(fault, records_lost=lost, half_written=len(bad))
        assert bad == []
        assert found == undisturbed[0]  # no temporary file, no parts/

    return check


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "sdk_worker_main" in " ".join(child.cmdline()) and not child.name().endswith("sh")
        ]
    return []


def waited_for(condition, process=None, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("it did not come to that")


def partial_files(folder) -> list[pathlib.Path]:
    return [path for path in pathlib.Path(folder).rglob("*") if files.PARTIAL in path.name]


# --- kills ----------------------------------------------------------------------------------------------

WORKERS = ("--workers=1", "--workers=2")


@pytest.mark.parametrize("number", [pytest.param(n, marks=[pytest.mark.slow] * (n > 1)) for n in range(10)])
def test_killed_at_a_random_moment_and_run_again(number, cases, undisturbed, tmp_path, same_in_the_end):
    rng = np.random.default_rng(number)
    # No pipes: workers that were just starting would hold them for a while.
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = start(cases, tmp_path, WORKERS[number % 2], **nowhere)
    # Anywhere from the start to the end, and most often in the middle.
    time.sleep(undisturbed[1] * rng.beta(2, 1.5))
    process.kill()
    process.wait()
    same_in_the_end("job killed", tmp_path, WORKERS[(number // 2) % 2])


def test_a_worker_killed_in_the_middle_of_a_case_ends_the_job_with_a_message(cases, tmp_path, same_in_the_end):
    process = start(cases, tmp_path, "--workers=2")
    waited_for(lambda: len(workers_of(process)) == 2 and partial_files(tmp_path), process)
    others = workers_of(process)
    others.pop().kill()
    ended = finished(process)
    assert ended.returncode == 1
    assert "a worker process died" in ended.stderr and "--workers" in ended.stderr
    assert "Traceback" not in ended.stderr.partition("error: ")[2]
    psutil.wait_procs(others, timeout=20)
    assert not [worker for worker in others if worker.is_running()]
    same_in_the_end("worker killed in a case", tmp_path)


def test_workers_do_not_outlive_a_killed_job(cases, tmp_path, same_in_the_end):
    process = start(cases, tmp_path, "--workers=2")
    waited_for(lambda: len(workers_of(process)) == 2 and partial_files(tmp_path), process)
    workers = workers_of(process)
    process.kill()
    finished(process)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    same_in_the_end("job killed, workers left alone", tmp_path)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("whom", [pytest.param("command", marks=pytest.mark.slow), "group"])
def test_interrupted_by_hand_and_run_again(workers, whom, cases, tmp_path, same_in_the_end):
    process = start(cases, tmp_path, workers, start_new_session=True, things=["hears_ctrl_c"])
    waited_for(lambda: partial_files(tmp_path), process)
    if whom == "command":
        process.send_signal(signal.SIGINT)
    else:  # as a terminal does
        os.killpg(process.pid, signal.SIGINT)
    ended = finished(process)
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.rstrip().endswith("interrupted")
    same_in_the_end("interrupted (Ctrl-C)", tmp_path)


# --- disks ----------------------------------------------------------------------------------------------


def test_a_file_that_may_not_grow_further_is_one_message(cases, undisturbed, tmp_path, same_in_the_end):
    largest = max(len(content) for content in undisturbed[0].values())
    limit = int(0.6 * largest)
    process = start(cases, tmp_path, things=[f"files_up_to={limit}"])
    ended = finished(process)
    assert ended.returncode == 1
    assert "File too large" in ended.stderr and "Finished shards are kept" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert partial_files(tmp_path) == []
    same_in_the_end("file size limit", tmp_path)


@pytest.fixture
def small_disk(tmp_path, undisturbed):
    """A disk of its own, with room for the record set and little more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = 2 * sum(len(content) for content in undisturbed[0].values())
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount one (run as root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("workers", [pytest.param(WORKERS[0], marks=pytest.mark.slow), WORKERS[1]])
def test_a_disk_that_others_fill_meanwhile(workers, cases, small_disk, same_in_the_end):
    process = start(cases, small_disk / "records", workers)
    waited_for(lambda: list((small_disk / "records").glob("*.tfrecord")), process)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**12))
    ended = finished(process)
    assert ended.returncode == 1
    assert "No space left" in ended.stderr or "are free, and" in ended.stderr
    assert "Traceback" not in ended.stderr.rpartition("error: ")[2]
    filler.unlink()
    same_in_the_end("disk full", small_disk / "records")


# --- one case in ten ------------------------------------------------------------------------------------

VICTIM = 4


def file_of(folder, kind) -> pathlib.Path:
    name = phantom_files.case_id("2020", VICTIM)
    return pathlib.Path(folder) / name / f"{name}_{kind}.nii.gz"


def rewritten(kind, change):
    """Replaces a file's voxels, or its affine, by `change(array, affine)`."""

    def apply(folder):
        image = nibabel.load(file_of(folder, kind))
        array, affine = change(np.asarray(image.dataobj).copy(), image.affine.copy())
        nibabel.save(nibabel.Nifti1Image(array, affine), file_of(folder, kind))

    return apply


def with_value(value, dtype=np.float32):
    def change(array, affine):
        array = array.astype(dtype)
        array[tuple(n // 2 for n in array.shape)] = value
        return array, affine

    return change


def everywhere(folder, least, most):
    """Nothing is 0, in any modality: noise of air from `least` to `most`, or a background of one value."""
    noise = np.random.default_rng(0)
    for kind in ("t1", "t1ce", "t2", "flair"):
        rewritten(kind, lambda a, m: (np.maximum(a, noise.integers(least, most + 1, a.shape, a.dtype)), m))(
            folder
        )


INTAKE = {
    "modality missing": (lambda f: file_of(f, "t2").unlink(), "no t2"),
    "mask missing": (lambda f: file_of(f, "seg").unlink(), "no segmentation"),
    "file empty": (lambda f: file_of(f, "t1").write_bytes(b""), "empty"),
    "file truncated": (
        lambda f: file_of(f, "t1").write_bytes(file_of(f, "t1").read_bytes()[:-60]),
        "truncated or damaged",
    ),
    "bytes flipped": (
        lambda f: file_of(f, "t1").write_bytes(file_of(f, "t1").read_bytes()[:300] + bytes(300)),
        "truncated or damaged",
    ),
    "no NIfTI file": (lambda f: file_of(f, "t1").write_bytes(b"hello " * 100), "not a NIfTI"),
    "log-in page": (lambda f: file_of(f, "t1").write_bytes(b"<html>please log in"), "HTML"),
    "a folder in its place": (lambda f: (file_of(f, "t1").unlink(), file_of(f, "t1").mkdir()), "no t1"),
    "shape differs": (rewritten("t1", lambda a, m: (a[:-1], m)), "shape"),
    "spacing differs": (rewritten("t1", lambda a, m: (a, m @ np.diag([2, 1, 1, 1]))), "spacing"),
    "affine differs": (
        rewritten("t1", lambda a, m: (a, m + np.array([[0, 0, 0, 7], *[[0] * 4] * 3]))),
        "affine",
    ),
    "mask on another grid": (rewritten("seg", lambda a, m: (a[:, :-1], m)), "shape"),
    "NaN": (rewritten("t1", with_value(np.nan)), "NaN"),
    "infinite": (rewritten("t1", with_value(np.inf)), "infinite"),
    "all zero": (rewritten("t1", lambda a, m: (a * 0, m)), "is 0 everywhere"),
    "constant": (rewritten("t1", lambda a, m: (a * 0 + 9, m)), "is 9 everywhere"),
    "unexpected label": (rewritten("seg", with_value(7, np.uint8)), r"label values \[7\]"),
    "interpolated mask": (rewritten("seg", with_value(1.5)), "not whole numbers"),
    "skull present": (lambda f: everywhere(f, 1, 9), "skull"),
    "background filled": (lambda f: everywhere(f, 5, 5), "the background is 5; expected 0"),
    "another case's mask": (
        rewritten(
            "seg", lambda a, m: (np.pad(np.full((2, 2, 2), 2, np.uint8), [(0, n - 2) for n in a.shape]), m)
        ),
        "outside the brain",
    ),
}


@pytest.mark.parametrize("fault", INTAKE)
def test_one_bad_case_in_ten_costs_that_case_alone(fault, cases, undisturbed, tmp_path, tally, capsys):
    corrupt, reason = INTAKE[fault]
    shutil.copytree(cases, tmp_path / "in")
    corrupt(tmp_path / "in")
    victim = phantom_files.case_id("2020", VICTIM)
    arguments = [*SMALL, "preprocess.n4_modalities=[]", f"--input={tmp_path / 'in'}"]
    with pytest.raises(InputError, match=f"(?s)1 of 10 cases.*{victim}.*max-bad-fraction"):
        job.main([*arguments, f"--output={tmp_path / 'strict'}"])
    assert not (tmp_path / "strict" / "dataset.json").exists()
    assert job.main([*arguments, f"--output={tmp_path / 'out'}", "--max-bad-fraction=0.1"]) == 0
    (row,) = rejected(tmp_path / "out")
    assert row.case_id == victim and re.search(reason, row.reason)
    # The other nine: every record of theirs, and no other.
    sound = [*SMALL, "preprocess.n4_modalities=[]", f"--input={cases}", f"--output={tmp_path / 'sound'}"]
    assert job.main(sound) == 0
    theirs = {
        content
        for content in contents_of_records(tmp_path / "sound")
        if schema.decode(schema.SLICES, content)["case_id"] != victim
    }
    found = contents_of_records(tmp_path / "out")
    bad = half_written(tmp_path / "out")
    tally(f"one case in ten: {fault}", records_lost=len(theirs - found), half_written=len(bad))
    assert found == theirs and bad == []


def test_a_patient_in_two_splits_is_refused(tmp_path, tally):
    data_sets.write_dataset(tmp_path / "in", 2, "2023", seed=2, shape=(32, 32, 20), first=1)
    first = phantom_files.case_id("2023", 1)
    again = first[:-1] + "1"
    for path in sorted((tmp_path / "in" / first).iterdir()):
        target = tmp_path / "in" / again / path.name.replace(first, again)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    splits = tmp_path / "splits.json"
    files.write_json(splits, {"train": [first], "validation": [again]})
    with pytest.raises(InputError, match="more than one split"):
        job.main([*SMALL, f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'o'}", f"--splits={splits}"])
    assert not (tmp_path / "o").exists()
    tally("same patient in two splits", records_lost=0, half_written=0)


# --- places that may not be read or written --------------------------------------------------------------


@contextlib.contextmanager
def forbidden(path: pathlib.Path, mode: int = 0):
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


def test_a_folder_that_may_not_be_read_is_named(cases, tmp_path, tally):
    shutil.copytree(cases, tmp_path / "in")
    closed = tmp_path / "in" / phantom_files.case_id("2020", VICTIM)
    with forbidden(closed):
        ended = finished(start(tmp_path / "in", tmp_path / "out", things=["as_anybody"]))
    assert ended.returncode == 1
    assert f"{closed}: cannot be read (Permission denied)" in ended.stderr
    assert not (tmp_path / "out").exists()
    tally("folder that may not be read", records_lost=0, half_written=0)


def test_a_file_that_may_not_be_read_costs_its_case_alone(cases, tmp_path, tally):
    shutil.copytree(cases, tmp_path / "in")
    with forbidden(file_of(tmp_path / "in", "t1")):
        ended = finished(
            start(tmp_path / "in", tmp_path / "out", "--max-bad-fraction=0.1", things=["as_anybody"])
        )
    assert ended.returncode == 0, ended.stderr
    (row,) = rejected(tmp_path / "out")
    assert "Permission denied" in row.reason
    # Mended, the same command takes the case in.
    ended = finished(start(tmp_path / "in", tmp_path / "out"))
    assert ended.returncode == 0 and not (tmp_path / "out" / "rejected.jsonl").exists()
    found, expected = contents_of_records(tmp_path / "out"), 0
    expected = sum(shard.examples for shard in manifest.read_manifest(tmp_path / "out").shards)
    assert len(found) == expected
    tally("file that may not be read", records_lost=0, half_written=len(half_written(tmp_path / "out")))


def test_a_folder_that_may_not_be_written_is_named(cases, tmp_path, tally):
    closed = tmp_path / "closed"
    closed.mkdir()
    with forbidden(closed, 0o555):
        ended = finished(start(cases, closed / "records", things=["as_anybody"]))
    assert ended.returncode == 1
    assert "Permission denied" in ended.stderr and "Traceback" not in ended.stderr
    tally("folder that may not be written", records_lost=0, half_written=0)


# --- two at once ----------------------------------------------------------------------------------------


def test_of_two_jobs_into_one_folder_at_once_one_is_told_to_wait(cases, tmp_path, same_in_the_end):
    first = start(cases, tmp_path)
    waited_for(lambda: partial_files(tmp_path), first)
    second = finished(start(cases, tmp_path))
    assert second.returncode == 1
    assert "another job is writing into this folder" in second.stderr
    assert finished(first).returncode == 0
    same_in_the_end("two jobs into one folder", tmp_path)


def test_two_jobs_begun_in_the_same_moment_write_one_set(cases, tmp_path, same_in_the_end):
    both = [start(cases, tmp_path) for _ in range(2)]
    codes = sorted(finished(one).returncode for one in both)
    # The second is refused, or came when the first had ended and found all there.
    assert codes in ([0, 0], [0, 1])
    same_in_the_end("two jobs begun together", tmp_path)


def test_overwriting_what_another_job_writes_is_refused(cases, tmp_path, same_in_the_end):
    first = start(cases, tmp_path)
    waited_for(lambda: partial_files(tmp_path), first)
    second = finished(start(cases, tmp_path, "--overwrite"))
    assert second.returncode == 1 and "another job" in second.stderr
    assert finished(first).returncode == 0
    same_in_the_end("overwriting under a job", tmp_path)
