"""Slices, their loss weighted sampling regions, and their place on the canvas."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from tfbrats.cases import boxes, case, preprocess, slices
from tfbrats.errors import InputError
from tfbrats.labels import LwsRegion
from tfbrats.phantoms import simulation


def picture(text: str) -> np.ndarray:
    """Lines of characters -> array [I, J] of characters."""
    return np.array([list(line) for line in text.split()])


# --- the region map -------------------------------------------------------------------------------------


def test_the_region_map_by_hand_on_8_x_8_pixels():
    # . outside, b brain, T tumour. Width 2 mm, so radius 1 mm: the disk is a cross of five pixels.
    tissue = picture("""
        ........
        .bbbbbb.
        .bTTTTb.
        .bTTTTb.
        .bTTTTb.
        .TTTTTb.
        .bbbbbb.
        ........
    """)
    # The dilation adds a ring without its corners; the erosion keeps what has four tumour neighbours. What of
    # the ring is not brain (left of the lowest row) stays background.
    expected = picture("""
        11111111
        12333321
        13333331
        13344331
        13344331
        13333331
        13333321
        11111111
    """)
    names = {"1": LwsRegion.S1, "2": LwsRegion.S2, "3": LwsRegion.S4, "4": LwsRegion.S3}
    expected = np.vectorize(names.get)(expected)
    got = slices.region_map(tissue != ".", tissue == "T", contour_width_mm=2, spacing_mm=(1, 1))
    assert got.dtype == np.uint8
    assert got.tolist() == expected.tolist()


def explicit_disk(radius_mm, spacing_mm):
    reach = [int(radius_mm // side) for side in spacing_mm]
    i, j = np.ogrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    return (i * spacing_mm[0]) ** 2 + (j * spacing_mm[1]) ** 2 <= radius_mm**2


@settings(max_examples=80, deadline=None)
@given(
    tumour=hnp.arrays(bool, st.tuples(st.integers(1, 18), st.integers(1, 18)), elements=st.booleans()),
    width_mm=st.sampled_from([1, 2, 3, 5, 10]),
    spacing_mm=st.sampled_from([(1, 1), (0.5, 0.5), (1, 2), (3, 1)]),
    smooth=st.booleans(),
)
def test_the_band_is_scipy_s_dilation_minus_erosion_by_an_explicit_disk(tumour, width_mm, spacing_mm, smooth):
    if smooth:  # blobs, not salt and pepper
        tumour = ndimage.binary_opening(ndimage.binary_dilation(tumour, iterations=2), iterations=2)
    disk = explicit_disk(width_mm / 2, spacing_mm)
    band = ndimage.binary_dilation(tumour, disk) & ~ndimage.binary_erosion(tumour, disk, border_value=0)
    brain = np.ones_like(tumour)
    got = slices.region_map(brain, tumour, width_mm, spacing_mm)
    assert np.array_equal(got == LwsRegion.S4, band)
    assert np.array_equal(got == LwsRegion.S3, tumour & ~band)
    assert np.array_equal(got == LwsRegion.S2, ~tumour & ~band)


def test_the_band_is_as_wide_in_mm_along_i_as_along_j_when_pixels_are_not_square():
    brain = np.ones((60, 60), bool)
    tumour = np.zeros((60, 60), bool)
    tumour[20:40, 20:40] = True
    got = slices.region_map(brain, tumour, contour_width_mm=8, spacing_mm=(0.5, 2.0))
    # Radius 4 mm: 8 pixels outwards and 8 inwards along i, 2 and 2 along j.
    along_i = np.flatnonzero(got[:, 30] == LwsRegion.S4)
    along_j = np.flatnonzero(got[30, :] == LwsRegion.S4)
    assert along_i.tolist() == [*range(12, 28), *range(32, 48)]
    assert along_j.tolist() == [18, 19, 20, 21, 38, 39, 40, 41]


def test_outside_the_brain_there_is_only_s1_even_where_band_or_tumour_reach_there():
    brain = np.zeros((12, 12), bool)
    brain[:, :6] = True
    tumour = np.zeros((12, 12), bool)
    tumour[3:9, 3:9] = True  # half of it drawn outside the brain
    got = slices.region_map(brain, tumour, 4, (1, 1))
    assert np.array_equal(got == LwsRegion.S1, ~brain)
    assert (got[5, 1], got[5, 2]) == (LwsRegion.S4, LwsRegion.S4)


def test_a_tumour_at_the_border_of_the_array_has_its_contour_there():
    whole = np.ones((9, 9), bool)
    got = slices.region_map(whole, whole, 2, (1, 1))
    inner = np.zeros((9, 9), bool)
    inner[1:-1, 1:-1] = True
    assert np.array_equal(got == LwsRegion.S3, inner)
    assert np.array_equal(got == LwsRegion.S4, ~inner)


def test_a_slice_without_tumour_has_no_contour():
    brain = np.zeros((5, 5), bool)
    brain[1:4, 1:4] = True
    got = slices.region_map(brain, np.zeros((5, 5), bool), 10, (1, 1))
    assert np.array_equal(got, np.where(brain, LwsRegion.S2, LwsRegion.S1))


# --- which slices ---------------------------------------------------------------------------------------


def columns(pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """A letter a slice: '.' no brain, 'b' brain, 'T' tumour too -> brain, tumour, bool [1, 1, K]."""
    letters = np.array(list(pattern))
    return (letters != ".")[None, None], (letters == "T")[None, None]


@settings(max_examples=100, deadline=None)
@given(
    pattern=st.text("..bbbT", min_size=1, max_size=40),
    above=st.integers(0, 10),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_brainless_slices_go_first_then_tumour_free_ones_up_to_the_fraction_and_never_tumour(
    pattern, above, fraction, seed
):
    brain, tumour = columns(pattern)
    depth = len(pattern) + above  # slices outside the crop have no brain
    kept = slices.kept_slices(brain, tumour, depth, fraction, [seed, 1])
    assert kept == sorted(set(kept))
    letters = [pattern[k] for k in kept]
    assert "." not in letters
    assert letters.count("T") == pattern.count("T")
    dropped = depth - len(kept)
    brainless = above + pattern.count(".")
    most = brainless + pattern.count("b")
    assert dropped == min(max(round(fraction * depth), brainless), most)


def test_which_slices_are_dropped_depends_on_the_seed_alone():
    brain, tumour = columns("b" * 60)
    draws = [tuple(slices.kept_slices(brain, tumour, 60, 0.5, case.case_seed(s, "a"))) for s in range(6)]
    assert draws[3] == tuple(slices.kept_slices(brain, tumour, 60, 0.5, case.case_seed(3, "a")))
    assert len(set(draws)) == 6
    other_case = tuple(slices.kept_slices(brain, tumour, 60, 0.5, case.case_seed(3, "b")))
    assert other_case != draws[3]


def test_the_dropped_slices_are_spread_over_the_whole_brain():
    brain, tumour = columns("b" * 100)
    gone = np.zeros(100)
    for seed in range(200):
        kept = slices.kept_slices(brain, tumour, 100, 0.3, case.case_seed(seed, "a"))
        gone += ~np.isin(np.arange(100), kept)
    assert gone.sum() == 200 * 30
    assert gone.min() > 30 and gone.max() < 95  # 60 each, and 6.5 is the deviation


# --- the canvas -----------------------------------------------------------------------------------------


def test_the_whole_slice_is_centred_on_the_canvas_wherever_the_brain_lies_in_it():
    # 240 on 256: eight pixels each side.
    assert slices.canvas_origin([(30, 170), (0, 240)], (240, 240), (256, 256), "case") == (38, 8)
    # 240 on 160: forty are cut off each side, and what of the brain would be cut is pushed inwards.
    assert slices.canvas_origin([(60, 200), (50, 190)], (240, 240), (160, 160), "case") == (20, 10)
    assert slices.canvas_origin([(10, 150), (90, 240)], (240, 240), (160, 160), "case") == (0, 10)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 64), st.integers(1, 64), st.data())
def test_the_brain_always_lies_wholly_on_the_canvas(size, side, data):
    low = data.draw(st.integers(0, size - 1))
    high = data.draw(st.integers(low + 1, min(size, low + side)))
    (origin,) = slices.canvas_origin([(low, high)], (size,), (side,), "case")
    assert origin >= 0 and origin + high - low <= side


def test_a_brain_larger_than_the_canvas_is_an_error_that_names_the_case_and_the_key():
    with pytest.raises(
        InputError, match=r"Case_7: the brain spans 97 voxels, the canvas 96. Raise records.slice_shape"
    ):
        slices.canvas_origin([(0, 50), (3, 100)], (240, 240), (96, 96), "Case_7")


# --- slices ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared():
    image, tissues = simulation.simulate((48, 40, 32), 5, 1)
    brain = preprocess.brain_mask(image)
    box = boxes.box_of(brain)
    brain = boxes.crop(brain, box)
    return preprocess.Prepared(
        case_id="Case_1",
        image=preprocess.z_score(boxes.crop(image, box), brain),
        brain=brain,
        label=boxes.crop(tissues, box),
        box_ijk=box,
        shape_ijk=(48, 40, 32),
        spacing_mm=(1.0, 1.0, 2.0),
    )


def test_every_slice_holds_what_lay_at_its_k_and_images_are_stored_in_half_precision(prepared):
    (_, _, (low_k, _)) = prepared.box_ijk
    found = list(slices.slices(prepared, (64, 48), 4, 0.3, 0))
    assert found
    for one in found:
        k = one["slice_k"] - low_k
        assert one["case_id"] == "Case_1"
        assert one["image"].dtype == np.float16
        assert np.abs(one["image"].astype(np.float32) - prepared.image[:, :, k]).max() < 5e-3
        assert np.array_equal(one["label"], prepared.label[:, :, k])
        assert np.array_equal(one["region"] != LwsRegion.S1, prepared.brain[:, :, k])
        tumour = np.isin(prepared.label[:, :, k], (1, 2, 3))
        assert np.array_equal(one["region"], slices.region_map(prepared.brain[:, :, k], tumour, 4, (1, 1)))
        assert one["origin_ij"].tolist() == [8 + prepared.box_ijk[0][0], 4 + prepared.box_ijk[1][0]]


def test_dropping_nothing_keeps_every_slice_with_brain_and_the_same_seed_the_same_slices(prepared):
    everything = [one["slice_k"] for one in slices.slices(prepared, (64, 48), 4, 0.0, 0)]
    assert everything == list(range(*prepared.box_ijk[2]))
    ours, again, other = (
        [one["slice_k"] for one in slices.slices(prepared, (64, 48), 4, 0.5, seed)] for seed in (0, 0, 1)
    )
    assert ours == again != other
    assert len(ours) == 16 and set(ours) < set(everything)


def test_no_z_score_is_too_large_for_half_precision():
    # One bright voxel in a large brain: |z| is at most the root of the number of voxels.
    image = np.ones((160, 160, 100, 1), np.float32)
    image[0, 0, 0] = 32767
    brain = np.ones(image.shape[:3], bool)
    with np.errstate(over="raise"):
        assert np.isfinite(preprocess.z_score(image, brain).astype(np.float16)).all()


@pytest.mark.parametrize("spacing", [(1, 1), (0.7, 2.3)])
def test_the_band_is_that_of_distances_over_the_whole_slice(spacing):
    rng = np.random.default_rng(2)
    for width, at in itertools.product((1, 10, 31), range(6)):
        tumour = np.zeros((40, 36), bool)
        low = rng.integers(0, 30, 2)
        tumour[low[0] : low[0] + 9, low[1] : low[1] + 7] = (
            rng.random((9, 7))[: 40 - low[0], : 36 - low[1]] > 0.3
        )
        tumour[0, 0] |= at == 0
        padded = np.pad(tumour, 1)
        apart = [ndimage.distance_transform_edt(each, sampling=spacing) for each in (~padded, padded)]
        band = np.logical_and.reduce([each[1:-1, 1:-1] <= width / 2 for each in apart])
        regions = slices.region_map(np.ones_like(tumour), tumour, width, spacing)
        assert np.array_equal(regions == LwsRegion.S4, band)
