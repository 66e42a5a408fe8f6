"""Tables and numbers as a person reads them."""

import pytest

from tfbrats.terminal import wording


def test_a_column_without_a_width_is_as_wide_as_its_widest_cell():
    rows = [("run", "loss"), ("cun_lws", 0.25), ("u", 1)]
    assert wording.columns(rows, ("<", "  >")) == ["run      loss", "cun_lws  0.25", "u           1"]


def test_a_cell_wider_than_its_column_moves_what_follows():
    assert wording.columns([("WT", 1, "a"), ("whole", 100000, "b")], ("<4", ">4", " <2")) == [
        "WT     1 a ",
        "whole100000 b ",
    ]


def test_a_row_may_end_early_and_its_cells_still_count_for_the_width():
    assert wording.columns([("case", "mask", "ml"), ("longest", "1 fault")], ("<", "  <4", ">4")) == [
        "case     mask  ml",
        "longest  1 fault",
    ]


def test_a_column_without_a_side_leaves_its_cells_as_they_are():
    assert wording.columns({"cases": "8 ", "hours": ""}.items(), ("<7", " ")) == ["cases   8 ", "hours   "]


def test_a_row_longer_than_the_layout_is_our_own_fault():
    with pytest.raises(ValueError, match="shorter"):
        wording.columns([("a", "b")], ("<",))


def test_a_table_without_rows_has_no_lines():
    assert wording.columns([], ("<", ">")) == []


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "1 s"),
        (40.4, "40 s"),
        (58, "1 min"),
        (600, "10 min"),
        (80 * 60, "80 min"),
        (2.5 * 3600, "2.5 h"),
        (30 * 3600, "30 h"),
        (5 * 86400, "5.0 days"),
    ],
)
def test_how_long_something_takes_is_said_as_roughly_as_it_is_known(seconds, said):
    assert wording.in_time(seconds) == said


def test_equal_faults_are_told_once_with_their_names():
    faults = [f"{n}.nii.gz: too small. Mend it." for n in range(5)] + ["a: no mask: why?", "nothing here"]
    assert wording.grouped(faults) == [
        "5 files: too small. Mend it.\n  0.nii.gz, 1.nii.gz, 2.nii.gz and 2 more",
        "a: no mask: why?",
        "nothing here",
    ]
    assert wording.grouped(["a: gone", "b: gone"], lambda name: f"case {name}?") == ["2 case a?s: gone\n  a, b"]


def test_what_is_said_twice_without_a_name_is_said_twice():
    assert wording.grouped(["all is lost", "all is lost"]) == ["all is lost"] * 2
