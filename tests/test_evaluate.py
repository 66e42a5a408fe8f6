"""Two folders in, scores out: matching, every fault in one list, what is written and what is printed."""

import concurrent.futures.process
import csv
import hashlib
import json
import math
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_model

from tfbrats import evaluate
from tfbrats.cases import case, nifti
from tfbrats.datasets import id_tables, layouts
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES, Tissue
from tfbrats.machine import files, memory
from tfbrats.metrics import lesion_rules, region_scores, rule_names
from tfbrats.predictions import model_card, seen
from tfbrats.reporting import score_text
from tfbrats.scoring import case_scores, evaluation, origin, score_files, summaries
from tfbrats.scoring.summaries import Statistics

SHAPE = (12, 12, 8)


def tissues(moved=0, enhancing=True):
    array = np.zeros(SHAPE, np.uint8)
    array[2:8, 2:8, 2:6] = Tissue.ED
    array[3:7, 3:7, 3:5] = Tissue.NCR
    if enhancing:
        array[4:6, 4:6, 3:5] = Tissue.ET
    return np.roll(array, moved, axis=0)


def save(folder, name, array, edition="2020", grid=None):
    path = pathlib.Path(folder, name)
    case.save_segmentation(path, array, grid or nifti.new_grid(array.shape), EDITIONS[edition])
    return path


@pytest.fixture
def folders(tmp_path):
    """Two cases, both moved by a voxel in the prediction; the second has no ET in either."""
    prediction, reference = tmp_path / "prediction", tmp_path / "reference"
    for name, enhancing in (("BraTS20_Training_001", True), ("BraTS20_Training_002", False)):
        save(reference, f"{name}_seg.nii.gz", tissues(0, enhancing))
        save(prediction, f"{name}.nii.gz", tissues(1, enhancing))
    return prediction, reference


def run(*arguments):
    return evaluate.main([str(argument) for argument in arguments])


def labels_of(folder):
    return {one.case_id: one for one in layouts.find(folder).cases}


# --- matching -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edition", ["2017", "2020", "2023", "2024", "msd", "nnunet"])
def test_a_data_sets_own_segmentations_score_perfectly_against_it(tiny_dataset, tmp_path, edition):
    root = tiny_dataset(edition)
    for case_id, one in labels_of(root).items():
        shutil.copy(one.label, tmp_path / f"{case_id}.nii.gz")
    content = evaluation.evaluate(tmp_path, root)
    assert content.cases == 2
    assert {row["dice"] for row in content.rows} == {1.0}
    assert {row["hd95_mm"] for row in content.rows} == {0.0}
    assert all(row["volume_ml"] == row["reference_volume_ml"] for row in content.rows)


def test_predictions_hold_the_values_of_the_references_edition(tmp_path):
    # 3 is enhancing tumour in 2023 and nothing in 2020.
    save(tmp_path / "p", "BraTS-GLI-00001-000.nii.gz", tissues(), "2023")
    save(tmp_path / "r", "BraTS-GLI-00001-000-seg.nii", tissues(), "2023")
    assert {row["dice"] for row in evaluation.evaluate(tmp_path / "p", tmp_path / "r").rows} == {1.0}
    with pytest.raises(
        InputError, match=r"--edition 2020 has no value 3, but the names say 2023.*--edition out"
    ):
        evaluation.evaluate(tmp_path / "p", tmp_path / "r", edition="2020")


def test_masks_whose_names_tell_no_edition_need_one(tmp_path):
    save(tmp_path / "p", "patient7.nii.gz", tissues())
    save(tmp_path / "r", "patient7.nii.gz", tissues())
    with pytest.raises(InputError, match=r"patient7\.nii\.gz.*--edition"):
        evaluation.evaluate(tmp_path / "p", tmp_path / "r")
    assert evaluation.evaluate(tmp_path / "p", tmp_path / "r", edition="2020").editions == ["2020"]


def test_every_fault_of_every_case_is_listed_and_nothing_is_written(folders, tmp_path):
    prediction, reference = folders
    (prediction / "BraTS20_Training_001.nii.gz").rename(prediction / "BraTS20_Training_009.nii.gz")
    for number, array, grid in (
        (3, tissues(), nifti.new_grid(SHAPE, (1, 1, 2))),
        (4, tissues()[:-1], None),
        (5, tissues(), None),
    ):
        save(reference, f"BraTS20_Training_00{number}_seg.nii.gz", tissues())
        save(prediction, f"BraTS20_Training_00{number}.nii.gz", array, grid=grid)
    save(prediction, "BraTS20_Training_005.nii.gz", tissues(), "2023")
    (prediction / "BraTS20_Training_002.nii.gz").write_bytes(b"<html>log in</html>")
    with pytest.raises(InputError) as error:
        run("--prediction", prediction, "--reference", reference, "--output", tmp_path / "out")
    lines = str(error.value).splitlines()
    assert lines[0] == "nothing was scored; faults: 6"
    for case_number, text in (
        (1, "no prediction"),
        (2, "HTML"),
        (3, "spacing"),
        (4, "shape (11, 12, 8) against (12, 12, 8)"),
        (5, "label values [3]"),
        (9, "has no reference"),
    ):
        assert any(f"BraTS20_Training_00{case_number}:" in line and text in line for line in lines)
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_scored(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: pytest.fail("scored"))
    prediction, reference = folders
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(InputError, match="file: cannot be written"):
        run("--prediction", prediction, "--reference", reference, "--output", tmp_path / "file")


def test_the_tables_are_not_put_among_the_images(folders, tmp_path):
    prediction, reference = folders
    for name, folder in (("prediction", prediction), ("reference", reference)):
        before = sorted(folder.iterdir())
        (tmp_path / f"link_to_{name}").symlink_to(folder)
        for output in (folder, tmp_path / f"link_to_{name}"):
            with pytest.raises(InputError, match=rf"--output .*: is the --{name} folder"):
                run("--prediction", prediction, "--reference", reference, "--output", output, "--workers", 1)
        assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("number", [0, -2])
def test_no_processes_at_all_score_nothing(folders, tmp_path, capsys, number):
    with pytest.raises(SystemExit) as error:
        run("--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / "out", "--workers",
            number)  # fmt: skip
    assert error.value.code == 2
    assert f"--workers: expected 1 or more processes, not {number}" in capsys.readouterr().err


def test_a_missing_prediction_is_scored_as_an_empty_one_only_when_allowed_and_then_counted(
    folders, tmp_path, capsys
):
    prediction, reference = folders
    (prediction / "BraTS20_Training_001.nii.gz").unlink()
    arguments = ["--prediction", prediction, "--reference", reference, "--output", tmp_path / "out"]
    with pytest.raises(InputError, match="BraTS20_Training_001: no prediction"):
        run(*arguments)
    run(*arguments, "--allow-missing", "--workers", 1)
    printed = capsys.readouterr().out
    assert "missing: 1 case without a prediction, scored as empty: BraTS20_Training_001" in printed
    assert "2 cases, edition 2020" in printed
    content = score_files.read(tmp_path / "out")
    assert content.missing == ["BraTS20_Training_001"] and content.cases == 2
    assert "left_out" not in json.loads((tmp_path / "out" / "metrics.json").read_text())
    whole, core, enhancing = content.rows[:3]
    for row in (whole, core, enhancing):
        assert (row["empty"], row["dice"], row["sensitivity"], row["volume_ml"]) == ("prediction", 0, 0, 0)
        assert row["hd95_mm"] == region_scores.MISSING_REGION_MM and row["specificity"] == 1
    assert whole["reference_volume_ml"] == pytest.approx(6 * 6 * 4 / 1000)
    # Half of what it would be if the case were left out: missing one is never free.
    (moved,) = (row for row in content.rows[3:] if row["region"] == "WT")
    assert content.summary["WT"]["dice"].mean == pytest.approx(moved["dice"] / 2)


def test_a_missing_prediction_scores_just_as_an_empty_file_does(folders):
    prediction, reference = folders
    (prediction / "BraTS20_Training_001.nii.gz").unlink()
    missing = evaluation.evaluate(prediction, reference, allow_missing=True, lesion_rule="2023")
    save(prediction, "BraTS20_Training_001.nii.gz", np.zeros(SHAPE, np.uint8))
    empty = evaluation.evaluate(prediction, reference, lesion_rule="2023")
    for name in ("rows", "summary", "lesions", "cascade"):
        assert repr(getattr(missing, name)) == repr(getattr(empty, name))
    assert missing.counts[0]["regions"] == empty.counts[0]["regions"]
    assert missing.counts[0]["prediction"] is None


def test_extra_predictions_stay_a_fault_when_missing_ones_are_allowed(folders):
    save(folders[0], "BraTS20_Training_009.nii.gz", tissues())
    with pytest.raises(InputError, match=r"BraTS20_Training_009: .* has no reference"):
        evaluation.evaluate(*folders, allow_missing=True)


def test_cases_can_be_named_between_commas_or_in_a_file(folders, tmp_path):
    prediction, reference = folders
    (tmp_path / "ids.txt").write_text("BraTS20_Training_002\n")
    for named in ("BraTS20_Training_002", tmp_path / "ids.txt"):
        run("--prediction", prediction, "--reference", reference, "--output", tmp_path / "out",
            "--cases", named, "--workers", 1)  # fmt: skip
        rows = score_files.read(tmp_path / "out").rows
        assert {row["case_id"] for row in rows} == {"BraTS20_Training_002"}
    for nothing in ("", ",", " "):
        with pytest.raises(InputError, match="--cases names no case"):
            run("--prediction", prediction, "--reference", reference, "--output", tmp_path / "out",
                "--cases", nothing, "--workers", 1)  # fmt: skip
    with pytest.raises(InputError, match="BraTS20_Training_042: named by --cases"):
        evaluation.evaluate(prediction, reference, cases=["BraTS20_Training_042"])


def test_two_predictions_of_one_case_are_refused(folders):
    prediction, reference = folders
    save(prediction, "BraTS20_Training_001.nii", tissues())
    with pytest.raises(InputError, match="BraTS20_Training_001: predicted twice"):
        evaluation.evaluate(prediction, reference)


def test_probabilities_beside_the_predictions_are_no_cases(folders):
    prediction, reference = folders
    chances = np.zeros((*SHAPE, 3), np.float32)
    path = prediction / "BraTS20_Training_001_probabilities.nii.gz"
    case.save_probabilities(path, chances, nifti.new_grid(SHAPE))
    assert evaluation.evaluate(prediction, reference).cases == 2


def test_a_folder_without_predictions_says_what_was_expected(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"CASE\.nii\.gz"):
        evaluation.evaluate(tmp_path / "empty", folders[1])


def test_a_data_set_without_segmentations_cannot_be_scored_against(tiny_dataset, folders, tmp_path):
    shutil.copytree(tiny_dataset("2020"), tmp_path / "images")
    for one in labels_of(tmp_path / "images").values():
        pathlib.Path(one.label).unlink()
    with pytest.raises(InputError, match="no segmentation to score against"):
        evaluation.evaluate(folders[0], tmp_path / "images")


# --- scores ---------------------------------------------------------------------------------------------


def test_rows_are_the_scores_of_the_arrays_with_the_files_spacing(tmp_path):
    # Files whose axes run up, forward and right; spacing_mm is along i, j, k (left, back, up).
    spacing_mm = (3.0, 2.0, 1.0)
    grid = nifti.new_grid((8, 12, 12), spacing_mm, axes=("S", "A", "R"))
    save(tmp_path / "p", "BraTS20_Training_001.nii.gz", tissues(1), grid=grid)
    save(tmp_path / "r", "BraTS20_Training_001.nii.gz", tissues(0), grid=grid)
    rows = evaluation.evaluate(tmp_path / "p", tmp_path / "r").rows
    expected = region_scores.score_case(tissues(1), tissues(0), spacing_mm)
    assert [row["hd95_mm"] for row in rows] == [row.hd95_mm for row in expected]
    assert rows[0]["hausdorff_mm"] == 3


def test_worker_processes_find_the_same_as_one(folders):
    assert evaluation.evaluate(*folders, workers=2).rows == evaluation.evaluate(*folders).rows


def test_the_summary_leaves_nan_out_and_counts_what_the_rule_touched(folders):
    brats = evaluation.evaluate(*folders).summary
    nan = evaluation.evaluate(*folders, empty="nan").summary
    # ET: 2 x 2 x 2 voxels moved by one of two (Dice 0.5), and absent from both in the other case (1 or nan).
    assert (brats["ET"]["dice"].mean, brats["ET"]["dice"].n) == (0.75, 2)
    assert (nan["ET"]["dice"].mean, nan["ET"]["dice"].n) == (0.5, 1)
    assert brats["ET"]["dice"].touched == nan["ET"]["dice"].touched == 1
    assert brats["WT"]["dice"].touched == 0


def test_statistics_worked_out_by_hand():
    rows = [
        {"region": "WT", "empty": "", **dict.fromkeys(region_scores.SCORES, value)}
        for value in (1.0, 2.0, 3.0, 10.0)
    ]
    found = summaries.summarise(rows)["WT"]["dice"]
    std = math.sqrt((9 + 4 + 1 + 36) / 4)
    assert found == Statistics(4.0, std, 2.5, lower_quartile=1.75, upper_quartile=4.75, n=4, touched=0)


def card(config, **changed):
    """The text of a tfbrats.json as export writes it for a model of that config."""
    entries = dict.fromkeys(("name", "description", "tfbrats_version", "normalisation", "license"), "x")
    entries |= {"version": 1, "modalities": MODALITIES, "axes": "LPS", "n4": tiny_model.of_graph()}
    entries |= {"spacing_mm": (1, 1, 1), "label_schema": EDITIONS["2020"].to_json(), "regions": {}}
    entries |= {"signatures": {}, "training_data": {"config": config}, "scores": {}, "intended_use": "tests"}
    return json.dumps(model_card.ModelCard(**entries).model_dump(mode="json") | changed)


def card_of_a_cascade(margin, **changed):
    return card({"model": {"name": "msm"}, "cascade": {"margin": margin}}, **changed)


def test_the_model_card_beside_the_predictions_tells_the_cascades_margin(folders):
    prediction, reference = folders
    outside = {}
    for margin in (None, 0, 1):
        if margin is not None:
            (prediction / "tfbrats.json").write_text(card_of_a_cascade(margin))
        cascade = evaluation.evaluate(prediction, reference).cascade
        assert cascade.margin_voxels == margin
        outside[margin] = cascade.summary["TC"]["sum_ml"]["lost_outside_box_ml"]
    # Moved by a voxel, WT still holds all of TC: nothing is lost before; without a margin nothing is known.
    assert math.isnan(outside[None]) and outside[0] == outside[1] == 0
    save(prediction, "BraTS20_Training_001.nii.gz", tissues(3))
    (prediction / "tfbrats.json").write_text(card_of_a_cascade(0))
    # TC is voxels 3 to 6 along i, by 4 x 2; the predicted WT begins at 5.
    row = evaluation.evaluate(prediction, reference).cascade.rows[1]
    assert row["lost_outside_box_ml"] == pytest.approx(2 * 4 * 2 / 1000)
    (prediction / "tfbrats.json").write_text(card_of_a_cascade(1))
    row = evaluation.evaluate(prediction, reference).cascade.rows[1]
    assert row["lost_outside_box_ml"] == pytest.approx(1 * 4 * 2 / 1000)
    assert row["lost_before_ml"] == pytest.approx(2 * 4 * 2 / 1000)


def test_the_card_of_a_model_that_is_no_cascade_has_no_margin(folders):
    (folders[0] / "tfbrats.json").write_text(card({"model": {"name": "cun"}}))
    content = evaluation.evaluate(*folders)
    assert content.cascade.margin_voxels is None and content.notes == []


@pytest.mark.parametrize("text", ["{", '{"format": 99}', card_of_a_cascade(5, axes=3)])
def test_a_card_that_cannot_be_read_costs_the_margin_alone_and_is_noted(folders, text):
    (folders[0] / "tfbrats.json").write_text(text)
    content = evaluation.evaluate(*folders)
    assert content.cascade.margin_voxels is None
    (note,) = content.notes
    assert "margin is unknown" in note and "tfbrats.json" in note
    assert content.cases == 2


# --- which model, which split ---------------------------------------------------------------------------

CUN = {"model": {"name": "cun"}, "lws": {"enabled": False}}


@pytest.mark.parametrize(
    ("config", "row"),
    [
        (CUN, "cun"),
        (CUN | {"lws": {"enabled": True}}, "cun_lws"),
        ({"model": {"name": "drn"}, "lws": {"enabled": True}}, "drn"),
        ({"model": {"name": "msm_noaspp"}}, "msm_noaspp"),
        ({"model": {"name": "something else"}}, None),
        (None, None),
    ],
)
def test_the_row_of_the_table_follows_from_the_models_config(folders, config, row):
    (folders[0] / "tfbrats.json").write_text(card(config))
    model = evaluation.evaluate(*folders).model
    assert (model.row, model.name, model.version, model.config) == (row, "x", 1, config)


def test_a_row_can_be_given_where_the_card_tells_no_other(folders):
    assert evaluation.evaluate(*folders).model is None
    assert evaluation.evaluate(*folders, row="drn").model.row == "drn"
    (folders[0] / "tfbrats.json").write_text(card(CUN))
    assert evaluation.evaluate(*folders, row="cun").model.row == "cun"
    with pytest.raises(InputError, match="--row unet2d: the card beside the predictions says cun"):
        evaluation.evaluate(*folders, row="unet2d")
    with pytest.raises(InputError, match="row 'cnn' is in no table"):
        evaluation.evaluate(*folders, row="cnn")


SPLITS = {"train": ["BraTS20_Training_001"], "validation": [], "test": ["BraTS20_Training_002"]}
SPLITS_SHA256 = hashlib.sha256(json.dumps(SPLITS, sort_keys=True).encode()).hexdigest()


# --- what the model has seen ------------------------------------------------------------------------------


def seen_by(prediction, **splits):
    """Puts a card beside predictions, of a model of these splits."""
    carried = seen.hashes_of({"train": [], "validation": [], "test": []} | splits)
    config = CUN | {"run": {"dir": "runs/x"}}
    (prediction / "tfbrats.json").write_text(card({}, training_data={"config": config, **carried}))


def test_training_cases_are_counted_told_and_scored_apart(folders, tmp_path, capsys):
    seen_by(folders[0], train=["BraTS20_Training_001"], test=["BraTS20_Training_002"])
    run("--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / "out", "--workers", 1,
        "--table", "paper_a")  # fmt: skip
    printed = capsys.readouterr()
    # Both are moved by one of six voxels; ET is 2 of 4 there in the first, on neither side in the second.
    warning = (
        "WARNING: 1 of these 2 cases was seen in training: 1 trained the model. Mean Dice of the 1 other: "
        "WT 0.8333, TC 0.7500, ET 1.0000. To score the test cases alone, pass --splits runs/x/splits.json."
    )
    assert printed.err == warning + "\n"
    assert warning in " ".join(printed.out.split())
    lines = {line.split()[0]: line.split()[1:5] for line in printed.out.splitlines() if line}
    assert lines["train"] == ["1", "0.8333", "0.7500", "0.5000"] and lines["test"][3] == "1.0000"
    assert "means of all cases given, 2 cases, 1 of them seen by the model, BraTS 2020" in " ".join(
        printed.out.split()
    )
    by_split = score_files.read(tmp_path / "out").by_split
    assert by_split.cases == {"train": ["BraTS20_Training_001"], "test": ["BraTS20_Training_002"]}
    assert by_split.summary["train"]["ET"]["dice"].mean == 0.5


def test_the_test_cases_alone_are_no_warning(folders, tmp_path, capsys):
    seen_by(folders[0], train=["BraTS20_Training_001"], test=["BraTS20_Training_002"])
    run("--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / "out", "--workers", 1,
        "--cases", "BraTS20_Training_002")  # fmt: skip
    printed = capsys.readouterr()
    assert printed.err == "" and "1 is of its test split." in printed.out and "WARNING" not in printed.out


def test_json_is_json_and_the_warning_is_beside_it(folders, tmp_path, capsys):
    seen_by(folders[0], train=["BraTS20_Training_001", "BraTS20_Training_002"])
    run("--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / "out", "--json",
        "--workers", 1)  # fmt: skip
    printed = capsys.readouterr()
    assert json.loads(printed.out)["by_split"]["cases"]["train"] == [f"BraTS20_Training_00{n}" for n in (1, 2)]
    assert (
        "WARNING: All of these 2 cases were seen in training" in printed.err
        and "Its split has no test cases" in printed.err
    )


def test_a_card_of_before_is_said_to_tell_nothing_unless_the_right_splits_do(folders, splits, tmp_path):
    text = card({}, training_data={"split_sha256": SPLITS_SHA256, "config": CUN})
    (folders[0] / "tfbrats.json").write_text(text)
    content = evaluation.evaluate(*folders)
    assert content.by_split == origin.NotTold()
    (warning,) = score_text.warnings(content)
    assert warning.startswith("the card does not tell which cases the model x was trained on")
    content = evaluation.evaluate(*folders, splits=splits)
    assert content.by_split.cases == {"test": ["BraTS20_Training_002"]}
    assert score_text.warnings(content) == []
    # Of predictions without a card nothing can be said.
    (folders[0] / "tfbrats.json").unlink()
    content = evaluation.evaluate(*folders)
    assert content.by_split is None and score_text.warnings(content) == []


def test_what_another_run_has_seen_is_told_where_it_is_compared_with(two_runs, folders, tmp_path, capsys):
    arguments, other = two_runs
    seen_by(tmp_path / "other", train=["BraTS20_Training_001", "BraTS20_Training_002"])
    run("--prediction", tmp_path / "other", "--reference", folders[1], "--output", other, "--workers", 1)
    capsys.readouterr()
    run(*arguments, "--compare", other)
    assert (
        f"WARNING: {tmp_path / 'other'}: All of these 2 cases were seen in training" in capsys.readouterr().err
    )


def test_what_was_guessed_in_reading_either_side_is_noted_with_the_files(folders, without_codes):
    for folder in folders:
        without_codes(folder)
    (note,) = evaluation.evaluate(*folders, workers=2).notes
    assert note.startswith(
        "BraTS20_Training_001_seg.nii.gz, BraTS20_Training_001.nii.gz, BraTS20_Training_002_seg"
    )
    assert "LPS" in note


def test_a_prediction_whose_name_differs_in_letter_case_is_its_cases_with_a_note(folders):
    (folders[0] / "BraTS20_Training_001.nii.gz").rename(folders[0] / "brats20_training_001.nii.gz")
    content = evaluation.evaluate(*folders, allow_missing=True)
    assert content.missing == []
    assert content.notes == [
        "BraTS20_Training_001: its prediction is called brats20_training_001.nii.gz; its letters are only "
        "spelt otherwise"
    ]


@pytest.fixture
def splits(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(SPLITS | {"sha256": SPLITS_SHA256}))
    return path


def test_only_the_cases_of_a_split_are_scored_and_extra_predictions_do_not_matter(folders, splits, tmp_path):
    save(folders[0], "BraTS20_Training_009.nii.gz", tissues())
    run("--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / "out", "--splits", splits,
        "--workers", 1)  # fmt: skip
    content = score_files.read(tmp_path / "out")
    assert {row["case_id"] for row in content.rows} == {"BraTS20_Training_002"}
    assert content.split == origin.Split("test", SPLITS_SHA256, str(splits))
    of_train = evaluation.evaluate(*folders, splits=splits, split="train")
    assert [row["case_id"] for row in of_train.rows] == ["BraTS20_Training_001"] * 3
    with pytest.raises(InputError, match=r"no case of split validation; it has train \(1 case\)"):
        evaluation.evaluate(*folders, splits=splits, split="validation")


def test_a_model_of_another_split_is_refused_since_it_may_have_seen_the_test_cases(folders, splits):
    for of_the_card, refused in ((SPLITS_SHA256, False), ("6" * 64, True)):
        text = card({"model": {"name": "cun"}}, training_data={"split_sha256": of_the_card, "config": CUN})
        (folders[0] / "tfbrats.json").write_text(text)
        if refused:
            with pytest.raises(InputError, match=r"another split \(666666666666\.\.\.\).*splits\.json"):
                evaluation.evaluate(*folders, splits=splits)
        else:
            assert evaluation.evaluate(*folders, splits=splits).cases == 1


def test_splits_of_ones_own_get_the_hash_that_records_made_of_them_carry(record_set, tmp_path):
    manifest = record_set.manifest
    own = tmp_path / "splits.json"
    own.write_text(json.dumps({"train": manifest.cases["train"], "val": manifest.cases["validation"]}))
    ids, split = origin.split_of(own, "validation")
    assert ids == list(manifest.cases["validation"]) and split.sha256 == manifest.split_sha256


def test_a_case_of_the_split_that_is_not_there_is_said_to_be_the_splits(folders, splits):
    (folders[1] / "BraTS20_Training_002_seg.nii.gz").unlink()
    with pytest.raises(InputError, match=r"BraTS20_Training_002: named by test in .*splits\.json"):
        evaluation.evaluate(*folders, splits=splits)


def test_a_split_without_its_file_is_not_overlooked(folders, tmp_path):
    for name in ("test", "train"):
        with pytest.raises(InputError, match=f"--split {name} needs --splits"):
            run("--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / "out", "--split",
                name, "--workers", 1)  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_cases_and_splits_are_not_both_given(folders, splits):
    with pytest.raises(InputError, match="Pass one of them"):
        evaluation.evaluate(*folders, cases=["BraTS20_Training_002"], splits=splits)


@pytest.mark.parametrize("text", ["[]", '{"test": "BraTS20_Training_002"}', '{"sha256": "5"}'])
def test_a_file_that_holds_no_splits_is_refused(folders, tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json: splits: expected \{split: \[case ids\]\}"):
        evaluation.evaluate(*folders, splits=tmp_path / "x.json")


# --- what is written and printed ------------------------------------------------------------------------


def test_metrics_csv_has_a_row_per_case_and_region_and_the_expected_columns(folders, tmp_path):
    score_files.write(evaluation.evaluate(*folders), tmp_path / "out")
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "case_id", "region", "dice", "sensitivity", "specificity", "specificity_tumour_slices", "hausdorff_mm",
        "hd95_mm", "hd95_pooled_mm", "nsd_1mm", "volume_ml", "reference_volume_ml", "empty",
    ]  # fmt: skip
    assert [(row["case_id"][-3:], row["region"]) for row in rows] == [
        (number, region) for number in ("001", "002") for region in ("WT", "TC", "ET")
    ]
    assert rows[5]["empty"] == "both"
    assert float(rows[0]["dice"]) == pytest.approx(5 / 6)


def test_cascade_csv_has_a_row_per_case_and_region_and_says_nan_where_it_is_unknown(folders, tmp_path):
    content = evaluation.evaluate(*folders)
    score_files.write(content, tmp_path / "out")
    with (tmp_path / "out" / "cascade.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == [
        "case_id", "region", "reference_ml", "missed_ml", "missed_here_ml", "lost_before_ml",
    ]  # fmt: skip
    assert [(row["case_id"], row["region"]) for row in rows] == [
        (row["case_id"], row["region"]) for row in content.rows
    ]
    assert float(rows[0]["missed_ml"]) == pytest.approx(6 * 4 / 1000)
    for row, score in zip(rows, content.rows, strict=True):
        assert float(row["reference_ml"]) == score["reference_volume_ml"]
        assert row["lost_outside_box_ml"] == "nan"


def test_scores_of_an_older_version_are_read_without_the_cascade(folders, tmp_path):
    score_files.write(evaluation.evaluate(*folders), tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text())
    del content["cascade"]
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    back = score_files.read(tmp_path)
    assert back.cascade is None and back.cases == 2
    for key in ("model", "split", "lesions", "missing", "counts", "compared", "tables", "warnings", "by_split"):
        del content[key]
    for row in content["rows"]:
        del row["nsd_1mm"]
    for scores in content["summary"].values():
        del scores["nsd_1mm"]
    (tmp_path / "metrics.json").write_text(json.dumps(content | {"left_out": ["BraTS20_Training_003"]}))
    back = score_files.read(tmp_path)
    assert (back.model, back.split, back.lesions, back.missing) == (None, None, None, [])
    assert math.isnan(back.rows[0]["nsd_1mm"]) and math.isnan(back.summary["WT"]["nsd_1mm"].mean)
    assert back.summary["WT"]["dice"].mean == pytest.approx(5 / 6)
    content["cascade"] = {"rows": [{"case_id": "x"}]}
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="not written by tfbrats evaluate"):
        score_files.read(tmp_path)


def test_metrics_json_is_strict_json_and_reads_back_as_written(folders, tmp_path):
    content = evaluation.evaluate(*folders, empty="nan")
    score_files.write(content, tmp_path / "out")
    text = (tmp_path / "out" / "metrics.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = score_files.read(tmp_path / "out")
    assert math.isnan(back.rows[5]["dice"])
    assert repr(back) == repr(content)
    assert back.empty_rule.name == "nan"


def test_summary_json_is_nnunets_with_regions_in_the_editions_own_values(folders, tmp_path):
    prediction, reference = folders
    score_files.write(evaluation.evaluate(prediction, reference), tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary) == ["foreground_mean", "mean", "metric_per_case"]
    assert list(summary["mean"]) == ["(1, 2, 4)", "(1, 4)", "(4,)"]
    first, second = summary["metric_per_case"]
    assert first["reference_file"] == str(reference / "BraTS20_Training_001_seg.nii.gz")
    assert first["prediction_file"] == str(prediction / "BraTS20_Training_001.nii.gz")
    # WT is 6 x 6 x 4 voxels, moved by one of its six: 5/6 of 144 overlap in a volume of 12 x 12 x 8.
    assert first["metrics"]["(1, 2, 4)"] == {
        "Dice": pytest.approx(240 / 288), "FN": 24, "FP": 24, "IoU": pytest.approx(120 / 168),
        "TN": 1152 - 168, "TP": 120, "n_pred": 144, "n_ref": 144,
    }  # fmt: skip
    # ET is 2 x 2 x 2 voxels there, and on neither side in the second case: undefined, whatever the rule says.
    assert (first["metrics"]["(4,)"]["TP"], first["metrics"]["(4,)"]["FP"]) == (4, 4)
    assert second["metrics"]["(4,)"]["Dice"] is None and second["metrics"]["(4,)"]["TN"] == 1152
    assert summary["mean"]["(4,)"]["Dice"] == 0.5
    assert summary["mean"]["(4,)"]["TP"] == 2
    dice = [summary["mean"][key]["Dice"] for key in summary["mean"]]
    assert summary["foreground_mean"]["Dice"] == pytest.approx(sum(dice) / 3)


@pytest.mark.parametrize(
    ("edition", "name", "keys"),
    [
        ("2024", "BraTS-GLI-00001-100", ["(1, 2, 3)", "(1, 3)", "(3,)"]),
        ("msd", "BRATS_001", ["(1, 2, 3)", "(2, 3)", "(3,)"]),
    ],
)
def test_summary_json_knows_the_values_of_other_editions(tmp_path, edition, name, keys):
    for side in ("p", "r"):
        save(tmp_path / side, f"{name}.nii.gz", tissues(), edition)
    content = evaluation.evaluate(tmp_path / "p", tmp_path / "r", edition)
    assert list(score_files.nnunet_summary(content)["mean"]) == keys


def test_resection_cavity_is_in_no_region_of_the_counts():
    cavity = np.full((2, 2, 2), Tissue.RC, np.uint8)
    core = np.full((2, 2, 2), Tissue.NCR, np.uint8)
    found = case_scores.count_voxels(cavity, core, EDITIONS["2024"])
    assert [found["WT"][key] for key in ("TP", "FP", "FN", "TN")] == [0, 0, 8, 0]
    assert [found["ET"][key] for key in ("TP", "FP", "FN", "TN")] == [0, 0, 0, 8]


def test_the_challenges_file_closes_with_its_five_rows(folders, tmp_path):
    content = evaluation.evaluate(*folders)
    score_files.write(content, tmp_path / "out")
    with (tmp_path / "out" / "challenge.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "Label", "Dice_ET", "Dice_WT", "Dice_TC", "Sensitivity_ET", "Sensitivity_WT", "Sensitivity_TC",
        "Specificity_ET", "Specificity_WT", "Specificity_TC",
        "Hausdorff95_ET", "Hausdorff95_WT", "Hausdorff95_TC",
    ]  # fmt: skip
    assert [row["Label"] for row in rows] == [
        "BraTS20_Training_001", "BraTS20_Training_002", "mean", "std", "median", "25quantile", "75quantile",
    ]  # fmt: skip
    # Dice of ET is 0.5 and, on neither side, 1.
    assert [float(row["Dice_ET"]) for row in rows] == [0.5, 1, 0.75, 0.25, 0.75, 0.625, 0.875]
    assert float(rows[0]["Hausdorff95_WT"]) == content.rows[0]["hd95_mm"]


def test_lesion_wise_scores_are_written_when_asked_for_and_not_left_behind(folders, tmp_path, capsys):
    arguments = ["--prediction", folders[0], "--reference", folders[1], "--output", tmp_path, "--workers", 1]
    run(*arguments, "--lesions", "2023")
    assert "Rule 2023, lesion by lesion" in capsys.readouterr().out
    content = score_files.read(tmp_path)
    assert content.lesions.rule == "2023" and content.lesions.meaning
    with (tmp_path / "lesions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case_id"][-3:], row["region"]) for row in rows] == [
        (number, region) for number in ("001", "002") for region in ("WT", "TC", "ET")
    ]
    # One tumour, found: as a whole its Dice. 144 voxels are over the 50 mm3 that count.
    assert float(rows[0]["dice"]) == pytest.approx(5 / 6)
    assert content.lesions.summary["WT"]["found"] == 2
    assert content.lesions.summary["WT"]["dice"].mean == pytest.approx(5 / 6)
    run(*arguments)
    assert score_files.read(tmp_path).lesions is None and not (tmp_path / "lesions.csv").exists()


def test_no_lesions_of_a_tissue_that_the_edition_cannot_hold(folders, tmp_path):
    of_2020 = evaluation.evaluate(*folders, lesion_rule="2024").lesions.summary
    assert set(of_2020) == {"ET", "NETC", "SNFH", "TC", "WT"}
    for side in ("p", "r"):
        save(tmp_path / side, "BraTS-GLI-00001-100.nii.gz", tissues(), "2024")
    of_2024 = evaluation.evaluate(tmp_path / "p", tmp_path / "r", "2024", lesion_rule="2024").lesions
    assert set(of_2024.summary) == {*of_2020, "RC"}


def test_any_place_will_do(folders, place):
    for folder in folders:
        for path in folder.iterdir():
            files.write_bytes(files.join(place, folder.name, path.name), path.read_bytes())
    content = evaluation.evaluate(files.join(place, "prediction"), files.join(place, "reference"))
    score_files.write(content, files.join(place, "out"))
    assert score_files.read(files.join(place, "out")).cases == 2


def means_of(printed: str) -> dict[str, list[str]]:
    """The first table's lines by region."""
    table = printed[: printed.index("\n\n", printed.index("WT"))].splitlines()
    return {line.split()[0]: line.split()[1:] for line in table if line.startswith(("WT", "TC", "ET"))}


def test_the_command_prints_a_small_table_where_the_files_are_and_what_to_do_next(folders, tmp_path, capsys):
    arguments = ["--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / "out"]
    run(*arguments, "--workers", 1)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[:2] == ["Mean of 2 cases, edition 2020", ""]
    assert lines[2].split("  ")[-3:] == ["Dice", "HD95 mm", "sensitivity"]
    means = means_of(printed.out)
    assert [means[region][0] for region in ("WT", "TC", "ET")] == ["0.8333", "0.7500", "0.7500"]
    assert means["ET"][2] == "0.7500" and len(means["WT"]) == 3
    assert "note: empty masks, which score by rule brats: ET in 1 case (--all tells the rule)" in lines
    assert "specificity" not in printed.out and "Share of the reference" not in printed.out
    assert max(map(len, lines[:-1])) <= 110
    written = printed.out[printed.out.index("written: ") :]
    for name in ("metrics.csv", "cascade.csv", "challenge.csv", "summary.json", "metrics.json"):
        assert name in written
    assert lines[-1].startswith("next: tfbrats report ") and lines[-1].endswith(f"{tmp_path}/out/report.html")
    assert printed.err == ""  # no progress bar where nobody looks


def test_all_prints_every_score_the_rule_and_what_each_stage_lost(folders, tmp_path, capsys):
    arguments = ["--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / "out"]
    run(*arguments, "--workers", 1, "--all")
    scores, losses = capsys.readouterr().out.split("Share of the reference's volume")
    assert means_of(scores)["WT"][0] == "0.8333"
    every = scores[scores.index("All scores") :].splitlines()
    cells = {line[:26].strip(): line[26:].split() for line in every if "[" in line}
    assert cells["Dice"] == ["0.8333", "[0]", "0.7500", "[0]", "0.7500", "[1]"]
    assert len(cells) == len(region_scores.SCORES) - 2  # all but the volumes
    assert "Empty masks, rule brats: BraTS 2017-2021" in scores and "note: empty" not in scores
    # A sixth of WT is missed, half of ET, by ET's own stage; the second case has no ET.
    lines = {line.split()[0]: line.split()[1:] for line in losses.splitlines() if line.startswith(("WT", "ET"))}
    assert lines["WT"] == ["16.7%", "16.7%", "-", "-", "2"]
    assert lines["ET"] == ["50.0%", "50.0%", "0.0%", "0.0%", "1"]


def test_what_each_stage_lost_is_printed_unasked_for_a_cascade_alone(folders, tmp_path, capsys):
    for name, text in (("no", card(CUN)), ("a", card_of_a_cascade(1))):
        (folders[0] / "tfbrats.json").write_text(text)
        run("--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / name, "--workers", 1)
        assert ("Share of the reference's volume" in capsys.readouterr().out) == (name == "a")


def test_scores_that_are_replaced_are_said_to_be(folders, tmp_path, capsys):
    for word in ("written: ", "replaced: "):
        run("--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / "out", "--workers", 1)
        assert f"\n{word}{tmp_path}/out/metrics.csv" in capsys.readouterr().out


def test_a_terminal_gets_colours_and_a_file_none(folders, tmp_path, capsys, monkeypatch):
    seen_by(folders[0], train=["BraTS20_Training_001", "BraTS20_Training_002"])
    arguments = ["--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / "out"]
    monkeypatch.delenv("NO_COLOR", raising=False)
    run(*arguments, "--workers", 1)
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(*arguments, "--workers", 1)
    printed = capsys.readouterr().out
    assert printed.startswith("\x1b[1mMean of 2 cases, edition 2020, 2 of them seen by the model\x1b[0m\n")
    assert "\x1b[33mWARNING:\x1b[0m All of these 2 cases were seen in training" in printed


@pytest.mark.parametrize(
    ("chosen", "scored"),
    [
        (["--case", "BraTS20_Training_002"], [2]),
        (["--case", "BraTS20_Training_002", "--case", "BraTS20_Training_001"], [1, 2]),
        (["--case", "BraTS20_Training_002", "--cases", "BraTS20_Training_002,BraTS20_Training_001"], [1, 2]),
    ],
)
def test_cases_can_be_named_one_by_one(folders, tmp_path, chosen, scored):
    run("--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / "out", "--workers", 1,
        *chosen)  # fmt: skip
    rows = score_files.read(tmp_path / "out").rows
    assert list(dict.fromkeys(row["case_id"] for row in rows)) == [f"BraTS20_Training_00{n}" for n in scored]


@pytest.mark.parametrize("missing", ["--prediction", "--reference", "--compare", "--splits"])
def test_a_folder_that_is_not_there_is_told_before_scipy_is_loaded(folders, tmp_path, missing):
    given = {"--prediction": folders[0], "--reference": folders[1], "--output": tmp_path / "out"}
    given[missing] = tmp_path / "nowhere"
    arguments = [str(text) for pair in given.items() for text in pair]
    code = (
        "import sys\n"
        "from tfbrats import errors, evaluate\n"
        "try: evaluate.main(sys.argv[1:])\n"
        "except errors.InputError as error: print(error)\n"
        "print(sorted({'scipy', 'pydantic', 'nibabel', 'multiprocessing', 'matplotlib'} & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    said, loaded = ended.stdout.splitlines()
    assert said.startswith(f"{tmp_path}/nowhere: no such") and loaded == "[]"


def test_the_rules_names_are_those_of_the_rules():
    assert tuple(region_scores.EMPTY_RULES) == rule_names.EMPTY
    assert tuple(lesion_rules.MEANINGS) == rule_names.LESIONS


def test_the_help_names_no_number_of_this_machine(monkeypatch):
    before = evaluate.parser().format_help()
    monkeypatch.setattr(memory, "cores", lambda: 77)
    assert evaluate.parser().format_help() == before


def test_json_replaces_the_table(folders, tmp_path, capsys):
    run("--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / "out", "--json",
        "--workers", 1)  # fmt: skip
    assert json.loads(capsys.readouterr().out)["cases"] == 2


# --- beside the paper's, and against another run --------------------------------------------------------


@pytest.fixture
def two_runs(folders, tmp_path):
    """Arguments of one run, whose predictions are moved by a voxel, and the scores of another, moved by two."""
    prediction, reference = folders
    for name, enhancing in (("BraTS20_Training_001", True), ("BraTS20_Training_002", False)):
        save(tmp_path / "other", f"{name}.nii.gz", tissues(2, enhancing))
    run("--prediction", tmp_path / "other", "--reference", reference, "--output", tmp_path / "other_scores",
        "--row", "cun", "--workers", 1)  # fmt: skip
    arguments = ["--prediction", prediction, "--reference", reference, "--output", tmp_path / "scores"]
    return [*arguments, "--row", "cun_lws", "--workers", 1], tmp_path / "other_scores"


def test_the_papers_table_is_printed_with_both_runs_in_their_rows(two_runs, capsys):
    arguments, other = two_runs
    run(*arguments, "--table", "paper_a", "--compare", other)
    printed = capsys.readouterr().out
    lines = printed[printed.index("Paper A, Table 1") :].splitlines()
    assert max(map(len, lines[: lines.index("")])) <= 110
    (at,) = (n for n, line in enumerate(lines) if line.startswith("CUN+LWS") and " paper " in line)
    assert lines[at].split()[:5] == ["CUN+LWS", "paper", "0.888", "0.831", "0.768"]
    assert lines[at + 1].split()[:4] == ["CUN+LWS", "ours", "[2]", "0.833"]
    assert lines[at - 1].split()[:4] == ["CUN", "ours", "[1]", "0.667"]
    assert "ours [2] cun_lws, means of all cases given, 2 cases, BraTS 2020, reference reference" in lines
    # A sixth of WT in both cases: nothing varies, so the interval is the difference.
    assert "cun_lws minus cun: Dice WT +0.167 [+0.167, +0.167], 2 cases" in lines


def test_differences_are_kept_with_the_scores(two_runs):
    arguments, other = two_runs
    run(*arguments, "--compare", other)
    (compared,) = score_files.read(arguments[5]).compared
    assert (compared.name, compared.folder) == ("cun", str(other))
    found = {(one.region, one.score): one for one in compared.differences}
    assert found["WT", "dice"].difference == pytest.approx(1 / 6)
    assert found["WT", "hd95_mm"].difference < 0
    assert {score for _, score in found} == set(region_scores.SCORES) - {"volume_ml", "reference_volume_ml"}


def test_runs_on_other_cases_or_by_another_rule_are_not_compared_but_the_scores_are_kept(two_runs, tmp_path):
    arguments, other = two_runs
    with pytest.raises(InputError, match="scored with --empty brats, this run with nan"):
        run(*arguments, "--compare", other, "--empty", "nan")
    with pytest.raises(InputError, match="1 case only on the other: BraTS20_Training_002"):
        run(*arguments, "--compare", other, "--cases", "BraTS20_Training_001")
    assert score_files.read(tmp_path / "scores").cases == 1
    with pytest.raises(InputError, match=r"The scores of this run are in .*scores, uncompared"):
        run(*arguments, "--compare", other, "--empty", "nan")
    with pytest.raises(InputError, match=r"metrics\.json: no such file"):
        run(*arguments, "--compare", tmp_path / "other")


def test_a_run_is_not_compared_with_the_scores_that_it_would_replace(two_runs, tmp_path):
    arguments, other = two_runs
    before = (other / "metrics.json").read_bytes()
    arguments[5] = other
    with pytest.raises(InputError, match=r"other_scores.*would be replaced"):
        run(*arguments, "--compare", tmp_path / "scores" / ".." / "other_scores")
    assert (other / "metrics.json").read_bytes() == before


def test_one_folder_is_not_compared_with_twice(two_runs, tmp_path):
    arguments, other = two_runs
    with pytest.raises(InputError, match=r"--compare .*other_scores: given twice"):
        run(*arguments, "--compare", other, "--compare", tmp_path / "scores" / ".." / "other_scores")
    assert not (tmp_path / "scores").exists()


def test_the_file_in_the_folder_is_not_the_folder(two_runs):
    arguments, other = two_runs
    with pytest.raises(InputError, match=rf"metrics\.json: a file; .* Give the folder: {other}$"):
        run(*arguments, "--compare", other / "metrics.json")
    with pytest.raises(InputError, match=r"metrics\.csv: a file; .* Give the folder\.$"):
        score_files.read(other / "metrics.csv")


def test_two_runs_of_one_row_are_told_apart_by_their_folders(two_runs, tmp_path, capsys):
    arguments, other = two_runs
    shutil.copytree(other, tmp_path / "again" / "other_scores")
    run(*arguments, "--compare", other, "--compare", tmp_path / "again" / "other_scores")
    printed = capsys.readouterr().out
    assert f"cun_lws minus cun ({other}): Dice WT" in printed
    assert f"cun_lws minus cun ({tmp_path}/again/other_scores): Dice WT" in printed


def test_one_case_is_one_case_and_has_no_interval(two_runs, tmp_path, capsys):
    arguments, other = two_runs
    one = ["--cases", "BraTS20_Training_001"]
    run("--prediction", tmp_path / "other", "--reference", tmp_path / "reference", "--output", other, *one,
        "--workers", 1)  # fmt: skip
    capsys.readouterr()
    run(*arguments, *one, "--compare", other, "--table", "paper_b")
    printed = capsys.readouterr().out
    assert "1 case, edition 2020" in printed and "1 cases" not in printed
    assert "cun_lws minus other_scores: Dice WT +0.167 [no interval], 1 case\n" in printed


# --- processes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "free_gib", "most", "expected"),
    [(8, 64, None, 8), (8, 64, 3, 3), (2, 64, 5, 2), (8, 1, None, 2), (8, 1, 5, 2), (8, 0, None, 1)],
)
def test_no_more_processes_than_cores_memory_and_the_person_allow(monkeypatch, cores, free_gib, most, expected):
    monkeypatch.setattr(memory.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(memory, "free_bytes", lambda: free_gib * 2**30)
    assert evaluation.fitting_workers(most) == expected


def test_a_worker_that_dies_is_told_with_the_option_for_fewer(folders, tmp_path, monkeypatch):
    def dying(*_, **__):
        raise concurrent.futures.process.BrokenProcessPool

    monkeypatch.setattr(concurrent.futures.ProcessPoolExecutor, "map", dying)
    with pytest.raises(evaluation.WorkerDiedError, match=r"want of memory \(2 at a time\)\.$"):
        evaluation.evaluate(*folders, workers=2)
    with pytest.raises(InputError, match=r"\(2 at a time\)\. Pass --workers 1\.$"):
        run("--prediction", folders[0], "--reference", folders[1], "--output", tmp_path / "out", "--workers", 2)


# --- --cases --------------------------------------------------------------------------------------------

IDS = ["BraTS20_Training_001", "BraTS20_Training_002"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("between", ["\n", "\r\n", ","])
def test_ids_are_read_from_a_file_or_between_commas(tmp_path, encoding, between):
    (tmp_path / "ids.txt").write_bytes(between.join(IDS).encode(encoding))
    assert id_tables.case_ids_of(str(tmp_path / "ids.txt")) == id_tables.case_ids_of(between.join(IDS)) == IDS


def test_an_id_may_have_a_blank_in_it(tmp_path):
    (tmp_path / "ids.txt").write_text("P 07\n P 08 , P 09\n\n")
    assert id_tables.case_ids_of(str(tmp_path / "ids.txt")) == ["P 07", "P 08", "P 09"]


def test_a_file_of_ids_that_is_none_is_named(tmp_path):
    (tmp_path / "ids.txt").write_text("\n".join(IDS), "utf-16")
    with pytest.raises(InputError, match=r"ids\.txt: no text in UTF-8 .* Save it as UTF-8"):
        id_tables.case_ids_of(str(tmp_path / "ids.txt"))
    with pytest.raises(InputError, match=f"--cases {tmp_path}: a folder; expected a file"):
        id_tables.case_ids_of(str(tmp_path))
    for missing in (f"{tmp_path}/none", "none.txt", "none.csv"):
        with pytest.raises(InputError, match=f"--cases {missing}: no such file"):
            id_tables.case_ids_of(missing)
