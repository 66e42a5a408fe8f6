"""Does a choice help, or did it only fit the cases that chose it? Numbers alone: scores in, gains out.

A **gain** is measured with its patient left out: of each patient the score by what the other patients choose,
less the score without the choice. Two scans of one patient are left out together. What is told beside a mean
gain is its bootstrap interval, patients drawn again. A choice counts as more than noise where that interval
lies above 0 and where, with the sign of each patient's gain drawn at random, the mean is seldom as large.

Of a dozen choices one may pass by chance. So what is chosen stays only if all of it together helps patients
who were left out of the whole search (`helps_together`). To ask more of each choice, as that no candidate of
all choices does as well by chance (Westfall and Young), leaves nothing to choose of seven patients, whatever
it is worth.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
CHANCE = 0.05  # that a choice that does not help seems to
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
        chance: how often the mean is as large where each patient's gain has a random sign.
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
    return [_gain(left_out(table), seed) for table in tables]


def helps_together(each: np.ndarray, seed: int) -> bool:
    """Whether [P] gains of all choices together, each patient left out of the whole search, are above noise."""
    return _gain(each, seed).is_beyond_noise


def _gain(each: np.ndarray, seed: int) -> Gain:
    """Of [P] gains."""
    chance = float(((_signs(each.size, seed) @ each) >= each.sum() - 1e-9).mean())
    return Gain(*interval(each, seed), chance)


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
