"""Folders in object stores: the job reads and writes gs:// as it does a disk, and keeps no local copy.

Google Cloud Storage itself is not at hand here; a local emulator of its API is, and the paths are real gs://
paths through gcsfs. It is one server for several processes, as memory:// cannot be.
"""

import hashlib
import os
import pathlib
import time
import uuid

import pytest
import test_engines
import tiny_model

from beam_pipelines import segment_cases
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.phantoms import data_sets
from tfbrats.predictions import model_card

SERVER = pathlib.Path(__file__).with_name("gs_server.py")
pytestmark = pytest.mark.gs


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """gs://... of an empty bucket, in this process and in those that it starts."""
    reason = 'no gcsfs or no emulator of Google Cloud Storage; pip install -e ".[dev]"'
    for module in ("gcsfs", "gcp_storage_emulator"):
        pytest.importorskip(module, reason=reason)
    folder = tmp_path_factory.mktemp("buckets")
    serving = test_engines.server(str(SERVER), f"--folder={folder}", port_option="--port")
    with serving as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://{address}")
        # gcsfs would ask Google of which type each bucket is.
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        yield "gs://brats"


@pytest.fixture
def place(bucket):
    return f"{bucket}/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Five tiny simulated cases on the disk. Read only."""
    folder = tmp_path_factory.mktemp("remote") / "cases"
    data_sets.write_dataset(folder, 5, "2020", seed=3, shape=(32, 32, 20))
    return folder


@pytest.fixture(scope="module")
def remote_cases(cases, bucket):
    """The same in the bucket."""
    root = f"{bucket}/my cases"
    for path in files.walk(cases):
        files.write_bytes(root + path.removeprefix(str(cases)), files.read_bytes(path))
    return root


@pytest.fixture(scope="module")
def expected(cases, tmp_path_factory):
    """The digests of a run from disk to disk."""
    folder = tmp_path_factory.mktemp("expected")
    ended = test_engines.run(cases, folder)
    assert ended.returncode == 0, ended.stderr
    return digests(folder)


def digests(folder) -> dict[str, str]:
    return {
        files.name(path): hashlib.sha256(files.read_bytes(path)).hexdigest()
        for path in files.walk(folder)
        if files.name(path) != "dataset.json"
    }


# --- files ----------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_listed_and_removed(place):
    files.write_bytes(files.join(place, "a", "b.bin"), b"\x00\x01")
    files.write_bytes(files.join(place, "a", "empty"), b"")
    assert files.read_bytes(files.join(place, "a", "b.bin")) == b"\x00\x01"
    assert files.walk(place) == {files.join(place, "a", "b.bin"): 2, files.join(place, "a", "empty"): 0}
    assert files.is_folder(files.join(place, "a")) and not files.is_folder(files.join(place, "nothing"))
    assert files.size(files.join(place, "a", "b.bin")) == 2
    files.remove(files.join(place, "a"))
    files.remove(files.join(place, "a"))
    assert not files.is_folder(place) and not files.exists(files.join(place, "a", "b.bin"))


def test_a_file_of_many_pieces_is_replaced_whole_and_a_failed_one_leaves_the_old(place):
    path = files.join(place, "shard.tfrecord")
    first, second = bytes(range(256)) * 60_000, os.urandom(256) * 80_000  # more than one upload of gcsfs' 5 MiB
    files.write_bytes(path, first)
    with pytest.raises(RuntimeError, match="on purpose"), files.writing(path) as file:
        file.write(second)
        raise RuntimeError("on purpose")
    assert files.read_bytes(path) == first
    assert [files.name(one) for one in files.walk(place)] == ["shard.tfrecord"]
    files.write_bytes(path, second)
    assert b"".join(files.read_chunks(path, 2**20)) == second


def test_what_is_missing_is_named(bucket, place):
    with pytest.raises(InputError, match=r"gone\.bin: no such file"):
        files.read_bytes(files.join(place, "gone.bin"))
    with pytest.raises(InputError, match="no such folder"):
        files.walk(place)
    with pytest.raises(InputError, match="no such folder"):
        files.walk("gs://another-bucket/cases")


# --- the job --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_from_bucket_to_bucket_the_bytes_are_those_of_the_disk(remote_cases, place, expected, mode):
    ended = test_engines.run(
        remote_cases,
        place,
        f"--direct_running_mode={mode}",
        f"--direct_num_workers={1 if mode == 'in_memory' else 2}",
    )
    assert ended.returncode == 0, ended.stderr
    assert digests(place) == expected
    assert files.walk(place).keys() == {files.join(place, name) for name in (*expected, "dataset.json")}


@pytest.mark.slow  # the dead command's lock on the folder is waited for
def test_killed_in_the_middle_and_run_again_the_bytes_are_the_same_and_nothing_else_lies_there(
    remote_cases, place, expected
):
    with test_engines.job(
        remote_cases, place, "--direct_running_mode=in_memory", "--direct_num_workers=1"
    ) as killed:
        deadline = time.monotonic() + test_engines.LIMIT_S
        while not any(path.endswith(".tfrecord.json") for path in (_listing(place))):
            assert killed.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    assert not files.exists(files.join(place, "dataset.json"))
    ended = test_engines.run(remote_cases, place)
    assert ended.returncode == 0, ended.stderr
    assert "are finished already and are kept" in ended.stdout
    assert digests(place) == expected
    assert not any(files.PARTIAL in path for path in files.walk(place))


def _listing(folder):
    return files.walk(folder) if files.is_folder(folder) else {}


def test_a_corrupt_case_in_a_bucket_is_named_by_its_gs_path(remote_cases, cases, bucket, place):
    root = f"{bucket}/{uuid.uuid4().hex}"
    for path, content in ((path, files.read_bytes(path)) for path in files.walk(cases)):
        cut = content[:-40] if path.endswith("002_t2.nii.gz") else content
        files.write_bytes(root + path.removeprefix(str(cases)), cut)
    ended = test_engines.run(root, place)
    assert ended.returncode == 1
    assert f"{root}/BraTS20_Training_002/BraTS20_Training_002_t2.nii.gz" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.flink
@pytest.mark.slow
def test_flink_s_workers_read_and_write_the_bucket(remote_cases, place, expected, tmp_path):
    with test_engines.worker_pool() as workers, test_engines.flink(workers, tmp_path) as options:
        ended = test_engines.run(remote_cases, place, *options)
    assert ended.returncode == 0, ended.stderr
    assert digests(place) == expected


# --- batch prediction -----------------------------------------------------------------------------------


def test_a_model_in_the_bucket_segments_cases_in_the_bucket_as_on_the_disk(
    remote_cases, cases, place, tmp_path
):
    model = tiny_model.write(tmp_path / "tiny")
    (model / model_card.FILE).write_text(tiny_model.card().to_json())
    for path in files.walk(model):
        files.write_bytes(f"{place}/tiny/1" + path.removeprefix(str(model)), files.read_bytes(path))
    for job in ((model, cases, tmp_path / "out"), (f"{place}/tiny/1", remote_cases, f"{place}/out")):
        given = zip(("--model", "--input", "--output"), map(str, job), strict=True)
        assert segment_cases.main([*(word for pair in given for word in pair), "--provenance"]) == 0
    assert digests(f"{place}/out") == digests(tmp_path / "out")
    assert len(digests(f"{place}/out")) == 11
