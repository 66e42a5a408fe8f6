import json
import os
import pathlib
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from tfbrats import inspect
from tfbrats.cases import dealing, nifti
from tfbrats.cases import split_files as split_files
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.phantoms import data_sets, phantom_files, simulation

SHAPE = (24, 26, 18)


def call(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tfbrats.inspect", *map(str, arguments)], capture_output=True, text=True
    )


@pytest.fixture
def folder(place):
    data_sets.write_dataset(place, 3, "2020", seed=2, shape=SHAPE, first=1)
    return place


def file_of(folder, number, kind):
    name = phantom_files.case_id("2020", number)
    return files.join(folder, name, f"{name}_{kind}.nii.gz")


# --- as a command ---------------------------------------------------------------------------------------


def test_an_empty_folder_ends_with_1_and_lists_what_was_looked_for(tmp_path):
    done = call(tmp_path)
    assert done.returncode == 1
    assert "no case found" in done.stderr and all(layout in done.stderr for layout in layouts.LAYOUTS)
    assert "Traceback" not in done.stderr


def test_a_sound_set_ends_with_0_and_a_broken_one_with_1(tmp_path):
    data_sets.write_dataset(tmp_path, 2, "2020", seed=2, shape=SHAPE, first=1)
    done = call(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Nothing is wrong" in done.stdout
    files.remove(file_of(tmp_path, 1, "t1"))
    files.write_bytes(file_of(tmp_path, 2, "t2"), b"<html>")
    done = call(tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "BraTS20_Training_001: no t1;" in done.stdout
    assert "BraTS20_Training_002: " in done.stdout and "HTML" in done.stdout
    assert "2 of 2 cases cannot be used" in done.stdout


def test_json_is_one_object_and_nothing_else_whatever_happens(tmp_path):
    data_sets.write_dataset(tmp_path / "sound", 1, "2020", seed=2, shape=SHAPE)
    (tmp_path / "empty").mkdir()
    for name, code in (("sound", 0), ("empty", 1), ("gone", 1)):
        done = call(tmp_path / name, "--json")
        report = json.loads(done.stdout)
        assert done.returncode == code
        assert report["sound"] is (code == 0)
        assert bool(report["faults"]) is (code == 1)


# --- the report -----------------------------------------------------------------------------------------


def test_every_layout_is_named_with_its_edition(tiny_dataset, capsys):
    for edition in phantom_files.EDITIONS:
        assert inspect.main([str(tiny_dataset(edition))]) == 0
        said = capsys.readouterr().out
        dataset = layouts.find(tiny_dataset(edition))
        assert dataset.layouts[0] in said
        assert f"edition  {edition}: {dataset.cases[0].schema.describe()}" in said


def test_each_case_is_described(folder):
    report = inspect.inspect(folder)
    for number, one in zip((1, 2, 3), report["cases"], strict=True):
        image, tissues = simulation.simulate(SHAPE, 2, number)
        assert one["case_id"] == phantom_files.case_id("2020", number)
        assert one["modalities"] == ["flair", "t1", "t1ce", "t2"] and one["missing"] == []
        assert one["shape"] == list(image.shape[:3])
        assert one["spacing_mm"] == [1, 1, 1]
        assert one["segmentation"] == f"{one['case_id']}_seg.nii.gz"
        counts = {1: "NCR", 2: "ED", 3: "ET"}
        assert one["tissue_voxels"] == {
            n: int((tissues == t).sum()) for t, n in counts.items() if (tissues == t).any()
        }


def test_volumes_are_in_ml_and_count_the_voxels_size(tmp_path):
    spacing_mm = (1.0, 2.0, 2.5)
    data_sets.write_dataset(tmp_path, 1, "2021", 2, SHAPE, first=1, spacing_mm=spacing_mm)
    (one,) = inspect.inspect(tmp_path)["cases"]
    _, tissues = simulation.simulate(SHAPE, 2, 1, spacing_mm)
    assert one["volume_ml"]["WT"] == pytest.approx((tissues > 0).sum() * 5 / 1000, abs=1e-3)
    assert one["volume_ml"]["ET"] == pytest.approx((tissues == 3).sum() * 5 / 1000, abs=1e-3)
    assert one["spacing_mm"] == list(spacing_mm)


def test_all_faults_of_all_cases_come_in_one_report(folder):
    files.remove(file_of(folder, 1, "t1"))
    files.write_bytes(file_of(folder, 1, "t2"), b"")
    files.remove(file_of(folder, 2, "seg"))
    content = files.read_bytes(file_of(folder, 3, "flair"))
    files.write_bytes(file_of(folder, 3, "flair"), content[:-50])
    report = inspect.inspect(folder)
    assert not report["sound"]
    for case_id, words in {
        "BraTS20_Training_001": ("no t1;", "the file is empty"),
        "BraTS20_Training_002": ("no segmentation",),
        "BraTS20_Training_003": ("truncated or damaged",),
    }.items():
        own = [fault for fault in report["faults"] if fault.startswith(f"{case_id}: ")]
        assert len(own) == len(words)
        assert all(any(word in fault for fault in own) for word in words)


def test_a_set_without_any_mask_is_usable_for_prediction(folder, capsys):
    for number in (1, 2, 3):
        files.remove(file_of(folder, number, "seg"))
    assert inspect.main([folder]) == 0
    assert "no segmentations: usable for prediction only" in capsys.readouterr().out


def test_a_misnamed_mask_is_noted_and_no_fault(tmp_path, capsys):
    data_sets.write_dataset(tmp_path, 1, "2020", 0, SHAPE, first=355)
    assert inspect.main([str(tmp_path)]) == 0
    assert "W39_1998.09.19_Segm.nii.gz" in capsys.readouterr().out


def test_several_files_of_one_reason_are_called_files_and_several_cases_cases(folder, capsys):
    for name in ("one", "two"):
        files.write_bytes(files.join(folder, f"{name}.nii.gz"), b"")
    for number in (1, 2):
        files.remove(file_of(folder, number, "t1"))
    assert inspect.main([str(folder)]) == 1
    said = capsys.readouterr().out
    assert "2 files: name not understood, left out\n" in said and "2 cases: no t1;" in said


def test_each_file_is_read_once(folder, monkeypatch):
    read = []
    true_read = nifti.read
    monkeypatch.setattr(nifti, "read", lambda path: read.append(path) or true_read(path))
    inspect.inspect(folder)
    assert len(read) == len(set(read)) == 15


def test_an_edition_given_by_hand_decides_what_the_labels_mean(tiny_dataset):
    report = inspect.inspect(tiny_dataset("2021"), edition="2023")
    assert any("label values [4]" in fault for fault in report["faults"])


@pytest.mark.parametrize(("voxels", "noted"), [(999, False), (1000, True)])
def test_many_voxels_at_the_top_of_the_data_type_are_noted_as_saturated(tmp_path, voxels, noted):
    data_sets.write_dataset(tmp_path, 1, "2020", 2, SHAPE, first=1)
    path = file_of(tmp_path, 1, "t2")
    image = nibabel.load(path)
    array = np.asanyarray(image.dataobj).copy()
    array[tuple(np.argwhere(array)[:voxels].T)] = 32767
    nibabel.save(nibabel.Nifti1Image(array, image.affine, image.header), path)
    report = inspect.inspect(tmp_path)
    assert report["sound"]
    assert any("t2 is saturated: 1000 voxels at 32767" in note for note in report["notes"]) is noted


def test_an_empty_mask_is_noted(tmp_path):
    data_sets.write_dataset(tmp_path, 1, "2020", 2, SHAPE, first=1)
    path = file_of(tmp_path, 1, "seg")
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), image.affine, image.header), path)
    report = inspect.inspect(tmp_path)
    assert report["sound"] and any("empty" in note for note in report["notes"])
    assert report["cases"][0]["volume_ml"] == {"WT": 0, "TC": 0, "ET": 0}


# --- splits ---------------------------------------------------------------------------------------------


@pytest.fixture
def time_points(tmp_path):
    """Two patients of 2023, the first scanned twice."""
    data_sets.write_dataset(tmp_path / "data", 2, "2023", 2, SHAPE)
    first = tmp_path / "data" / "BraTS-GLI-00000-000"
    for path in sorted(first.iterdir()):
        target = pathlib.Path(str(path).replace("00000-000", "00000-001"))
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path / "data"


def splits(folder, content):
    path = os.path.join(os.path.dirname(folder), "splits.json")
    files.write_json(path, content)
    return path


def test_one_patient_in_two_splits_is_a_fault(time_points, capsys):
    train, test = ["BraTS-GLI-00000-000", "BraTS-GLI-00001-000"], ["BraTS-GLI-00000-001"]
    path = splits(time_points, {"train": train, "test": test})
    assert inspect.main([str(time_points), "--splits", path]) == 1
    said = capsys.readouterr().out
    assert "patient BraTS-GLI-00000 is in more than one split" in said
    assert "BraTS-GLI-00000-001" in said


def test_splits_by_patient_are_sound_and_cases_left_out_are_noted(time_points):
    path = splits(time_points, {"train": ["BraTS-GLI-00000-000", "BraTS-GLI-00000-001"], "test": []})
    report = inspect.inspect(time_points, splits=path)
    assert report["sound"]
    assert any("1 cases are in no split: BraTS-GLI-00001-000" in note for note in report["notes"])


def test_a_split_of_cases_that_are_not_here_is_a_fault(time_points):
    path = splits(time_points, {"train": ["BraTS-GLI-00077-000"]})
    (fault,) = inspect.inspect(time_points, splits=path)["faults"]
    assert "train" in fault and "BraTS-GLI-00077-000" in fault


def test_a_case_listed_in_two_splits_is_a_fault_even_if_unknown():
    assert len(split_files.faults({"a": ["x"], "b": ["x"]}, {"x": "x"}, "/data")) == 1
    twice = split_files.faults({"a": ["y"], "b": ["y"]}, {"x": "x"}, "/data")
    assert any("in more than one split" in fault for fault in twice)


def test_a_split_that_is_only_scored_needs_no_training_case():
    splits = {"train": [], "test": ["x"]}
    assert split_files.faults(splits, {"x": "x"}, "/data") == ["no training case"]
    assert split_files.faults(splits, {"x": "x"}, "/data", to_train_on=False) == []


def test_a_runs_splits_and_one_of_several_folds_are_read(time_points):
    dataset = layouts.find(time_points)
    path = splits(time_points, split_files.as_json(dealing.split_cases(dataset, (1, 1, 0), 0)))
    assert inspect.inspect(time_points, splits=path)["sound"]
    path = splits(time_points, split_files.as_json(dealing.folds(dataset, 2, 0)))
    assert inspect.main([str(time_points), "--splits", path, "--fold", "1"]) == 0
    with pytest.raises(InputError, match="--fold 1 needs --splits"):
        inspect.inspect(time_points, fold=1)


@pytest.mark.parametrize("content", [[], {"train": "BraTS-GLI-00000-000"}])
def test_a_splits_file_of_another_shape_is_refused(time_points, content):
    with pytest.raises(InputError, match=r"splits\.json: splits: expected .*\[case ids\]"):
        inspect.inspect(time_points, splits=splits(time_points, content))


def test_real_cases_are_sound_and_nothing_is_noted_on_them(real_cases):
    for root, count in ((real_cases.parent / "more_cases", 5), (real_cases, 6)):
        if root.is_dir():
            report = inspect.inspect(root)
            assert report["sound"] and len(report["cases"]) == count
            assert not [note for one in report["cases"] for note in one["notes"]]
    by_id = {one["case_id"]: one for one in report["cases"]}
    assert by_id["BraTS2021_01484"]["volume_ml"]["ET"] == 0
    assert by_id["BraTS2021_01478"]["tissue_voxels"]["ET"] == 1276


def _unnamed(place, cases):
    """Phantoms of 2021 (values 1, 2, 4) whose names tell no edition."""
    data_sets.write_dataset(place / "in", cases, "2021", 2, SHAPE, first=1)
    for path in sorted((place / "in").rglob("*.nii.gz")):
        target = place / "out" / path.parent.name.replace("BraTS2021_", "p")
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / path.name.replace("BraTS2021_", "p"))
    return place / "out"


@pytest.mark.parametrize(("cases", "kind"), [(1, "notes"), (3, "faults")])
def test_an_edition_that_makes_cavities_of_all_enhancing_tumour_is_doubted(tmp_path, cases, kind):
    folder = _unnamed(tmp_path, cases)
    report = inspect.inspect(folder, "2024")
    assert any("value 4 as resection cavity, and no mask has enhancing tumour" in text for text in report[kind])
    assert report["sound"] is (kind == "notes")
    right = inspect.inspect(folder, "2021")
    assert right["sound"] and not right["notes"]
    assert all(one["volume_ml"]["ET"] > 0 for one in right["cases"])


def test_an_edition_against_the_ids_own_table_is_a_fault_where_it_would_change_a_tissue(tiny_dataset):
    report = inspect.inspect(tiny_dataset("2021"), "2024")
    with_et = [
        one["case_id"] for one in inspect.inspect(tiny_dataset("2021"))["cases"] if one["volume_ml"]["ET"]
    ]
    assert [one["case_id"] for one in report["cases"] if one["faults"]] == with_et and with_et
    assert all(
        "tell edition 2021, which has all of its values and reads 4 ET" in text for text in report["faults"]
    )


# --- what a person sees -----------------------------------------------------------------------------------


def said_of(folder, capsys, *more) -> list[str]:
    inspect.main([str(folder), *more])
    return capsys.readouterr().out.splitlines()


def test_it_ends_with_what_to_do_next(tiny_dataset, tmp_path, capsys):
    folder = tiny_dataset("2020")
    assert said_of(folder, capsys, "--edition", "2020")[-1] == (
        f"next: tfbrats prepare --config cun --input {folder} --edition 2020 --output records/cun"
    )
    data_sets.write_dataset(tmp_path / "bare", 1, "2020", 5, SHAPE)
    for mask in (tmp_path / "bare").rglob("*_seg.nii.gz"):
        mask.unlink()
    assert said_of(tmp_path / "bare", capsys)[-1].startswith("next: tfbrats predict --model MODEL --input ")
    next((tmp_path / "bare").rglob("*_t1.nii.gz")).unlink()
    last = said_of(tmp_path / "bare", capsys)[-1]
    assert last == f"next: mend that, and run tfbrats inspect {tmp_path / 'bare'} again"


def test_own_scans_are_not_asked_to_be_mended_but_sent_to_predict(tmp_path, capsys):
    data_sets.write_dataset(tmp_path, 1, "2020", 5, SHAPE)
    for kind, name in {"flair": "AX_FLAIR", "t1": "Smith_T1", "t1ce": "Smith_T1_post", "t2": "t2_tse"}.items():
        (scan,) = tmp_path.rglob(f"BraTS*_{kind}.nii.gz")
        (tmp_path / "pat").mkdir(exist_ok=True)
        scan.rename(tmp_path / "pat" / f"{name}.nii.gz")
    *_, before, last = said_of(tmp_path / "pat", capsys)
    assert before.startswith("But one's own scans lie here, of 1 patient (pat): ")
    assert last == f"next: tfbrats predict --model MODEL --input {tmp_path / 'pat'} --output predictions"
    (tmp_path / "pat" / "Smith_T1.nii.gz").rename(tmp_path / "pat" / "3dT1.nii.gz")
    (tmp_path / "pat" / "Smith_T1_post.nii.gz").rename(tmp_path / "pat" / "MPRAGE_post.nii.gz")
    (tmp_path / "pat" / "AX_FLAIR.nii.gz").rename(tmp_path / "pat" / "dark-fluid.nii.gz")
    with pytest.raises(InputError, match=r"no case found(?s:.*)But one's own scans .* tfbrats predict --model"):
        inspect.main([str(tmp_path / "pat")])


def test_what_is_the_same_of_several_cases_is_said_once_and_in_json_of_each(tmp_path, capsys):
    data_sets.write_dataset(tmp_path, 5, "2020", 5, SHAPE)
    for number in range(4):
        next(tmp_path.rglob(f"*00{number}_t1.nii.gz")).unlink()
    lines = said_of(tmp_path, capsys)
    faults = lines[lines.index("faults") + 1 : lines.index("", lines.index("faults"))]
    assert len(faults) == 2
    assert faults[0].startswith("  4 cases: no t1; found CASE_flair.nii.gz, ")
    assert faults[1] == "    BraTS20_Training_000, BraTS20_Training_001, BraTS20_Training_002 and 1 more"
    assert "4 faults; 4 of 5 cases cannot be used." in lines
    inspect.main([str(tmp_path), "--json"])
    assert len(json.loads(capsys.readouterr().out)["faults"]) == 4


def test_a_fault_of_one_case_alone_names_its_own_files(tmp_path, capsys):
    data_sets.write_dataset(tmp_path, 3, "2020", 5, SHAPE)
    next(tmp_path.rglob("*001_t1.nii.gz")).unlink()
    (told,) = [line for line in said_of(tmp_path, capsys) if "no t1; found" in line]
    assert told.startswith("  BraTS20_Training_001: no t1; found BraTS20_Training_001_flair.nii.gz, ")


def a_foreign_data_set(folder):
    """nnU-Net's layout, of a channel that is no modality of ours."""
    data_sets.write_dataset(folder, 1, "nnunet", 5, SHAPE)
    table = folder / "dataset.json"
    content = json.loads(table.read_text())
    table.write_text(json.dumps(content | {"channel_names": {"0": "noNorm"}}))


def test_of_a_parent_folder_the_data_sets_below_are_named(tmp_path):
    a_foreign_data_set(tmp_path / "a" / "b" / "foreign")
    with pytest.raises(InputError, match="noNorm") as alone:
        inspect.inspect(tmp_path)
    assert "below" not in str(alone.value)
    data_sets.write_dataset(tmp_path / "BraTS2020", 3, "2020", 5, SHAPE)
    data_sets.write_dataset(tmp_path / "more" / "MSD", 2, "msd", 5, SHAPE)
    data_sets.write_dataset(tmp_path / "a" / "GLI", 2, "2023", 5, SHAPE)
    with pytest.raises(InputError) as told:
        inspect.inspect(tmp_path)
    first, second = str(told.value).splitlines()[:2]
    names = ", ".join(str(tmp_path / name) for name in ("BraTS2020", "a/GLI", "more"))
    assert first == f"{tmp_path}: 3 data sets below: {names}. Name one."
    assert second.startswith("All of it together is none: ") and "noNorm" in second


def test_a_data_set_s_own_fault_is_not_taken_for_a_parent_folder(tmp_path):
    data_sets.write_dataset(tmp_path, 3, "2020", 5, SHAPE)
    a_foreign_data_set(tmp_path / "extra" / "foreign")
    with pytest.raises(InputError, match="noNorm") as told:
        inspect.inspect(tmp_path)
    assert "below" not in str(told.value)
