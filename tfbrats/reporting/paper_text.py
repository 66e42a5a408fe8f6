"""A paper's table as text for a terminal, with our rows below the rows that they stand for."""

import math
from collections.abc import Iterable, Sequence

from tfbrats.labels import REGIONS
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.scoring.papers import PAPER_B_TEST, Line, PaperStatistics, Values, lines, table_named
from tfbrats.terminal import wording

_NAME, _WHOSE = 22, 9  # characters for a method's name, and for whose row it is


def text(table_name: str, ours: Sequence[Evaluation]) -> str:
    """`lines` for a terminal of 110 columns; what rows of ours are from is listed below.

    Of paper B also Table 2, where a row of ours is `PAPER_B_TEST.row`.
    """
    table = table_named(table_name)
    shown = lines(table_name, [evaluation.line(table) for evaluation in ours])
    marked = [line for line in shown if line.whose == "ours"]
    marks = {id(line): f"ours [{n}]" for n, line in enumerate(marked, 1)}
    parts = [wording.wrapped(f"{table.title}: {table.citation}"), ""]
    parts += _table(table.columns, ((line.title, marks.get(id(line), "paper"), line.values) for line in shown))
    sources = [(mark, _source(line)) for line, mark in zip(marked, marks.values(), strict=True)]
    sources = [("paper", f"means of {table.cases}"), *(sources or [("ours", "no row yet")])]
    of_paper, *of_ours = wording.columns(sources, (f"<{_WHOSE}", ""))
    parts += ["", of_paper, *(wording.wrapped(line, _WHOSE) for line in of_ours), wording.wrapped(table.note)]
    if table_name == "paper_b":
        parts += [_statistics_text(PAPER_B_TEST, run) for run in ours if run.row == PAPER_B_TEST.row]
    return "\n".join(parts)


def _source(line: Line) -> str:
    name = line.name or "row not known (pass --row)"
    return f"{name}, means of {line.cases}, reference {line.reference}"


def _width(score: str) -> int:
    return 8 if score.endswith("_mm") else 6


def _table(columns: Sequence[tuple[str, str, int]], rows: Iterable[tuple[str, str, Values]]) -> list[str]:
    """Two lines of headings and a line a row: title, whose it is, and each score by region."""
    heads, layout = [], [f"<{_NAME}", f"<{_WHOSE}"]
    for score, _, _ in columns:
        blanks, width = "  " if heads else "", _width(score)
        heads.append(f"{blanks}>{3 * width}")
        layout += [f"{blanks}>{width}", f">{width}", f">{width}"]
    titles = ("", *(title for _, title, _ in columns))
    cells = [("", "", *(region for _ in columns for region in REGIONS))]
    cells += [(title[: _NAME - 1], whose, *_numbers(columns, values)) for title, whose, values in rows]
    return [
        *wording.columns([titles], (f"<{_NAME + _WHOSE}", *heads)),
        *wording.columns(cells, layout),
    ]


def _numbers(columns: Sequence[tuple[str, str, int]], values: Values) -> list[str]:
    numbers = [(values[region, score], digits) for score, _, digits in columns for region in REGIONS]
    return ["-" if math.isnan(value) else f"{value:.{digits}f}" for value, digits in numbers]


def _statistics_text(paper: PaperStatistics, evaluation: Evaluation) -> str:
    rows = []
    for statistic in paper.statistics:
        of_paper = {key[:2]: value for key, value in paper.values.items() if key[2] == statistic}
        ours = {key: evaluation.summary[key[0]][key[1]].named(statistic) for key in of_paper}
        rows += [(statistic, "paper", of_paper), (statistic, "ours", ours)]
    row = f"{paper.row}, tuned" if evaluation.tuned else paper.row
    title = f"{paper.title}: {row}, paper's {paper.cases} and ours of {evaluation.which_cases}"
    return "\n".join(["", title, *_table(paper.columns, rows)])
