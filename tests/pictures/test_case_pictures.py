"""Pictures of cases: which cases and planes, which way up, in which colours; maps of loss weighted sampling."""

import base64
import dataclasses
import io

import matplotlib.image
import numpy as np
import pytest

from tfbrats import config_file
from tfbrats.cases import case, overlays
from tfbrats.datasets import layouts
from tfbrats.labels import LwsRegion, Tissue, region_mask
from tfbrats.reporting import case_pictures, sampling_maps
from tfbrats.scoring.pairs import Pair


def rows_with_dice(*values):
    return [{"case_id": f"case{number}", "region": "WT", "dice": value} for number, value in enumerate(values)]


# --- which cases, which planes --------------------------------------------------------------------------


def test_the_worst_the_median_and_the_best_case_are_picked():
    rows = rows_with_dice(0.9, 0.2, 0.5, 0.7, 0.4)
    assert case_pictures.choose(rows, 3) == [("case1", "worst"), ("case2", "median"), ("case0", "best")]


def test_halfway_between_two_cases_is_the_median_below():
    rows = rows_with_dice(0.9, 0.2, 0.5, 0.7)
    assert case_pictures.choose(rows, 3) == [("case1", "worst"), ("case2", "median"), ("case0", "best")]


def test_more_cases_than_there_are_shows_each_once():
    assert case_pictures.choose(rows_with_dice(0.9, 0.2), 5) == [("case1", "worst"), ("case0", "best")]
    assert case_pictures.choose(rows_with_dice(0.9), 3) == [("case0", "the only one")]
    assert case_pictures.choose(rows_with_dice(0.9), 0) == []


def test_an_undefined_dice_is_no_rank():
    assert case_pictures.choose(rows_with_dice(float("nan"), 0.3), 3) == [("case1", "the only one")]


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


def test_a_picture_shows_the_prediction_where_the_prediction_is(pairs):
    pair = pairs[0]
    expert, grid = case.load_label(pair.reference, pair.schema)
    for prediction, same in ((expert, True), (np.roll(expert, 3, axis=0), False)):
        for plane in case_pictures.case_pictures(pair, prediction, expert, grid.spacing_mm).planes:
            drawn = {panel.title: panel.picture for panel in plane.panels}
            assert list(drawn) == [
                "FLAIR, reference", "FLAIR, prediction", "T1ce, reference", "T1ce, prediction",
            ]  # fmt: skip
            assert (drawn["FLAIR, reference"] == drawn["FLAIR, prediction"]) == same
            assert drawn["FLAIR, reference"] != drawn["T1ce, reference"]


# --- loss weighted sampling -----------------------------------------------------------------------------

LWS = ("lws.beta=0.5", "lws.contour_width_mm=4", "lws.contour_weight=3")


def decoded(uri):
    png = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.round(matplotlib.image.imread(io.BytesIO(png))[..., :3] * 255).astype(int)


def test_the_sampling_maps_show_the_slice_with_most_tumour_and_its_counts(pairs):
    settings = config_file.load("cun_lws.yaml", LWS)
    loaded = case.load(pairs[0].source)
    tumour, brain = region_mask(loaded.label, "WT"), (loaded.image != 0).any(-1)
    maps = sampling_maps.sampling_maps(pairs[0], settings)
    assert maps.k == (tumour & brain).sum((0, 1)).argmax()
    assert maps.positives == (tumour & brain)[..., maps.k].sum()
    assert maps.p2 == pytest.approx(min(1, 0.5 * maps.positives / maps.normals))
    # Drawn at random with probability p2: five standard deviations are beyond chance.
    spread = np.sqrt(maps.normals * maps.p2 * (1 - maps.p2))
    assert abs(maps.drawn - maps.normals * maps.p2) < 5 * spread + 1
    assert maps == sampling_maps.sampling_maps(pairs[0], settings)


def test_the_weights_are_those_of_the_regions(pairs):
    maps = sampling_maps.sampling_maps(pairs[0], config_file.load("cun_lws.yaml", LWS))
    titles = [panel.title for panel in maps.panels]
    assert titles == ["FLAIR, reference", "regions S1 to S4", "W of U-Net1, one draw", "W of U-Net2, one draw"]
    _, regions, first, second = (decoded(panel.picture) for panel in maps.panels)
    assert regions.shape == first.shape == second.shape

    def inside(region):
        colour = overlays.LWS_COLOURS[region]
        return (regions == [int(colour[at : at + 2], 16) for at in (1, 3, 5)]).all(-1)

    assert sum(inside(region).sum() for region in LwsRegion) == regions[..., 0].size
    grey = 255 // 3  # weight 1, where white is alpha1 = 3
    for region, weights1, weights2 in (
        (LwsRegion.S1, {0}, {0}),
        (LwsRegion.S2, {0, grey}, {0}),
        (LwsRegion.S3, {grey}, {grey}),
        (LwsRegion.S4, {255}, {grey}),
    ):
        assert set(first[inside(region)].ravel()) == weights1, region
        assert set(second[inside(region)].ravel()) == weights2, region


def test_without_a_tumour_or_without_an_image_there_is_no_map(pairs, tmp_path):
    settings = config_file.load("cun_lws.yaml")
    assert sampling_maps.sampling_maps(dataclasses.replace(pairs[0], source=None), settings) is None
    source = pairs[0].source
    without_t2 = dataclasses.replace(source, images=[image for image in source.images if image[0] != "t2"])
    assert sampling_maps.sampling_maps(dataclasses.replace(pairs[0], source=without_t2), settings) is None
    tissues, grid = case.load_label(source.label, source.schema)
    path = tmp_path / "healthy.nii.gz"
    case.save_segmentation(path, np.zeros_like(tissues), grid, source.schema)
    healthy = dataclasses.replace(source, label=str(path))
    assert sampling_maps.sampling_maps(dataclasses.replace(pairs[0], source=healthy), settings) is None
