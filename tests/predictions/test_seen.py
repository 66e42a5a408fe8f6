"""Which cases a model has seen, by the hashes in its card alone."""

import hashlib
import json

import pytest

from tfbrats.predictions import seen

SPLITS = {
    "train": ["BraTS-GLI-00001-000", "BraTS-GLI-00002-000", "BraTS2021_00007"],
    "validation": ["BraTS-GLI-00003-000"],
    "test": ["BraTS-GLI-00004-000"],
    "sha256": "7" * 64,
}


def test_a_card_names_no_case_and_no_patient():
    carried = seen.hashes_of(SPLITS)
    assert carried["case_hashes"]["validation"] == hashlib.sha256(b"brats-gli-00003-000").hexdigest()[:16]
    assert carried["patient_hashes"]["validation"] == hashlib.sha256(b"brats gli 3").hexdigest()[:16]
    assert len(carried["case_hashes"]["train"].split()) == 3
    assert len(carried["patient_hashes"]["train"].split()) == 3
    # A patient who is called as the case stands there once.
    assert seen.hashes_of({"train": ["BraTS20_Training_001"]})["patient_hashes"] == {"train": ""}
    assert "sha256" not in carried["case_hashes"] and "BraTS" not in json.dumps(carried)


def test_a_thousand_cases_take_a_few_dozen_kilobytes():
    ids = [f"BraTS-GLI-{n:05}-000" for n in range(1251)]
    assert len(json.dumps(seen.hashes_of({"train": ids}))) < 45_000


@pytest.mark.parametrize(
    ("case_id", "kind"),
    [
        ("BraTS-GLI-00001-000", "train"),
        ("BraTS2021_00007", "train"),
        ("brats2021_00007", "train"),  # letter case makes no other case
        ("BraTS-GLI-00003-000", "validation"),
        ("BraTS-GLI-00002-001", "train_patient"),
        ("BraTS-GLI-00003-101", "validation_patient"),
        ("BraTS2021_00001", "train_patient"),  # 2023 kept the numbers of 2021
        ("BraTS-GLI-00007-000", "train_patient"),
        ("BraTS-GLI-00004-000", "test"),
        ("BraTS-GLI-00004-001", "unseen"),
        ("BraTS2021_00008", "unseen"),
    ],
)
def test_every_case_is_of_one_kind(case_id, kind):
    assert seen.kinds_of(seen.hashes_of(SPLITS), [case_id]) == {case_id: kind}


def test_a_test_case_whose_patient_trained_the_model_is_no_test():
    splits = {"train": ["BraTS-GLI-00001-000"], "validation": [], "test": ["BraTS-GLI-00001-001"]}
    assert seen.kinds_of(seen.hashes_of(splits), splits["test"]) == {"BraTS-GLI-00001-001": "train_patient"}


@pytest.mark.parametrize("training_data", [{}, {"case_hashes": 3, "patient_hashes": {}}, {"case_hashes": {}}])
def test_a_card_of_before_tells_nothing(training_data):
    assert seen.kinds_of(training_data, ["BraTS2021_00007"]) is None


def by_split(cases, **changed):
    content = {"known": True, "cases": cases, "others_dice": {"WT": 0.81, "TC": 0.7, "ET": float("nan")}}
    return content | {"run": "runs/cun", "has_test": True} | changed


A, B, C, D, E, F = (f"BraTS2021_0000{n}" for n in range(6))
MIXED = {"train": [A, B, C], "validation": [D, E], "test": [F]}


def test_the_warning_counts_the_cases_gives_the_others_scores_and_says_what_to_do():
    assert seen.sentence(by_split(MIXED), "cun", chosen=False) == (
        "5 of these 6 cases were seen in training: 3 trained the model, 2 chose its checkpoint. Mean Dice of "
        "the 1 other: WT 0.8100, TC 0.7000, ET -. To score the test cases alone, pass --splits "
        "runs/cun/splits.json.",
        True,
    )
    text, loud = seen.sentence(by_split(MIXED), "cun", chosen=True)
    assert loud and "--splits" not in text
    text, _ = seen.sentence(by_split(MIXED, run=None), "cun", chosen=False)
    assert text.endswith(
        "To score the test cases alone, pass --splits with the splits.json of the model's run."
    )


def test_where_nothing_was_kept_apart_other_cases_are_asked_for():
    text, loud = seen.sentence(by_split({"train": [A, B]}, has_test=False), "cun", chosen=False)
    assert loud and text == (
        "All of these 2 cases were seen in training: 2 trained the model. Nothing here says how the model "
        "does on cases that it has not seen. Its split has no test cases: score cases that it was "
        "not trained on."
    )


def test_cases_that_the_model_has_not_seen_are_no_warning():
    cases = {"test": ["a"], "unseen": ["b", "c"]}
    assert seen.sentence(by_split(cases), "cun", chosen=False) == (
        "None of the 3 cases trained the model or chose its checkpoint: 1 is of its test split, 2 are in none "
        "of its splits.",
        False,
    )
    assert seen.sentence(None, None, chosen=False) == ("", False)
    assert seen.briefly(by_split(cases)) == seen.briefly(None) == seen.briefly({"known": False}) == ""
    assert seen.briefly(by_split(MIXED)) == ", 5 of them seen by the model"


def test_another_scan_of_a_patient_is_told_as_such():
    text, loud = seen.sentence(by_split({"train_patient": ["a"], "unseen": ["b"]}), "cun", chosen=False)
    assert (
        loud
        and "1 of these 2 cases was seen in training: 1 shows a patient of whom another scan trained it."
        in text
    )


def test_a_name_that_any_data_set_may_have_is_called_a_name():
    text, _ = seen.sentence(by_split({"train": ["sub-01", "case_1"], "unseen": ["sub-02"]}), "cun", chosen=True)
    assert "2 of these 3 cases were seen in training: 2 have the names of cases that trained the model." in text


@pytest.mark.parametrize(
    ("trained_on", "case_id", "names"),
    [
        ("2020", "BraTS2021_00001", ["BraTS 2020", "BraTS 2021 and later"]),
        ("msd", "BraTS-GLI-00001-000", ["the Decathlon", "BraTS 2021 and later"]),
        ("2021", "UCSF-PDGM-0004", ["BraTS 2021 and later", "UCSF-PDGM"]),
        ("2021", "BraTS-GLI-00001-000", []),  # the numbers are the same
        ("2020", "UCSF-PDGM-0004", []),
        ("2020", "BraTS-GLI-00001-100", []),  # after treatment: others
        ("2020", "BraTS-PED-00001-000", []),
        ("nnunet", "BraTS2021_00001", []),
    ],
)
def test_patients_that_editions_share_under_other_names_are_told(trained_on, case_id, names):
    assert seen.other_names([trained_on], [case_id]) == names
    cases = {"unseen": [case_id, case_id]}
    text, loud = seen.sentence(by_split(cases, other_names=names), "cun", chosen=False)
    assert loud == bool(names)
    if names:
        assert (
            text.startswith("By their names none of the 2 cases trained the model")
            and " and ".join(names) in text
        )
    else:
        assert text.startswith("None of the 2 cases trained the model")
