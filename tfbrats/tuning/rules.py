"""Evidence and what was chosen -> regions and label map, in numpy; `inference.rules_graph` is its twin.

**Evidence** is what the networks say of a whole case before anything is decided: arrays over one grid, the
brain's box or the whole volume, float32 or float16, by these names:

| kind | of | arrays |
|---|---|---|
| `branches` | `cun` | `odds` [i, j, k]: branch 1's log odds of tumour; `tissues` [i, j, k, 4]: branch 2's |
| `classes` | baselines of paper A | `tissues` [i, j, k, 4]: probabilities of non-tumour, NCR, ED and ET |
| `regions` | paper B's cascade | `regions` [i, j, k, 3]: probabilities of WT, TC and ET |

and `brain`, bool [i, j, k], outside which nothing counts. Of several networks, or of mirrored inputs, it is
that of the mean of their probabilities (`inference.ensemble`). A cascade's is computed with `Tuned.floor`: TC's
network looked where WT reached it. The evidence is the same for all `thresholds`, and so they can be searched
for without a network.

**The rules act in this order**, and after each ET lies in TC and TC in WT:

1. What is tumour. Branches: odds + `offset` > 0, and with `veto` branch 2's non-tumour is not its likeliest.
   Classes: the likeliest tumour class times exp(`offset`) is over non-tumour. The tissue is the likeliest of
   the three. Regions: the probability reaches the region's threshold, inside the region round it.
2. For WT, then TC, then ET: the pieces that `pieces` does not keep go, with all that lies in them; then holes
   are `filled`, as far as the region round it goes. A hole is a 6-connected part of the background that does
   not touch the border. What is filled into WT is ED, into TC NCR, into ET ET.
3. ET of fewer than `least_et_voxels` voxels altogether becomes NCR.
"""

import math
from collections.abc import Mapping

import numpy as np

from tfbrats.labels import CHILD, LEARNED_OF, PARENT, REGIONS, Tissue
from tfbrats.tuning.choices import Pieces, Tuned

KINDS = ("branches", "classes", "regions")
WRITTEN = {"WT": Tissue.ED, "TC": Tissue.NCR, "ET": Tissue.ET}  # each over the one before it

Evidence = Mapping[str, np.ndarray]
Regions = dict[str, np.ndarray]  # region -> [i, j, k]


def decide(evidence: Evidence, tuned: Tuned) -> Regions:
    """All rules: where each region is, bool [i, j, k].

    Args:
        tuned: for a cascade of `Tuned.in_cascade`, which names every threshold.
    """
    return cleaned(decided(evidence, tuned), probabilities(evidence, tuned), evidence["brain"], tuned)


def tissues_of(masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Nested regions -> tissues, uint8 [i, j, k]."""
    tissues = np.zeros(masks["WT"].shape, np.uint8)
    for region, tissue in WRITTEN.items():
        tissues[masks[region]] = tissue
    return tissues


def kind_of(evidence: Evidence) -> str:
    """Which of `KINDS` it is, by its names."""
    return "regions" if "regions" in evidence else "branches" if "odds" in evidence else "classes"


def probabilities(evidence: Evidence, tuned: Tuned) -> Regions:
    """Of each region with the offset, float32 [i, j, k]; 0 outside the brain."""
    if "regions" in evidence:
        planes = np.moveaxis(evidence["regions"].astype(np.float32), -1, 0)
    else:
        non_tumour, *tissues = np.moveaxis(evidence["tissues"].astype(np.float32), -1, 0)
        tumour = tissues[0] + tissues[1] + tissues[2]
        if "odds" in evidence:
            with np.errstate(over="ignore"):  # 1 / inf is the 0 that is meant
                raised = evidence["odds"].astype(np.float32) + np.float32(tuned.offset)
                # In float64, and then rounded: in float32 the graph's is other by a few ulp.
                whole = (1 / (1 + np.exp(-raised.astype(np.float64)))).astype(np.float32)
        else:
            raised = tumour * _factor(tuned)
            whole = raised / np.maximum(raised + non_tumour, _TINY)
        share = whole / np.maximum(tumour, _TINY)
        planes = [whole, *(share * sum(tissues[one - 1] for one in LEARNED_OF[name]) for name in ("TC", "ET"))]
    return {
        region: np.where(evidence["brain"], plane, np.float32(0))
        for region, plane in zip(REGIONS, planes, strict=True)
    }


_TINY = np.float32(1e-30)  # what would be divided by nothing is nothing


def _factor(tuned: Tuned) -> np.float32:
    return np.float32(math.exp(tuned.offset))


def decided(evidence: Evidence, tuned: Tuned) -> Regions:
    """The first rule alone: bool [i, j, k] each."""
    if "regions" in evidence:
        masks, inside = {}, evidence["brain"]
        for region, plane in zip(REGIONS, np.moveaxis(evidence["regions"], -1, 0), strict=True):
            inside = inside & (plane.astype(np.float32) >= np.float32(tuned.thresholds[region]))
            masks[region] = inside
        return masks
    non_tumour, ncr, ed, et = np.moveaxis(evidence["tissues"].astype(np.float32), -1, 0)
    best = np.maximum(np.maximum(ncr, ed), et)
    if "odds" in evidence:
        whole = evidence["odds"].astype(np.float32) + np.float32(tuned.offset) > 0
        if tuned.veto:
            whole &= best > non_tumour
    else:
        whole = best * _factor(tuned) > non_tumour
    whole &= evidence["brain"]
    # Of equals the first: NCR, ED, ET.
    is_et = (et > ncr) & (et > ed)
    return {"WT": whole, "TC": whole & (is_et | (ncr >= ed)), "ET": whole & is_et}


def cleaned(
    masks: Mapping[str, np.ndarray], planes: Mapping[str, np.ndarray], brain: np.ndarray, tuned: Tuned
) -> Regions:
    """The second and third rule: pieces, holes, little ET.

    Args:
        masks: of `decided`.
        planes: of `probabilities`; looked at only where a rule of pieces asks for the highest.
        brain: bool [i, j, k].
    """
    masks = dict(masks)
    for region in REGIONS:
        parent = PARENT[region]
        inside = brain if parent is None else masks[parent]
        mask = masks[region] & inside
        if region in tuned.pieces:
            mask = kept(mask, planes[region], masks.get(CHILD[region]), tuned.pieces[region])
        if region in tuned.filled:
            mask = mask | (holes(mask) & inside)
        masks[region] = mask
    if np.count_nonzero(masks["ET"]) < tuned.least_et_voxels:
        masks["ET"] = np.zeros_like(masks["ET"])
    return masks


def kept(mask: np.ndarray, plane: np.ndarray, inner: np.ndarray | None, rule: Pieces) -> np.ndarray:
    """The pieces of a region that stay: bool [i, j, k].

    Args:
        plane: its probabilities.
        inner: where the region inside it is; None for ET.
    """
    from tfbrats.metrics import components

    numbers = components.numbered(mask)
    inside = numbers[mask]
    voxels = np.bincount(inside, minlength=1)[1:]
    if not voxels.size:
        return mask
    if rule.keeps_one:
        within = np.zeros_like(voxels)
        if rule.most_inner_alone and inner is not None:
            within = np.bincount(inside[inner[mask]], minlength=voxels.size + 1)[1:]
        stays = np.arange(voxels.size) == np.argmax(np.where(within == within.max(), voxels, 0))
    elif rule.least_voxels:
        stays = voxels >= rule.least_voxels
    else:
        highest = np.zeros(voxels.size, np.float32)
        np.maximum.at(highest, inside - 1, plane[mask])
        stays = highest >= np.float32(rule.least_highest)
    staying = np.zeros_like(mask)
    staying[mask] = stays[inside - 1]
    return staying


def holes(mask: np.ndarray) -> np.ndarray:
    """Parts of the background, 6-connected, that do not touch the border: bool [i, j, k]."""
    from scipy import ndimage

    return ndimage.binary_fill_holes(mask) & ~mask
