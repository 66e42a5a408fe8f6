"""What is tried for each choice, the mildest first: the search takes one of them, or leaves the model plain."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tfbrats.labels import CHILD, REGIONS
from tfbrats.tuning.choices import PLAIN, Pieces, Tuned

# On the log odds of tumour: from half the odds to a hundredth of them, and up to three times. The sampled loss
# of paper A trains with 5 to 15 times the odds away from the contour.
OFFSETS = (-0.4, 0.4, -0.7, 0.7, -1.2, 1.1, -1.6, -2.3, -3.0, -3.7, -4.6)
LEVELS = (0.45, 0.55, 0.4, 0.6, 0.35, 0.65, 0.3, 0.7, 0.25, 0.75, 0.2, 0.8, 0.15, 0.85, 0.1, 0.9, 0.95)
LEAST_VOXELS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
LEAST_HIGHEST = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
LEAST_ET = (10, 20, 50, 100, 200, 500, 1000)
PIECES_OF_ALL = "pieces of all regions"
RULES = (
    *(Pieces(least_voxels=number) for number in LEAST_VOXELS),
    *(Pieces(least_highest=level) for level in LEAST_HIGHEST),
    # Before the largest, for of equals the first is taken: a large false piece of WT seldom has a core in it.
    Pieces(most_inner_alone=True),
    Pieces(largest_alone=True),
)


@dataclass(frozen=True)
class Choice:
    """One thing that may be chosen.

    Attributes:
        name: e.g. "pieces of WT".
        values: that are tried beside the plain one, the mildest first.
        put: choices and a value, None for the plain one -> the choices with it.
        is_in: whether this choice made what is chosen; it alone may take that back.
    """

    name: str
    values: Sequence[Any]
    put: Callable[[Tuned, Any], Tuned]
    is_in: Callable[[Tuned], bool] = lambda now: True

    def candidates(self, now: Tuned) -> list[Tuned]:
        """`now` first, then all that this choice could make of it, the plain one before the others."""
        others = [self.put(now, value) for value in (None, *self.values)]
        return [now, *(other for other in others if other != now)]

    def without(self, now: Tuned) -> Tuned:
        """`now` where this choice has no part in it."""
        return self.put(now, None) if self.is_in(now) else now


def choices(kind: str, with_flips: bool) -> list[Choice]:
    """Of a model with evidence of this kind (`rules.KINDS`), in the order in which they act; holes are apart.

    Args:
        with_flips: the evidence of mirrored inputs is there.
    """
    found = [_simple("flips", (True,))] if with_flips else []
    if kind == "regions":
        found += [_of_region("thresholds", f"threshold of {region}", region, LEVELS) for region in REGIONS]
    else:
        found.append(_simple("offset", OFFSETS))
    if kind == "branches":
        found.append(_simple("veto", (True,)))
    alone = [_of_region("pieces", f"pieces of {region}", region, _rules_of(region)) for region in REGIONS]
    found += [dataclasses.replace(choice, is_in=lambda now: not _is_one_rule(now)) for choice in alone]
    # After those of one region: of equals the search takes the first.
    found.append(Choice(PIECES_OF_ALL, RULES, _put_pieces_of_all, _is_one_rule))
    return [*found, _simple("least_et_voxels", LEAST_ET, "least ET")]


def _rules_of(region: str) -> list[Pieces]:
    """What one region's pieces may go by; nothing lies in ET."""
    return [rule for rule in RULES if CHILD[region] or not rule.most_inner_alone]


def _is_one_rule(now: Tuned) -> bool:
    """Whether the pieces of all regions go by the same rule. It was chosen as one and stays or goes as one."""
    return set(now.pieces) == set(REGIONS) and len(set(now.pieces.values())) == 1


def _put_pieces_of_all(now: Tuned, rule: Pieces | None) -> Tuned:
    return dataclasses.replace(now, pieces={} if rule is None else dict.fromkeys(REGIONS, rule))


def loosest(kind: str, threshold: float | None = None) -> Tuned:
    """The answer in which every candidate's tumour lies, the plain one's too: voxels outside need not be kept.

    Args:
        kind: of evidence.
        threshold: `cascade.threshold` of a cascade.
    """
    if kind != "regions":
        return Tuned(offset=max(OFFSETS))
    level = min(LEVELS) if threshold is None else min(*LEVELS, threshold)
    return Tuned(thresholds=dict.fromkeys(REGIONS, level))


def holes() -> list[Choice]:
    """Whether those of each region are filled: tried last, since pieces have to be counted anew for it."""

    def putter(region: str) -> Callable[[Tuned, Any], Tuned]:
        def put(now: Tuned, value: Any) -> Tuned:
            filled = {*now.filled, region} if value else {*now.filled} - {region}
            return dataclasses.replace(now, filled=tuple(name for name in REGIONS if name in filled))

        return put

    return [Choice(f"holes of {region}", (True,), putter(region)) for region in REGIONS]


def key(tuned: Tuned) -> str:
    """The same text for the same choices."""
    return json.dumps(tuned.to_json(), sort_keys=True)


def _simple(field: str, values: Sequence[Any], name: str = "") -> Choice:
    plain = getattr(PLAIN, field)

    def put(now: Tuned, value: Any) -> Tuned:
        return dataclasses.replace(now, **{field: plain if value is None else value})

    return Choice(name or field, values, put)


def _of_region(field: str, name: str, region: str, values: Sequence[Any]) -> Choice:
    def put(now: Tuned, value: Any) -> Tuned:
        others = {one: own for one, own in getattr(now, field).items() if one != region}
        own = {} if value is None else {region: value}
        both = {**others, **own}
        return dataclasses.replace(now, **{field: {one: both[one] for one in REGIONS if one in both}})

    return Choice(name, values, put)
