"""A paper's table as text for a terminal, with our rows below the rows that they stand for."""

import math
from collections.abc import Sequence

from tfbrats.labels import REGIONS
from tfbrats.machine.wording import wrapped
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.scoring.papers import PAPER_B_TEST, Line, PaperStatistics, Values, lines, table_named

_NAME, _WHOSE = 15, 9  # characters for a method's name, and for whose row it is


def text(table_name: str, ours: Sequence[Evaluation]) -> str:
    """`lines` for a terminal of 110 columns; what rows of ours are from is listed below.

    Of paper B also Table 2, where a row of ours is `PAPER_B_TEST.row`.
    """
    table = table_named(table_name)
    shown = lines(table_name, [evaluation.line(table) for evaluation in ours])
    marked = [line for line in shown if line.whose == "ours"]
    marks = {id(line): f"ours [{n}]" for n, line in enumerate(marked, 1)}
    parts = [wrapped(f"{table.title}: {table.citation}"), "", *_heading(table.columns)]
    parts += [
        f"{line.title[: _NAME - 1]:{_NAME}}{marks.get(id(line), 'paper'):{_WHOSE}}"
        + _numbers(table.columns, line.values)
        for line in shown
    ]
    parts += ["", f"paper    means of {table.cases}"]
    parts += [
        wrapped(f"{mark:{_WHOSE}}{_source(line)}", _WHOSE)
        for line, mark in zip(marked, marks.values(), strict=True)
    ]
    if not marked:
        parts.append("ours     no row yet")
    parts.append(wrapped(table.note))
    if table_name == "paper_b":
        parts += [_statistics_text(PAPER_B_TEST, run) for run in ours if run.row == PAPER_B_TEST.row]
    return "\n".join(parts)


def _source(line: Line) -> str:
    name = line.name or "row not known (pass --row)"
    return f"{name}, means of {line.cases}, reference {line.reference}"


def _width(score: str) -> int:
    return 8 if score.endswith("_mm") else 6


def _heading(columns: Sequence[tuple[str, str, int]]) -> list[str]:
    blank = " " * (_NAME + _WHOSE)
    scores = "  ".join(f"{title:>{3 * _width(score)}}" for score, title, _ in columns)
    regions = "  ".join("".join(f"{region:>{_width(score)}}" for region in REGIONS) for score, _, _ in columns)
    return [blank + scores, blank + regions]


def _numbers(columns: Sequence[tuple[str, str, int]], values: Values) -> str:
    def number(value: float, digits: int) -> str:
        return "-" if math.isnan(value) else f"{value:.{digits}f}"

    return "  ".join(
        "".join(f"{number(values[region, score], digits):>{_width(score)}}" for region in REGIONS)
        for score, _, digits in columns
    )


def _statistics_text(paper: PaperStatistics, evaluation: Evaluation) -> str:
    parts = ["", f"{paper.title}: {paper.row}, paper's {paper.cases} and ours of {evaluation.which_cases}"]
    parts += _heading(paper.columns)
    for statistic in paper.statistics:
        of_paper = {key[:2]: value for key, value in paper.values.items() if key[2] == statistic}
        ours = {
            (region, score): evaluation.summary[region][score].named(statistic) for region, score in of_paper
        }
        for whose, values in (("paper", of_paper), ("ours", ours)):
            parts.append(f"{statistic:{_NAME}}{whose:{_WHOSE}}" + _numbers(paper.columns, values))
    return "\n".join(parts)
