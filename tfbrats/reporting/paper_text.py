"""A paper's table as text for a terminal, with our rows below the rows that they stand for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tfbrats.labels import REGIONS
from tfbrats.machine.wording import wrapped
from tfbrats.scoring.papers import (
    PAPER_B_TEST,
    Line,
    PaperStatistics,
    Values,
    cases_of,
    lines,
    row_of,
    table_named,
)

_NAME = 15  # of them, for a method's name


_WHOSE = 9


def text(table_name: str, ours: Sequence[Mapping[str, Any]]) -> str:
    """`lines` for a terminal of 110 columns; what rows of ours are from is listed below.

    Of paper B also Table 2, where a row of ours is `PAPER_B_TEST.row`.
    """
    table = table_named(table_name)
    shown = lines(table_name, ours)
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
        wrapped(f"{mark:{_WHOSE}}{_said_of(line)}", _WHOSE)
        for line, mark in zip(marked, marks.values(), strict=True)
    ]
    if not marked:
        parts.append("ours     no row yet")
    parts.append(wrapped(table.note))
    if table_name == "paper_b":
        parts += [_statistics_text(PAPER_B_TEST, one) for one in ours if row_of(one) == PAPER_B_TEST.row]
    return "\n".join(parts)


def _said_of(line: Line) -> str:
    row = line.row or "row not known (pass --row)"
    return f"{row}, means of {line.cases}, reference {line.reference}"


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


def _statistics_text(paper: PaperStatistics, content: Mapping[str, Any]) -> str:
    parts = ["", f"{paper.title}: {paper.row}, paper's {paper.cases} and ours of {cases_of(content)}"]
    parts += _heading(paper.columns)
    statistics = dict.fromkeys(statistic for _, _, statistic in paper.values)
    for statistic in statistics:
        theirs = {key[:2]: value for key, value in paper.values.items() if key[2] == statistic}
        ours = {(region, score): content["summary"][region][score][statistic] for region, score in theirs}
        for whose, values in (("paper", theirs), ("ours", ours)):
            parts.append(f"{statistic:{_NAME}}{whose:{_WHOSE}}" + _numbers(paper.columns, values))
    return "\n".join(parts)
