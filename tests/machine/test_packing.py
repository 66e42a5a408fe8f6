"""Volumes on the wire: unpacked in the graph they are what they were; what is no volume is refused early."""

import gzip
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from tfbrats.graphs import packing_graph
from tfbrats.machine import packing
from tfbrats.machine.packing import LONGEST_SIDE, MOST_VOXELS, OVERHEAD_BYTES


@pytest.fixture(scope="module")
def unpacked():
    """(slices, plane) -> the volume, by one graph for all sizes."""
    graph = tf.function(
        packing_graph.unpacked,
        input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([2], tf.int32)],
    )
    return lambda slices, plane: graph(tf.constant(slices, tf.string), tf.constant(plane, tf.int32)).numpy()


def _volume(shape, seed=0):
    return np.random.default_rng(seed).integers(-32768, 32768, shape).astype(np.int16)


@given(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5)), st.integers(0, 99))
@trials(max_examples=50, deadline=None)
def test_what_is_packed_comes_back_to_the_bit(unpacked, shape, seed):
    volume = _volume(shape, seed)
    found = unpacked(packing.packed(volume), shape[:2])
    assert found.dtype == np.int16 and found.shape == shape
    assert np.array_equal(found, volume)


def test_a_slice_is_its_voxels_in_c_order_as_gzip():
    volume = _volume((3, 4, 2))
    slices = packing.packed(volume)
    assert len(slices) == 2
    for k, one in enumerate(slices):
        assert np.array_equal(np.frombuffer(gzip.decompress(one), "<i2").reshape(3, 4), volume[:, :, k])


def test_the_same_volume_is_the_same_bytes_however_it_lies_in_memory():
    volume = _volume((5, 6, 7))
    expected = list(packing.packed(volume))
    assert list(packing.packed(np.asfortranarray(volume))) == expected
    assert list(packing.packed(np.stack([volume, volume], -1)[..., 1])) == expected
    assert list(packing.packed(volume.astype(">i2"))) == expected


def test_noise_grows_by_less_than_is_allowed():
    (one,) = packing.packed(_volume((LONGEST_SIDE, LONGEST_SIDE, 1)))
    plain = 2 * LONGEST_SIDE**2
    assert plain < len(one) <= plain + OVERHEAD_BYTES


def test_slices_of_other_tools_gzip_are_taken(unpacked):
    volume = _volume((6, 5, 3))
    slices = [gzip.compress(volume[:, :, k].tobytes(), 9) for k in range(3)]
    assert np.array_equal(unpacked(slices, (6, 5)), volume)


# --- refused --------------------------------------------------------------------------------------------

PLANE = (6, 5)
GOOD = packing.packed(_volume((*PLANE, 3)))


def _bomb(megabytes):
    return gzip.compress(bytes(megabytes * 10**6), 9)


# What takes the place of the second of three slices, and what is said of it.
BAD_SLICES = {
    "cut off": (GOOD[1][:-10], "."),
    "no byte": (b"", "expected; found.* .0"),
    "not gzip": (b"no gzip at all", "."),
    "zlib without gzip's header": (zlib.compress(bytes(60)), "."),
    "damaged in the middle": (GOOD[1][:20] + b"\xff\xff\xff" + GOOD[1][23:], "."),
    "of another plane": (packing.packed(_volume((5, 5, 1)))[0], "60.*bytes is expected; found.*50"),
    "twice as long": (GOOD[1] + GOOD[1], "60.*bytes is expected; found.*120"),
    "a small bomb": (_bomb(1), "60.*bytes is expected; found.*1000000"),
    "a bomb longer than a slice": (_bomb(2), "longer packed than plain, which is.*60"),
}


@pytest.mark.parametrize("fault", BAD_SLICES)
def test_a_slice_that_is_none_is_refused(unpacked, fault):
    bad, said = BAD_SLICES[fault]
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.DataLossError), match=f"(?s){said}"):
        unpacked([GOOD[0], bad, GOOD[2]], PLANE)
    assert unpacked(GOOD, PLANE).shape == (*PLANE, 3)  # and the next one is answered


@pytest.mark.parametrize(
    "plane",
    [(0, 5), (-6, 5), (6, LONGEST_SIDE + 1), (2**31 - 1, 2**31 - 1), (-(2**31), -(2**31)), (2**16, 2**16)],
)
def test_a_plane_that_no_slice_has_is_refused(unpacked, plane):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"(?s)plane: expected I and J of a slice, from 1 to"
    ):
        unpacked(GOOD, plane)


@pytest.mark.parametrize("plane", [(5, 6), (6, 6), (3, 5)])
def test_slices_are_held_against_the_plane(unpacked, plane):
    if plane == (5, 6):  # as many voxels: nothing tells it from a plane that lies the other way
        assert unpacked(GOOD, plane).shape == (5, 6, 3)
        return
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)bytes is expected; found.*60"):
        unpacked(GOOD, plane)


def test_no_slice_at_all_is_refused(unpacked):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)a case of 1 to.*is taken; found.* .0"):
        unpacked([], PLANE)


def test_too_many_slices_are_refused_before_one_is_unpacked(unpacked):
    side, many = LONGEST_SIDE, MOST_VOXELS // LONGEST_SIDE**2
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"(?s)a case of 1 to.*voxels is taken; found.*129"
    ):
        unpacked([b"no gzip"] * (many + 1), (side, side))
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.DataLossError)) as caught:
        unpacked([b"no gzip"] * many, (side, side))
    assert "a case of 1 to" not in str(caught.value)
