"""The report's HTML from what is known of a run: scores, pictures, training. Reads and writes no data.

What it says stands in report.html.jinja; here is what the template cannot do: order, match, draw.
"""

import functools
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
import markupsafe
import numpy as np

from tfbrats import __version__
from tfbrats.cases import overlays
from tfbrats.labels import REGIONS
from tfbrats.machine import files
from tfbrats.metrics import stage_misses
from tfbrats.pictures import case_pictures, differences
from tfbrats.pictures.case_pictures import Pictured
from tfbrats.predictions import seen
from tfbrats.reporting import charts, score_text, slice_script
from tfbrats.reporting.sampling_maps import Sampling
from tfbrats.reporting.training_section import TrainingSection
from tfbrats.reporting.uncertainty_section import UncertaintySection
from tfbrats.scoring import comparison, papers
from tfbrats.scoring.comparison import Comparison, Difference
from tfbrats.scoring.evaluation import Evaluation, Lesions
from tfbrats.scoring.origin import BySplit
from tfbrats.scoring.summaries import Row, Statistics, Summary

# (score, heading, digits after the point).
SCORES = (
    ("dice", "Dice", 3),
    ("sensitivity", "Sensitivity", 3),
    ("specificity", "Specificity", 4),
    ("specificity_tumour_slices", "Specificity (tumour slices)", 4),
    ("hausdorff_mm", "Hausdorff, mm", 2),
    ("hd95_mm", "HD95, mm", 2),
    ("hd95_pooled_mm", "HD95 (MedPy), mm", 2),
    ("nsd_1mm", "NSD at 1 mm", 3),
)
LESION_SCORES = (
    ("dice", "Dice", 3),
    ("hd95_mm", "HD95, mm", 2),
    ("nsd_05mm", "NSD at 0.5 mm", 3),
    ("nsd_1mm", "NSD at 1 mm", 3),
    # Of 2026, named as the challenge's program has them.
    ("rq", "F1 of the lesions", 3),
    ("sq_dsc", "Dice of matched lesions", 3),
    ("sq_nsd", "NSD of matched lesions", 3),
    ("sq_hd95", "HD95 of matched lesions, mm", 2),
    ("global_bin_dsc", "Dice of the region", 3),
    ("global_bin_nsd", "NSD of the region", 3),
    ("global_bin_hd95", "HD95 of the region, voxels", 2),
    ("large_instance_f1", "F1 of large lesions", 3),
    ("lesionwise_dsc_mean", "Dice of large and false", 3),
    ("small_instance_f1", "F1 of small lesions", 3),
)
LESION_COUNTS = (
    ("reference_lesions", "Lesions"),
    ("found", "found"),
    ("missed", "missed"),
    ("false", "false"),
    ("ignored_reference", "too small"),
    ("ignored_prediction", "too small, predicted"),
    ("n_ref_instances", "Lesions"),
    ("tp", "found"),
    ("fn", "missed"),
    ("fp", "false"),
)
MOST_LESIONS = 500  # on the page; all of them are in the table
_BOXED = ("dice", "sensitivity")  # paper A's Fig. 4
_COMPARED = ("dice", "sensitivity", "hd95_mm")  # where no table says which


@dataclass(frozen=True)
class Run:
    """A run as the page compares it with others; no two of them share a name."""

    name: str
    evaluation: Evaluation


@dataclass(frozen=True, kw_only=True)
class Content:
    """All that the page is made of.

    Attributes:
        runs: the page's own first; see `named`.
        compared: the page's own with each of the others.
        table: a key of `papers.TABLES` to stand beside.
        training: what `training_section.training_of` gives.
        sampling: None for a network trained without loss weighted sampling.
        uncertainty: None where no maps of it lie beside the predictions.
        by_rank: whether the cases pictured were picked by their rank; else a person named them.
        notes: what was run; `code` between backticks and links are marked up.
    """

    title: str
    runs: Sequence[Run]
    compared: Sequence[Comparison] = ()
    table: str | None = None
    pictured: Sequence[Pictured] = ()
    by_rank: bool = True
    training: TrainingSection
    sampling: Sampling | None = None
    uncertainty: UncertaintySection | None = None
    notes: Sequence[str] = ()


def named(folders: Sequence[str | os.PathLike], evaluations: Sequence[Evaluation]) -> list[Run]:
    """Runs by what `Evaluation.name` calls them, or by row and folder where that is one name for two."""
    names = [evaluation.name(folder) for folder, evaluation in zip(folders, evaluations, strict=True)]
    runs: list[Run] = []
    for name, folder, evaluation in zip(names, folders, evaluations, strict=True):
        if names.count(name) > 1:
            name = f"{name} ({files.name(folder)})"
            if any(run.name == name for run in runs):
                name = f"{name} [{len(runs) + 1}]"
        runs.append(Run(name, evaluation))
    return runs


@dataclass(frozen=True)
class TableLine:
    """A line of a paper's table on the page.

    Attributes:
        name: of the run, where that says more than the title.
        own: whether it is of the page's own run.
    """

    line: papers.Line
    title: str
    name: str = ""
    own: bool = False


@dataclass(frozen=True)
class Beside:
    """A paper's table with our rows below its own.

    Attributes:
        known: whether the page's own run is one of its rows.
        more: of the paper's table that says more of one row, if some run is of that row.
        more_runs: those runs.
    """

    paper: papers.PaperTable
    lines: list[TableLine]
    known: bool
    more: papers.PaperStatistics | None
    more_runs: list[Run]


def beside(table_name: str, runs: Sequence[Run]) -> Beside:
    """The runs beside a paper's table, the page's own first."""
    table = papers.table_named(table_name)
    own_lines = [run.evaluation.line(table) for run in runs]
    run_of_line = {id(line): run for line, run in zip(own_lines, runs, strict=True)}
    lines = []
    for line in papers.lines(table_name, own_lines):
        run = run_of_line.get(id(line))
        if run is None:
            lines.append(TableLine(line, line.title))
        elif line.row is None:
            lines.append(TableLine(line, run.name, own=run is runs[0]))
        else:
            lines.append(TableLine(line, line.title, run.name, own=run is runs[0]))
    more = papers.PAPER_B_TEST
    more_runs = [run for run in runs if table_name == "paper_b" and run.evaluation.row == more.row]
    return Beside(table, lines, own_lines[0].row is not None, more if more_runs else None, more_runs)


@dataclass(frozen=True)
class Charts:
    """The runs' cases as charts.

    Attributes:
        boxes: of Dice and sensitivity.
        volumes: of each region, Dice over the reference's volume.
        without_volume: as `charts.without_volume`.
    """

    boxes: list[charts.Chart]
    volumes: list[charts.Chart]
    without_volume: dict[str, int]


def charts_of(runs: Sequence[Run]) -> Charts:
    """The charts of all runs; cases without a volume are the first one's."""
    rows = {run.name: run.evaluation.rows for run in runs}
    titles = {score: title for score, title, _ in SCORES}
    boxes = []
    for score in _BOXED:
        medians = "; ".join(f"{run.name} {_medians(run.evaluation.summary, score)}" for run in runs)
        boxes.append(charts.box_plot(rows, score, titles[score], medians))
    return Charts(boxes, charts.volume_plots(rows), charts.without_volume(runs[0].evaluation.rows))


def _medians(summary: Summary, score: str) -> str:
    """A box plot's gist for whoever does not see it: "WT 0.912, TC 0.843, ET 0.791"."""
    return ", ".join(f"{region} {_figure(summary[region][score].median, 3)}" for region in REGIONS)


def _marked_up(text: str) -> markupsafe.Markup:
    """A note as HTML: `code` and links, everything else as it stands."""
    html = str(markupsafe.escape(text))
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
    return markupsafe.Markup(re.sub(r"(https?://[^\s<]+[^\s<.,;)])", r'<a href="\1">\1</a>', html))


def _figure(value: float, digits: int, sign: str = "") -> str:
    """A number; with the `sign` "+" one that shows which way it points, unless it rounds to 0."""
    if math.isnan(value):
        return "–"
    rounded = round(value, digits) + 0.0  # no -0.000
    return f"{rounded:{sign if rounded else ''}.{digits}f}".replace("-", "−")


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["figure"] = _figure
    environment.filters["percent"] = _percent
    environment.filters["marked_up"] = _marked_up
    source = pathlib.Path(__file__).with_name("report.html.jinja")
    return environment.from_string(source.read_text(encoding="utf-8"))


def render(content: Content) -> str:
    """The page's HTML."""
    evaluation = content.runs[0].evaluation
    tissues = {tissue for shown in content.pictured for tissue in shown.tissues}
    return _template().render(
        title=content.title,
        scored=evaluation,
        warnings=score_text.warnings(evaluation, *(run.evaluation for run in content.runs[1:])),
        tables_apart=score_text.tables_apart(evaluation),
        notes=content.notes,
        regions=list(REGIONS),
        # An older version's scores lack what was added since.
        scores=[shown for shown in SCORES if any(evaluation.summary[r][shown[0]].n for r in REGIONS)],
        runs=content.runs,
        run_colours=list(zip(charts.RUN_COLOURS, charts.RUN_COLOURS_DARK, strict=True)),
        run_marks="●■▲◆▼✚",  # charts.MARKERS
        beside=beside(content.table, content.runs) if content.table else None,
        compared=_differences_of(content),
        compared_scores=_compared_scores(content.table),
        confidence=f"{comparison.CONFIDENCE:.0%}",
        draws=f"{comparison.DRAWS:,}",
        seen=score_text.what_was_seen(evaluation)[0],
        kinds=_kinds(evaluation.seen_by_model),
        lesions=_lesions_of(evaluation.lesions),
        charts=charts_of(content.runs),
        box_cases=charts.BOX_CASES,
        ranked=_ranked(evaluation.rows),
        by_case=stage_misses.by_case(evaluation.rows),
        pictured=content.pictured,
        by_rank=content.by_rank,
        simulated=bool(content.pictured) and all(shown.simulated for shown in content.pictured),
        legend=[(colour, overlays.NAMES[t]) for t, colour in overlays.COLOURS.items() if t in tissues],
        known=case_pictures.seen_by_case(evaluation),
        difference_legend=[
            (differences.COLOURS[kind], name, differences.COLOUR_WORDS[kind], differences.MEANINGS[kind])
            for kind, name in differences.NAMES.items()
        ],
        shown=slice_script.shown(),
        script=markupsafe.Markup(slice_script.source()),
        cascade=evaluation.cascade,
        losses=stage_misses.ranked(evaluation.cascade.rows) if evaluation.cascade else (),
        share=stage_misses.share,
        possible=stage_misses.possible,
        sampling=content.sampling,
        sampling_legend=[(colour, overlays.LWS_NAMES[r]) for r, colour in overlays.LWS_COLOURS.items()],
        uncertainty=content.uncertainty,
        training=content.training,
        version=__version__,
    )


def _ranked(rows: Sequence[Row]) -> list[tuple[str, dict[str, Row]]]:
    """(case id, region -> row), lowest Dice of WT first, undefined ones last."""
    by_case = stage_misses.by_case(rows)
    return sorted(by_case.items(), key=lambda item: (np.nan_to_num(item[1]["WT"]["dice"], nan=2), item[0]))


@dataclass(frozen=True)
class Differences:
    """The page's own run minus another, by score and region."""

    name: str
    differences: dict[tuple[str, str], Difference]


def _differences_of(content: Content) -> list[Differences]:
    return [
        Differences(run.name, {(one.score, one.region): one for one in compared.differences})
        for run, compared in zip(content.runs[1:], content.compared, strict=True)
    ]


def _compared_scores(table: str | None) -> list[tuple[str, str, int]]:
    """(score, heading, digits): the table's columns, or the usual ones."""
    shown = papers.TABLES[table].columns if table else [column for column in SCORES if column[0] in _COMPARED]
    # Of a whole volume hardly anything is tumour.
    return [(score, heading, digits + score.startswith("specificity")) for score, heading, digits in shown]


@dataclass(frozen=True)
class Kind:
    """Cases that the model has seen in one way, or not (`new`), and their scores."""

    title: str
    summary: Summary
    cases: list[str]
    new: bool


def _kinds(by_split: BySplit | None) -> list[Kind]:
    if by_split is None:
        return []
    return [
        Kind(seen.TITLES[kind], by_split.summary[kind], case_ids, kind not in seen.KNOWN_TO_THE_MODEL)
        for kind, case_ids in by_split.cases.items()
    ]


@dataclass(frozen=True)
class LesionSection:
    """What is told lesion by lesion.

    Attributes:
        scores: those of `LESION_SCORES` that the rule has.
        counts: those of `LESION_COUNTS` that it has.
        of_reference: how many lesions there are to be found, where the rule lists them.
        shown: rows of the first of these.
    """

    rule: str
    meaning: str
    summary: Mapping[str, Mapping[str, Statistics | int]]
    scores: list[tuple[str, str, int]]
    counts: list[tuple[str, str]]
    of_reference: int
    shown: list[Row]


def _lesions_of(lesions: Lesions | None) -> LesionSection | None:
    if lesions is None:
        return None
    of_reference = [lesion for lesion in lesions.each if lesion["outcome"] != "false"]
    return LesionSection(
        rule=lesions.rule,
        meaning=lesions.meaning,
        summary=lesions.summary,
        scores=[column for column in LESION_SCORES if _is_known(lesions, column[0])],
        counts=[column for column in LESION_COUNTS if _is_known(lesions, column[0])],
        of_reference=len(of_reference),
        shown=of_reference[:MOST_LESIONS],
    )


def _is_known(lesions: Lesions, score: str) -> bool:
    """Whether any region has this lesion-wise score or count: the rule of 2023 has no surface Dice."""
    values = [of_region.get(score) for of_region in lesions.summary.values()]
    return any(value.n if isinstance(value, Statistics) else value is not None for value in values)
