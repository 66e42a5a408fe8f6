"""Candidates scored over all cases at once: in processes, each case read where it is scored, nothing twice."""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfbrats.errors import InputError
from tfbrats.terminal import bars
from tfbrats.tuning import candidates, criterion, piece_counts
from tfbrats.tuning.choices import Tuned

WORKER_BYTES = 600 * 2**20  # of a process that scores cases of BraTS


class ScoredCases:
    """Cases that are scored under any choices.

    Args:
        paths: of the kept cases (`kept_evidence`).
        patients: of each case, whose it is.
        judged_by: a key of `criterion.MEANINGS`.
        threshold: `cascade.threshold` of a cascade; None for any other model.
        workers: processes.

    Attributes:
        patients: each once, sorted.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        patients: Sequence[str],
        judged_by: str,
        threshold: float | None,
        workers: int = 1,
    ):
        self._paths, self._judged_by, self._threshold = list(map(os.fspath, paths)), judged_by, threshold
        self.patients = sorted(set(patients))
        own = np.array([[patient == one for patient in patients] for one in self.patients], float)
        self._shares = own / own.sum(axis=1, keepdims=True)  # [P, cases]
        self._known: dict[str, np.ndarray] = {}  # choices -> Dice and F1, [cases, regions, 2]
        self._workers = min(workers, len(self._paths))
        self._pool: concurrent.futures.Executor | None = None

    def __enter__(self) -> "ScoredCases":
        if self._workers > 1:
            context = multiprocessing.get_context("spawn")  # a fork may copy a lock that nobody will open
            self._pool = concurrent.futures.ProcessPoolExecutor(self._workers, context)
        return self

    def __exit__(self, *_) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, wanted: Sequence[Tuned]) -> np.ndarray:
        """The criterion for each of these choices and each patient, the mean of his cases: [choices, P]."""
        return criterion.values(self._judged_by, self.measures(wanted)) @ self._shares.T

    def measures(self, wanted: Sequence[Tuned]) -> np.ndarray:
        """Dice and F1 of each case: [choices, cases, regions, 2]."""
        keys = [candidates.key(tuned) for tuned in wanted]
        new = {key: tuned for key, tuned in zip(keys, wanted, strict=True) if key not in self._known}
        if new:
            by_case = np.array(self._of_each(piece_counts.measures_of_file, list(new.values())))
            self._known |= dict(zip(new, np.moveaxis(by_case, 1, 0), strict=True))
        return np.array([self._known[key] for key in keys])

    def regions(self, wanted: Sequence[Tuned]) -> dict[str, np.ndarray]:
        """Dice, F1 and HD95 of each case under choices of its own, the mean of each patient's: [P, regions].

        Args:
            wanted: choices for each patient, in the order of `patients`.
        """
        of_case = [wanted[int(np.argmax(self._shares[:, case]))] for case in range(len(self._paths))]
        measures = np.array([self.measures([tuned])[0, case] for case, tuned in enumerate(of_case)])
        distances = self._run(piece_counts.hd95_mm_of_file, [[self._named(tuned)] for tuned in of_case])
        found = {name: measures[..., n] for n, name in enumerate(piece_counts.MEASURES)}
        return {name: self._shares @ each for name, each in {**found, "hd95_mm": np.array(distances)}.items()}

    def _named(self, tuned: Tuned) -> Tuned:
        return tuned if self._threshold is None else tuned.in_cascade(self._threshold)

    def _of_each(self, function: Callable, wanted: Sequence[Tuned]) -> list:
        named = list(map(self._named, wanted))
        return self._run(function, [named] * len(self._paths))

    def _run(self, function: Callable, wanted: Sequence[Sequence[Tuned]]) -> list:
        """function(path, choices) of each case."""
        run = map if self._pool is None else self._pool.map
        try:
            each = run(function, self._paths, wanted)
            return list(bars.bar(each, total=len(self._paths), desc="score", unit="case", leave=False))
        except concurrent.futures.process.BrokenProcessPool as error:
            raise InputError(
                f"a worker process died, most likely for want of memory ({self._workers} at a time). "
                "Pass --workers 1."
            ) from error


def means(of_patients: Mapping[str, np.ndarray], regions: Sequence[str]) -> dict[str, dict[str, float]]:
    """[P, regions] by score -> region -> score -> mean over the patients."""
    return {
        region: {name: round(float(each[:, n].mean()), 6) for name, each in of_patients.items()}
        for n, region in enumerate(regions)
    }
