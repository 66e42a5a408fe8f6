"""The report's HTML from what is known of a run: scores, pictures, training. Reads and writes no data.

What it says stands in report.html.jinja; here is what the template cannot do: order, match, draw.
"""

import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import markupsafe
import numpy as np

from tfbrats import __version__
from tfbrats.cases import overlays
from tfbrats.labels import REGIONS
from tfbrats.metrics import stage_misses
from tfbrats.predictions import seen
from tfbrats.reporting import charts, score_text
from tfbrats.scoring import comparison, papers

# (score, heading, digits after the point); a heading that opens with … goes on from the one before it.
SCORES = (
    ("dice", "Dice", 3),
    ("sensitivity", "Sensitivity", 3),
    ("specificity", "Specificity", 4),
    ("specificity_tumour_slices", "… in tumour slices", 4),
    ("hausdorff_mm", "Hausdorff, mm", 2),
    ("hd95_mm", "HD95, mm", 2),
    ("hd95_pooled_mm", "… pooled, mm", 2),
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
    ("sq_nsd", "… NSD", 3),
    ("sq_hd95", "… HD95, mm", 2),
    ("global_bin_dsc", "Dice of the region", 3),
    ("global_bin_nsd", "… NSD", 3),
    ("global_bin_hd95", "… HD95, voxels", 2),
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
class Scored:
    """A run as the page compares it with others.

    Attributes:
        name: what it is called on the page; no two runs share one.
        content: as `evaluate.read` returns it.
    """

    name: str
    content: Mapping[str, Any]


# --- beside the paper, beside other runs ----------------------------------------------------------------


def beside(table: str, runs: Sequence[Scored]) -> dict[str, Any]:
    """The `paper`'s table, its `lines` with ours below, and its `statistics` where it has more of a row.

    Args:
        table: a key of `tables.TABLES`.
        runs: the page's own first.

    Returns:
        Of each line also `title`, `name`, of the run where that says more, and whether it is the page's `own`.
        `known` says whether the page's own run is one of its rows.
    """
    pending = list(runs)
    shown = []
    rows = [row.row for row in papers.table_named(table).rows]
    for line in papers.lines(table, [one.content for one in runs]):
        if line.whose == "paper":
            shown.append({"line": line, "title": line.title, "name": "", "own": False})
            continue
        # tables.lines keeps the order of what it was given, row by row, and what is no row of the table last.
        fits = [one for one in pending if line.row not in rows or papers.row_of(one.content) == line.row]
        pending.remove(fits[0])
        name, title = fits[0].name, line.title
        if line.row not in rows:
            name, title = "", name
        shown.append({"line": line, "title": title, "name": name, "own": fits[0] is runs[0]})
    more = papers.PAPER_B_TEST
    told = [one for one in runs if table == "paper_b" and papers.row_of(one.content) == more.row]
    statistics = list(dict.fromkeys(statistic for _, _, statistic in more.values))
    return {
        "paper": papers.TABLES[table],
        "lines": shown,
        "known": papers.row_of(runs[0].content) in rows,
        "statistics": {"paper": more, "names": statistics, "runs": told} if told else None,
    }


def charts_of(runs: Sequence[Scored]) -> dict[str, Any]:
    """`boxes` for Dice and sensitivity and `volumes` for each region, as `charts` draws them, with titles."""
    rows = {one.name: one.content["rows"] for one in runs}
    titles = {score: title for score, title, _ in SCORES}
    return {
        "boxes": [
            {
                "title": titles[score],
                "alt": "; ".join(f"{one.name} {_medians(one.content, score)}" for one in runs),
                **charts.box_plot(rows, score),
            }
            for score in _BOXED
        ],
        "volumes": charts.volume_plots(rows),
        "without_volume": charts.without_volume(runs[0].content["rows"]),
    }


def _medians(content: Mapping[str, Any], score: str) -> str:
    """A box plot's gist for whoever does not see it: "WT 0.912, TC 0.843, ET 0.791"."""
    return ", ".join(
        f"{region} {_figure(content['summary'][region][score]['median'], 3)}" for region in REGIONS
    )


# --- the page -------------------------------------------------------------------------------------------


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


def render(
    content: Mapping[str, Any],
    pictured: Sequence[Mapping[str, Any]],
    title: str,
    training: Mapping[str, Any],
    notes: Sequence[str] = (),
    sampling: Mapping[str, Any] | None = None,
    table: str | None = None,
    others: Sequence[Scored] = (),
    compared: Sequence[Mapping[str, Any]] = (),
    name: str = "",
) -> str:
    """The page's HTML.

    Args:
        content: as `evaluate.read` returns it.
        pictured: `pictures.case_pictures` of each case to show, with `case_id` and `stands_for`.
        training: as `report.training_of` returns it.
        notes: what was run; `code` between backticks and links are marked up.
        sampling: as `report.sampling_of` returns it; None for a network trained without loss weighted sampling.
        table: a key of `tables.TABLES`.
        others: runs to show beside this one.
        compared: `compare.compared_with` of each of them.
        name: of this run; its row, or what it is called otherwise.
    """
    by_case = stage_misses.by_case(content["rows"])
    ranked = sorted(by_case.items(), key=lambda item: (np.nan_to_num(item[1]["WT"]["dice"], nan=2), item[0]))
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["figure"] = _figure
    environment.filters["percent"] = _percent
    environment.filters["marked_up"] = _marked_up
    template = pathlib.Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    seen = [tissue for tissue in overlays.COLOURS if any(tissue in one["tissues"] for one in pictured)]
    runs = [Scored(name or papers.row_of(content) or "this run", content), *others]
    shown = papers.TABLES[table].columns if table else [one for one in SCORES if one[0] in _COMPARED]
    return environment.from_string(
        template
    ).render(
        title=title,
        content=content,
        cases_of=papers.cases_of(content),
        warnings=score_text.warnings(content, *(one.content for one in others)),
        seen=score_text.what_was_seen(content)[0],
        kinds=_kinds(content["by_split"]),
        tables_apart=score_text.tables_apart(content),
        regions=list(REGIONS),
        # An older version's scores lack what was added since.
        scores=[one for one in SCORES if any(content["summary"][region][one[0]]["n"] for region in REGIONS)],
        ranked=ranked,
        by_case=by_case,
        pictured=pictured,
        runs=runs,
        run_colours=list(zip(charts.RUN_COLOURS, charts.RUN_COLOURS_DARK, strict=True)),
        run_marks="●■▲◆▼✚",  # charts.MARKERS
        beside=beside(table, runs) if table else None,
        compared=[
            {
                "name": other.name,
                "differences": _by_region(one["differences"]),
            }
            for other, one in zip(others, compared, strict=True)
        ],
        compared_scores=[
            (score, head, digits + score.startswith("specificity")) for score, head, digits in shown
        ],
        confidence=f"{comparison.CONFIDENCE:.0%}",
        draws=f"{comparison.DRAWS:,}",
        charts=charts_of(runs),
        lesions_shown=_of_reference(content["lesions"])[:MOST_LESIONS],
        lesions_of_reference=len(_of_reference(content["lesions"])),
        lesion_scores=[one for one in LESION_SCORES if _is_known(content["lesions"], one[0])],
        lesion_counts=[one for one in LESION_COUNTS if _is_known(content["lesions"], one[0])],
        cascade=content["cascade"],
        losses=stage_misses.ranked(content["cascade"]["rows"]) if content["cascade"] else (),
        share=stage_misses.share,
        possible=stage_misses.possible,
        legend=[(overlays.COLOURS[tissue], overlays.NAMES[tissue]) for tissue in seen],
        sampling=sampling,
        sampling_legend=[(colour, overlays.LWS_NAMES[one]) for one, colour in overlays.LWS_COLOURS.items()],
        training=training,
        notes=notes,
        version=__version__,
    )


def _kinds(by_split: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """For the table of what the model has seen: `title`, `summary`, `cases` and whether it is `new` to it."""
    if not by_split or not by_split["known"]:
        return []
    return [
        {
            "title": seen.TITLES[kind],
            "summary": by_split["summary"][kind],
            "cases": ids,
            "new": kind not in seen.KNOWN_TO_THE_MODEL,
        }
        for kind, ids in by_split["cases"].items()
    ]


def _by_region(found: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], comparison.Difference]:
    return {(one["score"], one["region"]): comparison.Difference(**one) for one in found}


def _of_reference(lesions: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The lesions that are to be found, where the rule lists them: fields of `matched_lesions.Lesion`."""
    return [lesion for lesion in lesions["list"] if lesion["outcome"] != "false"] if lesions else []


def _is_known(lesions: Mapping[str, Any] | None, score: str) -> bool:
    """Whether any region has this lesion-wise score or count: the rule of 2023 has no surface Dice."""
    values = [of_region.get(score) for of_region in lesions["summary"].values()] if lesions else []
    return any(value["n"] if isinstance(value, Mapping) else value is not None for value in values)
