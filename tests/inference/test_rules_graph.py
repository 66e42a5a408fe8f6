"""The rules in the graph, to the voxel as in numpy; their probabilities agree with the label map."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage, special

from tfbrats.inference import rules_graph
from tfbrats.labels import REGIONS
from tfbrats.tuning import rules
from tfbrats.tuning.choices import Pieces, Tuned

SHAPE = (18, 20, 22)
PIECES = [
    *(Pieces(least_voxels=30), Pieces(least_highest=0.9)),
    *(Pieces(largest_alone=True), Pieces(most_inner_alone=True)),
]


def smooth(rng) -> np.ndarray:
    """Blobs above and below 0: float32."""
    found = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.2)
    return (3 * found / found.std()).astype(np.float32)


def evidence_of(kind: str, rng) -> dict[str, np.ndarray]:
    brain = ndimage.binary_erosion(np.ones(SHAPE, bool), iterations=2)
    brain[7, 7, 5:9] = False
    if kind == "regions":
        return {"regions": special.expit(np.stack([smooth(rng) for _ in range(3)], -1)), "brain": brain}
    tissues = special.softmax(np.stack([smooth(rng) for _ in range(4)], -1), axis=-1)
    odds = {"odds": smooth(rng)} if kind == "branches" else {}
    return {**odds, "tissues": tissues, "brain": brain}


def drawn(kind: str, rng) -> Tuned:
    choices = {
        "pieces": {region: PIECES[rng.integers(4)] for region in REGIONS if rng.integers(2)},
        "filled": tuple(region for region in REGIONS if rng.integers(2)),
        "least_et_voxels": int(rng.integers(300)),
    }
    if kind == "regions":
        return Tuned(thresholds={"WT": 0.4, "ET": 0.6}, **choices).in_cascade(0.5)
    return Tuned(offset=float(rng.normal()), veto=kind == "branches" and bool(rng.integers(2)), **choices)


def as_tensors(evidence):
    return {name: tf.constant(array) for name, array in evidence.items()}


def _in_a_graph(tuned: Tuned):
    return tf.function(lambda given: rules_graph.probabilities(given, tuned))


def test_the_twins_probabilities_are_the_same_to_the_bit():
    """A piece stays or goes by its highest probability: at the limit an ulp would decide."""
    rng = np.random.default_rng(1)
    odds = rng.normal(0, 4, (60, 50, 40)).astype(np.float32)
    tissues = special.softmax(rng.normal(size=(*odds.shape, 4)), axis=-1).astype(np.float32)
    evidence = {"odds": odds, "tissues": tissues, "brain": np.ones(odds.shape, bool)}
    for tuned in (Tuned(offset=-1.2), Tuned(offset=0.4)):
        found = rules.probabilities(evidence, tuned)
        for region, plane in _in_a_graph(tuned)(as_tensors(evidence)).items():
            assert np.array_equal(plane.numpy(), found[region]), region


@pytest.mark.parametrize("kind", rules.KINDS)
def test_the_twins_decide_alike_and_probabilities_agree(kind):
    rng = np.random.default_rng(0)
    maps = set()
    for _ in range(12):
        evidence, tuned = evidence_of(kind, rng), drawn(kind, rng)
        assert rules.kind_of(evidence) == kind
        masks = rules.decide(evidence, tuned)
        tissues, probabilities = (each.numpy() for each in rules_graph.decide(as_tensors(evidence), tuned))
        assert np.array_equal(tissues, rules.tissues_of(masks)), tuned
        assert not np.any(masks["ET"] & ~masks["TC"]) and not np.any(masks["TC"] & ~masks["WT"])
        assert not np.any(tissues[~evidence["brain"]])
        maps.add(tissues.tobytes())
        for region, plane in zip(REGIONS, np.moveaxis(probabilities, -1, 0), strict=True):
            if kind == "regions":
                assert np.array_equal(masks[region], plane >= np.float32(tuned.thresholds[region])), region
            elif kind == "branches" and region == "WT":
                assert np.array_equal(masks[region], plane >= 0.5)
        if kind != "regions":
            assert np.all(np.diff(probabilities, axis=-1) <= 1e-6)
    assert len(maps) == 12


def test_where_there_is_nothing_no_rule_fails():
    brain, quarters = np.ones(SHAPE, bool), np.full((*SHAPE, 4), 0.25, np.float32)
    evidence = {"odds": np.full(SHAPE, -5, np.float32), "tissues": quarters, "brain": brain}
    for rule in PIECES:
        tuned = Tuned(pieces=dict.fromkeys(REGIONS, rule), filled=tuple(REGIONS), least_et_voxels=5)
        assert not np.any(rules.tissues_of(rules.decide(evidence, tuned)))
        assert not np.any(rules_graph.decide(as_tensors(evidence), tuned)[0])


def test_the_order_of_the_rules():
    """WT's pieces go before its hole is filled, with the core in them; what is left of ET is too little."""
    odds = np.full((12, 12, 12), -5, np.float32)
    odds[2:7, 2:7, 2:7], odds[4, 4, 4], odds[9, 9, 9:11] = 5, -5, 5
    tissues = np.zeros((12, 12, 12, 4), np.float32)
    tissues[..., 2] = 1
    tissues[3, 3, 3], tissues[9, 9, 9:11] = [0, 0, 0, 1], [0, 0, 0, 1]
    evidence = {"odds": odds, "tissues": tissues, "brain": np.ones(odds.shape, bool)}
    tuned = Tuned(pieces={"WT": Pieces(largest_alone=True)}, filled=("WT",), least_et_voxels=2)
    found = rules.tissues_of(rules.decide(evidence, tuned))
    expected = np.zeros_like(found)
    expected[2:7, 2:7, 2:7], expected[3, 3, 3] = 2, 1
    assert np.array_equal(found, expected)


def test_a_larger_piece_without_core_goes_and_the_one_with_most_core_stays():
    odds = np.full((14, 14, 14), -5, np.float32)
    odds[1:7, 1:7, 1:7], odds[9:13, 9:13, 9:13] = 5, 5
    tissues = np.zeros((14, 14, 14, 4), np.float32)
    tissues[..., 2] = 1
    tissues[2, 2, 2], tissues[10:12, 10, 10] = [0, 1, 0, 0], [0, 1, 0, 0]
    evidence = {"odds": odds, "tissues": tissues, "brain": np.ones(odds.shape, bool)}
    for rule, place in (
        (Pieces(most_inner_alone=True), slice(9, 13)),
        (Pieces(largest_alone=True), slice(1, 7)),
    ):
        expected = np.zeros(odds.shape, bool)
        expected[place, place, place] = True
        tuned = Tuned(pieces={"WT": rule})
        assert np.array_equal(rules.decide(evidence, tuned)["WT"], expected)
        assert np.array_equal(rules_graph.decide(as_tensors(evidence), tuned)[0].numpy() > 0, expected)
