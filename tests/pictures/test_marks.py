"""Letters, slices and millimetres are those of the picture beside them."""

import numpy as np
import pytest

from tfbrats.cases import overlays
from tfbrats.cases.nifti import AXES
from tfbrats.pictures import marks

OPPOSITE = {"L": "R", "P": "A", "S": "I"}


def at(axis, index=3, spacing_mm=(1.0, 1.5, 2.0), count=10):
    return marks.Slice(axis, index, count, spacing_mm)


@pytest.mark.parametrize("axis", range(3))
def test_a_letter_stands_on_the_side_that_the_axis_points_to(axis):
    letters = at(axis).letters
    for direction, letter in enumerate(AXES):
        towards = np.indices((4, 5, 6))[direction]  # grows towards L, P or S
        picture = overlays.plane(towards, (0, 0, 0), axis)
        if direction == axis:
            continue
        across, down = picture[0, -1] - picture[0, 0], picture[-1, 0] - picture[0, 0]
        assert (across == 0) != (down == 0)
        if across:
            low, high = letters.left, letters.right
        else:
            low, high = letters.top, letters.bottom
        if across + down < 0:
            low, high = high, low
        assert (low, high) == (OPPOSITE[letter], letter)


def test_the_views_are_radiological():
    assert at(2).letters == marks.Letters(left="R", right="L", top="A", bottom="P")
    assert at(1).letters == marks.Letters(left="R", right="L", top="S", bottom="I")
    assert at(0).letters == marks.Letters(left="A", right="P", top="S", bottom="I")


def test_a_slice_is_counted_from_1_and_measured_from_the_first():
    assert at(2).words == "axial slice 4 of 10, 6 mm above the first"
    assert at(1).words == "coronal slice 4 of 10, 4 mm behind the first"
    assert at(0, index=0).words == "sagittal slice 1 of 10, 0 mm left of the first"
    assert at(2).short == "axial 4 of 10, 6 mm"


@pytest.mark.parametrize(("room_mm", "scale"), [(150, 50), (50, 50), (49, 10), (9, 1), (0.5, 1)])
def test_a_scale_bar_is_5_cm_long_where_there_is_room(room_mm, scale):
    length_mm, name = marks.scale_bar(room_mm)
    number, unit = name.split()
    assert length_mm == scale == int(number) * {"cm": 10, "mm": 1}[unit]


def test_a_plane_s_voxel_has_the_height_and_width_of_its_rows_and_columns():
    assert [at(axis).pixel_mm for axis in range(3)] == [(2.0, 1.5), (2.0, 1.0), (1.5, 1.0)]
