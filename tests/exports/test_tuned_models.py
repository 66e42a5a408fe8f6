"""A run with tuned.json as a model: every rule in its graph, the same files everywhere, told by its card."""

import dataclasses
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import untrained

from beam_pipelines import segment_cases
from serving import client, server
from tfbrats import export, predict
from tfbrats.cases import boxes
from tfbrats.cases.nifti import read
from tfbrats.datasets import layouts
from tfbrats.errors import InputError
from tfbrats.exports import next_version, saving
from tfbrats.exports.chosen import chosen_from
from tfbrats.inference.saved_model import SavedModel
from tfbrats.labels import MODALITIES, REGIONS
from tfbrats.phantoms import data_sets, simulation
from tfbrats.predictions import model_card
from tfbrats.training import best_weights
from tfbrats.tuning import rules, tuned_file
from tfbrats.tuning.choices import Pieces, Tuned

SHAPE = (40, 44, 16)
WORTH = tuned_file.Worth(gain=0.03, low=0.01, high=0.05)


def volumes() -> dict[str, np.ndarray]:
    image, _ = simulation.simulate(SHAPE, seed=3, number=0)
    return {name: image[..., MODALITIES.index(name)].astype(np.float32) for name in MODALITIES}


def evidence_of(run) -> dict[str, np.ndarray]:
    segmenter = saving.segmenter_of(chosen_from(run))
    case = {name: tf.constant(volume) for name, volume in volumes().items()}
    return {name: tensor.numpy() for name, tensor in tf.function(segmenter.evidence)(case).items()}


def tune(run: str, tuned: Tuned, weights=None) -> None:
    """Writes tuned.json as `tfbrats tune` does."""
    checkpoints = chosen_from(run).members[0].checkpoints.values()
    hashes = sorted(map(best_weights.sha256_of, checkpoints)) if weights is None else weights
    names = dict.fromkeys(tuned.to_json(), WORTH)
    content = tuned_file.TunedFile(
        tuned=tuned.to_json(),
        chosen=names,
        others={},
        whole=WORTH,
        scores={},
        criterion="dice",
        meaning="Dice",
        cases=("Case_4",),
        patients=1,
        seed=0,
        weights=tuple(hashes),
    )
    tuned_file.write(run, content)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    small = ("records.slice_shape=[48, 48]", "preprocess.n4_modalities=[]")
    return untrained.write(tmp_path_factory.mktemp("runs") / "cun", *small, row="cun.yaml")


@pytest.fixture(scope="module")
def every_rule(run) -> Tuned:
    """Half of the brain is tumour by the offset, and each rule that follows changes the answer."""
    odds, brain = (evidence_of(run)[name] for name in ("odds", "brain"))
    return Tuned(
        offset=-float(np.median(odds[brain])),
        veto=True,
        pieces={
            "WT": Pieces(least_voxels=30),
            "TC": Pieces(least_highest=0.01),
            "ET": Pieces(largest_alone=True),
        },
        filled=("WT", "TC", "ET"),
        least_et_voxels=3,
    )


@pytest.fixture(scope="module")
def model(run, every_rule, tmp_path_factory) -> str:
    tune(run, every_rule)
    return next_version.export(run, tmp_path_factory.mktemp("models") / "cun")


def test_the_graph_answers_as_the_rules_do_in_numpy(run, model, every_rule):
    evidence = evidence_of(run)
    answer = SavedModel(model)("serving_default", volumes())
    box = tuple(map(tuple, evidence["box"]))
    tissues = rules.tissues_of(rules.decide(evidence, every_rule))
    expected = boxes.uncrop(tissues, box, tuple(evidence["shape"]))
    schema = model_card.read(model).schema_of_labels
    assert np.array_equal(answer["segmentation"], schema.to_values(expected, "x")) and expected.any()
    assert np.array_equal(answer["probabilities"][..., 0] >= 0.5, expected > 0)


def test_predict_client_and_beam_write_the_same_files(model, tmp_path):
    data_sets.write_dataset(tmp_path / "cases", 2, "2021", seed=9, shape=SHAPE)
    cases, *others = (str(tmp_path / name) for name in ("cases", "local", "remote", "beam"))
    predict.main(["--model", model, "--input", cases, "--output", others[0]])
    with server.start(os.path.dirname(model)) as running:
        where = ["--server", running.address, "--model-name", "cun"]
        client.main([*where, "--input", cases, "--output", others[1]])
    segment_cases.main([f"--model={model}", f"--input={cases}", f"--output={others[2]}"])
    ids = [entry.case_id for entry in layouts.find(cases).cases]
    for case_id in ids:
        first, *more = (pathlib.Path(folder, f"{case_id}.nii.gz").read_bytes() for folder in others)
        assert more == [first, first], case_id
    assert any(read(f"{others[0]}/{case_id}.nii.gz").array.any() for case_id in ids)


def test_the_card_tells_the_choices_and_their_worth(model, every_rule):
    card = model_card.read(model)
    assert Tuned.from_json(card.tuned.choices, "card") == every_rule
    assert list(card.tuned.lines) == every_rule.lines
    assert "ET of fewer than 3 voxels becomes NCR. Chosen on 1 case for Dice: +0.030" in card.tuned.text
    assert SavedModel(model)("describe", {"file": model_card.FILE})["content"] == card.to_json().encode()


@pytest.mark.slow  # two exports more
def test_a_plain_model_answers_as_one_of_a_run_without_choices(run, model, tmp_path, capsys):
    export.main(["--run", run, "--output", str(tmp_path / "plain"), "--plain"])
    assert "tuned" not in capsys.readouterr().out
    path = pathlib.Path(tuned_file.path_in(run))
    kept = path.read_bytes()
    path.unlink()
    try:
        bare = next_version.export(run, tmp_path / "bare")
    finally:
        path.write_bytes(kept)
    plain = str(tmp_path / "plain" / "1")
    first, second = (SavedModel(each)("serving_default", volumes()) for each in (plain, bare))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    text = model_card.read(plain).to_json()
    assert (
        '"tuned"' not in text and text == model_card.read(bare).model_copy(update={"name": "plain"}).to_json()
    )
    other = SavedModel(model)("serving_default", volumes())
    assert not np.array_equal(first["segmentation"], other["segmentation"])


def test_choices_of_other_weights_or_of_another_kind_are_refused(run, every_rule, tmp_path):
    tune(run, every_rule, weights=("0" * 64,))
    with pytest.raises(InputError, match=r"tuned\.json: was chosen with other weights(?s:.)*--plain"):
        next_version.export(run, tmp_path / "m")
    tune(run, Tuned(thresholds={"WT": 0.4}))
    with pytest.raises(InputError, match="thresholds chosen"):
        next_version.export(run, tmp_path / "m")
    assert not os.path.exists(tmp_path / "m")
    tune(run, every_rule)


@pytest.mark.slow  # three networks are traced twice; rules_graph's own tests have its kind of evidence
def test_a_cascade_with_every_rule_answers_as_numpy_does(tmp_path):
    run = untrained.write(tmp_path / "msm", "sampling.patch_size=16", "cascade.stride=16", row="smoke_3d.yaml")
    plain = evidence_of(run)
    inside = plain["regions"][plain["brain"]]
    levels = {region: float(np.quantile(inside[:, n], 0.5)) for n, region in enumerate(REGIONS)}
    tuned = Tuned(
        thresholds=levels,
        floor=min(levels.values()) / 2,
        pieces={
            "WT": Pieces(least_voxels=9),
            "TC": Pieces(largest_alone=True),
            "ET": Pieces(least_highest=0.4),
        },
        filled=("WT", "TC", "ET"),
        least_et_voxels=3,
    )
    tune(run, tuned)
    chosen = chosen_from(run, plain=False)
    segmenter = saving.segmenter_of(chosen)
    case = {name: tf.constant(volume) for name, volume in volumes().items()}
    evidence = {name: tensor.numpy() for name, tensor in tf.function(segmenter.evidence)(case).items()}
    assert evidence["tiles"][2] > 0
    masks = rules.decide(evidence, tuned.in_cascade(0.5))
    answer = tf.function(segmenter)(case)
    box = tuple(map(tuple, evidence["box"]))
    for n, region in enumerate(REGIONS):
        expected = boxes.uncrop(masks[region], box, tuple(evidence["shape"]))
        assert np.array_equal(answer["probabilities"][..., n] >= np.float32(levels[region]), expected), region
    with pytest.raises(InputError, match=r"own cascade\.threshold.*--plain"):
        chosen_from(run, overrides=["cascade.threshold=0.4"], plain=False)
    assert dataclasses.replace(chosen, tuning=None).tuned.is_plain
