"""What each stage of a cascade missed, and what it could not keep any more. Pure numpy: no I/O, no TensorFlow.

WT, TC and ET are nested, and a cascade finds them in that order: TC is cut with the predicted WT, ET with the
predicted TC. A voxel that one stage misses is lost to all that follow. Two label maps alone tell which: so
every model's output can be read this way, and only for a cascade is it also the cause.

Refuses to guess where no tile looked: that needs the margin that the cascade grew its boxes by.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tfbrats.cases import boxes
from tfbrats.errors import InputError
from tfbrats.labels import PARENT, REGIONS, region_mask
from tfbrats.metrics import one_grid


@dataclass(frozen=True)
class StageMisses:
    """One region of one case: a row of cascade.csv, its fields the columns.

    The parts add up: missed = missed_here + lost_before, and lost_before = lost_by_wt + lost_by_tc. "The
    parent" below is WT for TC and TC for ET.

    Attributes:
        reference_ml: the region in the reference.
        missed_ml: of that, what was not predicted.
        missed_here_ml: missed although the predicted parent holds it: this stage's own doing.
        lost_before_ml: missed and outside the predicted parent: no stage from here on could keep it.
        lost_by_wt_ml: of that, what stage WT was the first to miss.
        lost_by_tc_ml: of that, what WT had kept and stage TC missed; 0 but for ET.
        lost_outside_box_ml: of lost_before, what lies outside the box that the stage was given, the predicted
            parent's grown by the margin; all of it where no parent was predicted. nan without a margin.
        false_ml: predicted, but not in the reference.
        false_before_ml: of that, what lies outside the reference's parent: there the parent is false too.
    """

    region: str
    reference_ml: float
    missed_ml: float
    missed_here_ml: float
    lost_before_ml: float
    lost_by_wt_ml: float
    lost_by_tc_ml: float
    lost_outside_box_ml: float
    false_ml: float
    false_before_ml: float


VOLUMES = tuple(field.name for field in fields(StageMisses) if field.type is float)
# Parts of the reference, which a share can be taken of; `false_ml` is none.
SHARES = tuple(name for name in VOLUMES if name.startswith(("missed", "lost")))


def score_case(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], margin: int | None = None
) -> list[StageMisses]:
    """The losses of one case, a row for each of WT, TC and ET.

    Args:
        prediction: tissues (`labels.Tissue`) [I, J, K].
        reference: tissues of the same shape.
        spacing_mm: voxel size along i, j, k.
        margin: voxels by which the cascade grew the box of a predicted parent; None if it is unknown, or if
            the prediction is no cascade's.

    Raises:
        InputError: the shapes differ, or the margin is negative.
    """
    one_grid.check(prediction, reference)
    if margin is not None and margin < 0:
        raise InputError(f"a cascade's margin is {margin} voxels; expected 0 or more.")
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    # What is neither predicted nor in the reference is in none of the volumes, and no box reaches beyond both.
    prediction, reference = one_grid.cropped(prediction, reference)
    predicted = {region: region_mask(prediction, region) for region in REGIONS}
    expected = {region: region_mask(reference, region) for region in REGIONS}
    rows = []
    for region, parent in PARENT.items():
        missed = expected[region] & ~predicted[region]
        false = predicted[region] & ~expected[region]
        nowhere = np.zeros_like(missed)
        lost = missed & ~predicted[parent] if parent else nowhere
        by_wt = missed & ~predicted["WT"] if parent else nowhere
        masks = {
            "reference_ml": expected[region],
            "missed_ml": missed,
            "missed_here_ml": missed & ~lost,
            "lost_before_ml": lost,
            "lost_by_wt_ml": by_wt,
            "lost_by_tc_ml": lost & ~by_wt,
            "false_ml": false,
            "false_before_ml": false & ~expected[parent] if parent else nowhere,
        }
        if margin is not None:
            masks["lost_outside_box_ml"] = lost & ~_in_box(predicted[parent], margin) if parent else nowhere
        volumes_ml = {name: int(np.count_nonzero(mask)) * voxel_ml for name, mask in masks.items()}
        rows.append(StageMisses(region=region, **{name: volumes_ml.get(name, math.nan) for name in VOLUMES}))
    return rows


def _in_box(mask: np.ndarray, margin: int) -> np.ndarray:
    """Where the box that holds `mask` (bool [I, J, K]) lies, grown by `margin` voxels; nowhere if empty."""
    inside = np.zeros_like(mask)
    boxes.crop(inside, boxes.grown(boxes.box_of(mask), margin, mask.shape))[...] = True
    return inside


# --- over the cases -------------------------------------------------------------------------------------


def share(row: Mapping[str, Any], name: str) -> float:
    """A part of a row's reference volume, 0 to 1; nan where the reference lacks the region."""
    return row[name] / row["reference_ml"] if row["reference_ml"] else math.nan


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Region -> `cases`, `sum_ml`, `mean_share`.

    Args:
        rows: fields of `StageMisses` as mappings, of any number of cases.

    Returns:
        `cases` counts those whose reference has the region, `sum_ml` adds each of `VOLUMES` over all rows,
        `mean_share` is the mean of each of `SHARES` over those cases, a part of the reference volume. A sum or
        mean of what is undefined is nan.
    """
    summary = {}
    for region in REGIONS:
        of_region = [row for row in rows if row["region"] == region]
        present = [row for row in of_region if row["reference_ml"]]
        summary[region] = {
            "cases": len(present),
            "sum_ml": {name: math.fsum(row[name] for row in of_region) for name in VOLUMES},
            "mean_share": {
                name: math.fsum(share(row, name) for row in present) / len(present) if present else math.nan
                for name in SHARES
            },
        }
    return summary


def by_case(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Case id -> region -> row, in the order of the rows, which have `case_id` and `region`."""
    of_cases: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        of_cases.setdefault(row["case_id"], {})[row["region"]] = row
    return of_cases


def ranked(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, Mapping[str, Any]]]]:
    """(case id, region -> row), worst first: by the mean over its regions of the share missed.

    Args:
        rows: fields of `StageMisses` and `case_id`.
    """

    def missed(of_case: Mapping[str, Mapping]) -> float:
        shares = [share(row, "missed_ml") for row in of_case.values() if row["reference_ml"]]
        return sum(shares) / len(shares) if shares else -1.0  # a case without tumour misses nothing

    return sorted(by_case(rows).items(), key=lambda item: (-missed(item[1]), item[0]))


def possible(region: str, name: str) -> bool:
    """Whether a region can have such a loss at all: none is lost before WT, nor by TC before TC itself."""
    if name == "lost_by_tc_ml":
        return region == "ET"
    return not name.startswith("lost") or PARENT[region] is not None
