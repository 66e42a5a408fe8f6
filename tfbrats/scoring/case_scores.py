"""One pair of files: loaded, checked against each other, scored in every way.

`evaluation` runs it in worker processes, and says how many.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfbrats.cases import case, nifti
from tfbrats.datasets import case_names
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, LabelSchema, Tissue
from tfbrats.metrics import lesion_rules, one_grid, region_scores, stage_misses
from tfbrats.scoring.pairs import Pair
from tfbrats.scoring.summaries import Row


def load_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray, nifti.Grid]:
    """Prediction and reference as tissues, uint8 [I, J, K], and their common grid.

    Of a pair without a prediction: nothing but background on the reference's grid.

    Raises:
        case.CaseError: unreadable, label values outside the schema, or two grids; every reason.
    """
    prediction, reference, grid, _ = _load(pair)
    return prediction, reference, grid


def _load(pair: Pair) -> tuple[np.ndarray, np.ndarray, nifti.Grid, dict[str, tuple[str, ...]]]:
    """As `load_pair`, and by path what was guessed in reading."""
    loaded, faults = [], []
    for path, schema in ((pair.reference, pair.schema), (pair.prediction, pair.written_in)):
        if path is None:
            continue
        try:
            loaded.append(case.load_label(path, schema))
        except InputError as error:
            faults.append(str(error))
    if not faults and pair.prediction is not None:
        faults = [
            f"{pair.prediction}: {difference} of the reference. Write it on the reference's grid."
            for difference in case.grid_differences(loaded[1][1], loaded[0][1])
        ]
    if faults:
        raise case.CaseError(pair.case_id, faults)
    reference, grid = loaded[0]
    prediction = loaded[1][0] if pair.prediction is not None else np.zeros_like(reference)
    paths = [path for path in (pair.reference, pair.prediction) if path is not None]
    notes = {path: own.notes for path, (_, own) in zip(paths, loaded, strict=True) if own.notes}
    return prediction, reference, grid, notes


@dataclass(frozen=True)
class Scored:
    """All scores of one case, or why it has none; a worker's answer.

    Attributes:
        rows: keys as `score_files.COLUMNS`.
        misses: keys as `score_files.CASCADE_COLUMNS`.
        lesions: rows of `lesion_rules.score_case` with `case_id`; none unless asked for.
        lesion_list: its lesions with `case_id`, where the rule tells them apart.
        counts: its files and, by region, label values and voxels: TP, FP, FN, TN; None if not scored.
        voxels: as `tissue_pairs`; None if not scored.
        notes: by path, what was guessed in reading.
        faults: why it could not be scored.
    """

    rows: Sequence[Row] = ()
    misses: Sequence[Row] = ()
    lesions: Sequence[Row] = ()
    lesion_list: Sequence[Row] = ()
    counts: dict[str, Any] | None = None
    voxels: np.ndarray | None = None
    notes: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    faults: Sequence[str] = ()


def score_pair(
    pair: Pair, empty: str = "brats", margin: int | None = None, lesion_rule: str | None = None
) -> Scored:
    """One case scored in every way. Errors as `load_pair`.

    Args:
        empty: a key of `region_scores.EMPTY_RULES`.
        margin: see `stage_misses.score_case`.
        lesion_rule: a key of `lesion_rules.MEANINGS`, or None for no lesion-wise scores.
    """
    prediction, reference, grid, notes = _load(pair)

    def with_id(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
        return [{"case_id": pair.case_id, **row} for row in rows]

    by_region, each_lesion = [], []
    if lesion_rule is not None:
        own_schema = case_names.edition_by_id(pair.case_id)
        by_region, each_lesion = lesion_rules.score_case(
            prediction,
            reference,
            grid,
            pair.schema,
            lesion_rule,
            missing=pair.prediction is None,
            named_edition=own_schema.edition if own_schema else None,
        )
    voxels = tissue_pairs(prediction, reference)
    counts = {
        "case_id": pair.case_id,
        "prediction": pair.prediction,
        "reference": pair.reference,
        "regions": count_voxels(prediction, reference, pair.schema, pair.written_in, voxels),
    }
    regions = region_scores.score_case(prediction, reference, grid.spacing_mm, empty)
    misses = stage_misses.score_case(prediction, reference, grid.spacing_mm, margin)
    return Scored(
        rows=with_id(map(dataclasses.asdict, regions)),
        misses=with_id(map(dataclasses.asdict, misses)),
        lesions=with_id(by_region),
        lesion_list=with_id(each_lesion),
        counts=counts,
        voxels=voxels,
        notes=notes,
    )


def tissue_pairs(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """How many voxels are which tissue in the reference (rows) and in the prediction (columns): [T, T].

    What is background on both sides is not counted.
    """
    prediction, reference = one_grid.cropped(prediction, reference)
    either = (prediction != 0) | (reference != 0)
    both = reference[either].astype(np.intp) * len(Tissue) + prediction[either]
    return np.bincount(both, minlength=len(Tissue) ** 2).reshape(len(Tissue), len(Tissue))


def count_voxels(
    prediction: np.ndarray,
    reference: np.ndarray,
    schema: LabelSchema,
    prediction_schema: LabelSchema | None = None,
    voxels: np.ndarray | None = None,
) -> dict[str, dict[str, Any]]:
    """Region -> `values`, its label values in the files, and how many voxels are TP, FP, FN and TN.

    Args:
        prediction: tissues [I, J, K].
        reference: tissues of the same shape.
        schema: how the reference's file writes them.
        prediction_schema: how the prediction's does, where that is another table: `prediction_values`.
        voxels: as `tissue_pairs`, where they are counted already.
    """
    voxels = tissue_pairs(prediction, reference) if voxels is None else voxels
    counts: dict[str, dict[str, Any]] = {}
    for region, tissues in REGIONS.items():
        inside = np.isin(np.arange(len(Tissue)), tissues)
        true, false, missed = (
            int(voxels[np.ix_(r, p)].sum()) for r, p in ((inside, inside), (~inside, inside), (inside, ~inside))
        )
        values = sorted(value for value, tissue in schema.values if tissue in tissues)
        rest = reference.size - true - false - missed
        counts[region] = {"values": values, "TP": true, "FP": false, "FN": missed, "TN": rest}
        if prediction_schema is not None and prediction_schema.values != schema.values:
            counts[region]["prediction_values"] = sorted(
                value for value, tissue in prediction_schema.values if tissue in tissues
            )
    return counts


def attempt(pair: Pair, empty: str, margin: int | None, lesion_rule: str | None, only_check: bool) -> Scored:
    """What a worker process does: the scores of one case, or its faults."""
    try:
        if only_check:
            load_pair(pair)
            return Scored()
        return score_pair(pair, empty, margin, lesion_rule)
    except case.CaseError as error:
        return Scored(faults=[f"{error.case_id}: {fault}" for fault in error.faults])
