"""N4 bias correction in the graph: kernels of plain TensorFlow alone, volumes of any size.

`cases.bias` is the twin in numpy and says what each number is. All is in double precision, and the lattice is
rounded and evaluated as there, so that both give a volume the same bits, but for a tie in a rounding.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfbrats.cases import bias
from tfbrats.cases.bias import BINS, PADDED_BINS

_CPU = "/device:CPU:0"
_FIRST_BIN = (PADDED_BINS - BINS) // 2
_INWARDS = 0.001  # voxels, of an axis' last one: the end belongs to the last span


def corrected(image, channels: Sequence[int], box, shape, shrink: int):
    """Divides out of some modalities the bias field that is found where they are over 0.

    On the CPU, wherever the network runs: a GPU adds in another order each time.

    Args:
        image: float32 [i, j, k, M], finite; 0 outside the brain.
        channels: which of the M; at least one.
        box: int32 [3, 2], where it lies in the whole volume; may be empty.
        shape: int32 [3], the whole volume's.
        shrink: the field is fitted on one voxel of so many along each axis, and evaluated at all.

    Returns:
        float32 [i, j, k, M]; 0 stays 0.
    """

    def of_channel(channel):
        with tf.device(_CPU):  # a loop's body does not take it from outside
            volume = image[..., channel]
            negative, _ = log_field(volume, volume > 0, box, shape, shrink, scale=-1)
            # in float64: the last digit of exp, which is each machine's own, goes in the one rounding
            return tf.cast(tf.exp(negative) * tf.cast(volume, tf.float64), tf.float32)

    with tf.device(_CPU):
        # One after the other, so that each ends when its own field rests, in the memory of one.
        volumes = tf.map_fn(
            of_channel,
            tf.constant(channels),
            fn_output_signature=tf.TensorSpec([None] * 3, tf.float32),
            parallel_iterations=1,
        )
        corrected_one = dict(zip(channels, range(len(channels)), strict=True))
        return tf.stack(
            [
                volumes[corrected_one[m]] if m in corrected_one else image[..., m]
                for m in range(image.shape[-1])
            ],
            axis=-1,
        )


def log_field(volume, mask, box, shape, shrink: int, scale: float = 1):
    """The logarithm of the bias field at full resolution, and how it was found.

    Args:
        volume: float32 [i, j, k], finite.
        mask: bool [i, j, k]: where to look; over 0 there.
        box, shape, shrink: as `corrected`.
        scale: what the logarithm is multiplied by.

    Returns:
        float64 [i, j, k]: multiples of `bias.UNIT`, 0 where there is nothing to fit; and the iterations of each
        level, int32 [4], each 0 there.
    """
    axes = [_shrunk(box[axis], shape[axis], shrink) for axis in range(3)]
    for axis, (_, _, at) in enumerate(axes):
        volume, mask = (tf.gather(array, at, axis=axis) for array in (volume, mask))
    lattice, iterations = _fit(volume, mask, [axis[:2] for axis in axes])
    whole = [(tf.range(box[axis, 0], box[axis, 1]), shape[axis]) for axis in range(3)]
    return _evaluated(lattice, whole, scale), iterations


def _shrunk(ends, size, shrink: int):
    """Which voxels of an axis are fitted, as `bias.shrunk`.

    Args:
        ends: int32 [2], of the box.
        size: int32 [], of the whole volume.

    Returns:
        of those in the box, their numbers on the shrunk axis, int32 [n]; its size; where they lie in the box,
        int32 [n].
    """
    factor = tf.maximum(tf.minimum(shrink, size // bias.CONTROL_POINTS), 1)
    count = size // factor
    places = tf.range(count)
    at = (size - factor * (count - 1)) // 2 + factor * places
    inside = (at >= ends[0]) & (at < ends[1])
    return tf.boolean_mask(places, inside), count, tf.boolean_mask(at - ends[0], inside)


# --- the fit --------------------------------------------------------------------------------------------


def _fit(volume, mask, axes):
    """Finds the field on a shrunk grid, or in a box of it.

    Args:
        volume, mask: [i, j, k].
        axes: for each, the voxels' numbers, int32 [n], and how many the whole grid has, int32 [].

    Returns:
        control points of the last level, float64 [11, 11, 11], and the iterations of each level, int32 [4].
    """
    flat = tf.reshape(mask, [-1])
    within = tf.cast(tf.where(flat)[:, 0], tf.int32)
    logs = tf.math.log(tf.cast(tf.gather(tf.reshape(volume, [-1]), within), tf.float64))
    spread = tf.reduce_max(logs) - tf.reduce_min(logs)
    can_fit = (tf.size(logs) >= bias.FEWEST_VOXELS) & (spread > bias.FLAT)
    # Where each voxel of the grid finds its value in a list of the mask's; those outside find the 0 behind it.
    places = tf.where(flat, tf.cumsum(tf.cast(flat, tf.int32), exclusive=True), tf.size(within))
    points, lattice = bias.CONTROL_POINTS, tf.zeros([bias.CONTROL_POINTS] * 3, tf.float64)
    field, iterations = tf.zeros_like(logs), []
    for level in range(bias.LEVELS):
        if level:
            lattice, points = _refined(lattice), 2 * points - 3
        weights = [_weights(points, *axis) for axis in axes]
        lattice, field, count = _level(logs, field, lattice, weights, mask, within, places, can_fit)
        iterations.append(count)
    return lattice, tf.stack(iterations)


def _level(logs, field, lattice, weights, mask, within, places, can_fit):
    """Fits on one level until the field rests: lattice, field and the number of iterations.

    Args:
        logs, field: float64 [n], of the mask's voxels.
        lattice: float64 [C, C, C].
        weights: float64 [i, C], [j, C], [k, C].
        within: int32 [n], the mask's voxels, flat.
        places: int32 [i * j * k], the inverse.
        can_fit: bool []; False: no iteration is done.
    """
    numerators = [each**3 / tf.reduce_sum(each**2, axis=1, keepdims=True) for each in weights]
    denominator = _gathered(tf.cast(mask, tf.float64), [each**2 for each in weights])

    def moves(count, lattice, field, variation):
        with tf.device(_CPU):
            return (count < bias.ITERATIONS) & (variation > bias.THRESHOLD)

    def iterate(count, lattice, field, _):
        with tf.device(_CPU):
            residual = tf.pad(_sharpening_residual(logs - field), [[0, 1]])
            dense = tf.reshape(tf.gather(residual, places), tf.shape(mask))
            lattice += tf.math.divide_no_nan(_gathered(dense, numerators), denominator)
            moved = tf.gather(tf.reshape(_spread(lattice, weights), [-1]), within)
            return count + 1, lattice, moved, _variation(field - moved)

    count, lattice, field, _ = tf.while_loop(
        moves,
        iterate,
        (0, lattice, field, tf.where(can_fit, tf.constant(math.inf, tf.float64), 0.0)),
        parallel_iterations=1,
    )
    return lattice, field, count


def _variation(log_change):
    """Coefficient of variation of the factor by which the field changed: float64 [n] -> []."""
    change = tf.exp(log_change)
    mean = tf.reduce_mean(change)
    count = tf.cast(tf.size(change), tf.float64)
    return tf.sqrt(tf.reduce_sum(tf.square(change - mean)) / (count - 1)) / mean


def _sharpening_residual(logs):
    """By how much each value lies above what a sharper histogram expects there: float64 [n] -> [n].

    0 everywhere where all are of one value.
    """
    low, high = tf.reduce_min(logs), tf.reduce_max(logs)
    is_one_value = high - low <= bias.FLAT
    slope = tf.where(is_one_value, tf.ones_like(high), (high - low) / (BINS - 1))
    part = (logs - low) / slope
    bins = tf.minimum(tf.cast(part, tf.int32), BINS - 1)
    part -= tf.cast(bins, tf.float64)
    # Not bincount: what it sums depends on how many threads share the work.
    above = tf.math.unsorted_segment_sum(part, bins, BINS)
    count = tf.math.unsorted_segment_sum(tf.ones_like(part), bins, BINS)
    expected = _sharpened(count - above + tf.pad(above[:-1], [[1, 0]]), low, slope)
    rise = tf.pad(expected[1:] - expected[:-1], [[0, 1]])
    residual = logs - (tf.gather(expected, bins) + tf.gather(rise, bins) * part)
    return tf.where(is_one_value, tf.zeros_like(residual), residual)


def _sharpened(histogram, low, slope):
    """E[true | seen] at the centre of each bin, by Wiener deconvolution: float64 [BINS] -> [BINS].

    Args:
        low: the first bin's centre.
        slope: from one bin's centre to the next.
    """
    n = np.arange(PADDED_BINS)
    apart = tf.constant(np.minimum(n, PADDED_BINS - n), tf.float64)
    width = bias.FWHM / slope
    blur = tf.exp(-4 * math.log(2) * tf.square(apart / width)) * (2 * math.sqrt(math.log(2) / math.pi) / width)
    transfer = tf.cast(tf.math.real(tf.signal.rfft(blur)), tf.complex128)  # even, so that its transform is real
    padded = tf.pad(histogram, [[_FIRST_BIN, PADDED_BINS - BINS - _FIRST_BIN]])
    sharp = tf.signal.irfft(tf.signal.rfft(padded) * transfer / (transfer * transfer + bias.WIENER_NOISE))
    sharp = tf.maximum(sharp, 0.0)
    centres = low + tf.constant(n - _FIRST_BIN, tf.float64) * slope
    pair = tf.signal.irfft(tf.signal.rfft(tf.stack([centres * sharp, sharp])) * transfer)
    numerator, denominator = tf.unstack(pair[:, _FIRST_BIN : _FIRST_BIN + BINS])
    return tf.math.divide_no_nan(numerator, denominator)


# --- the spline -----------------------------------------------------------------------------------------


def _weights(points: int, places, size):
    """What each control point adds to some voxels of an axis of so many: int32 [n] -> float64 [n, points]."""
    last = tf.cast(size - 1, tf.float64)
    at = tf.cast(places, tf.float64)
    at = tf.where(at < last, at, tf.maximum(last - _INWARDS, 0.0)) * ((points - 3) / tf.maximum(last, 1.0))
    first = tf.cast(at, tf.int32)
    a = (at - tf.cast(first, tf.float64))[:, None]
    of_four = tf.concat([(1 - a) ** 3, 3 * a**3 - 6 * a**2 + 4, -3 * a**3 + 3 * a**2 + 3 * a + 1, a**3], axis=1)
    four = tf.one_hot(first[:, None] + tf.range(4), points, dtype=tf.float64)  # n x 4 x points
    return tf.reduce_sum(four * (of_four / 6)[..., None], axis=1)


def _spread(lattice, weights):
    """A spline's values: control points [C, C, C], weights [i, C], [j, C], [k, C] -> [i, j, k]."""
    of_i, of_j, of_k = weights
    points, (i, j, k) = lattice.shape[-1], (tf.shape(each)[0] for each in weights)
    planes = tf.reshape(tf.matmul(of_i, tf.reshape(lattice, [points, points**2])), [i, points, points])
    lines = tf.reshape(tf.matmul(of_j, planes), [i * j, points])
    return tf.reshape(tf.matmul(lines, of_k, transpose_b=True), [i, j, k])


def _gathered(dense, weights):
    """Sums over all voxels of values times each control point's weights: [i, j, k] -> [C, C, C]."""
    of_i, of_j, of_k = weights
    points, (i, j, k) = of_k.shape[-1], (tf.shape(each)[0] for each in weights)
    lines = tf.matmul(tf.reshape(dense, [i * j, k]), of_k)
    planes = tf.matmul(of_j, tf.reshape(lines, [i, j, points]), transpose_a=True)
    return tf.reshape(tf.matmul(of_i, tf.reshape(planes, [i, points**2]), transpose_a=True), [points] * 3)


def _refined(lattice):
    """The same function by twice as many spans: [C, C, C] -> [2C - 3, 2C - 3, 2C - 3]."""
    points = lattice.shape[-1]
    one_axis = np.zeros((2 * points - 3, points))
    for n in range(0, 2 * points - 3, 2):
        one_axis[n, n // 2 : n // 2 + 2] = 1 / 2, 1 / 2
    for n in range(1, 2 * points - 3, 2):
        one_axis[n, n // 2 : n // 2 + 3] = 1 / 8, 6 / 8, 1 / 8
    return _spread(lattice, [tf.constant(one_axis)] * 3)


def _evaluated(lattice, axes, scale: float):
    """The field, `scale` times, at all voxels of a box: float64 [i, j, k]. All sums are exact, as in the twin.

    Args:
        axes: for each, the voxels' numbers, int32 [n], and how many the whole volume has, int32 [].
    """
    of_i, of_j, of_k = (_rounded(_weights(lattice.shape[-1], *axis), bias.WEIGHT_UNIT) for axis in axes)
    points, (i, j, k) = lattice.shape[-1], (tf.shape(each)[0] for each in (of_i, of_j, of_k))
    lattice = tf.reshape(_rounded(lattice, bias.UNIT), [points, points**2])
    planes = tf.reshape(_rounded(tf.matmul(of_i, lattice), bias.UNIT), [i, points, points])
    lines = tf.reshape(_rounded(tf.matmul(of_j, planes), bias.UNIT), [i * j, points])
    units = tf.round(tf.matmul(lines, of_k / bias.UNIT, transpose_b=True))
    return tf.reshape(units * (bias.UNIT * scale), [i, j, k])


def _rounded(values, unit: float):
    """To multiples of a power of 2."""
    return tf.round(values / unit) * unit
