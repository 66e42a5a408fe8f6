"""The Beam job, from its command line to the files on disk."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid

import fsspec
import numpy as np
import opened
import pytest

from beam_pipelines import engine
from beam_pipelines import nifti_to_tfrecord as job
from tfbrats import labels
from tfbrats.cases import case, nifti
from tfbrats.cases.split_files import SPLITS
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.phantoms import data_sets, phantom_files
from tfbrats.records import schema, shards, tfrecord
from tfbrats.records.folder import RecordFolder
from tfbrats.records.manifest import read_manifest

ROOT = pathlib.Path(job.__file__).parents[1]
SMALL = ("--config=smoke_2d.yaml", "records.slice_shape=[32, 32]")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Five tiny simulated cases in a folder with a blank in its name. Read only."""
    folder = tmp_path_factory.mktemp("job") / "my cases"
    data_sets.write_dataset(folder, 5, "2020", seed=3, shape=(32, 32, 20))
    return folder


@pytest.fixture(scope="module")
def undisturbed(cases, tmp_path_factory):
    """The files of a run that nothing disturbed, by name."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(cases, folder)
    return contents(folder)


def run(source, output, *more):
    return job.main([*SMALL, f"--input={source}", f"--output={output}", *more])


def process(source, output, *more):
    return subprocess.Popen(
        [sys.executable, "-m", job.__name__, *SMALL, f"--input={source}", f"--output={output}", *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(folder) -> dict[str, bytes]:
    """The files of a folder by name, dataset.json without the seconds that the work took."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }
    if "dataset.json" in found:
        found["dataset.json"] = re.sub(rb'"seconds\w*": \{[^}]*\}', b"", found["dataset.json"])
    return found


def break_case(source, number):
    (path,) = pathlib.Path(source).rglob(f"*{number:03d}_t2.nii.gz")
    path.write_bytes(path.read_bytes()[:-40])


# --- a whole run ----------------------------------------------------------------------------------------


def test_dataset_json_counts_what_the_files_really_hold(cases, tmp_path, capsys):
    assert run(cases, tmp_path / "out put") == 0
    manifest = read_manifest(tmp_path / "out put")
    by_split = {name: [] for name in SPLITS}
    for shard in manifest.shards:
        path = tmp_path / "out put" / shard.file
        found = [schema.decode(schema.SLICES, content) for content in tfrecord.read_records(path)]
        assert shard.examples == len(found) == sum(row.examples for row in shard.cases)
        assert shard.bytes == path.stat().st_size
        by_split[shard.split] += found
    assert manifest.examples == {name: len(found) for name, found in by_split.items()}
    assert {name: sorted({one["case_id"] for one in found}) for name, found in by_split.items()} == {
        name: list(ids) for name, ids in manifest.cases.items()
    }
    assert [len(ids) for ids in manifest.cases.values()] == [3, 1, 1]
    assert manifest.bytes == sum(shard.bytes for shard in manifest.shards)
    assert manifest.label_schemas[0]["edition"] == "2020" and manifest.spacing_mm == (1.0, 1.0, 1.0)
    assert (manifest.rejected, len(manifest.split_sha256)) == (0, 64)
    # Nothing else lies there, and the last line says what does.
    assert set(contents(tmp_path / "out put")) == {"dataset.json", *(shard.file for shard in manifest.shards)}
    *_, written, following = capsys.readouterr().out.splitlines()
    assert f"train {manifest.examples['train']}, " in written
    place = shlex.quote(str(tmp_path / "out put"))
    assert following.startswith(f"next: tfbrats train --config smoke_2d.yaml --records {place} ")


def test_guesses_in_reading_are_told_and_kept_and_change_no_byte_of_the_records(
    cases, undisturbed, tmp_path, capsys, without_codes
):
    shutil.copytree(cases, tmp_path / "cases")
    without_codes(tmp_path / "cases" / "BraTS20_Training_002")
    run(tmp_path / "cases", tmp_path / "out")
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "(LPS)" in line]
    assert told.startswith("note: BraTS20_Training_002: BraTS20_Training_002_flair.nii.gz, ")
    rows = [row for shard in read_manifest(tmp_path / "out").shards for row in shard.cases]
    assert {row.case_id: row.notes for row in rows if row.notes} == {
        "BraTS20_Training_002": (told.removeprefix("note: BraTS20_Training_002: "),)
    }
    ours = contents(tmp_path / "out")
    assert all(ours[name] == content for name, content in undisturbed.items() if name.endswith(".tfrecord"))
    assert ours["dataset.json"].count(b'"notes"') == 1 and b'"notes"' not in undisturbed["dataset.json"]


def test_the_command_works_from_a_shell(cases, tmp_path, undisturbed):
    started = process(cases, tmp_path / "out")
    out, err = started.communicate(timeout=120)
    assert started.returncode == 0, err
    assert err == ""  # no bar where there is no terminal, and no warning
    assert "split            train 3, validation 1, test 1" in out
    assert contents(tmp_path / "out") == undisturbed


def test_several_processes_write_the_same_bytes(cases, tmp_path, undisturbed):
    started = process(
        cases, tmp_path / "out", "--direct_num_workers=2", "--direct_running_mode=multi_processing"
    )
    _, err = started.communicate(timeout=120)
    assert started.returncode == 0, err
    assert contents(tmp_path / "out") == undisturbed


def test_from_memory_to_memory(cases, undisturbed):
    root = f"memory://{uuid.uuid4().hex}"
    for path in files.walk(cases):
        files.write_bytes(root + "/in" + path.removeprefix(str(cases)), files.read_bytes(path))
    assert run(f"{root}/in", f"{root}/out") == 0
    found = {files.name(path): files.read_bytes(path) for path in files.walk(f"{root}/out")}
    assert set(found) == set(undisturbed)
    shard_files = [name for name in undisturbed if name.endswith(".tfrecord")]
    assert {name: found[name] for name in shard_files} == {name: undisturbed[name] for name in shard_files}
    assert run(f"{root}/in", f"{root}/out") == 0
    fsspec.filesystem("memory").rm(root, recursive=True)


def test_price_prints_the_tag_and_writes_nothing(cases, tmp_path, capsys):
    assert run(cases, tmp_path / "out", "--price", "preprocess.n4_modalities=[t1]") == 0
    assert list(tmp_path.iterdir()) == []
    tag = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[2:])
    assert {"cases", "slices", "bytes", "shards", "time", "free", "split"} <= set(tag)
    assert tag["cases"] == "5"


def test_given_splits_are_followed_and_cases_they_do_not_name_are_said_to_be_left_out(cases, tmp_path, capsys):
    ids = sorted(path.name for path in cases.iterdir() if path.is_dir())
    (tmp_path / "splits.json").write_text(json.dumps({"train": ids[:2], "val": ids[3:4]}))
    run(cases, tmp_path / "out", f"--splits={tmp_path / 'splits.json'}")
    found = read_manifest(tmp_path / "out").cases
    assert found == {"train": tuple(ids[:2]), "validation": (ids[3],), "test": ()}
    assert "note: 2 cases are in no split" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": ["nobody"]}, "case ids that are not in"),
        ({"train": "BraTS20_Training_000"}, "expected {split: [case ids]}"),
        ({"trian": ["BraTS20_Training_000"]}, "unknown splits ['trian']"),
    ],
)
def test_a_fault_in_a_splits_file_names_the_file(cases, tmp_path, given, said):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(given))
    with pytest.raises(InputError, match=re.escape(f"{path}: splits: ")) as caught:
        run(cases, tmp_path / "out", f"--splits={path}")
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fraction", ["-0.1", "10"])
def test_a_bad_fraction_that_is_none_is_refused(cases, tmp_path, fraction):
    with pytest.raises(InputError, match="between 0 and 1"):
        run(cases, tmp_path / "out", f"--max-bad-fraction={fraction}")


def test_test_images_of_a_decathlon_data_set_are_left_out_not_rejected(tmp_path, capsys):
    source = tmp_path / "Task01"
    data_sets.write_dataset(source, 3, "msd", seed=3, shape=(32, 32, 20))
    (source / "imagesTs").mkdir()
    shutil.copy(sorted((source / "imagesTr").iterdir())[0], source / "imagesTs" / "BRATS_900.nii.gz")
    assert run(source, tmp_path / "out") == 0
    assert read_manifest(tmp_path / "out").rejected == 0
    assert "note: 1 cases are in no split and left out: test images" in capsys.readouterr().out


# --- again ----------------------------------------------------------------------------------------------


def test_a_second_run_keeps_everything_and_changes_no_byte(cases, tmp_path, undisturbed, capsys):
    run(cases, tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tfrecord")}
    capsys.readouterr()
    assert run(cases, tmp_path) == 0
    assert "5 of 5 shards are finished already and are kept" in capsys.readouterr().out
    assert contents(tmp_path) == undisturbed
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tfrecord")} == times


@pytest.mark.parametrize("more", [[], ["--add"], ["--price"]])
def test_a_second_run_opens_dataset_json_once(cases, tmp_path, monkeypatch, more):
    run(cases, tmp_path)
    paths = opened.for_reading(monkeypatch, "dataset.json")
    assert run(cases, tmp_path, *more) == 0
    assert paths == [f"{tmp_path}/dataset.json"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_only_a_damaged_shard_is_written_again(cases, tmp_path, undisturbed, capsys, damage):
    run(cases, tmp_path)
    victim = tmp_path / "train-00001-of-00003.tfrecord"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(content if damage == "flip" else content[:-7])
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tfrecord") if path != victim}
    assert run(cases, tmp_path) == 0
    said = capsys.readouterr().out
    assert "4 of 5 shards are finished already" in said and "1 shards are written again: damaged" in said
    assert contents(tmp_path) == undisturbed
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.tfrecord") if p != victim} == times


def test_while_shards_are_written_again_readers_find_no_dataset_json(cases, tmp_path, monkeypatch):
    run(cases, tmp_path)
    (tmp_path / "train-00001-of-00003.tfrecord").unlink()
    real, seen = shards.write_shard, []

    def write_shard(task):
        seen.append((tmp_path / "dataset.json").exists())
        return real(task)

    monkeypatch.setattr(shards, "write_shard", write_shard)
    run(cases, tmp_path)
    assert seen == [False] and (tmp_path / "dataset.json").exists()


def test_killed_in_the_middle_and_run_again_it_ends_with_the_same_bytes(cases, tmp_path):
    slow = ("preprocess.n4_modalities=[t1]", "preprocess.n4=itk", "records.min_shards=8")
    killed = process(cases, tmp_path / "killed", *slow)
    deadline = time.monotonic() + 60
    rows = tmp_path / "killed" / "parts"  # a shard without its row yet may be written again
    while len(list(rows.glob("*.tfrecord.json"))) < 2 and time.monotonic() < deadline:
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    left = contents(tmp_path / "killed")
    assert "dataset.json" not in left
    assert 2 <= sum(name.endswith(".tfrecord") and not name.startswith(".") for name in left) < 5
    kept = [path.name.removesuffix(".json") for path in rows.glob("*.tfrecord.json")]
    times = {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in kept}
    assert run(cases, tmp_path / "killed", *slow) == 0
    assert times == {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in kept}
    run(cases, tmp_path / "undisturbed", *slow)
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def test_what_dead_workers_and_earlier_plans_left_is_cleared_and_a_person_s_file_is_not(
    cases, tmp_path, undisturbed
):
    run(cases, tmp_path)
    (tmp_path / ".train-00000-of-00003.tfrecord.partial-0123abcd").write_bytes(b"half")
    (tmp_path / "train-00000-of-00099.tfrecord").write_bytes(b"of an earlier plan")
    (tmp_path / "notes.txt").write_text("mine")
    run(cases, tmp_path)
    assert contents(tmp_path) == {**undisturbed, "notes.txt": b"mine"}


# --- patches and volumes --------------------------------------------------------------------------------

PATCHES = (
    *("--config=smoke_3d.yaml", "sampling.patch_size=8", "cascade.stride=8", "sampling.patches_per_case=4"),
    *("records.kind=patches", "records.min_shards=2"),
)
VOLUMES = (*PATCHES, "records.kind=volumes")


def run_b(source, output, *more):
    return job.main([f"--input={source}", f"--output={output}", *more])


def test_patches_of_every_region_and_what_dataset_json_says_of_them(cases, tmp_path, capsys):
    assert run_b(cases, tmp_path, *PATCHES) == 0
    manifest = read_manifest(tmp_path)
    assert (manifest.kind, manifest.regions) == ("patches", ("WT", "TC", "ET"))
    assert manifest.examples == {"train": 36, "validation": 12, "test": 12}
    assert [manifest.count("train", region) for region in manifest.regions] == [12, 12, 12]
    assert set(manifest.fields) == {"x1", "half", "label", "centre_ijk", "region", "case_id"}
    assert [len(ids) for ids in manifest.cases.values()] == [3, 1, 1]
    assert set(contents(tmp_path)) == {"dataset.json", *(shard.file for shard in manifest.shards)}
    assert len(manifest.shards) == 3 * (2 + 1 + 1)
    assert "train 36, validation 12, test 12 patches, " in capsys.readouterr().out.splitlines()[-2]
    before, times = contents(tmp_path), {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.tfrecord")}
    assert run_b(cases, tmp_path, *PATCHES) == 0
    assert contents(tmp_path) == before
    assert times == {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.tfrecord")}


def test_a_damaged_shard_of_one_region_is_written_again_with_those_of_its_cases_and_no_others(
    cases, tmp_path, capsys
):
    run_b(cases, tmp_path, *PATCHES)
    before = contents(tmp_path)
    (tmp_path / "train-tc-00001-of-00002.tfrecord").unlink()
    times = {
        p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.tfrecord") if "00001-of-00002" not in p.name
    }
    assert run_b(cases, tmp_path, *PATCHES) == 0
    assert contents(tmp_path) == before
    assert times == {name: (tmp_path / name).stat().st_mtime_ns for name in times}


def test_regions_written_apart_are_those_written_together_and_are_not_mixed_in_one_folder(cases, tmp_path):
    run_b(cases, tmp_path / "all", *PATCHES)
    together = contents(tmp_path / "all")
    for region in ("wt", "et"):
        run_b(cases, tmp_path / region, *PATCHES, f"region={region}")
        alone = {
            name: content for name, content in contents(tmp_path / region).items() if name != "dataset.json"
        }
        assert alone == {name: content for name, content in together.items() if f"-{region}-" in name}
        assert read_manifest(tmp_path / region).split_sha256 == read_manifest(tmp_path / "all").split_sha256
    before = contents(tmp_path / "wt")
    for region, listed in (("tc", r"\['TC'\]"), ("all", r"\['WT', 'TC', 'ET'\]")):
        with pytest.raises(InputError, match=rf"another configuration:\n  regions: {listed}, there \['WT'\]"):
            run_b(cases, tmp_path / "wt", *PATCHES, f"region={region}")
    assert contents(tmp_path / "wt") == before


def test_one_set_of_volumes_serves_every_region_and_way_of_cutting(cases, tmp_path):
    assert run_b(cases, tmp_path, *VOLUMES) == 0
    manifest = read_manifest(tmp_path)
    assert (manifest.kind, manifest.regions) == ("volumes", ())
    assert manifest.examples == {"train": 3, "validation": 1, "test": 1}
    before = contents(tmp_path)
    assert run_b(cases, tmp_path, *VOLUMES, "region=tc", "sampling.patch_size=16", "cascade.mask=multiply") == 0
    assert contents(tmp_path) == before


def test_a_case_without_tumour_is_written_and_a_rejected_one_is_counted_once(cases, tmp_path):
    shutil.copytree(cases, tmp_path / "in")
    break_case(tmp_path / "in", 2)
    healthy = "BraTS20_Training_000"
    path = tmp_path / "in" / healthy / f"{healthy}_seg.nii.gz"
    _, grid = case.load_label(path, labels.EDITIONS["2020"])
    path.write_bytes(nifti.to_bytes(np.zeros(grid.file_shape, np.uint8), grid, path.name))
    assert run_b(tmp_path / "in", tmp_path / "out", *PATCHES, "--max-bad-fraction=0.2") == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest.rejected == 1
    assert len((tmp_path / "out" / "rejected.jsonl").read_text().splitlines()) == 1
    kept = {i for ids in manifest.cases.values() for i in ids}
    assert healthy in kept and "BraTS20_Training_002" not in kept and len(kept) == 4
    found = [
        schema.decode(schema.PATCHES, content)
        for shard in manifest.shards
        for content in tfrecord.read_records(tmp_path / "out" / shard.file)
    ]
    labels_of = [patch["label"] for patch in found if patch["case_id"] == healthy]
    assert len(labels_of) == 3 * 4 and not any(label.any() for label in labels_of)


def test_the_price_of_patches_names_their_bytes_and_those_of_volumes(cases, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda folder: 10 * 2**20)
    large = ("sampling.patches_per_case=400", "sampling.patch_size=16")
    assert run_b(cases, tmp_path / "out", *PATCHES, *large, "--price") == 0
    said = capsys.readouterr().out
    assert re.search(r"^patches +about 6000$", said, re.MULTILINE)  # 5 cases, 3 regions
    [size] = re.findall(r"^bytes +about (\d+\.\d) MiB$", said, re.MULTILINE)
    assert float(size) == pytest.approx(6000 * 16**3 * 17 / 2**20, rel=0.02)
    assert re.search(r"^as volumes +about 0\.\d MiB \(records\.kind=volumes\)$", said, re.MULTILINE)
    assert re.search(r"^the disk is short +pass records\.kind=volumes: about 0\.\d MiB", said, re.MULTILINE)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"the records need about .* or pass records\.kind=volumes"):
        run_b(cases, tmp_path / "out", *PATCHES, *large)
    assert not (tmp_path / "out").exists()
    capsys.readouterr()
    assert run_b(cases, tmp_path / "out", *VOLUMES, "--price") == 0
    assert "as volumes" not in capsys.readouterr().out


# --- whose folder ---------------------------------------------------------------------------------------


def test_records_of_another_configuration_are_neither_mixed_nor_touched(cases, tmp_path, undisturbed):
    run(cases, tmp_path)
    with pytest.raises(InputError, match=r"another configuration:\n  records.seed: 1, there 0\n.*--overwrite"):
        run(cases, tmp_path, "records.seed=1")
    assert contents(tmp_path) == undisturbed
    assert run(cases, tmp_path, "train.epochs=3") == 0  # not a matter of the records


def test_records_of_the_other_n4_are_not_mixed_and_older_ones_are_simpleitk_s(cases, tmp_path):
    corrected = "preprocess.n4_modalities=[t1]"
    run(cases, tmp_path, corrected, "preprocess.n4=itk")
    assert "n4" not in read_manifest(tmp_path).identity["preprocess"]  # as before there was ours
    with pytest.raises(InputError, match=r"another configuration:\n  preprocess.n4: ours, there itk\n"):
        run(cases, tmp_path, corrected)
    before = contents(tmp_path)
    assert run(cases, tmp_path, corrected, "preprocess.n4=itk") == 0
    assert contents(tmp_path) == before
    run(cases, tmp_path / "ours", corrected)
    assert contents(tmp_path / "ours") != before
    with pytest.raises(InputError, match=r"another configuration:\n  preprocess.n4: itk, there ours\n"):
        run(cases, tmp_path / "ours", corrected, "preprocess.n4=itk")


def test_records_of_other_cases_are_refused_and_the_differences_named(cases, tmp_path):
    shutil.copytree(cases, tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out")
    data_sets.write_dataset(tmp_path / "in", 1, "2020", seed=3, shape=(32, 32, 20), first=5)
    with pytest.raises(
        InputError, match=r"other cases or splits:(.|\n)*BraTS20_Training_005: \w+, in the records not"
    ):
        run(tmp_path / "in", tmp_path / "out")


def test_records_of_a_case_that_is_gone_are_refused_and_what_is_left_is_priced(cases, tmp_path, capsys):
    shutil.copytree(cases, tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out")
    shutil.rmtree(tmp_path / "in" / "BraTS20_Training_003")
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=r"BraTS20_Training_003: not there, in the records(.|\n)*--overwrite"):
        run(tmp_path / "in", tmp_path / "out")
    assert contents(tmp_path / "out") == before
    capsys.readouterr()
    assert run(tmp_path / "in", tmp_path / "out", "--price") == 0
    assert re.search(r"^cases +4$", capsys.readouterr().out, re.MULTILINE)
    assert contents(tmp_path / "out") == before


# --- cases that came later --------------------------------------------------------------------------------


@pytest.fixture
def grown(cases, tmp_path):
    """A folder of the five cases, records of them, and two cases more in the folder."""
    shutil.copytree(cases, tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out")
    data_sets.write_dataset(tmp_path / "in", 2, "2020", seed=3, shape=(32, 32, 20), first=5)
    return tmp_path


def decoded_records(folder) -> dict[str, list[bytes]]:
    """Split -> every record, in a fixed order."""
    found = {split: [] for split in SPLITS}
    for shard in read_manifest(folder).shards:
        found[shard.split] += tfrecord.read_records(files.join(folder, shard.file))
    return {split: sorted(of_split) for split, of_split in found.items()}


def test_added_cases_leave_old_shards_untouched_and_are_read_beside_them(grown, capsys):
    out = grown / "out"
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.tfrecord")}
    old = read_manifest(out)
    assert run(grown / "in", out, "--add") == 0
    said = capsys.readouterr().out
    assert "added to         5 cases" in said and "again" not in said
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    manifest = read_manifest(out)
    assert len(manifest.batches) == 2 and manifest.shards[: len(old.shards)] == old.shards
    new = {shard.file for shard in manifest.shards} - {shard.file for shard in old.shards}
    assert new and all("-add1-" in file for file in new)
    # The same records as if all had been there from the start, split as they are now.
    splits = grown / "splits.json"
    splits.write_text(json.dumps({**manifest.cases}))
    run(grown / "in", grown / "at_once", f"--splits={splits}")
    assert decoded_records(out) == decoded_records(grown / "at_once")
    at_once = read_manifest(grown / "at_once")
    assert (manifest.examples, manifest.cases) == (at_once.examples, at_once.cases)
    assert manifest.split_sha256 == at_once.split_sha256


def test_while_cases_are_added_readers_keep_the_old_set(grown, monkeypatch):
    real, seen = shards.write_shard, []

    def write_shard(task):
        seen.append(len(read_manifest(grown / "out").batches))
        return real(task)

    monkeypatch.setattr(shards, "write_shard", write_shard)
    run(grown / "in", grown / "out", "--add")
    assert set(seen) == {1}
    assert len(read_manifest(grown / "out").batches) == 2


def test_an_addition_that_stopped_goes_on_with_add_alone(grown, monkeypatch, capsys):
    monkeypatch.setattr(shards, "write_shard", full_disk)
    with pytest.raises(InputError):
        run(grown / "in", grown / "out", "--add")
    monkeypatch.undo()
    assert len(read_manifest(grown / "out").batches) == 1
    with pytest.raises(InputError, match="Pass --add"):
        run(grown / "in", grown / "out")
    assert run(grown / "in", grown / "out", "--add") == 0
    whole = contents(grown / "out")
    assert len(read_manifest(grown / "out").batches) == 2
    # Again, nothing is new: nothing changes.
    assert run(grown / "in", grown / "out", "--add") == 0
    assert contents(grown / "out") == whole
    # A third batch, and a damaged shard of the first mended on the way.
    data_sets.write_dataset(grown / "in", 1, "2020", seed=3, shape=(32, 32, 20), first=7)
    (grown / "out" / "train-00000-of-00003.tfrecord").write_bytes(b"")
    assert run(grown / "in", grown / "out", "--add") == 0
    third = contents(grown / "out")
    assert {name: third[name] for name in whole if name.endswith(".tfrecord")} == {
        name: content for name, content in whole.items() if name.endswith(".tfrecord")
    }
    assert any("-add2-" in name for name in third)


def test_an_addition_leaves_shards_with_cases_that_were_rejected_before(cases, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(cases, source)
    break_case(source, 2)
    run(source, out, "--max-bad-fraction=0.5")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    data_sets.write_dataset(source, 1, "2020", seed=3, shape=(32, 32, 20), first=5)
    with pytest.raises(InputError, match="1 of 6 cases were rejected"):
        run(source, out, "--add")
    kept = [path for path in before if path.name != "rejected.jsonl"]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept} == {p: before[p] for p in kept}
    assert run(source, out, "--add", "--max-bad-fraction=0.5") == 0
    manifest = read_manifest(out)
    assert (manifest.rejected, len(manifest.batches)) == (1, 2)
    kept.remove(out / "dataset.json")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept} == {p: before[p] for p in kept}
    # With nothing new, the same command tries the rejected case again.
    shutil.copytree(cases, source, dirs_exist_ok=True)
    assert run(source, out, "--add") == 0
    assert read_manifest(out).rejected == 0 and not (out / "rejected.jsonl").exists()


def test_a_new_scan_of_a_known_patient_joins_its_split(tmp_path):
    data_sets.write_dataset(tmp_path / "in", 4, "2023", seed=2, shape=(32, 32, 20), first=1)
    run(tmp_path / "in", tmp_path / "out", "records.split=[1, 1, 0]")
    (patient, *_) = read_manifest(tmp_path / "out").cases["validation"]
    later = patient[:-1] + "1"
    for path in sorted((tmp_path / "in" / patient).iterdir()):
        target = tmp_path / "in" / later / path.name.replace(patient, later)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    run(tmp_path / "in", tmp_path / "out", "records.split=[1, 1, 0]", "--add")
    assert later in read_manifest(tmp_path / "out").cases["validation"]


def test_added_cases_may_all_be_for_testing(grown):
    new = ["BraTS20_Training_005", "BraTS20_Training_006"]
    files.write_json(grown / "new.json", {"test": new})
    for _ in range(2):  # again, it changes nothing
        assert run(grown / "in", grown / "out", "--add", f"--splits={grown / 'new.json'}") == 0
        manifest = read_manifest(grown / "out")
        assert set(new) < set(manifest.cases["test"]) and len(manifest.batches) == 2
    files.write_json(grown / "new.json", {"test": manifest.cases["train"][:1]})
    with pytest.raises(InputError, match=r"new\.json: splits: patient .* is in more than one split"):
        run(grown / "in", grown / "out", "--add", f"--splits={grown / 'new.json'}")


def test_add_refuses_what_it_cannot_add_to(cases, grown):
    with pytest.raises(InputError, match=r"no records yet\. Leave --add away"):
        run(cases, grown / "nothing", "--add")
    assert not (grown / "nothing").exists()
    with pytest.raises(InputError, match="another configuration"):
        run(grown / "in", grown / "out", "--add", "records.seed=1")
    shutil.rmtree(grown / "in" / "BraTS20_Training_002")
    with pytest.raises(InputError, match="BraTS20_Training_002"):
        run(grown / "in", grown / "out", "--add")
    with pytest.raises(InputError, match="choose one"):
        run(grown / "in", grown / "out", "--add", "--overwrite")


def test_added_patches_have_shards_of_their_own_in_each_region(grown):
    settings = ("--config=smoke_3d.yaml", "records.kind=patches", *PATCHES_OF_EACH)
    for more in ([], ["--add"]):
        source = cases_of_first(grown) if not more else grown / "in"
        arguments = [f"--input={source}", f"--output={grown / 'patches'}", *settings, *more]
        assert job.main(arguments) == 0
    manifest = read_manifest(grown / "patches")
    added = [shard for shard in manifest.shards if "-add1-" in shard.file]
    assert {shard.region for shard in added} == {"WT", "TC", "ET"}
    assert sum(shard.examples for shard in added) == 2 * 3 * 4
    assert (
        manifest.count("train", "WT") + manifest.count("validation", "WT") + manifest.count("test", "WT") == 28
    )


PATCHES_OF_EACH = ("sampling.patch_size=8", "cascade.stride=8", "sampling.patches_per_case=4")


def cases_of_first(grown) -> pathlib.Path:
    folder = grown / "first"
    folder.mkdir()
    for number in range(5):
        name = phantom_files.case_id("2020", number)
        (folder / name).symlink_to(grown / "in" / name)
    return folder


def test_a_set_accepted_with_a_bad_case_outlives_a_stricter_run(cases, tmp_path):
    shutil.copytree(cases, tmp_path / "in")
    break_case(tmp_path / "in", 1)
    run(tmp_path / "in", tmp_path / "out", "--max-bad-fraction=0.5")
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match="1 of 5 cases were rejected"):
        run(tmp_path / "in", tmp_path / "out")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("left", ['{"identity": {}, "splits": {}}', "[]", '{"identity": {}, "batches": [7]}'])
def test_notes_of_an_unfinished_set_that_say_nothing_are_named_with_a_cure(cases, tmp_path, left):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "job.json").write_text(left)
    with pytest.raises(InputError, match=r"job\.json: damaged, or of another version.*--overwrite"):
        run(cases, tmp_path)
    assert run(cases, tmp_path, "--overwrite") == 0


def test_overwrite_replaces_a_record_set(cases, tmp_path):
    run(cases, tmp_path)
    assert run(cases, tmp_path, "--overwrite", "records.min_shards=1") == 0
    assert read_manifest(tmp_path).identity["records"]["min_shards"] == 1
    assert len(list(tmp_path.glob("train-*"))) == 1


@pytest.mark.parametrize("stopped", ["finished", "unfinished"])
def test_killed_while_it_deletes_it_can_be_run_again(cases, tmp_path, monkeypatch, undisturbed, stopped):
    run(cases, tmp_path)
    if stopped == "unfinished":
        (tmp_path / "train-00001-of-00003.tfrecord").unlink()
        monkeypatch.setattr(shards, "write_shard", full_disk)
        with pytest.raises(InputError):
            run(cases, tmp_path)
        monkeypatch.undo()
    for deleted in range(sum(path.is_file() for path in tmp_path.rglob("*"))):
        copy = tmp_path.with_name(f"{tmp_path.name}_{deleted}")
        shutil.copytree(tmp_path, copy)
        real, left = files.remove, [deleted]

        def remove(path, real=real, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(path)

        monkeypatch.setattr(files, "remove", remove)
        with contextlib.suppress(KeyboardInterrupt):
            RecordFolder(copy, overwrite=True).clear()
        monkeypatch.undo()
        for overwrite in (False, True):
            RecordFolder(copy, overwrite).check_free()
    assert run(cases, copy, "--overwrite") == 0
    assert contents(copy) == undisturbed


def test_the_lock_goes_last_and_that_of_the_next_job_stays(cases, tmp_path, monkeypatch):
    run(cases, tmp_path)
    (tmp_path / "train-00000-of-00099.tfrecord").write_bytes(b"of an earlier plan")
    lock, real, held = tmp_path / "parts" / ".running", files.remove, []

    def remove(path):
        held.append(lock.exists())
        real(path)
        if files.name(path) == "parts":
            files.write_bytes(lock, b"the next job's")

    monkeypatch.setattr(files, "remove", remove)
    run(cases, tmp_path)
    assert held and all(held)
    assert lock.read_bytes() == b"the next job's"


def test_an_unfinished_record_set_of_another_configuration_is_refused_too(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "write_shard", full_disk)
    with pytest.raises(InputError):
        run(cases, tmp_path)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"records.seed: 1, there 0"):
        run(cases, tmp_path, "records.seed=1")
    assert run(cases, tmp_path, "records.seed=1", "--overwrite") == 0


def plant(folder, name, content="mine"):
    files.write_bytes(files.join(folder, name), content.encode())


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("name", ["notes.txt", "dataset.json", "sub/dataset.json", "train.tfrecord"])
def test_a_folder_that_holds_anything_else_is_refused_and_left_alone(cases, tmp_path, name, overwrite):
    # MSD Task01 and nnU-Net have a dataset.json, too.
    plant(tmp_path, name, '{"name": "BRATS", "labels": {}}')
    before = contents(tmp_path)
    with pytest.raises(InputError, match=rf"holds {files.name(name)}(.|\n)*another --output"):
        run(cases, tmp_path, *overwrite)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["notes.txt", "sub/train-00000-of-00001.tfrecord", "parts/notes.txt"])
def test_overwrite_does_not_delete_a_record_set_that_a_person_keeps_something_in(cases, tmp_path, name):
    run(cases, tmp_path)
    plant(tmp_path, name)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=rf"holds {files.name(name)}, .*nothing is deleted"):
        run(cases, tmp_path, "--overwrite", "records.seed=1")
    assert contents(tmp_path) == before


def test_overwriting_the_data_set_itself_is_refused(tmp_path):
    data_sets.write_dataset(tmp_path / "Task01", 2, "msd", seed=3, shape=(32, 32, 20))
    before = contents(tmp_path)
    with pytest.raises(InputError, match="nothing is deleted"):
        run(tmp_path / "Task01", tmp_path / "Task01", "--overwrite")
    assert contents(tmp_path) == before


def test_a_damaged_dataset_json_names_the_cure_and_the_cure_works(cases, tmp_path, undisturbed):
    run(cases, tmp_path)
    (tmp_path / "dataset.json").write_bytes(undisturbed["dataset.json"][:100])
    with pytest.raises(InputError, match=r"dataset.json: not valid JSON .*--overwrite"):
        run(cases, tmp_path)
    assert run(cases, tmp_path, "--overwrite") == 0
    assert contents(tmp_path) == undisturbed


# --- what goes wrong ------------------------------------------------------------------------------------


def test_too_many_bad_cases_end_with_exit_1_a_list_and_no_dataset_json(cases, tmp_path):
    shutil.copytree(cases, tmp_path / "in")
    break_case(tmp_path / "in", 2)
    started = process(tmp_path / "in", tmp_path / "out")
    _, err = started.communicate(timeout=120)
    assert started.returncode == 1
    assert "error: 1 of 5 cases were rejected, more than --max-bad-fraction 0 allows" in err
    assert "BraTS20_Training_002_t2.nii.gz: truncated" in err and "Traceback" not in err
    (row,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert (row["case_id"], row["stage"]) == ("BraTS20_Training_002", "read")
    assert not (tmp_path / "out" / "dataset.json").exists()

    # Tolerated, the rest is a record set; mended, the case is in it and the list is gone.
    assert run(tmp_path / "in", tmp_path / "out", "--max-bad-fraction=0.5") == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest.rejected == 1
    assert "BraTS20_Training_002" not in {i for ids in manifest.cases.values() for i in ids}
    shutil.copytree(cases, tmp_path / "in", dirs_exist_ok=True)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    run(tmp_path / "in", tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_disk_too_small_is_refused_before_anything_is_written(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda folder: 1000)
    with pytest.raises(InputError, match=r"the records need about \d\.\d MiB, and 0.0 MiB are free"):
        run(cases, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_overwritten_counts_as_free_and_what_is_finished_needs_nothing(cases, tmp_path, monkeypatch):
    run(cases, tmp_path)
    monkeypatch.setattr(files, "free_bytes", lambda folder: 200_000)
    assert run(cases, tmp_path) == 0
    assert run(cases, tmp_path, "--overwrite", "records.seed=1") == 0


def full_disk(task):
    raise OSError(28, "No space left on device", task.files[0])


def test_a_full_disk_is_one_message_with_its_cause_and_the_way_on(
    cases, tmp_path, undisturbed, monkeypatch, capsys, caplog
):
    real, written = shards.write_shard, []

    def fills_up(task):
        if len(written) == 2:
            full_disk(task)
        written.append(task.files[0])
        return real(task)

    monkeypatch.setattr(shards, "write_shard", fills_up)
    with pytest.raises(InputError) as caught:
        run(cases, tmp_path)
    message = str(caught.value)
    assert "the Beam job stopped: OSError: [Errno 28] No space left on device" in message
    assert "Finished shards are kept" in message and "run the same command again" in message
    assert len(message.splitlines()) == 2
    assert "Traceback" not in capsys.readouterr().err + caplog.text
    monkeypatch.undo()
    assert run(cases, tmp_path) == 0
    assert "2 of 5 shards are finished already" in capsys.readouterr().out
    assert contents(tmp_path) == undisturbed


def test_a_worker_s_error_is_found_in_the_traceback_that_an_engine_hands_on(tmp_path):
    remote = (
        "Pipeline job-1 failed in state FAILED: bundle inst003 failed:Traceback (most recent call last):\n"
        '  File "transforms.py", line 13, in process\n    shard = shards.write_shard(task)\n'
        "PermissionError: [Errno 13] Permission denied: '/nfs/out' [while running 'write shards']\n\n"
    )
    with (
        pytest.raises(
            InputError, match=r"stopped: PermissionError: \[Errno 13\] Permission denied: '/nfs/out'"
        ),
        engine.explained("out"),
    ):
        raise RuntimeError(remote)


def test_an_error_of_ours_keeps_its_traceback_and_gains_the_way_on(cases, tmp_path, monkeypatch):
    def bug(task):
        raise KeyError("a bug of ours")

    monkeypatch.setattr(shards, "write_shard", bug)
    with pytest.raises(Exception, match="a bug of ours") as caught:
        run(cases, tmp_path)
    assert not isinstance(caught.value, InputError)
    assert any("run the same command again" in note for note in caught.value.__notes__)


def test_an_empty_folder_and_one_that_is_not_there_are_clear_messages_and_exit_1(tmp_path):
    (tmp_path / "in").mkdir()
    started = process(tmp_path / "in", tmp_path / "out")
    _, err = started.communicate(timeout=120)
    assert started.returncode == 1
    assert err.startswith("error: ") and "no case found among 0 files" in err and "Traceback" not in err
    with pytest.raises(InputError, match="nowhere: no such folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_set_without_a_training_example_is_refused(tmp_path):
    data_sets.write_dataset(tmp_path / "in", 2, "2020", seed=3, shape=(32, 32, 20))
    break_case(tmp_path / "in", 0)
    given = {"train": ["BraTS20_Training_000"], "test": ["BraTS20_Training_001"]}
    (tmp_path / "splits.json").write_text(json.dumps(given))
    with pytest.raises(InputError, match="no training example came out"):
        run(tmp_path / "in", tmp_path / "out", f"--splits={tmp_path / 'splits.json'}", "--max-bad-fraction=1")
    assert not (tmp_path / "out" / "dataset.json").exists()


# --- the command line -----------------------------------------------------------------------------------

NEEDED = ["--config=c.yaml", "--input=i", "--output=o"]


def asked(*more):
    """What is left for Beam, once we and Beam have looked at it."""
    _, _, beam_options = job._arguments([*NEEDED, *more])
    engine.check_options(job.parser(), beam_options, has_overrides=True)
    return beam_options


def test_overrides_and_beam_s_options_are_told_apart():
    options, overrides, beam_options = job._arguments(
        [
            *NEEDED,
            "train.epochs=3",
            "--direct_num_workers=2",
            "records.slice_shape=[32, 32]",
            "--runner",
            "DirectRunner",
        ]
    )
    assert options.output == os.path.abspath("o")  # workers may run in another folder
    assert overrides == ["train.epochs=3", "records.slice_shape=[32, 32]"]
    assert beam_options == ["--direct_num_workers=2", "--runner", "DirectRunner"]
    assert job._arguments(NEEDED)[2] == ["--runner=FnApiRunner"]


@pytest.mark.parametrize(
    ("stray", "message"),
    [
        ("--max-bad-fracton=0.5", r"; did you mean --max-bad-fraction\?$"),
        ("--over", r"'--over' is neither an option"),  # no guessing: it might be Beam's
        ("--no_such_beam_option=3", "nor one of Beam's"),
        ("--direct_num_workers=two", r"Beam's argument --direct_num_workers: invalid int value: 'two'"),
        ("--dry_run=true", r"only DataflowRunner has one.*--price"),
        ("epochs=3", r"nor a section\.key=value override; write train\.epochs=3$"),
        ("--epochs 3", r"'--epochs' is neither .*; write train\.epochs=3$"),
        ("--direct_num_worker=2", r"; did you mean --direct_num_workers\?$"),
        ("--direct_num_workers=2 folder", "'folder' is neither"),
    ],
)
def test_what_nobody_knows_is_an_error_not_dropped_in_silence(stray, message):
    with pytest.raises(InputError, match=message):
        asked(*stray.split())


def test_a_dry_run_may_be_asked_for_over_what_is_there(cases, tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(engine, "dry_run", lambda options, *_: looked.append(options))
    monkeypatch.setattr(engine, "check_options", lambda *_, **__: None)  # of Dataflow's account
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty, and not a record set"):
        run(cases, tmp_path)
    assert run(cases, tmp_path, "--runner=DataflowRunner", "--dry_run=true") == 0
    assert looked and os.listdir(tmp_path) == ["notes.txt"]


def test_an_engine_s_own_options_pass():
    given = ["--runner=PortableRunner", "--engine_memory=4g"]
    assert asked(*given) == given


def test_a_job_server_that_is_not_there_is_said_at_once():
    with pytest.raises(InputError, match=r"--job_endpoint=localhost:1: no job server answers there"):
        asked("--runner=PortableRunner", "--job_endpoint=localhost:1")


def test_beam_s_options_may_have_dashes_too():
    assert asked("--direct-num-workers=2")[0] == "--direct_num_workers=2"


def test_real_cases_become_records_that_hold_every_tumour_voxel(real_cases, tmp_path):
    (tmp_path / "splits.json").write_text('{"train": ["BraTS2021_00006"], "test": ["BraTS2021_01484"]}')
    arguments = ["--config=cun.yaml", f"--input={real_cases}", f"--output={tmp_path / 'out'}"]
    assert job.main([*arguments, f"--splits={tmp_path / 'splits.json'}", "preprocess.n4_modalities=[]"]) == 0
    for shard in read_manifest(tmp_path / "out").shards:
        (row,) = shard.cases
        (mask,) = real_cases.rglob(f"{row.case_id}*seg.nii*")
        values = nifti.read(mask).array
        found = sum(
            (schema.decode(schema.SLICES, content)["label"] > 0).sum()
            for content in tfrecord.read_records(tmp_path / "out" / shard.file)
        )
        assert found == (values > 0).sum()


def test_another_record_set_in_a_folder_below_is_left_alone(cases, tmp_path):
    run(cases, tmp_path / "records")
    inner = tmp_path / "records" / "inner"
    run(cases, inner)
    (inner / ".train-00000-of-00001.tfrecord.partial-12345678").write_bytes(b"being written")
    before = contents(inner)
    (tmp_path / "records" / ".train-00000-of-00001.tfrecord.partial-12345678").write_bytes(
        b"left by a dead worker"
    )
    run(cases, tmp_path / "records")
    assert contents(inner) == before
    assert not list((tmp_path / "records").glob(".*.partial-*"))
