"""Which of the cases that were scored are pictured, and their files.

A picture that shows a good case proves little: cases are picked by rank, or named by a person and bear their
rank. Refuses files that are not those that were scored.
"""

import difflib
import math
import os
from collections.abc import Sequence

import numpy as np

from tfbrats.cases import nifti
from tfbrats.errors import InputError
from tfbrats.scoring import case_scores, label_tables
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.scoring.pairs import Pair, match
from tfbrats.scoring.summaries import Row


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
