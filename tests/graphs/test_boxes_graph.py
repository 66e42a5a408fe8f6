"""Boxes in the graph, against the numpy ones of the records."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfbrats.cases import boxes
from tfbrats.graphs import boxes_graph

SHAPES = st.tuples(*[st.integers(0, 6)] * 3)


@given(SHAPES, st.integers(0, 3), st.floats(0, 0.1), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_the_twins_find_and_grow_the_same_box(shape, margin, share, seed):
    mask = np.random.default_rng(seed).random(shape) < share
    smallest, expected = boxes_graph.box_of(tf.constant(mask)), boxes.box_of(mask)
    assert np.array_equal(smallest, expected)
    assert bool(boxes_graph.is_empty(smallest)) == boxes.is_empty(expected) == (not mask.any())
    larger = boxes_graph.grown(smallest, margin, tf.constant(shape))
    assert np.array_equal(larger, boxes.grown(expected, margin, shape))


def _round_trip(array, box):
    cut_out = boxes_graph.crop(array, box)
    return cut_out, boxes_graph.uncrop(cut_out, box, tf.shape(array)[:3])


@pytest.mark.parametrize("channels", [(), (4,)])
def test_the_twins_cut_out_the_same_and_put_it_back_where_it_was(channels):
    # Shapes that the graph does not know, as of a served model's inputs.
    specs = (tf.TensorSpec([None] * 3 + list(channels), tf.float32), tf.TensorSpec([3, 2], tf.int32))
    round_trip = tf.function(_round_trip, input_signature=specs)

    @given(SHAPES, st.floats(0, 0.2), st.integers(0, 99))
    @settings(max_examples=60, deadline=None)
    def trial(shape, share, seed):
        rng = np.random.default_rng(seed)
        mask = rng.random(shape) < share
        array = rng.normal(size=(*shape, *channels)).astype(np.float32)
        box = boxes.box_of(mask)
        expected = boxes.crop(array, box)
        cut_out, back = round_trip(array, np.array(box, np.int32))
        assert np.array_equal(cut_out, expected)
        assert np.array_equal(back, boxes.uncrop(expected, box, shape))

    trial()
