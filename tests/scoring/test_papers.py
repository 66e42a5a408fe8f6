"""The papers' numbers, digit by digit, and our rows beside them."""

import dataclasses

import pytest

from tfbrats.errors import InputError
from tfbrats.metrics import region_scores
from tfbrats.reporting import paper_text
from tfbrats.scoring import papers
from tfbrats.scoring.evaluation import EmptyRule, Evaluation
from tfbrats.scoring.origin import Model, Split
from tfbrats.scoring.summaries import Statistics

# Paper A, Table 1 as printed: Dice, sensitivity, specificity of WT, then TC, then ET.
PAPER_A = {
    "unet2d": (0.872, 0.885, 0.996, 0.779, 0.811, 0.999, 0.751, 0.829, 0.999),
    "bfcn": (0.874, 0.857, 0.997, 0.788, 0.850, 0.998, 0.757, 0.851, 0.998),
    "drn": (0.881, 0.871, 0.996, 0.810, 0.854, 0.998, 0.768, 0.878, 0.998),
    "cun": (0.886, 0.892, 0.997, 0.830, 0.849, 0.999, 0.784, 0.869, 0.998),
    "cun_lws": (0.888, 0.903, 0.996, 0.831, 0.877, 0.998, 0.768, 0.881, 0.998),
}
# Paper B, Table 1 as printed: Dice of ET, WT, TC, then Hausdorff mm of ET, WT, TC.
PAPER_B = {
    "unet3d": (0.739, 0.882, 0.788, 5.329, 7.356, 10.243),
    "msm_noaspp": (0.773, 0.899, 0.820, 4.259, 6.374, 6.404),
    "msm": (0.809, 0.903, 0.832, 3.780, 6.022, 7.091),
}
# Paper B, Table 2, same order.
PAPER_B_TEST = {
    "mean": (0.769, 0.871, 0.779, 4.799, 9.523, 7.186),
    "std": (0.240, 0.129, 0.274, 9.293, 16.822, 10.900),
    "median": (0.842, 0.915, 0.900, 2.000, 3.464, 3.162),
    "25quantile": (0.747, 0.860, 0.758, 1.414, 2.236, 2.0000),
    "75quantile": (0.892, 0.939, 0.936, 3.000, 6.364, 7.280),
}


def evaluation(row="cun_lws", dice=0.5, cases=12, split="test", edition="2020", missing=()):
    """One of which every score of a region is `dice`, but ET's a tenth less."""
    number = {"WT": dice, "TC": dice, "ET": dice - 0.1}
    summary = {
        region: {
            score: Statistics(number[region], 0.01, 0.02, 0.03, 0.04, n=cases, touched=0)
            for score in region_scores.SCORES
        }
        for region in number
    }
    return Evaluation(
        prediction="predicted",
        reference="data/phantoms",
        edition_given=None,
        editions=[edition],
        cases=cases,
        missing=list(missing),
        notes=[],
        model=Model(name=row, row=row) if row else None,
        split=Split(split, "5", "splits.json") if split else None,
        empty_rule=EmptyRule("brats", ""),
        summary=summary,
        rows=[],
        versions={},
    )


def lines(name, ours):
    return papers.lines(name, [one.line(papers.TABLES[name]) for one in ours])


def test_paper_as_table_is_the_papers():
    order = [
        (region, score) for region in ("WT", "TC", "ET") for score in ("dice", "sensitivity", "specificity")
    ]
    rows = papers.TABLES["paper_a"].rows
    assert {row.row: tuple(row.scores[key] for key in order) for row in rows} == PAPER_A


def test_paper_as_one_specificity_stands_beside_both_of_ours():
    for row in papers.TABLES["paper_a"].rows:
        for region in ("WT", "TC", "ET"):
            assert row.scores[region, "specificity_tumour_slices"] == row.scores[region, "specificity"]


@pytest.mark.parametrize("distance", ["hausdorff_mm", "hd95_mm"])
def test_paper_bs_table_is_the_papers_with_one_hausdorff_beside_both_of_ours(distance):
    order = [(region, score) for score in ("dice", distance) for region in ("ET", "WT", "TC")]
    rows = papers.TABLES["paper_b"].rows
    assert {row.row: tuple(row.scores[key] for key in order) for row in rows} == PAPER_B


@pytest.mark.parametrize("distance", ["hausdorff_mm", "hd95_mm"])
def test_paper_bs_second_table_is_the_papers(distance):
    order = [(region, score) for score in ("dice", distance) for region in ("ET", "WT", "TC")]
    found = papers.PAPER_B_TEST.values
    for statistic, numbers in PAPER_B_TEST.items():
        assert tuple(found[region, score, statistic] for region, score in order) == numbers
    assert {statistic for _, _, statistic in found} == set(PAPER_B_TEST)


def test_every_column_is_a_score_of_ours_and_every_row_is_full():
    for table in papers.TABLES.values():
        assert set(table.scores) <= set(region_scores.SCORES)
        for row in table.rows:
            assert set(row.scores) == {(r, s) for r in ("WT", "TC", "ET") for s in table.scores}
    assert papers.ROWS == ("unet2d", "bfcn", "drn", "cun", "cun_lws", "unet3d", "msm_noaspp", "msm")


def test_each_paper_row_is_followed_by_ours_of_that_row():
    first, second, other = evaluation("cun", 0.6), evaluation("cun", 0.7), evaluation("drn", 0.8)
    found = lines("paper_a", [first, second, other])
    assert [(line.row, line.whose) for line in found] == [
        ("unet2d", "paper"), ("bfcn", "paper"), ("drn", "paper"), ("drn", "ours"), ("cun", "paper"),
        ("cun", "ours"), ("cun", "ours"), ("cun_lws", "paper"),
    ]  # fmt: skip
    assert [found[n].values["WT", "dice"] for n in (4, 5, 6)] == [0.886, 0.6, 0.7]
    assert (
        found[3].cases == "test split, 12 cases, BraTS 2020" and found[4].cases == "42 HGG cases of BraTS 2017"
    )
    assert found[5].values["ET", "specificity_tumour_slices"] == pytest.approx(0.5)


@pytest.mark.parametrize("row", ["cun", None])
def test_ours_that_is_no_row_of_the_table_is_shown_last_and_not_dropped(row):
    found = lines("paper_b", [evaluation(row)])
    assert [line.whose for line in found] == ["paper"] * 3 + ["ours"]
    assert (found[-1].row, found[-1].name, found[-1].title) == (None, row or "", row or "no row")


def test_a_model_that_is_called_as_a_row_is_no_row():
    named = dataclasses.replace(evaluation("cun"), model=Model(name="cun"))
    found = lines("paper_a", [named])
    assert [line.whose for line in found] == ["paper"] * 5 + ["ours"]
    assert (found[-1].row, found[-1].title) == (None, "cun")


def test_which_cases_ours_are_of_is_said():
    assert evaluation(split=None, cases=1).which_cases == "all cases given, 1 case, BraTS 2020"
    assert evaluation(edition="msd").which_cases == "test split, 12 cases, MSD Task01"
    with_missing = evaluation(missing=("a", "b"))
    assert with_missing.which_cases == "test split, 12 cases (2 scored as empty), BraTS 2020"


def test_the_row_of_an_evaluation_without_a_model_is_unknown():
    assert evaluation("msm").row == "msm"
    assert evaluation(None).row is None


@pytest.mark.parametrize("name", ["paper_a", "paper_b"])
@pytest.mark.parametrize("ours", [[], [evaluation("msm"), evaluation("cun"), evaluation(None)]])
def test_the_text_fits_a_terminal_of_110_columns_and_has_every_number_of_the_paper(name, ours):
    text = paper_text.text(name, ours)
    assert max(map(len, text.splitlines())) <= 110
    for row in papers.TABLES[name].rows:
        for number in row.scores.values():
            assert f"{number:.3f}" in text


def test_the_text_says_whose_each_row_is_and_how_specificity_is_meant():
    text = paper_text.text("paper_a", [evaluation("cun_lws")])
    assert "ours [1] cun_lws, means of test split, 12 cases, BraTS 2020, reference phantoms" in text
    assert "paper    means of 42 HGG cases of BraTS 2017" in text
    assert "fits tumour-bearing slices" in text


def test_paper_bs_second_table_stands_below_beside_ours_of_msm_alone():
    assert "Table 2" not in paper_text.text("paper_b", [evaluation("unet3d")])
    lines = paper_text.text("paper_b", [evaluation("msm", 0.7)]).splitlines()
    (at,) = (n for n, line in enumerate(lines) if line.startswith("median") and "paper" in line)
    # WT, TC, ET of Dice, Hausdorff and HD95
    assert lines[at].split() == [
        "median",
        "paper",
        *["0.915", "0.900", "0.842"],
        *(["3.464", "3.162", "2.000"] * 2),
    ]
    assert lines[at + 1].split() == ["median", "ours", *["0.020"] * 9]


def test_an_undefined_mean_is_a_dash():
    ours = evaluation("cun")
    ours.summary["ET"]["dice"] = Statistics.of([], touched=0)
    (line,) = (
        line
        for line in paper_text.text("paper_a", [ours]).splitlines()
        if line.startswith("CUN  ") and "[1]" in line
    )
    assert line.split()[3:6] == ["0.500", "0.500", "-"]


def test_an_unknown_table_is_refused_by_name():
    with pytest.raises(InputError, match="'paper_c' is unknown; choose from paper_a, paper_b"):
        papers.lines("paper_c", [])
