"""Boxes as the networks above find them: the right ones, once, for every case, in the order of the cascade."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbrats.cases import boxes
from tfbrats.config_file import overridden
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.records import schema, tfrecord
from tfbrats.runs.folder import RunFolder
from tfbrats.training import best_weights, predicted_boxes
from tfbrats.workflows import networks_in_turn, whole_run

CHANNEL = {"WT": 0, "TC": 2}  # flair, t1ce
PREDICTED = "sampling.boxes=predicted"


def a_finder(channel: int, threshold: float) -> keras.Model:
    """Finds a region wherever a modality is brighter than a threshold."""
    patch = keras.Input((None, None, None, 12), name="patch")
    one = patch[..., channel : channel + 1]
    return keras.Model(patch, {"logits": keras.layers.Rescaling(100.0, -100.0 * threshold)(one)})


@pytest.fixture
def found_by(monkeypatch):
    """`found_by(WT=1.0, TC=2.0)`: thresholds in place of trained networks; returns the lists asked for."""

    def of(**thresholds):
        asked = []

        def best_networks(config, regions):
            asked.append(list(regions))
            return {region: a_finder(CHANNEL[region], thresholds[region]) for region in regions}

        monkeypatch.setattr(best_weights, "best_networks", best_networks)
        monkeypatch.setattr(predicted_boxes, "_finished_network", lambda config, region: "epoch 1")
        return asked

    return of


@pytest.fixture
def settings(patch_records, tmp_path):
    return patch_records.config("volumes", f"run.dir={tmp_path / 'run'}", PREDICTED)


@pytest.fixture(scope="module")
def volumes(patch_records):
    found = {}
    for shard in patch_records.manifest("volumes").shards:
        for content in tfrecord.read_records(files.join(patch_records.folders["volumes"], shard.file)):
            volume = schema.decode(schema.VOLUMES, content)
            found[volume["case_id"]] = volume
    return found


def box_by_hand(mask, margin=2):
    return [list(side) for side in boxes.grown(boxes.box_of(mask), margin, mask.shape)]


def masks_by_hand(volume, **thresholds):
    """WT, and TC where WT's box was looked through and WT was found."""
    image = volume["image"].astype(np.float32)
    wt = (volume["brain"] > 0) & (image[..., CHANNEL["WT"]] >= thresholds["WT"])
    tc = wt & (image[..., CHANNEL["TC"]] >= thresholds.get("TC", np.inf))
    return wt, tc


def test_tc_is_looked_for_where_wt_was_found_in_every_training_and_validation_case(
    patch_records, volumes, settings, found_by
):
    asked = found_by(WT=1.2)
    boxes = predicted_boxes.of_training_cases(settings, patch_records.manifest("volumes"), "TC")
    assert asked == [["WT"]]
    assert set(boxes) == set(volumes)
    for case_id, volume in volumes.items():
        wt, _ = masks_by_hand(volume, WT=1.2)
        assert wt.any() and boxes[case_id] == box_by_hand(wt), case_id
    assert len({str(box) for box in boxes.values()}) > 1


def test_et_is_looked_for_where_tc_was_found_else_where_wt_was_else_where_the_reference_says(
    patch_records, volumes, settings, found_by
):
    brightest = sorted(
        (float(v["image"][..., CHANNEL["TC"]][masks_by_hand(v, WT=1.2)[0]].max()), i)
        for i, v in volumes.items()
    )
    threshold = (brightest[1][0] + brightest[2][0]) / 2  # two cases have no TC
    asked = found_by(WT=1.2, TC=threshold)
    boxes = predicted_boxes.of_training_cases(settings, patch_records.manifest("volumes"), "ET")
    assert asked == [["WT", "TC"]]
    with_tc = 0
    for case_id, volume in volumes.items():
        wt, tc = masks_by_hand(volume, WT=1.2, TC=threshold)
        with_tc += tc.any()
        assert boxes[case_id] == box_by_hand(tc if tc.any() else wt), case_id
    assert with_tc == len(volumes) - 2


def test_a_case_in_which_nothing_was_found_is_left_out(patch_records, volumes, settings, found_by):
    most = {i: float(v["image"][..., CHANNEL["WT"]].max()) for i, v in volumes.items()}
    dullest = min(most, key=most.get)
    found_by(WT=(most[dullest] + sorted(most.values())[1]) / 2)
    boxes = predicted_boxes.of_training_cases(settings, patch_records.manifest("volumes"), "TC")
    assert set(boxes) == set(volumes) - {dullest}


def test_they_are_found_once_and_kept_with_the_run(patch_records, settings, found_by):
    asked = found_by(WT=1.2)
    manifest = patch_records.manifest("volumes")
    first = predicted_boxes.of_training_cases(settings, manifest, "TC")
    kept = json.loads(files.read_bytes(f"{settings.run.dir}/tc/boxes.json"))
    assert kept == {"networks": {"WT": "epoch 1"}, "boxes": first}
    assert predicted_boxes.of_training_cases(settings, manifest, "TC") == first
    assert len(asked) == 1


def test_boxes_of_a_network_that_was_trained_again_are_found_again_unless_training_has_begun_on_them(
    patch_records, settings, found_by, monkeypatch
):
    found_by(WT=1.2)
    manifest = patch_records.manifest("volumes")
    first = predicted_boxes.of_training_cases(settings, manifest, "TC")
    found_by(WT=0.5)
    monkeypatch.setattr(predicted_boxes, "_finished_network", lambda config, region: "epoch 2")
    later = predicted_boxes.of_training_cases(settings, manifest, "TC")
    assert later != first
    monkeypatch.setattr(predicted_boxes, "_finished_network", lambda config, region: "epoch 3")
    # Inside the first epoch: no history yet.
    last = RunFolder(settings.run.dir).network("TC").checkpoints_path("last")
    tf.train.CheckpointManager(tf.train.Checkpoint(step=tf.Variable(1)), last, max_to_keep=1).save()
    with pytest.raises(
        InputError, match=r"begun on the boxes of \{'WT': 'epoch 2'\}.*region=tc with --overwrite"
    ):
        predicted_boxes.of_training_cases(settings, manifest, "TC")


@pytest.mark.parametrize(("region", "own"), [("WT", ()), ("TC", ("sampling.boxes=reference",))])
def test_wt_and_training_on_reference_boxes_need_none(patch_records, settings, found_by, region, own):
    asked = found_by()
    manifest = patch_records.manifest("volumes")
    assert predicted_boxes.of_training_cases(overridden(settings, own), manifest, region) is None
    assert asked == [] and not files.exists(settings.run.dir)


def test_a_network_above_that_is_not_trained_to_its_end_is_named(patch_records, cascade_run, settings):
    with pytest.raises(InputError, match=r"WT has had 0 of 4 epochs.*Train it to the end first: region=wt"):
        whole_run.train(overridden(settings, ["region=tc"]))
    shutil.copytree(f"{cascade_run.folder}/wt", f"{settings.run.dir}/wt")
    with pytest.raises(InputError, match=r"WT has had 2 of 4 epochs"):
        whole_run.train(overridden(settings, ["region=tc"]))


def test_training_on_predicted_boxes_writes_and_uses_them(patch_records, cascade_run, tmp_path, monkeypatch):
    """TC on the boxes of the shared run's WT."""
    small = ("train.epochs=2", "train.steps_per_epoch=1", "model.width=4")
    settings = patch_records.config("volumes", f"run.dir={tmp_path / 'run'}", *small, PREDICTED)
    RunFolder(settings.run.dir).start(settings)
    shutil.copytree(f"{cascade_run.folder}/wt", tmp_path / "run" / "wt")
    given = []
    real = networks_in_turn.recipe_for

    def recipe(config, manifest, region, boxes):
        given.append((region, boxes))
        return real(config, manifest, region, boxes)

    monkeypatch.setattr(networks_in_turn, "recipe_for", recipe)
    rows = whole_run.train(overridden(settings, ["region=tc"]))
    assert np.isfinite([row["loss"] for row in rows]).all()
    kept = json.loads((tmp_path / "run" / "tc" / "boxes.json").read_text())
    assert given == [("TC", kept["boxes"])]
    epoch = best_weights.best_checkpoint(settings, "WT").rpartition("-")[2]
    assert kept["networks"]["WT"].startswith(f"epoch {epoch} (")
