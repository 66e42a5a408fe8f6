"""The networks against the tables of the papers."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbrats import config_file, networks
from tfbrats.networks import blocks, cun


@pytest.fixture(scope="module")
def network():
    return networks.build(config_file.load("cun.yaml"))


def _shape(network, name):
    return tuple(network.get_layer(name).output.shape)


def test_levels_have_the_papers_widths(network):
    for level, channels in enumerate((32, 64, 128, 256, 512), start=1):
        assert _shape(network, f"e{level}_sum")[-1] == channels
        assert _shape(network, f"f{level}_sum")[-1] == channels
        if level < 5:
            assert _shape(network, f"d{level}_sum")[-1] == channels
            assert _shape(network, f"g{level}_sum")[-1] == channels


def test_a_240_slice_goes_down_to_15_and_comes_back():
    small = cun.build(width=2, channels=4, synchronised=False)
    probe = keras.Model(small.input, {n: small.get_layer(n).output for n in ("e5_sum", "f5_sum", "g1_sum")})
    found = {name: tensor.shape for name, tensor in probe(np.zeros((1, 240, 240, 4), np.float32)).items()}
    assert tuple(found["e5_sum"]) == (1, 15, 15, 32)
    assert tuple(found["f5_sum"]) == (1, 15, 15, 32)
    assert tuple(found["g1_sum"]) == (1, 240, 240, 2)


def test_ten_outputs_are_supervised_at_full_size():
    small = cun.build(width=2, channels=4, synchronised=False)
    outputs = small(np.zeros((2, 32, 48, 4), np.float32))
    assert set(outputs) == {"branch1_logits", "branch2_logits", *(f"aux{n}_logits" for n in range(1, 9))}
    for name in cun.UNET1_OUTPUTS:
        assert tuple(outputs[name].shape) == (2, 32, 48, 2), name
    for name in cun.UNET2_OUTPUTS:
        assert tuple(outputs[name].shape) == (2, 32, 48, 4), name


def test_the_whole_network_has_the_parameters_counted_by_hand(network):
    def conv(k, a, b):
        return k * k * a * b + b

    def block(a, b, leading=True):
        norms = 4 * b + (4 * a if leading else 0)  # gamma, beta and two moving moments a channel
        return conv(3, a, b) + conv(3, b, b) + conv(1, a, b) + norms

    c = [32, 64, 128, 256, 512]
    total = block(4, 32, leading=False) + sum(block(a, b) for a, b in itertools.pairwise(c))
    decoder = sum(conv(2, b, a) + block(2 * a, a) for a, b in itertools.pairwise(c))
    total += 2 * decoder
    total += block(32, 32) + sum(block(a + b, b) for a, b in itertools.pairwise(c))
    total += conv(1, 32, 2) + conv(1, 32, 4)
    for classes in (2, 4):
        total += sum(
            conv(stride, channels, 16) + conv(1, 16, classes)
            for channels, stride in ((512, 16), (256, 8), (128, 4), (64, 2))
        )
    assert network.count_params() == total
    assert 19e6 < total < 25e6  # networks of "about 20 M", 4.7 M of it in the auxiliary heads


def test_no_raw_image_enters_unet2(network):
    """Walking back from branch 2, the image is reached through U-Net1's layers alone."""

    def sources(name):
        node = network.get_layer(name)._inbound_nodes[0]
        return {tensor._keras_history.operation.name for tensor in node.input_tensors}

    reached, ahead = set(), {"branch2_logits"}
    while ahead:
        name = ahead.pop()
        reached.add(name)
        if not name.startswith(("d", "e")):  # stop at U-Net1's door
            ahead |= sources(name) - reached
    assert "image" not in reached
    assert {"d1_sum", "d2_sum", "d3_sum", "d4_sum", "e5_sum"} <= reached


def test_between_net_connections_join_decoder_features_of_unet1(network):
    for level, source in ((2, "d2_sum"), (3, "d3_sum"), (4, "d4_sum"), (5, "e5_sum")):
        joined = network.get_layer(f"f{level}_between")
        sources = [t._keras_history.operation.name for t in joined._inbound_nodes[0].input_tensors]
        assert sources == [f"f{level}_pool", source]


def test_the_first_block_sees_the_image_without_a_leading_relu(network):
    names = {layer.name for layer in network.layers}
    assert "e1_bn1" not in names
    assert {"e2_bn1", "f1_bn1", "g1_bn1"} <= names


def test_convolutions_start_glorot_normal_with_zero_bias(network):
    layer = network.get_layer("e3_conv2")
    kernel, bias = (np.array(v) for v in layer.weights)
    assert not bias.any()
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 128 + 9 * 128)), rel=0.03)


def test_heads_stay_in_float32_under_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        small = cun.build(width=2, channels=4, synchronised=False)
        outputs = small(np.zeros((1, 32, 32, 4), np.float32))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert {str(keras.backend.standardize_dtype(value.dtype)) for value in outputs.values()} == {"float32"}
    assert small.get_layer("e2_conv1").compute_dtype == "bfloat16"


def test_the_branches_alone_share_their_weights_with_the_whole():
    small = cun.build(width=2, channels=4, synchronised=False)
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 4)).astype(np.float32)
    branches = cun.branches_only(small)
    for name, value in branches(image).items():
        assert np.array_equal(value, small(image)[name])
    assert branches.count_params() < small.count_params()


# --- the same numbers by other ways -----------------------------------------------------------------------


def _with_gradients(function, x, variables):
    """Output, and the gradients of x and of the variables."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    upstream = np.random.default_rng(2).random(y.shape, np.float32)
    gradients = tape.gradient(y, [x, *variables], output_gradients=tf.constant(upstream))
    return [y.numpy(), *(g.numpy() for g in gradients)]


def _close(found, wanted):
    """To 1e-6 in value; a kernel's gradient sums thousands of float32 numbers in another order: 4e-6."""
    worst, *gradients = (np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, wanted, strict=True))
    return worst < 1e-6 and max(gradients) < 4e-6


def _random(layer):
    """The layer's variables with values of their own; none negative, so that no sum loses digits."""
    rng = np.random.default_rng(1)
    for variable in layer.trainable_variables:
        variable.assign(rng.random(variable.shape))
    return [variable.value for variable in layer.trainable_variables]


@pytest.mark.parametrize(("stride", "classes"), [(2, 2), (4, 4), (16, 4)])
def test_an_auxiliary_head_is_a_deconvolution_and_a_1x1_convolution(stride, classes):
    x = np.random.default_rng(0).random((2, 3, 4, 7), np.float32)
    head = blocks.AuxiliaryHead(stride, classes, name="aux")
    head.build(x.shape)
    variables = _random(head)
    deconv, conv = keras.layers.Conv2DTranspose(16, stride, strides=stride), keras.layers.Conv2D(classes, 1)
    for layer, shape, own in ((deconv, x.shape, head.deconv), (conv, (2, 3, 4, 16), head.conv)):
        layer.build(shape)
        for variable, value in zip(layer.trainable_variables, own.trainable_variables, strict=True):
            variable.assign(value)
    layers_own = [v.value for v in (*deconv.trainable_variables, *conv.trainable_variables)]
    wanted = _with_gradients(lambda x: conv(deconv(x)), x, layers_own)
    assert wanted[0].shape == (2, 3 * stride, 4 * stride, classes)
    assert _close(_with_gradients(head, x, variables), wanted)


def test_a_deconvolution_is_keras_own():
    x = np.random.default_rng(0).random((2, 3, 4, 6), np.float32)
    ours, theirs = blocks.Deconv(3, 2, strides=2), keras.layers.Conv2DTranspose(3, 2, strides=2)
    found, wanted = [], []
    for layer, outputs in ((ours, found), (theirs, wanted)):
        layer.build(x.shape)
        outputs += _with_gradients(layer, x, _random(layer))
    assert _close(found, wanted)


def test_both_kernels_of_an_auxiliary_head_decay(network):
    kernels = {v.path for v in network.trainable_variables if v.path.endswith("kernel")}
    for n in range(1, 9):
        own = {path.rpartition("/")[0].rpartition("_")[2] for path in kernels if f"aux{n}_" in path}
        assert own == {"deconv", "conv"}
