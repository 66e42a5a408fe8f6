"""Several runs, and mirrored inputs, as one model: what it answers, what its card tells, what is refused."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from serving import server
from serving.client import Client
from tfbrats import export
from tfbrats.cases import case
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.exports import next_version
from tfbrats.exports.chosen import chosen_from
from tfbrats.inference.saved_model import SavedModel
from tfbrats.inference.saved_segmenter import SavedSegmenter
from tfbrats.labels import MODALITIES
from tfbrats.phantoms import simulation
from tfbrats.predictions import model_card, seen
from tfbrats.workflows import whole_run


@pytest.fixture(scope="module")
def runs(record_set, tmp_path_factory):
    """Two runs of two steps: other weights, another width, another fold."""
    root = tmp_path_factory.mktemp("runs")
    for name, width in (("a", 2), ("b", 3)):
        config = record_set.config(
            f"run.dir={root / name}",
            *("train.epochs=1", "train.steps_per_epoch=2", f"model.width={width}", f"train.seed={width}"),
        )
        whole_run.train(config)
    path = root / "b" / "splits.json"
    splits = json.loads(path.read_text())
    splits["train"][0], splits["validation"][0] = splits["validation"][0], splits["train"][0]
    path.write_text(json.dumps({**splits, "sha256": "b" * 64}))
    return [str(root / name) for name in "ab"]


@pytest.fixture(scope="module")
def models(runs, tmp_path_factory):
    """Each run alone, both as one, and both on mirrored inputs."""
    root = tmp_path_factory.mktemp("models")
    asked = {"a": (runs[0], False), "b": (runs[1], False), "both": (runs, False), "flips": (runs, True)}
    return {
        name: next_version.export(which, root / name, flips=flips) for name, (which, flips) in asked.items()
    }


def _volumes(shape=(40, 44, 16)):
    image, _ = simulation.simulate(shape, seed=3, number=0)
    return {name: image[..., MODALITIES.index(name)].astype(np.int16) for name in MODALITIES}


def test_slices_are_the_mean_over_the_runs_and_over_the_mirrored_inputs(models):
    image = np.random.default_rng(0).normal(size=(2, 48, 48, 4)).astype(np.float32)
    answers = {name: SavedModel(folder)("slices", {"image": image}) for name, folder in models.items()}
    alone = [SavedModel(models[name]) for name in "ab"]
    for branch, found in answers["both"].items():
        assert np.abs(answers["a"][branch] - answers["b"][branch]).max() > 1e-3
        assert np.allclose(found, (answers["a"][branch] + answers["b"][branch]) / 2, atol=1e-5)
    mirrored = [
        np.flip(one("slices", {"image": np.ascontiguousarray(np.flip(image, axes))})["branch1"], axes)
        for one in alone
        for axes in ((), (1,), (2,), (1, 2))
    ]
    assert np.allclose(answers["flips"]["branch1"], np.mean(mirrored, axis=0), atol=1e-5)


def test_a_case_s_tumour_is_where_the_mean_says_so(models):
    volumes = _volumes()
    a, b, both = (SavedModel(models[name])("int16", volumes) for name in ("a", "b", "both"))
    mean = (a["probabilities"][..., 0] + b["probabilities"][..., 0]) / 2
    assert np.allclose(both["probabilities"][..., 0], mean, atol=1e-5)
    sure = np.abs(mean - 0.5) > 1e-4
    assert np.array_equal((both["segmentation"] > 0)[sure], (mean > 0.5)[sure])
    assert 0 < np.count_nonzero(both["segmentation"]) < np.count_nonzero(volumes["flair"])


def test_predict_and_the_embedded_server_answer_alike(models, record_set):
    loaded = case.load(layouts.find(record_set.cases).cases[0])
    local = SavedSegmenter(models["flips"]).segment(loaded, probabilities=True)
    with server.start(os.path.dirname(models["flips"])) as running, Client(running.address, "flips") as client:
        remote = client.segment(loaded, probabilities=True)
    assert np.array_equal(local.tissues, remote.tissues) and local.tissues.any()
    assert np.array_equal(local.probabilities, remote.probabilities)


def test_the_card_tells_the_cost_and_of_each_run_which_cases_did_not_train_it(models, runs, record_set):
    told = model_card.read(models["flips"])
    assert told.averaged.networks == 2 and told.averaged.passes == 8
    assert told.averaged.mirrored == ("L", "P", "LP")
    bytes_of = [
        sum(path.stat().st_size for path in (pathlib.Path(models[name]) / "variables").glob("*data*"))
        for name in ("a", "b", "both", "flips")
    ]
    assert bytes_of[2] == bytes_of[3] and bytes_of[2] < bytes_of[0] + bytes_of[1] + 2000
    assert 0.8 * bytes_of[2] < told.averaged.weights_bytes <= bytes_of[2]
    assert told.averaged.seconds > told.averaged.seconds_of_one > 0
    assert "2 runs of width 2, 3" in told.description
    assert model_card.read(models["a"]).averaged is None
    assert '"averaged"' not in model_card.read(models["a"]).to_json()

    data = told.training_data
    ids = [one.case_id for one in layouts.find(record_set.cases).cases]
    own = record_set.manifest.cases
    first, other = own["train"][0], own["validation"][0]
    assert set(seen.kinds_of(data, ids).values()) == {"train"}  # each trained one of the two
    assert data["cases"] == {"train": 4, "validation": 0, "test": 0}
    without = seen.runs_without(data, [*ids, "a_stranger"])
    assert without == {name: {first: ["b"], other: ["a"]}.get(name, []) for name in ids}
    assert "split_sha256" not in data and data["records_sha256"] == data["runs"][0]["records_sha256"]
    assert [run["name"] for run in data["runs"]] == ["a", "b"]
    assert all(run["scores"]["split"] == "validation" for run in data["runs"])
    assert not any(case_id in told.to_json() for case_id in ids)


def test_a_cascade_of_several_runs_descends_by_the_mean(cascade_run, cascade_model, tmp_path):
    """Of a run and its copy the mean is the run's own; patches are mirrored from left to right alone."""
    shutil.copytree(cascade_run.folder, tmp_path / "copy")
    both = [cascade_run.folder, str(tmp_path / "copy")]
    folder = next_version.export(both, tmp_path / "model")
    volumes = _volumes((33, 30, 20))
    alone, found = (SavedModel(one)("int16", volumes) for one in (cascade_model, folder))
    assert np.array_equal(alone["segmentation"], found["segmentation"]) and found["segmentation"].any()
    assert np.allclose(alone["probabilities"], found["probabilities"], atol=1e-5)
    assert np.array_equal(alone["tiles"], found["tiles"])
    assert chosen_from(both, flips=True).mirrors == ((), (0,))


def test_runs_that_make_no_one_model_are_refused_with_what_differs(runs, cascade_run, tmp_path):
    with pytest.raises(InputError, match="named twice"):
        chosen_from([runs[0], runs[0] + "/"])
    with pytest.raises(InputError, match=r"cannot be one model(?s:.)*model\.name: msm, there cun"):
        chosen_from([runs[0], cascade_run.folder])
    for old, new in (
        ("  enabled: true", "  enabled: false"),
        ("  - t2\n", ""),
        ("n4_modalities: []", "n4_modalities: [t1]"),
    ):
        other = tmp_path / f"other{len(list(tmp_path.iterdir()))}"
        shutil.copytree(runs[1], other)
        text = (other / "config.yaml").read_text()
        assert old in text
        (other / "config.yaml").write_text(text.replace(old, new))
        with pytest.raises(
            InputError, match=r"there is .*/a:(?s:.)*(lws\.enabled|data\.modalities|n4_modalit)"
        ):
            chosen_from([runs[0], other])
    path = other / "records.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "spacing_mm": [1, 1, 2]}))
    with pytest.raises(InputError, match="spacing_mm"):
        chosen_from([runs[0], other])


def test_runs_of_other_label_values_need_an_edition(runs, tmp_path):
    shutil.copytree(runs[1], tmp_path / "b")
    path = tmp_path / "b" / "records.json"
    content = json.loads(path.read_text())
    content["label_schemas"][0]["edition"] = "2021"
    path.write_text(json.dumps(content))
    both = [runs[0], str(tmp_path / "b")]
    with pytest.raises(InputError, match=r"label_schema.*--edition"):
        chosen_from(both)
    assert chosen_from(both, edition="2023").schema.edition == "2023"


def test_the_command_takes_run_or_runs(runs, capsys):
    for arguments in ((), ("--run", runs[0], "--runs", *runs)):
        with pytest.raises(SystemExit):
            export.main([*arguments, "--output", "m"])
        assert "--run" in capsys.readouterr().err
