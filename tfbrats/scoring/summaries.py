"""From the rows of every case to means, spreads and quartiles by region. Pure numpy: no I/O."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfbrats.labels import REGIONS
from tfbrats.metrics import region_scores


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Region -> score -> mean, std, median, 25quantile, 75quantile, n, touched.

    Args:
        rows: keys as `score_files.COLUMNS`.

    Returns:
        `std` is the population's, quantiles are interpolated; nan is left out, `n` is what was not nan, and
        `touched` counts the cases in which the empty-mask rule settled the score or left it out.
    """
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for region in REGIONS:
        of_region = [row for row in rows if row["region"] == region]
        summary[region] = {
            score: {
                **_statistics([row[score] for row in of_region]),
                "touched": sum(region_scores.touched_by_rule(score, row["empty"]) for row in of_region),
            }
            for score in region_scores.SCORES
        }
    return summary


def _statistics(numbers: Sequence[float]) -> dict[str, float]:
    values = np.array(numbers, float)
    values = values[~np.isnan(values)]
    quartiles = np.quantile(values, (0.25, 0.5, 0.75)) if values.size else [math.nan] * 3
    return {
        "mean": float(values.mean()) if values.size else math.nan,
        "std": float(values.std()) if values.size else math.nan,
        "median": float(quartiles[1]),
        "25quantile": float(quartiles[0]),
        "75quantile": float(quartiles[2]),
        "n": int(values.size),
    }


def summarise_lesions(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Region -> score -> the statistics of `summarise`, and the sums of its numbers of lesions and voxels.

    Args:
        rows: as `lesion_rules.score_case` returns them, of any number of cases; a whole number is a count.
    """
    summary: dict[str, dict[str, Any]] = {}
    for region in dict.fromkeys(row["region"] for row in rows):
        of_region = [row for row in rows if row["region"] == region]
        columns: dict[str, list] = {}
        for row in of_region:
            for name, value in row.items():
                if not isinstance(value, str):
                    columns.setdefault(name, []).append(value)
        summary[region] = {
            name: sum(values) if isinstance(values[0], int) else _statistics(values)
            for name, values in columns.items()
        }
    return summary
