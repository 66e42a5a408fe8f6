"""One shard from cases to bytes, its plan and its price."""

import dataclasses
import gzip
import os
import shutil
import sys
import unittest.mock
import uuid

import fsspec
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tfbrats import config_file, labels
from tfbrats.cases import case, nifti, preprocess
from tfbrats.cases import slices as examples
from tfbrats.cases.dealing import split_cases
from tfbrats.cases.rejected import Rejected
from tfbrats.cases.split_files import SPLITS
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.machine import files, stopwatch
from tfbrats.phantoms import data_sets
from tfbrats.records import manifest, price, schema, shards, tfrecord
from tfbrats.records.price import Price, measured_price

OVERRIDES = ("records.slice_shape=[32, 32]", "records.min_shards=2")


def a_config(*more):
    return config_file.load("smoke_2d.yaml", [*OVERRIDES, *more])


@pytest.fixture(scope="module")
def cases_folder(tmp_path_factory):
    """Five tiny simulated cases in a folder with a blank in its name. Read only."""
    folder = tmp_path_factory.mktemp("shards") / "my cases"
    data_sets.write_dataset(folder, 5, "2020", seed=3, shape=(32, 32, 20))
    return str(folder)


def write(task) -> manifest.Shard:
    """The one shard of a task of slices."""
    [shard] = shards.write_shard(task)
    return shard


def planned(root, output, *overrides, splits=None):
    settings = a_config(*overrides)
    dataset = layouts.find(root)
    splits = splits or {"train": [one.case_id for one in dataset.cases], "validation": [], "test": []}
    return shards.plan(dataset, splits, settings, str(output), bytes_per_case=2**10)


# --- plan -----------------------------------------------------------------------------------------------


def test_the_plan_is_the_same_again_and_holds_every_case_once(cases_folder, tmp_path):
    tasks = planned(cases_folder, tmp_path)
    assert tasks == planned(cases_folder, tmp_path)
    assert [task.files[0] for task in tasks] == [f"train-0000{n}-of-00002.tfrecord" for n in (0, 1)]
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
    shard = write(task)
    found = [
        schema.decode(schema.SLICES, content) for content in tfrecord.read_records(tmp_path / task.files[0])
    ]
    assert [row.case_id for row in shard.cases] == [one.case_id for one in task.cases]
    expected = [row.case_id for row in shard.cases for _ in range(row.examples)]
    assert [one["case_id"] for one in found] == expected
    assert shard.examples == len(found) > 0
    assert all(np.any(one["region"] != labels.LwsRegion.S1) for one in found)
    assert manifest.check_shard(tmp_path, shard) is None
    assert shard.cases[0].spacing_mm == (1.0, 1.0, 1.0)
    assert (
        manifest.Shard.model_validate_json(files.read_bytes(shards.part_of(task.output, task.files[0])))
        == shard
    )


def test_validation_and_test_keep_the_slices_that_training_drops(cases_folder, tmp_path):
    ids = [one.case_id for one in layouts.find(cases_folder).cases]
    counts = {}
    for split in SPLITS:
        splits = {name: ids[:1] if name == split else [] for name in SPLITS}
        (task,) = planned(cases_folder, tmp_path, "records.dropped_fraction=0.6", splits=splits)
        counts[split] = write(task).examples
    assert counts["train"] < counts["validation"] == counts["test"]


def test_a_shard_written_twice_is_the_same_bytes(cases_folder, tmp_path):
    splits = {"train": [layouts.find(cases_folder).cases[0].case_id]}
    first, second = (
        planned(cases_folder, tmp_path / name, "preprocess.n4_modalities=[t1ce]", splits=splits)[0]
        for name in "ab"
    )
    rows = [write(task).model_dump(exclude={"cases": {"__all__": {"seconds"}}}) for task in (first, second)]
    assert rows[0] == rows[1]
    assert files.read_bytes(tmp_path / "a" / first.files[0]) == files.read_bytes(
        tmp_path / "b" / first.files[0]
    )


def test_a_shard_from_memory_to_memory_is_the_same_bytes_as_from_disk_to_disk(cases_folder, tmp_path):
    root = f"memory://{uuid.uuid4().hex}"
    for path in files.walk(cases_folder):
        files.write_bytes(root + path.removeprefix(cases_folder), files.read_bytes(path))
    there = planned(f"{root}", f"{root}/out")[0]
    here = planned(cases_folder, tmp_path)[0]
    assert there.cases[0].paths()[0].startswith("memory://")
    assert write(there).crc32c == write(here).crc32c
    assert files.read_bytes(f"{root}/out/{there.files[0]}") == files.read_bytes(tmp_path / here.files[0])
    assert sorted(map(files.name, files.walk(f"{root}/out"))) == [there.files[0], f"{there.files[0]}.json"]
    fsspec.filesystem("memory").rm(root, recursive=True)


def broken_copy(cases_folder, target):
    """A copy whose case 002 has a truncated t2."""
    shutil.copytree(cases_folder, target)
    (broken,) = target.rglob("*002_t2.nii.gz")
    broken.write_bytes(broken.read_bytes()[:-40])
    return target


def test_a_broken_case_is_rejected_with_its_stage_and_the_others_are_written(cases_folder, tmp_path):
    task = planned(broken_copy(cases_folder, tmp_path / "in"), tmp_path / "out")[0]
    shard = write(task)
    assert [row.case_id[-3:] for row in shard.cases] == ["000", "004"]
    (row,) = shard.rejected
    assert (row.case_id[-3:], row.stage) == ("002", "read")
    assert "002_t2.nii.gz: truncated" in row.reason and "tfbrats inspect" in row.hint
    without = [one for one in task.cases if not one.case_id.endswith("002")]
    write(dataclasses.replace(task, cases=tuple(without), output=str(tmp_path / "without")))
    written = [files.read_bytes(tmp_path / place / task.files[0]) for place in ("out", "without")]
    assert written[0] == written[1]


def test_a_case_that_cannot_be_prepared_is_rejected_at_that_stage(cases_folder, tmp_path):
    task = planned(cases_folder, tmp_path, "records.slice_shape=[16, 16]")[0]
    shard = write(task)
    assert {row.stage for row in shard.rejected} == {"prepare"}
    assert "the canvas 16. Raise records.slice_shape" in shard.rejected[0].reason
    assert shard.examples == 0 and manifest.check_shard(tmp_path, shard) is None


def test_nan_voxels_reject_their_case_alone(cases_folder, tmp_path):
    shutil.copytree(cases_folder, tmp_path / "in")
    (path,) = (tmp_path / "in").rglob("*004_t1.nii.gz")
    array = nifti.read(path).array.astype(np.float32)
    array[16, 16, 10] = np.nan
    path.write_bytes(nifti.to_bytes(array, nifti.new_grid(array.shape), path.name))
    shard = write(planned(tmp_path / "in", tmp_path / "out")[0])
    (row,) = shard.rejected
    assert row.case_id.endswith("004") and "1 voxels of t1 are NaN" in row.reason


def test_an_unexpected_error_rejects_the_case_and_is_named(cases_folder, tmp_path, monkeypatch):
    real = examples.slices

    def slices(prepared, *rest):
        if prepared.case_id.endswith("000"):
            raise ZeroDivisionError("a bug of ours")
        return real(prepared, *rest)

    monkeypatch.setattr(examples, "slices", slices)
    shard = write(planned(cases_folder, tmp_path)[0])
    (row,) = shard.rejected
    assert row.reason == "ZeroDivisionError: a bug of ours" and "report" in row.hint
    assert len(shard.cases) == 2


def test_a_case_whose_file_vanished_since_the_plan_is_rejected(cases_folder, tmp_path):
    shutil.copytree(cases_folder, tmp_path / "in")
    task = planned(tmp_path / "in", tmp_path / "out")[0]
    os.remove(task.cases[0].images[0][1])
    shard = write(task)
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

    monkeypatch.setattr(tfrecord, "frame", frame)
    with pytest.raises(OSError, match="No space left"):
        write(task)
    assert len(written) == 5
    assert files.walk(tmp_path / "out") == {}


def test_a_shard_is_finished_when_file_row_and_task_agree(cases_folder, tmp_path):
    task, other = planned(cases_folder, tmp_path)
    row = write(task)
    assert shards.is_finished(task, {task.files[0]: row})
    assert not shards.is_finished(other, {task.files[0]: row})
    assert not shards.is_finished(dataclasses.replace(task, sha256="another"), {task.files[0]: row})
    rejected = Rejected(case_id="a", stage="read", reason="b", hint="c")
    assert not shards.is_finished(task, {task.files[0]: row.model_copy(update={"rejected": (rejected,)})})
    path = tmp_path / task.files[0]
    content = bytearray(path.read_bytes())
    content[100] ^= 4
    path.write_bytes(bytes(content))
    assert not shards.is_finished(task, {task.files[0]: row})


# --- price ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32, 20), (48, 32, 24)])
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_the_price_is_within_a_factor_of_two_of_the_bytes_and_slices_written(tmp_path, shape, fraction):
    data_sets.write_dataset(tmp_path / "in", 5, "2020", seed=9, shape=shape)
    dataset = layouts.find(tmp_path / "in")
    settings = a_config("records.slice_shape=[48, 32]", f"records.dropped_fraction={fraction}")
    splits = split_cases(dataset, (3, 1, 1), 0)
    price = measured_price(dataset, splits, settings, str(tmp_path / "out"), with_n4=False)
    tasks = shards.plan(dataset, splits, settings, str(tmp_path / "out"), price.bytes / price.cases)
    found = [write(task) for task in tasks]
    assert price.cases == 5
    assert 0.5 < price.bytes / sum(shard.bytes for shard in found) < 2
    assert 0.5 < price.examples / sum(shard.examples for shard in found) < 2


def test_the_price_is_measured_on_the_first_sound_case(cases_folder, tmp_path):
    settings = a_config()
    dataset = layouts.find(broken_copy(cases_folder, tmp_path / "in"))
    ids = [one.case_id for one in dataset.cases]
    splits = {"train": ids[2:4], "validation": [], "test": []}  # the first of these is the broken one
    only = {"train": ids[3:4], "validation": [], "test": []}
    both, one = (measured_price(dataset, given, settings, "o", with_n4=False) for given in (splits, only))
    assert (both.cases, both.bytes) == (2, 2 * one.bytes)
    with pytest.raises(InputError, match=r"no case can be used:\n.*002_t2.nii.gz: truncated"):
        measured_price(dataset, {"train": ids[2:3]}, settings, "o", with_n4=False)


def test_n4_is_in_the_hours_once_for_each_modality(cases_folder, monkeypatch):
    dataset = layouts.find(cases_folder)
    splits = {"train": [one.case_id for one in dataset.cases]}
    clock = [0.0]
    monkeypatch.setattr(price.time, "monotonic", lambda: clock[0])

    def corrected(volume, *_):
        clock[0] += 100
        return volume

    monkeypatch.setattr(shards.preprocess.bias, "corrected", corrected)
    monkeypatch.setattr(shards.preprocess, "corrected_by_itk", corrected)
    settings = a_config("preprocess.n4_modalities=[t1, t1ce, flair]")
    assert measured_price(dataset, splits, settings, "o", with_n4=True).seconds == 5 * 3 * 100
    assert measured_price(dataset, splits, a_config(), "o", with_n4=True).seconds == 0
    by_itk = a_config("preprocess.n4_modalities=[t1, t1ce, flair]", "preprocess.n4=itk")
    assert measured_price(dataset, splits, by_itk, "o", with_n4=True).seconds == 5 * 3 * 100
    ours_s, itk_s = (
        measured_price(dataset, splits, each, "o", with_n4=False).seconds for each in (settings, by_itk)
    )
    assert 0 < ours_s < itk_s < 1  # rough figures


def test_the_price_tag_speaks_in_units_a_person_reads():
    def tag(**changes):
        price = Price(
            "slices", 285, 30000, 7 * 2**30, None, seconds=9000, free_bytes=80 * 2**30, worker_bytes=2**30
        )
        return dict(line.split(maxsplit=1) for line in dataclasses.replace(price, **changes).lines(50))

    assert tag()["bytes"] == "about 7.0 GiB"
    assert tag()["time"] == "about 2.5 h on one worker of this machine; workers share it"
    assert tag(seconds=40)["time"].startswith("about 40 s on")
    assert tag(bytes=3 * 2**20)["bytes"] == "about 3.0 MiB"


def test_the_price_recommends_volumes_when_the_disk_is_too_short_for_patches_and_not_for_them():
    def advice(free_gib, volumes_gib=9, patches_gib=1400):
        volumes = None if volumes_gib is None else volumes_gib * 2**30
        price = Price("patches", 285, 342000, patches_gib * 2**30, volumes, 60, free_gib * 2**30, 2**30)
        assert ("the disk is short" in "\n".join(price.lines(8))) == bool(price.advice(price.bytes))
        assert not price.advice(0)  # nothing is left to be written
        return price.advice(price.bytes)

    assert "records.kind=volumes: about 9.0 GiB" in advice(free_gib=80)
    assert advice(free_gib=2000) == ""
    assert advice(free_gib=5) == ""
    assert advice(free_gib=80, volumes_gib=None) == ""


def test_gzip_and_plain_files_give_the_same_records(cases_folder, tmp_path):
    for path in files.walk(cases_folder):
        content = files.read_bytes(path)
        inner = path.removeprefix(cases_folder)
        plain = gzip.decompress(content) if inner.endswith(".gz") else content
        files.write_bytes(str(tmp_path / "in") + inner.removesuffix(".gz"), plain)
    ours, theirs = planned(cases_folder, tmp_path / "a")[0], planned(tmp_path / "in", tmp_path / "b")[0]
    assert write(ours).crc32c == write(theirs).crc32c


# --- paper B --------------------------------------------------------------------------------------------

SMALL_PATCHES = ("sampling.patch_size=8", "cascade.stride=8", "sampling.patches_per_case=5")


def b_config(kind, *more):
    return config_file.load(
        "smoke_3d.yaml", [*SMALL_PATCHES, f"records.kind={kind}", "records.min_shards=2", *more]
    )


def b_tasks(root, output, kind, *more, bytes_per_case=2**10):
    dataset = layouts.find(root)
    splits = {"train": [one.case_id for one in dataset.cases][:3], "validation": [], "test": []}
    return shards.plan(dataset, splits, b_config(kind, *more), str(output), bytes_per_case)


def decoded(folder, shard, kind):
    contents = tfrecord.read_records(files.join(folder, shard.file))
    return [schema.decode(schema.SCHEMAS[kind], content) for content in contents]


def test_each_region_has_shards_of_its_own_and_volumes_serve_all(cases_folder, tmp_path):
    names = [task.files for task in b_tasks(cases_folder, tmp_path, "patches")]
    assert names == [
        tuple(f"train-{region}-0000{n}-of-00002.tfrecord" for region in ("wt", "tc", "et")) for n in (0, 1)
    ]
    alone = b_tasks(cases_folder, tmp_path, "patches", "region=tc")
    assert [task.files for task in alone] == [(f"train-tc-0000{n}-of-00002.tfrecord",) for n in (0, 1)]
    for region in ("all", "tc"):
        volumes = b_tasks(cases_folder, tmp_path, "volumes", f"region={region}")
        assert [task.files for task in volumes] == [(f"train-0000{n}-of-00002.tfrecord",) for n in (0, 1)]


def test_a_shard_of_patches_is_as_large_as_is_asked_for_each_region(cases_folder, tmp_path):
    """900 MiB a case are 300 a region: two of the three cases' in a shard of 600."""
    count = len(b_tasks(cases_folder, tmp_path, "patches", "records.shard_mib=600", bytes_per_case=900 * 2**20))
    assert count == 2
    alone = ("records.shard_mib=600", "region=wt")
    assert len(b_tasks(cases_folder, tmp_path, "patches", *alone, bytes_per_case=600 * 2**20)) == 3


def test_a_case_is_read_once_for_all_regions_and_each_gets_its_patches(cases_folder, tmp_path, monkeypatch):
    read, real = [], case.load
    monkeypatch.setattr(
        case, "load", lambda one, *rest, **more: read.append(one.case_id) or real(one, *rest, **more)
    )
    task = b_tasks(cases_folder, tmp_path, "patches")[0]
    written = shards.write_shard(task)
    assert read == [one.case_id for one in task.cases]
    assert [shard.region for shard in written] == ["WT", "TC", "ET"]
    for shard in written:
        found = decoded(tmp_path, shard, "patches")
        assert shard.examples == len(found) == 5 * len(task.cases)
        assert {patch["region"] for patch in found} == {shard.region}
        assert [patch["case_id"] for patch in found] == [i for i in read for _ in range(5)]
        assert manifest.check_shard(tmp_path, shard) is None
    assert shards.is_finished(task, {shard.file: shard for shard in written})
    assert not shards.is_finished(task, {shard.file: shard for shard in written[:2]})


def test_a_case_too_large_for_a_shard_is_spread_over_several_in_order(cases_folder, tmp_path):
    [whole, *_] = shards.write_shard(b_tasks(cases_folder, tmp_path / "whole", "patches", "region=wt")[0])
    large = 5 * 150 * 2**20  # bytes a case: four shards of less than 200 MiB
    tasks = b_tasks(cases_folder, tmp_path / "out", "patches", "region=wt", bytes_per_case=large)
    assert [len(task.cases) for task in tasks] == [1, 1, 1]
    assert [file for task in tasks for file in task.files] == [
        f"train-wt-{n:05d}-of-00012.tfrecord" for n in range(12)
    ]
    smaller = dataclasses.replace(
        tasks[0], expected_bytes=0
    )  # the tiny case is not as large as it was said to be
    parts = shards.write_shard(smaller)
    assert [shard.examples for shard in parts] == [1, 1, 1, 2]
    found = [patch for shard in parts for patch in decoded(tmp_path / "out", shard, "patches")]
    expected = decoded(tmp_path / "whole", whole, "patches")[:5]
    assert [patch["centre_ijk"].tolist() for patch in found] == [p["centre_ijk"].tolist() for p in expected]
    assert all(np.array_equal(a["x1"], b["x1"]) for a, b in zip(found, expected, strict=True))
    # Where it lies in space is said once; the seconds of reading are its first part's.
    assert [shard.cases[0].source is not None for shard in parts] == [True, False, False, False]
    assert "read" in parts[0].cases[0].seconds and "read" not in parts[1].cases[0].seconds
    assert shards.is_finished(smaller, {shard.file: shard for shard in parts})
    assert not shards.is_finished(smaller, {shard.file: shard for shard in parts[:-1]})


@hypothesis.settings(deadline=None)
@hypothesis.given(st.floats(1, 1e5), st.integers(1, 300))
@hypothesis.example(101.0, 4)
@hypothesis.example(70.0, 7)
def test_shards_of_patches_are_of_100_to_200_mib_once_there_is_enough_for_one(mib_per_case, count):
    """With the 150 MiB of the shipped configs, and 400 patches a case."""
    one = layouts.CaseFiles("c", "c", "l", labels.EDITIONS["2020"], (), None)
    found = layouts.Dataset(".", tuple(dataclasses.replace(one, case_id=f"{n:04d}") for n in range(count)), ())
    ids = {"train": [case.case_id for case in found.cases]}
    settings = config_file.load("msm.yaml", ["region=wt", "records.min_shards=1"])
    with unittest.mock.patch.object(files, "walk", return_value={}):
        tasks = shards.plan(found, ids, settings, "o", mib_per_case * 2**20)
    sizes = [mib_per_case * len(task.cases) / len(task.files) for task in tasks]
    assert sum(len(task.cases) for task in tasks) == count
    # 400 patches cannot be split further than one by one, and cases are not split for a little more than 200.
    assert max(sizes) <= 200 + 1e-6 or mib_per_case / 400 > 200
    if mib_per_case * count > 400:
        assert sum(sizes) / len(sizes) >= 75


def test_seconds_are_told_apart_by_stage(cases_folder, tmp_path, monkeypatch):
    own, now_s = preprocess.correct_bias, 0.0

    def slow(*arguments, **more):
        nonlocal now_s
        now_s += 2.0
        return own(*arguments, **more)

    monkeypatch.setattr(preprocess, "correct_bias", slow)
    monkeypatch.setattr(shards, "Stopwatch", lambda: stopwatch.Stopwatch(lambda: now_s))
    [row] = write(planned(cases_folder, tmp_path, splits={"train": ["BraTS20_Training_001"]})[0]).cases
    assert row.seconds == {stage: 2.0 if stage == "n4" else 0.0 for stage in manifest.STAGES}


def test_a_shard_that_no_longer_fits_on_the_disk_is_not_begun(cases_folder, tmp_path, monkeypatch):
    task = planned(cases_folder, tmp_path / "out")[0]
    monkeypatch.setattr(files, "free_bytes", lambda folder: 100)
    with pytest.raises(OSError, match=r"0\.0 MiB are free, and train-00000-of-00002\.tfrecord and"):
        shards.write_shard(task)
    assert not (tmp_path / "out").exists()


def test_a_regions_patches_are_the_same_bytes_whichever_others_are_written(cases_folder, tmp_path):
    """So that three machines can share the work."""
    together = shards.write_shard(b_tasks(cases_folder, tmp_path / "all", "patches")[0])
    for region, shard in zip(("wt", "tc", "et"), together, strict=True):
        [alone] = shards.write_shard(b_tasks(cases_folder, tmp_path / region, "patches", f"region={region}")[0])
        assert (alone.file, alone.crc32c) == (shard.file, shard.crc32c)


def test_patches_are_of_the_seed_and_the_case(cases_folder, tmp_path):
    def crcs(folder, *more):
        task = b_tasks(cases_folder, tmp_path / folder, "patches", "region=et", *more)[0]
        return [shard.crc32c for shard in shards.write_shard(task)]

    assert crcs("a") == crcs("b") != crcs("c", "records.seed=1")


def test_a_rejected_case_is_counted_once_and_is_in_no_region(cases_folder, tmp_path):
    task = b_tasks(broken_copy(cases_folder, tmp_path / "in"), tmp_path / "out", "patches")[0]
    written = shards.write_shard(task)
    assert [len(shard.rejected) for shard in written] == [1, 0, 0]
    assert {row.case_id[-3:] for shard in written for row in shard.cases} == {"000"}
    assert not shards.is_finished(task, {shard.file: shard for shard in written})


def test_a_disk_that_fills_up_inside_the_second_region_leaves_no_file_of_any(
    cases_folder, tmp_path, monkeypatch
):
    task = b_tasks(cases_folder, tmp_path / "out", "patches")[0]
    framed = []

    def frame(content):
        framed.append(content)
        if len(framed) == 8:  # five of WT, two of TC
            raise OSError(28, "No space left on device")
        return content

    monkeypatch.setattr(tfrecord, "frame", frame)
    with pytest.raises(OSError, match="No space left"):
        shards.write_shard(task)
    assert files.walk(tmp_path / "out") == {}


@pytest.mark.parametrize("kind", ["patches", "volumes"])
def test_the_price_of_paper_bs_records_is_what_they_take(cases_folder, tmp_path, kind):
    dataset, settings = layouts.find(cases_folder), b_config(kind)
    splits = split_cases(dataset, (3, 1, 1), 0)
    price = measured_price(dataset, splits, settings, str(tmp_path), with_n4=False)
    tasks = shards.plan(dataset, splits, settings, str(tmp_path), price.bytes / price.cases)
    written = [shard for task in tasks for shard in shards.write_shard(task)]
    assert price.examples == sum(shard.examples for shard in written)
    assert price.bytes == pytest.approx(
        sum(shard.bytes for shard in written), rel=0.01 if kind == "patches" else 0.3
    )
    if kind == "patches":
        volumes = measured_price(dataset, splits, b_config("volumes"), str(tmp_path), with_n4=False)
        assert price.bytes_as_volumes == volumes.bytes
        assert volumes.bytes_as_volumes is None


def test_the_papers_patches_take_half_a_tebibyte_a_region():
    """What msm.yaml's header says, from the shapes alone: two scales of float16 and a label."""
    settings = config_file.load("msm.yaml")
    size = settings.sampling.patch_size**3
    patch = size * (2 * len(settings.data.modalities) * 2 + 1)
    header = (config_file.SHIPPED / "msm.yaml").read_text()
    assert f"{285 * 400 * patch / 2**40:.2f} TiB a region" in header
    assert f"{3 * 285 * 400 * patch / 2**40:.1f} TiB in all" in header
    assert f"{285 * 400 * size * 12 * 4 / 2**40:.1f} TiB" in header  # as the paper would store them


def test_a_missing_package_stops_the_job_and_rejects_no_case(cases_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    task = planned(cases_folder, tmp_path, "preprocess.n4_modalities=[flair]", "preprocess.n4=itk")[0]
    with pytest.raises(preprocess.MissingPackageError, match="pip install SimpleITK"):
        shards.write_shard(task)


# --- how far a job has come -----------------------------------------------------------------------------


def test_cases_are_counted_while_their_shard_is_written(cases_folder, tmp_path, monkeypatch):
    tasks = planned(cases_folder, tmp_path)
    (tmp_path / shards.PARTS).mkdir()
    real, seen = shards._write_case, []

    def write_case(*arguments):
        seen.append(shards.cases_done(str(tmp_path), tasks))
        return real(*arguments)

    monkeypatch.setattr(shards, "_write_case", write_case)
    for task in tasks:
        shards.write_shard(task)
    assert seen == [0, 1, 2, 3, 4] and shards.cases_done(str(tmp_path), tasks) == 5


def test_in_a_store_the_cases_of_finished_shards_are_counted(cases_folder):
    root = f"memory://{uuid.uuid4().hex}"
    tasks = planned(cases_folder, root)
    files.write_bytes(files.join(root, shards.PARTS, "job.json"), b"{}")
    counts = []
    for task in tasks:
        counts.append(shards.cases_done(root, tasks))
        shards.write_shard(task)
    assert [*counts, shards.cases_done(root, tasks)] == [0, 3, 5]
    fsspec.filesystem("memory").rm(root, recursive=True)
