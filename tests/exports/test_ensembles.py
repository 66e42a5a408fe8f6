"""Several runs, and mirrored inputs, as one model: what it answers, what its card tells, what is refused."""

import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tiny_model
import untrained

from serving import client, server
from tfbrats import evaluate, export, predict, report
from tfbrats.cases import nifti
from tfbrats.errors import InputError
from tfbrats.exports import card, next_version, saving
from tfbrats.exports.chosen import chosen_from
from tfbrats.inference.ensemble import members_of
from tfbrats.inference.saved_model import SavedModel
from tfbrats.labels import MODALITIES, REGIONS
from tfbrats.phantoms import data_sets, simulation
from tfbrats.predictions import model_card, one_by_one, results, seen
from tfbrats.training import best_weights

A, B = (
    {"train": ["Case_1", "Case_2"], "validation": ["Case_3"], "test": ["Case_9"]},
    {"train": ["Case_2", "Case_3"], "validation": ["Case_1"], "test": ["Case_9"]},
)
SHAPE = (40, 44, 16)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs: other weights, another width, another fold."""
    root = tmp_path_factory.mktemp("runs")
    asked = ((root / "a", 2, A), (root / "b", 3, B))
    return [
        untrained.write(path, f"model.width={width}", f"train.seed={width}", splits=splits)
        for path, width, splits in asked
    ]


@pytest.fixture(scope="module")
def model(runs, tmp_path_factory):
    """Both runs on mirrored inputs, as one model."""
    return next_version.export(runs, tmp_path_factory.mktemp("models") / "both", flips=True)


@pytest.fixture(scope="module")
def answer(model):
    """To a simulated case."""
    image, _ = simulation.simulate(SHAPE, seed=3, number=0)
    volumes = {name: image[..., MODALITIES.index(name)].astype(np.int16) for name in MODALITIES}
    return SavedModel(model)("int16", volumes)


def test_slices_are_the_mean_over_the_runs_and_over_the_mirrored_inputs(runs, model):
    image = np.random.default_rng(0).normal(size=(2, 48, 48, 4)).astype(np.float32)
    each = []
    for run in chosen_from(runs).members:
        network = best_weights.network_of(run.config, "", run.checkpoints[""])
        for axes in ((), (1,), (2,), (1, 2)):
            logits = network(np.flip(image, axes), training=False)["logits"]
            each.append(np.flip(tf.nn.softmax(logits), axes))
    assert np.std(each, axis=0).max() > 1e-3
    found = SavedModel(model)("slices", {"image": image})["classes"]
    assert np.allclose(found, np.mean(each, axis=0), atol=1e-5)


def test_predict_and_the_client_write_the_same_files_uncertainty_too_and_the_report_tells_its_worth(
    model, tmp_path
):
    (case_id,) = data_sets.write_dataset(tmp_path / "cases", 1, "2021", seed=9, shape=SHAPE)
    cases, local, remote = (str(tmp_path / name) for name in ("cases", "local", "remote"))
    asked = ("--input", cases, "--probabilities", "--uncertainty", "--output")
    predict.main(["--model", model, *asked, local])
    with server.start(os.path.dirname(model)) as running:
        where = ("--server", running.address, "--model-name", "both", "--input", cases, "--uncertainty")
        client.main([*where, "--output", remote])
    names = [f"{case_id}{end}.nii.gz" for end in ("", *results.UNCERTAINTY.values())]
    for name in names:
        assert pathlib.Path(local, name).read_bytes() == pathlib.Path(remote, name).read_bytes(), name
    chance = nifti.read(f"{local}/{case_id}_probabilities.nii.gz").array
    for region, name in enumerate(names[1:]):
        found = nifti.read(f"{local}/{name}").array
        p = np.clip(chance[..., region].astype(np.float64), 1e-12, 1 - 1e-12)
        bits = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
        assert found.dtype == np.uint8 and np.abs(found - 100 * bits).max() <= 0.51 and found.max() > 5

    nested = tmp_path / "nested"
    shutil.copytree(local, nested / "fold0")
    for prediction in (local, str(nested)):
        scores, page = f"{prediction}_scores", pathlib.Path(f"{prediction}_report.html")
        of = ("--prediction", prediction, "--reference", cases)
        evaluate.main([*of, "--output", scores])
        report.main(["--scores", scores, *of, "--output", str(page), "--pictures", "0"])
        text = page.read_text()
        assert "Does uncertainty point at errors?" in text and "of 1 cases with maps" in text


def test_the_entropy_is_an_output_that_is_not_computed_unless_it_is_asked_for(model, answer):
    assert answer["entropy"].shape == (*SHAPE, 3)
    asked = model_card.outputs(model_card.read(model), "int16")
    assert asked == ["segmentation"]
    assert model_card.outputs(model_card.read(model), "int16", uncertainty=True) == [*asked, "entropy"]


def test_one_network_that_sees_a_case_once_does_not_tell_how_sure_it_is():
    with pytest.raises(InputError, match=r"--uncertainty: .*--flips, or several runs with --runs"):
        model_card.check_is_average(tiny_model.card())


def test_the_card_tells_what_it_costs(model):
    told = model_card.read(model)
    assert (told.averaged.networks, told.averaged.passes) == (2, 8)
    assert told.averaged.mirrored == ("L", "P", "LP")
    (variables,) = pathlib.Path(model, "variables").glob("*data*")
    assert 0.8 * variables.stat().st_size < told.averaged.weights_bytes <= variables.stat().st_size
    assert told.averaged.seconds > told.averaged.seconds_of_one > 0
    assert "8 passes a slice or tile" in told.averaged.text
    assert "2 runs of width 2, 3" in told.description


def test_a_card_of_one_network_is_as_older_versions_read_it(runs):
    told = card.card_of(chosen_from(runs[0]), "a", 1, signatures=())
    assert told.averaged is None and '"averaged"' not in told.to_json() and "runs" not in told.training_data


def test_the_card_tells_of_each_run_which_cases_did_not_train_it(model):
    told = model_card.read(model)
    data = told.training_data
    assert seen.kinds_of(data, ["Case_1", "Case_2", "Case_3", "Case_9", "x"]) == {
        **dict.fromkeys(("Case_1", "Case_2", "Case_3"), "train"),
        **{"Case_9": "test", "x": "unseen"},
    }
    assert data["cases"] == {"train": 3, "validation": 0, "test": 1}
    assert seen.runs_without(data, ["Case_1", "Case_2", "Case_3", "Case_9", "x"]) == {
        "Case_1": ["b"],
        "Case_2": [],
        "Case_3": ["a"],
        "Case_9": ["a", "b"],
    }
    said = one_by_one._left_out_by_some(told, ["Case_1", "Case_2", "Case_3", "Case_9", "x"])
    assert said == ". 2 of them trained some of its 2 runs and not others: its card tells which"
    assert "split_sha256" not in data and data["records_sha256"] == "a" * 64
    assert [run["name"] for run in data["runs"]] == ["a", "b"]
    assert all(run["scores"]["dice_wt"] == 0.5 for run in data["runs"])
    assert "Case_" not in told.to_json()


def test_a_cascade_of_several_runs_descends_by_the_mean_and_is_mirrored_from_left_to_right(tmp_path):
    both = [
        untrained.write(tmp_path / name, f"train.seed={seed}", "sampling.patch_size=16", row="smoke_3d.yaml")
        for seed, name in enumerate("ab")
    ]
    chosen = chosen_from(both, flips=True)
    assert chosen.mirrors == ((), (0,))
    segmenter = saving.segmenter_of(chosen)
    patch = np.random.default_rng(0).normal(size=(1, 16, 16, 16, 12)).astype(np.float32)
    for region in REGIONS:
        each = [
            np.flip(tf.sigmoid(network(np.flip(patch, axes), training=False)["logits"]), axes)
            for network in members_of(segmenter.networks[region])
            for axes in ((), (1,))
        ]
        assert len(each) == 4 and np.std(each, axis=0).max() > 1e-4
        assert np.allclose(
            segmenter.patches(region, tf.constant(patch))["probabilities"], np.mean(each, axis=0)
        )


@pytest.mark.parametrize(
    ("differs", "other"),
    [
        ("model.name: unet2d, there cun", {"row": "unet2d.yaml"}),
        ("lws.enabled: False, there True", {"row": "cun.yaml"}),
        ("sampling: ", {"row": "smoke_3d.yaml"}),
        ("data.modalities: ", {"overrides": ["data.modalities=[flair,t1,t1ce]"]}),
        ("preprocess.n4_modalities: ", {"overrides": ["preprocess.n4_modalities=[t1]"]}),
        ("records.slice_shape: ", {"overrides": ["records.slice_shape=[64,64]"]}),
        ("label_schema.edition: 2021, there 2020", {"edition": "2021"}),
    ],
)
def test_runs_that_make_no_one_model_are_refused_with_what_differs(differs, other, tmp_path):
    overrides = other.pop("overrides", ())
    first = untrained.write(tmp_path / "a", row="cun_lws.yaml", weights=False)
    second = untrained.write(
        tmp_path / "b", "model.width=4", *overrides, weights=False, **{"row": "cun_lws.yaml", **other}
    )
    with pytest.raises(InputError, match="cannot be one model") as caught:
        chosen_from([first, second])
    assert f"{second}: {differs}" in str(caught.value) and "model.width" not in str(caught.value)
    assert ("--edition" in str(caught.value)) == ("edition" in other)


def test_other_label_values_are_no_fault_where_others_are_written_and_a_run_counts_once(tmp_path):
    first, second = (
        untrained.write(tmp_path / edition, edition=edition, weights=False) for edition in ("2020", "2021")
    )
    assert chosen_from([first, second], edition="2023").schema.edition == "2023"
    assert chosen_from([first, second], any_labels=True).schema.edition == "2020"  # tune writes none
    with pytest.raises(InputError, match="named twice"):
        chosen_from([first, f"{first}/"])


def test_a_copy_of_a_run_is_that_run(runs, tmp_path):
    copy = shutil.copytree(runs[0], tmp_path / "copy")
    with pytest.raises(InputError, match=f"{copy}: has the weights of {runs[0]}, as a copy has"):
        next_version.export([runs[0], copy], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_command_takes_run_or_runs(runs, capsys):
    for arguments in ((), ("--run", runs[0], "--runs", *runs)):
        with pytest.raises(SystemExit):
            export.main([*arguments, "--output", "m"])
        assert "--run" in capsys.readouterr().err
