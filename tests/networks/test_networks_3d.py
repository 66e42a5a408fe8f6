"""The 3-D networks against paper B's tables."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbrats import config_file, networks
from tfbrats.errors import InputError
from tfbrats.networks import blocks_3d, keras_settings, msm, unet3d

# Kernel voxels, channels in, channels out, at width 32. Every 3 x 3 x 3 convolution has a norm behind it.
_ENTRY = [(27, 12, 32), (27, 32, 32)]
WT_TABLE = [
    *_ENTRY,  # E1
    *[(27, 32, 64), (27, 64, 64)],  # E2
    (27, 64, 128),  # E3: one convolution, no pair
    *[(27, 128, 32)] * 4,  # ASPP
    *[(8, 128, 64), (27, 64 + 64, 64), (27, 64, 64)],  # D2
    *[(8, 64, 32), (27, 32 + 32, 32), (27, 32, 32)],  # D1
    (1, 32, 1),  # head
]
ET_TABLE = [
    *_ENTRY,  # E1
    *[(27, 32, 32), (27, 32, 32)],  # E2
    (27, 32, 64),  # E3
    *[(27, 64, 16)] * 4,  # ASPP
    *[(8, 64, 32), (27, 32 + 32, 32), (27, 32, 32)],  # D2
    *[(27, 32 + 32, 32), (27, 32, 32)],  # D1: no deconvolution, E1 has D2's size
    (1, 32, 1),  # head
]
UNET_TABLE = [
    *[(27, 4, 32), (27, 32, 32)],  # E1
    *[(27, 32, 64), (27, 64, 64)],  # E2
    *[(27, 64, 128), (27, 128, 128)],  # E3
    *[(27, 128, 256), (27, 256, 256)],  # E4
    *[(8, 256, 128), (27, 128 + 128, 128), (27, 128, 128)],  # D3
    *[(8, 128, 64), (27, 64 + 64, 64), (27, 64, 64)],  # D2
    *[(8, 64, 32), (27, 32 + 32, 32), (27, 32, 32)],  # D1
    (1, 32, 1),  # head
]


def _parameters(table):
    weights = sum(voxels * into * out + out for voxels, into, out in table)
    norms = sum(4 * out for voxels, _, out in table if voxels == 27)  # gamma, beta, two moving moments
    return weights + norms


def _msm(region, width=2, aspp=True):
    return msm.build(region, width, 12, aspp, synchronised=False)


def _unet3d(width=2):
    return unet3d.build(width, 4, synchronised=False)


NETWORKS = {
    "msm_wt": lambda: _msm("WT"),
    "msm_et": lambda: _msm("ET"),
    "msm_noaspp_wt": lambda: _msm("WT", aspp=False),
    "msm_noaspp_et": lambda: _msm("ET", aspp=False),
    "unet3d": _unet3d,
}


def _patch(network, *size_ijk, batch=1, seed=0):
    shape = (batch, *size_ijk, network.inputs[0].shape[-1])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _shapes(network, *names):
    """Shapes [grid, channels] of layers' outputs for a patch of 64 voxels."""
    probe = keras.Model(network.input, {name: network.get_layer(name).output for name in names})
    found = probe(np.zeros((1, 64, 64, 64, network.inputs[0].shape[-1]), np.float32))
    for tensor in found.values():
        assert tensor.shape[1] == tensor.shape[2] == tensor.shape[3]
    return {name: (tensor.shape[1], tensor.shape[-1]) for name, tensor in found.items()}


@pytest.mark.parametrize("region", ["WT", "TC"])
def test_wt_and_tc_have_the_parameters_counted_by_hand(region):
    assert _msm(region, width=32).count_params() == _parameters(WT_TABLE) == 1_367_425


def test_et_has_the_parameters_counted_by_hand():
    assert _msm("ET", width=32).count_params() == _parameters(ET_TABLE) == 443_457


def test_the_original_unet_has_the_parameters_counted_by_hand():
    assert _unet3d(width=32).count_params() == _parameters(UNET_TABLE) == 5_607_937


@pytest.mark.parametrize("region", ["WT", "TC", "ET"])
@pytest.mark.parametrize("width", [2, 6, 8, 32])
def test_the_pyramid_costs_no_parameters(region, width):
    """Paper B, section 2.3: "without introducing additional parameters"."""
    assert _msm(region, width).count_params() == _msm(region, width, aspp=False).count_params()


@pytest.mark.parametrize("region", ["WT", "TC"])
def test_wt_and_tc_pool_twice(region):
    found = _shapes(_msm(region), "e1_2", "e2_2", "e3", "aspp_rate8", "aspp", "d2_up", "d2_2", "d1_up", "d1_2")
    assert found == {
        "e1_2": (64, 2),
        "e2_2": (32, 4),
        "e3": (16, 8),
        "aspp_rate8": (16, 2),
        "aspp": (16, 8),
        "d2_up": (32, 4),
        "d2_2": (32, 4),
        "d1_up": (64, 2),
        "d1_2": (64, 2),
    }


def test_et_pools_once():
    """What is small survives: two pairs see every voxel, and one pooling remains (paper B, section 2.5)."""
    network = _msm("ET")
    found = _shapes(network, "e1_2", "e2_2", "e3", "aspp_rate8", "aspp", "d2_up", "d2_2", "d1_2")
    assert found == {
        "e1_2": (64, 2),
        "e2_2": (64, 2),
        "e3": (32, 4),
        "aspp_rate8": (32, 1),
        "aspp": (32, 4),
        "d2_up": (64, 2),
        "d2_2": (64, 2),
        "d1_2": (64, 2),
    }
    assert [layer.name for layer in network.layers if "pool" in layer.name] == ["e3_pool"]


def test_the_original_unet_pools_three_times():
    found = _shapes(_unet3d(), "e1_2", "e2_2", "e3_2", "e4_2", "d3_2", "d2_2", "d1_2")
    assert found == {
        "e1_2": (64, 2),
        "e2_2": (32, 4),
        "e3_2": (16, 8),
        "e4_2": (8, 16),
        "d3_2": (16, 8),
        "d2_2": (32, 4),
        "d1_2": (64, 2),
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_skips_join_encoder_and_decoder_of_one_size(name):
    network = NETWORKS[name]()
    for skip in (layer for layer in network.layers if layer.name.endswith("_skip")):
        sources = {tensor._keras_history.operation.name for tensor in skip._inbound_nodes[0].input_tensors}
        level = skip.name[1]
        below = "d2_2" if name.endswith("et") and level == "1" else f"d{level}_up"
        assert sources == {below, f"e{level}_2"}


def _reached(region, aspp):
    """Offsets ijk of e3's voxels on which one voxel of the pyramid's output depends."""
    network = _msm(region, aspp=aspp)
    last = "aspp" if aspp else "bridge"
    pyramid = keras.Model(network.get_layer("e3").output, network.get_layer(last).output)
    for variable in pyramid.trainable_variables:
        if variable.name == "kernel":
            variable.assign(np.ones(variable.shape))  # nothing cancels, no ReLU shuts
    features = tf.ones((1, 19, 19, 19, network.get_layer("e3").output.shape[-1]))  # a voxel more than +-8
    with tf.GradientTape() as tape:
        tape.watch(features)
        centre = pyramid(features, training=False)[0, 9, 9, 9]
    touched = np.any(tape.gradient(centre, features)[0].numpy() != 0, axis=-1)
    return {tuple(int(n) - 9 for n in index) for index in np.argwhere(touched)}


@pytest.mark.parametrize("region", ["WT", "ET"])
def test_the_pyramid_touches_the_neighbours_at_its_four_rates_alone(region):
    reached = _reached(region, aspp=True)
    along = {i for i, j, k in reached if j == k == 0}
    assert along == {-8, -4, -2, -1, 0, 1, 2, 4, 8}
    assert reached == {offset for r in (1, 2, 4, 8) for offset in itertools.product((-r, 0, r), repeat=3)}


@pytest.mark.parametrize("region", ["WT", "ET"])
def test_without_the_pyramid_a_voxel_sees_its_neighbours_alone(region):
    assert _reached(region, aspp=False) == set(itertools.product((-1, 0, 1), repeat=3))


def test_layers_are_named_as_in_the_table():
    names = [layer.name for layer in _msm("WT").layers]
    rates = [f"aspp_rate{rate}" for rate in (1, 2, 4, 8)]
    for conv in ("e1_1", "e1_2", "e2_1", "e2_2", "e3", *rates, "d2_1", "d2_2", "d1_1", "d1_2"):
        assert {f"{conv}_conv", f"{conv}_bn", conv} <= set(names)
    assert names[0] == "patch"
    assert names[-1] == "logits"
    networks = (_msm("TC"), _msm("ET", aspp=False), _unet3d())
    assert [n.name for n in networks] == ["msm_tc", "msm_noaspp_et", "unet3d"]


def test_convolutions_start_glorot_uniform_with_zero_bias():
    layer = _msm("WT", width=32).get_layer("e3_conv")
    kernel, bias = (v.numpy() for v in layer.weights)
    limit = np.float32(np.sqrt(6 / (27 * 64 + 27 * 128)))  # as the kernel is rounded
    assert not bias.any()
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_patch_may_have_any_multiple_of_8(name):
    network = NETWORKS[name]()
    for size in ((8, 8, 8), (24, 24, 24), (8, 16, 24)):
        logits = network(_patch(network, *size, batch=2))["logits"]
        assert tuple(logits.shape) == (2, *size, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_size_may_change_from_call_to_call_of_one_graph(name):
    network = NETWORKS[name]()
    shape = [None, None, None, None, network.inputs[0].shape[-1]]
    graph = tf.function(lambda x: network(x)["logits"], input_signature=[tf.TensorSpec(shape)])
    for size in (8, 24):
        patch = _patch(network, size, size, size)
        assert np.allclose(graph(patch), network(patch)["logits"], atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_reaches_every_trainable_variable(name):
    network = NETWORKS[name]()
    with tf.GradientTape() as tape:
        logits = network(_patch(network, 32, 32, 32), training=True)["logits"]
        loss = tf.reduce_mean(tf.square(logits - 1))
    variables = network.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
        assert gradient is not None, variable.path
        # A norm takes away the bias of the convolution ahead of it; rounding alone is left of its gradient.
        layer, kind = variable.path.split("/")[-2:]
        if not (kind == "bias" and f"{layer.removesuffix('_conv')}_bn" in {n.name for n in network.layers}):
            assert np.abs(gradient).max() > 1e-6, variable.path


def test_a_deconvolution_is_keras_own():
    """As a matrix product: output to 1e-6; gradients, which are sums in another order, to 4e-6."""
    random = np.random.default_rng(0)
    x = tf.constant(random.random((2, 3, 4, 5, 6), np.float32))
    kernel, bias = random.random((2, 2, 2, 3, 6)), random.random(3)
    upstream = tf.constant(random.random((2, 6, 8, 10, 3), np.float32))
    found = []
    for kind in (blocks_3d.Deconv, keras.layers.Conv3DTranspose):
        layer = kind(3, 2, strides=2)
        layer.build(x.shape)
        layer.set_weights([kernel, bias])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        found.append([y, *tape.gradient(y, [x, *layer.trainable_variables], output_gradients=upstream)])
    (ours, *gradients), (theirs, *expected) = found
    assert np.abs(ours - theirs).max() < 1e-6 * np.abs(theirs).max()
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert np.abs(gradient - wanted).max() < 4e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_train_in_mixed_precision_and_answer_in_float32(name, precision):
    """On a CPU too. The smallest grid is 4 x 4 x 4: on 2 x 2 x 2 TensorFlow 2.21's bfloat16 is broken there."""
    keras.utils.set_random_seed(0)  # of some weights a gradient is next to nothing, and then all rounding
    exact = NETWORKS[name]()
    size = 32 if name == "unet3d" else 16
    patch = _patch(exact, size, size, size, batch=2)
    keras.mixed_precision.set_global_policy(precision)
    try:
        network = NETWORKS[name]()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    network.set_weights(exact.get_weights())
    assert network.get_layer("e3_1_conv" if name == "unet3d" else "e3_conv").compute_dtype == precision[6:]

    found = {}
    for model in (exact, network):
        with tf.GradientTape() as tape:
            logits = model(patch, training=True)["logits"]
            loss = tf.reduce_mean(tf.square(logits - 1))
        kernels = [v for v in model.trainable_variables if v.name == "kernel"]
        found[model] = (logits, *tape.gradient(loss, kernels))
    (expected, *expected_gradients), (logits, *gradients) = found[exact], found[network]
    assert logits.dtype == tf.float32
    assert np.linalg.norm(logits - expected) < 0.04 * np.linalg.norm(expected)
    for variable, expected, gradient in zip(kernels, expected_gradients, gradients, strict=True):
        cosine = np.vdot(gradient, expected) / (np.linalg.norm(gradient) * np.linalg.norm(expected))
        assert cosine > 0.9, variable.path


@pytest.mark.parametrize(("gpu", "pooled"), [(True, "float16"), (False, "float32")])
def test_float16_is_pooled_as_it_is_on_a_gpu_alone(monkeypatch, gpu, pooled):
    monkeypatch.setattr(keras_settings, "has_gpu", lambda: gpu)
    config = config_file.load("msm.yaml", ["model.width=2", "train.precision=mixed_float16"])
    network = networks.build(config, region="WT")
    graph = tf.function(network).get_concrete_function(tf.TensorSpec([1, 16, 16, 16, 12], tf.float32)).graph
    found = [op.inputs[0].dtype.name for op in graph.get_operations() if op.type == "MaxPool3D"]
    assert found == [pooled] * 2
    assert network.get_layer("e2_pool").output.dtype == "float16"


@pytest.mark.parametrize("region", ["core", "wt", ""])
def test_another_region_is_refused_and_the_three_are_named(region):
    with pytest.raises(InputError, match=rf"'{region}'.*WT, TC, ET"):
        _msm(region)


@pytest.mark.parametrize("region", ["WT", "TC", "ET"])
@pytest.mark.parametrize("aspp", [True, False])
def test_an_odd_width_is_refused_before_the_first_network_trains(region, aspp):
    """WT could be built with it; ET, the last to train, could not."""
    with pytest.raises(InputError, match=r"width=5.*even.*4 or 6"):
        _msm(region, width=5, aspp=aspp)
