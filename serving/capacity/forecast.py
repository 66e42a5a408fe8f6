"""A prediction put to the test: what the rows say of cases that come at random times, and what then happens.

The rows are of callers who wait for their answers. Here each case comes at its time, whoever is still waiting,
as in a hospital's day. The times are drawn first, the prediction is made of them, then they are run.
"""

import numpy as np

from serving.capacity import load, queueing, under_test
from serving.capacity.load import Asked
from serving.capacity.measured import Check, Measured

_SEED = 2026
_LEAST_CASES = 5
_FIGURES = ("mean_s", "p50_s", "p95_s")


def times_of(cases_per_s: float, seconds: float) -> np.ndarray:
    """Arrivals over so many seconds: of a Poisson process that has as many cases as it has on average."""
    count = max(_LEAST_CASES, round(cases_per_s * seconds))
    return np.sort(np.random.default_rng(_SEED).uniform(0, count / cases_per_s, count))


def predicted(measured: Measured, cores: int, times_s: np.ndarray) -> dict[str, float]:
    """Seconds from arrival to answer, and the most memory; from the rows alone."""
    pod, of = measured.pod(cores), len(measured.about["shapes"])
    works = [np.mean(pod.works[case::of]) for case in range(of)]
    seconds = queueing.answered(pod, times_s, [works[n % of] for n in range(len(times_s))])
    waiting = queueing.told(seconds)
    figures = {name: getattr(waiting, name) for name in _FIGURES}
    peak = measured.of(cores)[-1].peak_bytes
    return figures if peak is None else {**figures, "peak_bytes": float(peak)}


def tried(measured: Measured, model: Asked, pid: int | None, cores: int, share: float, seconds: float) -> Check:
    """Cases at random times, at a share of what the server can do.

    Args:
        model: at the server that is tried.
        pid: of the server, if it runs here.
    """
    pod = measured.pod(cores)
    times_s = times_of(share * pod.most, seconds)
    expected = predicted(measured, cores, times_s)
    with under_test.watched(pid) as seen:
        answers = load.at_their_times(model, times_s)
    waiting = queueing.told(answers.seconds)
    found = {name: getattr(waiting, name) for name in _FIGURES}
    if seen.peak_bytes is not None and "peak_bytes" in expected:
        found["peak_bytes"] = float(seen.peak_bytes)
    return Check(
        cores,
        calls=len(pod.rates),
        cases=len(times_s),
        share=share,
        seconds=len(times_s) / (share * pod.most),
        predicted={name: expected[name] for name in found},
        found=found,
        others_cores=seen.others_cores,
    )
