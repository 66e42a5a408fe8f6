"""The file that hands a job's tasks to its workers, and the graph without them."""

import dataclasses
import os
import random

import apache_beam as beam
import pytest

from beam_pipelines import task_list, transforms
from tfbrats import config_file
from tfbrats.datasets.layouts import CaseFiles, Dataset
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES
from tfbrats.records import shards
from tfbrats.records.shards import ShardTask

LIMIT = 10 * 2**20  # of a graph, at Dataflow


def made_up(count: int) -> list[CaseFiles]:
    """Cases with paths as long as a bucket's, and ids that repeat nothing."""
    draw = random.Random(7)
    cases = []
    for number in sorted(draw.sample(range(10**8), count)):
        case_id = f"BraTS2021_{number:08d}"
        stem = f"gs://my-bucket/datasets/BraTS2021/training/{case_id}/{case_id}"
        cases.append(
            CaseFiles(
                case_id=case_id,
                patient_id=case_id,
                layout="BraTS",
                schema=EDITIONS["2021"].overruling(EDITIONS["2023"]),
                images=tuple((modality, f"{stem}_{modality}.nii.gz", None) for modality in MODALITIES),
                label=f"{stem}_seg.nii.gz",
                label_expected=True,
                notes=("a note",),
            )
        )
    return cases


def weight(build) -> int:
    pipeline = beam.Pipeline()
    build(pipeline)
    return len(pipeline.to_runner_api().SerializeToString())


def test_what_is_read_is_what_was_written(tmp_path):
    cases = made_up(300)  # more than one piece of the file
    path = str(tmp_path / "deep" / "tasks.jsonl.gz")
    task_list.write(path, CaseFiles, cases)
    again = list(task_list.read(path, CaseFiles))
    assert again == cases
    assert [case.schema.by_names for case in again] == [case.schema.by_names for case in cases]  # not in ==


def test_no_task_is_lost_where_pieces_of_the_file_meet(tmp_path, monkeypatch):
    cases, path = made_up(20), str(tmp_path / "tasks.jsonl.gz")
    task_list.write(path, CaseFiles, cases)
    read = task_list.files.read_chunks
    monkeypatch.setattr(task_list.files, "read_chunks", lambda path, size: read(path, 7))
    assert list(task_list.read(path, CaseFiles)) == cases


def test_a_list_that_is_cut_short_is_an_error_and_not_a_shorter_list(tmp_path):
    path = tmp_path / "tasks.jsonl.gz"
    task_list.write(str(path), CaseFiles, made_up(50))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"tasks\.jsonl\.gz: cut short"):
        list(task_list.read(str(path), CaseFiles))


def test_a_path_that_is_not_utf_8_comes_back_as_it_was(tmp_path):
    label = os.fsdecode(b'/data/caf\xe9/a "b"\n_seg.nii.gz')
    (case,) = made_up(1)
    case, path = dataclasses.replace(case, label=label), str(tmp_path / "tasks.jsonl.gz")
    task_list.write(path, CaseFiles, [case])
    assert list(task_list.read(path, CaseFiles)) == [case]


def test_a_shard_s_task_travels_without_its_config_and_keeps_its_hash(tmp_path, monkeypatch):
    cases = made_up(5)
    monkeypatch.setattr(shards.files, "walk", lambda root: {})
    config = config_file.load("msm.yaml", [])
    dataset = Dataset("gs://my-bucket", tuple(cases), ())
    tasks = shards.plan(dataset, {"train": [case.case_id for case in cases]}, config, "gs://b/out", 5e9)
    path = str(tmp_path / "tasks.jsonl.gz")
    transforms.list_shards(path, tasks)
    again = list(task_list.read(path, ShardTask))
    assert {str(task.config) for task in again} == {"{}"}
    assert [dataclasses.replace(task, config=tasks[0].config) for task in again] == tasks


def test_no_list_is_an_error_that_names_it(tmp_path):
    with pytest.raises(InputError, match=r"tasks\.jsonl\.gz: no such file"):
        list(task_list.read(str(tmp_path / "tasks.jsonl.gz"), CaseFiles))


def test_the_graph_is_as_small_for_many_cases_as_for_one(tmp_path):
    config = config_file.load("msm.yaml", []).model_dump(mode="json")
    listed = str(tmp_path / "tasks.jsonl.gz")  # not there: nothing of it is in the graph
    records = weight(lambda job: transforms.write_shards(job, listed, config))
    segmentations = weight(lambda job: transforms.segment_cases(job, listed, "models/msm/1", "out", True))
    assert max(records, segmentations) < LIMIT / 100
    # As it was: 100,000 cases in the graph were over the limit, at any length of path.
    few, many = (weight(lambda job, n=n: job | beam.Create(made_up(n), reshuffle=False)) for n in (100, 300))
    assert (many - few) / 200 * 100_000 > LIMIT / 2
