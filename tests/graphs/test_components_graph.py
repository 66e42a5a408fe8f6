"""Connected components and holes in the graph, against SciPy's, number by number."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tfbrats.graphs import components_graph
from tfbrats.metrics import components

CONNECTIVITY = {6: 1, 18: 2, 26: 3}
# Shapes that the graph does not know, as of a served model's inputs.
ANY = [tf.TensorSpec([None] * 3, tf.bool)]
NUMBERED = {
    neighbours: tf.function(
        lambda mask, neighbours=neighbours: components_graph.numbered(mask, neighbours), input_signature=ANY
    )
    for neighbours in CONNECTIVITY
}
HOLES = tf.function(components_graph.holes, input_signature=ANY)


def check(mask):
    for neighbours, connectivity in CONNECTIVITY.items():
        expected, count = ndimage.label(mask, ndimage.generate_binary_structure(3, connectivity))
        numbers, found = NUMBERED[neighbours](mask)
        assert int(found) == count and np.array_equal(numbers, expected), neighbours
    assert np.array_equal(HOLES(mask), ndimage.binary_fill_holes(mask) & ~mask)


@given(st.tuples(*[st.integers(0, 9)] * 3), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_numbers_and_holes_are_scipy_s(shape, share, seed):
    check(np.random.default_rng(seed).random(shape) < share)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_larger_volumes_too(share):
    check(np.random.default_rng(0).random((31, 29, 37)) < share)


def spiral(side: int) -> np.ndarray:
    """A line that winds inwards, a voxel apart from itself: bool [side, side]."""
    plane, place, step = np.zeros((side, side), bool), (0, 0), (0, 1)
    turned = 0
    while turned < 2:
        plane[place] = True
        ahead, after = [tuple(p + n * s for p, s in zip(place, step, strict=True)) for n in (1, 2)]
        inside = [min(each) >= 0 and max(each) < side for each in (ahead, after)]
        if inside[0] and not plane[ahead] and not (inside[1] and plane[after]):
            place, turned = ahead, 0
        else:
            step, turned = (step[1], -step[0]), turned + 1
    return plane


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_spirals_and_snakes_are_one_piece(axis):
    plane = spiral(41)
    assert plane.sum() > 800
    check(np.stack([plane, np.zeros_like(plane), np.zeros_like(plane), plane], axis))
    snake = np.zeros((21, 21, 21), bool)
    snake[::2, ::2] = True
    for i in range(0, 21, 2):
        for turn, j in enumerate(range(1, 21, 2)):
            snake[i, j, 20 * ((turn + i // 2) % 2)] = True
    snake[range(1, 21, 2), [20 * (turn % 2) for turn in range(10)], 10] = True
    turned = np.moveaxis(snake, 0, axis)
    check(turned)
    assert int(NUMBERED[6](turned)[1]) == 1


def test_full_empty_and_checkered_volumes_and_one_voxel():
    check(np.ones((12, 13, 14), bool))
    check(np.zeros((12, 13, 14), bool))
    check(np.indices((12, 13, 14)).sum(axis=0) % 2 == 0)
    one = np.zeros((5, 6, 7), bool)
    one[4, 0, 6] = True
    check(one)


def test_the_twin_of_metrics():
    mask = np.random.default_rng(1).random((20, 20, 20)) < 0.04
    numbers, _ = components_graph.numbered(tf.constant(mask))
    assert np.array_equal(numbers, components.numbered(mask))
