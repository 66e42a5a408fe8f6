"""What a model of several networks, or of mirrored inputs, costs beside one of its networks: for the card."""

import time
from collections.abc import Callable, Sequence

from tfbrats.cases import nifti
from tfbrats.exports.passes import Passes
from tfbrats.inference.signatures import Segmenter, Weights
from tfbrats.predictions.model_card import Averaged

_SECONDS = 1.0  # of timed passes; each has one at least


def cost_of(
    several: Segmenter,
    one: Segmenter,
    mirrors: Sequence[Sequence[int]],
    networks: int,
    plane: Sequence[int],
    clock: Callable[[], float] = time.perf_counter,
) -> Averaged:
    """Passes, bytes and seconds.

    Args:
        several: the model's segmenter, without N4.
        one: that of its first run alone, without N4.
        mirrors: how each input is mirrored.
        networks: of a region.
        plane: voxels along i and j of the simulated case on which both are timed.
        clock: seconds.
    """
    both = [Passes(each, plane, clock) for each in (one, several)]
    spent = 0.0
    while spent < _SECONDS:
        spent += sum(passes.timed() for passes in both)
    return Averaged(
        networks=networks,
        mirrored=tuple("".join(nifti.AXES[axis] for axis in mirror) for mirror in mirrors if mirror),
        passes=networks * len(mirrors),
        weights_bytes=sum(
            weights.dtype.size * weights.shape.num_elements() for weights in Weights(several).weights
        ),
        seconds=round(both[1].least_s, 3),
        seconds_of_one=round(both[0].least_s, 3),
    )
