"""Connected components of a mask, and the boxes that hold them. Pure numpy and SciPy: no I/O.

A lesion is a 26-connected component under every rule of the challenge; what else a rule says of lesions
stands in `lesions` (2023, 2024) and `matched_lesions` (2025, 2026).
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from tfbrats.metrics import surfaces


def numbered(mask: np.ndarray) -> np.ndarray:
    """Mask [I, J, K] -> the number of each voxel's 26-connected component, 0 outside: int32, same shape."""
    return ndimage.label(mask, structure=np.ones((3, 3, 3)))[0]


def cropped(prediction: np.ndarray, reference: np.ndarray) -> list[np.ndarray]:
    """Both [I, J, K] in the box that holds all that is not zero; one voxel of background if nothing is."""
    box = surfaces.bounding_box(prediction | reference)
    if any(side.start == side.stop for side in box):
        box = np.s_[:1, :1, :1]
    return [np.ascontiguousarray(each[box]) for each in (prediction, reference)]


def around(boxes: Sequence[surfaces.Box]) -> surfaces.Box:
    """The box that holds all `boxes`."""
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*boxes, strict=True)
    )
