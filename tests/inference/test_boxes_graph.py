"""Boxes in the graph, against the numpy ones of the records."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfbrats.cases import patches, preprocess
from tfbrats.inference import boxes_graph

SHAPES = st.tuples(*[st.integers(0, 6)] * 3)


def _slow_box(mask, margin):
    if not mask.any():
        return ((0, 0),) * 3
    return patches.grown(preprocess.box_of(mask), margin, mask.shape)


@given(SHAPES, st.integers(0, 3), st.floats(0, 0.1), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_the_box_is_the_smallest_that_holds_the_mask(shape, margin, share, seed):
    mask = np.random.default_rng(seed).random(shape) < share
    box = boxes_graph.grown(boxes_graph.box_of(tf.constant(mask)), margin, tf.constant(shape)).numpy()
    assert np.array_equal(box, _slow_box(mask, margin))
    assert bool(boxes_graph.is_empty(box)) == (not mask.any())


def _round_trip(array, box):
    return boxes_graph.placed(boxes_graph.inside(array, box), box, tf.shape(array)[:3])


@pytest.mark.parametrize("channels", [(), (4,)])
def test_what_was_cut_out_is_put_back_where_it_was(channels):
    # Shapes that the graph does not know, as of a served model's inputs.
    specs = (tf.TensorSpec([None] * 3 + list(channels), tf.float32), tf.TensorSpec([3, 2], tf.int32))
    round_trip = tf.function(_round_trip, input_signature=specs)

    @given(SHAPES, st.floats(0, 0.2), st.integers(0, 99))
    @settings(max_examples=60, deadline=None)
    def trial(shape, share, seed):
        rng = np.random.default_rng(seed)
        mask = rng.random(shape) < share
        array = rng.normal(size=(*shape, *channels)).astype(np.float32)
        box = _slow_box(mask, 0)
        expected = np.zeros_like(array)
        within = tuple(slice(*axis) for axis in box)
        expected[within] = array[within]
        assert np.array_equal(round_trip(array, np.array(box, np.int32)), expected)

    trial()
