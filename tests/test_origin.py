"""Which split the scored cases are, and that a model of another split is not scored on them."""

import json
import types

import pytest

from tfbrats import origin
from tfbrats.command import InputError

ONE, TWO, THREE = (f"BraTS20_Training_00{n}" for n in (1, 2, 3))


def test_a_splits_hash_is_that_of_its_cases(tmp_path):
    path = tmp_path / "splits.json"
    splits = {"train": [ONE], "val": [THREE], "test": [TWO]}
    path.write_text(json.dumps(splits))
    ids, found = origin.split_of(path, "validation")
    assert ids == [THREE] and len(found["sha256"]) == 64
    path.write_text(json.dumps(splits | {"sha256": found["sha256"]}))
    assert origin.split_of(path, "test") == ([TWO], found | {"name": "test"})
    path.write_text(json.dumps(splits | {"test": [ONE, TWO]}))
    assert origin.split_of(path, "test")[1]["sha256"] != found["sha256"]


def test_an_edited_split_does_not_pass_for_the_one_that_was_trained_on(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"train": [ONE], "test": [TWO], "sha256": "7" * 64}))
    with pytest.raises(InputError, match="edited"):
        origin.split_of(path, "test")


def test_a_row_is_believed_only_where_the_card_tells_no_other(tmp_path):
    training_data = {"config": {"model": {"name": "cun"}}}
    card = types.SimpleNamespace(name="tumours", version=4, training_data=training_data)
    for row in (None, "cun"):
        assert origin.model_of(card, tmp_path, row)["row"] == "cun"
    with pytest.raises(InputError, match=r"--row drn: the card beside the predictions says cun .*--row out"):
        origin.model_of(card, tmp_path, "drn")
    training_data["config"] = {"model": {"name": "of one's own"}}
    assert origin.model_of(card, tmp_path, "drn")["row"] == "drn"


def test_only_a_model_of_another_split_is_refused():
    split = {"name": "test", "sha256": "7" * 64, "of": "splits.json"}
    for model in (None, {"name": "x", "split_sha256": None}, {"name": "x", "split_sha256": "7" * 64}):
        origin.check_split(split, model, "p")
    with pytest.raises(InputError, match="p: its model x was trained on another split"):
        origin.check_split(split, {"name": "x", "split_sha256": "8" * 64}, "p")
