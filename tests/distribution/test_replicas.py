"""The table of one step shared by several replicas: what it measures, that it holds, and that it can fail."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbrats.distribution import replicas as training_replicas

TABLE = pathlib.Path(__file__).parent.parent.parent / "benchmarks" / "replicas.py"


@pytest.fixture(scope="module")
def replicas():
    spec = importlib.util.spec_from_file_location("replicas", TABLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def step(loss, **gradients):
    return {"loss": np.array(loss), **{name: np.array(g, np.float32) for name, g in gradients.items()}}


def test_a_gradient_is_as_far_as_its_difference_by_its_norm(replicas):
    one = step(2.0, kernel=[3.0, 4.0], bias=[1.0])
    assert replicas.distances(one, one)[:3] == (0, 0, 0)
    found = replicas.distances(step(2.02, kernel=[3.0, 4.5], bias=[1.01]), one)
    whole = np.sqrt((0.5**2 + 0.01**2) / (3**2 + 4**2 + 1))
    assert found == (pytest.approx(0.01), pytest.approx(whole), pytest.approx(0.1), "kernel")
    # The sign counts: gradients that are left out or turned round are as far as they are long, or twice.
    assert replicas.distances(step(2.0, kernel=[-3.0, -4.0], bias=[1.0]), one)[2] == 2


def test_a_gradient_that_is_nothing_but_rounding_is_measured_by_the_whole(replicas):
    one = step(1.0, kernel=[3.0, 4.0], bias=[1e-9])
    assert replicas.distances(step(1.0, kernel=[3.0, 4.0], bias=[-1e-9]), one)[2] < 1e-6
    assert replicas.distances(step(1.0, kernel=[3.0, 4.0], bias=[1.0]), one)[2] > 100


@pytest.mark.parametrize("name", ["cun_lws", "msm WT"])
def test_the_shares_of_a_made_up_batch_differ(replicas, name):
    config, _ = replicas.load(name, "synchronised")
    batch = replicas.made_up(config, 12)
    tumour = batch.get("label", batch.get("target"))
    counts = np.sum(tumour > 0, axis=tuple(range(1, tumour.ndim)))
    assert len(set(counts)) > 6
    assert batch["valid"].tolist() == [1] * 11 + [0]


def test_the_table_names_all_the_networks_that_there_are(replicas):
    loaded = [replicas.load(name, "synchronised") for name in replicas.NETWORKS]
    assert [f"{config.model.name} {region}".strip() for config, region in loaded] == [
        *("cun", "cun", "unet2d", "bfcn", "drn"),
        *("msm WT", "msm ET", "msm_noaspp WT", "unet3d WT"),
    ]


def table(path, *options):
    arguments = [sys.executable, str(TABLE), "--batch", "4", "--json", str(path), *options]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    rows = {row["shared_by"]: row for row in json.loads(path.read_text())}
    return ended.returncode, rows, ended.stdout


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("unet2d", "replicas"),
        pytest.param("unet2d", "workers", marks=pytest.mark.slow),
        pytest.param("msm_noaspp", "replicas", marks=pytest.mark.slow),
        pytest.param("msm_noaspp", "workers", marks=pytest.mark.slow),
    ],
)
def test_two_that_share_a_batch_take_the_step_of_one(tmp_path, name, way):
    others = ("--replicas", "--workers", "2") if way == "workers" else ("--replicas", "2")
    code, rows, said = table(tmp_path / "table.json", "--only", name, *others)
    assert code == 0, said
    assert set(rows) == {"same, other order", f"2 {way}"}
    assert all(row["same"] for row in rows.values())


@pytest.mark.slow
def test_batch_normalisation_per_replica_is_told_apart(tmp_path):
    options = ("--only", "unet2d", "--replicas", "2", "--batch-norm", "per_replica")
    code, rows, said = table(tmp_path / "table.json", *options)
    assert code == 1 and "DIFFERENT" in said
    assert rows["same, other order"]["same"]
    assert rows["2 replicas"]["gradient"] > 0.05


# --- the update -----------------------------------------------------------------------------------------


def updated(optimizer, steps=20):
    """The weights and the optimizer's own variables before and after some made-up gradients."""
    random = np.random.default_rng(0)
    weights = [keras.Variable(random.normal(size=shape).astype(np.float32)) for shape in ((50, 7), (3,))]
    optimizer.build(weights)
    before = [variable.numpy() for variable in (*weights, *optimizer.variables)]
    step = tf.function(lambda gradients: optimizer.apply_gradients(zip(gradients, weights, strict=True)))
    for _ in range(steps):
        step([tf.constant(random.normal(size=weight.shape), tf.float32) for weight in weights])
    return before, [variable.numpy() for variable in (*weights, *optimizer.variables)]


@pytest.mark.parametrize(
    ("name", "rates", "apart"),
    # Of the largest change of a variable. Adam's: 1 - beta2 in float32, where Keras has float64.
    [("SGD", (0.1, 0.9), 1e-6), ("SGD", (0.1, 0.0), 1e-6), ("Adam", (1e-3, 0.5, 0.9999), 3e-4)],
)
def test_an_update_is_keras_own(name, rates, apart):
    _, found = updated(getattr(training_replicas, name)(*rates))
    before, wanted = updated(getattr(keras.optimizers, name)(*rates))
    for start, one, other in zip(before, found, wanted, strict=True):
        assert np.abs(one - other).max() <= apart * np.abs(other - start).max()


def test_an_updates_variables_are_named_as_keras_names_them():
    weights = [keras.Variable(np.zeros(3, np.float32), name="kernel")]
    for name in ("SGD", "Adam"):
        one, other = (getattr(of, name)(0.1) for of in (training_replicas, keras.optimizers))
        one.build(weights)
        other.build(weights)
        assert [v.name for v in one.variables] == [v.name for v in other.variables]
