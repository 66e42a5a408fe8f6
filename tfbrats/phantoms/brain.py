"""The brain of a phantom: its shape, its tissues and their signal. Pure numpy."""

import zlib
from collections.abc import Sequence

import numpy as np

SEMI_AXES = (0.31, 0.38, 0.44)  # of the brain, as a fraction of the volume's sides


# Relative signal of grey matter, white matter and fluid, and of what a tumour adds, in the order of MRI
# textbooks (T1: white > grey > fluid; T2 the reverse; FLAIR: fluid suppressed). Arbitrary units.
#                 GM    WM    CSF   ED    NCR   ET
SIGNAL = {
    "flair": (0.79, 0.67, 0.22, 1.26, 0.72, 1.06),
    "t1": (0.74, 1.00, 0.30, 0.70, 0.52, 0.72),
    "t1ce": (0.74, 0.98, 0.30, 0.70, 0.50, 1.36),
    "t2": (0.78, 0.58, 1.36, 1.06, 1.18, 0.90),
}


def random_stream(seed: int, number: int, what: str) -> np.random.Generator:
    """A stream of its own for each thing drawn: changing one leaves the others as they were."""
    return np.random.default_rng([seed, number, zlib.crc32(what.encode())])


def smooth_noise(random: np.random.Generator, cells: int, shape: Sequence[int]) -> np.ndarray:
    """A cubic B-spline through random knots: float32 of `shape`, mean about 0, deviation about 1.

    Args:
        cells: between knots, along each axis; features are about this many across.
    """
    field = random.standard_normal((cells + 3,) * 3, dtype=np.float32)
    for side in shape:
        # Each pass contracts the first axis with its splines and appends the sampled one.
        position = np.linspace(0, cells, side)
        distance = np.abs(position[:, None] + 1 - np.arange(cells + 3))
        near = 2 / 3 - distance**2 + distance**3 / 2
        spline = np.where(distance < 1, near, np.clip(2 - distance, 0, None) ** 3 / 6)
        field = np.tensordot(field, spline.astype(np.float32), axes=(0, 1))
    # The knots' weights sum to 1 and their squares, on average, to 0.479 an axis.
    return field / np.float32(0.479**1.5)


def ramp(value: np.ndarray, centre: float, width: float) -> np.ndarray:
    """0 below, 1 above, linear over `width` around `centre`: a share of a voxel."""
    return np.clip((value - centre) / width + 0.5, 0, 1)


def ellipsoid(x, y, z, centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """About the distance inside the surface: positive within, 0 on it."""
    squares = [((a - c) / r) ** 2 for a, c, r in zip((x, y, z), centre, radii, strict=True)]
    return (1 - np.sqrt(squares[0] + squares[1] + squares[2])) * min(radii)


def brain_depth(x, y, z) -> tuple[np.ndarray, np.ndarray]:
    """About the distance below the surface of the brain, and whether that is the cerebellum's."""
    side = np.abs(x)
    width = 1 + 0.1 * y  # narrower at the forehead
    cerebrum = 1 - np.sqrt((x / width) ** 2 + y**2 + (z / np.where(z > 0, 1, 0.62)) ** 2)
    temporal = ellipsoid(side, y, z, (0.5, -0.18, -0.42), (0.36, 0.5, 0.34))
    cerebellum = ellipsoid(side, y, z, (0.22, 0.48, -0.62), (0.4, 0.4, 0.34))
    stem = 0.17 - np.sqrt(x**2 + (y - 0.1) ** 2)
    stem = np.where((z < -0.2) & (z > -0.97), stem, -1)
    cerebrum = np.maximum(np.maximum(cerebrum, temporal), stem)
    # The tentorium: a gap of fluid where cerebrum and cerebellum meet.
    return np.maximum(cerebrum, cerebellum), cerebellum > cerebrum


def tissue_shares(
    x, y, z, depth, sulci, in_cerebellum
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shares of grey matter and fluid in a voxel, nearness to the ventricles, and to the midline."""
    side = np.abs(x)
    # A sulcus is where a noise field crosses 0; it reaches about 20 mm down.
    folded = np.minimum(depth, 0.06 * sulci + 0.7 * np.clip(depth - 0.26, 0, None))
    callosum = 1 - np.sqrt((y / 0.62) ** 2 + ((z + 0.1) / 0.42) ** 2)
    midline = side + 0.5 * np.clip(callosum, 0, None) + np.where(in_cerebellum, 1, 0)
    folded = np.minimum(folded, midline)
    fluid = 1 - ramp(folded, 0.012, 0.02)
    grey = 1 - ramp(folded, 0.06, 0.03)

    body = ellipsoid(
        side - 0.1 - 0.35 * np.clip(y, 0, None) ** 2, y, z + 0.35 * y**2, (0, 0.03, 0.13), (0.07, 0.5, 0.1)
    )
    third = ellipsoid(side, y, z, (0, 0.03, -0.08), (0.025, 0.18, 0.16))
    fourth = ellipsoid(side, y, z, (0, 0.27, -0.52), (0.07, 0.06, 0.1))
    ventricles = np.maximum(np.maximum(body, third), fourth)
    fluid = np.maximum(fluid, ramp(ventricles, 0, 0.02))

    thalamus = ellipsoid(side, y, z, (0.13, 0.13, -0.04), (0.09, 0.15, 0.1))
    putamen = ellipsoid(side, y, z, (0.32, -0.08, -0.03), (0.08, 0.22, 0.14))
    caudate = ellipsoid(side, y, z, (0.19, -0.28, 0.1), (0.05, 0.13, 0.1))
    deep = np.maximum(np.maximum(thalamus, putamen), caudate)
    grey = np.maximum(grey, 0.75 * ramp(deep, 0, 0.02))
    return grey, fluid, ventricles, midline


def healthy_signal(random, modality, grey, fluid, ventricles, midline) -> np.ndarray:
    """Signal [V] of the brain without a tumour."""
    gm, wm, csf = np.array(SIGNAL[modality][:3]) * random.normal(1, 0.03, 3)
    signal = wm + (gm - wm) * grey
    signal += (csf - signal) * fluid
    if modality == "flair":  # bright caps on the ventricles, as with age: not oedema
        signal += random.uniform(0, 0.25) * (1 - fluid) * np.clip(1 + ventricles / 0.07, 0, 1)
    if modality == "t1ce":  # falx and its sinus take up contrast agent: not tumour
        signal += random.uniform(0.3, 0.7) * fluid * np.clip(1 - midline / 0.02, 0, 1)
    return signal.astype(np.float32)
