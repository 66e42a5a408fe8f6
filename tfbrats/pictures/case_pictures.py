"""Cases as the page shows them: every slice, opened at the thickest piece of the error."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfbrats.cases import case, nifti
from tfbrats.cases.overlays import COLOURS, MODALITY_TITLES, as_grey, focus
from tfbrats.labels import Tissue
from tfbrats.pictures import plates, sprites
from tfbrats.pictures.ranked_cases import pairs_of, scored_pair
from tfbrats.pictures.sprites import Sprites
from tfbrats.predictions import seen
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.scoring.pairs import Pair


@dataclass(frozen=True)
class Pictured:
    """What the page shows of one case.

    Attributes:
        stands_for: why it is shown, e.g. "worst".
        through: what the planes go through at first, e.g. "the largest error".
        tissues: that either side has.
        slices: every slice of it.
        plate: three planes as one picture, for whoever's browser runs no script: a data URI.
        simulated: whether the reference's file says so.
        seen: how the model has seen the case in training, in words; "" if it has not, or nobody knows.
    """

    pair: Pair
    stands_for: str
    through: str
    tissues: list[Tissue]
    slices: Sprites
    plate: str
    simulated: bool = False
    seen: str = ""

    @property
    def case_id(self) -> str:
        return self.pair.case_id


def pictures_of(
    evaluation: Evaluation,
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    chosen: Mapping[str, str],
    scores: str | os.PathLike,
) -> list[Pictured]:
    """Some of the cases that were scored, in the order given.

    Args:
        prediction: the folder that was scored.
        reference: what it was scored against.
        chosen: case id -> what it stands for; see `ranked_cases`.
        scores: folder of the evaluation, for errors.

    Raises:
        InputError: a file of theirs is not there, cannot be read, or is not the one that was scored.
    """
    pictured, known = [], seen_by_case(evaluation)
    for pair in pairs_of(evaluation, prediction, reference, list(chosen), scores):
        predicted, expert, grid = scored_pair(evaluation.rows, pair, scores)
        shown = case_pictures(pair, predicted, expert, grid, chosen[pair.case_id])
        pictured.append(dataclasses.replace(shown, seen=known.get(pair.case_id, "")))
    return pictured


def seen_by_case(evaluation: Evaluation) -> dict[str, str]:
    """Case id -> how the model has seen it, e.g. "trained the model"; without those that it has not seen."""
    kinds = evaluation.seen_by_model.cases if evaluation.seen_by_model else {}
    return {
        case_id: seen.listed({kind: [case_id]}).removeprefix("1 ")
        for kind in seen.KNOWN_TO_THE_MODEL
        for case_id in kinds.get(kind, ())
    }


def _greys(pair: Pair, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Modality's title -> [I, J, K] from 0 to 1; black without images, as where only masks were given."""
    images = pair.source.images if pair.source else ()
    shown = tuple(image for name in MODALITY_TITLES for image in images if image[0] == name)
    if not shown:
        return {"no image": np.zeros(shape, np.float32)}
    loaded = case.load(dataclasses.replace(pair.source, images=shown), [image[0] for image in shown])
    return {
        MODALITY_TITLES[modality]: as_grey(loaded.image[..., channel].astype(np.float32))
        for channel, modality in enumerate(loaded.modalities)
    }


def case_pictures(
    pair: Pair, prediction: np.ndarray, reference: np.ndarray, grid: nifti.Grid, stands_for: str = ""
) -> Pictured:
    """One case, opened at the thickest piece of its error.

    Args:
        pair: where its images are.
        prediction: tissues [I, J, K].
        reference: same shape.
        grid: of both.
        stands_for: why it is shown.

    Raises:
        InputError: an image of the case cannot be read.
    """
    voxel, through = focus(prediction, reference, grid.spacing_mm)
    greys = _greys(pair, reference.shape)
    simulated = case.is_simulated(grid)
    return Pictured(
        pair=pair,
        stands_for=stands_for,
        through=through,
        tissues=[tissue for tissue in COLOURS if (reference == tissue).any() or (prediction == tissue).any()],
        slices=sprites.sprites_of(greys, reference, prediction, voxel, grid.spacing_mm),
        plate=plates.compose(greys, reference, prediction, voxel, grid.spacing_mm, simulated),
        simulated=simulated,
    )
