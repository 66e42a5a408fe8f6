"""Maps of loss weighted sampling: the right slice, its counts, its weights."""

import base64
import dataclasses
import io

import matplotlib.image
import numpy as np
import pytest

from tfbrats import config_file
from tfbrats.cases import case, overlays
from tfbrats.datasets import layouts
from tfbrats.labels import LwsRegion, region_mask
from tfbrats.reporting import sampling_maps
from tfbrats.scoring.pairs import Pair


@pytest.fixture(scope="module")
def pairs(tiny_dataset):
    """Two simulated cases, each its own prediction."""
    return [
        Pair(one.case_id, one.label, one.label, one.schema, one)
        for one in layouts.find(tiny_dataset("2020")).cases
    ]


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
