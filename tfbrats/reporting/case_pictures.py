"""Cases as pictures: which ones, from which files, through which planes, tissues in colour.

A picture that shows a good case proves little: cases are picked by rank, or named by a person and bear their
rank; each is cut through the thickest piece of its error. Refuses files that are not those that were scored.
"""

import dataclasses
import difflib
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.image
import numpy as np

from tfbrats.cases import case, nifti, overlays
from tfbrats.cases.boxes import box_of, crop, grown
from tfbrats.cases.overlays import COLOURS, SHOWN_MODALITIES, as_grey, focus, overlay, plane
from tfbrats.errors import InputError
from tfbrats.labels import Tissue
from tfbrats.reporting import charts, marks
from tfbrats.scoring import case_scores, label_tables
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.scoring.pairs import Pair, match
from tfbrats.scoring.summaries import Row

_LONGEST_SCALE = 0.85  # of a picture's width
PICTURE_MARGIN = 2  # voxels round the head


@dataclass(frozen=True)
class Panel:
    """A picture with its title; the picture is a data URI."""

    title: str
    picture: str


@dataclass(frozen=True)
class Plane:
    """One plane of a case: reference and prediction on each modality shown.

    Attributes:
        at: which slice it is.
        scale: how long the scale bar is, in words.
        scale_percent: how much of a panel's width that is.
    """

    at: marks.Slice
    scale: str
    scale_percent: float
    panels: list[Panel]


@dataclass(frozen=True)
class Pictured:
    """What the page shows of one case.

    Attributes:
        stands_for: why it is shown, e.g. "worst".
        through: what the planes go through, e.g. "the largest error".
        tissues: that either side has.
        simulated: whether the reference's file says so.
    """

    pair: Pair
    stands_for: str
    through: str
    tissues: list[Tissue]
    planes: list[Plane]
    simulated: bool = False

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
        chosen: case id -> what it stands for; see `choose` and `named`.
        scores: folder of the evaluation, for errors.

    Raises:
        InputError: a file of theirs is not there, cannot be read, or is not the one that was scored.
    """
    pictured = []
    for pair in pairs_of(evaluation, prediction, reference, list(chosen), scores):
        predicted, expert, grid = scored_pair(evaluation.rows, pair, scores)
        shown = case_pictures(pair, predicted, expert, grid.spacing_mm, chosen[pair.case_id])
        pictured.append(dataclasses.replace(shown, simulated=case.is_simulated(grid)))
    return pictured


def named(rows: Sequence[Row], case_ids: Sequence[str]) -> dict[str, str]:
    """The cases that a person named: case id -> what it stands for.

    Raises:
        InputError: one of them was not scored.
    """
    ranks = dict(choose(rows, len(rows)))
    scored = dict.fromkeys(row["case_id"] for row in rows)
    for case_id in case_ids:
        if case_id not in scored:
            near = difflib.get_close_matches(case_id, scored, n=1) or list(scored)[:1]
            raise InputError(f"--case {case_id}: not among the {len(scored)} cases scored, e.g. {near[0]}.")
    return {case_id: ranks.get(case_id, "without a Dice of WT") for case_id in case_ids}


def choose(rows: Sequence[Row], number: int) -> list[tuple[str, str]]:
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


def pairs_of(
    evaluation: Evaluation,
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    case_ids: Sequence[str],
    metrics: str | os.PathLike,
) -> list[Pair]:
    """The files of some of the cases that were scored, in the order asked for.

    Args:
        metrics: folder of the evaluation, for errors.

    Raises:
        InputError: a file is not there, unless the case was scored without a prediction.
    """
    if not case_ids:
        return []
    scored = sorted({row["case_id"] for row in evaluation.rows})
    edition, named_by = evaluation.edition_given, os.fspath(metrics)
    matched = match(prediction, reference, edition, scored, allow_missing=True, named_by=named_by)
    pairs = {pair.case_id: pair for pair in label_tables.with_tables(matched.pairs, evaluation.tables)}
    faults = list(matched.faults) + [
        f"{case_id}: no prediction in {prediction}, but it was scored with one. Give the folder that was "
        "scored."
        for case_id in case_ids
        if case_id in pairs and pairs[case_id].prediction is None and case_id not in evaluation.missing
    ]
    if faults:
        raise InputError("\n".join(faults))
    return [pairs[case_id] for case_id in case_ids]


def scored_pair(
    rows: Sequence[Row], pair: Pair, metrics: str | os.PathLike
) -> tuple[np.ndarray, np.ndarray, nifti.Grid]:
    """Prediction and reference as tissues, uint8 [I, J, K], and their grid.

    Raises:
        InputError: one cannot be read, or is not the file that was scored.
    """
    prediction, reference, grid = case_scores.load_pair(pair)
    _check_scored(rows, pair, prediction, reference, metrics)
    return prediction, reference, grid


def _check_scored(
    rows: Sequence[Row], pair: Pair, prediction: np.ndarray, reference: np.ndarray, metrics: str | os.PathLike
) -> None:
    """Raises InputError unless the files are those that were scored, going by WT's Dice."""
    (row,) = (row for row in rows if (row["case_id"], row["region"]) == (pair.case_id, "WT"))
    whole = case_scores.count_voxels(prediction, reference, pair.schema)["WT"]
    predicted, expert = whole["TP"] + whole["FP"], whole["TP"] + whole["FN"]
    if row["empty"] or not (predicted and expert):
        return  # the empty-mask rule's number, not a measured one
    dice = 2 * whole["TP"] / (predicted + expert)
    if abs(dice - row["dice"]) > 1e-6:
        raise InputError(
            f"{pair.case_id}: {metrics} says Dice {row['dice']:.4f} of WT; {pair.prediction} has {dice:.4f}. "
            "Give the folders that were scored, or score these with tfbrats evaluate."
        )


@overlays.own_style()
def png(picture: np.ndarray) -> str:
    """A picture, uint8 or 0 to 1 [rows, columns, 3], as a data URI."""
    buffer = io.BytesIO()
    # PNG's metadata names the library's version: left out, the same scores give the same page.
    matplotlib.image.imsave(buffer, picture, format="png", metadata={"Software": None})
    return charts.data_uri(buffer.getvalue())


def _greys(pair: Pair, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Modality's title -> [I, J, K] from 0 to 1; black without images, as where only masks were given."""
    images = pair.source.images if pair.source else ()
    shown = tuple(image for image in images if image[0] in SHOWN_MODALITIES)
    if not shown:
        return {"no image": np.zeros(shape, np.float32)}
    loaded = case.load(dataclasses.replace(pair.source, images=shown), [image[0] for image in shown])
    greys = {}
    for channel, modality in enumerate(loaded.modalities):
        image = loaded.image[..., channel].astype(np.float32)
        greys[SHOWN_MODALITIES[modality]] = as_grey(image)
    return greys


def case_pictures(
    pair: Pair,
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    stands_for: str = "",
) -> Pictured:
    """One case, cut through the thickest piece of its error.

    Args:
        pair: where its images are.
        prediction: tissues [I, J, K].
        reference: same shape.
        spacing_mm: along i, j, k.
        stands_for: why it is shown.

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
    in_box = [at - low for at, (low, _) in zip(voxel, box, strict=True)]
    planes = []
    for axis in (2, 1, 0):
        at = marks.Slice(axis, voxel[axis], reference.shape[axis], spacing_mm)
        panels = []
        for title, grey in greys.items():
            for side, tissues in (("reference", reference), ("prediction", prediction)):
                cut = plane(crop(grey, box), in_box, axis), plane(crop(tissues, box), in_box, axis)
                panels.append(Panel(f"{title}, {side}", png(overlay(*cut, at.pixel_mm))))
        width_mm = plane(crop(reference, box), in_box, axis).shape[1] * at.pixel_mm[1]
        scale_mm, scale = marks.scale_bar(_LONGEST_SCALE * width_mm)
        planes.append(Plane(at, scale, 100 * scale_mm / width_mm, panels))
    present = [tissue for tissue in COLOURS if (reference == tissue).any() or (prediction == tissue).any()]
    return Pictured(pair, stands_for, through, present, planes)
