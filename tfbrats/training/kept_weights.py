"""The weights that are validated and kept as the best, where training itself goes on with others.

`train.ema`: averages over the steps, which the optimizer keeps. `model.reestimate_moments`: batch
normalisation's moments over many batches of training examples, as if these were one; moving averages remember
the last ten steps. Averaged weights want it: the moments that training keeps are those of other weights.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf


@contextlib.contextmanager
def own_afterwards(network: keras.Model) -> Iterator[None]:
    """Whatever the network's weights become in the block, afterwards they are what they were before it."""
    before = [_read(variable) for variable in network.variables]
    try:
        yield
    finally:
        for variable, value in zip(network.variables, before, strict=True):
            variable.assign(value)


def take_averages(network: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """The network gets the averages of its weights over the steps so far; before the first there are none."""
    if _read(optimizer.iterations) > 0:
        optimizer.finalize_variable_values(network.trainable_variables)


def seeing(strategy: tf.distribute.Strategy, network: keras.Model, network_input: Callable) -> Callable:
    """A step that shows the network a global batch as in training, and learns nothing but moments.

    Args:
        network_input: batch -> what the network takes.
    """

    @tf.function(autograph=False)
    def see(batch):
        strategy.run(lambda part: network(network_input(part), training=True), (batch,))

    return see


def reestimate_moments(
    network: keras.Model, see: Callable, batches: Iterable, is_stopped: Callable[[], bool]
) -> bool:
    """Batch normalisation gets the moments of these batches together; layers that do not learn keep theirs.

    Each layer's moments are read out of its moving averages: from 0, a batch brings them to a known share of
    its own. They are added up in float64, and the spread of the batches' means is part of the variance.

    Args:
        see: of `seeing`.
        batches: at least one, as `strategy.run` takes them.
        is_stopped: asked before each batch.

    Returns:
        False if it was stopped; the moments are then of no use.
    """
    layers = [
        layer
        for layer in network.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if not layers:
        return True

    count, means, squares = 0, [0.0] * len(layers), [0.0] * len(layers)
    for batch in batches:
        if is_stopped():
            return False
        for layer in layers:
            for variable in (layer.moving_mean, layer.moving_variance):
                variable.assign(np.zeros(variable.shape, np.float32))
        see(batch)
        count += 1
        for n, layer in enumerate(layers):
            mean, variance = (
                _read(variable).astype(np.float64) / (1 - layer.momentum)
                for variable in (layer.moving_mean, layer.moving_variance)
            )
            means[n], squares[n] = means[n] + mean, squares[n] + variance + mean**2
    for layer, mean, square in zip(layers, means, squares, strict=True):
        layer.moving_mean.assign((mean / count).astype(np.float32))
        # Not below 0, where a channel is the same everywhere and what is left is rounding.
        variance = np.maximum(square / count - (mean / count) ** 2, 0)
        layer.moving_variance.assign(variance.astype(np.float32))
    return True


def _read(variable: keras.Variable) -> np.ndarray:
    """Its value, which all replicas share."""
    return tf.convert_to_tensor(variable.value).numpy()
