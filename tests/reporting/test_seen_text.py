"""What is said of the cases that a model has seen: how many, which, and what to do."""

import dataclasses

import pytest

from tfbrats.reporting import seen_text
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.scoring.origin import BySplit, NotTold


def by_split(cases, **changed):
    dice = {"WT": 0.81, "TC": 0.7, "ET": float("nan")}
    entries = {"cases": cases, "summary": {}, "others_dice": dice, "run": "runs/cun", "has_test": True}
    return BySplit(known=True, **entries | changed)


def briefly(of_cases):
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(Evaluation))
    return Evaluation(**nothing | {"by_split": of_cases}).seen_briefly


A, B, C, D, E, F = (f"BraTS2021_0000{n}" for n in range(6))
MIXED = {"train": [A, B, C], "validation": [D, E], "test": [F]}


def test_the_warning_counts_the_cases_gives_the_others_scores_and_says_what_to_do():
    assert seen_text.sentence(by_split(MIXED), "cun", chosen=False) == (
        "5 of these 6 cases were seen in training: 3 trained the model, 2 chose its checkpoint. Mean Dice of "
        "the 1 other: WT 0.8100, TC 0.7000, ET -. To score the test cases alone, pass --splits "
        "runs/cun/splits.json.",
        True,
    )
    text, loud = seen_text.sentence(by_split(MIXED), "cun", chosen=True)
    assert loud and "--splits" not in text
    text, _ = seen_text.sentence(by_split(MIXED, run=None), "cun", chosen=False)
    assert text.endswith(
        "To score the test cases alone, pass --splits with the splits.json of the model's run."
    )


def test_where_nothing_was_kept_apart_other_cases_are_asked_for():
    text, loud = seen_text.sentence(by_split({"train": [A, B]}, has_test=False), "cun", chosen=False)
    assert loud and text == (
        "All of these 2 cases were seen in training: 2 trained the model. Nothing here says how the model "
        "does on cases that it has not seen. Its split has no test cases: score cases that it was "
        "not trained on."
    )


def test_cases_that_the_model_has_not_seen_are_no_warning():
    cases = {"test": ["a"], "unseen": ["b", "c"]}
    assert seen_text.sentence(by_split(cases), "cun", chosen=False) == (
        "None of the 3 cases trained the model or chose its checkpoint: 1 is of its test split, 2 are in none "
        "of its splits.",
        False,
    )
    assert seen_text.sentence(None, None, chosen=False) == ("", False)
    assert briefly(by_split(cases)) == briefly(None) == briefly(NotTold()) == ""
    assert briefly(by_split(MIXED)) == ", 5 of them seen by the model"


def test_another_scan_of_a_patient_is_told_as_such():
    text, loud = seen_text.sentence(by_split({"train_patient": ["a"], "unseen": ["b"]}), "cun", chosen=False)
    assert (
        loud
        and "1 of these 2 cases was seen in training: 1 is of a patient whose other scan trained it." in text
    )


def test_a_name_that_any_data_set_may_have_is_called_a_name():
    text, _ = seen_text.sentence(
        by_split({"train": ["sub-01", "case_1"], "unseen": ["sub-02"]}), "cun", chosen=True
    )
    assert "2 of these 3 cases were seen in training: 2 have the names of cases that trained the model." in text


@pytest.mark.parametrize("names", [["BraTS 2020", "BraTS 2021 and later"], []])
def test_patients_that_may_have_been_seen_under_other_names_are_told(names):
    cases = {"unseen": [A, B]}
    text, loud = seen_text.sentence(by_split(cases, other_names=names), "cun", chosen=False)
    assert loud == bool(names)
    if names:
        assert (
            text.startswith("By their names none of the 2 cases trained the model")
            and " and ".join(names) in text
        )
    else:
        assert text.startswith("None of the 2 cases trained the model")
