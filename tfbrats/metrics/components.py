"""Connected components of a mask, and the box of each. Pure numpy and SciPy: no I/O.

A lesion is a 26-connected component under every rule of the challenge; what else a rule says of lesions
stands in `lesions` (2023, 2024) and `matched_lesions` (2025, 2026).
"""

import numpy as np
from scipy import ndimage

from tfbrats.cases.boxes import Box


def numbered(mask: np.ndarray) -> np.ndarray:
    """Mask [I, J, K] -> the number of each voxel's 26-connected component, 0 outside: int32, same shape."""
    return ndimage.label(mask, structure=np.ones((3, 3, 3)))[0]


def boxes_of(numbers: np.ndarray) -> list[Box | None]:
    """The box of each piece of a volume, by the piece's number less one.

    Args:
        numbers: int [I, J, K], the number of each voxel's piece from 1 on, 0 outside.

    Returns:
        None in the place of a number that no voxel has.
    """
    return [
        sides and tuple((side.start, side.stop) for side in sides) for sides in ndimage.find_objects(numbers)
    ]
