"""Cases as pictures: which ones, through which planes, tissues in colour; and what loss weighted sampling sees.

A picture that shows a good case proves little: cases are picked by rank, never by hand, and each is cut
through the thickest piece of its error.
"""

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.image
import numpy as np
from scipy import ndimage

from tfbrats import case, charts, examples, preprocess
from tfbrats.config import SliceConfig
from tfbrats.examples import LwsRegion
from tfbrats.labels import Tissue, region_mask
from tfbrats.pairs import Pair

# Okabe and Ito's colours: told apart by colour-blind readers, and on grey.
COLOURS = {
    Tissue.NCR: "#D55E00",
    Tissue.ED: "#56B4E9",
    Tissue.ET: "#F0E442",
    Tissue.RC: "#009E73",
    Tissue.CC: "#0072B2",
}
NAMES = {
    Tissue.NCR: "NCR, necrotic and non-enhancing core",
    Tissue.ED: "ED, oedema",
    Tissue.ET: "ET, enhancing tumour",
    Tissue.RC: "RC, resection cavity",
    Tissue.CC: "CC, cystic component",
}
SHOWN_MODALITIES = {"flair": "FLAIR", "t1ce": "T1ce"}
_FILL = 0.5  # opacity inside an outline
_PICTURE_PIXELS = 400  # of the longest side, at least
# None of them a tissue's, and apart in lightness too.
LWS_COLOURS = {
    LwsRegion.S1: "#000000",
    LwsRegion.S2: "#59616b",
    LwsRegion.S3: "#cc79a7",
    LwsRegion.S4: "#e69f00",
}
LWS_NAMES = {
    LwsRegion.S1: "S1, background: every modality is 0",
    LwsRegion.S2: "S2, normal brain",
    LwsRegion.S3: "S3, tumour inside the contour band",
    LwsRegion.S4: "S4, contour band of the whole tumour",
}


# --- which cases, which planes --------------------------------------------------------------------------


def choose(rows: Sequence[Mapping[str, Any]], number: int) -> list[tuple[str, str]]:
    """(case id, what it stands for) of cases spread evenly by Dice of WT, worst first.

    Args:
        rows: keys as `score_files.COLUMNS`.
        number: how many; 3 are the worst, the median and the best.
    """
    ranked = [row for row in rows if row["region"] == "WT" and not math.isnan(row["dice"])]
    ranked.sort(key=lambda row: (row["dice"], row["case_id"]))
    last = len(ranked) - 1
    # Halfway between two is the one below: with an even number of cases that is the (lower) median.
    places = sorted({math.ceil(place - 0.5 - 1e-9) for place in np.linspace(0, last, min(number, len(ranked)))})
    if number == 1 and ranked:
        places = [last // 2]
    names = {0: "worst", last: "best", last // 2: "median"} if last > 1 else {0: "worst", last: "best"}
    if last == 0:
        names = {0: "the only one"}
    return [(ranked[p]["case_id"], names.get(p, f"rank {p + 1} of {last + 1}")) for p in places]


def focus(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[tuple[int, int, int], str]:
    """The voxel to cut through, and what is there.

    Args:
        prediction: tissues [I, J, K].
        reference: same shape.
        spacing_mm: along i, j, k.

    Returns:
        (i, j, k) of the middle of the thickest error, of equally thick ones in the largest connected piece; of
        the thickest part of the tumour without an error; of the volume without a tumour.
    """
    tumour = region_mask(reference, "WT") | region_mask(prediction, "WT")
    for where, text in ((prediction != reference, "the largest error"), (tumour, "the middle of the tumour")):
        if where.any():
            box = ndimage.find_objects(where.astype(np.uint8))[0]
            inside = np.pad(where[box], 1)
            depth_mm = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
            pieces, _ = ndimage.label(inside, np.ones((3, 3, 3)))
            deepest = np.argwhere(depth_mm == depth_mm.max())
            sizes = np.bincount(pieces.ravel())[pieces[tuple(deepest.T)]]
            chosen = deepest[sizes.argmax()]
            return tuple(int(d) - 1 + s.start for d, s in zip(chosen, box, strict=True)), text
    return tuple(size // 2 for size in reference.shape), "the middle of the volume: there is no tumour"


# --- pictures -------------------------------------------------------------------------------------------


def plane(array: np.ndarray, voxel: Sequence[int], axis: int) -> np.ndarray:
    """One plane of [I, J, K] as rows x columns, the way a radiologist looks at it.

    i, j, k point to the patient's left, back and head: axial planes (`axis` 2) have the front on top,
    coronal (1) and sagittal (0) ones the head; left is on the viewer's right, sagittal planes face left.
    """
    rows_by_columns = np.take(array, voxel[axis], axis).T
    return rows_by_columns if axis == 2 else rows_by_columns[::-1]


def _places(shape: tuple[int, int], pixel_mm: tuple[float, float]) -> np.ndarray:
    """Where the square pixels of a picture lie on a plane of `shape`: [2, rows, columns] in voxels."""
    extent_mm = np.multiply(shape, pixel_mm)
    per_mm = max(_PICTURE_PIXELS / extent_mm.max(), 1 / min(pixel_mm))
    sides = np.maximum(1, np.round(extent_mm * per_mm).astype(int))
    rows, columns = (
        (np.arange(side) + 0.5) * size / side - 0.5 for side, size in zip(sides, shape, strict=True)
    )
    return np.array(np.meshgrid(rows, columns, indexing="ij"))


def _rgb(colour: str) -> np.ndarray:
    """A colour like #rrggbb as [3] from 0 to 1."""
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255


def overlay(grey: np.ndarray, tissues: np.ndarray, pixel_mm: tuple[float, float]) -> np.ndarray:
    """A plane with its tissues in colour, outlined: uint8 [rows, columns, 3], square pixels.

    Args:
        grey: 0 to 1, [rows, columns].
        tissues: same shape.
        pixel_mm: height and width of a voxel in this plane.
    """
    where = _places(grey.shape, pixel_mm)
    picture = ndimage.map_coordinates(grey, where, order=1, mode="nearest")[..., None].repeat(3, -1)
    labels = ndimage.map_coordinates(tissues, where, order=0, mode="nearest")
    for tissue, colour in COLOURS.items():
        inside = labels == tissue
        outline = inside & ~ndimage.binary_erosion(inside, iterations=2)
        picture[inside] = (1 - _FILL) * picture[inside] + _FILL * _rgb(colour)
        picture[outline] = _rgb(colour)
    return np.round(picture * 255).astype(np.uint8)


def enlarged(picture: np.ndarray, pixel_mm: tuple[float, float]) -> np.ndarray:
    """A plane [rows, columns, 3] from 0 to 1 as large as `overlay` makes it, every voxel with sharp borders."""
    rows, columns = np.round(_places(picture.shape[:2], pixel_mm)).astype(int)
    return np.round(picture[rows, columns] * 255).astype(np.uint8)


@charts.own_style()
def _png(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    # PNG's metadata names the library's version: left out, the same scores give the same page.
    matplotlib.image.imsave(buffer, picture, format="png", metadata={"Software": None})
    return charts.data_uri(buffer.getvalue())


def _greys(pair: Pair, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Modality's title -> [I, J, K] from 0 to 1; black without images, as where only masks were given."""
    images = pair.source.images if pair.source else ()
    wanted = tuple(image for image in images if image[0] in SHOWN_MODALITIES)
    if not wanted:
        return {"no image": np.zeros(shape, np.float32)}
    loaded = case.load(dataclasses.replace(pair.source, images=wanted), [image[0] for image in wanted])
    greys = {}
    for channel, modality in enumerate(loaded.modalities):
        image = loaded.image[..., channel].astype(np.float32)
        greys[SHOWN_MODALITIES[modality]] = _grey(image)
    return greys


def _grey(image: np.ndarray) -> np.ndarray:
    """One modality from 0 to 1, whatever its scale; what is 0 stays black."""
    low, high = np.percentile(image[image != 0], (0.5, 99.5))
    return np.where(image == 0, 0, np.clip((image - low) / max(high - low, 1e-6), 0, 1))


def _with_margin(mask: np.ndarray) -> tuple[slice, ...]:
    """The box of what is True in a mask, which must be something, with two voxels round it."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(slice(max(side.start - 2, 0), side.stop + 2) for side in box)


def case_pictures(
    pair: Pair, prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> dict[str, Any]:
    """What the page shows of one case: `through` (text), `tissues` seen, `planes` with their panels.

    Args:
        pair: where its images are.
        prediction: tissues [I, J, K].
        reference: same shape.
        spacing_mm: along i, j, k.

    Raises:
        InputError: an image of the case cannot be read.
    """
    voxel, through = focus(prediction, reference, spacing_mm)
    greys = _greys(pair, reference.shape)
    # Only the head, with a small margin: the air around it is a third of a BraTS image.
    filled = np.any([grey > 0 for grey in greys.values()], axis=0) | (reference > 0) | (prediction > 0)
    box = _with_margin(filled) if filled.any() else (slice(None),) * 3
    inner = [at - (s.start or 0) for at, s in zip(voxel, box, strict=True)]
    planes = []
    for axis, name in ((2, "axial"), (1, "coronal"), (0, "sagittal")):
        width_mm, height_mm = (spacing_mm[other] for other in range(3) if other != axis)
        panels = [
            {
                "title": f"{title}, {who}",
                "picture": _png(
                    overlay(
                        plane(grey[box], inner, axis), plane(tissues[box], inner, axis), (height_mm, width_mm)
                    )
                ),
            }
            for title, grey in greys.items()
            for who, tissues in (("reference", reference), ("prediction", prediction))
        ]
        planes.append({"name": f"{name}, {'ijk'[axis]} = {voxel[axis]}", "panels": panels})
    seen = [tissue for tissue in COLOURS if (reference == tissue).any() or (prediction == tissue).any()]
    return {"through": through, "tissues": seen, "planes": planes}


# --- loss weighted sampling -----------------------------------------------------------------------------


def sampling_maps(pair: Pair, settings: SliceConfig) -> dict[str, Any] | None:
    """Paper A's Fig. 2 for the slice of a case that has most tumour, and the weights of one draw.

    Returns:
        `panels` (title, picture, alt), the slice's index `k`, `positives` (N_pos), `normals` (N_S2), `p2` and
        how many pixels of S2 were `drawn`; p2 is this slice's own, as with lws.scope: slice. None where there
        is nothing to show: no tumour in the brain, or not all of the run's modalities.

    Raises:
        InputError: an image of the case cannot be read.
    """
    from tfbrats import losses  # Keras and its engine: seconds that no other page need wait for

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
    regions = examples.region_map(
        brain[:, :, k], region_mask(tissues, "WT"), settings.lws.contour_width_mm, loaded.spacing_mm[:2]
    )
    whole, _ = losses.targets(tissues[None])
    positives, normals = (float(count[0]) for count in losses.region_counts(regions[None], whole))
    p2 = float(losses.sampling_probability(positives, normals, settings.lws.beta, settings.lws.floor))
    seed = examples.case_seed(settings.train.seed, pair.case_id)
    draws = np.random.default_rng(seed).random((1, *regions.shape), np.float32)
    weights = [
        np.array(one)[0] for one in losses.sample_weights(regions[None], draws, p2, settings.lws.contour_weight)
    ]

    box = _with_margin(regions != LwsRegion.S1)
    shown = next(m for m in (*SHOWN_MODALITIES, *modalities) if m in modalities)
    grey = _grey(loaded.image[..., modalities.index(shown)].astype(np.float32))[:, :, k]
    pixel_mm = (loaded.spacing_mm[1], loaded.spacing_mm[0])  # rows lie along j, columns along i
    title = SHOWN_MODALITIES.get(shown, shown)
    colours = np.array([_rgb(LWS_COLOURS[region]) for region in LwsRegion])
    panels = [(f"{title}, reference", overlay(grey[box].T, tissues[box].T, pixel_mm))]
    panels.append(("regions S1 to S4", enlarged(colours[regions[box].T], pixel_mm)))
    heaviest = max(settings.lws.contour_weight, 1)
    for number, weight in enumerate(weights, 1):
        lightness = (weight[box].T / heaviest)[..., None].repeat(3, -1)
        panels.append((f"W of U-Net{number}, one draw", enlarged(lightness, pixel_mm)))
    return {
        "k": k,
        "panels": [{"title": title, "picture": _png(picture)} for title, picture in panels],
        "positives": positives,
        "normals": normals,
        "p2": p2,
        "drawn": int((weights[0] * (regions == LwsRegion.S2)).sum()),
    }
