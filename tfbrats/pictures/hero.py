r"""One case in one picture, to be shown where a page cannot be: a README, a slide, a poster.

Above, the four scans of one axial slice, bare, so that a reader can judge for themselves. Below, the same slice
with the reference, with the prediction, and with where the two differ; and the prediction in 3-D. The Dice is
of the whole volume. The slice is the one with most tumour in the reference, never one chosen by hand. The
picture says "simulated" where the case's files do. `hero_card` sets it.

docs/hero.png was made so, on two CPU cores in some twenty minutes:

    tfbrats phantom --output hero/cases --count 20 --edition 2021 --seed 1 --shape 192 192 124
    tfbrats prepare --config smoke_2d --input hero/cases --output hero/records records.slice_shape=[160,160]
    tfbrats train --config smoke_2d --records hero/records --run hero/run records.slice_shape=[160,160]
    tfbrats export --run hero/run --output hero/models/cun_small
    tfbrats predict --model hero/models/cun_small --input hero/cases --output hero/predictions \
        --cases BraTS2021_00001,BraTS2021_00009,BraTS2021_00014,BraTS2021_00015
    tfbrats evaluate --prediction hero/predictions --reference hero/cases --output hero/scores \
        --splits hero/run/splits.json
    tfbrats report --scores hero/scores --prediction hero/predictions --reference hero/cases \
        --hero docs/hero.png --case BraTS2021_00009

(The four are the split's test cases; of them the picture shows the worst.)
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from scipy import ndimage

from tfbrats.cases import case
from tfbrats.cases.boxes import box_of
from tfbrats.cases.overlays import COLOURS, MODALITY_TITLES, as_grey, plane
from tfbrats.errors import InputError
from tfbrats.labels import region_mask
from tfbrats.pictures import differences, marks, solid
from tfbrats.pictures.ranked_cases import choose, named, pairs_of, scored_pair
from tfbrats.predictions import seen
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.terminal import wording

SOLID_PIXELS = (366, 440)  # width and height of the 3-D picture


@dataclass(frozen=True)
class Hero:
    """One slice of a case, and what is said of it.

    Attributes:
        greys: modality's title -> 0 to 1, [rows, columns].
        reference: tissues [rows, columns].
        prediction: same shape.
        at: which slice it is.
        dice: region -> of the whole volume; nan where there is none.
        caption: whose prediction this is, and what the case stands for.
        simulated: whether the case's files say so.
        solid: the prediction in the head in 3-D, as `solid.render`; None of a picture that does not show it.
    """

    case_id: str
    greys: Mapping[str, np.ndarray]
    reference: np.ndarray
    prediction: np.ndarray
    at: marks.Slice
    dice: Mapping[str, float]
    caption: str = ""
    simulated: bool = False
    solid: np.ndarray | None = None


def hero_of(
    evaluation: Evaluation,
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    case_id: str | None,
    scores: str | os.PathLike,
) -> Hero:
    """A case that was scored, and what is known of it.

    Args:
        prediction: the folder that was scored.
        reference: what it was scored against, with the scans.
        case_id: which case; None for the median one by Dice of WT.
        scores: folder of the evaluation, for errors.

    Raises:
        InputError: no case can be shown; a file of it is not there, cannot be read or is not what was scored.
    """
    rows = evaluation.rows
    chosen = dict(choose(rows, 1)) if case_id is None else named(rows, [case_id])
    if not chosen:
        raise InputError(f"{scores}: no case has a Dice of WT. Name one with --case.")
    ((case_id, stands_for),) = chosen.items()
    (pair,) = pairs_of(evaluation, prediction, reference, [case_id], scores)
    predicted, expert, grid = scored_pair(rows, pair, scores)
    if pair.source is None:
        raise InputError(f"{reference}: holds no scans of {case_id}. Give the data set as --reference.")
    scans = case.load(
        pair.source, list(MODALITY_TITLES)
    ).image  # and its label: all lie on one grid, or it is an error
    k = fullest(expert, predicted)
    voxel = (0, 0, k)
    return Hero(
        case_id=case_id,
        greys={
            title: plane(as_grey(scans[..., n]), voxel, 2) for n, title in enumerate(MODALITY_TITLES.values())
        },
        reference=plane(expert, voxel, 2),
        prediction=plane(predicted, voxel, 2),
        at=marks.Slice(2, k, expert.shape[2], grid.spacing_mm),
        dice={row["region"]: row["dice"] for row in rows if row["case_id"] == case_id},
        caption=_caption(evaluation, case_id, stands_for),
        simulated=case.is_simulated(grid),
        solid=solid.render(scans.any(-1), predicted, grid.spacing_mm, SOLID_PIXELS),
    )


def _caption(evaluation: Evaluation, case_id: str, stands_for: str) -> str:
    """Whose prediction it is, which rank the case has, and whether the model has seen it."""
    model = evaluation.model
    by_whom = f"Segmented by {model.name} version {model.version}. " if model and model.name else ""
    if stands_for in ("worst", "median", "best"):
        kind = f"{evaluation.split.name} case" if evaluation.split else "case"
        stands_for = f"the {stands_for} of {wording.counted(evaluation.cases, kind)}"
    if stands_for == "the only one":
        stands_for, by_what = "the only case scored", ""
    else:
        by_what = " by Dice of WT"
    kinds = evaluation.seen_by_model.cases if evaluation.seen_by_model else {}
    kind = next((kind for kind, case_ids in kinds.items() if case_id in case_ids), "")
    known = " The model has seen it in training." if kind in seen.KNOWN_TO_THE_MODEL else ""
    return f"{by_whom}{stands_for[0].upper()}{stands_for[1:]}{by_what}.{known}"


def fullest(reference: np.ndarray, prediction: np.ndarray) -> int:
    """K of the axial slice with most tumour in the reference; without any in the prediction, or the middle one.

    Args:
        reference: tissues [I, J, K].
        prediction: same shape.
    """
    for tissues in (reference, prediction):
        voxels = region_mask(tissues, "WT").sum(axis=(0, 1))
        if voxels.any():
            return int(voxels.argmax())
    return reference.shape[2] // 2


def painted(
    grey: np.ndarray, kinds: np.ndarray, colours: Mapping[int, str], opacity: Mapping[int, float]
) -> np.ndarray:
    """A plane in grey with some of its voxels in colour: 0 to 1, [rows, columns, 3].

    Args:
        grey: 0 to 1, [rows, columns].
        kinds: same shape.
        colours: of the kinds that are painted.
        opacity: 1 hides the grey below.
    """
    picture = np.repeat(grey[..., None], 3, axis=-1).astype(float)
    for kind, colour in colours.items():
        inside = kinds == kind
        picture[inside] = (1 - opacity[kind]) * picture[inside] + opacity[kind] * np.array(to_rgb(colour))
    return picture


class View:
    """How the pixels of a panel lie on the slice: all panels show the whole head, on one scale.

    Args:
        size: width and height of a panel in pixels.
        air: at least so many pixels beside and above the head.
    """

    def __init__(self, hero: Hero, size: tuple[int, int], air: tuple[int, int]):
        filled = np.any([grey > 0 for grey in hero.greys.values()], axis=0) | (hero.reference > 0)
        filled |= hero.prediction > 0
        box = box_of(filled) if filled.any() else tuple((0, size) for size in filled.shape)
        height_mm, width_mm = hero.at.pixel_mm
        extents_mm = [(high - low) * side for (low, high), side in zip(box, hero.at.pixel_mm, strict=True)]
        width, height = size
        self.pixels_per_mm = min((height - 2 * air[1]) / extents_mm[0], (width - 2 * air[0]) / extents_mm[1])
        middles = [(low + high - 1) / 2 for low, high in box]
        rows = middles[0] + (np.arange(height) - (height - 1) / 2) / self.pixels_per_mm / height_mm
        columns = middles[1] + (np.arange(width) - (width - 1) / 2) / self.pixels_per_mm / width_mm
        self._where = np.array(np.meshgrid(rows, columns, indexing="ij"))

    def grey(self, plane: np.ndarray) -> np.ndarray:
        """Smooth, as a scan is."""
        return np.clip(ndimage.map_coordinates(plane.astype(float), self._where, order=3, cval=0), 0, 1)

    def kinds(self, plane: np.ndarray) -> np.ndarray:
        """Every voxel with sharp borders, as a label map is."""
        return ndimage.map_coordinates(plane, self._where, order=0, cval=0)


def panels(hero: Hero, view: View, fill: float = 0.55) -> dict[str, np.ndarray]:
    """The pictures in reading order: title -> 0 to 1, [rows, columns, 3], all of one size.

    Args:
        fill: opacity of the tissues inside their outlines; 0 leaves contours alone.
    """
    greys = {title: view.grey(grey) for title, grey in hero.greys.items()}
    pictures = {title: np.repeat(grey[..., None], 3, axis=-1) for title, grey in greys.items()}
    below = next(iter(greys.values()))
    for title, tissues in (("Reference", hero.reference), ("Prediction", hero.prediction)):
        kinds = view.kinds(tissues)
        picture = painted(below, kinds, COLOURS, dict.fromkeys(COLOURS, fill))
        for tissue, colour in COLOURS.items():
            inside = kinds == tissue
            picture[inside & ~ndimage.binary_erosion(inside, iterations=2, border_value=1)] = to_rgb(colour)
        pictures[title] = picture
    kinds = view.kinds(differences.difference(hero.reference, hero.prediction))
    pictures["Difference"] = painted(
        differences.DIMMED * below, kinds, differences.COLOURS, differences.OPACITY
    )
    return pictures
