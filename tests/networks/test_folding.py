"""Batch normalisation folded into convolutions: the same function, with fewer layers."""

import keras
import numpy as np
import pytest

from tfbrats import config_file, networks
from tfbrats.networks.folding import folded

# Of each network: normalisations that follow a convolution, and all of them, without training's heads.
COUNTS = {
    ("cun", ""): (18, 35),
    ("unet2d", ""): (18, 18),
    ("bfcn", ""): (11, 11),
    ("drn", ""): (24, 24),
    ("msm", "WT"): (13, 13),
    ("msm", "ET"): (13, 13),
    ("msm_noaspp", "TC"): (10, 10),
    ("unet3d", "WT"): (14, 14),
}


def _network(name, region, precision="float32"):
    """A network of width 4 as if trained: no weight has the value that it begins with."""
    network = networks.build(
        config_file.load(f"{name}.yaml", ["model.width=4"]), region=region, precision=precision
    )
    rng = np.random.default_rng(0)
    for variable in network.variables:
        kind = variable.path.rpartition("/")[2]
        if kind in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif kind in ("beta", "moving_mean", "bias"):
            variable.assign(rng.normal(0, 0.2, variable.shape))
    return network if region else networks.without_training_heads(network)


def _normalisations(network):
    return sum(isinstance(layer, keras.layers.BatchNormalization) for layer in network.operations)


def _image(network):
    sides = (32, 48) if len(network.inputs[0].shape) == 4 else (16, 8, 16)
    return np.random.default_rng(1).normal(size=(2, *sides, network.inputs[0].shape[-1])).astype(np.float32)


@pytest.mark.parametrize(("name", "region"), COUNTS)
def test_the_answer_stays_and_the_normalisations_go(name, region):
    network = _network(name, region)
    other, count = folded(network)
    assert (count, _normalisations(network)) == COUNTS[name, region]
    assert _normalisations(other) == COUNTS[name, region][1] - count
    image = _image(network)
    mine, theirs = network(image, training=False), other(image, training=False)
    assert list(mine) == list(theirs)
    for key in mine:
        assert np.abs(mine[key]).max() > 0.1
        # The border too, where a map before the padding would show.
        np.testing.assert_allclose(theirs[key], mine[key], rtol=1e-4, atol=2e-5)


def test_the_network_itself_is_left_as_it_was():
    network = _network("cun", "")
    before = [variable.numpy() for variable in network.variables]
    folded(network)
    assert _normalisations(network) == 35
    assert all(np.array_equal(old, now.numpy()) for old, now in zip(before, network.variables, strict=True))


def test_it_computes_in_the_networks_precision():
    network = _network("msm", "WT", "mixed_bfloat16")
    other, _ = folded(network)
    computes = {layer.name: layer.compute_dtype for layer in other.layers}
    assert computes == {layer.name: layer.compute_dtype for layer in network.layers if layer.name in computes}
    assert "bfloat16" in computes.values()
    image = _image(network)
    mine, theirs = (one(image, training=False)["logits"].numpy() for one in (network, other))
    assert 0 < np.abs(mine - theirs).max() < 0.05 * np.abs(mine).max()


def test_a_convolution_that_is_not_linear_is_not_folded():
    image = keras.Input((None, None, 2))
    seen = keras.layers.Conv2D(3, 3, padding="same", activation="relu", name="conv")(image)
    norm = keras.layers.BatchNormalization(name="bn")(seen)
    assert folded(keras.Model(image, {"logits": norm}))[1] == 0


def test_what_two_layers_see_is_not_folded():
    """The convolution's own output is wanted as well: it has to be computed as it is."""
    image = keras.Input((None, None, 2))
    seen = keras.layers.Conv2D(3, 3, padding="same", name="conv")(image)
    norm = keras.layers.BatchNormalization(name="bn")(seen)
    network = keras.Model(image, {"logits": keras.layers.Add(name="sum")([seen, norm])})
    assert folded(network)[1] == 0
