"""A segmenter's seconds on a small simulated case, warmed up: what one costs beside another."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfbrats.inference.signatures import Segmenter
from tfbrats.inference.slice_segmenter import SliceSegmenter
from tfbrats.labels import MODALITIES
from tfbrats.phantoms import simulation

_SLICES = (24, 2)  # of the simulated case, for a cascade and for a network of slices


class Passes:
    """A segmenter on a simulated case, warmed up.

    Attributes:
        answer: segmentation and probabilities.
        brain: voxels.
        least_s: the shortest pass so far.
    """

    def __init__(self, segmenter: Segmenter, plane: Sequence[int], clock: Callable[[], float]):
        volumes = _volumes(segmenter, plane)
        self._case = {name: tf.constant(volume) for name, volume in volumes.items()}
        self._function, self._clock = tf.function(segmenter, autograph=False), clock
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
