"""A SavedModel in a Session, as the server has it."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_model
from tensorflow.python.util import deprecation

from tfbrats.inference.saved_model import SavedModel
from tfbrats.labels import MODALITIES
from tfbrats.machine import packing
from tfbrats.phantoms import simulation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def volumes():
    image, _ = simulation.simulate((32, 32, 24), seed=0, number=0)
    return {name: image[..., MODALITIES.index(name)].astype(np.int16) for name in MODALITIES}


def test_what_is_asked_for_comes_by_name(folder, volumes):
    model = SavedModel(folder)
    alone = model("int16", volumes, ["segmentation"])
    assert list(alone) == ["segmentation"]
    assert set(model("int16", volumes)) == {"segmentation", "probabilities"}
    expected = np.array([0, 1, 2, 4])[tiny_model.tissues_by_rule(volumes)]
    assert np.array_equal(alone["segmentation"], expected)
    packed = {name: packing.packed(volume) for name, volume in volumes.items()}
    plane = np.array(volumes["t1"].shape[:2], np.int32)
    as_gzip = model("gzip_int16", {"plane": plane, **packed}, ["segmentation"])
    assert np.array_equal(as_gzip["segmentation"], expected)


def test_names_that_it_does_not_know_are_errors_and_leave_no_trace(folder, volumes):
    model = SavedModel(folder)
    for ask in (
        lambda: model("none", volumes),
        lambda: model("int16", {**volumes, "dwi": volumes["t1"]}),
        lambda: model("int16", volumes, ["certainty"]),
    ):
        with pytest.raises(KeyError):
            ask()
    assert set(model("int16", volumes)) == {"segmentation", "probabilities"}


def test_fractions_are_not_cut_off(folder, volumes):
    with pytest.raises(TypeError, match="t2: expected int16, found float32"):
        SavedModel(folder)("int16", {**volumes, "t2": volumes["t2"].astype(np.float32)})


def test_a_run_ends_when_its_time_is_over(folder):
    model = SavedModel(folder)
    assert model("spin", {"rounds": np.int64(10)}, seconds=60)["done"] == 10
    with pytest.raises(tf.errors.DeadlineExceededError):
        model("spin", {"rounds": np.int64(10**12)}, seconds=0.2)


def test_what_the_graph_refuses_is_an_error_and_the_model_goes_on(folder, volumes):
    model = SavedModel(folder)
    bright = {**volumes, "t2": np.full_like(volumes["t2"], tiny_model.TOO_BRIGHT)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="t2 is too bright"):
        model("int16", bright)
    assert model("int16", volumes)["segmentation"].shape == volumes["t1"].shape


@pytest.mark.parametrize("how", ["missing", "empty", "cut"])
@pytest.mark.parametrize("what", ["saved_model.pb", "variables/variables.index"])
def test_a_folder_that_lacks_a_part_cannot_be_loaded(what, how, tmp_path):
    folder = tiny_model.write(tmp_path)
    content = (folder / what).read_bytes()
    (folder / what).unlink()
    if how != "missing":
        (folder / what).write_bytes(content[: 0 if how == "empty" else len(content) // 2])
    with pytest.raises((OSError, ValueError, RuntimeError, tf.errors.OpError)):
        SavedModel(folder)


def test_closed_it_answers_no_more(folder, volumes):
    model = SavedModel(folder)
    model.close()
    with pytest.raises(RuntimeError, match="closed"):
        model("int16", volumes)


def test_loading_prints_nothing_about_deprecation(folder, caplog, monkeypatch):
    monkeypatch.setattr(deprecation, "_PRINTED_WARNING", {})  # TensorFlow says it once
    with caplog.at_level("WARNING", "tensorflow"):
        SavedModel(folder)
    assert not [record for record in caplog.records if "deprecated" in record.getMessage()]
