"""Evidence and what was chosen -> regions and label map, in the graph: the twin of `tuning.rules`."""

import math
from collections.abc import Mapping

import tensorflow as tf

from tfbrats.labels import LEARNED_OF, REGIONS
from tfbrats.tuning.choices import Tuned
from tfbrats.tuning.rules import WRITTEN

_TINY = 1e-30  # what would be divided by nothing is nothing


def decide(evidence: Mapping, tuned: Tuned):
    """All rules.

    Args:
        evidence: `tuning.rules`' arrays as tensors, float32.
        tuned: for a cascade of `Tuned.in_cascade`, which names every threshold.

    Returns:
        tissues, uint8 [i, j, k], and the probabilities of WT, TC and ET after the rules, float32 [i, j, k, 3].
    """
    masks, planes = decided(evidence, tuned), probabilities(evidence, tuned)
    return tissues_of(masks), tf.stack([planes[region] for region in REGIONS], axis=-1)


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
            whole = tf.sigmoid(evidence["odds"] + tuned.offset)
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
    """The first rule alone: bool [i, j, k] each."""
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
        if tuned.veto:
            whole = tf.logical_and(whole, best > non_tumour)
    else:
        whole = best * math.exp(tuned.offset) > non_tumour
    whole = tf.logical_and(whole, evidence["brain"])
    # Of equals the first: NCR, ED, ET.
    is_et = tf.logical_and(et > ncr, et > ed)
    in_core = tf.logical_or(is_et, ncr >= ed)
    return {"WT": whole, "TC": tf.logical_and(whole, in_core), "ET": tf.logical_and(whole, is_et)}
