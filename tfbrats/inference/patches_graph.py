"""Cut multi-scale patches in the graph, many at a time, from stored volumes and from whole cases.

`cases.patches` is the twin in numpy, which cuts one at a time. They are equal to the bit, which fixes the order
of every sum; the twin always rounds to float16, as the records hold it. A volume is never padded: what lies
inside is sliced, and the slice is padded.
"""

import tensorflow as tf

from tfbrats.inference.answers import region_mask
from tfbrats.inference.boxes_graph import box_of, grown
from tfbrats.labels import PARENT


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


def _halved(wide):
    """Float32 means of 2 x 2 x 2 voxels: [2i, 2j, 2k, M] -> [i, j, k, M]."""
    i, j, k = (size // 2 for size in tf.unstack(tf.shape(wide)[:3]))
    # Pairs along i, then j, then k: the twin adds in the same order. By reshape, since slices that step
    # (wide[0::2]) take TensorFlow's CPU kernel fifty times as long.
    pairs = tf.reshape(tf.cast(wide, tf.float32), [i, 2, 2 * j, 2 * k, wide.shape[3]])
    pairs = tf.reshape(pairs[:, 0] + pairs[:, 1], [i, j, 2, 2 * k, wide.shape[3]])
    pairs = tf.reshape(pairs[:, :, 0] + pairs[:, :, 1], [i, j, k, 2, wide.shape[3]])
    return (pairs[:, :, :, 0] + pairs[:, :, :, 1]) * 0.125


def _half(image, start, size: int):
    """One patch at x0.5, `start` being the first voxel of its 2S: float32 [S, S, S, M].

    Pads with whole blocks after the means are taken: half of what a patch looks at is outside the brain.
    """
    voxels, before, behind = _inside(image, start, 2 * size)
    means = _halved(_padded(voxels, before % 2, behind % 2))
    return tf.ensure_shape(_padded(means, before // 2, behind // 2), [size, size, size, image.shape[3]])


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
    image = tf.convert_to_tensor(image)

    def patch_round(centre):
        x1, half = _window(image, centre - size // 2, size), _half(image, centre - size, size)
        return tf.cast(x1, dtype), tf.cast(half, dtype)

    cube = tf.TensorSpec([size, size, size, image.shape[3]], dtype)
    # One at a time: on its way each is 2S voxels wide, in float32.
    return tf.map_fn(
        patch_round, tf.cast(centres, tf.int32), fn_output_signature=(cube, cube), parallel_iterations=1
    )


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
    return grown(box_of(ancestor(label, region)), margin, tf.shape(label))


def jittered(box, jitter: int, shape, seed):
    """The twin of `patches.jittered`, with draws of its own."""
    moved = box + tf.random.stateless_uniform([3, 2], seed, -jitter, jitter + 1, tf.int32)
    low = tf.clip_by_value(moved[:, 0], 0, shape - 1)
    return tf.stack([low, tf.clip_by_value(moved[:, 1], low + 1, shape)], axis=1)
