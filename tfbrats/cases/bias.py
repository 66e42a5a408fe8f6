"""N4 bias correction (Tustison 2010, IEEE TMI 29:1310): the slow shading of a scan, found and divided out.

Models a volume as its true values times a smooth field. Sharpens the histogram of the logarithms, smooths what
that moves by a B-spline, takes it off, and again: four levels, each of twice as many spans. On a grid the
spline is separable, so that its fit (Lee 1997, IEEE TVCG 3:228) is three small matrix products. The parameters
are SimpleITK's defaults, and so is the field, but where its rounding differs (tests/cases/test_bias.py).

The field is the same bits whatever BLAS, its threads and the processor, but for a tie in a rounding: the
lattice is rounded to `UNIT`, which is far above the noise of sums and far below what N4 means, and evaluated
in numbers so short that float64 holds every product and sum of them exactly. Pure numpy.

`graphs.bias_graph` is the twin in the graph.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tfbrats.cases import boxes

LEVELS = 4
ITERATIONS = 50  # at most, of each level
THRESHOLD = 0.001  # a level ends when the field's change varies by less than this share
CONTROL_POINTS = 4  # along each axis at the first level: one span; a level more doubles the spans
BINS = 200
PADDED_BINS = 512
WIENER_NOISE = 0.01
FWHM = 0.15  # of the Gaussian by which shading is thought to have blurred the histogram
FEWEST_VOXELS = CONTROL_POINTS**3  # with fewer the first level's lattice is not determined
_FIRST_BIN = (PADDED_BINS - BINS) // 2
FLAT = 1e-6  # a range of logarithms that is float32's rounding

UNIT = 2.0**-20  # of lattice and field: 0.0001 %; float32 holds its multiples up to 16, float64 their products
WEIGHT_UNIT = 2.0**-22  # of a spline's weight at full resolution
_PLANES = 3  # of full resolution at a time
_ONE_THREAD = 2**18  # multiplications in a matrix product that OpenBLAS does not share among threads


class Fit(NamedTuple):
    """What was found.

    Attributes:
        lattice: control points of the logarithm of the field, float64 [A, B, C].
        iterations: of each level; () where there was nothing to fit.
    """

    lattice: np.ndarray
    iterations: tuple[int, ...]


def corrected(volume: np.ndarray, brain: np.ndarray, shrink: int) -> np.ndarray:
    """Divides out the bias field that is found in the brain.

    Negative voxels have no logarithm: they take no part in the fit but are corrected.

    Args:
        volume: one modality [I, J, K], finite.
        brain: bool [I, J, K].
        shrink: the field is fitted on one voxel of so many along each axis, and evaluated at all.

    Returns:
        float32 [I, J, K]; 0 stays 0.
    """
    lattice = _lattice_of(volume, brain, shrink)
    result = volume.astype(np.float32)
    if lattice.any():
        box = boxes.box_of(result)  # what is 0 stays so: most of a volume
        within = boxes.crop(result, box)
        for planes, log_field in _planes(lattice, volume.shape, box):
            # in float64: the last digit of exp, which is each machine's own, goes in the one rounding
            np.negative(log_field, out=log_field)
            within[..., planes] *= np.exp(log_field, out=log_field)
    return result


def log_field(volume: np.ndarray, mask: np.ndarray, shrink: int) -> np.ndarray:
    """The logarithm of the bias field at full resolution.

    Args:
        volume: [I, J, K], finite.
        mask: bool [I, J, K]: where to look; of it only voxels above 0.
        shrink: as in `corrected`.

    Returns:
        float32 [I, J, K]: multiples of 2^-20; 0 where there is nothing to fit (fewer than 64 voxels after
        shrinking, or all of one value).
    """
    lattice = _lattice_of(volume, mask, shrink)
    field = np.empty(volume.shape, np.float32, order="F")
    for planes, plane in _planes(lattice, volume.shape, [(0, n) for n in volume.shape]):
        field[..., planes] = plane
    return field


def _lattice_of(volume: np.ndarray, mask: np.ndarray, shrink: int) -> np.ndarray:
    """Control points, in multiples of `UNIT`."""
    taken = shrunk(volume.shape, shrink)
    lattice = fit(volume[taken], mask[taken]).lattice
    return np.rint(lattice / UNIT) * UNIT


def shrunk(shape: Sequence[int], shrink: int) -> tuple[slice, ...]:
    """Which voxels of a volume [I, J, K] are fitted: those that SimpleITK's Shrink takes.

    Along an axis of less than four times `shrink` more of them, so that a span has its four.
    """
    slices = []
    for size in shape:
        factor = max(1, min(shrink, size // CONTROL_POINTS))
        count = size // factor
        offset = (size - factor * (count - 1)) // 2  # the middle; of two middles the later one
        slices.append(slice(offset, offset + factor * (count - 1) + 1, factor))
    return tuple(slices)


# --- the fit --------------------------------------------------------------------------------------------


def fit(
    volume: np.ndarray, mask: np.ndarray, iterations: int = ITERATIONS, threshold: float = THRESHOLD
) -> Fit:
    """Finds the field on the grid of a volume, as it is.

    Args:
        volume: [I, J, K], finite. Its whole extent is the spline's domain.
        mask: bool [I, J, K]: where to look; of it only voxels above 0.
        iterations: at most, of each level; at least one is done.
        threshold: of the change by which a level ends.
    """
    lattice = np.zeros((CONTROL_POINTS,) * 3)
    mask = mask & (volume > 0)
    at = np.flatnonzero(boxes.crop(mask, box := boxes.box_of(mask)))
    if at.size < FEWEST_VOXELS:
        return Fit(lattice, ())
    logs = np.log(boxes.crop(volume, box).ravel()[at].astype(np.float64))
    if np.ptp(logs) <= FLAT:
        return Fit(lattice, ())
    field = np.zeros_like(logs)
    counts = []
    for level in range(LEVELS):
        if level:
            lattice = refined(lattice)
        spline = _Spline(lattice.shape, volume.shape, box, at)
        count = 0
        for count in range(1, iterations + 1):  # noqa: B007
            uncorrected = logs - field
            lattice += spline.fitted(sharpening_residual(uncorrected))
            old, field = field, spline.evaluated(lattice)
            if _variation(np.subtract(old, field, out=old)) <= threshold:
                break
        counts.append(count)
    return Fit(lattice, tuple(counts))


def _variation(log_change: np.ndarray) -> float:
    """Coefficient of variation of the factor by which the field changed; overwrites its argument."""
    change = np.exp(log_change, out=log_change)
    mean = change.mean()
    change -= mean
    return float(np.sqrt(np.einsum("n,n", change, change) / (change.size - 1)) / mean)


def sharpening_residual(logs: np.ndarray) -> np.ndarray:
    """By how much each value lies above what a sharper histogram expects there: float64 [N] -> [N].

    0 everywhere where all are of one value.
    """
    low, high = logs.min(), logs.max()
    if high - low <= FLAT:
        return np.zeros_like(logs)
    slope = (high - low) / (BINS - 1)
    part = logs - low
    part *= 1 / slope  # at most BINS - 1, but for rounding
    whole = np.floor(part)
    bins = whole.astype(np.intp)
    part -= whole
    above = np.bincount(bins, part, BINS)
    histogram = np.bincount(bins, minlength=BINS) - above
    histogram[1:] += above[:-1]
    expected = _sharpened(histogram, low, slope)
    rise = np.append(np.diff(expected), 0)
    part *= rise.take(bins, out=whole, mode="clip")
    part += expected.take(bins, out=whole, mode="clip")
    return np.subtract(logs, part, out=part)


def _sharpened(histogram: np.ndarray, low: float, slope: float) -> np.ndarray:
    """E[true | seen] at the centre of each bin, by Wiener deconvolution: float64 [BINS] -> [BINS].

    Args:
        low: the first bin's centre.
        slope: from one bin's centre to the next.
    """
    padded = np.zeros(PADDED_BINS)
    padded[_FIRST_BIN : _FIRST_BIN + BINS] = histogram
    n = np.arange(PADDED_BINS)
    width = FWHM / slope
    blur = np.exp(-4 * np.log(2) * (np.minimum(n, PADDED_BINS - n) / width) ** 2)
    blur *= 2 * np.sqrt(np.log(2) / np.pi) / width
    transfer = np.fft.rfft(blur).real  # even, so that its transform is real
    sharp = np.fft.irfft(np.fft.rfft(padded) * transfer / (transfer**2 + WIENER_NOISE), PADDED_BINS)
    np.maximum(sharp, 0, out=sharp)
    centres = low + (n - _FIRST_BIN) * slope
    pair = np.fft.irfft(np.fft.rfft(np.stack([centres * sharp, sharp])) * transfer, PADDED_BINS)
    numerator, denominator = pair[:, _FIRST_BIN : _FIRST_BIN + BINS]
    return np.divide(numerator, denominator, out=np.zeros(BINS), where=denominator != 0)


# --- the spline -----------------------------------------------------------------------------------------


def weights(control_points: int, size: int) -> np.ndarray:
    """What each control point adds to each of `size` voxels of an axis: float64 [size, control_points].

    The first and the last voxel are the domain's ends; an axis of one voxel has its start alone.
    """
    spans = control_points - 3
    t = np.arange(size) * (spans / max(size - 1, 1))
    # The end belongs to the last span: moved in by a thousandth of a voxel.
    t[-1] -= spans / max(size - 1, 1) / 1000 if size > 1 else 0
    first = t.astype(np.intp)
    a = t - first
    result = np.zeros((size, control_points))
    rows = np.arange(size)
    result[rows, first] = (1 - a) ** 3 / 6
    result[rows, first + 1] = (3 * a**3 - 6 * a**2 + 4) / 6
    result[rows, first + 2] = (-3 * a**3 + 3 * a**2 + 3 * a + 1) / 6
    result[rows, first + 3] = a**3 / 6
    return result


def refined(lattice: np.ndarray) -> np.ndarray:
    """The same function by twice as many spans: [A, B, C] -> [2A - 3, 2B - 3, 2C - 3]."""
    for axis in range(3):
        c = np.moveaxis(lattice, axis, 0)
        finer = np.empty((2 * len(c) - 3, *c.shape[1:]))
        finer[0::2] = (c[:-1] + c[1:]) / 2
        finer[1::2] = (c[:-2] + 6 * c[1:-1] + c[2:]) / 8
        lattice = np.moveaxis(finer, 0, axis)
    return np.ascontiguousarray(lattice)


class _Spline:
    """A level's spline at the voxels of a mask.

    Args:
        control_points: along each axis.
        shape: of the volume, the spline's domain.
        box: round the mask.
        at: the mask's voxels, flat indices in the box.
    """

    def __init__(self, control_points: Sequence[int], shape: Sequence[int], box: boxes.Box, at: np.ndarray):
        rows = [weights(c, n)[slice(*ends)] for c, n, ends in zip(control_points, shape, box, strict=True)]
        squares = [(each**2).sum(axis=1, keepdims=True) for each in rows]
        self._at = at
        self._dense = np.zeros([len(each) for each in rows])
        self._rows = rows
        self._numerator = [each**3 / square for each, square in zip(rows, squares, strict=True)]
        self._dense.ravel()[at] = 1
        self._denominator = _gathered(self._dense, [each**2 for each in rows])

    def fitted(self, values: np.ndarray) -> np.ndarray:
        """Control points near values at the mask's voxels: [N] -> [A, B, C]; 0 where no voxel is near."""
        self._dense.ravel()[self._at] = values
        numerator = _gathered(self._dense, self._numerator)
        return np.divide(
            numerator, self._denominator, out=np.zeros_like(numerator), where=self._denominator > 0
        )

    def evaluated(self, lattice: np.ndarray) -> np.ndarray:
        """At the mask's voxels: [A, B, C] -> [N]."""
        of_i, of_j, of_k = self._rows
        a, b, c = lattice.shape
        planes = (of_i @ lattice.reshape(a, b * c)).reshape(-1, b, c)
        dense = _product(of_j @ planes, np.ascontiguousarray(of_k.T))
        return dense.ravel().take(self._at, mode="clip")


def _gathered(dense: np.ndarray, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Sums over all voxels of values times each control point's weights: [I, J, K], 3 x [n, C] -> [A, B, C]."""
    of_i, of_j, of_k = rows
    planes = of_j.T @ _product(dense, of_k)
    return (of_i.T @ planes.reshape(len(planes), -1)).reshape(of_i.shape[1], *planes.shape[1:])


def _product(stack: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Each plane times a matrix, in pieces that BLAS leaves to this thread: [I, J, K], [K, C] -> [I, J, C].

    Workers each have a core, and threads of BLAS would only be in each other's way.
    """
    result = np.empty((*stack.shape[:2], matrix.shape[1]))
    step = max(1, _ONE_THREAD // matrix.size)
    for start in range(0, stack.shape[1], step):
        np.matmul(stack[:, start : start + step], matrix, out=result[:, start : start + step])
    return result


def _planes(lattice: np.ndarray, shape: Sequence[int], box: boxes.Box) -> Iterator[tuple[slice, np.ndarray]]:
    """The field in a box of a volume of full resolution: planes along k, and float64 [i, j, planes].

    Some planes at a time, as a volume from a file lies in memory: they fit into a core's cache. All numbers are
    short: multiples of a unit, whose products and sums are exact, in whatever order BLAS takes them.
    """
    of_i, of_j, of_k = (
        np.rint(weights(c, n)[slice(*ends)] / WEIGHT_UNIT) * WEIGHT_UNIT
        for c, n, ends in zip(lattice.shape, shape, box, strict=True)
    )
    a, b, c = lattice.shape
    rows = _rounded(of_i @ lattice.reshape(a, b * c)).reshape(-1, b, c)
    columns = _rounded(of_j @ rows)  # [i, j, C]
    columns = np.ascontiguousarray(columns.T).reshape(c, -1)
    step = max(1, _ONE_THREAD // (c * _PLANES))
    for start in range(0, len(of_k), _PLANES):
        some = of_k[start : start + _PLANES]
        field = np.empty((len(some), columns.shape[1]))
        for left in range(0, columns.shape[1], step):
            np.matmul(some, columns[:, left : left + step], out=field[:, left : left + step])
        yield slice(start, start + len(some)), _rounded(field).reshape(len(some), len(of_j), len(of_i)).T


def _rounded(values: np.ndarray) -> np.ndarray:
    """To multiples of `UNIT`, in place."""
    values *= 1 / UNIT
    np.rint(values, out=values)
    values *= UNIT
    return values
