"""Batch normalisation folded into the convolution before it: one pass over the features where there were two.

A trained network normalises with fixed moments, which is a linear map of each channel, and so is what a
convolution gives out: scale * (k * x + b - mean) + beta is a convolution too, of scale * k. That holds at the
border as well, since nothing is padded between the two. A normalisation that sees a sum, a pooling, an
activation or a concatenation stays: a map *before* a padded convolution is none of its kernel.
"""

from collections import Counter

import keras
import numpy as np
from keras import layers

_CONVOLUTIONS = (layers.Conv2D, layers.Conv3D)


def folded(network: keras.Model) -> tuple[keras.Model, int]:
    """The same function without the normalisations that follow a convolution directly, and how many those are.

    All other layers are the network's own, not copies. In bfloat16 the folded kernels are rounded, so that
    answers differ as much as those of bfloat16 do.
    """
    users = Counter(id(tensor) for operation in network.operations for tensor in _inputs(operation))
    users.update(id(tensor) for tensor in network.outputs)
    made, source = {id(tensor): tensor for tensor in network.inputs}, {}
    count = 0
    for layer in network.operations:
        if isinstance(layer, layers.InputLayer):
            continue
        given = _inputs(layer)
        before = source.get(id(given[0]))
        if isinstance(layer, layers.BatchNormalization) and before and users[id(given[0])] == 1:
            made[id(layer.output)] = _folded(before, layer)(made[id(before.input)])
            count += 1
            continue
        if type(layer) in _CONVOLUTIONS and layer.activation is keras.activations.linear:
            source[id(layer.output)] = layer
        tensors = [made[id(tensor)] for tensor in given]
        made[id(layer.output)] = layer(tensors if isinstance(layer.input, list) else tensors[0])
    outputs = {name: made[id(tensor)] for name, tensor in network.output.items()}
    return keras.Model(network.inputs[0], outputs, name=network.name), count


def _inputs(operation) -> list:
    return [] if isinstance(operation, layers.InputLayer) else _as_list(operation.input)


def _as_list(tensors) -> list:
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]


def _folded(conv, norm):
    """The convolution that gives what `norm` makes of the output of `conv`."""
    gamma, beta, mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(variable), np.float64)
        for variable in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    kernel, bias = (np.asarray(weights, np.float64) for weights in conv.get_weights())
    scale = gamma / np.sqrt(variance + norm.epsilon)
    both = type(conv).from_config(conv.get_config())
    both.build(conv.input.shape)
    both.set_weights([(kernel * scale).astype(np.float32), ((bias - mean) * scale + beta).astype(np.float32)])
    return both
