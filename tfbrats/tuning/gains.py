"""Does a choice help, or did it only fit the cases that chose it? Numbers alone: scores in, gains out.

A **gain** is measured with its patient left out: of each patient the score by what the other patients choose,
less the score without the choice. Two scans of one patient are left out together. What is told beside a mean
gain is its bootstrap interval, patients drawn again. A choice counts as more than noise where that interval
lies above 0 and where, with the sign of each patient's difference drawn at random, the best of all candidates seldom
does as well (Westfall and Young's correction): to try a hundred things is to have a hundred chances.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
CHANCE = 0.05  # that anything is chosen where nothing helps
LEAST_GAIN = 0.001  # of a mean of Dice and F1: less is not worth a rule
LEAST_PATIENTS = 5  # one in 2^5 draws has all signs alike: with fewer nothing could be told from noise
FEW_PATIENTS = 20  # up to here the choices are few and their gains vague: that is said
_DRAWS = 10_000
_SIGNS = 4096  # drawn; up to 12 patients have no more, and all are taken


@dataclass(frozen=True)
class Gain:
    """What a choice is worth on patients that did not choose it.

    Attributes:
        mean: over the patients, in units of the criterion.
        low: end of the bootstrap interval of `mean`; `high` its other end.
        chance: how often some candidate of all that were tried does as well by chance alone.
    """

    mean: float
    low: float
    high: float
    chance: float

    @property
    def is_beyond_noise(self) -> bool:
        return self.chance <= CHANCE and self.low > 0 and self.mean >= LEAST_GAIN


def chosen(scores: np.ndarray) -> int:
    """The candidate with the best mean: scores [C, P]. Of equals the first, which is the mildest."""
    return int(np.argmax(np.round(scores.mean(axis=1), 12)))


def left_out(scores: np.ndarray) -> np.ndarray:
    """Of each patient the gain by what the others choose, over candidate 0: scores [C, P] -> [P]."""
    others = np.round(scores.sum(axis=1, keepdims=True) - scores, 12)
    best = np.argmax(others, axis=0)
    return scores[best, np.arange(scores.shape[1])] - scores[0]


def gains(tables: Sequence[np.ndarray], seed: int) -> list[Gain]:
    """What several choices that were tried together are worth.

    Args:
        tables: for each choice the scores of its candidates, [C, P], candidate 0 being what is now.
    """
    if not tables:
        return []
    patients = tables[0].shape[1]
    each = np.array([left_out(table) for table in tables])  # [choices, P]
    intervals = [interval(own, seed) for own in each]
    chances = _chances(tables, _signs(patients, seed))
    return [Gain(mean, low, high, chance) for (mean, low, high), chance in zip(intervals, chances, strict=True)]


def interval(each: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Mean of [P] gains, and both ends of its bootstrap interval: to six places, what follows is rounding's."""
    means = _weights(each.size, seed) @ each
    low, high = np.percentile(means, [50 * (1 - CONFIDENCE), 100 - 50 * (1 - CONFIDENCE)])
    return round(float(each.mean()), 6), round(float(low), 6), round(float(high), 6)


@functools.lru_cache(4)
def _weights(patients: int, seed: int) -> np.ndarray:
    """Patients drawn again: the share that each has of the draw, [draws, P]."""
    same = np.full(patients, 1 / patients)
    return np.random.default_rng(seed).multinomial(patients, same, _DRAWS) / patients


@functools.lru_cache(4)
def _signs(patients: int, seed: int) -> np.ndarray:
    """1 or -1 for each patient, [draws, P]: every way there is, or some; that of no change among them."""
    if 2**patients <= _SIGNS:
        return 1.0 - 2 * (np.arange(2**patients)[:, None] >> np.arange(patients) & 1)
    drawn = np.random.default_rng(seed).choice([-1.0, 1.0], (_SIGNS, patients))
    drawn[0] = 1
    return drawn


def _chances(tables: Sequence[np.ndarray], signs: np.ndarray) -> list[float]:
    """Of each choice how often, where signs are drawn, a candidate of any choice does as well as its best."""
    each = np.concatenate([table[1:] - table[0] for table in tables])  # [all candidates, P]
    # In units of its own size, which no sign changes: one of small gains is judged as one of large ones.
    sizes = np.sqrt((each**2).mean(axis=1, keepdims=True))
    each = each / np.where(sizes > 0, sizes, 1)
    largest = np.sort((signs @ each.T).max(axis=1))
    chances, first = [], -1
    for table in tables:
        best = chosen(table)
        own = each[first + best].sum() if best else -np.inf
        chances.append(float(1 - np.searchsorted(largest, own - 1e-9) / len(largest)))
        first += len(table) - 1
    return chances
