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


def test_test_cases_of_a_model_that_it_began_from_are_not_the_model_s_own():
    carried = seen.together(seen.hashes_of({**SPLITS, "test": []}), seen.hashes_of(SPLITS))
    assert seen.has_test(carried)  # nothing tells whose they are
    assert not seen.has_test({**carried, "cases": {"train": 3, "validation": 1, "test": 0}})
    assert seen.has_test({**carried, "cases": {"train": 3, "validation": 1, "test": 1}})


@pytest.mark.parametrize("training_data", [{}, {"case_hashes": 3, "patient_hashes": {}}, {"case_hashes": {}}])
def test_a_card_of_before_tells_nothing(training_data):
    assert seen.kinds_of(training_data, ["BraTS2021_00007"]) is None


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
