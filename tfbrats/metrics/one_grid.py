"""Prediction and reference on one grid: checked, and cut to the box that holds both. Pure numpy: no I/O."""

import numpy as np

from tfbrats.cases import boxes
from tfbrats.errors import InputError


def check(prediction: np.ndarray, reference: np.ndarray) -> None:
    """Raises InputError unless both have one shape [I, J, K]."""
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise InputError(
            f"prediction of shape {prediction.shape}, reference of shape {reference.shape}; expected one "
            "shape [I, J, K]. Resample one onto the other's grid."
        )


def box_of_both(prediction: np.ndarray, reference: np.ndarray) -> boxes.Box:
    """The smallest box that holds all that is not 0 on either side; the first voxel alone if nothing is."""
    smallest = boxes.box_of(prediction | reference)
    return ((0, 1),) * 3 if boxes.is_empty(smallest) else smallest


def cropped(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides, tissues or masks [I, J, K], in the box that holds them: contiguous, at least one voxel."""
    box = box_of_both(prediction, reference)
    return tuple(np.ascontiguousarray(boxes.crop(side, box)) for side in (prediction, reference))
