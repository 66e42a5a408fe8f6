"""Lesion-wise scores of the BraTS 2023 and 2024 glioma challenges. Pure numpy and SciPy: no I/O.

One score per lesion, then their mean, in which a missed lesion and an invented one weigh as much as a large
one: whole-region Dice forgives both. What counts as a lesion is a rule chosen by name (`RULES`).

The challenge's text says that a mask is dilated to 26 neighbours; its published scorers of both years dilate
to 18 (`generate_binary_structure(3, 2)`). A leaderboard's numbers are the scorers', so "2023" and "2024" are
too, and the text's reading has names of its own. On crowded scenes the two differ by whole lesions.
"""

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tfbrats.cases import boxes
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, Tissue
from tfbrats.metrics import components, one_grid, region_scores, surfaces


@dataclass(frozen=True)
class LesionRule:
    """What a lesion is in one edition, which are left out, and what missing one costs.

    Attributes:
        name: the edition, and what is not as its scorer has it.
        tissues: region -> its tissues.
        dilations: region -> how often a mask is dilated by one voxel before fragments are joined.
        dilation_neighbours: to which a dilation spreads: 18 (the scorers'), or 26 (the full 3 x 3 x 3).
        ignored_up_to: region -> largest size of a lesion that is left out, in `ignored_unit`.
        ignored_unit: "mm3" or "voxels".
        treats_prediction_alike: predicted fragments are joined, and small ones left out, as the
            reference's are; else each predicted component is judged, whatever its size.
        penalty_mm: HD95 of a lesion that only one side has.
        tolerances_mm: of the normalised surface Dice; none where the edition has no such score.
    """

    name: str
    tissues: Mapping[str, tuple[Tissue, ...]]
    dilations: Mapping[str, int]
    dilation_neighbours: int
    ignored_up_to: Mapping[str, float]
    ignored_unit: str
    treats_prediction_alike: bool
    penalty_mm: float
    tolerances_mm: tuple[float, ...]

    @property
    def meaning(self) -> str:
        """The rule in a sentence, to stand beside its scores."""
        sides = "either side" if self.treats_prediction_alike else "the reference"
        return (
            f"BraTS {self.name[:4]} GLI, lesion-wise: fragments whose dilations by "
            f"{_by_region(self.dilations)} voxels ({self.dilation_neighbours} neighbours) meet are one lesion; "
            f"those of {_by_region(self.ignored_up_to)} {self.ignored_unit} or less are left out of {sides}; "
            "sum over lesions / (reference lesions + false ones), where a missed or false one has Dice 0 and "
            f"HD95 {self.penalty_mm:g} mm"
        )


def _by_region(values: Mapping[str, float]) -> str:
    """{"ET": 10, "WT": 20, "TC": 20} -> "20 (ET 10)"."""
    common = max(values.values(), key=list(values.values()).count)
    others = [f"{region} {value:g}" for region, value in values.items() if value != common]
    return f"{common:g}" + (f" ({', '.join(others)})" if others else "")


# Names of 2024: NETC is our NCR, SNFH our ED. Its whole tumour leaves the resection cavity out.
_TISSUES_2024 = {
    "ET": (Tissue.ET,),
    "NETC": (Tissue.NCR,),
    "RC": (Tissue.RC,),
    "SNFH": (Tissue.ED,),
    "TC": REGIONS["TC"],
    "WT": REGIONS["WT"],
}

# Values: the challenge's own scorers, github.com/rachitsaluja/BraTS-2023-Metrics and BraTS-2024-Metrics.
_2023 = LesionRule(
    name="2023",
    tissues=REGIONS,
    dilations=types.MappingProxyType(dict.fromkeys(REGIONS, 3)),
    dilation_neighbours=18,
    ignored_up_to=types.MappingProxyType(dict.fromkeys(REGIONS, 50.0)),
    ignored_unit="mm3",
    treats_prediction_alike=False,
    penalty_mm=374.0,
    tolerances_mm=(),
)
_2024 = LesionRule(
    name="2024",
    tissues=types.MappingProxyType(_TISSUES_2024),
    dilations=types.MappingProxyType({**dict.fromkeys(_TISSUES_2024, 3), "NETC": 5, "RC": 5}),
    dilation_neighbours=18,
    ignored_up_to=types.MappingProxyType({**dict.fromkeys(_TISSUES_2024, 20.0), "ET": 10.0}),
    ignored_unit="voxels",
    treats_prediction_alike=True,
    penalty_mm=337.0,
    tolerances_mm=(0.5, 1.0),
)
RULES: Mapping[str, LesionRule] = types.MappingProxyType(
    {
        rule.name: rule
        for as_scored in (_2023, _2024)
        for rule in (
            as_scored,
            dataclasses.replace(as_scored, name=f"{as_scored.name}_26_neighbours", dilation_neighbours=26),
        )
    }
)


@dataclass(frozen=True)
class LesionScores:
    """One region of one case: a row of lesions.csv, its fields the columns.

    Attributes:
        dice: sum of the lesions' Dice / (reference lesions + false ones).
        hd95_mm: the same mean of HD95, surface-distance's definition.
        nsd_05mm: the same mean of the normalised surface Dice at 0.5 mm; nan under 2023.
        nsd_1mm: at 1 mm.
        reference_lesions: those that count: found + missed.
        found: with a predicted lesion in reach, that is in the dilated reference lesion.
        missed: without.
        false: predicted lesions in reach of no reference lesion.
        ignored_reference: reference lesions left out as too small.
        ignored_prediction: predicted lesions left out as too small.
    """

    region: str
    dice: float
    hd95_mm: float
    nsd_05mm: float
    nsd_1mm: float
    reference_lesions: int
    found: int
    missed: int
    false: int
    ignored_reference: int
    ignored_prediction: int


def score_case(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], rule: str
) -> list[LesionScores]:
    """Lesion-wise scores of one case, a row per region of the rule.

    Where neither side has a lesion that counts the scores are perfect: Dice and surface Dice 1, HD95 0.
    What a predicted lesion is compared with, as in the challenge's scorers:
    - all predicted lesions in reach of a reference lesion are scored with it together, each as a whole;
    - one in reach of two reference lesions is scored with both, and its surplus counts against both;
    - one in reach of a reference lesion that is left out as too small is neither right nor false;
    - one in reach of a lesion without touching it makes that one found, with Dice 0 and its true HD95;
    - the surface Dice is nnU-Net's, whose surface is of voxels, not surface-distance's as in `region_scores`.
    Where the scorers' code differs from this [ours]:
    - in 2024 its 20 voxels are mm3 in the reference: the same at the challenge's 1 mm;
    - in 2024 it joins some lesions of one tissue that touch the same lesion of another, depending on their
      order; here they stay apart.

    Args:
        prediction: tissues (`labels.Tissue`) [I, J, K].
        reference: tissues of the same shape.
        spacing_mm: voxel size along i, j, k.
        rule: a key of `RULES`.

    Raises:
        InputError: the shapes differ, or the rule is unknown.
    """
    if rule not in RULES:
        raise InputError(f"lesion rule {rule!r} is unknown; choose from {', '.join(RULES)}.")
    one_grid.check(prediction, reference)
    chosen = RULES[rule]
    prediction, reference = one_grid.cropped(prediction, reference)
    rows = []
    for region, tissues in chosen.tissues.items():
        masks = np.isin(prediction, tissues), np.isin(reference, tissues)
        rows.append(_score_region(*masks, spacing_mm, chosen, region))
    return rows


def _score_region(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], rule: LesionRule, region: str
) -> LesionScores:
    # A dilated voxel spreads evenly to both sides, so a way between two dilated lesions that leaves the box
    # has one along its walls: inside the box the same lesions meet, and no rim is needed.
    prediction, reference = one_grid.cropped(prediction, reference)

    reach = _joined(reference, rule, region)
    lesions = np.where(reference, reach, 0)
    counted = _large_enough(lesions, spacing_mm, rule, region)
    if rule.treats_prediction_alike:
        predicted = np.where(prediction, _joined(prediction, rule, region), 0)
        kept = _large_enough(predicted, spacing_mm, rule, region)
    else:
        predicted = components.numbered(prediction)
        kept = np.arange(predicted.max() + 1) > 0
    ignored_prediction = len(kept) - 1 - int(kept.sum())
    predicted = np.where(kept[predicted], predicted, 0)

    in_reach = _in_reach(reach, predicted)
    false = int(kept.sum()) - len({part for parts in in_reach.values() for part in parts})

    lesion_boxes, predicted_boxes = components.boxes_of(lesions), components.boxes_of(predicted)
    scores = []  # of each lesion that is found
    for lesion in np.flatnonzero(counted).tolist():
        parts = in_reach.get(lesion, [])
        if parts:
            near = boxes.around([lesion_boxes[lesion - 1], *(predicted_boxes[part - 1] for part in parts)])
            masks = np.isin(boxes.crop(predicted, near), parts), boxes.crop(lesions, near) == lesion
            scores.append(_score_lesion(*masks, spacing_mm, rule))

    number, found = int(counted.sum()), len(scores)
    means = _means(scores, number - found + false, rule)
    ignored_reference = len(counted) - 1 - number
    return LesionScores(
        region, *means, number, found, number - found, false, ignored_reference, ignored_prediction
    )


def _in_reach(reach: np.ndarray, predicted: np.ndarray) -> dict[int, list[int]]:
    """Number of a reference lesion -> numbers of the predicted ones that lie, in part, in its reach.

    Args:
        reach: numbers of the dilated reference lesions [I, J, K], 0 outside.
        predicted: numbers of the predicted lesions, same shape.
    """
    meet = (reach > 0) & (predicted > 0)
    most = int(predicted.max()) + 1
    in_reach: dict[int, list[int]] = {}
    for pair in np.unique(reach[meet].astype(np.int64) * most + predicted[meet]).tolist():
        lesion, part = divmod(pair, most)
        in_reach.setdefault(lesion, []).append(part)
    return in_reach


def _means(scores: Sequence[Sequence[float]], alone: int, rule: LesionRule) -> list[float]:
    """Dice, HD95 and two surface Dice over all lesions that are judged; perfect where none is.

    Args:
        scores: of each lesion that both sides have, as `_score_lesion`.
        alone: how many one side alone has: missed and false ones.
    """
    judged = len(scores) + alone
    sums = np.reshape(scores, (-1, 4)).sum(axis=0)
    sums[1] += alone * rule.penalty_mm  # which add nothing to the other sums
    means = (sums / judged).tolist() if judged else [1.0, 0.0, 1.0, 1.0]
    if not rule.tolerances_mm:
        means[2:] = [math.nan, math.nan]
    return means


def _score_lesion(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], rule: LesionRule
) -> list[float]:
    """Dice, HD95 and two surface Dice (0 where the rule has none) of one lesion; neither mask is empty."""
    dice = region_scores.dice(prediction, reference)
    if not rule.tolerances_mm:
        elements = surfaces.element_distances(prediction, reference, spacing_mm)
        return [dice, surfaces.robust_hausdorff_mm(elements, 95), 0.0, 0.0]
    elements, voxels = surfaces.both_distances(prediction, reference, spacing_mm)
    surface_dice = [surfaces.voxels_within(voxels, tolerance_mm) for tolerance_mm in rule.tolerances_mm]
    return [dice, surfaces.robust_hausdorff_mm(elements, 95), *surface_dice]


def _joined(mask: np.ndarray, rule: LesionRule, region: str) -> np.ndarray:
    """As `components.numbered` of the dilated mask: fragments whose dilations meet are one lesion."""
    step = ndimage.generate_binary_structure(3, {18: 2, 26: 3}[rule.dilation_neighbours])
    return components.numbered(ndimage.binary_dilation(mask, step, iterations=rule.dilations[region]))


def _large_enough(
    lesions: np.ndarray, spacing_mm: Sequence[float], rule: LesionRule, region: str
) -> np.ndarray:
    """Whether each lesion, by its number, counts: bool [lesions + 1], the background, 0, never."""
    sizes = np.bincount(lesions.ravel())
    if rule.ignored_unit == "mm3":
        sizes = sizes * float(np.prod(spacing_mm))
    counts = sizes > rule.ignored_up_to[region]
    counts[:1] = False
    return counts
