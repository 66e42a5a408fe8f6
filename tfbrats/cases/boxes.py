"""Boxes in a volume: round a mask, grown, cut out, put back. Pure numpy: no I/O, no TensorFlow.

`graphs.boxes_graph` is the twin in the graph: the same functions, of a box as int32 [3, 2].
"""

from collections.abc import Sequence

import numpy as np

Box = tuple[tuple[int, int], ...]  # half-open ranges, one for each axis: (low, high) along i, j, k


def box_of(mask: np.ndarray) -> Box:
    """The smallest box that holds every voxel of a mask.

    Args:
        mask: [I, J, K], or of any other number of axes: bool, or numbers of which 0 is outside.

    Returns:
        half-open ranges; 0 to 0 along every axis if the mask is empty.
    """
    ranges = []
    while mask.ndim:
        along = np.flatnonzero(mask.any(axis=tuple(range(mask.ndim - 1))))
        ranges.append((int(along[0]), int(along[-1]) + 1) if along.size else (0, 0))
        mask = mask.any(axis=-1)
    return tuple(reversed(ranges))


def is_empty(box: Box) -> bool:
    """Whether a box holds no voxel."""
    return any(low == high for low, high in box)


def grown(box: Box, margin: int, shape: Sequence[int]) -> Box:
    """The box with `margin` voxels more on every side, as far as the volume goes; an empty one stays empty."""
    if is_empty(box):
        return box
    return tuple(
        (max(low - margin, 0), min(high + margin, size)) for (low, high), size in zip(box, shape, strict=True)
    )


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all `boxes`, none of which is empty."""
    return tuple(
        (min(low for low, _ in ranges), max(high for _, high in ranges)) for ranges in zip(*boxes, strict=True)
    )


def crop(array: np.ndarray, box: Box) -> np.ndarray:
    """What the box holds, a view: [I, J, K, ...] -> [i, j, k, ...]."""
    return array[tuple(slice(low, high) for low, high in box)]


def uncrop(array: np.ndarray, box: Box, shape: Sequence[int]) -> np.ndarray:
    """The exact inverse of `crop` for what is 0 outside the box: [i, j, k, ...] -> [I, J, K, ...]."""
    whole = np.zeros((*shape, *array.shape[len(box) :]), array.dtype)
    crop(whole, box)[...] = array
    return whole
