"""Does uncertainty point at errors? Masks and a map in, numbers out.

A map says of each voxel how unsure it is whether the region lies there: 0 to 100, by `predict --uncertainty`
hundredths of a bit of entropy. All numbers follow from how many voxels of each kind have each value, so that a
case costs one pass over its voxels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MOST = 100  # the largest value of a map
TENTHS = 10
_POINTS = 40  # thresholds of QU-BraTS' program, and one more


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Histogram:
    """How many voxels have each value of uncertainty, 0 to 100: int64 [101] each.

    Attributes:
        true_positive, false_positive, false_negative, true_negative: by reference and prediction.
    """

    true_positive: np.ndarray
    false_positive: np.ndarray
    false_negative: np.ndarray
    true_negative: np.ndarray

    def __add__(self, other: "Histogram") -> "Histogram":
        return Histogram(*(mine + theirs for mine, theirs in zip(self._all, other._all, strict=True)))

    @property
    def _all(self) -> tuple[np.ndarray, ...]:
        return self.true_positive, self.false_positive, self.false_negative, self.true_negative

    @property
    def wrong(self) -> np.ndarray:
        return self.false_positive + self.false_negative

    @property
    def right(self) -> np.ndarray:
        return self.true_positive + self.true_negative

    @property
    def error_rates(self) -> list[tuple[int, float]]:
        """Of each tenth of the scale, sure ones first: voxels, and the share that is wrong (nan of none)."""
        tenth = np.minimum(np.arange(MOST + 1) * TENTHS // MOST, TENTHS - 1)
        voxels = np.bincount(tenth, self.wrong + self.right, TENTHS)
        wrong = np.bincount(tenth, self.wrong, TENTHS)
        return [(int(n), float(w / n) if n else float("nan")) for n, w in zip(voxels, wrong, strict=True)]

    @property
    def auroc(self) -> float:
        """How often a wrong voxel is less sure than a right one, ties by half; 0.5 is chance."""
        wrong, right = self.wrong, self.right
        if not (wrong.sum() and right.sum()):
            return float("nan")
        surer = np.cumsum(right) - right
        return float((wrong * (surer + right / 2)).sum() / (float(wrong.sum()) * float(right.sum())))

    def quality(self) -> dict[str, float]:
        """QU-BraTS' three areas and its score (arXiv 2112.10074), as its published program has them.

        Voxels over a threshold are left out; each area is over 41 thresholds from 0 to 100.

        Returns:
            dice_auc: of the Dice of what is left; higher is better. ftp_auc, ftn_auc: of the share of true
            positives and true negatives that were left out; lower is better. score: the mean of the first and
            of one less each of the others.
        """
        thresholds = np.arange(_POINTS + 1) * (MOST / _POINTS)
        upto = np.floor(thresholds).astype(int)
        tp, fp, fn, tn = (np.cumsum(counts)[upto].astype(np.float64) for counts in self._all)
        both = 2 * tp + fp + fn
        dice = np.where(both > 0, 2 * tp / np.maximum(both, 1), 1.0)
        gone = [1 - left / np.maximum(left[-1], 1) if left[-1] else np.zeros_like(left) for left in (tp, tn)]
        dice_auc, ftp_auc, ftn_auc = (float(np.trapezoid(each, thresholds) / MOST) for each in (dice, *gone))
        score = (dice_auc + (1 - ftp_auc) + (1 - ftn_auc)) / 3
        return {"dice_auc": dice_auc, "ftp_auc": ftp_auc, "ftn_auc": ftn_auc, "score": score}


def histogram(
    prediction: np.ndarray, reference: np.ndarray, uncertainty: np.ndarray, brain: np.ndarray | None = None
) -> Histogram:
    """Of one region of one case.

    Args:
        prediction, reference: bool [I, J, K].
        uncertainty: uint8 [I, J, K], at most 100.
        brain: bool [I, J, K]: where true negatives count; None for everywhere.
    """
    kinds = np.where(prediction, np.where(reference, 0, 1), np.where(reference, 2, 3)).astype(np.uint16)
    if brain is not None:
        kinds[(kinds == 3) & ~brain] = 4
    counts = np.bincount((kinds * (MOST + 1) + uncertainty).ravel(), minlength=5 * (MOST + 1))
    return Histogram(*counts.reshape(5, MOST + 1)[:4])


def mean_quality(qualities: list[Mapping[str, float]]) -> dict[str, float]:
    """The mean over cases, by name; {} of none."""
    return {
        name: float(np.mean([one[name] for one in qualities])) for name in (qualities[0] if qualities else ())
    }
