"""The best weights of a run: those that scored best, in float32, or the names of what is missing."""

import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbrats.config_file import overridden
from tfbrats.errors import InputError
from tfbrats.exports import next_version
from tfbrats.exports.card import card_of
from tfbrats.exports.chosen import chosen_from
from tfbrats.labels import REGIONS
from tfbrats.machine import files
from tfbrats.predictions import model_card
from tfbrats.runs.folder import RunFolder
from tfbrats.training import best_weights


def test_each_region_gets_its_own_best_weights(cascade_run):
    networks = best_weights.best_networks(cascade_run.config, list(REGIONS))
    assert list(networks) == list(REGIONS)
    for region, network in networks.items():
        best = best_weights.best_checkpoint(cascade_run.config, region)
        assert f"/{region.lower()}/checkpoints/best/ckpt-" in best
        reader = tf.train.load_checkpoint(best)
        names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
        kept = {np.asarray(reader.get_tensor(name)).tobytes() for name in names}
        kernels = [v.numpy() for v in network.trainable_variables if v.name == "kernel"]
        assert len(kernels) > 5 and all(kernel.tobytes() in kept for kernel in kernels)


def test_the_best_epoch_is_that_of_the_lowest_validation_loss(cascade_run):
    for region in REGIONS:
        rows = [row for row in cascade_run.history if row["region"] == region]
        best = min(rows, key=lambda row: row["validation_loss"])["epoch"]
        assert best_weights.best_checkpoint(cascade_run.config, region).endswith(f"ckpt-{best}")


def test_a_network_comes_back_in_float32_and_the_policy_stays(cascade_run):
    settings = overridden(cascade_run.config, ["train.precision=mixed_bfloat16"])
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        network = best_weights.best_networks(settings, ["ET"])["ET"]
        assert keras.mixed_precision.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    plain = best_weights.best_networks(cascade_run.config, ["ET"])["ET"]
    assert all(np.array_equal(a, b) for a, b in zip(network.get_weights(), plain.get_weights(), strict=True))


def test_every_network_that_is_missing_is_named_at_once_and_how_to_train_it(cascade_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(cascade_run.folder, folder)
    for home in ("tc", "et"):
        shutil.rmtree(folder / home)
    with pytest.raises(InputError) as caught:
        next_version.export(folder, tmp_path / "models" / "m")
    said = str(caught.value)
    assert f"{folder}: no checkpoint of TC yet. Train at least one epoch first (region=tc)." in said
    assert f"{folder}: no checkpoint of ET yet. Train at least one epoch first (region=et)." in said
    assert "WT" not in said and not (tmp_path / "models").exists()


def test_a_run_that_was_moved_is_still_read(cascade_run, tmp_path):
    """Checkpoints are found by the folder that is given, not by the one that the config was written with."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(cascade_run.folder, folder)
    settings = RunFolder(folder).config
    assert settings.run.dir == cascade_run.folder
    card = card_of(chosen_from(folder), "m", 1, signatures=())
    assert card.training_data["config"]["run"]["dir"] == str(folder)
    assert files.exists(
        best_weights.best_checkpoint(overridden(settings, [f"run.dir={folder}"]), "WT") + ".index"
    )


@pytest.mark.slow
def test_the_scores_on_the_card_are_those_of_the_weights_in_the_model(cascade_run, cascade_model):
    card = model_card.read(cascade_model)
    for region in REGIONS:
        epoch = int(best_weights.best_checkpoint(cascade_run.config, region).rpartition("-")[2])
        [row] = [r for r in cascade_run.history if (r["region"], r["epoch"]) == (region, epoch)]
        assert card.scores[region]["epoch"] == epoch
        assert card.scores[region]["dice"] == pytest.approx(row["dice"])
        assert card.scores[region]["validation_loss"] == pytest.approx(row["validation_loss"])
    assert card.scores["split"] == "validation"
    assert pathlib.Path(cascade_model).name == "1"
