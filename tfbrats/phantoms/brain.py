"""The brain of a phantom: its box, its shape, its tissues and their signal. Pure numpy.

Lengths are relative to the brain's semi-axes, -1..1 along each axis; V is the number of the brain's voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfbrats.phantoms.draws import Draws, ellipsoid, ramp

_SEMI_AXES = (0.31, 0.38, 0.44)  # of the brain, as a fraction of the volume's sides

# Relative signal of grey matter, white matter and fluid, and of what a tumour adds, in the order of MRI
# textbooks (T1: white > grey > fluid; T2 the reverse; FLAIR: fluid suppressed). Arbitrary units.
#                 GM    WM    CSF   ED    NCR   ET
SIGNAL = {
    "flair": (0.79, 0.67, 0.22, 1.26, 0.72, 1.06),
    "t1": (0.74, 1.00, 0.30, 0.70, 0.52, 0.72),
    "t1ce": (0.74, 0.98, 0.30, 0.70, 0.50, 1.36),
    "t2": (0.78, 0.58, 1.36, 1.06, 1.18, 0.90),
}


@dataclass(frozen=True)
class BrainBox:
    """The voxels of a volume that its brain can reach: ~157 x 192 x 144 of 240 x 240 x 155.

    Attributes:
        slices: cut the box out of the volume.
        shape: (I, J, K) voxels of the box.
        semi_axes: of the brain, in voxels [3].
        coordinates: along i, j and k of each voxel of the box, three float32 [I, J, K].
    """

    slices: tuple[slice, ...]
    shape: tuple[int, ...]
    semi_axes: np.ndarray
    coordinates: tuple[np.ndarray, ...]

    @property
    def finest_cells(self) -> int:
        """The most cells that smooth noise may have here: finer features than some voxels are only noise."""
        return min(self.shape) // 4


def brain_box(shape: Sequence[int]) -> BrainBox:
    """The box of the brain in the middle of a volume of `shape`."""
    semi_axes = np.array(_SEMI_AXES) * shape
    middle = (np.array(shape) - 1) / 2
    low = np.maximum(0, np.floor(middle - 1.06 * semi_axes)).astype(int)
    high = np.minimum(shape, np.ceil(middle + 1.06 * semi_axes).astype(int) + 1)
    axes = [
        ((np.arange(a, b) - m) / s).astype(np.float32)
        for a, b, m, s in zip(low, high, middle, semi_axes, strict=True)
    ]
    slices = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    return BrainBox(slices, tuple(high - low), semi_axes, tuple(np.meshgrid(*axes, indexing="ij")))


@dataclass(frozen=True)
class Brain:
    """A brain without a tumour.

    Attributes:
        mask: of its voxels in the box, bool [I, J, K].
        position: of each of its voxels, float32 [3, V].
        grey: share of grey matter in each voxel [V].
        fluid: share of fluid [V].
        ventricles: nearness to the ventricles [V].
        midline: distance from the midline [V].
    """

    mask: np.ndarray
    position: np.ndarray
    grey: np.ndarray
    fluid: np.ndarray
    ventricles: np.ndarray
    midline: np.ndarray

    def noise(self, draws: Draws, what: str, cells: int) -> np.ndarray:
        """Smooth noise in the brain's voxels, float32 [V]."""
        return draws.noise(what, cells, self.mask.shape)[self.mask]


def brain_in(box: BrainBox, draws: Draws) -> Brain:
    """The brain of one case."""
    i, j, k = box.coordinates
    # No head is symmetric or straight.
    turn = draws.stream("turn").normal(0, 0.05)
    x = i + turn * j + 0.035 * draws.noise("warp i", 4, box.shape)
    y = j - turn * i + 0.035 * draws.noise("warp j", 4, box.shape)
    z = k + 0.03 * draws.noise("warp k", 4, box.shape)

    depth, in_cerebellum = _depth(x, y, z)
    sulci = np.abs(draws.noise("sulci", min(21, box.finest_cells), box.shape))
    folia = sulci
    if box.finest_cells > 15:
        folia = np.abs(np.sin(34 * z + 12 * y + 2 * draws.noise("folia", 4, box.shape))) * 0.8
    sulci = np.where(in_cerebellum, folia, sulci)
    # The outline dips into the sulci, as skull stripping leaves it.
    mask = depth > 0.03 * np.clip(1 - sulci / 0.4, 0, 1)

    position = np.stack([axis[mask] for axis in box.coordinates])
    inside = (field[mask] for field in (x, y, z, depth, sulci, in_cerebellum))
    return Brain(mask, position, *_tissue_shares(*inside))


def _depth(x, y, z) -> tuple[np.ndarray, np.ndarray]:
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


def _tissue_shares(
    x, y, z, depth, sulci, in_cerebellum
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`grey`, `fluid`, `ventricles` and `midline` of a `Brain`."""
    side = np.abs(x)
    # A sulcus is where a noise field crosses 0; it reaches about 20 mm down.
    folded = np.minimum(depth, 0.06 * sulci + 0.7 * np.clip(depth - 0.26, 0, None))
    callosum = 1 - np.sqrt((y / 0.62) ** 2 + ((z + 0.1) / 0.42) ** 2)
    midline = side + 0.5 * np.clip(callosum, 0, None) + np.where(in_cerebellum, 1, 0)
    folded = np.minimum(folded, midline)
    ventricles = _ventricles(side, y, z)
    fluid = np.maximum(1 - ramp(folded, 0.012, 0.02), ramp(ventricles, 0, 0.02))
    grey = np.maximum(1 - ramp(folded, 0.06, 0.03), 0.75 * ramp(_deep_nuclei(side, y, z), 0, 0.02))
    return grey, fluid, ventricles, midline


def _ventricles(side, y, z) -> np.ndarray:
    """About the distance inside the ventricles."""
    body = ellipsoid(
        side - 0.1 - 0.35 * np.clip(y, 0, None) ** 2, y, z + 0.35 * y**2, (0, 0.03, 0.13), (0.07, 0.5, 0.1)
    )
    third = ellipsoid(side, y, z, (0, 0.03, -0.08), (0.025, 0.18, 0.16))
    fourth = ellipsoid(side, y, z, (0, 0.27, -0.52), (0.07, 0.06, 0.1))
    return np.maximum(np.maximum(body, third), fourth)


def _deep_nuclei(side, y, z) -> np.ndarray:
    """About the distance inside the grey matter that lies deep."""
    thalamus = ellipsoid(side, y, z, (0.13, 0.13, -0.04), (0.09, 0.15, 0.1))
    putamen = ellipsoid(side, y, z, (0.32, -0.08, -0.03), (0.08, 0.22, 0.14))
    caudate = ellipsoid(side, y, z, (0.19, -0.28, 0.1), (0.05, 0.13, 0.1))
    return np.maximum(np.maximum(thalamus, putamen), caudate)


def healthy_signal(random: np.random.Generator, modality: str, brain: Brain) -> np.ndarray:
    """Signal of the brain without a tumour, float32 [V]."""
    gm, wm, csf = np.array(SIGNAL[modality][:3]) * random.normal(1, 0.03, 3)
    signal = wm + (gm - wm) * brain.grey
    signal += (csf - signal) * brain.fluid
    if modality == "flair":  # bright caps on the ventricles, as with age: not oedema
        signal += random.uniform(0, 0.25) * (1 - brain.fluid) * np.clip(1 + brain.ventricles / 0.07, 0, 1)
    if modality == "t1ce":  # falx and its sinus take up contrast agent: not tumour
        signal += random.uniform(0.3, 0.7) * brain.fluid * np.clip(1 - brain.midline / 0.02, 0, 1)
    return signal.astype(np.float32)
