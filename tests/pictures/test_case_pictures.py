"""Pictures of cases: which planes, which way up, in which colours; every slice, to the voxel."""

import base64
import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from tfbrats.cases import case, overlays
from tfbrats.datasets import layouts
from tfbrats.labels import Tissue
from tfbrats.pictures import case_pictures, differences, plates, sprites
from tfbrats.scoring import evaluation
from tfbrats.scoring.origin import BySplit
from tfbrats.scoring.pairs import Pair

# --- which planes ---------------------------------------------------------------------------------------


def test_planes_go_through_the_thickest_error():
    reference = np.zeros((30, 30, 30), np.uint8)
    reference[2:12, 2:12, 2:12] = Tissue.ED
    prediction = reference.copy()
    prediction[2:12, 2:12, 2] = 0  # a thin error
    prediction[16:25, 15:24, 17:26] = Tissue.ED  # a thick one
    assert overlays.focus(prediction, reference, (1, 1, 1)) == ((20, 19, 21), "the largest error")


def test_of_equally_thin_errors_the_largest_piece_is_shown():
    reference = np.zeros((30, 30, 30), np.uint8)
    reference[2:13, 4:15, 6:17] = Tissue.ED
    prediction = reference.copy()
    prediction[25, 25, 20:23] = Tissue.ED  # a line of three
    prediction[2:13, 4:15, 6] = 0  # a plane
    prediction[0, 0, 0] = Tissue.ED  # one voxel, the first of all
    voxel, text = overlays.focus(prediction, reference, (1, 1, 1))
    assert text == "the largest error"
    assert voxel[2] == 6 and 2 <= voxel[0] < 13 and 4 <= voxel[1] < 15


def test_without_an_error_planes_go_through_the_tumour_and_without_any_through_the_middle():
    reference = np.zeros((30, 30, 30), np.uint8)
    reference[2:13, 4:15, 6:17] = Tissue.ED
    assert overlays.focus(reference, reference, (1, 1, 1)) == ((7, 9, 11), "the middle of the tumour")
    empty = np.zeros_like(reference)
    assert overlays.focus(empty, empty, (1, 1, 1))[0] == (15, 15, 15)


def test_left_is_on_the_viewers_right_the_front_on_top_and_the_head_up():
    # i, j, k grow towards the patient's left, back and head.
    array = np.zeros((5, 6, 7))
    array[4, 0, 6] = 1  # far left, front, top of the head
    axial, coronal, sagittal = (overlays.plane(array, (4, 0, 6), axis) for axis in (2, 1, 0))
    assert axial.shape == (6, 5) and axial[0, -1] == 1
    assert coronal.shape == (7, 5) and coronal[0, -1] == 1
    assert sagittal.shape == (7, 6) and sagittal[0, 0] == 1


# --- pictures -------------------------------------------------------------------------------------------


def test_pixels_are_square_whatever_the_voxels():
    grey = np.zeros((10, 40))
    tissues = np.zeros((10, 40), np.uint8)
    # 10 rows of 4 mm and 40 columns of 1 mm are 40 x 40 mm.
    height, width, _ = overlays.overlay(grey, tissues, (4.0, 1.0)).shape
    assert height == width


def test_each_tissue_has_its_colour_and_the_rest_stays_grey():
    grey = np.full((40, 40), 0.5)
    tissues = np.zeros((40, 40), np.uint8)
    tissues[5:15, 5:15], tissues[25:35, 25:35] = Tissue.ED, Tissue.ET
    picture = overlays.overlay(grey, tissues, (1.0, 1.0)).astype(int)
    scale = picture.shape[0] // 40
    background, oedema, enhancing = (picture[at * scale, at * scale] for at in (20, 10, 30))
    assert len(set(background)) == 1
    assert oedema[2] > oedema[0] + 50  # blue
    assert enhancing[0] > enhancing[2] + 50  # yellow
    assert picture.max() <= 255


def test_enlarged_pixels_keep_their_place_and_their_value():
    picture = np.zeros((10, 20, 3))
    picture[2, 15] = 1.0
    large = overlays.enlarged(picture, (1.0, 1.0))
    scale = large.shape[0] // 10
    assert large.shape == (10 * scale, 20 * scale, 3) and scale == 20
    assert set(np.unique(large)) == {0, 255}
    assert (large == 255).all(-1).sum() == scale**2
    assert large[2 * scale + scale // 2, 15 * scale + scale // 2, 0] == 255


@pytest.fixture(scope="module")
def pairs(tiny_dataset):
    """Two simulated cases, each its own prediction."""
    return [
        Pair(one.case_id, one.label, one.label, one.schema, one)
        for one in layouts.find(tiny_dataset("2020")).cases
    ]


# --- every slice ----------------------------------------------------------------------------------------


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def volume(uri, shown):
    """What slices.js makes of a sprite: [I, J, K]."""
    pixels = np.asarray(decoded(uri).convert("L"))
    width, height, number = shown.size
    slices = [divmod(k, shown.columns) for k in range(number)]
    return np.stack(
        [pixels[r * height : (r + 1) * height, c * width : (c + 1) * width].T for r, c in slices], axis=-1
    )


def test_sprites_hold_both_label_maps_to_the_voxel_and_each_scan_but_for_noise(pairs):
    source = pairs[0].source
    expert, grid = case.load_label(source.label, source.schema)
    shown = case_pictures.case_pictures(pairs[0], np.roll(expert, 3, axis=0), expert, grid).slices
    assert list(shown.scans) == ["FLAIR", "T1", "T1ce", "T2"]
    box = tuple(slice(low, low + size) for low, size in zip(shown.first, shown.size, strict=True))
    numbers = volume(shown.labels, shown)
    assert (numbers % sprites.STEP == 0).all()
    reference, prediction = np.divmod(numbers // sprites.STEP, sprites.PAIRS)
    np.testing.assert_array_equal(reference, expert[box])
    np.testing.assert_array_equal(prediction, np.roll(expert, 3, axis=0)[box])
    # Nothing of the head or of a label lies outside.
    scans = case.load(source)
    outside = (scans.image != 0).any(-1) | (expert > 0)
    outside[box] = False
    assert not outside.any()
    for name, uri in shown.scans.items():
        channel = scans.modalities.index({"FLAIR": "flair", "T1": "t1", "T1ce": "t1ce", "T2": "t2"}[name])
        grey = overlays.as_grey(scans.image[..., channel].astype(np.float32))[box]
        assert np.corrcoef(grey.ravel(), volume(uri, shown).ravel())[0, 1] > 0.97
    assert [place.words.split()[0] for place in shown.places] == ["axial", "coronal", "sagittal"]
    voxel, _ = overlays.focus(np.roll(expert, 3, axis=0), expert, grid.spacing_mm)
    assert [place.index for place in shown.places] == list(reversed(voxel))


def test_of_a_huge_volume_every_second_voxel_is_shown_and_the_slices_are_still_the_volume_s(monkeypatch):
    monkeypatch.setattr(sprites, "MOST_VOXELS", 2000)
    rng = np.random.default_rng(0)
    reference = rng.integers(0, len(Tissue), (20, 24, 10)).astype(np.uint8)
    shown = sprites.sprites_of(
        {"T1": np.ones(reference.shape)}, reference, reference, (13, 7, 9), (0.5, 0.5, 2)
    )
    assert shown.every == [2, 2, 1] and shown.size == [10, 12, 10]
    np.testing.assert_array_equal(
        volume(shown.labels, shown), sprites.STEP * (sprites.PAIRS + 1) * reference[::2, ::2]
    )
    assert [place.words for place in shown.places] == [
        "axial slice 10 of 10, 18 mm above the first",
        "coronal slice 7 of 24, 3 mm behind the first",
        "sagittal slice 13 of 20, 6 mm left of the first",
    ]


def test_a_case_that_the_model_has_seen_says_how():
    by_split = BySplit(True, {"train": ["BraTS20_Training_001"], "test": ["b"]}, {}, {}, None, True)
    nothing = dict.fromkeys(evaluation.Evaluation.__dataclass_fields__)
    content = evaluation.Evaluation(**nothing | {"by_split": by_split})
    assert case_pictures.seen_by_case(content) == {"BraTS20_Training_001": "trained the model"}
    assert case_pictures.seen_by_case(evaluation.Evaluation(**nothing)) == {}


# --- without script -------------------------------------------------------------------------------------


def has(picture, colour, near=40):
    distance = np.abs(np.asarray(picture.convert("RGB")).astype(int) - 255 * np.array(to_rgb(colour))).max(-1)
    return int((distance < near).sum())


def test_the_plate_shows_found_missed_and_false_in_their_colours_and_the_contours():
    reference, prediction = np.zeros((2, 40, 40, 40), np.uint8)
    reference[8:28, 10:30, 10:30], prediction[12:32, 10:30, 10:30] = Tissue.ED, Tissue.ED
    greys = {"FLAIR": np.full(reference.shape, 0.5)}
    plate = decoded(plates.compose(greys, reference, prediction, (20, 20, 20), (1, 1, 1), False))
    for kind in (differences.MISSED, differences.FALSE):
        assert has(plate, differences.COLOURS[kind]) > 1000
    alike = decoded(plates.compose(greys, reference, reference, (20, 20, 20), (1, 1, 1), False))
    for kind in (differences.MISSED, differences.FALSE):
        assert not has(alike, differences.COLOURS[kind])
    edges = has(alike, overlays.COLOURS[Tissue.ED], 70)
    assert 500 < edges < 20_000  # contours, not areas


def test_the_plate_of_a_simulated_case_says_so_in_the_picture():
    nothing, greys = np.zeros((20, 20, 20), np.uint8), {"T2": np.full((20, 20, 20), 0.5)}
    plain, told = (plates.compose(greys, nothing, nothing, (9, 9, 9), (1, 1, 1), one) for one in (False, True))
    assert has(decoded(told), "#ffd27a", 60) > 100 > has(decoded(plain), "#ffd27a", 60)
