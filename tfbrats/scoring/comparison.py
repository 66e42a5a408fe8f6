"""Is one run better than another? Paired bootstrap intervals over the cases that both were scored on.

Two means of a dozen cases differ by chance alone. Pairing takes out what makes a case hard for both; the
interval says how far the mean difference would move with other cases of the same kind. It knows nothing of
other seeds: a network trained again is another network.
"""

import dataclasses
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.machine import files
from tfbrats.metrics import region_scores
from tfbrats.scoring.summaries import Row
from tfbrats.terminal import wording

CONFIDENCE = 0.95
DRAWS = 10_000
_NAMED = 3  # cases that a line names; of the rest it says how many
DIGITS = {"specificity": 5, "specificity_tumour_slices": 5}  # of a whole volume hardly anything is tumour
# Five cases fall to one side by chance in 6 of 100 times (2 x 0.5^5), six in 3; the interval then excludes 0.
LEAST_CASES = 6
# Volumes are no scores: of two runs neither is better for them.
COMPARED = tuple(score for score in region_scores.SCORES if score not in ("volume_ml", "reference_volume_ml"))
_AT_A_TIME = 1000  # draws: 1000 x the cases x 8 bytes, a few MB


@dataclass(frozen=True)
class Difference:
    """One region and score of a run against another's.

    Attributes:
        mean: over the cases that have a number on both sides; nan without any.
        other_mean: the other run's, over the same cases.
        difference: mean - other_mean.
        low: end of the interval of `difference`; nan without cases. One case gives no interval: low is high.
        high: its other end.
        cases: how many have a number on both sides.
    """

    region: str
    score: str
    mean: float
    other_mean: float
    difference: float
    low: float
    high: float
    cases: int

    @property
    def excludes_0(self) -> bool:
        """Whether the interval lies on one side of 0, of enough cases that chance alone seldom does it."""
        return self.cases >= LEAST_CASES and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """A run against another one.

    Attributes:
        name: of the other: its row of a table, else its folder's name.
        folder: that its scores were read from.
    """

    name: str = dataclasses.field(metadata={"key": "with"})
    folder: str
    differences: list[Difference]


def differences(
    rows: Sequence[Row],
    other_rows: Sequence[Row],
    scores: Sequence[str] = COMPARED,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Difference]:
    """For each of `scores` and each region, `rows` minus `other_rows`.

    Percentile bootstrap: the cases are drawn again, with replacement, `draws` times; the interval holds
    the middle `confidence` of the mean differences. Cases with nan on either side are left out.

    Args:
        rows: of an evaluation, in any order.
        other_rows: of the same cases.
        scores: of `region_scores.SCORES`.

    Raises:
        InputError: a case is on one side only, or the two sides were scored against different references.
    """
    own, others = _by_case(rows), _by_case(other_rows)
    _check_same(own, others)
    return [
        _difference(
            region,
            score,
            np.array([own[key][score] for key in own if key[1] == region], float),
            np.array([others[key][score] for key in own if key[1] == region], float),
            confidence,
            draws,
            seed,
        )
        for score in scores
        for region in REGIONS
    ]


_Rows = dict[tuple[str, str], Row]  # by case id and region


def _by_case(rows: Sequence[Row]) -> _Rows:
    """Sorted, so that the order of the rows does not matter."""
    return dict(sorted(((row["case_id"], row["region"]), row) for row in rows))


def _check_same(rows: _Rows, other_rows: _Rows) -> None:
    """Raises InputError unless both are of the same cases and, by the volumes, of the same references."""
    here, there = ({case_id for case_id, _ in side} for side in (rows, other_rows))
    on_one_side = [
        f"{wording.counted(len(case_ids), 'case')} only {side}: {first(case_ids)}"
        for case_ids, side in ((here - there, "on this side"), (there - here, "on the other"))
        if case_ids
    ]
    if on_one_side:
        raise InputError(
            f"two runs can be compared on the same cases alone; {'; '.join(on_one_side)}. Score both with one "
            "--cases or --splits."
        )
    for (case_id, region), row in rows.items():
        sizes_ml = [side.get("reference_volume_ml", 0.0) for side in (row, other_rows[case_id, region])]
        if not math.isclose(*sizes_ml, rel_tol=1e-6):
            raise InputError(
                f"{case_id}: the reference's {region} has {sizes_ml[0]:.3f} ml on this side, {sizes_ml[1]:.3f} "
                "ml on the other. Score both runs against one reference."
            )


def first(case_ids: Collection[str]) -> str:
    """The first few, for a line of text."""
    named = ", ".join(sorted(case_ids)[:_NAMED])
    return named + (f" and {len(case_ids) - _NAMED} more" if len(case_ids) > _NAMED else "")


def _difference(
    region: str,
    score: str,
    numbers: np.ndarray,
    other_numbers: np.ndarray,
    confidence: float,
    draws: int,
    seed: int,
) -> Difference:
    """Of one score, [N] numbers a side, one for each case; nan where the case has none."""
    both = ~(np.isnan(numbers) | np.isnan(other_numbers))
    numbers, other_numbers = numbers[both], other_numbers[both]
    if not numbers.size:
        return Difference(region, score, *([math.nan] * 5), 0)
    each = numbers - other_numbers
    mean = float(each.mean())
    low = high = mean
    if np.ptp(each) > 0:
        low, high = _interval(each, confidence, draws, seed)
    means = float(numbers.mean()), float(other_numbers.mean())
    return Difference(region, score, *means, mean, low, high, numbers.size)


def _interval(each: np.ndarray, confidence: float, draws: int, seed: int) -> tuple[float, float]:
    """Ends of the bootstrap interval of the mean of [N] differences."""
    from scipy import stats  # a second to load, which a command that compares nothing need not wait for

    interval = stats.bootstrap(
        (each,),
        np.mean,
        n_resamples=draws,
        batch=_AT_A_TIME,
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def check_once(folders: Sequence[str | os.PathLike]) -> None:
    """Raises InputError where one folder is to be compared with twice: most likely another was meant."""
    places = [files.canonical(folder) for folder in folders]
    twice = [folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]
    if twice:
        raise InputError(f"--compare {twice[0]}: given twice. Leave one out, or name another run's scores.")
