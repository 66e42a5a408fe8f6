"""`python -m tfbrats.records`: what it says is so, every fault is found, cases come back as they were."""

import csv
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tracemalloc

import matplotlib.image
import nibabel
import numpy as np
import pytest

from beam_pipelines import nifti_to_tfrecord
from tfbrats.cases import boxes, case, nifti, overlays, preprocess
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.labels import Tissue
from tfbrats.machine import files
from tfbrats.phantoms import data_sets
from tfbrats.records import __main__ as tool
from tfbrats.records import pictures, schema, tfrecord, verify
from tfbrats.records.manifest import MANIFEST, Shard, read_manifest

ROOT = pathlib.Path(__file__).parent.parent.parent


def run(*arguments) -> int:
    return tool.main([str(one) for one in arguments])


def said(capsys, *arguments):
    """(exit code, what was printed); JSON where --json was given."""
    capsys.readouterr()
    code = run(*arguments)
    text = capsys.readouterr().out
    return code, json.loads(text) if "--json" in arguments else text


def change(folder, **updates):
    """Writes dataset.json anew with other entries."""
    path = files.join(folder, MANIFEST)
    content = files.read_json(path)
    content.update(updates)
    files.write_json(path, content)


def contents_of(folder, shard):
    return list(tfrecord.read_records(files.join(folder, shard.file)))


def rewrite(folder, shard, contents):
    """Puts other records into a shard, and says so in dataset.json: a set that a wrong writer made."""
    path = files.join(folder, shard.file)
    files.write_bytes(path, b"".join(map(tfrecord.frame, contents)))
    manifest = read_manifest(folder)
    new = shard.model_copy(update={"bytes": files.size(path), "crc32c": tfrecord.file_crc32c(path)})
    shards = [new if one.file == shard.file else one for one in manifest.shards]
    change(folder, shards=[one.model_dump() for one in shards], bytes=sum(one.bytes for one in shards))


@pytest.fixture
def slices(record_set, tmp_path):
    """A copy to spoil."""
    shutil.copytree(record_set.folder, tmp_path / "slices")
    return str(tmp_path / "slices")


@pytest.fixture
def volumes(patch_records, tmp_path):
    """A copy to spoil."""
    shutil.copytree(patch_records.folders["volumes"], tmp_path / "volumes")
    return str(tmp_path / "volumes")


# --- show -----------------------------------------------------------------------------------------------


def test_show_says_on_one_screen_what_is_in_a_set(record_set, patch_records, capsys):
    manifest = record_set.manifest
    code, text = said(capsys, "show", record_set.folder)
    assert code == 0
    assert re.search(r"slices, format 2", text)
    assert re.search(r"edition 2020: 0 BACKGROUND, 1 NCR, 2 ED, 4 ET", text)
    assert re.search(r"flair, t1, t1ce, t2", text)
    assert re.search(r"slice_shape 48 48", text)
    assert re.search(rf"train +3 +{manifest.examples['train']} ", text)
    assert re.search(rf"all +4 +{sum(manifest.examples.values())} ", text)
    _, of_patches = said(capsys, "show", patch_records.folders["patches"])
    assert re.search(r"train ET +4 +24 ", of_patches)
    for screen in (text, of_patches):
        assert len(screen.splitlines()) <= 40 and max(map(len, screen.splitlines())) <= 112


def test_what_show_gives_as_json_adds_up_to_the_files(patch_records, capsys):
    folder = patch_records.folders["patches"]
    _, content = said(capsys, "show", folder, "--json", "--shards")
    on_disk = {path.name: path.stat().st_size for path in pathlib.Path(folder).glob("*.tfrecord")}
    assert {one["file"]: one["bytes"] for one in content["shards"]} == on_disk
    assert content["bytes"] == sum(on_disk.values()) == sum(one["bytes"] for one in content["groups"])
    assert content["examples"] == 5 * 6 * 3 == sum(one["examples"] for one in content["groups"])
    sizes = [size for name, size in on_disk.items() if name.startswith("train-et")]
    group = next(one for one in content["groups"] if (one["split"], one["region"]) == ("train", "ET"))
    assert group["shard_bytes"]["smallest"] == min(sizes) and group["shard_bytes"]["largest"] == max(sizes)
    assert content["cases"] == 5 and content["rejected"] == []


@pytest.mark.parametrize("case_number", range(4))
def test_show_finds_the_records_of_a_case(patch_records, case_number, capsys):
    folder = patch_records.folders["patches"]
    case_id = read_manifest(folder).cases["train"][case_number]
    _, content = said(capsys, "show", folder, "--case", case_id, "--json")
    found = content["case"]
    assert found["split"] == "train" and found["source"]["shape"] == [24, 28, 16]
    assert len(found["parts"]) == 3 and found["examples"] == 3 * 6
    for part in found["parts"]:
        first, last = part["records"]
        contents = list(tfrecord.read_records(files.join(folder, part["file"])))
        owners = [schema.decode(schema.PATCHES, one)["case_id"] for one in contents]
        assert [n for n, owner in enumerate(owners) if owner == case_id] == list(range(first, last + 1))
    _, text = said(capsys, "show", folder, "--case", case_id)
    assert f"{case_id}, in train" in text and "24 x 28 x 16 voxels, edition 2020" in text


def test_an_unknown_case_is_answered_with_the_nearest_names(record_set):
    with pytest.raises(InputError, match=r"no case BraTS20_Training_0 .*Did you mean BraTS20_Training_00\d"):
        run("show", record_set.folder, "--case", "BraTS20_Training_0")
    with pytest.raises(InputError, match=r"no case OAS1.* It has BraTS20_Training_000,"):
        run("show", record_set.folder, "--case", "OAS1")


def test_show_tells_of_rejected_cases_additions_and_seconds(slices, capsys):
    shards = [one.model_dump() for one in read_manifest(slices).shards]
    shards[0]["rejected"] = [
        {"case_id": f"bad{n}", "stage": "read", "reason": "no t1", "hint": ""} for n in range(5)
    ]
    batches = [
        {"cases": {"train": ["a", "b"]}, "bytes_per_case": 1.0},
        {"cases": {"train": ["c"]}, "bytes_per_case": 1.0},
    ]
    change(slices, shards=shards, rejected=5, batches=batches, seconds_per_case={"read": 0.5, "n4": 2.0})
    _, text = said(capsys, "show", slices)
    assert "rejected: 5 cases\n  bad0 (read): no t1" in text and "and 2 more" in text
    assert re.search(r"batches +2 cases at first, then 1 added", text)
    assert re.search(r"seconds +a case: read 0.50, n4 2.00: 2.50 in all", text)
    with pytest.raises(InputError, match=r"bad3 was rejected \(read\): no t1"):
        run("show", slices, "--case", "bad3")


# --- verify ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["slices", "patches", "volumes"])
def test_a_sound_set_has_no_fault_and_every_record_is_read(record_set, patch_records, kind, capsys):
    folder = {"slices": record_set.folder, **patch_records.folders}[kind]
    code, content = said(capsys, "verify", folder, "--json")
    manifest = read_manifest(folder)
    assert code == 0 and content["sound"] and content["faults"] == []
    assert content["records"] == sum(manifest.examples.values()) and content["bytes"] == manifest.bytes
    code, text = said(capsys, "verify", folder)
    assert code == 0 and "Nothing is wrong." in text


def test_a_set_elsewhere_than_on_the_disk_is_verified_too(record_set, place, capsys):
    for path in pathlib.Path(record_set.folder).iterdir():
        files.write_bytes(files.join(place, path.name), path.read_bytes())
    assert said(capsys, "verify", place)[0] == 0
    files.write_bytes(files.join(place, "train-00007-of-00009.tfrecord"), b"")
    code, text = said(capsys, "verify", place)
    assert code == 1 and "train-00007-of-00009.tfrecord: a stale shard" in text


@pytest.mark.parametrize("seed", range(12))
def test_any_flipped_bit_is_found_with_its_file_and_record(slices, seed, capsys):
    random = np.random.default_rng(seed)
    manifest = read_manifest(slices)
    shard = manifest.shards[random.integers(len(manifest.shards))]
    ends = np.cumsum([len(one) + tfrecord.FRAME_BYTES for one in contents_of(slices, shard)])
    path = pathlib.Path(slices) / shard.file
    whole = bytearray(path.read_bytes())
    # Every fourth in the frame round a record, where the length and the checksums are.
    at = int(random.integers(len(whole))) if seed % 4 else int(ends[0] + random.integers(12))
    whole[at] ^= 1 << int(random.integers(8))
    path.write_bytes(bytes(whole))
    damaged = int(np.searchsorted(ends, at, side="right"))
    code, content = said(capsys, "verify", slices, "--json")
    assert code == 1
    assert (shard.file, damaged) in {(one["file"], one["record"]) for one in content["faults"]}
    assert {one["file"] for one in content["faults"]} == {shard.file}
    assert {one["cure"] for one in content["faults"]} == {verify.AGAIN}


def test_every_fault_is_listed_not_only_the_first(slices, capsys):
    first, second, third, fourth = (shard.file for shard in read_manifest(slices).shards)
    folder = pathlib.Path(slices)
    ends = np.cumsum(
        [len(one) + tfrecord.FRAME_BYTES for one in contents_of(slices, Shard.model_construct(file=first))]
    )
    whole = bytearray((folder / first).read_bytes())
    for record in (1, 4):
        whole[ends[record] - 30] ^= 1  # near the end of the record's content
    (folder / first).write_bytes(bytes(whole))
    (folder / second).unlink()
    (folder / third).write_bytes((folder / third).read_bytes()[:-5])
    (folder / fourth).write_bytes((folder / fourth).read_bytes() + tfrecord.frame(b"no example"))
    code, text = said(capsys, "verify", slices)
    assert code == 1
    assert f"\n  {first}: 2 records: damaged\n    record 1 (at byte {ends[0]}) of BraTS20_Training_" in text
    assert re.search(rf", record 4 \(at byte {ends[3]}\) of BraTS20_Training_\d+\n", text)
    assert f"{second}: missing" in text
    assert re.search(rf"{third}: \d+ bytes; dataset.json says \d+", text)
    assert re.search(rf"{third}: record \d+ .*damaged", text)
    assert re.search(rf"{fourth}: record \d+ .*not a tf.train.Example", text)
    cure, following = text.splitlines()[-2:]
    assert f"{first}, {second}" in cure and verify.AGAIN in cure
    assert following.startswith("next: tfbrats prepare ")


def test_what_verify_finds_the_beam_job_mends(slices, record_set, capsys):
    first, second, *_ = (shard.file for shard in read_manifest(slices).shards)
    folder = pathlib.Path(slices)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    whole = bytearray(before[first])
    whole[100] ^= 1
    (folder / first).write_bytes(bytes(whole))
    (folder / second).unlink()
    (folder / "train-00000-of-00009.tfrecord").write_bytes(b"stale")
    (folder / ".train-00000-of-00003.tfrecord.partial-12345678").write_bytes(b"left")
    code, text = said(capsys, "verify", slices)
    assert code == 1 and text.count(verify.AGAIN) == 1 and verify.OVERWRITE not in text
    splits = record_set.cases.parent / "splits.json"
    overrides = [one for one in record_set.overrides if not one.startswith("data.records")]
    nifti_to_tfrecord.main(
        [
            *("--config", "smoke_2d.yaml", "--input", str(record_set.cases), "--output", slices),
            *("--splits", str(splits), *overrides),
        ]
    )
    assert said(capsys, "verify", slices)[0] == 0
    shards = {name: content for name, content in before.items() if name.endswith(".tfrecord")}
    assert {path.name: path.read_bytes() for path in folder.glob("*.tfrecord")} == shards


def test_a_case_that_dataset_json_forgot_is_found_among_the_records(slices, capsys):
    shards = [one.model_dump() for one in read_manifest(slices).shards]
    dropped = shards[0]["cases"][0]
    shards[0]["cases"] = shards[0]["cases"][1:]
    change(slices, shards=shards)
    code, text = said(capsys, "verify", slices)
    assert code == 1
    count, case_id = dropped["examples"], dropped["case_id"]
    assert f"{shards[0]['file']}: {count} records of {case_id}; dataset.json says 0" in text
    assert f"{case_id} is in train, but in none of its shards" in text
    assert verify.OVERWRITE in text and verify.AGAIN not in text


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ({"examples": {"train": 1, "validation": 0, "test": 0}}, "train has 1 example, its shards"),
        ({"bytes": 7}, "7 bytes; its shards are"),
        ({"rejected": 2}, "2 rejected cases; its shards name 0"),
        ({"split_sha256": "0" * 64}, "split_sha256 is not that of its cases"),
        ({"fields": {"image": "float32"}}, "its fields are"),
        (
            {"cases": {"train": ["BraTS20_Training_000"], "validation": ["BraTS20_Training_000"], "test": []}},
            "BraTS20_Training_000 is in 2 splits: train, validation",
        ),
    ],
)
def test_a_dataset_json_that_contradicts_itself_is_a_fault(slices, updates, message, capsys):
    change(slices, **updates)
    code, text = said(capsys, "verify", slices, "--quick")
    assert code == 1 and f"dataset.json: {message}" in text and verify.OVERWRITE in text


def test_files_that_belong_to_no_shard_are_named_and_other_sets_below_are_left_alone(slices, capsys):
    folder = pathlib.Path(slices)
    (folder / "mine.tfrecord").write_bytes(b"")
    (folder / "train-add1-00000-of-00002.tfrecord").write_bytes(b"")
    (folder / "notes.txt").write_text("mine")
    shutil.copytree(slices, folder / "old")
    code, text = said(capsys, "verify", slices)
    assert code == 1
    assert "mine.tfrecord: a foreign file" in text and verify.MOVE in text
    assert "train-add1-00000-of-00002.tfrecord: a stale shard" in text
    assert "2 faults in" in text and "note: old/ lies in the folder and was not looked at" in text


SPOILED = {
    "label": (lambda a: a | 9, r"label holds \[9\S*.*expected \[0, 1, 2, 3\]"),
    "region": (lambda a: np.where(a == 1, 5, a).astype(a.dtype), "region holds 5; expected 0 to 3"),
    **{
        f"image {value}": (
            lambda a, value=value: np.where(a == 0, np.float16(value), a),
            "image holds NaN or infinite values",
        )
        for value in ("nan", "-nan", "inf", "-inf")
    },
    "origin_ij": (lambda a: a + 40, "leaves the canvas"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_values_out_of_range_are_a_fault_even_where_every_checksum_is_right(slices, name, capsys):
    spoil, message = SPOILED[name]
    shard = read_manifest(slices).shards[0]
    contents = contents_of(slices, shard)
    example = schema.decode(schema.SLICES, contents[2])
    field = name.split()[0]
    contents[2] = schema.encode(schema.SLICES, example | {field: spoil(example[field])})
    rewrite(slices, shard, contents)
    code, text = said(capsys, "verify", slices)
    assert code == 1 and re.search(rf"{shard.file}: record 2 \(at byte \d+\) of BraTS20\S+: .*{message}", text)
    assert verify.OVERWRITE in text


def test_a_record_of_another_schema_is_a_fault_and_an_error(slices, capsys, tmp_path):
    shard = read_manifest(slices).shards[0]
    contents = contents_of(slices, shard)
    shorter = [field for field in schema.SLICES if field.name != "region"]
    contents[0] = schema.encode(shorter, schema.decode(schema.SLICES, contents[0]))
    # Bytes and shape do not fit: what a writer of float32 would leave.
    contents[1] = contents[1].replace(b"\x0a\x05label", b"\x0a\x05lobel")
    rewrite(slices, shard, contents)
    code, text = said(capsys, "verify", slices)
    assert code == 1
    assert re.search(r"record 0 .*lacks region; it holds", text) and re.search(r"record 1 .*lacks label", text)
    for what in (["stats"], ["to-nifti", "--output", str(tmp_path / "out")]):
        with pytest.raises(InputError, match=rf"{shard.file}: record 0 of \S+ a record lacks region.*verify"):
            run(what[0], slices, *what[1:], *(["--examples", "99"] if what[1:] else []))


def test_sound_records_in_another_order_are_not_the_file_that_was_written(slices, capsys):
    shard = read_manifest(slices).shards[0]
    contents = contents_of(slices, shard)
    files.write_bytes(files.join(slices, shard.file), b"".join(map(tfrecord.frame, contents[::-1])))
    code, text = said(capsys, "verify", slices)
    assert code == 1 and "1 fault in" in text
    assert f"{shard.file}: its checksum is not the one in dataset.json, though each record is sound" in text
    assert verify.AGAIN in text


def test_quick_looks_at_sizes_alone(slices, capsys):
    shard = read_manifest(slices).shards[0]
    path = pathlib.Path(slices) / shard.file
    whole = bytearray(path.read_bytes())
    whole[50] ^= 1
    path.write_bytes(bytes(whole))
    assert said(capsys, "verify", slices, "--quick")[0] == 0
    path.write_bytes(bytes(whole[:-1]))
    code, text = said(capsys, "verify", slices, "--quick")
    assert code == 1 and f"{shard.file}: {shard.bytes - 1} bytes; dataset.json says {shard.bytes}" in text


def test_records_of_any_size_are_read_from_pieces_of_one(tmp_path):
    random = np.random.default_rng(0)
    sizes = (0, 1, 2**20 - 16, 2**20, 3 * 2**20 + 7, 5, 2**21 - 12, 0, 2**22)
    contents = [random.bytes(size) for size in sizes]
    path = str(tmp_path / "sizes.tfrecord")
    files.write_bytes(path, b"".join(map(tfrecord.frame, contents)))
    assert list(tfrecord.read_records(path)) == contents
    places = [place for place, _ in tfrecord.read_frames(path)]
    assert places == [sum(size + tfrecord.FRAME_BYTES for size in sizes[:n]) for n in range(len(sizes))]


def test_memory_is_bounded_by_a_record_not_by_a_shard(tmp_path):
    path = str(tmp_path / "large.tfrecord")
    content = bytes(2**19)
    with files.writing(path) as file:
        for _ in range(128):  # 64 MiB
            file.write(tfrecord.frame(content))
    tracemalloc.start()
    assert sum(1 for _ in tfrecord.read_records(path)) == 128
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 2**20


# --- stats ----------------------------------------------------------------------------------------------


def test_shares_of_slices_are_of_the_canvas_and_as_counted_by_hand(record_set, capsys, tmp_path):
    table = tmp_path / "shares.csv"
    _, content = said(capsys, "stats", record_set.folder, "--json", "--csv", str(table))
    rows = list(csv.DictReader(table.open()))
    manifest = record_set.manifest
    examples = [
        (shard.split, schema.decode(schema.SLICES, one))
        for shard in manifest.shards
        for one in contents_of(record_set.folder, shard)
    ]
    assert len(rows) == len(examples) == sum(manifest.examples.values())
    for row, (split, example) in zip(rows, examples, strict=True):
        label, of_lws = example["label"], example["region"]
        assert (row["split"], row["case_id"]) == (split, example["case_id"])
        assert int(row["slice_k"]) == example["slice_k"] and int(row["voxels"]) == 48 * 48
        by_hand = {
            "NCR": (label == 1).sum(),
            "ED": (label == 2).sum(),
            "ET": (label == 3).sum(),
            "WT": (label > 0).sum(),
            "TC": ((label == 1) | (label == 3)).sum(),
            "S1": 48 * 48 - (of_lws > 0).sum(),
            "S2": (of_lws == 1).sum(),
            "S3": (of_lws == 2).sum(),
            "S4": (of_lws == 3).sum(),
            "brain": (example["image"] != 0).any(axis=-1).sum(),
        }
        for name, count in by_hand.items():
            assert float(row[name]) == pytest.approx(count / 48**2), name
    for group in content["groups"]:
        of_split = [row for row in rows if row["split"] == group["split"]]
        assert group["examples"] == len(of_split)
        for name, share in group["shares"].items():
            values = np.array([float(row[name]) for row in of_split])
            assert share["mean"] == pytest.approx(values.mean())
            assert share["held_by"] == pytest.approx((values > 0).mean())
            if values.any():
                assert share["quantiles_where_held"]["0.5"] == pytest.approx(np.median(values[values > 0]))
                assert share["quantiles_where_held"]["1.0"] == pytest.approx(values.max())
            else:
                assert set(share["quantiles_where_held"].values()) == {None}
        assert sum(group["shares"][f"S{n}"]["mean"] for n in range(1, 5)) == pytest.approx(1)
    _, text = said(capsys, "stats", record_set.folder)
    assert "Shares in % of a slice of 48 x 48 voxels, padding included" in text


def test_volumes_are_z_scored_in_their_brains(patch_records, capsys):
    _, content = said(capsys, "stats", patch_records.folders["volumes"], "--json")
    for group in content["groups"]:
        for found in group["intensities"].values():
            assert found["mean"] == pytest.approx(0, abs=1e-3) and found["std"] == pytest.approx(1, abs=1e-3)


def test_patches_are_counted_by_the_region_they_are_for(patch_records, capsys, tmp_path):
    folder, table = patch_records.folders["patches"], tmp_path / "p.csv"
    _, content = said(capsys, "stats", folder, "--json", "--csv", str(table))
    groups = {(one["split"], one["region"]): one for one in content["groups"]}
    assert set(groups) == {(s, r) for s in ("train", "validation") for r in ("WT", "TC", "ET")}
    assert all(one["examples"] == 24 for (split, _), one in groups.items() if split == "train")
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 5 * 6 * 3 and {row["for_region"] for row in rows} == {"WT", "TC", "ET"}
    healthy = [float(row["WT"]) for row in rows if row["case_id"] == patch_records.without_tumour]
    assert healthy and not any(healthy)
    assert content["shares_of_voxels"] == [16, 16, 16]


def test_a_table_replaces_only_a_table(record_set, tmp_path):
    table = tmp_path / "t.csv"
    run("stats", record_set.folder, "--csv", table)
    before = table.read_bytes()
    run("stats", record_set.folder, "--csv", table)
    assert table.read_bytes() == before
    table.write_text("my own notes")
    with pytest.raises(InputError, match="exists, and is no table of this command"):
        run("stats", record_set.folder, "--csv", table)
    assert table.read_text() == "my own notes"
    with pytest.raises(InputError, match="a folder; expected a file"):
        run("stats", record_set.folder, "--csv", tmp_path)


def test_a_damaged_record_leaves_no_half_a_table(slices, tmp_path):
    shard = read_manifest(slices).shards[-1]
    path = pathlib.Path(slices) / shard.file
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(InputError, match=rf"{shard.file}: record \d+ .*damaged"):
        run("stats", slices, "--csv", tmp_path / "t.csv")
    assert not [one for one in tmp_path.iterdir() if one.is_file()]


# --- to-nifti: volumes ----------------------------------------------------------------------------------


def make_volumes(cases, output, edition=None):
    more = ["--edition", edition] if edition else []
    nifti_to_tfrecord.main(
        [
            *("--config", "smoke_3d.yaml", "--input", str(cases), "--output", str(output), *more),
            *("records.split=[1,0,0]", "sampling.patch_size=16", "cascade.stride=8"),
        ]
    )
    return str(output)


def mask_of(cases: layouts.Dataset, case_id: str) -> nibabel.Nifti1Image:
    return nibabel.load(next(one.label for one in cases.cases if one.case_id == case_id))


def check_given_back(cases, folder, output, edition=None):
    """Every case's segmentation is the input's, voxel by voxel; every image what was prepared, to the bit."""
    dataset = layouts.find(cases, edition)
    modalities = read_manifest(folder).modalities
    assert dataset.cases
    for one in dataset.cases:
        theirs = mask_of(dataset, one.case_id)
        ours = nibabel.load(output / one.case_id / f"{one.case_id}_seg.nii.gz")
        assert ours.shape == theirs.shape and np.array_equal(
            np.asarray(ours.dataobj), np.asarray(theirs.dataobj)
        )
        assert ours.get_data_dtype() == np.uint8 and np.asarray(ours.dataobj).any()
        loaded = case.load(one, modalities)
        prepared = preprocess.prepare(loaded, (), 4)
        stored = prepared.image.astype(np.float16).astype(np.float32)
        whole = loaded.grid.to_file(boxes.uncrop(stored, prepared.box_ijk, prepared.shape_ijk))
        for m, name in enumerate(modalities):
            image = nibabel.load(output / one.case_id / f"{one.case_id}_{name}.nii.gz")
            assert image.get_data_dtype() == np.float32 and np.array_equal(image.affine, ours.affine)
            assert np.asarray(image.dataobj).tobytes("F") == whole[..., m].tobytes("F")
        yield theirs, ours


@pytest.mark.parametrize(
    ("edition", "axes"),
    [
        ("2017", "LPS"),
        ("2020", "LPS"),
        ("2020", "RAS"),
        ("2021", "SLA"),
        ("2023", "PIR"),
        ("2024", "LPS"),
        ("msd", "IRP"),
        ("nnunet", "ASL"),
    ],
)
def test_a_case_comes_back_as_it_was_in_every_edition_and_axis_order(tmp_path, edition, axes):
    data_sets.write_dataset(
        tmp_path / "cases", 2, edition, seed=3, shape=(32, 36, 20), spacing_mm=(1.5, 0.9, 2.0), axes=tuple(axes)
    )
    folder = make_volumes(tmp_path / "cases", tmp_path / "records")
    run("to-nifti", folder, "--output", tmp_path / "out")
    for theirs, ours in check_given_back(tmp_path / "cases", folder, tmp_path / "out"):
        assert np.array_equal(ours.affine, theirs.affine)
        assert nibabel.aff2axcodes(ours.affine) == tuple(axes)
    # What was written is a data set itself; nnU-Net's phantoms have the Decathlon's label values.
    again = layouts.find(tmp_path / "out", None if edition.startswith("20") else "msd")
    for one, first in zip(again.cases, layouts.find(tmp_path / "cases").cases, strict=True):
        assert np.array_equal(case.load(one).label, case.load(first).label)


def test_a_case_of_nnunets_layout_comes_back_in_the_table_of_its_own_id(tmp_path):
    (case_id,) = data_sets.write_dataset(tmp_path / "cases", 1, "nnunet", seed=3, shape=(32, 36, 20), first=1)
    for path in (tmp_path / "cases").rglob("*.nii.gz"):
        path.rename(path.with_name(path.name.replace(case_id, "BraTS-GLI-00001-000")))
    folder = make_volumes(tmp_path / "cases", tmp_path / "records")
    run("to-nifti", folder, "--output", tmp_path / "out")
    (first,), (again,) = (layouts.find(tmp_path / name).cases for name in ("cases", "out"))
    assert (first.schema.edition, again.schema.edition) == ("nnunet", "2023")
    label = case.load(first).label
    assert np.array_equal(case.load(again).label, label) and (label == 1).sum() != (label == 2).sum()


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_an_oblique_case_comes_back_on_its_own_grid(tmp_path, form):
    data_sets.write_dataset(tmp_path / "cases", 1, "2020", seed=3, shape=(32, 36, 20))
    angle = np.deg2rad(7)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    for path in (tmp_path / "cases").rglob("*.nii.gz"):
        image = nibabel.load(path)
        array = np.asarray(image.dataobj)
        turned = nibabel.Nifti1Image(array, None)
        turned.set_qform(turn @ image.affine, int(form == "qform"))
        turned.set_sform(turn @ image.affine, int(form == "sform"))
        nibabel.save(turned, path)
    folder = make_volumes(tmp_path / "cases", tmp_path / "records")
    run("to-nifti", folder, "--output", tmp_path / "out")
    for theirs, ours in check_given_back(tmp_path / "cases", folder, tmp_path / "out"):
        # Quaternions say in other digits what an sform says: float32's last.
        np.testing.assert_allclose(ours.affine, theirs.affine, atol=0 if form == "sform" else 1e-5)


def test_real_cases_come_back_as_they_were(real_cases, tmp_path):
    splits = tmp_path / "splits.json"
    ids = [one.case_id for one in layouts.find(real_cases).cases][:2]
    splits.write_text(json.dumps({"train": ids}))
    folder = str(tmp_path / "records")
    nifti_to_tfrecord.main(
        [
            *("--config", "msm.yaml", "--input", str(real_cases), "--output", folder, "--splits", str(splits)),
            *("records.kind=volumes", "preprocess.n4_modalities=[]"),
        ]
    )
    run("to-nifti", folder, "--output", tmp_path / "out")
    dataset = layouts.find(real_cases)
    for case_id in ids:
        theirs = mask_of(dataset, case_id)
        ours = nibabel.load(tmp_path / "out" / case_id / f"{case_id}_seg.nii.gz")
        assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
        assert np.array_equal(ours.affine, theirs.affine)


def written(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.nii.gz")}


def test_what_is_there_is_kept_and_the_rest_is_written(volumes, tmp_path, capsys):
    out = tmp_path / "out"
    case_ids = [one for ids in read_manifest(volumes).cases.values() for one in ids]
    run("to-nifti", volumes, "--output", out, "--case", case_ids[0])
    assert {path.parts[0] for path in written(out)} == {case_ids[0]}
    _, text = said(capsys, "to-nifti", volumes, "--output", out)
    assert "1 of 5 cases were written already and are kept" in text
    first = written(out)
    assert len(first) == 5 * 5
    # As after a kill: two cases without their last file.
    for case_id in case_ids[1:3]:
        (out / case_id / f"{case_id}_seg.nii.gz").unlink()
    _, text = said(capsys, "to-nifti", volumes, "--output", out)
    assert "3 of 5 cases were written already" in text and written(out) == first
    _, text = said(capsys, "to-nifti", volumes, "--output", out, "--overwrite")
    assert "already" not in text and written(out) == first


def test_cases_go_elsewhere_than_to_the_disk_too(patch_records, record_set, place, capsys):
    case_id = patch_records.without_tumour
    arguments = ("to-nifti", patch_records.folders["volumes"], "--output", place, "--case", case_id)
    run(*arguments)
    array = nifti.read(files.join(place, case_id, f"{case_id}_seg.nii.gz")).array
    assert array.shape == (24, 28, 16) and not array.any()
    _, text = said(capsys, *arguments)
    assert "1 of 1 cases were written already" in text
    run("to-nifti", record_set.folder, "--output", place, "--examples", "1")
    assert files.read_bytes(files.join(place, "train.png")).startswith(b"\x89PNG")


def test_tumour_outside_the_crop_to_the_brain_is_all_that_does_not_come_back(tmp_path):
    (case_id,) = data_sets.write_dataset(tmp_path / "cases", 1, "2020", seed=3, shape=(32, 36, 20))
    path = tmp_path / "cases" / case_id / f"{case_id}_seg.nii.gz"
    image = nibabel.load(path)
    array = np.asarray(image.dataobj).copy()
    array[0, 0, 0] = 2  # no modality has a voxel anywhere near
    nibabel.save(nibabel.Nifti1Image(array, image.affine, image.header), path)
    folder = make_volumes(tmp_path / "cases", tmp_path / "records")
    run("to-nifti", folder, "--output", tmp_path / "out")
    ours = np.asarray(nibabel.load(tmp_path / "out" / case_id / path.name).dataobj)
    assert np.argwhere(ours != array).tolist() == [[0, 0, 0]]


def test_files_of_others_are_never_overwritten(volumes, patch_records, tmp_path):
    cases = tmp_path / "cases"
    shutil.copytree(patch_records.cases, cases)  # the same names as would be written
    before = written(cases)
    for more in ([], ["--overwrite"]):
        with pytest.raises(InputError, match=r"not empty, and not written by to-nifti.*another --output"):
            run("to-nifti", volumes, "--output", cases, *more)
    assert written(cases) == before
    case_ids = [one for ids in read_manifest(volumes).cases.values() for one in ids]
    out = tmp_path / "out"
    run("to-nifti", volumes, "--output", out, "--case", case_ids[0])
    mine = out / case_ids[1] / f"{case_ids[1]}_seg.nii.gz"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    for more in ([], ["--overwrite"]):
        with pytest.raises(InputError, match=r"exists, and to-nifti did not write it"):
            run("to-nifti", volumes, "--output", out, *more)
    assert mine.read_bytes() == b"mine"
    with pytest.raises(InputError, match="the record set itself"):
        run("to-nifti", volumes, "--output", f"{volumes}/")


def test_cases_of_other_records_are_not_mixed_with_these(volumes, tmp_path):
    out = tmp_path / "out"
    run("to-nifti", volumes, "--output", out)
    before = written(out)
    shard = read_manifest(volumes).shards[0]
    contents = contents_of(volumes, shard)
    example = schema.decode(schema.VOLUMES, contents[0])
    contents[0] = schema.encode(schema.VOLUMES, example | {"image": example["image"] * np.float16(2)})
    rewrite(volumes, shard, contents)
    with pytest.raises(InputError, match=r"written from other records.*--overwrite"):
        run("to-nifti", volumes, "--output", out)
    assert written(out) == before
    run("to-nifti", volumes, "--output", out, "--overwrite")
    changed = {path.name for path, content in written(out).items() if content != before[path]}
    assert changed == {f"{example['case_id']}_{name}.nii.gz" for name in ("flair", "t1", "t1ce", "t2")}


def test_a_damaged_case_is_named_and_does_not_cost_the_others(volumes, tmp_path):
    shard = next(one for one in read_manifest(volumes).shards if len(one.cases) > 1)
    path = pathlib.Path(volumes) / shard.file
    whole = bytearray(path.read_bytes())
    whole[200] ^= 1
    path.write_bytes(bytes(whole))
    case_id = shard.cases[0].case_id
    with pytest.raises(InputError, match=rf"{case_id}: {shard.file}, record 0: damaged(.|\n)*records verify"):
        run("to-nifti", volumes, "--output", tmp_path / "out")
    assert len(written(tmp_path / "out")) == 4 * 5
    assert not [one for one in written(tmp_path / "out") if one.parts[0] == case_id]
    path.unlink()
    with pytest.raises(InputError, match=rf"{shard.file}: no such file"):
        run("to-nifti", volumes, "--output", tmp_path / "out2", "--case", case_id)


_ET_MISSING = {"edition": "2020", "values": {"0": "BACKGROUND", "1": "NCR", "2": "ED"}}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"shape": [24, 28, 17]}, r"cut from \(24, 28, 16\); .*are \(24, 28, 17\)"),
        ({"shape": [28, 24, 16]}, r"cut from \(24, 28, 16\); .*are \(28, 24, 16\)"),
        ({"label_schema": {"edition": "2020", "values": {"1": "WATER"}}}, "damaged label schema .*WATER"),
        ({"label_schema": _ET_MISSING}, "no label value for ET"),
        (None, "does not tell the grid"),
    ],
)
def test_a_manifest_that_lost_a_grid_or_tells_another_is_a_clear_error(volumes, tmp_path, source, message):
    shards = [one.model_dump() for one in read_manifest(volumes).shards]
    row = next(row for shard in shards for row in shard["cases"] if row["case_id"] == "BraTS20_Training_000")
    row["source"] = source and row["source"] | source
    change(volumes, shards=shards)
    with pytest.raises(InputError, match=rf"{row['case_id']}: \S+tfrecord, record \d: .*{message}"):
        run("to-nifti", volumes, "--output", tmp_path / "out")
    assert len(written(tmp_path / "out")) == 4 * 5


def test_an_output_that_cannot_be_written_is_one_error_not_one_a_case(volumes):
    with pytest.raises(InputError, match=r"^/proc/no/from_records.json: cannot be written"):
        run("to-nifti", volumes, "--output", "/proc/no")


# --- to-nifti: pictures ---------------------------------------------------------------------------------


def test_slices_are_drawn_with_their_label_one_picture_a_split(record_set, tmp_path, capsys):
    out = tmp_path / "out"
    _, text = said(capsys, "to-nifti", record_set.folder, "--output", out, "--examples", "3")
    assert sorted(path.name for path in out.glob("*.png")) == ["train.png", "validation.png"]
    assert text.count("drew ") == 2
    picture = matplotlib.image.imread(out / "train.png")
    assert picture.shape[0] > 400 and picture.shape[1] > 1000
    before = (out / "train.png").read_bytes()
    _, text = said(capsys, "to-nifti", record_set.folder, "--output", out, "--examples", "3")
    assert text.count("is kept") == 2
    run("to-nifti", record_set.folder, "--output", out, "--examples", "3", "--overwrite")
    assert (out / "train.png").read_bytes() == before  # the same records, the same picture
    with pytest.raises(InputError, match=r"other options.*--overwrite"):
        run("to-nifti", record_set.folder, "--output", out, "--examples", "2")


def test_patches_are_drawn_for_each_region_and_case(patch_records, tmp_path):
    folder = patch_records.folders["patches"]
    run("to-nifti", folder, "--output", tmp_path / "out", "--examples", "2")
    names = {f"{split}-{region}.png" for split in ("train", "validation") for region in ("wt", "tc", "et")}
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == names
    case_id = patch_records.manifest("patches").cases["validation"][0]
    run("to-nifti", folder, "--output", tmp_path / "one", "--case", case_id, "--examples", "2")
    assert {path.name for path in (tmp_path / "one").glob("*.png")} == {
        f"{case_id}-{region}.png" for region in ("wt", "tc", "et")
    }
    with pytest.raises(InputError, match="Did you mean"):
        run("to-nifti", folder, "--output", tmp_path / "one", "--case", case_id + "0")


def test_tissues_lie_in_their_colours_where_the_label_says(record_set):
    manifest = record_set.manifest
    found = [
        schema.decode(schema.SLICES, one)
        for shard in manifest.shards
        for one in contents_of(record_set.folder, shard)
    ]
    example = max(found, key=lambda one: (one["label"] == Tissue.ED).sum())
    panels = pictures.panels(example, manifest.modalities, (1.0, 1.0, 1.0))
    assert list(panels) == ["flair", "t1", "t1ce", "t2", "flair, label", "regions S1 to S4"]
    blue = np.array([int(overlays.COLOURS[Tissue.ED][at : at + 2], 16) for at in (1, 3, 5)])
    label = panels["flair, label"]
    rows, columns = np.nonzero((label == blue).all(axis=-1))
    assert rows.size
    # i goes to the right, j downwards: left is on the viewer's right, the front on top.
    i = columns * example["label"].shape[0] // label.shape[1]
    j = rows * example["label"].shape[1] // label.shape[0]
    assert (example["label"][i, j] == Tissue.ED).mean() > 0.9
    assert not (panels["flair"] == blue).all(axis=-1).any()


@pytest.mark.parametrize(
    ("count", "number", "places"), [(10, 5, [1, 3, 5, 7, 9]), (3, 8, [0, 1, 2]), (9, 1, [4])]
)
def test_examples_are_spread_evenly(count, number, places):
    assert pictures.spread(count, number) == places


def test_pictures_of_a_damaged_set_are_an_error_that_names_the_record(slices, tmp_path):
    shard = read_manifest(slices).shards[0]
    path = pathlib.Path(slices) / shard.file
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(InputError, match=rf"{shard.file}: record \d+ .*damaged"):
        run("to-nifti", slices, "--output", tmp_path / "out", "--examples", "999")
    assert not list((tmp_path / "out").glob("*.png"))


def test_options_that_fit_another_kind_are_refused(volumes, slices, tmp_path):
    with pytest.raises(InputError, match="--examples: of slices and patches"):
        run("to-nifti", volumes, "--output", tmp_path / "out", "--examples", "3")
    with pytest.raises(InputError, match="--examples 0: expected 1 or more"):
        run("to-nifti", slices, "--output", tmp_path / "out", "--examples", "0")


# --- the command ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["show", "verify", "stats", "to-nifti"])
def test_what_is_no_record_set_is_refused_with_a_cure(slices, tmp_path, what):
    more = ["--output", str(tmp_path / "out")] if what == "to-nifti" else []
    with pytest.raises(InputError, match=r"no dataset.json: there are no records here"):
        run(what, tmp_path, *more)
    change(slices, kind="meshes")
    if what != "show":
        with pytest.raises(InputError, match=r"records of kind 'meshes'; expected slices, patches, volumes"):
            run(what, slices, *more)
    change(slices, format=1)
    with pytest.raises(InputError, match=r"records of format 1"):
        run(what, slices, *more)
    assert not (tmp_path / "out").exists()


def test_verify_as_json_says_what_no_record_set_lacks(tmp_path, capsys):
    code, content = said(capsys, "verify", tmp_path, "--json")
    assert code == 1 and not content["sound"] and "no dataset.json" in content["faults"][0]["text"]


def test_the_command_ends_with_its_exit_code_and_loads_no_tensorflow(slices):
    code = (
        "import sys, runpy\n"
        "sys.argv = ['records', *sys.argv[1:]]\n"
        "try:\n"
        "    runpy.run_module('tfbrats.records', run_name='__main__')\n"
        "except SystemExit as ended:\n"
        "    sys.exit(99 if 'tensorflow' in sys.modules or 'keras' in sys.modules else ended.code)\n"
    )

    def ended(*arguments):
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )

    for arguments in (["show"], ["verify"], ["stats"], ["to-nifti", "--output", f"{slices}-pictures"]):
        found = ended(arguments[0], slices, *arguments[1:])
        assert found.returncode == 0, found.stderr
    (pathlib.Path(slices) / read_manifest(slices).shards[0].file).unlink()
    assert ended("verify", slices).returncode == 1


def test_files_with_one_fault_are_told_together(slices, capsys):
    names = [shard.file for shard in read_manifest(slices).shards]
    for name in names:
        (pathlib.Path(slices) / name).unlink()
    code, text = said(capsys, "verify", slices)
    assert code == 1 and len(names) == 4
    assert f"\n  4 files: missing\n    {', '.join(names[:3])} and 1 more\n\n4 faults in {slices}\n" in text


def test_each_subcommand_ends_with_what_to_do_next(slices, capsys):
    train = f"next: tfbrats train --config cun --records {slices}\n"
    assert said(capsys, "show", slices)[1].endswith(f"next: tfbrats records verify {slices}\n")
    assert said(capsys, "verify", slices)[1].endswith(train)
    assert said(capsys, "stats", slices)[1].endswith(train)
    one = read_manifest(slices).shards[0]
    given_back = f"next: tfbrats records to-nifti {slices} --case {one.cases[0].case_id} --output given_back\n"
    assert said(capsys, "show", slices, "--case", one.cases[0].case_id)[1].endswith(given_back)
    (pathlib.Path(slices) / "notes.tfrecord").write_bytes(b"")
    assert said(capsys, "verify", slices)[1].endswith(f"next: tfbrats records verify {slices}\n")
    (pathlib.Path(slices) / one.file).unlink()
    again = f"next: tfbrats prepare --config cun --input DATASET --output {slices}"
    assert said(capsys, "verify", slices)[1].endswith(f"{again}\n")
    change(slices, bytes=1)
    assert said(capsys, "verify", slices)[1].endswith(f"{again} --overwrite\n")


@pytest.mark.parametrize("kind", ["patches", "volumes"])
def test_patches_and_volumes_are_trained_on_by_paper_b_s_network(patch_records, kind, capsys):
    folder = patch_records.folders[kind]
    following = f"next: tfbrats train --config msm --records {folder}\n"
    assert said(capsys, "verify", folder)[1].endswith(following)


def test_pictures_of_the_cases_that_a_file_names(slices, tmp_path, capsys):
    first, second, *_ = (case_id for ids in read_manifest(slices).cases.values() for case_id in ids)
    (tmp_path / "ids.txt").write_text(f"{first}\n")
    chosen = ("--cases", str(tmp_path / "ids.txt"), "--case", second)
    assert said(capsys, "to-nifti", slices, "--output", str(tmp_path / "out"), *chosen)[0] == 0
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == {first, second}
