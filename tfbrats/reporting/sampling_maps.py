"""What loss weighted sampling sees of a case, as pictures."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfbrats.cases import case, preprocess, slices
from tfbrats.cases.boxes import box_of, crop, grown
from tfbrats.cases.overlays import LWS_COLOURS, SHOWN_MODALITIES, _rgb, enlarged, overlay
from tfbrats.config import Config, SliceConfig
from tfbrats.labels import LwsRegion, region_mask
from tfbrats.reporting.case_pictures import PICTURE_MARGIN, as_grey, png
from tfbrats.scoring import comparison as comparison
from tfbrats.scoring.pairs import Pair


def sampling_of(
    settings: Config | None, pairs: Sequence[Pair], pictured: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """What the page shows of loss weighted sampling: `settings`, `case_id` and `maps` of one case.

    The median case of those pictured, or the best that has a tumour and all of the run's images. `maps` is
    None where there is no such case; the whole is None unless the network was trained with it.

    Args:
        pairs: of the cases pictured, worst first.
        pictured: as for `page.render`.

    Raises:
        InputError: an image cannot be read.
    """
    if settings is None or not settings.weighted_sampling:
        return None
    known = list(zip(pairs, (one["stands_for"] for one in pictured), strict=True))
    for pair, _ in sorted(reversed(known), key=lambda one: one[1] != "median"):
        maps = sampling_maps(pair, settings)
        if maps:
            return {"settings": settings, "case_id": pair.case_id, "maps": maps}
    return {"settings": settings, "case_id": None, "maps": None}


def sampling_maps(pair: Pair, settings: SliceConfig) -> dict[str, Any] | None:
    """Paper A's Fig. 2 for the slice of a case that has most tumour, and the weights of one draw.

    Returns:
        `panels` (title, picture, alt), the slice's index `k`, `positives` (N_pos), `normals` (N_S2), `p2` and
        how many pixels of S2 were `drawn`; p2 is this slice's own, as with lws.scope: slice. None where there
        is nothing to show: no tumour in the brain, or not all of the run's modalities.

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
    p2 = float(losses.sampling_probability(positives, normals, settings.lws.beta, settings.lws.floor))
    seed = case.case_seed(settings.train.seed, pair.case_id)
    draws = np.random.default_rng(seed).random((1, *regions.shape), np.float32)
    weights = [
        np.array(one)[0] for one in losses.sample_weights(regions[None], draws, p2, settings.lws.contour_weight)
    ]

    box = grown(box_of(regions != LwsRegion.S1), PICTURE_MARGIN, regions.shape)
    shown = next(m for m in (*SHOWN_MODALITIES, *modalities) if m in modalities)
    grey = as_grey(loaded.image[..., modalities.index(shown)].astype(np.float32))[:, :, k]
    pixel_mm = (loaded.spacing_mm[1], loaded.spacing_mm[0])  # rows lie along j, columns along i
    title = SHOWN_MODALITIES.get(shown, shown)
    colours = np.array([_rgb(LWS_COLOURS[region]) for region in LwsRegion])
    panels = [(f"{title}, reference", overlay(crop(grey, box).T, crop(tissues, box).T, pixel_mm))]
    panels.append(("regions S1 to S4", enlarged(colours[crop(regions, box).T], pixel_mm)))
    heaviest = max(settings.lws.contour_weight, 1)
    for number, weight in enumerate(weights, 1):
        lightness = (crop(weight, box).T / heaviest)[..., None].repeat(3, -1)
        panels.append((f"W of U-Net{number}, one draw", enlarged(lightness, pixel_mm)))
    return {
        "k": k,
        "panels": [{"title": title, "picture": png(picture)} for title, picture in panels],
        "positives": positives,
        "normals": normals,
        "p2": p2,
        "drawn": int((weights[0] * (regions == LwsRegion.S2)).sum()),
    }
