"""N4 in an exported model: raw scans get the answer of corrected ones; older models want these."""

import dataclasses
import json
import os
import pathlib
import shutil

import foreign
import numpy as np
import pytest
import tiny_model

import tfbrats
from beam_pipelines import segment_cases
from serving import server
from tfbrats import config_file, export, predict
from tfbrats.cases import case, preprocess
from tfbrats.datasets import layouts
from tfbrats.exports import next_version, saving
from tfbrats.inference.saved_model import SavedModel
from tfbrats.inference.saved_segmenter import SavedSegmenter
from tfbrats.labels import EDITIONS, MODALITIES
from tfbrats.machine import packing
from tfbrats.phantoms import data_sets
from tfbrats.predictions import model_card
from tfbrats.runs.folder import RunFolder
from tfbrats.workflows import whole_run

pytestmark = pytest.mark.slow  # a minute and a half; tests/graphs/test_bias_graph.py has the numbers

NAMED = ("t2", "t1")  # in another order than the channels


def with_n4(run_dir, folder, *overrides) -> str:
    """The run as if its records had been bias-corrected."""
    shutil.copytree(run_dir, folder)
    copy = RunFolder(folder)
    names = ("preprocess.n4_modalities=[t2, t1]", "preprocess.n4_shrink=2", *overrides)
    copy.write_config(config_file.overridden(RunFolder(run_dir).config, names))
    return str(folder)


@pytest.fixture(scope="module")
def trained(record_set, tmp_path_factory) -> str:
    """A run of a few steps."""
    folder = tmp_path_factory.mktemp("n4") / "run"
    few = ("train.epochs=1", "train.steps_per_epoch=4", "train.learning_rate=1e-3")
    whole_run.train(record_set.config(f"run.dir={folder}", *few))
    return str(folder)


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory) -> str:
    """The version's folder."""
    place = tmp_path_factory.mktemp("models")
    return next_version.export(with_n4(trained, place / "run", "preprocess.n4=ours"), place / "tiny")


@pytest.fixture(scope="module")
def old_model(trained, tmp_path_factory) -> str:
    """As it was: a graph without N4, and a card that names what the caller is to correct."""
    folder = next_version.export(trained, tmp_path_factory.mktemp("old") / "tiny")
    path = pathlib.Path(folder) / model_card.FILE
    n4 = tiny_model.of_caller(*NAMED).model_copy(update={"shrink": 2})
    path.write_text(tiny_model.old_text(model_card.read(folder).model_copy(update={"n4": n4})))
    assert json.loads(path.read_text())["n4_modalities"] == list(NAMED)
    return folder


@pytest.fixture(scope="module")
def plain(old_model) -> SavedModel:
    """Its graph: the same network, without N4."""
    return SavedModel(old_model)


@pytest.fixture(scope="module")
def segmenter(model) -> SavedSegmenter:
    """The model, loaded as `predict` loads it."""
    return SavedSegmenter(model)


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> pathlib.Path:
    """Cases of whole numbers, of two sizes."""
    folder = tmp_path_factory.mktemp("scans")
    data_sets.write_dataset(folder, 1, "2020", seed=3, shape=(48, 40, 24), first=1)
    data_sets.write_dataset(folder, 1, "2020", seed=4, shape=(41, 44, 33), first=2)
    return folder


def loaded(scans) -> list[case.Case]:
    return [case.load(entry, MODALITIES, read_label=False) for entry in layouts.find(scans).cases]


def by_hand(plain, image) -> dict:
    """The answer of the model without N4 to a float image [I, J, K, M]."""
    return plain("serving_default", {m: image[..., n] for n, m in enumerate(MODALITIES)})


def test_the_card_says_what_is_corrected_and_where(model):
    card = model_card.read(model)
    assert card.n4.model_dump() == {
        "modalities": NAMED,
        "shrink": 2,
        "by": "graph",
        "method": "tfbrats",
        "of_records": "tfbrats",
    }
    assert card.format == 2 and card.n4_of_caller == ()


def test_raw_scans_of_any_size_get_the_answer_of_the_corrected_ones(segmenter, plain, scans):
    for one in loaded(scans):
        assert one.image.dtype == np.int16
        found = segmenter.segment(one, probabilities=True)
        corrected = preprocess.correct_bias(one, NAMED, 2)
        expected = by_hand(plain, corrected)
        assert np.array_equal(found.labels, expected["segmentation"])
        assert np.array_equal(found.probabilities, expected["probabilities"])
        raw = by_hand(plain, one.image.astype(np.float32))["probabilities"]
        assert np.abs(found.probabilities - raw).max() > 1e-3  # what N4 changes is seen


def test_every_signature_of_a_whole_case_corrects(model, segmenter, scans):
    saved = SavedModel(model)
    one = loaded(scans)[0]
    volumes = {m: one.image[..., n] for n, m in enumerate(MODALITIES)}
    expected = segmenter.segment(one).labels  # by int16
    packed = {m: packing.packed(v) for m, v in volumes.items()} | {"plane": np.int32(one.image.shape[:2])}
    sent = {"serving_default": {m: v.astype(np.float32) for m, v in volumes.items()}, "gzip_int16": packed}
    for signature, inputs in sent.items():
        assert np.array_equal(saved(signature, inputs, ["segmentation"])["segmentation"], expected)
    both = {m: np.stack([v, v[::-1]]) for m, v in volumes.items()}
    of_two = saved("cases_int16", both, ["segmentation"])["segmentation"]
    assert np.array_equal(of_two[0], expected)
    turned = saved("int16", {m: v[::-1] for m, v in volumes.items()}, ["segmentation"])["segmentation"]
    assert np.array_equal(of_two[1], turned)


@pytest.mark.parametrize("what", ["nothing", "one value", "one voxel"])
def test_a_case_in_which_nothing_can_be_fitted_is_answered(segmenter, scans, what):
    volume = np.zeros((20, 18, 12), np.int16)
    if what == "one value":
        volume[3:-3, 3:-3, 3:-3] = 200
    if what == "one voxel":
        volume[9, 9, 6] = 200
    one = dataclasses.replace(loaded(scans)[0], image=np.stack([volume] * 4, axis=-1))
    assert segmenter.segment(one).labels.shape == volume.shape


def test_predict_and_beam_write_the_same_bytes_and_say_nothing_of_n4(model, scans, tmp_path, capsys):
    predict.main(["--model", model, "--input", str(scans), "--output", str(tmp_path / "p")])
    segment_cases.main(["--model", model, "--input", str(scans), "--output", str(tmp_path / "b")])
    assert "N4" not in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "p").glob("*.nii.gz"))
    assert len(names) == 2
    for name in names:
        assert (tmp_path / "p" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_client_of_another_language_sends_raw_scans_and_gets_the_labels_of_predict(model, scans, tmp_path):
    predict.main(["--model", model, "--input", str(scans), "--output", str(tmp_path)])
    with server.start(os.path.dirname(model)) as running:
        client = foreign.DescriptorsAlone(running.address)
        for one in loaded(scans):
            raw = {m: one.image[..., n].astype(np.float32) for n, m in enumerate(MODALITIES)}
            answer = client.ask(foreign.PREDICT, foreign.request(raw, outputs=["segmentation"]))
            tissues, _ = case.load_label(os.fspath(tmp_path / f"{one.case_id}.nii.gz"), EDITIONS["2020"])
            assert np.array_equal(foreign.labels(answer), EDITIONS["2020"].to_values(tissues, "p"))
        client.close()


def test_a_run_on_records_of_simpleitk_s_n4_corrects_in_its_graph_too_and_says_so(
    trained, tmp_path, capsys, monkeypatch
):
    for name in ("_save", "rehearse"):  # what takes most of the time
        monkeypatch.setattr(saving, name, lambda folder, *_: os.makedirs(folder, exist_ok=True))
    run = with_n4(trained, tmp_path / "run", "preprocess.n4=itk")
    export.main(["--run", run, "--output", str(tmp_path / "m")])
    assert "note: its records were corrected by SimpleITK's N4" in capsys.readouterr().out
    card = model_card.read(tmp_path / "m" / "1")
    assert (card.n4.by, card.n4.method, card.n4.of_records) == ("graph", "tfbrats", "SimpleITK")


# --- models exported before -----------------------------------------------------------------------------


def test_an_older_model_gets_scans_that_simpleitk_has_corrected_and_every_door_says_so(
    old_model, segmenter, plain, scans, tmp_path, capsys
):
    said = (
        "the model tiny version 1 was exported before models corrected the bias field themselves: "
        f"N4 of {', '.join(NAMED)} is done here, by SimpleITK"
    )
    predict.main(["--model", old_model, "--input", str(scans), "--output", str(tmp_path / "p")])
    assert f"note: {said}" in capsys.readouterr().out
    segment_cases.main(["--model", old_model, "--input", str(scans), "--output", str(tmp_path / "b")])
    assert f"note: {said}" in capsys.readouterr().out
    in_program = tfbrats.load_model(old_model)
    for one in loaded(scans):
        corrected = preprocess.correct_bias(one, NAMED, 2, n4="itk")
        expected = by_hand(plain, corrected)["segmentation"]
        with pytest.warns(UserWarning, match=said):
            found = in_program.segment(one)
        assert np.array_equal(found.labels, expected)
        # Today's model answers the same, but for what the two N4s differ.
        different = np.count_nonzero(segmenter.segment(one).tissues != found.tissues)
        assert different <= 0.001 * np.count_nonzero(one.image.any(axis=-1)), different
        written = [(tmp_path / folder / f"{one.case_id}.nii.gz").read_bytes() for folder in ("p", "b")]
        assert written[0] == written[1]
        tissues, _ = case.load_label(os.fspath(tmp_path / "p" / f"{one.case_id}.nii.gz"), EDITIONS["2020"])
        assert np.array_equal(EDITIONS["2020"].to_values(tissues, "p"), expected)
