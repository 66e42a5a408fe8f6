"""Going on from a run or a model: the same weights, nothing of another network, nothing lost, all told."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import yaml

from tfbrats import config_file, networks
from tfbrats.errors import InputError
from tfbrats.exports import next_version
from tfbrats.labels import REGIONS
from tfbrats.predictions import model_card, seen
from tfbrats.runs import listing
from tfbrats.runs.folder import RunFolder
from tfbrats.training import best_weights, start_weights
from tfbrats.workflows import begun_from, whole_run

pytestmark = pytest.mark.slow  # two trainings and an export: over a minute

ONE_STEP = ("train.epochs=1", "train.steps_per_epoch=1")
TWO_STEPS = ("train.epochs=1", "train.steps_per_epoch=2")


@pytest.fixture(scope="module")
def source(record_set, tmp_path_factory) -> str:
    """A run of two steps. Read only, but for `model`, which is exported from it."""
    folder = str(tmp_path_factory.mktemp("source") / "base")
    whole_run.train(record_set.config(f"run.dir={folder}", *TWO_STEPS))
    return folder


@pytest.fixture(scope="module")
def model(source, tmp_path_factory) -> str:
    return str(pathlib.Path(next_version.export(source, tmp_path_factory.mktemp("models") / "base")).parent)


@pytest.fixture(scope="module")
def tuned(record_set, model, tmp_path_factory) -> str:
    """A run of one step that begins from the model, its encoder frozen. Read only."""
    folder = str(tmp_path_factory.mktemp("tuned") / "own")
    wanted = record_set.config(f"run.dir={folder}", *ONE_STEP, "train.frozen=encoder")
    whole_run.train(wanted, begun_from=model)
    return folder


def _best(record_set, folder: str) -> dict[str, np.ndarray]:
    settings = record_set.config(f"run.dir={folder}")
    network = best_weights.network_of(settings, "", best_weights.best_checkpoint(settings))
    return {variable.path: variable.numpy() for variable in network.variables}


def _start(settings, region="") -> dict[str, np.ndarray]:
    """Path -> the weights that a run's network begins with."""
    network = networks.build(settings, region=region)
    home = RunFolder(settings.run.dir).network(region)
    assert start_weights.restore(network, home.checkpoints_path("start"))
    return {variable.path: variable.numpy() for variable in network.variables}


def _same(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def _kept(folder) -> dict:
    return json.loads((pathlib.Path(folder) / "begun_from.json").read_text())


# --- the weights ----------------------------------------------------------------------------------------


def test_a_model_gives_the_weights_that_its_run_had_to_the_bit_though_its_graph_has_them_folded(
    record_set, source, tuned
):
    assert _same(_start(record_set.config(f"run.dir={tuned}")), _best(record_set, source))


def test_a_frozen_encoder_keeps_weights_and_moments_while_the_rest_learns(record_set, source, tuned):
    before, after = _best(record_set, source), _best(record_set, tuned)
    encoder = {path for path in before if path.split("_")[0] in ("e1", "e2", "e3", "e4", "e5")}
    assert {path.rpartition("/")[2] for path in encoder} >= {"kernel", "gamma", "moving_mean"}
    assert [path for path in encoder if not np.array_equal(before[path], after[path])] == []
    others = [path for path in before if path not in encoder]
    # (a bias before a normalisation has no gradient)
    still = [p for p in others if np.array_equal(before[p], after[p]) and not p.endswith("bias")]
    assert still == []


@pytest.mark.parametrize("name", ["cun", "unet2d", "bfcn", "drn", "unet3d", "msm", "msm_noaspp"])
def test_each_network_tells_its_encoder_and_the_heads_are_none_of_it(name):
    settings = config_file.load(name, ["model.width=4", "train.frozen=encoder"])
    network = networks.build(settings, region=settings.regions[0])
    frozen = [layer.name for layer in network.layers if not layer.trainable]
    assert frozen == [layer.name for layer in networks.encoder(network, settings)]
    weighted = [layer for layer in network.layers if layer.variables]
    assert weighted[0].name in frozen and weighted[-1].name not in frozen
    names = networks._file_of(settings).ENCODER
    used = {name.partition("_")[0] for name in frozen}
    assert used == set(names) - ({"bridge"} if name == "msm" else {"aspp"} if name == "msm_noaspp" else set())
    assert not any(variable.path.startswith("e1_") for variable in network.trainable_variables)


@pytest.mark.slow  # three networks are trained and exported; one is above
def test_each_region_of_a_cascade_begins_from_its_own_network(cascade_run, cascade_model, tmp_path):
    settings = config_file.overridden(cascade_run.config, [f"run.dir={tmp_path / 'own'}"])
    for region in REGIONS:
        start_weights.keep_of_model(settings, region, cascade_model)
        of_model = _start(settings, region)
        start_weights.keep_of_run(settings, region, cascade_run.folder)
        assert _same(of_model, _start(settings, region))


# --- what is refused ------------------------------------------------------------------------------------


def _changed(source, folder, file, change) -> str:
    """A copy of the run with one file changed."""
    shutil.copytree(source, folder)
    path = folder / file
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(json.dumps(content) if file.endswith("json") else yaml.safe_dump(content))
    return str(folder)


OTHERS = {
    "network": ("config.yaml", lambda c: c["model"].update(name="unet2d"), r"model\.name: cun, there unet2d"),
    "width": ("config.yaml", lambda c: c["model"].update(width=3), r"model\.width: 2, there 3"),
    "modalities": (
        "config.yaml",
        lambda c: c["data"].update(modalities=["flair", "t1"]),
        r"data\.modalities: .*there \['flair', 't1'\]",
    ),
    "order": (
        "config.yaml",
        lambda c: c["data"].update(modalities=["t1", "flair", "t1ce", "t2"]),
        r"data\.modalities: .*another order",
    ),
    "labels": (
        "records.json",
        lambda c: c.update(label_schemas=[{"edition": "x", "values": {"0": "BACKGROUND", "1": "NCR"}}]),
        r"labels: the records have NCR, ED, ET, there NCR",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_differs_is_named_before_anything_is_written(record_set, source, tmp_path, what):
    file, change, words = OTHERS[what]
    other = _changed(source, tmp_path / "other", file, change)
    settings = record_set.config(f"run.dir={tmp_path / 'own'}")
    with pytest.raises(InputError, match=words):
        whole_run.train(settings, begun_from=other)
    assert not (tmp_path / "own").exists()


def test_what_is_neither_run_nor_model_is_refused(record_set, source, tmp_path):
    settings = record_set.config(f"run.dir={tmp_path / 'own'}")
    with pytest.raises(InputError, match="neither a run"):
        whole_run.train(settings, begun_from=str(tmp_path))
    with pytest.raises(InputError, match="of which model"):
        whole_run.train(record_set.config(f"run.dir={tmp_path / 'own'}", "train.frozen=encoder"))
    with pytest.raises(InputError, match="began from nothing"):
        whole_run.train(record_set.config(f"run.dir={source}", *TWO_STEPS), begun_from=str(tmp_path))


def test_a_model_without_its_weights_says_what_to_do(record_set, model, tmp_path):
    version = pathlib.Path(model) / "1"
    shutil.copytree(version, tmp_path / "bare" / "1", ignore=shutil.ignore_patterns("*.npz"))
    with pytest.raises(InputError, match="Pass the run that it was exported from"):
        start_weights.keep_of_model(record_set.config(), "", tmp_path / "bare" / "1")


def test_what_has_no_weights_is_told_before_the_folder_is_a_run(record_set, source, model, tmp_path):
    shutil.copytree(pathlib.Path(model) / "1", tmp_path / "bare" / "1", ignore=shutil.ignore_patterns("*.npz"))
    shutil.copytree(source, tmp_path / "begun", ignore=shutil.ignore_patterns("best"))
    settings = record_set.config(f"run.dir={tmp_path / 'own'}")
    for name, words in (("bare", "holds no weights to train on"), ("begun", "no checkpoint yet")):
        with pytest.raises(InputError, match=words):
            whole_run.train(settings, begun_from=str(tmp_path / name))
    assert not (tmp_path / "own").exists()


# --- going on -------------------------------------------------------------------------------------------


def test_killed_at_any_moment_it_begins_with_these_weights_and_then_needs_the_model_no_more(
    record_set, source, tmp_path, monkeypatch, capsys
):
    copy = shutil.copytree(source, tmp_path / "base")
    settings = record_set.config(f"run.dir={tmp_path / 'own'}", *ONE_STEP)

    def killed(*_):
        raise KeyboardInterrupt

    real = RunFolder.write_begun_from

    def killed_with_hashes(self, content):
        return killed() if content["networks"] else real(self, content)

    # Before it is a run; before its weights are there; before their hash is.
    for holder, name, dying in (
        (RunFolder, "write_config", killed),
        (start_weights, "_keep", killed),
        (RunFolder, "write_begun_from", killed_with_hashes),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(holder, name, dying)
            with pytest.raises(KeyboardInterrupt):
                whole_run.train(settings, begun_from=str(copy))
    assert _kept(tmp_path / "own")["networks"] == {}
    with pytest.raises(InputError, match=r"began from .*base"):
        whole_run.train(settings, begun_from=source)

    with monkeypatch.context() as patched:  # after it
        patched.setattr("tfbrats.training.loop.Training.train_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            whole_run.train(settings)
    shutil.rmtree(copy)
    capsys.readouterr()
    whole_run.train(settings)
    assert "began from  the run base, epoch 1, sha256 " in capsys.readouterr().out
    assert _same(_start(settings), _best(record_set, source))
    whole_run.train(settings, begun_from=str(copy))  # the same command again
    assert "nothing left to do" in capsys.readouterr().out


# --- told -----------------------------------------------------------------------------------------------


def test_run_list_and_card_tell_what_it_began_from_and_whose_cases_it_has_seen(
    record_set, tuned, model, tmp_path
):
    kept = _kept(tuned)
    assert (kept["kind"], kept["name"], kept["version"]) == ("model", "base", 1)
    assert len(kept["networks"][""]["sha256"]) == 64
    (run,) = listing.find(tuned)[0]
    assert listing.notes([run], {}) == ["", "own: began from the model base version 1"]

    # As if the model had learned from another case.
    folder = shutil.copytree(tuned, tmp_path / "own")
    kept["seen"] = seen.hashes_of({"train": ["BraTS20_Training_777"], "validation": [], "test": []})
    (folder / "begun_from.json").write_text(json.dumps(kept))
    card = model_card.read(next_version.export(folder, tmp_path / "models" / "own"))
    told = card.training_data["begun_from"]
    assert told["name"] == "base" and "seen" not in told and model not in json.dumps(told)
    trained = record_set.manifest.cases["train"][0]
    kinds = seen.kinds_of(card.training_data, ["BraTS20_Training_777", trained, "BraTS20_Training_778"])
    assert list(kinds.values()) == ["train", "train", "unseen"]


def test_cases_that_trained_the_model_before_are_no_test_now(record_set, source):
    origin = begun_from.read(source)
    manifest = record_set.manifest
    assert begun_from.leaks(origin, manifest) == []
    swapped = {"train": manifest.cases["validation"], "validation": manifest.cases["train"]}
    (line,) = begun_from.leaks(origin, manifest.model_copy(update={"cases": swapped}))
    assert line.startswith("3 cases of the validation split trained base")


def test_the_weights_beside_the_graph_are_no_part_of_it(model):
    names = {path.name for path in (pathlib.Path(model) / "1").rglob("*") if path.is_file()}
    assert "training_weights.npz" in names
    loaded = tf.saved_model.load(str(pathlib.Path(model) / "1"))
    assert "serving_default" in loaded.signatures
