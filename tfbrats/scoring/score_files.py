"""The files that tfbrats.evaluate leaves: its own, and the two forms that other tools and people know.

metrics.json holds everything and is what is read back. Undefined numbers are null in JSON and nan in CSV.

summary.json has the shape of nnU-Net v2's: regions keyed as nnU-Net writes a tuple of label values, here
those of the edition ("(1, 2, 4)", "(1, 4)" and "(4,)" until 2021). Its Dice and IoU of a region that is on
neither side are undefined as in nnU-Net, whatever the empty-mask rule. challenge.csv has the columns of the
challenge's files, a row per case and five closing ones.
"""

import csv
import dataclasses
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.machine import files
from tfbrats.metrics import region_scores, stage_misses

TABLE = "metrics.csv"
CASCADE = "cascade.csv"
LESIONS = "lesions.csv"
LESION_LIST = "lesion_list.csv"
NNUNET = "summary.json"
CHALLENGE = "challenge.csv"
REPORT = "metrics.json"
COLUMNS = ("case_id", *(field.name for field in dataclasses.fields(region_scores.RegionScores)))
CASCADE_COLUMNS = ("case_id", *(field.name for field in dataclasses.fields(stage_misses.StageLosses)))

STATISTICS = ("mean", "std", "median", "25quantile", "75quantile")  # the challenge's closing rows
_CHALLENGE_SCORES = {
    "Dice": "dice",
    "Sensitivity": "sensitivity",
    "Specificity": "specificity",
    "Hausdorff95": "hd95_mm",
}
_CHALLENGE_REGIONS = ("ET", "WT", "TC")

# What older versions did not write, and what stands for it: the scores that are there are as good as ever.
_KEYS_SINCE: Mapping[str, Any] = {
    "cascade": None,
    "model": None,
    "split": None,
    "lesions": None,
    "missing": (),
    "counts": (),
    "compared": (),
    "tables": (),
    "warnings": (),
    "by_split": None,
}
_SCORES_SINCE = ("nsd_1mm",)


# Every file that `write` may make.
ALL = (TABLE, CASCADE, LESIONS, LESION_LIST, CHALLENGE, NNUNET, REPORT)


def names(content: Mapping[str, Any]) -> list[str]:
    """The files that `write` makes of this content."""
    return [TABLE, CASCADE, *_lesion_tables(content), CHALLENGE, NNUNET, REPORT]


def _lesion_tables(content: Mapping[str, Any]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """File -> its rows; none without lesion-wise scores, one without a list of lesions."""
    lesions = content["lesions"]
    if not lesions:
        return {}
    return {LESIONS: lesions["rows"], **({LESION_LIST: lesions["list"]} if lesions["list"] else {})}


def write(content: Mapping[str, Any], output: str | os.PathLike) -> None:
    """Every file into the folder `output`, from `evaluate`'s result."""
    _write_csv(output, TABLE, COLUMNS, content["rows"])
    _write_csv(output, CASCADE, CASCADE_COLUMNS, content["cascade"]["rows"])
    lesions = _lesion_tables(content)
    for name, rows in lesions.items():
        # Of cases of several editions some have columns that others lack.
        columns = dict.fromkeys(["case_id", "region", *(column for row in rows for column in row)])
        _write_csv(output, name, list(columns), rows)
    for name in {LESIONS, LESION_LIST} - set(lesions):
        files.remove(files.join(output, name))  # an earlier run's, of which metrics.json knows nothing
    columns, rows = challenge(content)
    _write_csv(output, CHALLENGE, columns, rows)
    files.write_json(files.join(output, NNUNET), without_nan(nnunet_summary(content)))
    files.write_json(files.join(output, REPORT), without_nan(content))


def _write_csv(
    output: str | os.PathLike, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval=math.nan, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_bytes(files.join(output, name), text.getvalue().encode())


# --- the forms that others know -------------------------------------------------------------------------


def challenge(content: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of challenge.csv: Label, Dice_ET, Dice_WT, Dice_TC, Sensitivity_ET, ...

    Hausdorff95 is `hd95_mm`, specificity the whole volume's. The closing rows are labelled `STATISTICS`.
    """
    columns = {
        f"{title}_{region}": (region, score)
        for title, score in _CHALLENGE_SCORES.items()
        for region in _CHALLENGE_REGIONS
    }
    rows = [
        {"Label": case_id, **{column: found[region][score] for column, (region, score) in columns.items()}}
        for case_id, found in stage_misses.by_case(content["rows"]).items()
    ]
    rows += [
        {
            "Label": statistic,
            **{c: content["summary"][region][score][statistic] for c, (region, score) in columns.items()},
        }
        for statistic in STATISTICS
    ]
    return ["Label", *columns], rows


def nnunet_summary(content: Mapping[str, Any]) -> dict[str, Any]:
    """summary.json: `foreground_mean`, `mean` by region and `metric_per_case`, as nnU-Net v2 has them.

    A case that was scored without a prediction has null as its `prediction_file`. Regions are keyed by the
    reference's values; a prediction written in another table has `prediction_values` too, by key.
    """
    per_case = [
        {
            "metrics": {_key(found["values"]): _nnunet_metrics(found) for found in one["regions"].values()},
            "prediction_file": one["prediction"],
            "reference_file": one["reference"],
            **_other_values(one["regions"].values()),
        }
        for one in content["counts"]
    ]
    keys = dict.fromkeys(key for one in per_case for key in one["metrics"])
    # Editions with other values side by side have keys of their own, each over its own cases.
    mean = {key: _means([one["metrics"][key] for one in per_case if key in one["metrics"]]) for key in keys}
    foreground = _means(list(mean.values()), whole=True)
    return {"foreground_mean": foreground, "mean": mean, "metric_per_case": per_case}


def _other_values(regions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Where the prediction's file has a table of its own: the values that stand in it for each key's."""
    own = {_key(counts["values"]): counts.get("prediction_values") for counts in regions}
    return {"prediction_values": own} if any(own.values()) else {}


def _key(values: Sequence[int]) -> str:
    return str(tuple(values))


def _nnunet_metrics(counts: Mapping[str, Any]) -> dict[str, float]:
    true, false, missed = counts["TP"], counts["FP"], counts["FN"]
    either = true + false + missed
    return {
        "Dice": 2 * true / (2 * true + false + missed) if either else math.nan,
        "FN": missed,
        "FP": false,
        "IoU": true / either if either else math.nan,
        "TN": counts["TN"],
        "TP": true,
        "n_pred": true + false,
        "n_ref": true + missed,
    }


def _means(rows: Sequence[Mapping[str, float]], whole: bool = False) -> dict[str, float]:
    """Mean of each entry without its nan; with `whole` nan where any is nan, as nnU-Net's foreground mean."""
    found = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows if whole or not math.isnan(row[name])]
        found[name] = float(np.mean(values)) if values else math.nan
    return found


# --- nan and null ---------------------------------------------------------------------------------------


def read(output: str | os.PathLike) -> dict[str, Any]:
    """What `write` wrote, undefined numbers nan again.

    What an older version did not write is there and empty: `cascade` None, `missing` [], `nsd_1mm` nan.

    Raises:
        InputError: there is no metrics.json, or it is not ours.
    """
    if files.exists(output) and not files.is_folder(output):
        raise InputError(
            f"{output}: a file; expected the folder that python -m tfbrats.evaluate wrote. Give the folder"
            + (f": {files.parent(output) or '.'}" if files.name(output) == REPORT else ".")
        )
    path = files.join(output, REPORT)
    content = files.read_json(path)
    try:
        for key, nothing in _KEYS_SINCE.items():
            content.setdefault(key, list(nothing) if nothing == () else nothing)
        for row in content["rows"]:
            for score in _SCORES_SINCE:
                row.setdefault(score, None)
            _restore_nan(row, region_scores.SCORES)
        for scores in content["summary"].values():
            for score in _SCORES_SINCE:
                scores.setdefault(score, dict.fromkeys(STATISTICS) | {"n": 0, "touched": 0})
            _restore_all(scores)
        cascade = content["cascade"]
        if cascade is not None:
            for row in cascade["rows"]:
                _restore_nan(row, stage_misses.VOLUMES)
            for region in REGIONS:
                _restore_nan(cascade["summary"][region]["sum_ml"], stage_misses.VOLUMES)
                _restore_nan(cascade["summary"][region]["mean_share"], stage_misses.SHARES)
        if content["by_split"] is not None and content["by_split"]["known"]:
            for of_kind in content["by_split"]["summary"].values():
                for scores in of_kind.values():
                    _restore_all(scores)
            _restore_nan(content["by_split"]["others_dice"], REGIONS)
        lesions = content["lesions"]
        if lesions is not None:
            for row in (*lesions["rows"], *lesions.setdefault("list", [])):
                _restore_nan(row, row)
            for scores in lesions["summary"].values():
                _restore_all(scores)
        for compared in content["compared"]:
            for difference in compared["differences"]:
                _restore_nan(difference, difference)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not written by python -m tfbrats.evaluate ({error!r}).") from error
    return content


def _restore_nan(numbers: dict[str, Any], names: Iterable[str]) -> None:
    numbers.update({name: math.nan for name in names if numbers[name] is None})


def _restore_all(scores: Mapping[str, Any]) -> None:
    """Statistics by score; a plain number is a count."""
    for statistics in scores.values():
        if isinstance(statistics, dict):
            _restore_nan(statistics, statistics)


def without_nan(content: Any) -> Any:
    """JSON has no nan: null."""
    if isinstance(content, Mapping):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
