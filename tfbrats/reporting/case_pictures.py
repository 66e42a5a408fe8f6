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

from tfbrats.cases import case, overlays
from tfbrats.cases.boxes import box_of, crop, grown
from tfbrats.cases.overlays import COLOURS, SHOWN_MODALITIES, focus, overlay, plane
from tfbrats.reporting import charts
from tfbrats.scoring.pairs import Pair

PICTURE_MARGIN = 2  # voxels round the head

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


# --- pictures -------------------------------------------------------------------------------------------


@overlays.own_style()
def png(picture: np.ndarray) -> str:
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
        greys[SHOWN_MODALITIES[modality]] = as_grey(image)
    return greys


def as_grey(image: np.ndarray) -> np.ndarray:
    """One modality from 0 to 1, whatever its scale; what is 0 stays black."""
    low, high = np.percentile(image[image != 0], (0.5, 99.5))
    return np.where(image == 0, 0, np.clip((image - low) / max(high - low, 1e-6), 0, 1))


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
    if filled.any():
        box = grown(box_of(filled), PICTURE_MARGIN, filled.shape)
    else:
        box = tuple((0, size) for size in filled.shape)
    inner = [at - low for at, (low, _) in zip(voxel, box, strict=True)]
    planes = []
    for axis, name in ((2, "axial"), (1, "coronal"), (0, "sagittal")):
        width_mm, height_mm = (spacing_mm[other] for other in range(3) if other != axis)
        panels = [
            {
                "title": f"{title}, {who}",
                "picture": png(
                    overlay(
                        plane(crop(grey, box), inner, axis),
                        plane(crop(tissues, box), inner, axis),
                        (height_mm, width_mm),
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
