"""Volumes as they travel compressed: a gzip member for each slice. No TensorFlow.

Slice by slice, so that whoever receives them need not take more on trust than one slice at a time.
`graphs.packing_graph` is the way back, in the graph.
"""

import numpy as np
from isal import igzip

MOST_VOXELS = 2**25  # of a case that a model takes: 512 x 512 x 128, almost four of BraTS
LONGEST_SIDE = 512  # of it
OVERHEAD_BYTES = 1024  # by which gzip may make longer what it cannot make shorter
_LEVEL = 1


def packed(volume: np.ndarray) -> np.ndarray:
    """A volume, int16 [I, J, K], as an object array of bytes [K]: slices [I, J] in C order, little-endian."""
    # 240 x 240 x 155 -> 155 x 115 kB, of which about an eighth is left
    slices = np.ascontiguousarray(np.moveaxis(volume, 2, 0), "<i2")
    members = np.empty(len(slices), object)
    members[:] = [igzip.compress(plane.data, _LEVEL, mtime=0) for plane in slices]
    return members
