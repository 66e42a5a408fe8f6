"""Cut prepared cases into multi-scale patches for paper B's three networks. Pure numpy: no I/O, no TensorFlow.

`inference.patches_graph` is the twin of `window`, `cut` and `cut_label` in the graph, for stored volumes and
whole cases; tests hold the two equal to the bit. Where patches are cut, `batches.patch_stream` draws anew.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from tfbrats.cases.boxes import Box, box_of, grown
from tfbrats.cases.case import case_seed
from tfbrats.cases.preprocess import Prepared, in_float16
from tfbrats.config import Cascade, Sampling
from tfbrats.labels import PARENT, REGIONS, region_mask

# --- where ----------------------------------------------------------------------------------------------


def ancestor(label: np.ndarray, region: str) -> str | None:
    """The nearest region above `region` that this case has; None is the brain.

    A case without TC has no box to draw ET's patches in: they come from WT's, as negatives ([ours]).

    Args:
        label: tissues, uint8 [i, j, k].
    """
    above = PARENT[region]
    while above is not None and not region_mask(label, above).any():
        above = PARENT[above]
    return above


def parent_box(label: np.ndarray, region: str, margin: int) -> Box:
    """Where the patch centres of a region lie: round its parent in the reference, or the whole crop for WT."""
    above = ancestor(label, region)
    if above is None:
        return tuple((0, size) for size in label.shape)
    return grown(box_of(region_mask(label, above)), margin, label.shape)


def jittered(box_ijk: Box, jitter: int, shape_ijk: Sequence[int], rng: np.random.Generator) -> Box:
    """Each face moved by up to `jitter` voxels either way: the box that an imperfect stage before would give.

    The box stays inside the volume and keeps at least one voxel along each axis.
    """
    moved = []
    for (low, high), size in zip(box_ijk, shape_ijk, strict=True):
        down, up = rng.integers(-jitter, jitter + 1, size=2)
        low = int(np.clip(low + down, 0, size - 1))
        moved.append((low, int(np.clip(high + up, low + 1, size))))
    return tuple(moved)


def on_region(number, fraction: float):
    """Whether patch `number` of a case is centred on the region: `fraction` of any run of patches are.

    Args:
        number: integer or array of them, from 0.
    """
    return np.floor((number + 1) * fraction) > np.floor(number * fraction)


def centres(
    label: np.ndarray,
    region: str,
    box_ijk: Box,
    count: int,
    region_fraction: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Patch centres: on the region's voxels, or anywhere in the box; all in the box if there is no region.

    Args:
        label: tissues, uint8 [i, j, k].
        box_ijk: the parent's.

    Returns:
        int64 [count, 3], voxels of the crop.
    """
    low, high = np.array(box_ijk).T
    drawn = rng.integers(low, high, size=(count, 3))
    voxels = np.argwhere(region_mask(label, region))
    if len(voxels):
        chosen = voxels[rng.integers(len(voxels), size=count)]
        drawn = np.where(on_region(np.arange(count), region_fraction)[:, None], chosen, drawn)
    return drawn


# --- what -----------------------------------------------------------------------------------------------


def window(array: np.ndarray, start_ijk: Sequence[int], size: int) -> np.ndarray:
    """[i, j, k, ...] -> [size, size, size, ...] from `start_ijk` on, which may lie outside; 0 there."""
    cut_out = np.zeros((size, size, size, *array.shape[3:]), array.dtype)
    source, target = [], []
    for start, length in zip(start_ijk, array.shape, strict=False):
        low, high = max(start, 0), min(start + size, length)
        if low >= high:
            return cut_out
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    cut_out[tuple(target)] = array[tuple(source)]
    return cut_out


def cut(image: np.ndarray, centre_ijk: Sequence[int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """One patch at the scales that carry voxels of their own; x2 is derived from x1 (`inference.scales`).

    Args:
        image: float16 [i, j, k, M].
        centre_ijk: the patch covers [c - size / 2, c + size / 2) along each axis, 0 outside the volume.
        size: S, even.

    Returns:
        x1: float16 [S, S, S, M].
        half: x0.5, float16 [S, S, S, M]: means of 2 x 2 x 2 voxels over twice the width.
    """
    return MultiScale(image, size).cut(centre_ijk)


class MultiScale:
    """Cuts patches of one image at the scales that carry voxels of their own (`cut`).

    Patches whose corners are even or odd along the same axes share a halved image: there are eight, each made
    when it is first needed, an eighth of the image's bytes.

    Args:
        image: float16 [i, j, k, M].
        size: S, even.
    """

    def __init__(self, image: np.ndarray, size: int):
        self._image, self._floats, self._size = image, image.astype(np.float32), size
        self._halved: dict[tuple[int, ...], np.ndarray] = {}

    def cut(self, centre_ijk: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """As `cut`, for one centre."""
        x1 = window(self._image, np.asarray(centre_ijk) - self._size // 2, self._size)
        corner = np.asarray(centre_ijk) - self._size
        odd = tuple(int(n) % 2 for n in corner)
        if odd not in self._halved:
            self._halved[odd] = _halved(self._floats, odd)
        return x1, window(self._halved[odd], (corner + odd) // 2, self._size)


def _halved(image: np.ndarray, odd: Sequence[int]) -> np.ndarray:
    """Means of 2 x 2 x 2 voxels: float32 [i, j, k, M] -> float16 [i', j', k', M], 0 outside the image.

    Args:
        odd: for each axis 1 if the first pair begins with the voxel before the image, 0 if with its own.
    """
    # Pairs along i, then j, then k: the twin in the graph adds in the same order.
    pairs = _pairs(_pairs(image, 0, odd[0]), 1, odd[1])
    # by modality: numpy adds lines of k several times as fast as fours of modalities
    pairs = np.stack([_pairs(pairs[..., m], 2, odd[2]) for m in range(pairs.shape[3])], axis=-1)
    pairs *= np.float32(0.125)
    return pairs.astype(np.float16)


def _pairs(array: np.ndarray, axis: int, odd: int) -> np.ndarray:
    """Sums of neighbours along an axis, 0 outside; `odd` as above: [..., n, ...] -> [..., n', ...]."""

    def at(start: int, stop: int, step: int = 1) -> tuple[slice, ...]:
        return (*(slice(None),) * axis, slice(start, stop, step))

    length = array.shape[axis]
    whole, left = divmod(length - odd, 2)
    shape = list(array.shape)
    shape[axis] = odd + whole + left
    sums = np.empty(shape, array.dtype)
    first, second = (array[at(odd + n, odd + 2 * whole, 2)] for n in range(2))
    np.add(first, second, out=sums[at(odd, odd + whole)])
    if odd:
        np.add(array[at(0, 1)], 0, out=sums[at(0, 1)])
    if left:
        np.add(array[at(length - 1, length)], 0, out=sums[at(odd + whole, odd + whole + 1)])
    return sums


def cut_label(label: np.ndarray, centre_ijk: Sequence[int], size: int) -> np.ndarray:
    """Tissues uint8 [i, j, k] -> [S, S, S]."""
    return window(label, np.asarray(centre_ijk) - size // 2, size)


# --- examples -------------------------------------------------------------------------------------------


def patches(prepared: Prepared, region: str, sampling: Sampling, cascade: Cascade, seed: int) -> Iterator[dict]:
    """The patches of one labelled case for one region's network, as `records.schema.PATCHES` describes them.

    The same whatever else is cut, wherever and whenever: the draws are seeded by (seed, case_id, region).

    Yields:
        x1 and half float16 [S, S, S, M], label uint8 [S, S, S] (tissues), centre_ijk int64 [3] (voxels of the
        whole volume), region str, case_id str.
    """
    rng = np.random.default_rng([*case_seed(seed, prepared.case_id), list(REGIONS).index(region)])
    label = prepared.label
    # cropped: ~140 x 170 x 140 x 4 -> 400 patches of 64 x 64 x 64 x 4, twice
    image = in_float16(prepared.image)
    above = ancestor(label, region)
    if cascade.mask == "multiply" and above is not None:
        image = np.where(region_mask(label, above)[..., None], image, np.float16(0))
    box = jittered(parent_box(label, region, cascade.margin), sampling.box_jitter, label.shape, rng)
    origin = np.array([low for low, _ in prepared.box_ijk])
    scales = MultiScale(image, sampling.patch_size)
    for centre in centres(label, region, box, sampling.patches_per_case, sampling.region_fraction, rng):
        x1, half = scales.cut(centre)
        yield {
            "x1": x1,
            "half": half,
            "label": cut_label(label, centre, sampling.patch_size),
            "centre_ijk": centre + origin,
            "region": region,
            "case_id": prepared.case_id,
        }


def volume(prepared: Prepared) -> dict:
    """One labelled case whole, as `records.schema.VOLUMES` describes it: patches are cut where it is read.

    Returns:
        image float16 [i, j, k, M], brain uint8 [i, j, k] (0 or 1), label uint8 [i, j, k] (tissues), origin_ijk
        and shape_ijk int64 [3] (the crop's place in the whole volume, and its size), case_id str.
    """
    return {
        "image": in_float16(prepared.image),
        "brain": prepared.brain.astype(np.uint8),
        "label": prepared.label,
        "origin_ijk": np.array([low for low, _ in prepared.box_ijk], np.int64),
        "shape_ijk": np.array(prepared.shape_ijk, np.int64),
        "case_id": prepared.case_id,
    }
