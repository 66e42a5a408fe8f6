"""Is bfloat16 worth it on this machine? Tried before a model is exported: 14 to 26 CPU seconds at width 32.

It is faster on processors that compute in it (AMX; on some those with AVX512_BF16) and slower on others of the
same name, so nobody should have to know: a small simulated case is segmented in both precisions.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfbrats.inference.signatures import Segmenter
from tfbrats.inference.slice_segmenter import SliceSegmenter
from tfbrats.labels import MODALITIES
from tfbrats.phantoms import simulation

PRECISIONS = ("float32", "mixed_bfloat16")
LEAST_WIDTH = 16  # of a network that is worth it: nobody waits for a narrower one
_SECONDS = 3.0  # of timed passes; each precision has one at least
_FASTER = 1.1  # times float32's pace; what is less is no reason to change labels
_SLICES = (24, 2)  # of the simulated case, for a cascade and for a network of slices


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
    usual = _Passes(segmenter_in(PRECISIONS[0]), plane, clock)
    try:
        other = _Passes(segmenter_in(PRECISIONS[1]), plane, clock)
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


class _Passes:
    """A segmenter on a simulated case, warmed up.

    Attributes:
        answer: segmentation and probabilities.
        brain: voxels.
        least_s: the shortest pass so far.
    """

    def __init__(self, segmenter: Segmenter, plane: Sequence[int], clock: Callable[[], float]):
        volumes = _volumes(segmenter, plane)
        self._case = {name: tf.constant(volume) for name, volume in volumes.items()}
        self._function, self._clock = tf.function(segmenter), clock
        self.brain = int(np.count_nonzero(np.any(list(volumes.values()), axis=0)))
        self.least_s = float("inf")
        self.answer = self._run()

    def _run(self) -> Mapping[str, np.ndarray]:
        answer = self._function(self._case)
        return {name: answer[name].numpy() for name in ("segmentation", "probabilities")}

    def timed(self) -> float:
        """Seconds of one more pass."""
        began = self._clock()
        self._run()
        seconds = self._clock() - began
        self.least_s = min(self.least_s, seconds)
        return seconds


def _volumes(segmenter: Segmenter, plane: Sequence[int]) -> dict[str, np.ndarray]:
    """Modality -> float32 [I, J, K], through the middle of a simulated head."""
    of_slices = isinstance(segmenter, SliceSegmenter)
    image, _ = simulation.simulate((*plane, _SLICES[0]), seed=0, number=0)
    first = (_SLICES[0] - _SLICES[of_slices]) // 2
    image = image[:, :, first : first + _SLICES[of_slices]]
    return {
        name: np.ascontiguousarray(image[..., MODALITIES.index(name)], np.float32)
        for name in segmenter.modalities
    }
