"""Several networks, and mirrored inputs, as one network: the mean of their probabilities.

What takes a network takes an `Ensemble` in its place. Averaged is what networks see, a canvas or a tile:
nothing round them is done twice, and bias correction, z-scores and the brain's box are of the case as it lies.
A mean over tiles is the tiles of a mean, so that each stage of a cascade follows from the average above it.
"""

import math
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from tfbrats.inference.answers import _channels, _softmax
from tfbrats.networks import without_training_heads

Mirror = tuple[int, ...]  # the axes of a case's grid along which an input is mirrored; () as it lies

_LEAST = 1e-30  # of a probability: its logarithm is a number


class Ensemble:
    """Networks of one architecture, whatever their widths, as a function of one input.

    One pass is over before the next one begins: memory is one network's, however many there are.

    Args:
        networks: of `networks.build`, for the same input; at least one.
        mirrors: how the input is mirrored, each once for each network; the answer is mirrored back.

    Attributes:
        networks: as a case is segmented by them.
        mirrors: as given.
        name, inputs, output: as of the first network.
        variables: of all of them.
    """

    def __init__(self, networks: Sequence[keras.Model], mirrors: Sequence[Mirror] = ((),)):
        self.networks = tuple(without_training_heads(network) for network in networks)
        self.mirrors = tuple(mirrors)
        first = self.networks[0]
        self.name, self.inputs, self.output = first.name, first.inputs, first.output
        self.variables = [variable for network in self.networks for variable in network.variables]

    @property
    def passes(self) -> int:
        """Forward passes of an input, where one network has one."""
        return len(self.networks) * len(self.mirrors)

    def __call__(self, image, training: bool = False) -> Mapping:
        """The logits whose probabilities are the mean of the networks', float32, by the outputs' names."""
        total: dict[str, list] = {}
        for network in self.networks:
            for mirror in self.mirrors:
                axes = [1 + axis for axis in mirror]
                # Else all would run at once, and all of their features lie in memory.
                with tf.control_dependencies([term for terms in total.values() for term in terms]):
                    seen = tf.reverse(image, axes) if axes else tf.identity(image)
                for name, logits in network(seen, training=training).items():
                    found = _terms(tf.reverse(logits, axes) if axes else logits)
                    before = total.get(name)
                    total[name] = found if before is None else list(map(tf.add, before, found))
        return {
            name: _logits(terms, self.passes, self.output[name].shape[-1] == 1) for name, terms in total.items()
        }


def _terms(logits) -> list:
    """What is summed up of an output, [...] each: its classes' probabilities; of one class yes' and no's."""
    if logits.shape[-1] == 1:
        logits = tf.cast(logits[..., 0], tf.float32)
        return [tf.sigmoid(logits), tf.sigmoid(-logits)]
    return _softmax(_channels(logits))


def _logits(terms: Sequence, count: int, is_one: bool):
    """The inverse of `_terms`, of sums over so many passes: [..., C]."""
    logs = [tf.math.log(tf.maximum(term / count, _LEAST)) for term in terms]
    return (logs[0] - logs[1])[..., None] if is_one else tf.stack(logs, axis=-1)


def as_one(networks: Sequence[keras.Model], mirrors: Sequence[Mirror] = ((),)) -> keras.Model | Ensemble:
    """Some networks as one; one that sees inputs as they lie alone is itself, so that not a bit changes."""
    return networks[0] if len(networks) == 1 and tuple(mirrors) == ((),) else Ensemble(networks, mirrors)


def members_of(network: keras.Model | Ensemble) -> tuple[keras.Model, ...]:
    """The networks that one of `as_one` is."""
    return network.networks if isinstance(network, Ensemble) else (network,)


def entropy_of(probabilities):
    """How unsure a yes or no is of such a probability, in hundredths of a bit: 0 of 0 and 1, 100 of one half.

    Args:
        probabilities: float32 of any shape.

    Returns:
        uint8, the same shape.
    """
    bits = [-p * tf.math.log(tf.maximum(p, _LEAST)) / math.log(2) for p in (probabilities, 1 - probabilities)]
    return tf.cast(tf.round(100 * tf.clip_by_value(bits[0] + bits[1], 0.0, 1.0)), tf.uint8)
