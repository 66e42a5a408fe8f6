"""Which case goes where, and one shard from cases to bytes."""

import dataclasses
import gzip
import os
import shutil
import uuid

import fsspec
import numpy as np
import pytest

from tfbrats import case, config, examples, files, labels, layouts, phantom, records, shards
from tfbrats.command import InputError

OVERRIDES = ("records.slice_shape=[32, 32]", "records.min_shards=2")


def a_config(*more):
    return config.load("smoke_2d.yaml", [*OVERRIDES, *more])


@pytest.fixture(scope="module")
def cases_folder(tmp_path_factory):
    """Five tiny simulated cases in a folder with a blank in its name. Read only."""
    folder = tmp_path_factory.mktemp("shards") / "my cases"
    phantom.write_dataset(folder, 5, "2020", seed=3, shape=(32, 32, 20))
    return str(folder)


def planned(root, output, *overrides, splits=None):
    settings = a_config(*overrides)
    dataset = layouts.find(root)
    splits = splits or {"train": [one.case_id for one in dataset.cases], "validation": [], "test": []}
    return shards.plan(dataset, splits, settings, str(output), bytes_per_case=2**10)


# --- splits ---------------------------------------------------------------------------------------------


def a_dataset(patients: int, scans: int = 1, folder: str = "/data", start: int = 0, label: bool = True):
    found = []
    for patient in range(start, start + patients):
        for scan in range(scans):
            name = f"BraTS-GLI-{patient:05d}-{scan:03d}"
            found.append(
                layouts.CaseFiles(
                    case_id=name,
                    patient_id=f"BraTS-GLI-{patient:05d}",
                    layout="BraTS folders",
                    schema=labels.EDITIONS["2023"],
                    images=(("t1", f"{folder}/{name}/{name}-t1n.nii.gz", None),),
                    label=f"{folder}/{name}/{name}-seg.nii.gz" if label else None,
                    label_expected=label,
                )
            )
    return layouts.Dataset("/data", tuple(found), ())


def joined(*datasets):
    return layouts.Dataset("/data", tuple(one for dataset in datasets for one in dataset.cases), ())


@pytest.mark.parametrize(
    ("patients", "counts"),
    [
        (210, [126, 42, 42]),
        (285, [171, 57, 57]),
        (6, [4, 1, 1]),
        (5, [3, 1, 1]),
        (3, [2, 1, 0]),
        (1, [1, 0, 0]),
    ],
)
def test_patients_are_dealt_3_1_1_with_exact_counts(patients, counts):
    dataset = a_dataset(patients)
    splits = shards.split_cases(dataset, (3, 1, 1), seed=0)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == counts
    assert sorted(i for ids in splits.values() for i in ids) == [one.case_id for one in dataset.cases]


def test_hgg_and_lgg_are_each_dealt_3_1_1():
    dataset = joined(a_dataset(20, folder="/data/HGG"), a_dataset(10, folder="/data/LGG", start=20))
    splits = shards.split_cases(dataset, (3, 1, 1), seed=4)
    low = {one.case_id for one in dataset.cases if "/LGG/" in one.paths()[0]}
    assert [len(ids) for ids in splits.values()] == [18, 6, 6]
    assert [len(low & set(ids)) for ids in splits.values()] == [6, 2, 2]


@pytest.mark.parametrize("seed", range(5))
def test_all_scans_of_a_patient_are_in_one_split(seed):
    splits = shards.split_cases(a_dataset(11, scans=3), (3, 1, 1), seed)
    patients = [{case_id[:-4] for case_id in ids} for ids in splits.values()]
    assert [len(group) for group in patients] == [7, 2, 2]
    assert not patients[0] & patients[1] and not patients[0] & patients[2] and not patients[1] & patients[2]


def test_the_split_is_the_same_for_the_same_seed_whatever_the_order_cases_are_found_in():
    dataset = a_dataset(30)
    turned = layouts.Dataset("/data", tuple(reversed(dataset.cases)), ())
    splits = shards.split_cases(dataset, (3, 1, 1), 7)
    assert shards.split_cases(turned, (3, 1, 1), 7) == splits
    assert shards.split_cases(dataset, (3, 1, 1), 8) != splits


def test_given_splits_are_used_as_they_are_and_val_means_validation():
    dataset = a_dataset(4)
    a, b, c, _ = [one.case_id for one in dataset.cases]
    assert shards.split_cases(dataset, (3, 1, 1), 0, {"val": [c], "train": [b, a]}) == {
        "train": [a, b],
        "validation": [c],
        "test": [],
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": ["A"]}, r"case ids that are not in /data: \['A'\]"),
        ({"train": [], "holdout": []}, r"unknown splits \['holdout'\]; expected .* train, validation, test"),
        ({"train": ["BraTS-GLI-00000-000", "BraTS-GLI-00000-000"]}, r"listed twice: \['BraTS-GLI-00000-000'\]"),
        ({"val": ["BraTS-GLI-00000-000"]}, r"no training case"),
        ({"val": [], "validation": [], "train": []}, r"both val and validation"),
        ([{"train": [], "val": []}], r"expected \{split: \[case ids\]\}"),  # nnU-Net's splits_final.json
        ({"train": "BraTS-GLI-00000-000"}, r"expected \{split: \[case ids\]\}"),
        (
            {"train": ["BraTS-GLI-00001-000"], "test": ["BraTS-GLI-00001-001"]},
            r"in more than one split: \{'BraTS-GLI-00001': \['test', 'train'\]\}",
        ),
    ],
)
def test_given_splits_that_do_not_fit_are_an_error_that_says_why(given, message):
    with pytest.raises(InputError, match=message):
        shards.split_cases(a_dataset(3, scans=2), (3, 1, 1), 0, given)


def test_test_images_without_segmentation_are_in_no_split():
    dataset = joined(a_dataset(5), a_dataset(3, start=5, label=False))
    splits = shards.split_cases(dataset, (3, 1, 1), 0)
    assert [len(ids) for ids in splits.values()] == [3, 1, 1]
    assert all(case_id < "BraTS-GLI-00005" for ids in splits.values() for case_id in ids)
    with pytest.raises(InputError, match="no case has a segmentation"):
        shards.split_cases(a_dataset(3, label=False), (3, 1, 1), 0)


# --- plan -----------------------------------------------------------------------------------------------


def test_the_plan_is_the_same_again_and_holds_every_case_once(cases_folder, tmp_path):
    tasks = planned(cases_folder, tmp_path)
    assert tasks == planned(cases_folder, tmp_path)
    assert [task.file for task in tasks] == [f"train-0000{n}-of-00002.tfrecord" for n in (0, 1)]
    ids = [[one.case_id[-3:] for one in task.cases] for task in tasks]
    assert ids == [["000", "002", "004"], ["001", "003"]]


def test_there_are_as_many_shards_as_their_size_asks_for_but_at_most_one_a_case(cases_folder):
    dataset = layouts.find(cases_folder)
    ids = {"train": [one.case_id for one in dataset.cases], "validation": [], "test": []}

    def count(mib_per_case, *overrides):
        return len(shards.plan(dataset, ids, a_config(*overrides), "o", mib_per_case * 2**20))

    assert count(1) == 2  # min_shards
    assert count(100) == 4  # 500 MiB in shards of 150
    assert count(1000) == 5
    assert count(1, "records.min_shards=64") == 5


def test_the_hash_of_a_shard_changes_with_all_that_its_bytes_depend_on(cases_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(cases_folder, copy)

    def hashes(*overrides, splits=None):
        return [task.sha256 for task in planned(copy, "out", *overrides, splits=splits)]

    before = hashes()
    assert len(set(before)) == 2
    assert hashes() == before
    assert hashes("train.epochs=99", "lws.beta=3") == before  # no record depends on these
    for changed in ("records.seed=1", "lws.contour_width_mm=6", "preprocess.n4_modalities=[t1]"):
        assert not set(hashes(changed)) & set(before)
    file = sorted(copy.rglob("*001_t2.nii.gz"))[0]
    file.write_bytes(file.read_bytes() + b"\0")
    assert [a == b for a, b in zip(hashes(), before, strict=True)] == [True, False]


# --- one shard ------------------------------------------------------------------------------------------


def test_a_shard_holds_the_slices_of_its_cases_in_order(cases_folder, tmp_path):
    task = planned(cases_folder, tmp_path)[1]
    shard = shards.write_shard(task)
    found = [records.decode(records.SLICES, content) for content in records.read_records(tmp_path / task.file)]
    assert [row.case_id for row in shard.cases] == [one.case_id for one in task.cases]
    expected = [row.case_id for row in shard.cases for _ in range(row.examples)]
    assert [one["case_id"] for one in found] == expected
    assert shard.examples == len(found) > 0
    assert all(np.any(one["region"] != examples.LwsRegion.S1) for one in found)
    assert records.check_shard(tmp_path, shard) is None
    assert shard.cases[0].spacing_mm == (1.0, 1.0, 1.0)
    assert records.Shard.model_validate_json(files.read_bytes(task.part)) == shard


def test_validation_and_test_keep_the_slices_that_training_drops(cases_folder, tmp_path):
    ids = [one.case_id for one in layouts.find(cases_folder).cases]
    counts = {}
    for split in records.SPLITS:
        splits = {name: ids[:1] if name == split else [] for name in records.SPLITS}
        (task,) = planned(cases_folder, tmp_path, "records.dropped_fraction=0.6", splits=splits)
        counts[split] = shards.write_shard(task).examples
    assert counts["train"] < counts["validation"] == counts["test"]


def test_a_shard_written_twice_is_the_same_bytes(cases_folder, tmp_path):
    splits = {"train": [layouts.find(cases_folder).cases[0].case_id]}
    first, second = (
        planned(cases_folder, tmp_path / name, "preprocess.n4_modalities=[t1ce]", splits=splits)[0]
        for name in "ab"
    )
    assert shards.write_shard(first) == shards.write_shard(second)
    assert files.read_bytes(tmp_path / "a" / first.file) == files.read_bytes(tmp_path / "b" / first.file)


def test_a_shard_from_memory_to_memory_is_the_same_bytes_as_from_disk_to_disk(cases_folder, tmp_path):
    root = f"memory://{uuid.uuid4().hex}"
    for path in files.walk(cases_folder):
        files.write_bytes(root + path.removeprefix(cases_folder), files.read_bytes(path))
    there = planned(f"{root}", f"{root}/out")[0]
    here = planned(cases_folder, tmp_path)[0]
    assert there.cases[0].paths()[0].startswith("memory://")
    assert shards.write_shard(there).crc32c == shards.write_shard(here).crc32c
    assert files.read_bytes(f"{root}/out/{there.file}") == files.read_bytes(tmp_path / here.file)
    assert sorted(map(files.name, files.walk(f"{root}/out"))) == [there.file, f"{there.file}.json"]
    fsspec.filesystem("memory").rm(root, recursive=True)


def broken_copy(cases_folder, target):
    """A copy whose case 002 has a truncated t2."""
    shutil.copytree(cases_folder, target)
    (broken,) = target.rglob("*002_t2.nii.gz")
    broken.write_bytes(broken.read_bytes()[:-40])
    return target


def test_a_broken_case_is_rejected_with_its_stage_and_the_others_are_written(cases_folder, tmp_path):
    task = planned(broken_copy(cases_folder, tmp_path / "in"), tmp_path / "out")[0]
    shard = shards.write_shard(task)
    assert [row.case_id[-3:] for row in shard.cases] == ["000", "004"]
    (row,) = shard.rejected
    assert (row.case_id[-3:], row.stage) == ("002", "read")
    assert "002_t2.nii.gz: truncated" in row.reason and "tfbrats.inspect" in row.hint
    without = [one for one in task.cases if not one.case_id.endswith("002")]
    shards.write_shard(dataclasses.replace(task, cases=tuple(without), output=str(tmp_path / "without")))
    written = [files.read_bytes(tmp_path / place / task.file) for place in ("out", "without")]
    assert written[0] == written[1]


def test_a_case_that_cannot_be_prepared_is_rejected_at_that_stage(cases_folder, tmp_path):
    task = planned(cases_folder, tmp_path, "records.slice_shape=[16, 16]")[0]
    shard = shards.write_shard(task)
    assert {row.stage for row in shard.rejected} == {"prepare"}
    assert "the canvas 16. Raise records.slice_shape" in shard.rejected[0].reason
    assert shard.examples == 0 and records.check_shard(tmp_path, shard) is None


def test_nan_voxels_reject_their_case_alone(cases_folder, tmp_path):
    shutil.copytree(cases_folder, tmp_path / "in")
    (path,) = (tmp_path / "in").rglob("*004_t1.nii.gz")
    array = case.read_nifti(path)[0].astype(np.float32)
    array[16, 16, 10] = np.nan
    path.write_bytes(case.to_nifti_bytes(array, case.new_grid(array.shape), path.name))
    shard = shards.write_shard(planned(tmp_path / "in", tmp_path / "out")[0])
    (row,) = shard.rejected
    assert row.case_id.endswith("004") and "1 voxels of t1 are NaN" in row.reason


def test_an_unexpected_error_rejects_the_case_and_is_named(cases_folder, tmp_path, monkeypatch):
    real = examples.slices

    def slices(prepared, *rest):
        if prepared.case_id.endswith("000"):
            raise ZeroDivisionError("a bug of ours")
        return real(prepared, *rest)

    monkeypatch.setattr(examples, "slices", slices)
    shard = shards.write_shard(planned(cases_folder, tmp_path)[0])
    (row,) = shard.rejected
    assert row.reason == "ZeroDivisionError: a bug of ours" and "report" in row.hint
    assert len(shard.cases) == 2


def test_a_case_whose_file_vanished_since_the_plan_is_rejected(cases_folder, tmp_path):
    shutil.copytree(cases_folder, tmp_path / "in")
    task = planned(tmp_path / "in", tmp_path / "out")[0]
    os.remove(task.cases[0].images[0][1])
    shard = shards.write_shard(task)
    assert "no such file" in shard.rejected[0].reason
    assert len(shard.cases) == 2


def test_a_write_that_breaks_off_leaves_nothing_behind_and_is_no_rejection(cases_folder, tmp_path, monkeypatch):
    task = planned(cases_folder, tmp_path / "out")[0]
    written = []

    def frame(content):
        written.append(content)
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        return content

    monkeypatch.setattr(records, "frame", frame)
    with pytest.raises(OSError, match="No space left"):
        shards.write_shard(task)
    assert len(written) == 5
    assert files.walk(tmp_path / "out") == {}


def test_a_shard_is_finished_when_file_row_and_task_agree(cases_folder, tmp_path):
    task, other = planned(cases_folder, tmp_path)
    row = shards.write_shard(task)
    assert shards.is_finished(task, {task.file: row})
    assert not shards.is_finished(other, {task.file: row})
    assert not shards.is_finished(dataclasses.replace(task, sha256="another"), {task.file: row})
    rejected = records.Rejected(case_id="a", stage="read", reason="b", hint="c")
    assert not shards.is_finished(task, {task.file: row.model_copy(update={"rejected": (rejected,)})})
    path = tmp_path / task.file
    content = bytearray(path.read_bytes())
    content[100] ^= 4
    path.write_bytes(bytes(content))
    assert not shards.is_finished(task, {task.file: row})


# --- price ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32, 20), (48, 32, 24)])
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_the_price_is_within_a_factor_of_two_of_the_bytes_and_slices_written(tmp_path, shape, fraction):
    phantom.write_dataset(tmp_path / "in", 5, "2020", seed=9, shape=shape)
    dataset = layouts.find(tmp_path / "in")
    settings = a_config("records.slice_shape=[48, 32]", f"records.dropped_fraction={fraction}")
    splits = shards.split_cases(dataset, (3, 1, 1), 0)
    price = shards.price(dataset, splits, settings, str(tmp_path / "out"), with_n4=False)
    tasks = shards.plan(dataset, splits, settings, str(tmp_path / "out"), price.bytes / price.cases)
    written = [shards.write_shard(task) for task in tasks]
    assert price.cases == 5
    assert 0.5 < price.bytes / sum(shard.bytes for shard in written) < 2
    assert 0.5 < price.examples / sum(shard.examples for shard in written) < 2


def test_the_price_is_measured_on_the_first_sound_case(cases_folder, tmp_path):
    settings = a_config()
    dataset = layouts.find(broken_copy(cases_folder, tmp_path / "in"))
    ids = [one.case_id for one in dataset.cases]
    splits = {"train": ids[2:4], "validation": [], "test": []}  # the first of these is the broken one
    only = {"train": ids[3:4], "validation": [], "test": []}
    both, one = (shards.price(dataset, given, settings, "o", with_n4=False) for given in (splits, only))
    assert (both.cases, both.bytes) == (2, 2 * one.bytes)
    with pytest.raises(InputError, match=r"no case can be used:\n.*002_t2.nii.gz: truncated"):
        shards.price(dataset, {"train": ids[2:3]}, settings, "o", with_n4=False)


def test_n4_is_in_the_hours_once_for_each_modality(cases_folder, monkeypatch):
    dataset = layouts.find(cases_folder)
    splits = {"train": [one.case_id for one in dataset.cases]}
    clock = [0.0]
    monkeypatch.setattr(shards.time, "monotonic", lambda: clock[0])

    def n4(*_):
        clock[0] += 100

    monkeypatch.setattr(shards.preprocess, "n4", n4)
    settings = a_config("preprocess.n4_modalities=[t1, t1ce, flair]")
    assert shards.price(dataset, splits, settings, "o", with_n4=True).seconds == 5 * 3 * 100
    assert shards.price(dataset, splits, a_config(), "o", with_n4=True).seconds == 0
    assert shards.price(dataset, splits, settings, "o", with_n4=False).seconds is None


def test_the_price_tag_speaks_in_units_a_person_reads():
    def tag(**changes):
        price = shards.Price(cases=285, examples=30000, bytes=7 * 2**30, seconds=9000, free_bytes=80 * 2**30)
        return dict(line.split(maxsplit=1) for line in dataclasses.replace(price, **changes).lines(50))

    assert tag()["bytes"] == "about 7.0 GiB"
    assert tag()["hours"] == "about 2.5 on one worker of this machine; workers share them"
    assert tag(seconds=40)["hours"].startswith("under 0.1")
    assert tag(bytes=3 * 2**20)["bytes"] == "about 3.0 MiB"
    assert "hours" not in tag(seconds=None)


def test_gzip_and_plain_files_give_the_same_records(cases_folder, tmp_path):
    for path in files.walk(cases_folder):
        content = files.read_bytes(path)
        inner = path.removeprefix(cases_folder)
        plain = gzip.decompress(content) if inner.endswith(".gz") else content
        files.write_bytes(str(tmp_path / "in") + inner.removesuffix(".gz"), plain)
    ours, theirs = planned(cases_folder, tmp_path / "a")[0], planned(tmp_path / "in", tmp_path / "b")[0]
    assert shards.write_shard(ours).crc32c == shards.write_shard(theirs).crc32c
