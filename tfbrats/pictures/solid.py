"""A label map in 3-D inside the head, seen from in front, the left and above: surfaces on black, as a picture.

Rays run in parallel through smoothed masks. Each surface is the first place along the ray where its mask
reaches one half; the head, the oedema and the enhancing rim are clear enough to see what lies inside them.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from scipy import ndimage

from tfbrats.cases.boxes import box_of, crop, grown
from tfbrats.cases.overlays import COLOURS
from tfbrats.labels import Tissue

FROM = "from the front, the left and above"
_LEFT_DEGREES, _UP_DEGREES = 35, 20  # of the eye, away from straight ahead
_PITCH_MM = 0.9  # between rays and along them
_SMOOTH_MM = 1.0
_HEAD = "#c7d0da"
_AMBIENT = 0.5
_LIGHT = np.array([-0.45, 0.6, 0.66])  # from where light comes: to the right, up and towards the eye
# What is seen, from outside in: its tissues, colour, opacity where it faces the eye and at its rim.
_SURFACES = (
    (Tissue.ED, COLOURS[Tissue.ED], 0.45, 0.85),
    (Tissue.ET, COLOURS[Tissue.ET], 0.75, 0.9),
    (Tissue.NCR, COLOURS[Tissue.NCR], 1.0, 1.0),
    (Tissue.RC, COLOURS[Tissue.RC], 0.8, 1.0),
    (Tissue.CC, COLOURS[Tissue.CC], 1.0, 1.0),
)


def render(
    head: np.ndarray, tissues: np.ndarray, spacing_mm: Sequence[float], size: tuple[int, int]
) -> np.ndarray:
    """The picture: 0 to 1, [rows, columns, 3].

    Args:
        head: where there is something in the scans, bool [I, J, K].
        tissues: same shape.
        spacing_mm: along i, j, k.
        size: width and height in pixels.
    """
    filled = head | (tissues > 0)
    if not filled.any():
        return np.zeros((size[1], size[0], 3))
    box = grown(box_of(filled), 3, filled.shape)
    filled, tissues = np.pad(crop(filled, box), 2), np.pad(crop(tissues, box), 2)
    rays = _Rays(filled.shape, spacing_mm)
    picture = np.zeros((*rays.shape[:2], 3))
    for tissue, colour, facing, rim in reversed(_SURFACES):
        mask = tissues == tissue
        if mask.any():
            picture = _laid_over(picture, rays.depth(mask), colour, facing, rim)
    picture = _laid_over(picture, rays.depth(filled), _HEAD, 0.16, 0.8)
    return _fitted(picture, size)


class _Rays:
    """Parallel rays through a volume: rows go down, columns to the right, depth away from the eye."""

    def __init__(self, shape: Sequence[int], spacing_mm: Sequence[float]):
        left, up = math.radians(_LEFT_DEGREES), math.radians(_UP_DEGREES)
        # i, j, k point to the patient's left, back and head.
        eye = np.array([math.sin(left) * math.cos(up), -math.cos(left) * math.cos(up), math.sin(up)])
        right = np.cross(-eye, [0, 0, 1])
        right /= np.linalg.norm(right)
        steps = np.stack([-np.cross(right, -eye), right, -eye], axis=1) * _PITCH_MM
        self._matrix = steps / np.array(spacing_mm, float)[:, None]  # voxels a step: [3, 3]
        self._spacing_mm = spacing_mm
        half_mm = np.array(shape) * spacing_mm / 2
        extent = np.abs(steps / _PITCH_MM).T @ half_mm * 2 / _PITCH_MM
        self.shape = tuple(math.ceil(side) for side in extent)
        middle = (np.array(shape) - 1) / 2
        self._offset = middle - self._matrix @ ((np.array(self.shape) - 1) / 2)

    def depth(self, mask: np.ndarray) -> np.ndarray:
        """Steps along each ray to the surface of a mask, [rows, columns]; nan where the ray misses it."""
        sigma = [_SMOOTH_MM / side for side in self._spacing_mm]
        smooth = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
        smooth *= 0.8 / min(0.8, smooth.max())  # what is thinner than the smoothing is seen, too
        along = ndimage.affine_transform(smooth, self._matrix, self._offset, self.shape, order=1)
        inside = along >= 0.5
        first = inside.argmax(axis=2)
        before, there = (
            np.take_along_axis(along, np.maximum(first - back, 0)[..., None], 2)[..., 0] for back in (1, 0)
        )
        part = np.clip((0.5 - before) / np.maximum(there - before, 1e-6), 0, 1)
        return np.where(inside.any(axis=2), first - 1 + part, np.nan)


def _laid_over(picture: np.ndarray, depth: np.ndarray, colour: str, facing: float, rim: float) -> np.ndarray:
    """A shaded surface over what is there: its opacity grows from `facing` to `rim` as it turns away."""
    hit = np.isfinite(depth)
    if not hit.any():
        return picture
    # Beyond the surface it lies far behind: its rim turns away from the eye.
    filled = np.where(hit, depth, np.nanmax(depth) + 4)
    down, across = np.gradient(ndimage.gaussian_filter(filled, 0.7))
    normal = np.stack([across, -down, np.ones_like(down)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = _AMBIENT + (1 - _AMBIENT) * np.clip(normal @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, 1)
    opacity = (facing + (rim - facing) * (1 - normal[..., 2]) ** 2) * ndimage.gaussian_filter(
        hit.astype(float), 0.6
    )
    opacity = np.where(hit, opacity, 0)[..., None]
    return (1 - opacity) * picture + opacity * light[..., None] * np.array(to_rgb(colour))


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture as large as fits in the middle of `size`, on black."""
    width, height = size
    picture = crop(picture, (*box_of(picture.max(axis=-1) > 0), (0, 3)))
    zoom = 0.92 * min(height / picture.shape[0], width / picture.shape[1])
    large = np.clip(ndimage.zoom(picture, (zoom, zoom, 1), order=3), 0, 1)
    rows, columns = large.shape[:2]
    top, left = (height - rows) // 2, (width - columns) // 2
    return np.pad(large, ((top, height - rows - top), (left, width - columns - left), (0, 0)))
