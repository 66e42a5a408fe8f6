"""What was chosen, as JSON and in words; what cannot be chosen is refused by name."""

import json

import pytest

from tfbrats.errors import InputError
from tfbrats.tuning.choices import PLAIN, Pieces, Tuned

EVERY = Tuned(
    offset=-1.2,
    veto=True,
    pieces={"ET": Pieces(least_highest=0.5), "WT": Pieces(least_voxels=30), "TC": Pieces(largest_alone=True)},
    filled=("WT", "TC"),
    least_et_voxels=40,
    flips=True,
)


@pytest.mark.parametrize("tuned", [PLAIN, EVERY, Tuned(thresholds={"TC": 0.4}, floor=0.3)])
def test_json_both_ways(tuned):
    assert Tuned.from_json(json.loads(json.dumps(tuned.to_json())), "x") == tuned


def test_the_plain_model_says_nothing():
    assert PLAIN.is_plain and PLAIN.to_json() == {} and PLAIN.lines == []


def test_words_stand_in_the_order_in_which_the_rules_act():
    assert EVERY.lines == [
        "answers averaged over mirrored inputs",
        "-1.2 on the log odds of tumour",
        "no tumour where branch 2 takes non-tumour for likeliest",
        "WT: pieces of fewer than 30 voxels removed",
        "WT: holes filled",
        "TC: all pieces but the largest removed",
        "TC: holes filled",
        "ET: pieces whose highest probability is under 0.5 removed",
        "ET of fewer than 40 voxels becomes NCR",
    ]


def test_the_one_piece_that_stays_is_said_by_what_it_holds():
    tuned = Tuned(pieces=dict.fromkeys(("WT", "TC", "ET"), Pieces(most_inner_alone=True)))
    assert tuned.lines == [
        "WT: all pieces but the one with the most TC removed",
        "TC: all pieces but the one with the most ET removed",
        "ET: all pieces but the largest removed",
    ]


def test_a_cascade_s_choices_name_every_threshold():
    tuned = Tuned(thresholds={"TC": 0.4}).in_cascade(0.5)
    assert tuned.thresholds == {"WT": 0.5, "TC": 0.4, "ET": 0.5} and tuned.floor == 0.5


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"offsets": 1}, "unknown offsets; there are offset, "),
        ({"offset": 1000}, "offset is 1000; expected -80 to 80"),
        ({"filled": [["WT"]]}, "filled holds ['WT']; expected names of regions"),
        ({"least_et_voxels": 2**31}, "expected a whole number from 0 to 2147483647"),
        ({"offset": "a"}, "offset is 'a'; expected a number"),
        ({"offset": float("nan")}, "expected a number"),
        ({"veto": 1}, "veto is 1; expected true or false"),
        (
            {"pieces": {"WT": {}}},
            "sets one of least_voxels, least_highest, largest_alone, most_inner_alone; found none",
        ),
        ({"pieces": {"WT": {"least_voxels": 3, "largest_alone": True}}}, "sets one of"),
        ({"pieces": {"WT": {"least_voxels": -3}}}, "expected a whole number"),
        ({"pieces": {"XX": {"least_voxels": 3}}}, "unknown XX; there are WT, TC, ET"),
        ({"pieces": {"WT": 3}}, "expected a mapping"),
        ({"thresholds": {"WT": 1.5}}, "thresholds: WT is 1.5; expected a probability"),
        ({"floor": 0}, "floor is 0"),
        ({"filled": ["XX"]}, "filled: no region XX"),
        ({"filled": "WT"}, "expected a list"),
        ({"least_et_voxels": 2.5}, "expected a whole number"),
        ([], "expected a mapping"),
    ],
)
def test_what_is_no_choice_is_refused_by_name(content, fault):
    with pytest.raises(InputError, match=r"^tuned\.json: ") as refused:
        Tuned.from_json(content, "tuned.json")
    assert fault in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "tuned", "name"),
    [
        ("regions", Tuned(offset=1.0), "offset"),
        ("regions", Tuned(veto=True), "veto"),
        ("classes", Tuned(veto=True), "veto"),
        ("classes", Tuned(thresholds={"WT": 0.4}), "thresholds"),
        ("branches", Tuned(floor=0.4), "floor"),
    ],
)
def test_a_model_does_not_have_every_choice(kind, tuned, name):
    with pytest.raises(InputError, match=f"cun: {name} chosen"):
        tuned.check_fits(kind, "cun")
    EVERY.check_fits("branches", "cun")
