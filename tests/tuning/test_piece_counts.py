"""What is counted of pieces says what the rules would answer: held against the rules, on whole volumes."""

import numpy as np
import pytest
from scipy import ndimage

from tfbrats.cases import boxes
from tfbrats.labels import EDITIONS, REGIONS
from tfbrats.metrics import matched_lesions, region_scores
from tfbrats.tuning import candidates, kept_evidence, piece_counts, rules
from tfbrats.tuning.choices import PLAIN, Pieces, Tuned

SHAPE, LOW, WHOLE = (22, 20, 18), (3, 2, 1), (28, 25, 20)


def smooth(draws, *more) -> np.ndarray:
    noise = draws.normal(size=(*more, *SHAPE))
    return ndimage.gaussian_filter(noise, (0,) * len(more) + (1.2,) * 3) * 8


def evidence_of(kind: str, seed: int) -> dict[str, np.ndarray]:
    """Of no network: smooth noise, so that there are pieces of all sizes, islands and holes."""
    draws = np.random.default_rng(seed)
    brain = ndimage.gaussian_filter(draws.normal(size=SHAPE), 3) > -0.05
    if kind == "regions":
        nested = np.sort(1 / (1 + np.exp(-smooth(draws, 3) - 1)), axis=0)[::-1]
        return {"regions": np.moveaxis(nested, 0, -1).astype(np.float32), "brain": brain}
    powers = np.exp(smooth(draws, 4))
    tissues = np.moveaxis(powers / powers.sum(axis=0), 0, -1).astype(np.float32)
    if kind == "classes":
        return {"tissues": tissues, "brain": brain}
    return {"tissues": tissues, "odds": smooth(draws).astype(np.float32), "brain": brain}


def reference_of(seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed + 1000)
    lesions = ndimage.gaussian_filter(draws.normal(size=WHOLE), 1.5)
    return np.where(lesions > 0.12, draws.integers(1, 4, WHOLE), 0).astype(np.uint8)


CHOICES = [
    PLAIN,
    Tuned(pieces={"WT": Pieces(least_voxels=20)}),
    Tuned(pieces={region: Pieces(largest_alone=True) for region in REGIONS}),
    Tuned(pieces={region: Pieces(most_inner_alone=True) for region in REGIONS}),
    Tuned(pieces={"TC": Pieces(most_inner_alone=True), "ET": Pieces(least_voxels=3)}, filled=("WT",)),
    Tuned(pieces={"WT": Pieces(least_highest=0.95), "TC": Pieces(least_voxels=6)}, least_et_voxels=40),
    Tuned(pieces={"ET": Pieces(least_highest=0.8)}, filled=("WT",)),
    Tuned(pieces={"TC": Pieces(least_voxels=10)}, filled=("WT", "TC", "ET")),
]
OWN = {
    "branches": [Tuned(offset=-1.2, veto=True, pieces={"TC": Pieces(least_voxels=3)}), Tuned(offset=1.1)],
    "classes": [Tuned(offset=-0.7), Tuned(offset=1.1, pieces={"WT": Pieces(least_highest=0.9)})],
    "regions": [Tuned(thresholds={"WT": 0.3, "ET": 0.6}), Tuned(thresholds={"TC": 0.9})],
}


@pytest.mark.parametrize("kind", rules.KINDS)
def test_counts_give_the_scores_of_the_rules_on_the_whole_volume(kind, tmp_path):
    for seed in range(3):
        evidence, reference = evidence_of(kind, seed), reference_of(seed)
        case = kept_evidence.kept({"plain": evidence}, LOW, reference, (1, 1, 1))
        kept_evidence.write(tmp_path / "case.npz", case, {})
        case = kept_evidence.read(tmp_path / "case.npz")
        wanted = [tuned.in_cascade(0.5) if kind == "regions" else tuned for tuned in CHOICES + OWN[kind]]
        measures = piece_counts.measures(case, wanted)
        for tuned, found in zip(wanted, measures, strict=True):
            tissues = rules.tissues_of(rules.decide(evidence, tuned))
            box = tuple((low, low + size) for low, size in zip(LOW, SHAPE, strict=True))
            answer = boxes.uncrop(tissues, box, WHOLE)
            rows = region_scores.score_case(answer, reference, (1, 1, 1))
            lesions, _ = matched_lesions.score_case(answer, reference, (1, 1, 1), EDITIONS["2023"])
            f1 = {row.region: row.rq for row in lesions}
            assert found == pytest.approx(np.array([[row.dice, f1[row.region]] for row in rows]), abs=1e-12), (
                tuned
            )
            assert piece_counts.hd95_mm(case, tuned) == pytest.approx([row.hd95_mm for row in rows])


def test_a_region_that_both_sides_lack_counts_as_1_and_one_that_was_made_up_as_0():
    evidence = evidence_of("branches", 0)
    nothing = np.zeros(WHOLE, np.uint8)
    case = kept_evidence.kept({"plain": evidence}, LOW, nothing, (1, 1, 1))
    made_up, none = piece_counts.measures(case, [PLAIN, Tuned(offset=-80.0)])
    assert (made_up == 0).all() and (none == 1).all()
    assert piece_counts.hd95_mm(case, Tuned(offset=-80.0)) == [0, 0, 0]


def test_what_is_kept_holds_every_candidate_s_tumour():
    for kind in rules.KINDS:
        evidence = evidence_of(kind, 5)
        case = kept_evidence.kept({"plain": evidence}, LOW, reference_of(5), (1, 1, 1))
        assert case.places.size < evidence["brain"].size
        for choice in candidates.choices(kind, with_flips=False):
            for tuned in choice.candidates(PLAIN):
                named = tuned.in_cascade(0.5) if kind == "regions" else tuned
                whole, kept = rules.decided(evidence, named)["WT"], rules.decided(case.of(named), named)["WT"]
                assert np.array_equal(case.on_grid(kept), whole), (kind, tuned)


def test_what_is_kept_holds_the_tumour_of_a_cascade_with_a_low_threshold_too():
    evidence, threshold = evidence_of("regions", 5), 0.02
    evidence["regions"] = evidence["regions"] ** 4  # many of little probability
    case = kept_evidence.kept({"plain": evidence}, LOW, reference_of(5), (1, 1, 1), threshold)
    plain = PLAIN.in_cascade(threshold)
    whole = rules.decided(evidence, plain)["WT"]
    assert np.array_equal(case.on_grid(rules.decided(case.of(plain), plain)["WT"]), whole)
    assert whole.sum() > rules.decided(evidence, PLAIN.in_cascade(0.1))["WT"].sum()


def test_a_case_is_kept_until_what_it_was_made_with_changes(tmp_path):
    path = tmp_path / "case.npz"
    case = kept_evidence.kept({"plain": evidence_of("classes", 1)}, LOW, reference_of(1), (1, 1, 2))
    assert not kept_evidence.is_current(path, {"weights": "a"})
    kept_evidence.write(path, case, {"weights": "a"})
    assert kept_evidence.is_current(path, {"weights": "a"})
    assert not kept_evidence.is_current(path, {"weights": "b"})
    assert kept_evidence.read(path).spacing_mm == (1, 1, 2)
