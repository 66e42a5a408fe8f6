"""What one case leaves, whatever segments it, and whose results a folder holds. Functions are the models."""

import errno
import json
import os
import time

import numpy as np
import pytest
import tiny_model

from tfbrats.cases import case
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.predictions import model_card, results

CASE = "BraTS20_Training_001"
CARD = tiny_model.card()
OTHER = tiny_model.card(version=9)


@pytest.fixture
def entry(tiny_dataset) -> layouts.CaseFiles:
    return layouts.find(tiny_dataset("2020")).cases[0]


def segment(loaded, card=CARD) -> results.Segmentation:
    tissues = np.zeros(loaded.image.shape[:3], np.uint8)
    return results.Segmentation(tissues, np.zeros((*tissues.shape, 3), np.float32), None, card)


def attempt(entry, folder, *, by=segment, **how) -> results.Attempt:
    return results.attempt(by, entry, CARD, results.target(CASE, folder, **how))


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- where it goes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "endings"),
    [
        ({}, [".nii.gz"]),
        ({"probabilities": True}, [".nii.gz", "_probabilities.nii.gz"]),
        ({"with_provenance": True}, [".json", ".nii.gz"]),
    ],
)
def test_a_result_is_the_files_that_its_target_names_and_the_model_s_card(entry, tmp_path, how, endings):
    target = results.target(CASE, tmp_path, **how)
    assert not target.is_done()
    assert attempt(entry, tmp_path, **how).fault is None
    assert names(tmp_path) == sorted([f"{CASE}{ending}" for ending in endings] + [model_card.FILE])
    assert target.is_done() and {str(tmp_path / f"{CASE}{ending}") for ending in endings} == {*target.paths}
    os.unlink(target.paths[-1])
    assert not target.is_done()


def test_files_that_the_person_named_get_no_card_beside_them(entry, tmp_path):
    target = results.Target(str(tmp_path / "seg.nii"), str(tmp_path / "p.nii.gz"), with_provenance=True)
    assert results.attempt(segment, entry, CARD, target).fault is None
    assert names(tmp_path) == ["p.nii.gz", "seg.json", "seg.nii"]
    assert json.loads((tmp_path / "seg.json").read_text())["segmentation"]["file"] == "seg.nii"


def test_a_result_is_deleted_with_all_that_belongs_to_it_and_nothing_else(entry, tmp_path):
    attempt(entry, tmp_path, probabilities=True, with_provenance=True)
    (tmp_path / "BraTS20_Training_002.json").write_text("{}")
    for _ in range(2):
        results.remove(results.target(CASE, tmp_path))
        assert names(tmp_path) == ["BraTS20_Training_002.json", model_card.FILE]


def test_another_s_file_of_that_name_stays_when_a_result_is_deleted(entry, tmp_path):
    attempt(entry, tmp_path)
    (tmp_path / f"{CASE}.json").write_text('{"RepetitionTime": 2.3}')
    results.remove(results.target(CASE, tmp_path))
    assert names(tmp_path) == [f"{CASE}.json", model_card.FILE]


# --- whose folder ---------------------------------------------------------------------------------------


def test_a_folder_changes_hands_only_when_all_its_results_may_go(entry, tmp_path):
    attempt(entry, tmp_path, probabilities=True, with_provenance=True)
    theirs = [results.target(CASE, tmp_path)]
    before = names(tmp_path)
    with pytest.raises(model_card.OtherModelError, match="or pass --overwrite"):
        results.prepare(OTHER, tmp_path, False, theirs)
    with pytest.raises(model_card.OtherModelError, match=f"not only of the cases named now: {CASE}"):
        results.prepare(OTHER, tmp_path, True, [results.target("BraTS20_Training_002", tmp_path)])
    assert names(tmp_path) == before
    results.prepare(OTHER, tmp_path, True, theirs)
    assert names(tmp_path) == []
    attempt(entry, tmp_path, by=lambda loaded: segment(loaded, OTHER))
    assert model_card.read(tmp_path) == OTHER


def test_one_s_own_results_stay_whether_or_not_they_are_to_be_redone(entry, tmp_path):
    attempt(entry, tmp_path, with_provenance=True)
    before = names(tmp_path)
    for overwrite in (False, True):
        results.prepare(CARD, tmp_path, overwrite, [results.target(CASE, tmp_path)])
    assert names(tmp_path) == before


def test_old_half_files_of_these_results_and_the_card_are_swept(tmp_path):
    ours = [f"{CASE}.nii.gz", f"{CASE}_probabilities.nii.gz", f"{CASE}.json", model_card.FILE]
    for name in (*ours, "other.json"):
        half = tmp_path / f".{name}.partial-12345678"
        half.write_bytes(b"half")
        os.utime(half, (time.time() - 2 * 3600,) * 2)
    fresh = tmp_path / f".{CASE}.nii.gz.partial-87654321"
    fresh.write_bytes(b"being written")
    results.prepare(CARD, tmp_path, False, [results.target(CASE, tmp_path)])
    assert names(tmp_path) == [fresh.name, ".other.json.partial-12345678"]


def test_a_folder_that_is_not_there_yet_is_ready(tmp_path):
    results.prepare(CARD, tmp_path / "not" / "yet", True, [results.target(CASE, tmp_path / "not" / "yet")])
    assert names(tmp_path) == []


# --- one case, whatever comes of it ---------------------------------------------------------------------


def test_a_case_that_goes_well_is_told_with_the_seconds_of_each_stage(entry, tmp_path):
    done = attempt(entry, tmp_path)
    assert done.fault is None and tuple(done.seconds) == results.STAGES
    assert done.case.case_id == CASE and done.found.card == CARD


def fails(monkeypatch, stage, error):
    """Makes a stage raise; returns what segments."""

    def raising(*_, **__):
        raise error

    if stage != "segment":
        monkeypatch.setattr(case, {"read": "load", "write": "save_segmentation"}[stage], raising)
    return raising if stage == "segment" else segment


@pytest.mark.parametrize("stage", results.STAGES)
@pytest.mark.parametrize(
    ("error", "reason", "hint"),
    [
        (InputError("its fault"), f"{CASE}: its fault", ""),
        (InputError(f"{CASE}: its fault"), f"{CASE}: its fault", ""),
        (ZeroDivisionError("ours"), f"{CASE}: ZeroDivisionError: ours", "not expected; please report it"),
    ],
)
def test_a_fault_of_the_case_is_told_with_its_stage(entry, tmp_path, monkeypatch, stage, error, reason, hint):
    done = attempt(entry, tmp_path, by=fails(monkeypatch, stage, error))
    assert (done.fault.stage, done.fault.reason) == (stage, reason)
    assert hint in done.fault.hint and done.fault.hint
    assert ("Traceback" in done.fault.traceback) == isinstance(error, ZeroDivisionError)
    assert list(done.seconds)[-1] == stage


@pytest.mark.parametrize("stage", results.STAGES)
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), MemoryError(), model_card.OtherModelError("another's")]
)
def test_what_is_no_fault_of_the_case_is_raised(entry, tmp_path, monkeypatch, stage, error):
    with pytest.raises(type(error)):
        attempt(entry, tmp_path, by=fails(monkeypatch, stage, error))


@pytest.mark.parametrize("error", [InputError("the server is away"), ConnectionRefusedError(), RuntimeError()])
def test_so_is_what_concerns_all_cases(entry, tmp_path, monkeypatch, error):
    target = results.target(CASE, tmp_path)
    by = fails(monkeypatch, "segment", error)
    with pytest.raises(type(error)):
        results.attempt(by, entry, CARD, target, concerns_all=lambda found: found is error)


def test_a_place_that_takes_no_file_is_no_fault_of_the_case(entry, tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(InputError, match=r"file.*cannot be written"):
        attempt(entry, tmp_path / "file")


def test_another_model_s_result_in_the_folder_ends_it(entry, tmp_path):
    model_card.keep(OTHER, tmp_path)
    with pytest.raises(model_card.OtherModelError, match=r"another command has begun .* version 9"):
        attempt(entry, tmp_path)
    assert names(tmp_path) == [model_card.FILE]


def test_a_segmentation_that_is_replaced_takes_the_old_file_beside_it_along(entry, tmp_path):
    attempt(entry, tmp_path, with_provenance=True)
    attempt(entry, tmp_path)
    assert names(tmp_path) == [f"{CASE}.nii.gz", model_card.FILE]
