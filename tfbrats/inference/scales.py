"""A network's input from the two scales that are stored: x2 is derived from x1, then all three are stacked."""

from collections.abc import Mapping

import tensorflow as tf


def upsampled_centre(x1):
    """The x2 scale: the image upsampled twice and cut round the same centre, so x1's middle alone.

    Trilinear, voxel centres at half indices: each new voxel is 3/4 its own old voxel and 1/4 the neighbour on
    its side, along each axis.

    Args:
        x1: float [N, S, S, S, M], S known and a multiple of 4.

    Returns:
        float32 [N, S, S, S, M].
    """
    size = x1.shape[1]
    low, high = size // 4 - 1, size - size // 4 + 1  # S / 2 voxels and a ring of neighbours
    fine = tf.cast(x1[:, low:high, low:high, low:high], tf.float32)
    for axis in (3, 2, 1):  # the innermost first, while there is least to weave
        every = (slice(None),) * axis
        own, quarter = fine[(*every, slice(1, -1))] * 0.75, fine * 0.25
        pair = (own + quarter[(*every, slice(-2))], own + quarter[(*every, slice(2, None))])
        shape = tf.concat([tf.shape(fine)[:axis], [size], tf.shape(fine)[axis + 1 :]], axis=0)
        fine = tf.reshape(tf.stack(pair, axis=axis + 1), shape)
    return tf.ensure_shape(fine, x1.shape)


def multi_scale(x1, half):
    """A network's input: the channels of x1, then of x0.5, then of x2. [N, S, S, S, M] twice -> float32 3M."""
    return tf.concat(
        [tf.cast(x1, tf.float32), tf.cast(half, tf.float32), upsampled_centre(x1)],
        axis=-1,
    )


def network_input(batch: Mapping):
    """What a network takes of a batch of `patch_stream`: float32 [N, S, S, S, 3M]; of x1 alone [N, S, S, S, M].

    Called in the step, on its device, where a third of the bytes has to travel.
    """
    if "half" in batch:
        return multi_scale(batch["x1"], batch["half"])
    return tf.cast(batch["x1"], tf.float32)
