"""How long callers wait for a pod, case by case, and how many pods they need. Knows no server and no network.

A pod runs some cases at once, which share its cores; the others wait in the order in which they came. Callers
know nothing of each other, so cases arrive as a Poisson process does: in clusters and gaps. That is why a pod
that could just do them all in an hour is never enough. The queue is played through with the rates that were
measured; tests hold it to the formulas of queues that have one (M/M/1, M/D/1, processor sharing).
"""

import bisect
import collections
import dataclasses
import heapq
import math
from collections.abc import Sequence

import numpy as np

from tfbrats.errors import InputError

_CASES = 20_000  # played through for one figure
_BEGINNING = 0.1  # of them, left out: the pod was empty before
_SEED = 22
_LEAST_BUSY = 0.01  # more pods than for this help nobody


@dataclasses.dataclass(frozen=True)
class Pod:
    """One server.

    Attributes:
        rates: cases a second that it answers while 1, 2, ... are under way. As many as there are rates run at
            once.
        works: what cases want, 1 on average; a case is one of these.
    """

    rates: tuple[float, ...]
    works: tuple[float, ...] = (1.0,)

    @property
    def most(self) -> float:
        """Cases a second at its best."""
        return max(self.rates)


@dataclasses.dataclass(frozen=True)
class Waiting:
    """From the arrival of a case to its answer, in seconds."""

    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """Pods for a load.

    Attributes:
        needed: that bear it; `spare` more are to run.
        busy: share of what a pod could do, when all run and when as many as are spare are away.
        waiting: the same two.
    """

    needed: int
    spare: int
    busy: tuple[float, float]
    waiting: tuple[Waiting, Waiting]


def answered(pod: Pod, arrivals_s: Sequence[float], works: Sequence[float]) -> np.ndarray:
    """Seconds from the arrival of each case to its answer.

    Args:
        arrivals_s: in order.
        works: of each case.
    """
    ended = np.empty(len(arrivals_s))
    waiting: collections.deque[int] = collections.deque()
    running: list[tuple[float, int]] = []  # each ends when `done` has come to its number
    clock = done = 0.0  # `done`: work that a case has got which runs from the beginning
    next_case = 0
    while next_case < len(arrivals_s) or running:
        share = pod.rates[len(running) - 1] / len(running) if running else 0.0
        end = clock + (running[0][0] - done) / share if running else math.inf
        arrival = arrivals_s[next_case] if next_case < len(arrivals_s) else math.inf
        if arrival <= end:
            done += share * (arrival - clock)
            clock = arrival
            waiting.append(next_case)
            next_case += 1
        else:
            clock, (done, case) = end, heapq.heappop(running)
            ended[case] = clock
        if waiting and len(running) < len(pod.rates):
            case = waiting.popleft()
            heapq.heappush(running, (done + works[case], case))
    return ended - np.asarray(arrivals_s)


def arrivals(cases_per_s: float, count: int, random: np.random.Generator) -> np.ndarray:
    """Times of a Poisson process, [count]."""
    return np.cumsum(random.exponential(1 / cases_per_s, count))


def waiting(pod: Pod, cases_per_s: float) -> Waiting:
    """At one pod, in the long run. Its rate must be above that of the cases."""
    random = np.random.default_rng(_SEED)
    times = arrivals(cases_per_s, _CASES, random)
    seconds = answered(pod, times, random.choice(pod.works, _CASES))[int(_BEGINNING * _CASES) :]
    return told(seconds)


def told(seconds: Sequence[float]) -> Waiting:
    return Waiting(float(np.mean(seconds)), *(float(s) for s in np.percentile(seconds, (50, 95, 99))))


def plan(pod: Pod, cases_per_s: float, busy: float, within_s: float | None = None, spare: int = 1) -> Plan:
    """The fewest pods that bear a load while `spare` others are away.

    Args:
        busy: the most of its own rate that a pod is to be given; the rest is head room.
        within_s: 95 of 100 cases are to be answered in that time.

    Raises:
        InputError: more pods cannot bring that about.
    """
    needed = max(1, math.ceil(cases_per_s / (busy * pod.most) - 1e-9))
    if within_s is not None:
        needed = _quick_enough(pod, cases_per_s, within_s, needed)
    shares = [cases_per_s / count for count in (needed + spare, needed)]
    return Plan(
        needed,
        spare,
        busy=(shares[0] / pod.most, shares[1] / pod.most),
        waiting=(waiting(pod, shares[0]), waiting(pod, shares[1])),
    )


def _quick_enough(pod: Pod, cases_per_s: float, within_s: float, least: int) -> int:
    """The fewest pods, `least` or more, that answer 95 of 100 cases in that time."""
    few, many = least, least
    while (seconds := waiting(pod, cases_per_s / many).p95_s) > within_s:
        if cases_per_s / many < _LEAST_BUSY * pod.most:
            raise InputError(
                f"--within {within_s:g}: a pod that has nothing else to do takes {seconds:.1f} s for 95 of 100 "
                "cases. More pods do not change that: give each more cores, or more time."
            )
        few, many = many + 1, 2 * many
    counts = range(few, many)
    return few + bisect.bisect_left(
        counts, True, key=lambda count: waiting(pod, cases_per_s / count).p95_s <= within_s
    )
