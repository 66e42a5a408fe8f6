"""A case as the networks see it, in the graph: brain, crop, bias field, z-score.

`cases.preprocess` is the twin in numpy.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfbrats.graphs import bias_graph
from tfbrats.graphs.boxes_graph import box_of, crop
from tfbrats.graphs.pieces import bounded, finite


class Prepared(NamedTuple):
    """A case ready for a network.

    Attributes:
        image: float32 [i, j, k, M], bias-corrected, z-scored in the brain, 0 outside, cropped to `box`.
        brain: bool [i, j, k].
        box: int32 [3, 2], half-open ranges: where the crop lies in the whole volume.
        shape: int32 [3]: the whole volume.
    """

    image: Any
    brain: Any
    box: Any
    shape: Any


def brain_mask(volumes: Sequence):
    """Where any modality is not 0: [I, J, K] each -> bool [I, J, K]."""
    return functools.reduce(tf.logical_or, [tf.not_equal(volume, 0) for volume in volumes])


def _sum(array):
    """Over i, j and k of float32 [I, J, K, M]: float64 [M]. Line by line: one sum of millions loses digits."""
    return tf.reduce_sum(tf.cast(tf.reduce_sum(array, axis=2), tf.float64), axis=(0, 1))


def statistics(image, brain):
    """Mean and standard deviation of each modality over the brain: [I, J, K, M] -> float32 [M], [M].

    A modality that is constant in the brain has the deviation 1, so that it becomes 0 everywhere.
    """
    weight = tf.cast(brain, tf.float32)[..., None]
    count = tf.maximum(_sum(weight), 1.0)
    mean = tf.cast(_sum(image) / count, tf.float32)  # outside the brain the image is 0
    deviation = tf.cast(tf.sqrt(_sum(tf.square(image - mean) * weight) / count), tf.float32)
    # Rounding leaves a trace of deviation in what is constant.
    return mean, tf.where(deviation > 1e-6 * tf.abs(mean), deviation, 1.0)


def z_score(image, brain):
    """(x - mean) / deviation with brain statistics; 0 outside. float32 [I, J, K, M] -> same shape."""
    mean, deviation = statistics(image, brain)
    return tf.where(brain[..., None], (image - mean) / deviation, 0.0)


def cropped(
    volumes: Mapping, modalities: Sequence[str], n4_modalities: Sequence[str] = (), n4_shrink: int = 1
) -> Prepared:
    """How every case begins: bounded, stacked, cut to the brain's box, checked for numbers, N4, z-scored.

    Args:
        volumes: modality -> [I, J, K] of any size, int16 or float32.
        modalities: names and order of the image's channels.
        n4_modalities: those whose bias field is divided out.
        n4_shrink: as `bias_graph.corrected`.

    Raises:
        tf.errors.InvalidArgumentError: as `bounded` and `finite`.
    """
    volumes = bounded(volumes)
    # each: 240 x 240 x 155, of which the box is a third: they are brought together when they are cut
    each = [tf.cast(volumes[name], tf.float32) for name in modalities]
    brain = brain_mask(each)
    box = box_of(brain)
    # cropped: ~140 x 170 x 140 x 4; the rest is 0, so what is no number lies in it
    within = finite(tf.stack([crop(volume, box) for volume in each], axis=-1))
    brain_within, shape = crop(brain, box), tf.shape(brain)
    if n4_modalities:
        channels = [modalities.index(name) for name in n4_modalities]
        within = bias_graph.corrected(within, channels, box, shape, n4_shrink)
    return Prepared(z_score(within, brain_within), brain_within, box, shape)
