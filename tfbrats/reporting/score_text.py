"""What tfbrats evaluate prints: an evaluation as text for a terminal. No I/O."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tfbrats.labels import REGIONS, LabelSchema
from tfbrats.metrics.stage_misses import possible
from tfbrats.predictions import seen
from tfbrats.reporting import seen_text
from tfbrats.scoring import comparison, papers
from tfbrats.scoring.comparison import CONFIDENCE, DIGITS, DRAWS, LEAST_CASES, Difference
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.scoring.origin import BySplit
from tfbrats.scoring.summaries import Statistics, Summary
from tfbrats.terminal import style, wording

_STAGE_COLUMNS = {
    "missed_ml": "missed",
    "missed_here_ml": "by its own stage",
    "lost_by_wt_ml": "lost before: by WT",
    "lost_by_tc_ml": "by TC",
    "lost_outside_box_ml": "lost, outside box",
}
_SHORT = {"dice": "Dice", "hd95_mm": "HD95 mm", "sensitivity": "sensitivity"}
_FULL = {
    "dice": "Dice",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "specificity_tumour_slices": "specificity, tumour slices",
    "hausdorff_mm": "Hausdorff distance, mm",
    "hd95_mm": "HD95, mm",
    "hd95_pooled_mm": "HD95 pooled (MedPy's), mm",
    "nsd_1mm": "NSD at 1 mm (surface Dice)",
}
_LESION_TITLES = {
    "dice": "Dice",
    "hd95_mm": "HD95 mm",
    "nsd_05mm": "NSD 0.5 mm",
    "nsd_1mm": "NSD 1 mm",
    "reference_lesions": "lesions",
    "found": "found",
    "missed": "missed",
    "false": "false",
    "ignored_reference": "ignored",
    "ignored_prediction": "ignored of ours",
    # Of 2026, named as the challenge's program has them.
    "rq": "F1",
    "sq_dsc": "Dice",
    "sq_nsd": "NSD",
    "sq_hd95": "HD95",
    "n_ref_instances": "lesions",
    "tp": "found",
    "fn": "missed",
    "fp": "false",
    "global_bin_dsc": "whole: Dice",
    "global_bin_nsd": "NSD",
    "global_bin_hd95": "HD95",
    "large_instance_f1": "large: F1",
    "small_instance_f1": "small: F1",
}
_COMPARED = {"dice": "Dice", "sensitivity": "sensitivity", "hd95_mm": "HD95 mm"}  # printed without a --table


def warnings(evaluation: Evaluation, *others: Evaluation) -> list[str]:
    """What must not be overlooked: cases that the model has seen, labels that may be another table's.

    Args:
        others: runs that it is compared with.
    """
    texts = list(evaluation.warnings)
    for number, run in enumerate((evaluation, *others)):
        sentence, is_warning = what_was_seen(run)
        if is_warning:
            texts.append(f"{run.prediction}: {sentence}" if number else sentence)
    return texts


def what_was_seen(evaluation: Evaluation) -> tuple[str, bool]:
    """What is said of which cases the model has seen, and whether it is a warning."""
    name = evaluation.model.name if evaluation.model else None
    return seen_text.sentence(evaluation.by_split, name, evaluation.split is not None)


def of_scores(evaluation: Evaluation, in_full: bool = False) -> str:
    """The scores for a person to read: a small table, then what must be known of it.

    Args:
        in_full: every score, the rule for empty masks and what each stage of a cascade lost.
    """
    parts = [style.heading(_which_cases(evaluation)), "", short_table(evaluation.summary)]
    parts += _by_split(evaluation.seen_by_model)
    if in_full:
        parts += _in_full(evaluation)
    if in_full or evaluation.cascade.margin_voxels is not None:
        parts += _stages(evaluation)
    parts += _lesions(evaluation)
    remarks = _remarks(evaluation, in_full)
    return "\n".join([*parts, *(["", *remarks] if remarks else [])])


def _which_cases(evaluation: Evaluation) -> str:
    """E.g. "Mean of 6 cases, edition 2020, 5 of them seen by the model"."""
    split = f", split {evaluation.split.name} of {evaluation.split.of}" if evaluation.split else ""
    mean = "Mean of " if evaluation.cases > 1 else ""
    number = wording.counted(evaluation.cases, "case")
    return f"{mean}{number}, edition {', '.join(evaluation.editions)}{split}{evaluation.seen_briefly}"


def _remarks(evaluation: Evaluation, in_full: bool) -> list[str]:
    """What must be known of the scores, warnings first."""
    parts = [_warning(text) for text in warnings(evaluation)]
    if evaluation.missing:
        number = wording.counted(len(evaluation.missing), "case")
        named = comparison.first(evaluation.missing)
        parts.append(f"missing: {number} without a prediction, scored as empty: {named}")
    sentence, is_warning = what_was_seen(evaluation)
    if sentence and not is_warning:
        parts.append(wording.wrapped(sentence))
    notes = [*evaluation.notes, *tables_apart(evaluation)]
    if evaluation.tuned:
        notes.insert(0, f"not as the paper says, but tuned: {'; '.join(evaluation.tuned)}")
    if not in_full:
        notes = [*_empty_masks(evaluation), *notes]
    return parts + [style.note(text) for text in notes]


def _warning(text: str) -> str:
    """`WARNING: ...`, its later lines indented."""
    return style.warning(wording.wrapped(f"WARNING: {text}", 9).removeprefix("WARNING: "))


def _empty_masks(evaluation: Evaluation) -> list[str]:
    """How many cases a rule settled, where there are such."""
    touched = {region: scores["dice"].touched for region, scores in evaluation.summary.items()}
    texts = [f"{region} in {wording.counted(number, 'case')}" for region, number in touched.items() if number]
    if not texts:
        return []
    rule = evaluation.empty_rule.name
    return [f"empty masks, which score by rule {rule}: {', '.join(texts)} (--all tells the rule)"]


def _in_full(evaluation: Evaluation) -> list[str]:
    """Every score, and the rule for empty masks."""
    rule = evaluation.empty_rule
    return [
        "",
        style.heading("All scores; in brackets how many cases the rule for empty masks touched"),
        "",
        full_table(evaluation.summary),
        "",
        wording.wrapped(f"Empty masks, rule {rule.name}: {rule.meaning}."),
    ]


def _stages(evaluation: Evaluation) -> list[str]:
    """What each stage of a cascade missed."""
    how = "What a stage misses is lost to the next: TC is kept inside the predicted WT alone, ET in TC.\n"
    if evaluation.cascade.margin_voxels is None:
        how = "Read as if WT, TC and ET had been found in that order, each inside the one before.\n"
    title = "Share of the reference's volume that was missed, mean over the cases that have the region"
    return [
        f"\n{style.heading(title)}",
        how,
        stage_table(evaluation.cascade.summary),
    ]


def stage_table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Mean shares by region as text; a column of which nothing is known is left out."""
    names = [
        name
        for name in _STAGE_COLUMNS
        if not all(math.isnan(of_region["mean_share"][name]) for of_region in summary.values())
    ]
    rows = [("", *(_STAGE_COLUMNS[name] for name in names), "cases")]
    for region, of_region in summary.items():
        shares = of_region["mean_share"]
        are_shown = [possible(region, name) and not math.isnan(shares[name]) for name in names]
        cells = (f"{shares[name]:.1%}" if shown else "-" for name, shown in zip(names, are_shown, strict=True))
        rows.append((region, *cells, of_region["cases"]))
    return "\n".join(wording.columns(rows, ("<6", *([">20"] * len(names)), ">8")))


def _lesions(evaluation: Evaluation) -> list[str]:
    lesions = evaluation.lesions
    if lesions is None:
        return []
    heading = (
        f"Rule {lesions.rule}, lesion by lesion: {lesions.meaning}. Means over the cases; lesions are counted "
        "over all of them."
    )
    return [f"\n{wording.wrapped(heading)}\n", _lesion_table(lesions.summary)]


def tables_apart(evaluation: Evaluation) -> list[str]:
    """Where the two sides are written in different tables, in which."""

    def described(table: Mapping[str, Any]) -> str:
        return f"{table['edition']} ({LabelSchema.from_json(table).describe()})"

    return [
        f"label values: reference {described(tables['reference'])}; prediction "
        f"{described(tables['prediction'])}, as {tables['prediction_told_by']}; "
        f"{wording.counted(len(tables['cases']), 'case')}"
        for tables in evaluation.tables
        if tables["prediction"]["values"] != tables["reference"]["values"]
    ]


def _by_split(by_split: BySplit | None) -> list[str]:
    """Means of what the model has seen and what not, apart; nothing where all cases are of one kind."""
    if by_split is None or len(by_split.cases) < 2:
        return []
    shown = [(score, region) for score in ("dice", "hd95_mm") for region in REGIONS]
    rows = [("", "cases", *(f"{_SHORT[score]} {region}" for score, region in shown))]
    for kind, case_ids in by_split.cases.items():
        summary = by_split.summary[kind]
        means = (_number(score, summary[region][score].mean) for score, region in shown)
        rows.append((seen.TITLES[kind], len(case_ids), *means))
    title = style.heading("Means by split of the model")
    return [f"\n{title}\n", *wording.columns(rows, ("<", ">7", *([">12"] * len(shown))))]


def short_table(summary: Summary) -> str:
    """Means by region of the scores that are asked for first."""
    rows = [("", *_SHORT.values())]
    rows += [
        (region, *(_number(score, scores[score].mean) for score in _SHORT))
        for region, scores in summary.items()
    ]
    return "\n".join(wording.columns(rows, ("<", *(["  >"] * len(_SHORT)))))


def full_table(summary: Summary) -> str:
    """Means of every score, a line each; in brackets how many cases the rule settled or left out."""
    rows = [("", *summary)]
    for score, title in _FULL.items():
        of_regions = (scores[score] for scores in summary.values())
        rows.append((title, *(f"{_number(score, of.mean)} [{of.touched}]" for of in of_regions)))
    return "\n".join(wording.columns(rows, ("<", *(["  >"] * len(summary)))))


def _number(score: str, mean: float) -> str:
    return "-" if math.isnan(mean) else f"{mean:.2f}" if score.endswith(("_mm", "_hd95")) else f"{mean:.4f}"


def of_comparisons(evaluation: Evaluation, output: str, table_name: str | None) -> str:
    """What it was compared with, a line per region and score of the table, or of the usual scores without one.

    Args:
        output: folder of the evaluation.
    """
    titles = _COMPARED
    if table_name:
        titles = {score: title for score, title, _ in papers.TABLES[table_name].columns}
    own_name = evaluation.name(output)
    names = [own_name, *(other.name for other in evaluation.compared)]
    parts = [EXPLAINED]
    for other in evaluation.compared:
        name, other_name = (  # several runs of one row are told apart by their folders
            f"{row} ({folder})" if names.count(row) > 1 else row
            for row, folder in ((own_name, output), (other.name, other.folder))
        )
        parts += ["", comparison_text(name, other_name, other.differences, titles)]
    return "\n".join(parts)


def _lesion_table(summary: Mapping[str, Mapping[str, Statistics | int]]) -> str:
    """Means by region, and how many lesions all cases had; a score that the rule lacks is left out."""
    shown = {
        name: title
        for name, title in _LESION_TITLES.items()
        if any(_is_known(of_region.get(name)) for of_region in summary.values())
    }
    rows = [("", *shown.values())]
    for region, of_region in summary.items():
        # Of cases of several editions some regions lack what others have.
        values = [(name, of_region.get(name, "-")) for name in shown]
        cells = (_number(name, of.mean) if isinstance(of, Statistics) else of for name, of in values)
        rows.append((region, *cells))
    return "\n".join(wording.columns(rows, ("<6", *(f">{max(len(title), 7) + 2}" for title in shown.values()))))


def _is_known(value: Statistics | int | None) -> bool:
    """Whether a summary has this entry: statistics of some case, or a count."""
    return value is not None and not (isinstance(value, Statistics) and math.isnan(value.mean))


def comparison_text(
    name: str, other_name: str, differences: Sequence[Difference], titles: Mapping[str, str]
) -> str:
    """A line per score and region: "cun_lws minus cun: Dice WT +0.012 [-0.003, +0.027], 12 cases".

    Args:
        name: of the run whose scores are `Difference.mean`.
        other_name: of the one it is compared with.
        titles: score -> its heading, in the order to show them; scores without one are left out.
    """
    lines = []
    order = list(titles)
    titled = [difference for difference in differences if difference.score in titles]
    for difference in sorted(titled, key=lambda difference: order.index(difference.score)):
        what = f"{name} minus {other_name}: {titles[difference.score]} {difference.region}"
        digits = DIGITS.get(difference.score, 3)
        if not difference.cases:
            lines.append(f"{what} undefined: no case has a number on both sides")
            continue
        interval = f"[{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]"
        if difference.cases == 1:
            interval = "[no interval]"
        number = wording.counted(difference.cases, "case")
        mark = " *" if difference.excludes_0 else ""
        lines.append(f"{what} {difference.difference:+.{digits}f} {interval}, {number}{mark}")
    return "\n".join(lines)


EXPLAINED = (
    f"Mean difference over the same cases [{CONFIDENCE:.0%} interval, {DRAWS:,} paired bootstrap draws].\n"
    "* the interval excludes 0; of twenty intervals about one does so by chance. Of fewer than "
    f"{LEAST_CASES} cases none is marked.\n"
    "What another seed would have made of the same network is not in it."
)
