"""Where a prediction differs from its reference: found, missed or false, voxel by voxel, in three colours."""

import numpy as np

from tfbrats.labels import region_mask

FOUND, MISSED, FALSE = 1, 2, 3  # what `difference` tells of a voxel; 0 is neither's
# Green, red and blue as far as colour-blind readers tell them apart, by a test; none of them a tissue's.
COLOURS = {FOUND: "#6CD9C3", MISSED: "#FF1F3D", FALSE: "#3B4CFF"}
NAMES = {FOUND: "found", MISSED: "missed", FALSE: "false"}
MEANINGS = {FOUND: "in both", MISSED: "in the reference alone", FALSE: "in the prediction alone"}
COLOUR_WORDS = {FOUND: "green", MISSED: "red", FALSE: "blue"}  # where a page shows none, or a reader sees none
OPACITY = {FOUND: 0.6, MISSED: 1.0, FALSE: 1.0}  # what is right need not hide the scan
DIMMED = 0.6  # how bright the scan stays below


def difference(reference: np.ndarray, prediction: np.ndarray, region: str = "WT") -> np.ndarray:
    """Of each voxel whether a region is found there, missed or false: uint8; 0 where neither has it.

    Args:
        reference: tissues, any shape.
        prediction: same shape.
    """
    expected, predicted = region_mask(reference, region), region_mask(prediction, region)
    kinds = np.zeros(reference.shape, np.uint8)
    kinds[expected & predicted] = FOUND
    kinds[expected & ~predicted] = MISSED
    kinds[predicted & ~expected] = FALSE
    return kinds
