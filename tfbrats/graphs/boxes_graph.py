"""Boxes in a volume, in the graph: round a mask, grown, cut out, put back.

`cases.boxes` is the twin in numpy: the same functions, of a box as ranges in a tuple.
"""

import tensorflow as tf


def box_of(mask):
    """The smallest box that holds a mask.

    Args:
        mask: bool [i, j, k], of any size, 0 too.

    Returns:
        int32 [3, 2]: half-open ranges; 0 to 0 along every axis if the mask is empty.
    """
    ranges = []
    # One axis after the other: both at once takes twice as long.
    over_k = tf.reduce_any(mask, axis=2)
    for along in (
        tf.reduce_any(over_k, axis=1),
        tf.reduce_any(over_k, axis=0),
        tf.reduce_any(tf.reduce_any(mask, axis=0), axis=0),
    ):
        index = tf.range(tf.size(along))
        high = tf.maximum(tf.reduce_max(tf.where(along, index + 1, 0)), 0)
        low = tf.minimum(tf.reduce_min(tf.where(along, index, tf.size(along))), high)
        # Without a voxel, low is the size and high 0.
        ranges.append(tf.stack([low, high]))
    return tf.stack(ranges)


def is_empty(box):
    """Whether a box, int32 [3, 2], holds no voxel: bool []."""
    return box[0, 0] == box[0, 1]


def grown(box, margin: int, shape):
    """The box with `margin` voxels more on every side, as far as the volume goes; an empty one stays empty."""
    larger = tf.stack([tf.maximum(box[:, 0] - margin, 0), tf.minimum(box[:, 1] + margin, shape)], axis=1)
    return tf.where(is_empty(box), box, larger)


def crop(array, box):
    """What the box holds: [I, J, K, ...] -> [i, j, k, ...]."""
    (i0, i1), (j0, j1), (k0, k1) = (tf.unstack(along) for along in tf.unstack(box))
    return array[i0:i1, j0:j1, k0:k1]


def uncrop(array, box, shape):
    """The inverse of `crop`, 0 outside the box: [i, j, k, ...] -> [I, J, K, ...]."""
    padding = tf.stack([box[:, 0], shape - box[:, 1]], axis=1)
    return tf.pad(array, tf.pad(padding, [[0, array.shape.rank - 3], [0, 0]]))
