"""Which split the scored cases are, and that a model of another split is not scored on them."""

import dataclasses
import json
import types

import pytest
import tiny_model

from tfbrats.errors import InputError
from tfbrats.predictions import model_card, seen
from tfbrats.reporting import seen_text
from tfbrats.scoring import origin, score_files
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.scoring.origin import Model, Split

ONE, TWO, THREE = (f"BraTS20_Training_00{n}" for n in (1, 2, 3))


def test_a_splits_hash_is_that_of_its_cases(tmp_path):
    path = tmp_path / "splits.json"
    splits = {"train": [ONE], "val": [THREE], "test": [TWO]}
    path.write_text(json.dumps(splits))
    ids, found = origin.split_of(path, "validation")
    assert ids == [THREE] and len(found.sha256) == 64
    path.write_text(json.dumps(splits | {"sha256": found.sha256}))
    assert origin.split_of(path, "test") == ([TWO], dataclasses.replace(found, name="test"))
    path.write_text(json.dumps(splits | {"test": ["BraTS20_Training_004", TWO]}))
    assert origin.split_of(path, "test")[1].sha256 != found.sha256


def test_an_edited_split_does_not_pass_for_the_one_that_was_trained_on(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"train": [ONE], "test": [TWO], "sha256": "7" * 64}))
    with pytest.raises(InputError, match="edited"):
        origin.split_of(path, "test")


def test_a_row_is_believed_only_where_the_card_tells_no_other(tmp_path):
    training_data = {"config": {"model": {"name": "cun"}}}
    card = types.SimpleNamespace(tuned=None, name="tumours", version=4, training_data=training_data)
    for row in (None, "cun"):
        assert origin.model_of(card, tmp_path, row).row == "cun"
    with pytest.raises(InputError, match=r"--row drn: the card beside the predictions says cun .*--row out"):
        origin.model_of(card, tmp_path, "drn")
    training_data["config"] = {"model": {"name": "of one's own"}}
    assert origin.model_of(card, tmp_path, "drn").row == "drn"


def test_only_a_model_of_another_split_is_refused():
    split = Split("test", "7" * 64, "splits.json")
    for model in (None, Model("x"), Model("x", split_sha256="7" * 64)):
        origin.check_split(split, model, "p")
    with pytest.raises(InputError, match="p: its model x was trained on another split"):
        origin.check_split(split, Model("x", split_sha256="8" * 64), "p")


@pytest.mark.parametrize("where", ["", "sub/", "sub/CASE/"])
def test_the_card_is_found_in_each_folder_that_predictions_come_from(tmp_path, where):
    for name in (f"sub/CASE/{ONE}.nii.gz", f"other/{TWO}.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    content = tiny_model.card().to_file()
    (tmp_path / where / "tfbrats.json").write_bytes(content)
    card, notes = origin.card_beside(tmp_path)
    assert card == tiny_model.card() and notes == []
    (tmp_path / "other" / "tfbrats.json").write_bytes(content)
    assert origin.card_beside(tmp_path) == (card, [])  # the same model
    (tmp_path / "other" / "tfbrats.json").write_bytes(tiny_model.card(edition="2021").to_file())
    card, (note,) = origin.card_beside(tmp_path)
    assert card is None and "cards of 2 models lie there" in note


@pytest.mark.parametrize("leaked", [False, True])
def test_of_folds_each_case_is_held_against_the_network_that_segmented_it(tmp_path, leaked):
    held_out = {"fold0": ONE, "fold1": TWO}
    for name, case_id in held_out.items():
        rest = [i for i in (ONE, TWO, THREE) if i != case_id]
        splits = {"train": rest, "validation": [case_id], "test": []}
        if leaked and name == "fold1":
            splits = {"train": [ONE, TWO], "validation": [THREE], "test": []}
        config = {"model": {"name": "drn"}, "data": {"records": "r"}, "run": {"dir": name}}
        data = {"config": config, "split_sha256": name, **seen.hashes_of(splits)}
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{case_id}.nii.gz").write_bytes(b"")
        card = tiny_model.card().model_copy(update={"name": f"drn_{name}", "training_data": data})
        (tmp_path / name / "tfbrats.json").write_bytes(card.to_file())
    card, notes = origin.card_beside(tmp_path)
    assert notes == [] and card.name == "drn in 2 folds"
    model = origin.model_of(card, tmp_path)
    assert (model.row, model.split_sha256) == ("drn", None)
    kinds = seen.kinds_of(card.training_data, [ONE, TWO, THREE])
    assert kinds == {ONE: "fold", TWO: "train" if leaked else "fold", THREE: "unseen"}
    by_split = origin.BySplit(True, seen.by_kind({i: kinds[i] for i in held_out.values()}), {}, {}, None, False)
    text, is_warning = seen_text.sentence(by_split, card.name, chosen=False)
    assert is_warning is leaked
    assert ("best epoch was chosen on the cases that its fold holds out" in text) is not leaked

    # Of another config it is another model.
    data["config"] = {"model": {"name": "cun"}}
    card = tiny_model.card().model_copy(update={"training_data": data})
    (tmp_path / "fold1" / "tfbrats.json").write_bytes(card.to_file())
    card, (note,) = origin.card_beside(tmp_path)
    assert card is None and "cards of 2 models lie there" in note


def test_predictions_of_ours_without_their_card_are_a_warning(tmp_path):
    path = tmp_path / f"{ONE}.nii.gz"
    assert origin.doubts(tmp_path, None, [str(path)]) == []
    (tmp_path / f"{ONE}.json").write_text(json.dumps({"model": {"tfbrats_json_sha256": "ab"}}))
    (warning,) = origin.doubts(tmp_path, None, [str(path)])
    assert "it is not known which cases the model was trained on" in warning
    assert origin.doubts(tmp_path, tiny_model.card(), [str(path)]) == []


@pytest.mark.parametrize("train", [ONE, "BraTS-GLI-00001-000"])
def test_a_split_whose_test_cases_or_patients_were_trained_on_is_refused(tmp_path, train):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"train": [train, TWO], "test": [ONE, "BraTS2021_00001"]}))
    with pytest.raises(
        InputError, match=r"own.json: training cases would be scored as if unseen: .*more than one"
    ):
        origin.split_of(path, "test")
    path.write_text(json.dumps({"test": [ONE]}))
    assert origin.split_of(path, "test")[0] == [ONE]


def test_one_fold_of_several_is_chosen(tmp_path):
    path = tmp_path / "folds.json"
    path.write_text(json.dumps([{"train": [ONE], "val": [TWO]}, {"train": [TWO], "val": [ONE]}]))
    assert origin.split_of(path, "validation", 1)[0] == [ONE]
    with pytest.raises(InputError, match="Say which with --fold"):
        origin.split_of(path, "validation")


def test_a_tuned_model_is_told_from_the_row_as_the_paper_says():
    chosen = {"choices": {"pieces": {"WT": {"largest_alone": True}}}, "lines": ("WT: the largest piece",)}
    of = {"criterion": "dice", "meaning": "mean Dice", "cases": 6, "patients": 6, "gain": 0.1, "gains": {}}
    tuned = model_card.TunedOn(**chosen, **of, gain_interval=(0.0, 0.2))
    data = {"config": {"model": {"name": "cun"}}}
    plain = tiny_model.card().model_copy(update={"training_data": data})
    both = ((plain, [], "cun"), (plain.model_copy(update={"tuned": tuned}), [*tuned.lines], "cun, tuned"))
    for card, lines, name in both:
        model = origin.model_of(card, "predictions")
        assert Evaluation.name(types.SimpleNamespace(row=model.row, tuned=model.tuned), "scores") == name
        assert model.tuned == lines and model.row == "cun"
        assert ("tuned" in score_files.as_json(model)) is bool(lines)
        assert score_files.from_json(origin.Model, score_files.as_json(model)) == model
