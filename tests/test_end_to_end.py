"""The whole way: what training made, what was exported and what is served are one and the same."""

import csv
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import venv

import numpy as np
import pytest
import tensorflow as tf

from serving import server
from serving.client import Client
from tfbrats import predict
from tfbrats.cases import case
from tfbrats.cases.case import Case
from tfbrats.datasets import layouts
from tfbrats.exports import next_version, saving
from tfbrats.exports.chosen import chosen_from
from tfbrats.inference import saved_segmenter
from tfbrats.phantoms import data_sets
from tfbrats.predictions import model_card
from tfbrats.workflows import whole_run

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run_and_model(record_set, tmp_path_factory):
    root = tmp_path_factory.mktemp("parity")
    run = str(root / "run")
    whole_run.train(record_set.config(f"run.dir={run}", "train.epochs=1", "train.steps_per_epoch=3"))
    return run, next_version.export(run, root / "models" / "tiny")


def _three_ways(run: str, model: str, loaded: Case) -> list[np.ndarray]:
    """Tissues from the Keras model, from the SavedModel and over gRPC."""
    card = model_card.read(model)
    volumes = {name: tf.constant(array) for name, array in model_card.inputs(card, loaded).items()}
    answer = tf.function(saving.segmenter_of(chosen_from(run)))(volumes)
    keras_tissues = model_card.tissues(card, answer["segmentation"].numpy(), "keras")
    saved_tissues = saved_segmenter.SavedSegmenter(model).segment(loaded).tissues
    with server.start(os.path.dirname(model)) as running, Client(running.address, "tiny") as client:
        return [keras_tissues, saved_tissues, client.segment(loaded).tissues]


def test_three_ways_give_one_label_map_on_a_simulated_case(run_and_model, tmp_path):
    data_sets.write_dataset(tmp_path, 1, "2021", seed=9, shape=(50, 61, 19))
    maps = _three_ways(*run_and_model, case.load(layouts.find(tmp_path).cases[0]))
    assert 2 < len(np.unique(maps[0])) <= 4  # not an empty map that any three would agree on
    assert np.array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2])


@pytest.mark.slow  # the simulated case above goes the same ways
def test_three_ways_give_one_label_map_on_a_real_case(run_and_model, real_cases):
    maps = _three_ways(*run_and_model, case.load(layouts.find(real_cases).cases[0]))
    assert maps[0].shape == (240, 240, 155)
    assert 2 < len(np.unique(maps[0])) <= 4
    assert np.array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2])


@pytest.mark.slow  # a minute; test_export holds the cascade's two graphs together, tests/serving the server
def test_three_ways_give_one_cascade_on_a_simulated_case(cascade_run, cascade_model, tmp_path):
    """Labels, probabilities and the tiles that each stage ran, of a case that nothing was trained on."""
    data_sets.write_dataset(tmp_path, 1, "2021", seed=9, shape=(33, 30, 20))
    loaded = case.load(layouts.find(tmp_path).cases[0])
    card = model_card.read(cascade_model)
    inputs = model_card.inputs(card, loaded)
    segmenter = saving.segmenter_of(chosen_from(cascade_run.folder))
    ours = tf.function(segmenter)({name: tf.constant(array) for name, array in inputs.items()})
    assert len(np.unique(ours["segmentation"])) > 2 and np.all(ours["tiles"].numpy() > 1)
    saved = saved_segmenter.SavedSegmenter(cascade_model).segment(loaded, probabilities=True)
    with server.start(os.path.dirname(cascade_model)) as running, Client(running.address, "tiny_msm") as client:
        remote = client.segment(loaded)
    tissues = model_card.tissues(card, ours["segmentation"].numpy(), "keras")
    assert np.array_equal(tissues, saved.tissues) and np.array_equal(tissues, remote.tissues)
    assert saved.tiles.tolist() == remote.tiles.tolist() == ours["tiles"].numpy().tolist()
    assert np.allclose(saved.probabilities, ours["probabilities"], atol=1e-5)


def test_the_file_beside_a_segmentation_leads_back_to_the_run_s_records_and_config(run_and_model, tmp_path):
    run, model = run_and_model
    data_sets.write_dataset(tmp_path / "cases", 1, "2021", seed=9, shape=(50, 61, 19))
    out = tmp_path / "out"
    predict.main(["--model", model, "--input", str(tmp_path / "cases"), "--output", str(out), "--provenance"])
    (path,) = (path for path in out.glob("*.json") if path.name != model_card.FILE)
    told = json.loads(path.read_text())["model"]
    card = pathlib.Path(model) / model_card.FILE
    assert told["tfbrats_json_sha256"] == hashlib.sha256(card.read_bytes()).hexdigest()
    assert (
        told["records_sha256"]
        == json.loads((pathlib.Path(run) / "records.json").read_text())["manifest_sha256"]
    )
    config = json.dumps(json.loads(card.read_text())["training_data"]["config"], sort_keys=True)
    assert told["config_sha256"] == hashlib.sha256(config.encode()).hexdigest()


@pytest.mark.slow
def test_command_one_in_a_fresh_environment(tmp_path):
    """`pip install . && python -m tfbrats.demo` reaches a mean WT Dice of 0.85 on unseen cases."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(ROOT)], check=True)
    # From elsewhere: what runs is what was installed.
    command = [python, "-m", "tfbrats.demo"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    rows = list(csv.DictReader((tmp_path / "demo" / "metrics.csv").open()))
    dice = [float(row["dice"]) for row in rows if row["region"] == "WT"]
    assert len(dice) == 4
    assert np.mean(dice) >= 0.85
    assert "data:image/png;base64," in (tmp_path / "demo" / "report.html").read_text()
    for name in ("report.html", "metrics.csv", "predictions", "run", "models"):
        assert (tmp_path / "demo" / name).exists()
        assert name in ended.stdout
    # Again: nothing is trained twice, and the same scores come out.
    again = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0, again.stdout[-3000:]
    assert "nothing left to do" in again.stdout
    assert rows == list(csv.DictReader((tmp_path / "demo" / "metrics.csv").open()))


@pytest.mark.slow
def test_the_demo_of_paper_b_segments_unseen_cases_stage_by_stage(tmp_path):
    """Mean Dice over gRPC: WT 0.85, TC 0.75, ET 0.65 (what the demo promises)."""
    command = [sys.executable, "-m", "tfbrats.demo", "--method", "msm"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    rows = list(csv.DictReader((tmp_path / "demo_msm" / "metrics.csv").open()))
    for region, least in (("WT", 0.85), ("TC", 0.75), ("ET", 0.65)):
        dice = [float(row["dice"]) for row in rows if row["region"] == region]
        assert len(dice) == 4 and np.mean(dice) >= least, region
    assert (tmp_path / "demo_msm" / "cascade.csv").exists()
    assert "What each stage lost" in (tmp_path / "demo_msm" / "report.html").read_text()
