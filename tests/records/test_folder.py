"""A folder of records as the job that writes it sees it: looked at once, claimed, resumed, finished."""

import uuid

import fsspec
import opened
import pytest

from tfbrats import config_file
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.phantoms import data_sets
from tfbrats.records import shards
from tfbrats.records.folder import RecordFolder
from tfbrats.records.manifest import Batch, read_manifest

CONFIG = config_file.load("smoke_2d.yaml", ["records.slice_shape=[32, 32]"])


class Job:
    """What the Beam job does to a folder, without Beam.

    Args:
        source: of the cases.
        output: of the records.
    """

    def __init__(self, source, output):
        self.output = str(output)
        dataset = layouts.find(source)
        ids = [case.case_id for case in dataset.cases]
        self.batches = [Batch(cases={"train": ids, "validation": [], "test": []}, bytes_per_case=1e4)]
        self.tasks = shards.plan(dataset, self.batches[0].cases, CONFIG, self.output, 1e4)

    def run(self, records: RecordFolder, write=shards.write_shard) -> int:
        """How many tasks were run."""
        with records.alone():
            records.check_claim(CONFIG, self.batches[0].cases)
            remaining = records.remaining(self.tasks, self.batches)
            records.claim(CONFIG, self.batches)
            if remaining.todo:
                records.resume(remaining)
            for task in remaining.todo:
                write(task)
            manifest = records.assemble(self.tasks, remaining.kept, CONFIG, self.batches)
            records.write_rejected(manifest)
            records.finish(manifest)
        return len(remaining.todo)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three tiny simulated cases. Read only."""
    folder = tmp_path_factory.mktemp("folder") / "cases"
    data_sets.write_dataset(folder, 3, "2020", seed=3, shape=(32, 32, 20))
    return folder


@pytest.fixture
def job(source, tmp_path) -> Job:
    """One that has ended well."""
    job = Job(source, tmp_path / "out")
    assert job.run(RecordFolder(job.output)) == 3
    return job


def disk_is_full(task):
    raise OSError(28, "No space left on device")


def test_a_folder_that_is_not_there_is_free_and_stays_away(tmp_path):
    records = RecordFolder(tmp_path / "out")
    records.check_free()
    assert (records.state, records.batches, records.manifest) == ("free", [], None)
    assert records.cases == {"train": [], "validation": [], "test": []} and records.freed_bytes() == 0
    assert not (tmp_path / "out").exists()


def test_a_finished_set_is_told_from_an_unfinished_one(source, job, tmp_path):
    records = RecordFolder(job.output)
    assert (records.state, records.batches) == ("finished", job.batches)
    assert records.manifest == read_manifest(job.output)
    broken_off = Job(source, tmp_path / "broken off")
    with pytest.raises(OSError, match="No space"):
        broken_off.run(RecordFolder(broken_off.output), disk_is_full)
    records = RecordFolder(broken_off.output)
    assert (records.state, records.batches, records.manifest) == ("unfinished", job.batches, None)


def test_a_job_over_a_finished_set_opens_dataset_json_once(job, monkeypatch):
    paths = opened.for_reading(monkeypatch, "dataset.json")
    assert job.run(RecordFolder(job.output)) == 0
    assert paths == [f"{job.output}/dataset.json"]


def test_a_job_that_mends_a_shard_opens_it_once_too(job, monkeypatch):
    files.write_bytes(files.join(job.output, job.tasks[1].files[0]), b"damaged")
    paths = opened.for_reading(monkeypatch, "dataset.json")
    assert job.run(RecordFolder(job.output)) == 1
    assert paths == [f"{job.output}/dataset.json"]


def test_a_shard_that_nobody_wrote_is_missed_though_dataset_json_named_it(job):
    files.write_bytes(files.join(job.output, job.tasks[1].files[0]), b"damaged")
    with pytest.raises(InputError, match=rf"the job ended without {job.tasks[1].files[0]}\. Run it again"):
        job.run(RecordFolder(job.output), write=lambda task: None)
    assert job.run(RecordFolder(job.output)) == 1


def test_what_another_job_finished_meanwhile_is_read_again(source, tmp_path):
    """Two of the same command: the second has looked before the first has begun."""
    first, second = Job(source, tmp_path / "out"), RecordFolder(tmp_path / "out")
    first.run(RecordFolder(tmp_path / "out"))
    with pytest.raises(InputError, match="another job wrote here while this one was looking"):
        first.run(second)
    looked = RecordFolder(tmp_path / "out")
    first.run(RecordFolder(tmp_path / "out"))  # the same records, written anew
    assert first.run(looked) == 0


def test_another_program_s_dataset_json_makes_no_record_set(tmp_path):
    files.write_json(tmp_path / "dataset.json", {"name": "BRATS", "labels": {}})
    records = RecordFolder(tmp_path)
    assert records.state == "free"
    with pytest.raises(InputError, match=r"not a record set: it holds dataset\.json"):
        records.check_free()


def test_a_damaged_set_is_refused_unless_it_is_to_be_overwritten(job):
    files.write_bytes(files.join(job.output, "dataset.json"), b'{"shards": [')
    with pytest.raises(InputError, match=r"not valid JSON .*--overwrite"):
        RecordFolder(job.output)
    records = RecordFolder(job.output, overwrite=True)
    records.check_free()
    assert records.batches == [] and records.freed_bytes() > 1000
    assert job.run(records) == 3


def test_a_person_s_file_keeps_a_set_from_being_deleted(job):
    files.write_bytes(files.join(job.output, "notes.txt"), b"mine")
    RecordFolder(job.output).check_free()
    with pytest.raises(InputError, match=r"holds notes\.txt, which is no part of a record set: nothing is"):
        RecordFolder(job.output, overwrite=True).check_free()


def test_what_was_replaced_in_a_store_is_seen_too(source, job):
    root = f"memory://{uuid.uuid4().hex}"
    for path in files.walk(job.output):
        files.write_bytes(files.join(root, files.name(path)), files.read_bytes(path))
    there = Job(source, root)
    looked = RecordFolder(root)
    files.write_bytes(files.join(root, "dataset.json"), b"{}")
    with pytest.raises(InputError, match="another job wrote here"), looked.alone():
        pass
    there.run(RecordFolder(root, overwrite=True))
    fsspec.filesystem("memory").rm(root, recursive=True)
