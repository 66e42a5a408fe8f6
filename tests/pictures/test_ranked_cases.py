"""Which cases are pictured: by rank, or by name."""

from tfbrats.pictures import ranked_cases


def rows_with_dice(*values):
    return [{"case_id": f"case{number}", "region": "WT", "dice": value} for number, value in enumerate(values)]


def test_the_worst_the_median_and_the_best_case_are_picked():
    rows = rows_with_dice(0.9, 0.2, 0.5, 0.7, 0.4)
    assert ranked_cases.choose(rows, 3) == [("case1", "worst"), ("case2", "median"), ("case0", "best")]


def test_halfway_between_two_cases_is_the_median_below():
    rows = rows_with_dice(0.9, 0.2, 0.5, 0.7)
    assert ranked_cases.choose(rows, 3) == [("case1", "worst"), ("case2", "median"), ("case0", "best")]


def test_more_cases_than_there_are_shows_each_once():
    assert ranked_cases.choose(rows_with_dice(0.9, 0.2), 5) == [("case1", "worst"), ("case0", "best")]
    assert ranked_cases.choose(rows_with_dice(0.9), 3) == [("case0", "the only one")]
    assert ranked_cases.choose(rows_with_dice(0.9), 0) == []


def test_an_undefined_dice_is_no_rank():
    assert ranked_cases.choose(rows_with_dice(float("nan"), 0.3), 3) == [("case1", "the only one")]
