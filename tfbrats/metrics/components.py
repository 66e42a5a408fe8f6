"""Connected components of a mask. Pure numpy and SciPy: no I/O.

A lesion is a 26-connected component under every rule of the challenge; what else a rule says of lesions
stands in `lesions` (2023, 2024) and `matched_lesions` (2025, 2026).
"""

import numpy as np
from scipy import ndimage


def numbered(mask: np.ndarray) -> np.ndarray:
    """Mask [I, J, K] -> the number of each voxel's 26-connected component, 0 outside: int32, same shape."""
    return ndimage.label(mask, structure=np.ones((3, 3, 3)))[0]
