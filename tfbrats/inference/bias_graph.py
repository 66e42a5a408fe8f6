"""N4 bias field correction (Tustison 2010) in the graph: B-splines on a grid are products of three small matrices.

`cases.bias` is the twin in numpy, which says what each number is and where ITK differs. What follows here is the
same in double precision, for volumes of any size: four levels, one loop each, left as soon as the field rests.
"""

import math

import numpy as np
import tensorflow as tf

_LEVELS = 4
_MOST_ITERATIONS = 50  # of a level
_RESTS = 0.001  # coefficient of variation of what an iteration changed
_POINTS = 4  # along each axis, at the first level
_BINS = 200
_PADDED = 512  # bins, for the Fourier transform
_OFFSET = (_PADDED - _BINS) // 2
_FULL_WIDTH = 0.15  # at half maximum, of the Gaussian that is taken off the histogram
_NOISE = 0.01  # of Wiener's filter
_INWARDS = 0.001  # voxels, of the last one, which would lie beyond the last span


def corrected(image, box, shape, shrink: int):
    """Divides out of each modality the bias field that is fitted where it is over 0; one after the other.

    Args:
        image: float32 [i, j, k, M], all numbers; 0 outside the brain.
        box: int32 [3, 2], where it lies in the whole volume; it may hold no voxel.
        shape: int32 [3]: the whole volume, over which the splines are laid.
        shrink: the field is fitted on every so manieth voxel along each axis.

    Returns:
        float32 [i, j, k, M]; 0 stays 0.
    """

    def one(channel):
        volume = image[..., channel]
        field, _ = log_field(volume, volume > 0, box, shape, shrink)
        return tf.cast(tf.cast(volume, tf.float64) / tf.exp(field), tf.float32)

    volumes = tf.map_fn(
        one,
        tf.range(image.shape[-1]),
        fn_output_signature=tf.TensorSpec([None] * 3, tf.float32),
        parallel_iterations=1,  # together they would stop with the last and save nothing
    )
    return tf.transpose(volumes, [1, 2, 3, 0])


def log_field(volume, mask, box, shape, shrink: int):
    """The logarithm of a volume's bias field, and the iterations of each level.

    Args:
        volume: float32 [i, j, k]; over 0 in the mask.
        mask: bool [i, j, k].
        box, shape, shrink: as `corrected`.

    Returns:
        float64 [i, j, k]; 0 where nothing can be fitted: no voxel, or one value. int32 [4].
    """
    places, sizes, every = [], [], []
    for axis in range(3):
        along, size, inside = _shrunk(box[axis], shape[axis], shrink)
        places.append(along)
        sizes.append(size)
        every.append(inside)
    lattice, iterations = _fit(_taken(volume, every), _taken(mask, every), places, sizes)
    points = lattice.shape[0]
    whole = [_weights(tf.range(box[axis, 0], box[axis, 1]), shape[axis], points) for axis in range(3)]
    return _surface(whole, lattice), iterations


def _shrunk(ends, size, shrink: int):
    """Which voxels of an axis are kept, as ITK's Shrink takes them from the middle.

    Args:
        ends: int32 [2], of the box.
        size: int32 [], of the whole volume.

    Returns:
        their numbers on the shrunk axis, int32 [n], that axis' size, and where they lie in the box, int32 [n].
    """
    factor = tf.maximum(tf.minimum(shrink, size // 4), 1)
    kept = tf.maximum(size // factor, 1)
    offset = (size - factor * (kept - 1)) // 2  # floor((size - 1 - factor (kept - 1)) / 2 + 1 / 2)
    at = offset + factor * tf.range(kept)
    inside = (at >= ends[0]) & (at < ends[1])
    return tf.boolean_mask(tf.range(kept), inside), kept, tf.boolean_mask(at - ends[0], inside)


def _taken(array, places):
    """[i, j, k] at these places along each axis."""
    for axis, along in enumerate(places):
        array = tf.gather(array, along, axis=axis)
    return array


def _weights(places, size, points: int):
    """Weights of the cubic splines' control points at some voxels of an axis: int32 [n] -> float64 [n, points]."""
    last = tf.cast(tf.maximum(size - 1, 1), tf.float64)
    at = tf.minimum(tf.cast(places, tf.float64), last - _INWARDS) * ((points - 3) / last)
    first = tf.floor(at)
    a = (at - first)[:, None]
    four = tf.concat(
        [(1 - a) ** 3, (3 * a - 6) * a**2 + 4, ((3 - 3 * a) * a + 3) * a + 1, a**3], axis=1
    ) / tf.constant(6, tf.float64)
    of_points = tf.one_hot(tf.cast(first, tf.int32)[:, None] + tf.range(4), points, dtype=tf.float64)
    return tf.reduce_sum(of_points * four[..., None], axis=1)


def _surface(weights, lattice):
    """The splines' values: weights float64 [i, C], [j, C], [k, C], lattice [C, C, C] -> [i, j, k]."""
    i, j, k = weights
    points = lattice.shape[0]
    along_k = tf.matmul(tf.reshape(lattice, [points**2, points]), k, transpose_b=True)
    along_j = tf.matmul(j, tf.reshape(along_k, [points, points, -1]))
    along_i = tf.matmul(i, tf.reshape(along_j, [points, -1]))
    return tf.reshape(along_i, [tf.shape(i)[0], tf.shape(j)[0], tf.shape(k)[0]])


def _gathered(weights, values):
    """The inverse direction: sums of values float64 [i, j, k] times the weights of each point: [C, C, C]."""
    i, j, k = weights
    points = i.shape[1]
    shape = tf.shape(values)
    over_k = tf.reshape(tf.matmul(tf.reshape(values, [-1, shape[2]]), k), [shape[0], shape[1], points])
    over_j = tf.matmul(j, over_k, transpose_a=True)  # i x C x C
    over_i = tf.matmul(i, tf.reshape(over_j, [shape[0], points**2]), transpose_a=True)
    return tf.reshape(over_i, [points] * 3)


def _fit(volume, mask, places, sizes):
    """The lattice of the last level, float64 [11, 11, 11], and the iterations of each level, int32 [4].

    Args:
        volume, mask: of the shrunk grid, [i, j, k].
        places: along each axis, where these voxels lie on it: int32 [n].
        sizes: int32 [], of the axes.
    """
    within = tf.where(tf.reshape(mask, [-1]))
    logs = tf.math.log(tf.cast(tf.gather_nd(tf.reshape(volume, [-1]), within), tf.float64))
    field = tf.zeros_like(logs)
    points, lattice, iterations = _POINTS, tf.zeros([_POINTS] * 3, tf.float64), []
    for level in range(_LEVELS):
        if level:
            lattice, points = _refined(lattice), 2 * points - 3
        weights = [_weights(along, size, points) for along, size in zip(places, sizes, strict=True)]
        lattice, field, count = _level(logs, within, mask, weights, lattice, field)
        iterations.append(count)
    return lattice, tf.stack(iterations)


def _level(logs, within, mask, weights, lattice, field):
    """One level's loop: lattice, the field in the mask and the number of iterations.

    Args:
        logs, field: float64 [n], of the voxels in the mask.
        within: int64 [n, 1], where these lie in the flat mask.
        mask: bool [i, j, k].
        weights: float64 [i, C], [j, C], [k, C].
        lattice: float64 [C, C, C].
    """
    cubes = [w**3 / tf.reduce_sum(w**2, axis=1, keepdims=True) for w in weights]
    below = _gathered([w**2 for w in weights], tf.cast(mask, tf.float64))
    voxels = tf.cast(tf.size(logs), tf.float64)

    def iterate(count, lattice, field, _):
        residual = _residual(logs - field)
        spread_out = tf.scatter_nd(within, residual, [tf.size(mask, out_type=tf.int64)])
        above = _gathered(cubes, tf.reshape(spread_out, tf.shape(mask)))
        lattice += tf.math.divide_no_nan(above, below)
        new = tf.gather_nd(tf.reshape(_surface(weights, lattice), [-1]), within)
        change = tf.exp(field - new)
        mean = tf.reduce_sum(change) / tf.maximum(voxels, 1)
        variance = tf.reduce_sum(tf.square(change - mean)) / tf.maximum(voxels - 1, 1)
        return count + 1, lattice, new, tf.math.divide_no_nan(tf.sqrt(variance), mean)

    count, lattice, field, _ = tf.while_loop(
        lambda count, _, __, variation: (count < _MOST_ITERATIONS) & (variation > _RESTS),
        iterate,
        (0, lattice, field, tf.constant(math.inf, tf.float64)),
        parallel_iterations=1,
    )
    return lattice, field, count


def _residual(values):
    """What of the logarithms, float64 [n], a sharper histogram would take away: float64 [n]; 0 of one value."""
    low, high = tf.reduce_min(values), tf.reduce_max(values)
    slope = (high - low) / (_BINS - 1)
    place = tf.math.divide_no_nan(values - low, slope)
    bins = tf.clip_by_value(tf.floor(place), 0, _BINS - 1)
    share, bins = place - bins, tf.cast(bins, tf.int32)
    parts = tf.math.unsorted_segment_sum(tf.stack([1 - share, share], axis=1), bins, _BINS)
    histogram = parts[:, 0] + tf.pad(parts[:-1, 1], [[1, 0]])
    expected = _expected(histogram, low, slope)
    steps = tf.pad(expected[1:] - expected[:-1], [[0, 1]])
    sharper = tf.gather(tf.stack([expected, steps], axis=1), bins)
    return tf.where(slope > 0, values - (sharper[:, 0] + sharper[:, 1] * share), 0.0)


def _expected(histogram, low, slope):
    """The true logarithm that is expected of what lies in each bin, float64 [200].

    Wiener's filter takes the Gaussian of the field off the histogram.
    """
    padded = tf.pad(histogram, [[_OFFSET, _PADDED - _BINS - _OFFSET]])
    width = tf.math.divide_no_nan(tf.constant(_FULL_WIDTH, tf.float64), slope)
    apart = tf.constant(np.minimum(np.arange(_PADDED), _PADDED - np.arange(_PADDED)), tf.float64)
    height = tf.math.divide_no_nan(tf.constant(2 * math.sqrt(math.log(2) / math.pi), tf.float64), width)
    gauss = tf.cast(
        tf.math.real(tf.signal.rfft(height * tf.exp(-4 * math.log(2) * tf.square(tf.math.divide_no_nan(apart, width))))),
        tf.complex128,
    )
    filtered = tf.signal.rfft(padded) * gauss / (gauss**2 + _NOISE)
    sharp = tf.maximum(tf.signal.irfft(filtered), 0.0)
    logs = low + tf.constant(np.arange(_PADDED) - _OFFSET, tf.float64) * slope

    def blurred(bins):
        return tf.signal.irfft(tf.signal.rfft(bins) * gauss)

    expected = tf.math.divide_no_nan(blurred(logs * sharp), blurred(sharp))
    return expected[_OFFSET : _OFFSET + _BINS]


def _refined(lattice):
    """The same splines on twice as many spans: float64 [C, C, C] -> [2C - 3, ...]."""
    finer = tf.constant(_refinement(lattice.shape[0]))
    return _surface([finer] * 3, lattice)


def _refinement(points: int) -> np.ndarray:
    """Control points of twice as many spans from those of one axis: float64 [2C - 3, C]."""
    matrix = np.zeros((2 * points - 3, points))
    for n in range(2 * points - 3):
        k = n // 2
        if n % 2:
            matrix[n, k : k + 3] = 1 / 8, 6 / 8, 1 / 8
        else:
            matrix[n, k : k + 2] = 1 / 2, 1 / 2
    return matrix
