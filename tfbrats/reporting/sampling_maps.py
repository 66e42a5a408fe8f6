"""What loss weighted sampling sees of a case, as pictures."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfbrats.cases import case, preprocess, slices
from tfbrats.cases.boxes import box_of, crop, grown
from tfbrats.cases.overlays import SHOWN_MODALITIES, as_grey, enlarged, lws_picture, overlay
from tfbrats.config import Config, SliceConfig
from tfbrats.labels import LwsRegion, region_mask
from tfbrats.pictures.case_pictures import Pictured
from tfbrats.pictures.encoding import png
from tfbrats.scoring.pairs import Pair

_MARGIN = 2  # voxels round the head


@dataclass(frozen=True)
class Panel:
    """A picture with its title; the picture is a data URI."""

    title: str
    picture: str


@dataclass(frozen=True)
class Maps:
    """Paper A's Fig. 2 for one slice, and the weights of one draw.

    Attributes:
        k: the slice's index.
        positives: N_pos, pixels of tumour.
        normals: N_S2, pixels of normal brain.
        p2: this slice's own, as with lws.scope: slice.
        drawn: how many pixels of S2 were.
    """

    k: int
    panels: list[Panel]
    positives: float
    normals: float
    p2: float
    drawn: int


@dataclass(frozen=True)
class Sampling:
    """What the page shows of loss weighted sampling: the maps of one case, or None where there is none."""

    settings: SliceConfig
    case_id: str | None = None
    maps: Maps | None = None


def sampling_of(settings: Config | None, pictured: Sequence[Pictured]) -> Sampling | None:
    """What the page shows of loss weighted sampling; None unless the network was trained with it.

    The median case of those pictured, or the best that has a tumour and all of the run's images.

    Args:
        pictured: worst first.

    Raises:
        InputError: an image cannot be read.
    """
    if settings is None or not settings.weighted_sampling:
        return None
    for shown in sorted(reversed(pictured), key=lambda shown: shown.stands_for != "median"):
        maps = sampling_maps(shown.pair, settings)
        if maps:
            return Sampling(settings, shown.case_id, maps)
    return Sampling(settings)


def sampling_maps(pair: Pair, settings: SliceConfig) -> Maps | None:
    """The maps of the slice of a case that has most tumour.

    None where there is nothing to show: no tumour in the brain, or not all of the run's modalities.

    Raises:
        InputError: an image of the case cannot be read.
    """
    from tfbrats.networks import losses  # Keras and its engine: seconds that no other page need wait for

    modalities = settings.data.modalities
    images = tuple(image for image in pair.source.images if image[0] in modalities) if pair.source else ()
    if len(images) < len(modalities):
        return None
    loaded = case.load(dataclasses.replace(pair.source, images=images), modalities, need_label=True)
    brain = preprocess.brain_mask(loaded.image)
    tumour = region_mask(loaded.label, "WT") & brain
    if not tumour.any():
        return None
    k = int(tumour.sum(axis=(0, 1)).argmax())
    tissues = loaded.label[:, :, k]
    # regions: 240 x 240 of S1 to S4
    regions = slices.region_map(
        brain[:, :, k], region_mask(tissues, "WT"), settings.lws.contour_width_mm, loaded.spacing_mm[:2]
    )
    whole, _ = losses.targets(tissues[None])
    positives, normals = (float(count[0]) for count in losses.region_counts(regions[None], whole))
    p2 = float(losses.sampling_probability(positives, normals, settings.lws.beta, settings.p2_floor))
    seed = case.case_seed(settings.train.seed, pair.case_id)
    draws = np.random.default_rng(seed).random((1, *regions.shape), np.float32)
    of_networks = losses.sample_weights(regions[None], draws, p2, settings.lws.contour_weight)
    weights = [np.array(of_network)[0] for of_network in of_networks]
    shown = next(m for m in (*SHOWN_MODALITIES, *modalities) if m in modalities)
    grey = as_grey(loaded.image[..., modalities.index(shown)].astype(np.float32))[:, :, k]
    box = grown(box_of(regions != LwsRegion.S1), _MARGIN, regions.shape)
    # Rows of the pictures lie along j, columns along i.
    grey, tissues, in_box = (crop(plane, box).T for plane in (grey, tissues, regions))
    pixel_mm = (loaded.spacing_mm[1], loaded.spacing_mm[0])
    heaviest = max(settings.lws.contour_weight, 1)
    pictures = {
        f"{SHOWN_MODALITIES.get(shown, shown)}, reference": overlay(grey, tissues, pixel_mm),
        "regions S1 to S4": enlarged(lws_picture(in_box), pixel_mm),
    }
    for number, weight in enumerate(weights, 1):
        lightness = (crop(weight, box).T / heaviest)[..., None].repeat(3, -1)
        pictures[f"W of U-Net{number}, one draw"] = enlarged(lightness, pixel_mm)
    return Maps(
        k=k,
        panels=[Panel(title, png(picture)) for title, picture in pictures.items()],
        positives=positives,
        normals=normals,
        p2=p2,
        drawn=int((weights[0] * (regions == LwsRegion.S2)).sum()),
    )
