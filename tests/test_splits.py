"""Which case goes to which split: by patient, the same ever after; as a file, and back."""

import collections
import json
import re

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from tfbrats import labels, splits
from tfbrats.cases import dealing
from tfbrats.cases import split_files as split_files
from tfbrats.cases.dealing import split_cases
from tfbrats.datasets import grades, layouts
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.phantoms import data_sets, simulation


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
    found = split_cases(dataset, (3, 1, 1), seed=0)
    assert [len(found[name]) for name in ("train", "validation", "test")] == counts
    assert sorted(i for ids in found.values() for i in ids) == [one.case_id for one in dataset.cases]


def test_hgg_and_lgg_are_each_dealt_3_1_1():
    dataset = joined(a_dataset(20, folder="/data/HGG"), a_dataset(10, folder="/data/LGG", start=20))
    found = split_cases(dataset, (3, 1, 1), seed=4)
    low = {one.case_id for one in dataset.cases if "/LGG/" in one.paths()[0]}
    assert [len(ids) for ids in found.values()] == [18, 6, 6]
    assert [len(low & set(ids)) for ids in found.values()] == [6, 2, 2]


@pytest.mark.parametrize("seed", range(5))
def test_all_scans_of_a_patient_are_in_one_split(seed):
    found = split_cases(a_dataset(11, scans=3), (3, 1, 1), seed)
    patients = [{case_id[:-4] for case_id in ids} for ids in found.values()]
    assert [len(group) for group in patients] == [7, 2, 2]
    assert not patients[0] & patients[1] and not patients[0] & patients[2] and not patients[1] & patients[2]


def test_the_split_is_the_same_for_the_same_seed_whatever_the_order_cases_are_found_in():
    dataset = a_dataset(30)
    turned = layouts.Dataset("/data", tuple(reversed(dataset.cases)), ())
    found = split_cases(dataset, (3, 1, 1), 7)
    assert split_cases(turned, (3, 1, 1), 7) == found
    assert split_cases(dataset, (3, 1, 1), 8) != found


def test_given_splits_are_used_as_they_are_and_val_means_validation():
    dataset = a_dataset(4)
    a, b, c, _ = [one.case_id for one in dataset.cases]
    assert split_cases(dataset, (3, 1, 1), 0, {"val": [c], "train": [b, a]}) == {
        "train": [a, b],
        "validation": [c],
        "test": [],
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": ["A"]}, r"split train: case ids that are not in /data: A"),
        ({"train": [], "holdout": []}, r"unknown splits \['holdout'\]; expected .* train, validation, test"),
        (
            {"train": ["BraTS-GLI-00000-000", "BraTS-GLI-00000-000"]},
            r"split train: .* listed twice: BraTS-GLI-00000-000",
        ),
        ({"val": ["BraTS-GLI-00000-000"]}, r"no training case"),
        ({"val": [], "validation": [], "train": []}, r"both val and validation"),
        ([{"train": [], "val": []}], r"expected \{split: \[case ids\]\}"),  # nnU-Net's splits_final.json
        ({"train": "BraTS-GLI-00000-000"}, r"expected \{split: \[case ids\]\}"),
        (
            {"train": ["BraTS-GLI-00001-000"], "test": ["BraTS-GLI-00001-001"]},
            r"patient BraTS-GLI-00001 is in more than one split \(train: .*; test: ",
        ),
    ],
)
def test_given_splits_that_do_not_fit_are_an_error_that_says_why(given, message):
    with pytest.raises(InputError, match=message):
        split_cases(a_dataset(3, scans=2), (3, 1, 1), 0, given)


def test_test_images_without_segmentation_are_in_no_split():
    dataset = joined(a_dataset(5), a_dataset(3, start=5, label=False))
    found = split_cases(dataset, (3, 1, 1), 0)
    assert [len(ids) for ids in found.values()] == [3, 1, 1]
    assert all(case_id < "BraTS-GLI-00005" for ids in found.values() for case_id in ids)
    with pytest.raises(InputError, match="no case has a segmentation"):
        split_cases(a_dataset(3, label=False), (3, 1, 1), 0)


# --- properties -----------------------------------------------------------------------------------------


@st.composite
def cohorts(draw):
    """Data sets of patients with one to three scans, of both grades and of none, told by folder or by table."""
    parts, told, start = [], {}, 0
    for folder, grade in (("/data/HGG", None), ("/data/LGG", None), ("/data", None), ("/data", "LGG")):
        count, scans = draw(st.integers(0, 12)), draw(st.integers(1, 3))
        part = a_dataset(count, scans, folder, start)
        start += count
        parts.append(part)
        told |= {one.case_id: grade for one in part.cases} if grade else {}
    cases = joined(*parts).cases
    return layouts.Dataset("/data", cases or a_dataset(1).cases, (), told)


ratios = st.tuples(st.integers(1, 5), st.integers(0, 5), st.integers(0, 5))
seeds = st.integers(0, 2**32)


def patients_of(ids):
    return {case_id[:-4] for case_id in ids}


def strata_of(dataset, ids):
    """Patients of each grade among cases."""
    patients = {one.patient_id: dataset.grade_of(one) for one in dataset.cases if one.case_id in set(ids)}
    return collections.Counter(patients.values())


@settings(deadline=None)
@drawn(cohorts(), ratios, seeds)
def test_every_patient_is_in_one_split_and_each_grade_has_its_share_to_within_one(dataset, ratio, seed):
    found = split_cases(dataset, ratio, seed)
    assert sorted(i for ids in found.values() for i in ids) == sorted(one.case_id for one in dataset.cases)
    homes = [patients_of(ids) for ids in found.values()]
    assert sum(map(len, homes)) == len(set.union(*homes))
    whole = strata_of(dataset, [one.case_id for one in dataset.cases])
    for ids, part in zip(found.values(), ratio, strict=True):
        for grade, count in whole.items():
            assert abs(strata_of(dataset, ids)[grade] - count * part / sum(ratio)) < 1


@settings(deadline=None)
@drawn(cohorts(), st.integers(2, 6), seeds)
def test_every_patient_is_in_the_validation_split_of_one_fold_and_in_training_in_the_others(
    dataset, count, seed
):
    patients = patients_of(one.case_id for one in dataset.cases)
    if len(patients) < count:
        with pytest.raises(InputError, match=f"--folds {count}: expected 2 to {len(patients)}"):
            dealing.folds(dataset, count, seed)
        return
    found = dealing.folds(dataset, count, seed)
    held_out = [patients_of(one["validation"]) for one in found]
    assert len(found) == count and sum(map(len, held_out)) == len(set.union(*held_out)) == len(patients)
    for one, held in zip(found, held_out, strict=True):
        assert patients_of(one["train"]) == patients - held and one["test"] == []
        assert len(one["train"]) + len(one["validation"]) == len(dataset.cases)
    assert max(map(len, held_out)) - min(map(len, held_out)) <= 1
    by_grade = [strata_of(dataset, one["validation"]) for one in found]
    for grade in (*grades.GRADES, None):
        counts = [one[grade] for one in by_grade]
        assert max(counts) - min(counts) <= 1


@settings(deadline=None)
@drawn(cohorts(), st.sets(st.integers(0, 150)), ratios, seeds)
def test_new_cases_are_dealt_and_old_ones_stay_with_their_patients(dataset, numbers, ratio, seed):
    ids = [one.case_id for one in dataset.cases]
    before = tuple(one for n, one in enumerate(dataset.cases) if n in numbers)
    old = {name: [] for name in split_files.SPLITS}
    if before:
        old = split_cases(layouts.Dataset("/data", before, (), dataset.table_grades), (3, 1, 1), seed)
    new = dealing.extended(dataset, ratio, seed, old)
    named = [i for split in (old, new) for part in split.values() for i in part]
    assert sorted(named) == sorted(ids)
    homes = [patients_of([*old[name], *new[name]]) for name in split_files.SPLITS]
    assert sum(map(len, homes)) == len(set.union(*homes))
    assert all(part == sorted(part) for part in new.values())


# --- grades ---------------------------------------------------------------------------------------------


def test_a_table_deals_out_as_folders_do():
    folders = joined(a_dataset(23, folder="/data/HGG"), a_dataset(9, folder="/data/LGG", start=23))
    flat = a_dataset(32)
    grades = {one.case_id: folders.grade_of(one) for one in folders.cases}
    by_table = layouts.Dataset("/data", flat.cases, (), grades)
    assert split_cases(by_table, (3, 1, 1), 0) == split_cases(folders, (3, 1, 1), 0)
    assert split_cases(by_table, (3, 1, 1), 0) != split_cases(flat, (3, 1, 1), 0)


def test_a_patient_whose_scans_differ_in_grade_still_is_one_patient_and_high_grade():
    dataset = a_dataset(10, scans=2)
    low = {one.case_id: "LGG" for one in dataset.cases}
    turned = {one.case_id: "HGG" for one in dataset.cases if one.case_id.endswith("-001")}
    mixed = layouts.Dataset("/data", dataset.cases, (), low | turned)
    all_high = layouts.Dataset("/data", dataset.cases, (), dict.fromkeys(low, "HGG"))
    assert split_cases(mixed, (3, 1, 1), 0) == split_cases(all_high, (3, 1, 1), 0)


# --- recipes --------------------------------------------------------------------------------------------


def brats_2017(high=210, low=75):
    return joined(a_dataset(high, folder="/data/HGG"), a_dataset(low, folder="/data/LGG", start=high))


def test_paper_a_takes_126_42_and_42_high_grade_cases_whatever_else_is_there():
    both, note = dealing.deal(brats_2017(), (1, 0, 0), 9, "paper_a")
    assert [len(ids) for ids in both.values()] == [126, 42, 42]
    assert note == ("paper_a takes HGG alone; left out: 75 LGG",)
    assert dealing.deal(brats_2017(low=0), (1, 0, 0), 9, "paper_a") == (both, ())
    assert split_cases(brats_2017(low=0), (3, 1, 1), 0) == both


@pytest.mark.parametrize(
    ("dataset", "found"),
    [
        (brats_2017(209), "found 209 HGG, 75 LGG."),
        (a_dataset(210), "found 210 of unknown grade."),
        (a_dataset(105, scans=2, folder="/data/HGG"), "found 210 HGG."),  # of half as many patients
    ],
)
def test_paper_a_of_other_data_is_an_error_that_says_what_was_found(dataset, found):
    with pytest.raises(InputError, match=rf"210 HGG cases of BraTS 2017; {re.escape(found)}.*--ratio 3,1,1"):
        dealing.deal(dataset, (3, 1, 1), 0, "paper_a")


def test_paper_b_trains_on_all_and_says_when_that_is_not_285():
    whole, notes = dealing.deal(brats_2017(), (3, 1, 1), 0, "paper_b")
    assert ([len(ids) for ids in whole.values()], notes) == ([285, 0, 0], ())
    _, (note,) = dealing.deal(a_dataset(7), (3, 1, 1), 0, "paper_b")
    assert "all 7 found" in note


# --- files ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@drawn(cohorts(), seeds)
def test_what_is_written_is_read_back_and_deals_out_the_same(tmp_path_factory, dataset, seed):
    path = tmp_path_factory.mktemp("splits") / "splits.json"
    dealt = split_cases(dataset, (3, 1, 1), seed)
    assert split_files.write(path, dealt) and not split_files.write(path, dealt)
    assert split_files.read(path) == dealt
    assert dealing.deal(dataset, (1, 0, 0), 1, str(path)).splits == dealt


def test_folds_are_one_file_and_each_is_read_by_its_number(tmp_path):
    dataset = a_dataset(7)
    several = dealing.folds(dataset, 3, 0)
    path = tmp_path / "folds.json"
    split_files.write(path, several)
    for n, one in enumerate(several):
        assert split_files.read(path, n) == one
        assert dealing.deal(dataset, (3, 1, 1), 0, str(path), n) == (one, ())
    for fold, said in ((None, "it holds"), (3, "no fold 3; it holds"), (-1, "no fold -1; it holds")):
        with pytest.raises(InputError, match=rf"folds\.json: splits: {said} the folds 0 to 2. .*--fold"):
            split_files.read(path, fold)


def test_nnunets_splits_final_is_read_by_fold(tmp_path):
    one, two, three = (one.case_id for one in a_dataset(3).cases)
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": [two, one], "val": [three]}, {"train": [three], "val": [one, two]}]))
    assert split_files.read(path, 0) == {"train": [one, two], "validation": [three], "test": []}
    assert split_files.read(path, 1)["validation"] == [one, two]


def test_an_edited_file_is_refused_and_one_without_a_hash_is_ones_own(tmp_path):
    dataset = a_dataset(9)
    path = tmp_path / "splits.json"
    for content, fold in (
        (split_files.as_json(split_cases(dataset, (3, 1, 1), 0)), None),
        (split_files.as_json(dealing.folds(dataset, 3, 0)), 2),
    ):
        split = content if fold is None else content["folds"][0]
        split["train"].append(split["validation"].pop())
        files.write_json(path, content)
        with pytest.raises(InputError, match=r"splits\.json: .*edited.*leave every sha256 out"):
            split_files.read(path, fold)
        files.write_json(path, json.loads(re.sub(r'"sha256": "\w+"', '"test": []', json.dumps(content))))
        assert split_files.read(path, fold)["test"] == []


def test_folds_that_were_taken_out_or_reordered_are_an_edit(tmp_path):
    content = split_files.as_json(dealing.folds(a_dataset(9), 3, 0))
    path = tmp_path / "folds.json"
    for changed in (content["folds"][:2], content["folds"][::-1]):
        files.write_json(path, content | {"folds": changed})
        with pytest.raises(InputError, match="edited"):
            split_files.read(path, 0)


@pytest.mark.parametrize(
    ("content", "fold", "said"),
    [
        ([], None, r"expected \{split: \[case ids\]\}"),
        ([1, 2], 0, r"expected \{split: \[case ids\]\} .*; found 1"),
        ("train", None, 'found "train"'),
        ({"folds": []}, 0, r"unknown splits \['folds'\]"),
        ({"folds": {"train": []}}, 0, "expected"),
        ({"sha256": "5"}, None, "expected"),
        ({"train": ["a"], "holdout": ["b"]}, None, r"unknown splits \['holdout'\]"),
        ({"train": ["a"]}, 1, "one split, no folds. Leave --fold 1 out"),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path, content, fold, said):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"x\.json: splits: .*{said}"):
        split_files.read(path, fold)


def test_what_is_asked_for_but_not_there_is_said():
    with pytest.raises(InputError, match=r"paper_c: no such file, nor a recipe; .* are paper_a, paper_b"):
        dealing.deal(a_dataset(3), (3, 1, 1), 0, "paper_c")
    for given in (None, "paper_b"):
        with pytest.raises(InputError, match=r"--fold 1: of which file\?"):
            dealing.deal(a_dataset(3), (3, 1, 1), 0, given, 1)


def test_a_file_that_does_not_fit_the_data_is_named(tmp_path):
    split_files.write(tmp_path / "s.json", split_cases(a_dataset(9), (3, 1, 1), 0))
    with pytest.raises(InputError, match=r"s\.json: splits: split .*: case ids that are not in /data: .*00008"):
        dealing.deal(a_dataset(8), (3, 1, 1), 0, str(tmp_path / "s.json"))


# --- adding cases ---------------------------------------------------------------------------------------


def test_a_later_scan_goes_where_its_patient_is_and_new_patients_are_dealt_3_1_1():
    old = {"train": ["BraTS-GLI-00000-000"], "validation": (), "test": ("BraTS-GLI-00001-000",)}
    new = dealing.extended(a_dataset(12, scans=2), (3, 1, 1), 0, old)
    assert "BraTS-GLI-00000-001" in new["train"] and "BraTS-GLI-00001-001" in new["test"]
    assert [len(ids) for ids in new.values()] == [2 * 6 + 1, 2 * 2, 2 * 2 + 1]
    assert dealing.extended(a_dataset(2), (3, 1, 1), 0, old) == {"train": [], "validation": [], "test": []}


def test_cases_that_are_gone_cannot_be_added_to():
    old = split_cases(a_dataset(6), (3, 1, 1), 0)
    with pytest.raises(InputError, match=r"/data: no case BraTS-GLI-00004-000, BraTS-GLI-00005-000; it has"):
        dealing.extended(a_dataset(4), (3, 1, 1), 0, old)


def test_new_cases_may_be_given_a_split_and_the_rest_is_left_out():
    dataset = a_dataset(5, scans=2)
    a, b, c = ("BraTS-GLI-00000-000", "BraTS-GLI-00001-000", "BraTS-GLI-00002-001")
    old = {"train": [a], "validation": [b], "test": []}
    assert dealing.extended(dataset, (3, 1, 1), 0, old, {"val": [b, c]}) == {
        "train": [],
        "validation": [c],
        "test": [],
    }
    for wrong in (b, "BraTS-GLI-00001-001"):  # the case itself, and another scan of its patient
        with pytest.raises(InputError, match="BraTS-GLI-00001 is in more than one split"):
            dealing.extended(dataset, (3, 1, 1), 0, old, {"train": [a, wrong]})


# --- the command ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort") / "BraTS2020"
    data_sets.write_dataset(folder, 12, "2020", seed=3, shape=simulation.LEAST_SHAPE)
    return str(folder)


def test_the_command_writes_the_split_that_the_records_will_have_and_a_table(cohort, tmp_path, capsys):
    path = tmp_path / "splits.json"
    assert splits.main(["--input", cohort, "--output", str(path), "--config", "cun.yaml"]) == 0
    dealt = split_cases(layouts.find(cohort), (3, 1, 1), 0)
    assert json.loads(path.read_text()) == {**dealt, "sha256": split_files.sha256_of_split(dealt)}
    header, *rows, last, following = capsys.readouterr().out.splitlines()
    assert header.split() == ["split", "patients", "cases", "HGG", "LGG"]
    assert [row.split() for row in rows] == [
        ["train", "7", "7", "5", "2"],
        ["validation", "3", "3", "2", "1"],
        ["test", "2", "2", "2", "0"],
    ]
    assert str(path) in last and [entry.name for entry in tmp_path.iterdir()] == ["splits.json"]
    assert following == (
        f"next: tfbrats prepare --config cun.yaml --input {cohort} --splits {path} --output records/cun"
    )


@pytest.mark.parametrize("name", ["", "new", "new/", "splits.json"])
def test_in_a_folder_the_file_has_its_usual_name(cohort, tmp_path, name):
    splits.main(["--input", cohort, "--output", f"{tmp_path}/{name}", "--folds", "3"])
    (written,) = tmp_path.rglob("*.json")
    assert written == tmp_path / name.removesuffix("splits.json") / "splits.json"


def test_folds_are_prepared_together_with_what_was_said_of_the_cases(cohort, tmp_path, capsys):
    more = ["--edition", "2020", "--folds", "3"]
    splits.main(["--input", cohort, "--output", str(tmp_path), *more])
    following = capsys.readouterr().out.splitlines()[-1]
    assert "--edition 2020 --output records/cun" in following


def test_the_command_says_in_json_what_it_did_and_what_is_wrong(cohort, tmp_path, capsys):
    arguments = ["--input", cohort, "--output", str(tmp_path / "f.json"), "--folds", "4", "--json"]
    for written in (True, False):
        assert splits.main(arguments) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["written"], said["faults"]) == (written, [])
    assert said["sha256"] == json.loads((tmp_path / "f.json").read_text())["sha256"]
    assert [row["cases"] for row in said["rows"]] == [9, 3] * 4
    assert splits.main([*arguments, "--seed", "1"]) == 1
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert "holds other splits" in fault


def test_another_split_is_replaced_only_when_asked(cohort, tmp_path):
    path = tmp_path / "splits.json"
    arguments = ["--input", cohort, "--output", str(path)]
    splits.main(arguments)
    first = path.read_bytes()
    assert splits.main(arguments) == 0
    with pytest.raises(InputError, match=r"splits\.json: holds other splits.*--overwrite"):
        splits.main([*arguments, "--seed", "1"])
    assert path.read_bytes() == first
    assert splits.main([*arguments, "--seed", "1", "--overwrite"]) == 0
    assert path.read_bytes() != first


@pytest.mark.parametrize(
    "name", ["name_mapping.csv", "notes.json", "BraTS20_Training_000/BraTS20_Training_000_seg.nii.gz"]
)
def test_what_is_no_splits_file_is_never_replaced(cohort, name):
    files.write_json(files.join(cohort, "notes.json"), {"labels": []})
    target = files.join(cohort, name)
    before = files.walk(cohort)
    with pytest.raises(InputError, match="holds no splits"):
        splits.main(["--input", cohort, "--output", target, "--overwrite"])
    assert files.walk(cohort) == before


def test_cases_in_no_split_have_a_row_of_their_own(tmp_path, capsys):
    data_sets.write_dataset(tmp_path / "msd", 3, "msd", seed=3, shape=simulation.LEAST_SHAPE)
    test_images = tmp_path / "msd" / "imagesTs"
    test_images.mkdir()
    (tmp_path / "msd" / "imagesTr" / "BRATS_002.nii.gz").rename(test_images / "BRATS_002.nii.gz")
    (tmp_path / "msd" / "labelsTr" / "BRATS_002.nii.gz").unlink()
    splits.main(["--input", str(tmp_path / "msd"), "--output", str(tmp_path / "s.json"), "--recipe", "paper_b"])
    note, _, first, *_, last, _, _ = capsys.readouterr().out.splitlines()
    assert "all 2 found" in note
    assert first.split() == ["train", "2", "2", "2"]
    assert last.split() == ["none", "1", "1", "1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ratio", "3,1"], "--ratio 3,1: expected train,validation,test"),
        (["--ratio", "0,1,1"], "train at least 1"),
        (["--ratio", "3,-1,1"], "whole numbers"),
        (["--ratio", "3,1,1", "--folds", "3"], "--ratio and --folds each say how to deal"),
        (["--recipe", "paper_a", "--folds", "3"], "--folds and --recipe each say"),
        (["--recipe", "paper_b", "--seed", "0"], "Leave --config and --seed out"),
        (["--recipe", "paper_a"], "210 HGG cases of BraTS 2017; found 9 HGG, 3 LGG"),
        (["--folds", "13"], "--folds 13: expected 2 to 12"),
        (["--folds", "1"], "--folds 1: expected 2 to 12"),
        (["--seed", "-1"], "--seed -1"),
        (["--config", "cnu.yaml"], "cun"),
    ],
)
def test_what_cannot_be_dealt_is_an_error_and_writes_nothing(cohort, tmp_path, arguments, said):
    with pytest.raises(InputError, match=said):
        splits.main(["--input", cohort, "--output", str(tmp_path / "splits.json"), *arguments])
    assert list(tmp_path.iterdir()) == []
