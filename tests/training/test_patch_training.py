"""Training of paper B: three networks in turn or one at a time, killed and resumed: same weights."""

import csv
import json
import pathlib
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.runs.folder import RunFolder
from tfbrats.training import patch_step
from tfbrats.workflows import networks_in_turn, whole_run

HOMES = ("wt", "tc", "et")


def weights(home, which="last"):
    reader = tf.train.load_checkpoint(
        tf.train.latest_checkpoint(str(pathlib.Path(home) / "checkpoints" / which))
    )
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith(("network", "optimizer")) and "OBJECT_GRAPH" not in name
    }


def same(a, b):
    assert a.keys() == b.keys()
    return all(np.array_equal(a[name], b[name]) for name in a)


def rows_of(home):
    with (pathlib.Path(home) / "history.csv").open() as file:
        return list(csv.DictReader(file))


def files_of(folder):
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns for p in pathlib.Path(folder).rglob("*") if p.is_file()
    }


@pytest.fixture
def copy(cascade_run, tmp_path):
    """A copy of the run, to go on with or to spoil, and its config."""
    shutil.copytree(cascade_run.folder, tmp_path / "run")
    small = ("train.epochs=2", "train.steps_per_epoch=3", "train.checkpoint_minutes=1e-9")

    def settings(*more):
        return config_of(cascade_run, f"run.dir={tmp_path / 'run'}", *small, *more)

    return tmp_path / "run", settings


def config_of(cascade_run, *overrides):
    from tfbrats import config_file

    return config_file.overridden(cascade_run.config, overrides)


# --- all in turn ----------------------------------------------------------------------------------------


def test_the_three_are_trained_in_turn_each_into_its_own_folder(cascade_run):
    folder = pathlib.Path(cascade_run.folder)
    assert [(row["region"], row["epoch"]) for row in cascade_run.history] == [
        (region, epoch) for region in REGIONS for epoch in (1, 2)
    ]
    for name in ("config.yaml", "environment.json", "splits.json", "records.json"):
        assert (folder / name).exists(), name
    assert not (folder / "history.csv").exists() and not (folder / "checkpoints").exists()
    for region, home in zip(REGIONS, HOMES, strict=True):
        for name in ("history.csv", "tb", "checkpoints/last", "checkpoints/best"):
            assert (folder / home / name).exists(), (home, name)
        assert f"network     msm {region}, " in cascade_run.said
        assert f"writes      {folder / home}\n" in cascade_run.said
        heading = rf"^epoch  learning rate  .*validation loss +Dice {region} +seconds$"
        assert re.search(heading, cascade_run.said, re.MULTILINE)
    assert cascade_run.said.splitlines()[-1].startswith("next: tfbrats export")
    assert "patches     train 24, validation 6, test 0" in cascade_run.said
    assert "loss        binary cross-entropy" in cascade_run.said


def test_the_history_has_loss_scores_and_rate_of_every_epoch(cascade_run):
    for home in HOMES:
        rows = rows_of(f"{cascade_run.folder}/{home}")
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert list(rows[0]) == [
            *("epoch", "steps", "learning_rate", "loss", "training_dice", "validation_loss", "dice"),
        ]
        assert all(np.isfinite(float(value)) for row in rows for value in row.values())
        assert {row["learning_rate"] for row in rows} == {"0.01"}  # paper B has no schedule


def test_the_loss_goes_down(cascade_run):
    for region in REGIONS:
        first, last = (row["loss"] for row in cascade_run.history if row["region"] == region)
        assert last < first, region


def test_wt_tc_and_et_start_from_different_weights_and_stay_apart(cascade_run):
    wt, tc = (weights(f"{cascade_run.folder}/{home}") for home in ("wt", "tc"))
    assert wt.keys() == tc.keys()  # the same network
    kernels = [name for name in wt if wt[name].ndim == 5]
    assert kernels and not any(np.array_equal(wt[name], tc[name]) for name in kernels)


def test_running_again_does_nothing(copy, capsys, cascade_run):
    folder, settings = copy
    before = {name: time for name, time in files_of(folder).items() if "checkpoints" in name}
    assert whole_run.train(settings()) == cascade_run.history
    assert capsys.readouterr().out.count("nothing left to do") == 3
    assert before == {name: time for name, time in files_of(folder).items() if "checkpoints" in name}


# --- one at a time --------------------------------------------------------------------------------------


def test_one_region_at_a_time_and_a_death_on_the_way_end_with_the_weights_of_one_undisturbed_run(
    cascade_run, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"

    def settings(region):
        return config_of(cascade_run, f"run.dir={folder}", f"region={region}")

    whole_run.train(settings("wt"))
    assert "next: train TC and ET to the end too, with region=tc" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["wt"]

    real_step, calls = patch_step.train_step, []

    def dying_step(*arguments):
        one_step = real_step(*arguments)

        def call(batch):
            calls.append(1)
            if len(calls) == 5:  # in the second epoch, after one of its three steps
                raise KeyboardInterrupt
            return one_step(batch)

        return call

    monkeypatch.setattr(patch_step, "train_step", dying_step)
    with pytest.raises(KeyboardInterrupt):
        whole_run.train(settings("tc"))
    monkeypatch.undo()
    capsys.readouterr()
    history = whole_run.train(settings("tc"))
    said = capsys.readouterr().out
    assert "resumes     at epoch 2, step 2" in said and "network     msm TC" in said
    assert "msm WT" not in said and "next: train ET to the end too, with region=et" in said
    whole_run.train(settings("et"))
    assert "next: tfbrats export" in capsys.readouterr().out

    for home in HOMES:
        for which in ("last", "best"):
            assert same(weights(folder / home, which), weights(f"{cascade_run.folder}/{home}", which)), home
    assert history == [row for row in cascade_run.history if row["region"] == "TC"]
    # What the folder says of itself is of all three, whichever was trained last.
    kept = RunFolder(folder).config
    assert (
        kept.region == "all" and kept.model_copy(update={"run": cascade_run.config.run}) == cascade_run.config
    )


def trained_now(monkeypatch):
    """The regions that `whole_run.train` would train, instead of training them."""
    started = []
    monkeypatch.setattr(
        networks_in_turn, "_train_network", lambda training: started.append(training.recipe.region)
    )
    return started


def test_overwriting_one_region_deletes_that_one_alone(copy, monkeypatch):
    folder, settings = copy
    before, started = files_of(folder), trained_now(monkeypatch)
    whole_run.train(settings("region=tc"), overwrite=True)
    left = files_of(folder)
    assert started == ["TC"]
    # The new one's, and the lock.
    assert {name for name in left if name.startswith("tc/")} == {"tc/.training", "tc/trained_on.json"}
    kept = {name: time for name, time in before.items() if name.startswith(("wt/", "et/"))}
    assert len(kept) > 10 and kept.items() <= left.items()


def test_overwriting_one_region_with_another_config_or_split_deletes_nothing(copy, monkeypatch):
    """The other two networks would be of another run than it."""
    folder, settings = copy
    before, started = files_of(folder), trained_now(monkeypatch)
    with pytest.raises(InputError, match=r"train\.seed: 9, there 0\n.*--overwrite without region="):
        whole_run.train(settings("region=tc", "train.seed=9"), overwrite=True)
    assert files_of(folder) == before
    content = json.loads((folder / "splits.json").read_text())
    (folder / "splits.json").write_text(json.dumps({**content, "sha256": "another"}))
    before = files_of(folder)
    with pytest.raises(InputError, match="trained on another split"):
        whole_run.train(settings("region=tc"), overwrite=True)
    assert files_of(folder) == before and started == []


def test_overwriting_without_a_region_deletes_all_three(copy, monkeypatch):
    folder, settings = copy
    started = trained_now(monkeypatch)
    whole_run.train(settings("train.seed=9"), overwrite=True)
    assert started == list(REGIONS)
    of_networks = {name for name in files_of(folder) if name.startswith(("wt/", "tc/", "et/"))}
    assert of_networks == {f"{home}/{name}" for home in HOMES for name in (".training", "trained_on.json")}
    assert RunFolder(folder).config.train.seed == 9


def test_a_folder_that_is_no_run_is_not_overwritten_for_one_region(cascade_run, tmp_path, monkeypatch):
    started = trained_now(monkeypatch)
    (tmp_path / "tc").mkdir()
    (tmp_path / "tc" / "notes.txt").write_text("of a person")
    for region in ("all", "tc"):
        with pytest.raises(InputError, match="not empty, and not a run"):
            whole_run.train(config_of(cascade_run, f"run.dir={tmp_path}", f"region={region}"), overwrite=True)
    assert (tmp_path / "tc" / "notes.txt").read_text() == "of a person" and started == []


def test_a_run_can_be_made_longer_one_region_at_a_time(copy, monkeypatch):
    folder, settings = copy
    trained_now(monkeypatch)
    whole_run.train(settings("region=et", "train.epochs=5"))
    assert RunFolder(folder).config.train.epochs == 5
    with pytest.raises(InputError, match=r"model\.width: 2, there 4"):
        whole_run.train(settings("region=et", "model.width=2"))


# --- the recipe -----------------------------------------------------------------------------------------


def test_the_optimizer_is_the_papers(cascade_run):
    from tfbrats import config_file
    from tfbrats.training import recipes

    settings = config_file.load("msm.yaml")
    optimizer = recipes.PatchRecipe(settings, None, "WT").optimizer()
    assert isinstance(optimizer, keras.optimizers.Adam)
    found = (float(optimizer.learning_rate), optimizer.beta_1, optimizer.beta_2)
    assert found == pytest.approx((2e-4, 0.5, 0.9999))
    rates = {recipes.PatchRecipe(settings, None, "WT").schedule(epoch)["learning_rate"] for epoch in range(10)}
    assert rates == {2e-4}


def test_jitter_volumes_and_the_original_unet_train_too(patch_records, tmp_path):
    """One step of each, in one run: what the records hold is cut afresh, from shaken boxes, for x1 alone."""
    small = ("train.epochs=1", "train.steps_per_epoch=1", "model.width=2")
    own = ("model.name=unet3d", "sampling.box_jitter=3", "region=et")
    [row] = whole_run.train(patch_records.config("volumes", f"run.dir={tmp_path / 'run'}", *small, *own))
    assert row["region"] == "ET" and np.isfinite(row["loss"]) and 0 <= row["dice"] <= 1


def test_an_obvious_rise_ends_one_network_and_the_next_begins(patch_records, tmp_path, monkeypatch, capsys):
    """Each has a patience of its own."""
    losses = iter([1.0, 2.0, 2.0] * 3)
    scores = lambda sums: {"validation_loss": next(losses), "dice": 0.0}  # noqa: E731
    monkeypatch.setattr(patch_step, "validation_scores", scores)
    zeros = np.zeros(5)
    monkeypatch.setattr(patch_step, "train_step", lambda *_: lambda batch: {"loss": 0.5})
    monkeypatch.setattr(patch_step, "validation_step", lambda *_: lambda batch: tf.constant(zeros))
    small = ("train.epochs=9", "train.steps_per_epoch=1", "train.stop_rise=0.1", "train.stop_patience=2")
    history = whole_run.train(
        patch_records.config("patches", f"run.dir={tmp_path / 'run'}", *small, "model.width=2")
    )
    assert [row["region"] for row in history] == ["WT"] * 3 + ["TC"] * 3 + ["ET"] * 3
    assert capsys.readouterr().out.count("stopped: the validation loss stayed high for 2 epochs") == 3
    for home in HOMES:
        assert (tmp_path / "run" / home / "checkpoints" / "best" / "ckpt-1.index").exists()


def test_other_images_under_the_same_case_ids_are_refused(copy):
    folder, settings = copy
    kept = json.loads((folder / "tc" / "trained_on.json").read_text())
    kept["shards_sha256"] = "of other images"
    (folder / "tc" / "trained_on.json").write_text(json.dumps(kept))
    before = files_of(folder / "tc")
    with pytest.raises(InputError, match=r"tc: was trained on other records .* case ids are the same"):
        whole_run.train(settings("region=tc", "train.epochs=3"))
    assert files_of(folder / "tc") == before
    whole_run.train(settings("region=wt"))  # the others are as they were
