"""Is bfloat16 worth it on this machine? Tried before a model is exported: 14 to 26 CPU seconds at width 32.

It is faster on processors that compute in it (AMX; on some those with AVX512_BF16) and slower on others of the
same name, so nobody should have to know: a small simulated case is segmented in both precisions.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfbrats.exports.passes import Passes
from tfbrats.inference.signatures import Segmenter

PRECISIONS = ("float32", "mixed_bfloat16")
LEAST_WIDTH = 16  # of a network that is worth it: nobody waits for a narrower one
_SECONDS = 3.0  # of timed passes; each precision has one at least
_FASTER = 1.1  # times float32's pace; what is less is no reason to change labels


def tried(
    segmenter_in: Callable[[str], Segmenter],
    plane: Sequence[int],
    precision: str,
    clock: Callable[[], float] = time.perf_counter,
) -> str:
    """One line: bfloat16's pace over float32's here, what it changes, whether to export in it.

    Args:
        segmenter_in: gives the segmenter in one of `PRECISIONS`.
        plane: voxels along i and j of the simulated case.
        precision: in which the model is exported.
        clock: seconds.
    """
    usual = Passes(segmenter_in(PRECISIONS[0]), plane, clock)
    try:
        other = Passes(segmenter_in(PRECISIONS[1]), plane, clock)
    except tf.errors.OpError as error:  # a kernel or memory is missing: no reason to export nothing
        return f"does not run on the machine that exported it ({type(error).__name__})"
    spent = usual.timed() + other.timed()
    while spent < _SECONDS:
        spent += usual.timed() + other.timed()
    pace = usual.least_s / other.least_s
    changed = int(np.sum(usual.answer["segmentation"] != other.answer["segmentation"]))
    gap = float(np.abs(usual.answer["probabilities"] - other.answer["probabilities"]).max())
    return (
        f"{pace:.2g} times the pace of float32 on the machine that exported it; {changed} of {usual.brain} "
        f"brain voxels of a simulated case get another label, probabilities change by {gap:.2g} at most"
        + _advice(pace, precision)
    )


def _advice(pace: float, precision: str) -> str:
    if (pace >= _FASTER) == (precision == PRECISIONS[1]):
        return ""
    wanted = PRECISIONS[pace >= _FASTER]
    return f"; to export in {wanted.removeprefix('mixed_')}: --precision {wanted}"
