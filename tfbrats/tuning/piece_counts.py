"""Every piece of every region, counted once: from the counts each rule of pieces is scored in a millisecond.

Regions are nested, so each piece of TC lies in one piece of WT, and each of ET in one of TC. What a rule
removes is whole pieces with all that lies in them. Voxels, highest probability and what each piece shares with
each lesion of the reference therefore say what Dice and F1 become, and no volume is looked at again. Where
holes are filled that is not so: then `rules` decides on the grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfbrats.cases import boxes
from tfbrats.labels import CHILD, PARENT, REGIONS, region_mask
from tfbrats.metrics import components, lesion_pairs, region_scores
from tfbrats.metrics.matched_lesions import LEAST_DICE
from tfbrats.tuning import candidates, kept_evidence, rules
from tfbrats.tuning.choices import Pieces, Tuned
from tfbrats.tuning.kept_evidence import KeptCase

MEASURES = ("dice", "f1")


@dataclass(frozen=True, eq=False)
class Counts:
    """The N pieces of one region.

    Attributes:
        parents: index of the piece of the region round it, [N]; empty for WT.
        voxels: [N].
        highest: probability of the region, float32 [N].
        inner: voxels of the region inside it, [N]; 0 for ET.
        hits: voxels that are the region's in the reference, [N].
        pairs: piece, lesion and voxels that they share, [Q] each.
    """

    parents: np.ndarray
    voxels: np.ndarray
    highest: np.ndarray
    inner: np.ndarray
    hits: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray]


def measures(case: KeptCase, wanted: Sequence[Tuned]) -> np.ndarray:
    """Dice and F1 by the rule of 2026 for each of these choices: [choices, regions, 2].

    A region that both sides lack has 1.

    Args:
        wanted: for a cascade of `Tuned.in_cascade`.
    """
    counted: dict[str, dict[str, Counts]] = {}
    found = []
    for tuned in wanted:
        if tuned.filled:
            found.append(_measures_on_grid(case, tuned))
            continue
        bare = _without_pieces(tuned)
        if (name := candidates.key(bare)) not in counted:
            counted[name] = counts(case, bare)
        found.append(_measures_of(counted[name], case, tuned))
    return np.array(found).reshape(len(wanted), len(REGIONS), len(MEASURES))


def measures_of_file(path: str, wanted: Sequence[Tuned]) -> np.ndarray:
    """`measures` of a kept case: what a worker process does."""
    return measures(kept_evidence.read(path), wanted)


def hd95_mm_of_file(path: str, wanted: Sequence[Tuned]) -> list[float]:
    """`hd95_mm` of a kept case under the one choice given."""
    return hd95_mm(kept_evidence.read(path), wanted[0])


def _without_pieces(tuned: Tuned) -> Tuned:
    """What of the choices makes the pieces."""
    return Tuned(tuned.offset, tuned.veto, tuned.thresholds, tuned.floor, flips=tuned.flips)


def counts(case: KeptCase, tuned: Tuned) -> dict[str, Counts]:
    """The pieces of each region before any rule of pieces."""
    evidence = case.of(tuned)
    masks, planes = rules.decided(evidence, tuned), rules.probabilities(evidence, tuned)
    found, piece_of = {}, {}
    for region in REGIONS:
        inside = np.flatnonzero(masks[region])
        numbers = _numbers(case, inside)
        voxels = np.bincount(numbers)
        highest = np.zeros(voxels.size, np.float32)
        np.maximum.at(highest, numbers, planes[region][inside])
        piece_of[region] = np.zeros(case.places.size, np.int32)
        piece_of[region][inside] = numbers
        parents = np.zeros(voxels.size, np.int32)
        if PARENT[region] is not None:
            parents[numbers] = piece_of[PARENT[region]][inside]
        is_inner = masks[CHILD[region]][inside] if CHILD[region] else np.zeros(inside.size, bool)
        inner = np.bincount(numbers[is_inner], minlength=voxels.size)
        lesions = case.lesion_of[region][inside]
        is_hit = lesions > 0
        hits = np.bincount(numbers[is_hit], minlength=voxels.size)
        pairs = lesion_pairs.overlaps(numbers[is_hit], lesions[is_hit] - 1, voxels.size)
        found[region] = Counts(parents, voxels, highest, inner, hits, pairs)
    return found


def _numbers(case: KeptCase, inside: np.ndarray) -> np.ndarray:
    """The piece of each of these voxels, from 0 on, in C order: [number of them]."""
    if not inside.size:
        return np.zeros(0, np.int32)
    at = case.coordinates[:, inside]
    low = at.min(axis=1, keepdims=True)
    at = tuple(at - low)
    mask = np.zeros([int(along.max()) + 1 for along in at], bool)
    mask[at] = True
    return components.numbered(mask)[at] - 1


def _measures_of(counted: Mapping[str, Counts], case: KeptCase, tuned: Tuned) -> list[list[float]]:
    stays, found = {}, []
    for region in REGIONS:
        own = counted[region]
        alive = np.ones(own.voxels.size, bool) if PARENT[region] is None else stays[PARENT[region]][own.parents]
        stays[region] = _kept(own, alive, tuned.pieces.get(region))
        staying = stays[region]
        if region == "ET" and own.voxels[staying].sum() < tuned.least_et_voxels:
            staying = np.zeros_like(staying)
        found.append(_of_pieces(own, staying, case.lesion_sizes[region]))
    return found


def _kept(own: Counts, alive: np.ndarray, rule: Pieces | None) -> np.ndarray:
    """The twin of `rules.kept`, of pieces."""
    if rule is None or not alive.any():
        return alive
    if rule.keeps_one:
        if rule.most_inner_alone:
            alive = alive & (own.inner == own.inner[alive].max())
        return np.arange(alive.size) == np.argmax(np.where(alive, own.voxels, 0))
    if rule.least_voxels:
        return alive & (own.voxels >= rule.least_voxels)
    return alive & (own.highest >= np.float32(rule.least_highest))


def _of_pieces(own: Counts, stays: np.ndarray, sizes: np.ndarray) -> list[float]:
    """Dice and F1 of the pieces that stay, against lesions of these sizes."""
    overlap = region_scores.Overlap(
        int(sizes.sum()), int(own.voxels[stays].sum()), int(own.hits[stays].sum()), 0
    )
    number, lesions = int(np.count_nonzero(stays)), sizes.size
    pieces, partners, shared = own.pairs
    pairs = stays[pieces]
    # Only pieces that touch a lesion can have a partner: the others would make its table wide for nothing.
    touching, at = np.unique(pieces[pairs], return_inverse=True)
    found = lesion_pairs.of_counts(own.voxels[touching], sizes, at, partners[pairs], shared[pairs], LEAST_DICE)
    return [overlap.dice("brats"), 2 * len(found) / (number + lesions) if number + lesions else 1.0]


# --- on the grid ----------------------------------------------------------------------------------------


def masks(case: KeptCase, tuned: Tuned) -> rules.Regions:
    """All rules on the brain's box: bool [i, j, k] each."""
    evidence = case.of(tuned)
    listed = rules.decided(evidence, tuned)
    planes = rules.probabilities(evidence, tuned) if tuned.pieces else {}
    on_grid = {region: case.on_grid(mask) for region, mask in listed.items()}
    planes = {region: case.on_grid(plane) for region, plane in planes.items()}
    return rules.cleaned(on_grid, planes, case.brain, tuned)


def _on_one_grid(case: KeptCase, tuned: Tuned) -> tuple[np.ndarray, np.ndarray]:
    """Tissues of the answer and of the reference, on the box round both."""
    both = [
        tuple((int(first), int(first) + size) for first, size in zip(corner, array.shape, strict=True))
        for corner, array in zip(case.corners, (case.brain, case.reference), strict=True)
    ]
    box = boxes.around([one for one in both if not boxes.is_empty(one)])
    low = [side[0] for side in box]
    shape = [high - first for first, high in box]

    def placed(array: np.ndarray, own: boxes.Box) -> np.ndarray:
        moved = tuple((first - at, last - at) for (first, last), at in zip(own, low, strict=True))
        return boxes.uncrop(array, moved, shape)

    return placed(rules.tissues_of(masks(case, tuned)), both[0]), placed(case.reference, both[1])


def _measures_on_grid(case: KeptCase, tuned: Tuned) -> list[list[float]]:
    answer, reference = _on_one_grid(case, tuned)
    found = []
    for region in REGIONS:
        sides = region_mask(answer, region), region_mask(reference, region)
        predicted, lesions = map(components.numbered, sides)
        pieces, number = int(predicted.max(initial=0)), int(lesions.max(initial=0))
        matched = lesion_pairs.one_to_one(predicted, lesions, LEAST_DICE)
        f1 = 2 * len(matched) / (pieces + number) if pieces + number else 1.0
        found.append([region_scores.dice(*sides), f1])
    return found


def hd95_mm(case: KeptCase, tuned: Tuned) -> list[float]:
    """Of each region, as `tfbrats evaluate` has it."""
    answer, reference = _on_one_grid(case, tuned)
    rows = region_scores.score_case(answer, reference, case.spacing_mm)
    return [row.hd95_mm for row in rows]
