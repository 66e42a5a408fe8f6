"""Which case goes to which split: by patient, the same ever after."""

import pytest

from tfbrats import labels, layouts
from tfbrats.command import InputError
from tfbrats.splits import split_cases


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
    splits = split_cases(dataset, (3, 1, 1), seed=0)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == counts
    assert sorted(i for ids in splits.values() for i in ids) == [one.case_id for one in dataset.cases]


def test_hgg_and_lgg_are_each_dealt_3_1_1():
    dataset = joined(a_dataset(20, folder="/data/HGG"), a_dataset(10, folder="/data/LGG", start=20))
    splits = split_cases(dataset, (3, 1, 1), seed=4)
    low = {one.case_id for one in dataset.cases if "/LGG/" in one.paths()[0]}
    assert [len(ids) for ids in splits.values()] == [18, 6, 6]
    assert [len(low & set(ids)) for ids in splits.values()] == [6, 2, 2]


@pytest.mark.parametrize("seed", range(5))
def test_all_scans_of_a_patient_are_in_one_split(seed):
    splits = split_cases(a_dataset(11, scans=3), (3, 1, 1), seed)
    patients = [{case_id[:-4] for case_id in ids} for ids in splits.values()]
    assert [len(group) for group in patients] == [7, 2, 2]
    assert not patients[0] & patients[1] and not patients[0] & patients[2] and not patients[1] & patients[2]


def test_the_split_is_the_same_for_the_same_seed_whatever_the_order_cases_are_found_in():
    dataset = a_dataset(30)
    turned = layouts.Dataset("/data", tuple(reversed(dataset.cases)), ())
    splits = split_cases(dataset, (3, 1, 1), 7)
    assert split_cases(turned, (3, 1, 1), 7) == splits
    assert split_cases(dataset, (3, 1, 1), 8) != splits


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
        split_cases(a_dataset(3, scans=2), (3, 1, 1), 0, given)


def test_test_images_without_segmentation_are_in_no_split():
    dataset = joined(a_dataset(5), a_dataset(3, start=5, label=False))
    splits = split_cases(dataset, (3, 1, 1), 0)
    assert [len(ids) for ids in splits.values()] == [3, 1, 1]
    assert all(case_id < "BraTS-GLI-00005" for ids in splits.values() for case_id in ids)
    with pytest.raises(InputError, match="no case has a segmentation"):
        split_cases(a_dataset(3, label=False), (3, 1, 1), 0)
