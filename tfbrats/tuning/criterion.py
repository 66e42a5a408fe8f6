"""By what choices are judged: one number of a case, from Dice and F1 of its regions."""

import types
from collections.abc import Mapping

import numpy as np

from tfbrats.errors import InputError

DEFAULT = "dice_f1"
MEANINGS: Mapping[str, str] = types.MappingProxyType(
    {
        "dice_f1": "mean over WT, TC and ET of Dice and of the F1 of lesions by the rule of 2026",
        "dice": "mean Dice over WT, TC and ET",
        "f1": "mean F1 of lesions by the rule of 2026, over WT, TC and ET",
    }
)
EMPTY = "a region that answer and reference both lack counts as 1"
_WEIGHTS = {"dice_f1": (0.5, 0.5), "dice": (1.0, 0.0), "f1": (0.0, 1.0)}


def values(name: str, measures: np.ndarray) -> np.ndarray:
    """Dice and F1 of each region, [..., regions, 2], as `piece_counts.measures` has them -> one number, [...].

    Raises:
        InputError: no such criterion.
    """
    if name not in _WEIGHTS:
        raise InputError(f"criterion {name!r} is unknown; choose from {', '.join(_WEIGHTS)}.")
    return (measures * np.array(_WEIGHTS[name])).sum(axis=-1).mean(axis=-1)
