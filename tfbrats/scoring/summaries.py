"""From the rows of every case to means, spreads and quartiles by region. Pure numpy: no I/O."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfbrats.labels import REGIONS
from tfbrats.metrics import region_scores

# A row of a table: its columns by name. A row stays a mapping, because scores are asked for by their names, and
# because each lesion rule has columns of its own. An undefined number is nan.
Row = dict[str, str | int | float]

STATISTICS = ("mean", "std", "median", "25quantile", "75quantile")  # as the challenge's closing rows name them


@dataclass(frozen=True)
class Statistics:
    """One score of one region over the cases; nan without any.

    Attributes:
        std: the population's.
        lower_quartile: interpolated, as the upper one.
        n: how many cases have a number.
        touched: in how many the empty-mask rule settled the score or left it out; None of a lesion-wise score.
    """

    mean: float
    std: float
    median: float
    lower_quartile: float = dataclasses.field(metadata={"key": "25quantile"})
    upper_quartile: float = dataclasses.field(metadata={"key": "75quantile"})
    n: int
    touched: int | None = dataclasses.field(default=None, metadata={"left_out": None})

    @classmethod
    def of(cls, numbers: Sequence[float], touched: int | None = None) -> "Statistics":
        """Of the numbers that are not nan."""
        values = np.array(numbers, float)
        values = values[~np.isnan(values)]
        quartiles = np.quantile(values, (0.25, 0.5, 0.75)) if values.size else [math.nan] * 3
        return cls(
            mean=float(values.mean()) if values.size else math.nan,
            std=float(values.std()) if values.size else math.nan,
            median=float(quartiles[1]),
            lower_quartile=float(quartiles[0]),
            upper_quartile=float(quartiles[2]),
            n=int(values.size),
            touched=touched,
        )

    def named(self, statistic: str) -> float:
        """By its name in `STATISTICS`."""
        numbers = (self.mean, self.std, self.median, self.lower_quartile, self.upper_quartile)
        return dict(zip(STATISTICS, numbers, strict=True))[statistic]


Summary = dict[str, dict[str, Statistics]]  # region -> score -> its statistics


def summarise(rows: Sequence[Mapping[str, Any]]) -> Summary:
    """The statistics of every score.

    Args:
        rows: keys as `score_files.COLUMNS`.
    """
    summary: Summary = {}
    for region in REGIONS:
        of_region = [row for row in rows if row["region"] == region]
        summary[region] = {
            score: Statistics.of(
                [row[score] for row in of_region],
                touched=sum(region_scores.touched_by_rule(score, row["empty"]) for row in of_region),
            )
            for score in region_scores.SCORES
        }
    return summary


def summarise_lesions(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Statistics | int]]:
    """Region -> score -> its statistics, or the sum of a number of lesions or voxels.

    Args:
        rows: as `lesion_rules.score_case` returns them, of any number of cases; a whole number is a count.
    """
    summary: dict[str, dict[str, Statistics | int]] = {}
    for region in dict.fromkeys(row["region"] for row in rows):
        columns: dict[str, list] = {}
        for row in (row for row in rows if row["region"] == region):
            for name, value in row.items():
                if not isinstance(value, str):
                    columns.setdefault(name, []).append(value)
        summary[region] = {
            name: sum(values) if isinstance(values[0], int) else Statistics.of(values)
            for name, values in columns.items()
        }
    return summary
