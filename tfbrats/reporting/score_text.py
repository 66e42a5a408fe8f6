"""What tfbrats.evaluate prints: its content as text for a terminal. No I/O."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tfbrats.labels import REGIONS, LabelSchema
from tfbrats.machine import wording
from tfbrats.metrics import stage_misses
from tfbrats.predictions import seen
from tfbrats.reporting import score_text
from tfbrats.scoring import comparison, papers
from tfbrats.scoring.comparison import CONFIDENCE, DIGITS, DRAWS, LEAST_CASES, Difference

_PRINTED = {
    "dice": "Dice",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "specificity_tumour_slices": "tumour slices",
    "hausdorff_mm": "Hausdorff mm",
    "hd95_mm": "HD95 mm",
    "hd95_pooled_mm": "pooled mm",
    "nsd_1mm": "NSD 1 mm",
}
_LESIONS = {
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


def warnings(content: Mapping[str, Any], *others: Mapping[str, Any]) -> list[str]:
    """What must not be overlooked: cases that the model has seen, labels that may be another table's.

    Args:
        others: runs that it is compared with.
    """
    texts = list(content["warnings"])
    for number, one in enumerate((content, *others)):
        sentence, loud = what_was_seen(one)
        if loud:
            texts.append(f"{one['prediction']}: {sentence}" if number else sentence)
    return texts


def what_was_seen(content: Mapping[str, Any]) -> tuple[str, bool]:
    """What is said of which cases the model has seen, and whether it is a warning."""
    name = (content["model"] or {}).get("name")
    return seen.sentence(content["by_split"], name, content["split"] is not None)


def of_scores(content: Mapping[str, Any]) -> str:
    """The scores for a person to read."""
    parts = [wording.wrapped(f"WARNING: {warning}", 9) for warning in warnings(content)]
    parts += [f"note: {note}" for note in (*content["notes"], *tables_apart(content))]
    if content["missing"]:
        number = papers.cases_text(len(content["missing"]))
        parts.append(
            f"missing: {number} without a prediction, scored as empty: {comparison.first(content['missing'])}"
        )
    rule, (seen_text, is_warning) = content["empty_rule"], what_was_seen(content)
    split = f", split {content['split']['name']} of {content['split']['of']}" if content["split"] else ""
    parts += [
        f"{papers.cases_text(content['cases'])}, edition {', '.join(content['editions'])}{split}. "
        f"Empty masks: rule {rule['name']}",
        wording.wrapped(f"({rule['meaning']})."),
        *([wording.wrapped(seen_text)] if seen_text and not is_warning else []),
        "Means; in brackets how many cases that rule touched.\n",
        table(content["summary"]),
        *_by_split(content["by_split"]),
        "\nShare of the reference's volume that was missed, mean over the cases that have the region.",
    ]
    if content["cascade"]["margin_voxels"] is None:
        parts.append("Read as if WT, TC and ET had been found in that order, each inside the one before.\n")
    else:
        parts.append(
            "What a stage misses is lost to the next: TC is kept inside the predicted WT alone, ET in TC.\n"
        )
    parts.append(stage_misses.table(content["cascade"]["summary"]))
    if content["lesions"]:
        rule, meaning = content["lesions"]["rule"], content["lesions"]["meaning"]
        parts.append(
            "\n"
            + wording.wrapped(
                f"Rule {rule}, lesion by lesion: {meaning}. Means over the cases; lesions are counted over all "
                "of them."
            )
            + "\n"
        )
        parts.append(_lesion_table(content["lesions"]["summary"]))
    return "\n".join(parts)


def tables_apart(content: Mapping[str, Any]) -> list[str]:
    """Where the two sides are written in different tables, in which."""

    def told(table: Mapping[str, Any]) -> str:
        return f"{table['edition']} ({LabelSchema.from_json(table).describe()})"

    return [
        f"label values: reference {told(one['reference'])}; prediction {told(one['prediction'])}, as "
        f"{one['prediction_told_by']}; {papers.cases_text(len(one['cases']))}"
        for one in content["tables"]
        if one["prediction"]["values"] != one["reference"]["values"]
    ]


def _by_split(by_split: Mapping[str, Any] | None) -> list[str]:
    """Means of what the model has seen and what not, apart; nothing where all cases are of one kind."""
    if not by_split or not by_split["known"] or len(by_split["cases"]) < 2:
        return []
    shown = [(score, region) for score in ("dice", "hd95_mm") for region in REGIONS]
    rows = [("", "cases", *(f"{_PRINTED[score]} {region}" for score, region in shown))]
    for kind, ids in by_split["cases"].items():
        summary = by_split["summary"][kind]
        means = (_number(score, summary[region][score]["mean"]) for score, region in shown)
        rows.append((seen.TITLES[kind], len(ids), *means))
    return ["\nMeans by split of the model:\n", *wording.columns(rows, ("<", ">7", *([">12"] * len(shown))))]


def table(summary: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Means by region; in brackets how many cases the empty-mask rule settled or left out.

    The second specificity is that of the tumour-bearing slices, "pooled" the second definition of HD95.
    """
    widths = [max(len(title), len("373.13 [42]")) + 1 for title in _PRINTED.values()]
    rows = [("", *_PRINTED.values())]
    for region, scores in summary.items():
        means = (f"{_number(score, scores[score]['mean'])} [{scores[score]['touched']}]" for score in _PRINTED)
        rows.append((region, *means))
    return "\n".join(wording.columns(rows, ("<6", *(f">{width}" for width in widths))))


def _number(score: str, mean: float) -> str:
    return "-" if math.isnan(mean) else f"{mean:.2f}" if score.endswith(("_mm", "_hd95")) else f"{mean:.4f}"


def of_comparisons(content: Mapping[str, Any], output: str, table_name: str | None) -> str:
    """What `compared` holds, a line per region and score of the table, or of the usual scores without one.

    Args:
        output: folder of `content`.
    """
    titles = _COMPARED
    if table_name:
        titles = {score: title for score, title, _ in papers.TABLES[table_name].columns}
    ours = comparison.name_of(content, output)
    names = [ours, *(one["with"] for one in content["compared"])]
    parts = [score_text.EXPLAINED]
    for one in content["compared"]:
        found = [comparison.Difference(**difference) for difference in one["differences"]]
        name, other = (  # several runs of one row are told apart by their folders
            f"{row} ({place})" if names.count(row) > 1 else row
            for row, place in ((ours, output), (one["with"], one["folder"]))
        )
        parts += ["", score_text.comparison_text(name, other, found, titles)]
    return "\n".join(parts)


def _lesion_table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Means by region, and how many lesions all cases had; a score that the rule lacks is left out."""
    shown = {
        name: title
        for name, title in _LESIONS.items()
        if any(_is_known(of_region.get(name)) for of_region in summary.values())
    }
    rows = [("", *shown.values())]
    for region, of_region in summary.items():
        # Of cases of several editions some regions lack what others have.
        values = [(name, of_region.get(name, "-")) for name in shown]
        cells = (_number(name, one["mean"]) if isinstance(one, Mapping) else one for name, one in values)
        rows.append((region, *cells))
    return "\n".join(wording.columns(rows, ("<6", *(f">{max(len(title), 7) + 2}" for title in shown.values()))))


def _is_known(value: Mapping[str, float] | int | None) -> bool:
    """Whether a summary has this entry: statistics of some case, or a count."""
    return value is not None and not (isinstance(value, Mapping) and math.isnan(value["mean"]))


def comparison_text(name: str, other: str, found: Sequence[Difference], titles: Mapping[str, str]) -> str:
    """A line per score and region: "cun_lws minus cun: Dice WT +0.012 [-0.003, +0.027], 12 cases".

    Args:
        name: of the run whose scores are `Difference.mean`.
        other: of the one it is compared with.
        titles: score -> its heading, in the order to show them; scores without one are left out.
    """
    parts = []
    order = list(titles)
    for one in sorted((one for one in found if one.score in titles), key=lambda one: order.index(one.score)):
        what = f"{name} minus {other}: {titles[one.score]} {one.region}"
        digits = DIGITS.get(one.score, 3)
        if not one.cases:
            parts.append(f"{what} undefined: no case has a number on both sides")
            continue
        interval = f"[{one.low:+.{digits}f}, {one.high:+.{digits}f}]" if one.cases > 1 else "[no interval]"
        mark = " *" if one.excludes_0 else ""
        parts.append(f"{what} {one.difference:+.{digits}f} {interval}, {papers.cases_text(one.cases)}{mark}")
    return "\n".join(parts)


EXPLAINED = (
    f"Mean difference over the same cases [{CONFIDENCE:.0%} interval, {DRAWS:,} paired bootstrap draws].\n"
    "* the interval excludes 0; of twenty intervals about one does so by chance. Of fewer than "
    f"{LEAST_CASES} cases none is marked.\n"
    "What another seed would have made of the same network is not in it."
)
