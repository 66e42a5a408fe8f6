"""The search: which choices help on patients that did not make them, one after the other, the best first.

A coordinate search. In each step every choice is tried alone over what is chosen so far; of those whose gain is
more than noise (`gains`) the one with the largest is taken. At the end each choice is tried once more against
being left away, now that all others are there; what no longer helps goes. Holes come last.

What the whole is worth is measured apart, with each patient left out of everything: of each patient the answer
by the choices that a search over the others makes.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tfbrats.tuning import gains
from tfbrats.tuning.candidates import Choice
from tfbrats.tuning.choices import PLAIN, Tuned
from tfbrats.tuning.gains import Gain

_MOST_STEPS = 20  # there are a dozen choices; a value may be chosen anew

# Choices of the model -> the criterion for each of them and each patient, [choices, P].
Scores = Callable[[Sequence[Tuned]], np.ndarray]


@dataclass(frozen=True)
class Judged:
    """A choice, what it would make of the model, and what that is worth over the other choices.

    Attributes:
        tuned: with it at its best value; without it where none is better.
        gain: None where no value of it makes any difference.
    """

    name: str
    tuned: Tuned
    gain: Gain


@dataclass(frozen=True)
class Found:
    """What was chosen, and what was not, each with its gain."""

    tuned: Tuned
    chosen: tuple[Judged, ...]
    others: tuple[Judged, ...]


def found(scores: Scores, rounds: Sequence[Sequence[Choice]], patients: Sequence[int], seed: int) -> Found:
    """Searches.

    Args:
        scores: of all patients.
        rounds: choices that are tried together, round after round (`candidates.choices`, `candidates.holes`).
        patients: by whom to choose.
    """

    def of_patients(wanted: Sequence[Tuned]) -> np.ndarray:
        return scores(wanted)[:, patients]

    now, kept, others = PLAIN, {}, {}
    for choices in rounds:
        for _ in range(_MOST_STEPS):
            judged = _judged(of_patients, [(choice.name, choice.candidates(now)) for choice in choices], seed)
            helping = [one for one in judged if one.gain.is_beyond_noise]
            if not helping:
                break
            now = max(helping, key=lambda one: one.gain.mean).tuned
        others |= {one.name: one for one in judged if one.name not in kept}
        now, still = _pruned(of_patients, choices, now, seed)
        kept |= still
    return Found(now, tuple(kept.values()), tuple(one for name, one in others.items() if name not in kept))


def nothing(found: Found) -> Found:
    """The plain model, though some choices looked well one by one."""
    return Found(PLAIN, (), (*found.chosen, *found.others))


def _pruned(
    scores: Scores, choices: Sequence[Choice], now: Tuned, seed: int
) -> tuple[Tuned, dict[str, Judged]]:
    """Without the choices that do not help, now that all others are there; the rest by name."""
    while True:
        tried = []
        for choice in choices:
            if (without := choice.without(now)) != now:
                tried.append((choice.name, choice.candidates(without)))
        judged = _judged(scores, tried, seed) if tried else []
        idle = [one for one in judged if not one.gain.is_beyond_noise]
        if not idle:
            return now, {one.name: dataclasses.replace(one, tuned=now) for one in judged}
        least = min(idle, key=lambda one: one.gain.mean)
        now = next(choice for choice in choices if choice.name == least.name).without(now)


def _judged(scores: Scores, tried: Sequence[tuple[str, Sequence[Tuned]]], seed: int) -> list[Judged]:
    """What choices are worth that are tried together, each with its candidates, what is now first."""
    table = scores([tuned for _, candidates in tried for tuned in candidates])
    tables, first = [], 0
    for _, candidates in tried:
        tables.append(table[first : first + len(candidates)])
        first += len(candidates)
    return [
        Judged(name, candidates[gains.chosen(own)], gain)
        for (name, candidates), own, gain in zip(tried, tables, gains.gains(tables, seed), strict=True)
    ]


def without_each(
    scores: Scores, rounds: Sequence[Sequence[Choice]], patients: int, seed: int, told: Callable[[int], None]
) -> list[Tuned]:
    """Of each patient what a search over all others chooses.

    Args:
        told: is called with each patient's number when that is done.
    """
    answers = []
    for patient in range(patients):
        rest = [other for other in range(patients) if other != patient]
        answers.append(found(scores, rounds, rest, seed).tuned)
        told(patient)
    return answers
