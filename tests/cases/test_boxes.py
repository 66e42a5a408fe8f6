"""Boxes: the smallest round a mask; grown, cut out and put back without a loss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from masks import box

from tfbrats.cases import boxes
from tfbrats.metrics import components


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_crop_then_uncrop_is_identity_for_what_is_0_outside_the_box(data):
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * 3))
    mask = data.draw(hnp.arrays(bool, shape).filter(np.any))
    channels = data.draw(st.sampled_from([(), (3,)]))
    values = data.draw(hnp.arrays(np.int16, (*shape, *channels)))
    array = np.where(mask.reshape(*shape, *[1] * len(channels)), values, 0).astype(np.int16)
    smallest = boxes.box_of(mask)
    cropped = boxes.crop(array, smallest)
    back = boxes.uncrop(cropped, smallest, shape)
    assert back.dtype == array.dtype and np.array_equal(back, array)
    # ... and the box is the smallest: each of its six faces touches the mask.
    inside = boxes.crop(mask, smallest)
    assert inside.sum() == mask.sum()
    assert all(np.take(inside, end, axis=axis).any() for axis in range(3) for end in (0, -1))


def test_the_box_holds_all_and_no_more_however_the_mask_lies_in_memory():
    mask = box((2, 5), (0, 12), (11, 12))
    assert boxes.box_of(mask) == boxes.box_of(np.asfortranarray(mask)) == ((2, 5), (0, 12), (11, 12))
    assert boxes.box_of(box((3, 4), (3, 4), (3, 4)).astype(np.uint8) * 4) == ((3, 4),) * 3
    assert boxes.box_of(mask[:, :, 11]) == ((2, 5), (0, 12))  # of a plane


@pytest.mark.parametrize("shape", [(4, 4, 4), (0, 3, 2), (3, 0)])
def test_an_empty_mask_has_an_empty_box_that_no_margin_grows(shape):
    nothing = boxes.box_of(np.zeros(shape, bool))
    assert nothing == ((0, 0),) * len(shape) and boxes.is_empty(nothing)
    assert boxes.grown(nothing, 3, shape) == nothing
    assert boxes.crop(np.zeros(shape), nothing).size == 0
    assert not boxes.uncrop(np.ones([0] * len(shape)), nothing, shape).any()


def test_a_margin_is_added_on_every_side_and_ends_at_the_border():
    assert boxes.grown(((2, 5), (4, 6), (0, 9)), 3, (6, 20, 9)) == ((0, 6), (1, 9), (0, 9))
    assert not boxes.is_empty(((2, 5), (4, 6), (0, 1)))


def test_each_piece_has_its_own_box_and_all_have_one_round_them():
    numbers = np.zeros((9, 9, 9), np.int32)
    numbers[1:3, 2, 3], numbers[5, 6:8, 0:2] = 1, 3
    of_pieces = components.boxes_of(numbers)
    assert of_pieces == [((1, 3), (2, 3), (3, 4)), None, ((5, 6), (6, 8), (0, 2))]
    assert boxes.around([of_pieces[0], of_pieces[2]]) == ((1, 6), (2, 8), (0, 4)) == boxes.box_of(numbers)
