"""Turning in the graph is what nibabel does, for every way in which axes can lie."""

import itertools

import nibabel
import numpy as np
import pytest
import tensorflow as tf

from tfbrats.cases.nifti import AXES
from tfbrats.graphs.axes_graph import Turn

EVERY = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "SI"))
    for letters in itertools.product(*order)
]


@pytest.fixture(scope="module")
def turned():
    """Axes and a volume on their grid -> the volume on ours, and two made of it, turned back."""

    @tf.function(
        input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([None] * 3, tf.int16)], autograph=False
    )
    def run(axes, volume):
        turn = Turn(axes)
        ours = turn.to_ours(volume)
        return ours, turn.back(ours), turn.back(tf.stack([ours, -ours], axis=-1))

    return run


@pytest.mark.parametrize("axes", EVERY)
def test_to_ours_is_nibabels_turn_and_back_is_its_inverse(axes, turned):
    volume = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    codes = nibabel.orientations.axcodes2ornt
    turn = nibabel.orientations.ornt_transform(codes(axes), codes(AXES))
    ours, back, several = (answer.numpy() for answer in turned(axes, volume))
    assert np.array_equal(ours, nibabel.orientations.apply_orientation(volume, turn))
    assert np.array_equal(back, volume)
    assert np.array_equal(several, np.stack([volume, -volume], axis=-1))


@pytest.mark.parametrize("axes", ["", "RA", "RASS", "ras", "RLS", "RRS", "XYZ", "RA ", "R\0S"])
def test_what_names_no_axes_is_refused(axes, turned):
    with pytest.raises(tf.errors.InvalidArgumentError, match="axes: expected one each of L or R"):
        turned(axes, np.zeros((2, 3, 4), np.int16))


def test_there_are_48_ways():
    assert len(set(EVERY)) == 48
