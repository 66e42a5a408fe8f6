"""`cases.preprocess` in the graph: brain, z-score, background 0."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from tfbrats.inference.boxes_graph import box_of, crop
from tfbrats.inference.pieces import bounded


def finite(image):
    """The image again, refused if a voxel is no number.

    Raises:
        tf.errors.InvalidArgumentError: NaN or infinite values, when the graph runs.
    """
    check = tf.debugging.Assert(
        tf.reduce_all(tf.math.is_finite(image)), ["the volumes hold NaN or infinite values"]
    )
    with tf.control_dependencies([check]):
        return tf.identity(image)


def _sum(array):
    """Over i, j and k of float32 [I, J, K, M]: float64 [M]. Line by line: one sum of millions loses digits."""
    return tf.reduce_sum(tf.cast(tf.reduce_sum(array, axis=2), tf.float64), axis=(0, 1))


def normalise(image):
    """Brain mask and z-score, as `preprocess.brain_mask` and `preprocess.z_score` do it in numpy.

    Args:
        image: float32 [I, J, K, M], as the scanner or N4 gave it.

    Returns:
        z-scored image, 0 outside the brain, and the brain, bool [I, J, K].
    """
    brain = tf.reduce_any(image != 0, axis=-1)
    weight = tf.cast(brain, tf.float32)[..., None]
    count = tf.maximum(_sum(weight), 1.0)
    mean = tf.cast(_sum(image) / count, tf.float32)  # outside the brain the image is 0
    deviation = tf.cast(tf.sqrt(_sum(tf.square(image - mean) * weight) / count), tf.float32)
    # As in preprocess.statistics: rounding leaves a trace of deviation in what is constant.
    deviation = tf.where(deviation > 1e-6 * tf.abs(mean), deviation, 1.0)
    return tf.where(brain[..., None], (image - mean) / deviation, 0.0), brain


def prepared(volumes: Mapping, modalities: Sequence[str]) -> tuple:
    """How every case begins: bounded, stacked, cut to the brain's box, checked for numbers and normalised.

    Args:
        volumes: modality -> [I, J, K] of any size, int16 or float32.
        modalities: names and order of the image's channels.

    Returns:
        image float32 [i, j, k, M] and brain bool [i, j, k] as `normalise` gives them, their box int32 [3, 2],
        and the whole shape, int32 [3].

    Raises:
        tf.errors.InvalidArgumentError: as `bounded` and `finite`.
    """
    volumes = bounded(volumes)
    # image: 240 x 240 x 155 x 4
    image = tf.stack([tf.cast(volumes[name], tf.float32) for name in modalities], axis=-1)
    shape = tf.shape(image)[:3]
    box = box_of(tf.reduce_any(image != 0, axis=-1))
    # cropped: ~140 x 170 x 140 x 4; the rest is 0, so what is no number lies in it
    return *normalise(finite(crop(image, box))), box, shape
