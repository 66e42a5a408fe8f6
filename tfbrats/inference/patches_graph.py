"""Cut multi-scale patches in the graph, many at a time, from stored volumes and from whole cases.

`cases.patches` is the twin in numpy, which cuts one at a time. They are equal to the bit, which fixes the order
of every sum; the twin always rounds to float16, as the records hold it.

At x0.5 there are two ways. A training takes few patches of a volume: each is halved by itself (`cut`). A whole
case has many tiles, which overlap: they are cut from halved images, made once (`halves`, `cut_half`). What lies
inside is sliced, and the slice is padded.
"""

import tensorflow as tf

from tfbrats.graphs.boxes_graph import box_of, grown
from tfbrats.inference.answers import region_mask
from tfbrats.labels import PARENT

_SLAB = 8  # planes of a patch at x0.5 at a time: what they are made of stays in a processor's cache


def _inside(volume, start, size: int):
    """What of a cube lies in a volume: its voxels, how many are missing before and behind them (int32 [3])."""
    shape, channels = tf.shape(volume)[:3], volume.shape[3:].as_list()
    low = tf.clip_by_value(start, 0, shape)
    length = tf.clip_by_value(start + size, 0, shape) - low
    before = tf.clip_by_value(-start, 0, size)
    voxels = tf.slice(volume, tf.pad(low, [[0, len(channels)]]), tf.concat([length, channels], axis=0))
    return tf.ensure_shape(voxels, [None, None, None, *channels]), before, size - before - length


def _padded(voxels, before, behind):
    """Zeros along the first three axes."""
    channels = voxels.shape[3:].as_list()
    padding = tf.pad(tf.stack([before, behind], axis=1), [[0, len(channels)], [0, 0]])
    return tf.ensure_shape(tf.pad(voxels, padding), [None, None, None, *channels])


def _window(volume, start, size: int):
    """One cube of `window`."""
    return tf.ensure_shape(_padded(*_inside(volume, start, size)), [size, size, size, *volume.shape[3:]])


def framed(volume):
    """A volume with one voxel of zeros on every side: [i, j, k, M] -> [i + 2, j + 2, k + 2, M], of its type.

    What `cut_one` cuts from: a block of 2 x 2 x 2 voxels that reaches out of the volume lies in it whole.
    """
    volume = tf.convert_to_tensor(volume)
    return tf.pad(volume, [[1, 1]] * 3 + [[0, 0]] * (volume.shape.rank - 3))


def _halved(wide):
    """Float32 means of 2 x 2 x 2 voxels: [2i, 2j, 2k, M] -> [i, j, k, M]."""
    channels = wide.shape[3]
    i, j, k = (size // 2 for size in tf.unstack(tf.shape(wide)[:3]))
    # Pairs along i, then j, then k: the twin adds in the same order. By reshape, since slices that step
    # (wide[0::2]) take TensorFlow's CPU kernel fifty times as long. Float16 is sliced while it is float16.
    pairs = tf.reshape(wide, [i, 2, 4 * j * k * channels])
    pairs = tf.cast(pairs[:, 0], tf.float32) + tf.cast(pairs[:, 1], tf.float32)
    pairs = tf.reshape(pairs, [i * j, 2, 2 * k * channels])
    pairs = tf.reshape(pairs[:, 0] + pairs[:, 1], [i * j * k, 2, channels])
    return tf.reshape((pairs[:, 0] + pairs[:, 1]) * 0.125, [i, j, k, channels])


def _half(framed_image, start, size: int, dtype):
    """One patch at x0.5, `start` being the first voxel of its 2S: [S, S, S, M].

    What lies inside is halved and then padded: half of what a patch looks at is outside the brain.
    """
    first = start + 1  # in the frame
    shape, odd = tf.shape(framed_image)[:3], first % 2
    # Whole blocks alone: both ends are as odd as the first voxel.
    end = shape - (shape - odd) % 2
    low = tf.clip_by_value(first, odd, end)
    high = tf.clip_by_value(first + 2 * size, low, end)
    slabs = []
    for n in range(0, size, _SLAB):
        of_slab = tf.clip_by_value(first[0] + 2 * tf.constant([n, n + _SLAB]), low[0], high[0])
        begin = tf.concat([of_slab[:1], low[1:], [0]], axis=0)
        length = tf.concat([of_slab[1:] - of_slab[:1], (high - low)[1:], [framed_image.shape[3]]], axis=0)
        voxels = tf.ensure_shape(
            tf.slice(framed_image, begin, length), [None, None, None, framed_image.shape[3]]
        )
        slabs.append(tf.cast(_halved(voxels), dtype))
    before = tf.clip_by_value((low - first) // 2, 0, size)
    means = tf.concat(slabs, axis=0)
    behind = size - before - tf.shape(means)[:3]
    return tf.ensure_shape(_padded(means, before, behind), [size, size, size, framed_image.shape[3]])


def window(volume, starts, size: int):
    """Cubes of a volume; 0 where they reach out of it.

    Args:
        volume: [i, j, k] or [i, j, k, M], any type and size.
        starts: int32 [N, 3], first voxel of each; anywhere, also outside.

    Returns:
        [N, size, size, size] or [N, size, size, size, M].
    """
    volume = tf.convert_to_tensor(volume)
    cubes = tf.TensorSpec([size, size, size, *volume.shape[3:]], volume.dtype)
    return tf.map_fn(
        lambda start: _window(volume, start, size),
        tf.cast(starts, tf.int32),
        fn_output_signature=cubes,
        parallel_iterations=1,
    )


def cut_one(framed_image, centre, size: int, dtype):
    """One patch of `cut`, from the image in its frame (`framed`): [S, S, S, M] twice."""
    x1 = _window(framed_image, centre - size // 2 + 1, size)
    return tf.cast(x1, dtype), _half(framed_image, centre - size, size, dtype)


def cut(image, centres, size: int, dtype=tf.float32):
    """Patches at the scales that carry voxels of their own; x2 is derived from x1 (`scales`).

    Args:
        image: float32 or float16 [i, j, k, M].
        centres: int [N, 3]; a patch covers [c - size / 2, c + size / 2) along each axis, 0 outside the volume.
        size: S, even.
        dtype: of what comes back; float16 rounds as the records do.

    Returns:
        x1: [N, S, S, S, M].
        half: x0.5, [N, S, S, S, M]: means of 2 x 2 x 2 voxels over twice the width.
    """
    framed_image = framed(image)
    cube = tf.TensorSpec([size, size, size, framed_image.shape[3]], dtype)
    # One at a time: on its way each is 2S voxels wide.
    return tf.map_fn(
        lambda centre: cut_one(framed_image, centre, size, dtype),
        tf.cast(centres, tf.int32),
        fn_output_signature=(cube, cube),
        parallel_iterations=1,
    )


def halves(image):
    """All that patches at x0.5 may be cut from: float32 [i, j, k, M] -> [8, i2, j2, k2, M], 0 outside it.

    Patches whose corners are even or odd along the same axes share one: the n-th is of corners that are odd
    along i, j and k where n has the bits 4, 2 and 1. A whole case has many tiles, which overlap.
    """

    def pairs(volume, axis: int, odd: int):
        shape = tf.unstack(tf.shape(volume))
        half = shape[axis] // 2 + 1
        padding = [[odd, 2 * half - shape[axis] - odd] if n == axis else [0, 0] for n in range(4)]
        inner = tf.reduce_prod(tf.stack(shape[axis + 1 :]))
        lines = tf.reshape(tf.pad(volume, padding), [-1, 2, inner])
        return tf.reshape(lines[:, 0] + lines[:, 1], [*shape[:axis], half, *shape[axis + 1 :]])

    channels = image.shape[3]
    found = [image]
    for axis in range(3):  # in the order in which `_halved` adds
        found = [pairs(volume, axis, odd) for volume in found for odd in range(2)]
    return tf.ensure_shape(tf.stack(found) * 0.125, [8, None, None, None, channels])


def cut_half(halved, corners, size: int):
    """Patches at x0.5 of `halves`: float32 [N, S, S, S, M].

    Args:
        corners: int32 [N, 3], first voxel of the 2S that each looks at.
    """
    channels, shape = halved.shape[4], tf.shape(halved)[1:4]

    def cube(corner):
        odd = corner % 2
        start = (corner + odd) // 2
        low = tf.clip_by_value(start, 0, shape)
        length = tf.clip_by_value(start + size, 0, shape) - low
        which = tf.reduce_sum(odd * tf.constant([4, 2, 1]))
        begin = tf.concat([[which], low, [0]], axis=0)
        voxels = tf.slice(halved, begin, tf.concat([[1], length, [channels]], axis=0))
        voxels = tf.ensure_shape(voxels[0], [None, None, None, channels])
        before = tf.clip_by_value(-start, 0, size)
        return tf.ensure_shape(_padded(voxels, before, size - before - length), [size, size, size, channels])

    spec = tf.TensorSpec([size, size, size, channels], tf.float32)
    return tf.map_fn(cube, corners, fn_output_signature=spec, parallel_iterations=1)


def cut_label(label, centres, size: int):
    """Tissues uint8 [i, j, k], centres int [N, 3] -> [N, S, S, S]."""
    return window(label, tf.cast(centres, tf.int32) - size // 2, size)


def ancestor(label, region: str):
    """The twin of `patches.ancestor`: its mask, bool [i, j, k]; everything where it is the brain."""
    above = PARENT[region]
    if above is None:
        return tf.ones_like(label, tf.bool)
    mask = region_mask(label, above)
    return tf.cond(tf.reduce_any(mask), lambda: mask, lambda: ancestor(label, above))


def parent_box(label, region: str, margin: int):
    """The twin of `patches.parent_box`: int32 [3, 2]."""
    if PARENT[region] is None:  # the whole crop, without a look at it
        return tf.stack([tf.zeros([3], tf.int32), tf.shape(label)], axis=1)
    return grown(box_of(ancestor(label, region)), margin, tf.shape(label))


def jittered(box, jitter: int, shape, seed):
    """The twin of `patches.jittered`, with draws of its own."""
    moved = box + tf.random.stateless_uniform([3, 2], seed, -jitter, jitter + 1, tf.int32)
    low = tf.clip_by_value(moved[:, 0], 0, shape - 1)
    return tf.stack([low, tf.clip_by_value(moved[:, 1], low + 1, shape)], axis=1)
