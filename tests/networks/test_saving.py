"""Keras' own files: each network is written, read where only `tfbrats.networks` is imported, and is itself."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from tfbrats import config_file, networks
from tfbrats.networks import blocks

ROOT = pathlib.Path(__file__).parent.parent.parent
NETWORKS = {
    "unet2d": ("unet2d", ""),
    "bfcn": ("bfcn", ""),
    "drn": ("drn", ""),
    "cun": ("cun", ""),
    "cun_lws": ("cun_lws", ""),
    "unet3d": ("unet3d", "WT"),
    "msm_wt": ("msm", "WT"),
    "msm_tc": ("msm", "TC"),
    "msm_et": ("msm", "ET"),
    "msm_noaspp_wt": ("msm_noaspp", "WT"),
    "msm_noaspp_et": ("msm_noaspp", "ET"),
}
LOADING = """
import pathlib, sys
import keras, numpy as np
import tfbrats.networks
folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.glob("*.keras")):
    network = keras.models.load_model(path)
    outputs = network(np.load(path.with_suffix(".image.npy")), training=False)
    np.savez(path.with_suffix(".again.npz"), **{name: np.asarray(value) for name, value in outputs.items()})
"""


def with_weights_drawn(network: keras.Model) -> keras.Model:
    """As after training: no weight and no moving average is what it begins as."""
    rng = np.random.default_rng(0)
    for variable in network.variables:
        drawn = rng.normal(size=variable.shape).astype(np.float32)
        variable.assign(np.abs(drawn) + 0.5 if "variance" in variable.path else 0.3 * drawn)
    return network


def image_for(network: keras.Model) -> np.ndarray:
    size = (1, *(16,) * (len(network.input.shape) - 2), network.input.shape[-1])
    return np.random.default_rng(1).normal(size=size).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    """Every network as NAME.keras, with its input and outputs; and what a fresh process made of each."""
    folder = tmp_path_factory.mktemp("saved")
    for name, (config, region) in NETWORKS.items():
        network = networks.build(config_file.load(config, ["model.width=4"]), region=region)
        image = image_for(with_weights_drawn(network))
        outputs = network(image, training=False)
        network.save(folder / f"{name}.keras")
        np.save(folder / f"{name}.image.npy", image)
        np.savez(folder / f"{name}.first.npz", **{key: np.asarray(value) for key, value in outputs.items()})
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOADING, str(folder)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fresh_process_gets_the_same_outputs_to_the_bit(saved, name):
    first, again = (np.load(saved / f"{name}.{when}.npz") for when in ("first", "again"))
    assert set(first) == set(again) and first.files
    for key in first.files:
        assert np.ptp(first[key]) > 0, "a constant would prove nothing"
        assert np.array_equal(first[key], again[key]), key


@pytest.mark.parametrize("name", ["cun", "msm_et"])
def test_names_order_and_values_of_weights_stay(saved, name):
    config, region = NETWORKS[name]
    first = with_weights_drawn(networks.build(config_file.load(config, ["model.width=4"]), region=region))
    again = keras.models.load_model(saved / f"{name}.keras")
    assert [variable.path for variable in again.variables] == [variable.path for variable in first.variables]
    assert [layer.name for layer in again.layers] == [layer.name for layer in first.layers]
    for ours, theirs in zip(first.variables, again.variables, strict=True):
        assert np.array_equal(ours, theirs), ours.path


@pytest.mark.parametrize(("name", "region"), [("cun", ""), ("msm", "ET")])
def test_precision_and_synchronised_moments_are_kept(tmp_path, name, region):
    config = config_file.load(name, ["model.width=4", "train.precision=mixed_bfloat16"])
    network = networks.build(config, replicas=2, region=region)
    network.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    # The input itself computes nothing: Keras gives its layer the policy of the process.
    ours, theirs = (
        {layer.name: (layer.compute_dtype, layer.variable_dtype) for layer in model.layers[1:]}
        for model in (network, again)
    )
    assert ours == theirs and {"bfloat16", "float32"} == {compute for compute, _ in ours.values()}
    image = image_for(network)
    for key, value in network(image, training=False).items():
        assert np.array_equal(value, again(image, training=False)[key])
    norms = [layer for layer in again.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms and all(type(norm).__module__ == "tfbrats.networks.batch_norm" for norm in norms)
    assert all(norm.synchronized for norm in norms)


@pytest.mark.parametrize("name", ["cun", "bfcn"])
def test_a_network_without_its_training_heads_is_saved_too(saved, tmp_path, name):
    whole = keras.models.load_model(saved / f"{name}.keras")
    part = networks.without_training_heads(whole)
    part.save(tmp_path / "part.keras")
    again = keras.models.load_model(tmp_path / "part.keras")
    image = np.load(saved / f"{name}.image.npy")
    outputs = again(image, training=False)
    assert set(outputs) == set(part.output) < set(whole.output)
    for key, value in part(image, training=False).items():
        assert np.array_equal(value, outputs[key])


def test_a_frozen_head_stays_frozen(saved, tmp_path):
    network = keras.models.load_model(saved / "cun.keras")
    head = network.get_layer("aux3_logits")
    assert isinstance(head, blocks.AuxiliaryHead) and head.trainable
    head.trainable = False
    network.save(tmp_path / "frozen.keras")
    again = keras.models.load_model(tmp_path / "frozen.keras")
    assert not again.get_layer("aux3_logits").trainable and again.get_layer("aux2_logits").trainable


def test_a_trained_optimizer_goes_with_it(tmp_path):
    """Keras saves what it compiled: training goes on where it stopped."""
    network = networks.build(config_file.load("unet2d", ["model.width=2"]))
    loss = {"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    network.compile(keras.optimizers.Adam(1e-3), loss)
    image, classes = image_for(network), np.zeros((1, 16, 16), np.int32)
    network.fit(image, {"logits": classes}, verbose=0)
    network.save(tmp_path / "trained.keras")
    again = keras.models.load_model(tmp_path / "trained.keras")
    rows = [model.fit(image, {"logits": classes}, verbose=0).history["loss"] for model in (network, again)]
    assert rows[0] == rows[1] and again.optimizer.iterations == 2
