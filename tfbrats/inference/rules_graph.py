"""Evidence and what was chosen -> regions and label map, in the graph: the twin of `tuning.rules`."""

import math
from collections.abc import Mapping

import tensorflow as tf

from tfbrats.graphs.components_graph import holes, numbered
from tfbrats.labels import CHILD, LEARNED_OF, PARENT, REGIONS
from tfbrats.tuning.choices import Pieces, Tuned
from tfbrats.tuning.rules import WRITTEN

_TINY = 1e-30  # what would be divided by nothing is nothing


def decide(evidence: Mapping, tuned: Tuned):
    """All rules.

    The probabilities agree with the label map as a plain model's do: where a rule took a voxel from a region,
    the region's is 0, and so are those of the regions in it; where a rule gave one, it is at least what makes a
    voxel of the region. A cascade's are 0 outside the region round them.

    Args:
        evidence: `tuning.rules`' arrays as tensors, float32.
        tuned: for a cascade of `Tuned.in_cascade`, which names every threshold.

    Returns:
        tissues, uint8 [i, j, k], and the probabilities of WT, TC and ET after the rules, float32 [i, j, k, 3].
    """
    masks, planes = decided(evidence, tuned), probabilities(evidence, tuned)
    cleared = cleaned(vetoed(masks, evidence, tuned), planes, evidence["brain"], tuned)
    agreeing = _agreeing(planes, masks, cleared, tuned)
    return tissues_of(cleared), tf.stack([agreeing[region] for region in REGIONS], axis=-1)


def undecided(evidence: Mapping, tuned: Tuned):
    """Probabilities of WT, TC and ET with the offset alone, float32 [i, j, k, 3]: how sure a model is.

    A rule that takes a piece away makes nobody surer.
    """
    planes = probabilities(evidence, tuned)
    return tf.stack([planes[region] for region in REGIONS], axis=-1)


def _agreeing(planes: Mapping, before: Mapping, after: Mapping, tuned: Tuned) -> dict:
    """Probabilities that agree with the regions after all rules.

    Args:
        planes, before: of `probabilities` and `decided`.
        after: of `cleaned`.
    """
    found, lost = {}, tf.zeros_like(after["WT"])
    for region, parent in PARENT.items():
        plane, had = planes[region], before[region]
        least = 0.5
        if tuned.thresholds:
            least = tuned.thresholds[region]
            had = plane >= least
            plane = plane if parent is None else tf.where(after[parent], plane, 0.0)
        elif parent is not None:
            least = tf.minimum(found[parent], least)  # in which it lies
        lost = tf.logical_and(tf.logical_or(lost, had), tf.logical_not(after[region]))
        given = tf.logical_and(after[region], tf.logical_not(had))
        found[region] = tf.where(lost, 0.0, tf.where(given, tf.maximum(plane, least), plane))
    return found


def tissues_of(masks: Mapping):
    """Nested regions, bool [i, j, k] each -> tissues, uint8 [i, j, k]."""
    tissues = tf.zeros_like(masks["WT"], tf.uint8)
    for region, tissue in WRITTEN.items():
        tissues = tf.where(masks[region], tf.constant(int(tissue), tf.uint8), tissues)
    return tissues


def probabilities(evidence: Mapping, tuned: Tuned) -> dict:
    """Of each region with the offset, float32 [i, j, k]; 0 outside the brain."""
    if "regions" in evidence:
        planes = tf.unstack(evidence["regions"], axis=-1)
    else:
        non_tumour, *tissues = tf.unstack(evidence["tissues"], axis=-1)
        tumour = tissues[0] + tissues[1] + tissues[2]
        if "odds" in evidence:
            # In float64, and then rounded: in float32 numpy's is other by a few ulp.
            whole = tf.cast(tf.sigmoid(tf.cast(evidence["odds"] + tuned.offset, tf.float64)), tf.float32)
        else:
            raised = tumour * math.exp(tuned.offset)
            whole = raised / tf.maximum(raised + non_tumour, _TINY)
        share = whole / tf.maximum(tumour, _TINY)
        parts = {name: [tissues[one - 1] for one in LEARNED_OF[name]] for name in ("TC", "ET")}
        planes = [whole, *(share * tf.add_n(parts[name]) for name in ("TC", "ET"))]
    return {
        region: tf.where(evidence["brain"], plane, 0.0) for region, plane in zip(REGIONS, planes, strict=True)
    }


def decided(evidence: Mapping, tuned: Tuned) -> dict:
    """The first rule without the veto: bool [i, j, k] each."""
    if "regions" in evidence:
        masks, inside = {}, evidence["brain"]
        for region, plane in zip(REGIONS, tf.unstack(evidence["regions"], axis=-1), strict=True):
            inside = tf.logical_and(inside, plane >= tuned.thresholds[region])
            masks[region] = inside
        return masks
    non_tumour, ncr, ed, et = tf.unstack(evidence["tissues"], axis=-1)
    best = tf.maximum(tf.maximum(ncr, ed), et)
    if "odds" in evidence:
        whole = evidence["odds"] + tuned.offset > 0
    else:
        whole = best * math.exp(tuned.offset) > non_tumour
    whole = tf.logical_and(whole, evidence["brain"])
    # Of equals the first: NCR, ED, ET.
    is_et = tf.logical_and(et > ncr, et > ed)
    in_core = tf.logical_or(is_et, ncr >= ed)
    return {"WT": whole, "TC": tf.logical_and(whole, in_core), "ET": tf.logical_and(whole, is_et)}


def vetoed(masks: Mapping, evidence: Mapping, tuned: Tuned) -> dict:
    """The regions less where branch 2 takes non-tumour for likeliest, if it may veto."""
    if not tuned.veto:
        return dict(masks)
    non_tumour, *tissues = tf.unstack(evidence["tissues"], axis=-1)
    agreed = tf.maximum(tf.maximum(tissues[0], tissues[1]), tissues[2]) > non_tumour
    return {region: tf.logical_and(mask, agreed) for region, mask in masks.items()}


def cleaned(masks: Mapping, planes: Mapping, brain, tuned: Tuned) -> dict:
    """The second and third rule: pieces, holes, little ET. Arguments as `tuning.rules.cleaned`."""
    cleared = dict(masks)
    for region, parent in PARENT.items():
        inside = brain if parent is None else cleared[parent]
        mask = tf.logical_and(cleared[region], inside)
        if region in tuned.pieces:
            mask = kept(mask, planes[region], masks.get(CHILD[region]), tuned.pieces[region])
        if region in tuned.filled:
            mask = tf.logical_or(mask, tf.logical_and(holes(mask), inside))
        cleared[region] = mask
    if tuned.least_et_voxels:
        voxels = tf.reduce_sum(tf.cast(cleared["ET"], tf.int32))
        cleared["ET"] = tf.logical_and(cleared["ET"], voxels >= tuned.least_et_voxels)
    return cleared


def kept(mask, plane, inner, rule: Pieces):
    """The pieces of a region that stay: bool [i, j, k]. Arguments as `tuning.rules.kept`."""
    numbers, pieces = numbered(mask)
    inside = tf.boolean_mask(numbers, mask) - 1
    if rule.least_highest:
        highest = tf.math.unsorted_segment_max(tf.boolean_mask(plane, mask), inside, pieces)
        stays = highest >= rule.least_highest
    else:
        voxels = tf.math.unsorted_segment_sum(tf.ones_like(inside), inside, pieces)
        if rule.keeps_one:
            if rule.most_inner_alone and inner is not None:
                each = tf.cast(tf.boolean_mask(inner, mask), tf.int32)
                within = tf.math.unsorted_segment_sum(each, inside, pieces)
                voxels = tf.where(tf.equal(within, tf.reduce_max(within)), voxels, 0)
            place = tf.range(pieces)
            stays = tf.equal(place, tf.reduce_min(tf.where(voxels < tf.reduce_max(voxels), pieces, place)))
        else:
            stays = voxels >= rule.least_voxels
    return tf.gather(tf.pad(stays, [[1, 0]]), numbers)
