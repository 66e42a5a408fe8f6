"""The search: a planted fault is mended, noise chooses nothing, what is told is of unseen patients."""

import numpy as np
import pytest

from tfbrats.tuning import candidates, criterion, gains, kept_evidence, search
from tfbrats.tuning.choices import PLAIN, Pieces, Tuned
from tfbrats.tuning.scored_cases import ScoredCases

SHAPE = (24, 24, 16)
ROUNDS = [candidates.choices("branches", with_flips=False), candidates.holes()]


def ball(centre, radius: float) -> np.ndarray:
    at = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
    return (at**2).sum(axis=0) < radius**2


def a_case(seed: int, specks: int) -> kept_evidence.KeptCase:
    """A tumour that the network finds but for a frayed edge, and so many false pieces far from it."""
    draws = np.random.default_rng(seed)
    reference = np.zeros(SHAPE, np.uint8)
    for tissue, radius in ((2, 6), (1, 4), (3, 2.5)):
        reference[ball((8, 9, 8), radius)] = tissue
    found = reference.copy()
    edge = ball((8, 9, 8), 6.6) & ~ball((8, 9, 8), 5.4)
    found[edge & (draws.random(SHAPE) < 0.3)] = 2
    for _ in range(specks):
        at = draws.integers((17, 1, 1), (23, 22, 14))
        found[
            tuple(slice(first, first + size) for first, size in zip(at, draws.integers(1, 4, 3), strict=True))
        ] = 2
    tissues = np.full((*SHAPE, 4), 0.05, np.float32)
    np.put_along_axis(tissues, found[..., None].astype(int), 0.85, axis=-1)
    odds = np.where(found > 0, draws.uniform(2, 4, SHAPE), draws.uniform(-9, -5, SHAPE)).astype(np.float32)
    evidence = {"odds": odds, "tissues": tissues, "brain": np.ones(SHAPE, bool)}
    return kept_evidence.kept({"plain": evidence}, (0, 0, 0), reference, (1, 1, 1))


def written(folder, specks: int, number: int = 8) -> list:
    paths = [folder / f"case_{seed}.npz" for seed in range(number)]
    for seed, path in enumerate(paths):
        kept_evidence.write(path, a_case(seed, specks), {})
    return paths


def test_a_planted_fault_is_found_and_mended_and_its_gain_is_told(tmp_path):
    paths = written(tmp_path, specks=12)
    with ScoredCases(paths, list("abcdefgh"), criterion.DEFAULT, None) as scores:
        found = search.found(scores, ROUNDS, range(8), seed=0)
        assert "WT" in found.tuned.pieces
        assert [one.name for one in found.chosen] == ["pieces of WT"]
        gain = found.chosen[0].gain
        assert gain.low > 0.1 and gain.chance <= 2 / 2**8
        plain, tuned = scores([PLAIN, found.tuned])
        assert (tuned > plain + 0.1).all()
        each = search.without_each(scores, ROUNDS, 8, 0, lambda _: None)
        assert {candidates.key(one) for one in each} == {candidates.key(found.tuned)}
        by_score = scores.regions([found.tuned] * 8)
        assert (by_score["hd95_mm"][:, 0] < 3).all() and (
            scores.regions([PLAIN] * 8)["hd95_mm"][:, 0] > 6
        ).all()
        assert found == search.found(scores, ROUNDS, range(8), seed=0)  # nothing in it is drawn anew


def test_where_nothing_is_wrong_nothing_is_chosen(tmp_path):
    with ScoredCases(written(tmp_path, specks=0), list("abcdefgh"), criterion.DEFAULT, None) as scores:
        found = search.found(scores, ROUNDS, range(8), seed=0)
    assert found.tuned.is_plain and not found.chosen and len(found.others) == 10


def test_pure_noise_is_not_kept():
    """Each candidate changes each patient's score at random; one in twenty searches may err."""
    chose, kept = [], []
    for seed in range(20):
        draws = np.random.default_rng(seed)
        known: dict[str, np.ndarray] = {}

        def scores(wanted, draws=draws, known=known):
            for tuned in wanted:
                known.setdefault(candidates.key(tuned), draws.normal(0.7, 0.03, 7))
            return np.array([known[candidates.key(tuned)] for tuned in wanted])

        chose.append(not search.found(scores, ROUNDS, range(7), seed=0).tuned.is_plain)
        if chose[-1]:
            each = search.without_each(scores, ROUNDS, 7, 0, lambda _: None)
            tuned = np.array([scores([own])[0, n] for n, own in enumerate(each)])
            kept.append(gains.helps_together(tuned - scores([PLAIN])[0], seed=0))
    assert sum(kept) <= 2 and sum(chose) < 10  # of chance, one by one: a dozen choices have a dozen chances


def test_what_helps_six_patients_of_seven_is_chosen_though_much_else_is_tried():
    each = np.array([0.2, 0.1, 0.15, 0.05, 0.12, 0.18, -0.01])

    def scores(wanted):
        draws = np.random.default_rng(1).normal(0, 0.002, (len(wanted), 7))
        return 0.5 + draws + np.array([each * ("WT" in one.pieces) for one in wanted])

    found = search.found(scores, ROUNDS, range(7), seed=0)
    assert "pieces of WT" in {one.name for one in found.chosen}
    assert next(one for one in found.chosen if one.name == "pieces of WT").gain.chance <= 2 / 2**7


def test_a_choice_that_another_makes_needless_goes():
    """Alone each of two helps, the second a little even then; but once the first is there it does nothing."""
    draws = np.random.default_rng(0)
    each = draws.normal(0, 0.001, 10)

    def scores(wanted):
        gain = [0.1 if one.pieces else 0.05 if one.offset == -0.7 else 0.0 for one in wanted]
        return np.array([0.5 + own + each * (own > 0) for own in gain])

    rounds = [[one for one in ROUNDS[0] if one.name in ("offset", "pieces of WT")]]
    found = search.found(scores, rounds, range(10), seed=0)
    assert found.tuned == Tuned(pieces={"WT": Pieces(least_voxels=candidates.LEAST_VOXELS[0])})


def test_one_rule_for_all_regions_is_chosen_as_one_and_stays_as_one():
    """Alone ET's rule helps two patients of eight, which chance does too; with the others it needs no proof."""
    each = {
        "WT": np.array([0.2, 0.1, 0.15, 0.05, 0.12, 0.18, 0.1, 0.11]),
        "TC": np.array([0.1, 0.1, 0.12, 0.02, 0.1, 0.09, 0.14, 0.1]),
        "ET": np.array([0.1, 0.08, 0, 0, 0, 0, 0, 0]),
    }

    def scores(wanted):
        rules = [{region for region, rule in one.pieces.items() if rule.largest_alone} for one in wanted]
        return np.array([0.3 + sum((each[region] for region in own), np.zeros(8)) for own in rules])

    rounds = [[one for one in ROUNDS[0] if one.name.startswith("pieces")]]
    found = search.found(scores, rounds, range(8), seed=0)
    assert found.tuned == Tuned(pieces=dict.fromkeys(each, Pieces(largest_alone=True)))
    assert [one.name for one in found.chosen] == [candidates.PIECES_OF_ALL]
    alone = [[one for one in rounds[0] if one.name != candidates.PIECES_OF_ALL]]
    assert set(search.found(scores, alone, range(8), seed=0).tuned.pieces) == {"WT", "TC"}


def test_one_rule_for_all_regions_gives_way_where_a_region_wants_another():
    """All but the largest pieces go; of ET the small ones alone, since half the patients have two."""

    def scores(wanted):
        found = []
        for one in wanted:
            gain = sum(0.1 for rule in one.pieces.values() if rule.largest_alone)
            et = one.pieces.get("ET", Pieces(largest_alone=True))
            found.append(0.3 + gain + (0.12 + np.linspace(0, 0.01, 8) if et.least_voxels == 50 else 0.0))
        return np.array([own + np.zeros(8) for own in found])

    rounds = [[one for one in ROUNDS[0] if one.name.startswith("pieces")]]
    found = search.found(scores, rounds, range(8), seed=0)
    largest = Pieces(largest_alone=True)
    assert found.tuned.pieces == {"WT": largest, "TC": largest, "ET": Pieces(least_voxels=50)}
    assert {one.name for one in found.chosen} == {"pieces of WT", "pieces of TC", "pieces of ET"}


def test_two_scans_of_a_patient_count_as_one(tmp_path):
    paths = written(tmp_path, specks=3, number=4)
    with ScoredCases(paths, ["b", "a", "a", "a"], "dice", None) as scores:
        assert scores.patients == ["a", "b"]
        by_case = criterion.values("dice", scores.measures([PLAIN]))[0]
        assert scores([PLAIN])[0] == pytest.approx([by_case[1:].mean(), by_case[0]])


def test_several_workers_score_as_one(tmp_path):
    paths = written(tmp_path, specks=3, number=3)
    wanted = [PLAIN, Tuned(offset=-0.4, pieces={"WT": Pieces(least_voxels=5)})]
    with (
        ScoredCases(paths, list("abc"), "f1", None) as alone,
        ScoredCases(paths, list("abc"), "f1", None, 2) as two,
    ):
        assert np.array_equal(alone(wanted), two(wanted))


def test_a_gain_is_what_the_others_choice_brings():
    scores = np.array([[0.5, 0.5, 0.5], [0.9, 0.4, 0.4], [0.4, 0.6, 0.6]])
    # Without the first patient candidate 2 is best, which costs him 0.1; candidate 1 is his own alone.
    assert gains.left_out(scores) == pytest.approx([-0.1, -0.1, -0.1])
    assert gains.chosen(scores) == 1
    assert gains.chosen(np.full((3, 4), 0.5)) == 0


def test_the_criteria_weigh_dice_and_f1():
    measures = np.array([[[1.0, 0.0], [0.5, 0.5], [0.0, 0.4]]])
    found = {name: float(criterion.values(name, measures)[0]) for name in criterion.MEANINGS}
    assert found == pytest.approx({"dice_f1": 0.4, "dice": 0.5, "f1": 0.3})
