"""The files that tfbrats evaluate leaves: its own, and the two forms that other tools and people know.

metrics.json holds everything and is what is read back. Undefined numbers are null in JSON and nan in CSV.

summary.json has the shape of nnU-Net v2's: regions keyed as nnU-Net writes a tuple of label values, here
those of the edition ("(1, 2, 4)", "(1, 4)" and "(4,)" until 2021). Its Dice and IoU of a region that is on
neither side are undefined as in nnU-Net, whatever the empty-mask rule. challenge.csv has the columns of the
challenge's files, a row per case and five closing ones.
"""

import csv
import dataclasses
import functools
import io
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.machine import files
from tfbrats.metrics import region_scores, stage_misses
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.scoring.summaries import STATISTICS, Row, Statistics

TABLE = "metrics.csv"
CASCADE = "cascade.csv"
LESIONS = "lesions.csv"
LESION_LIST = "lesion_list.csv"
NNUNET = "summary.json"
CHALLENGE = "challenge.csv"
REPORT = "metrics.json"
COLUMNS = ("case_id", *(field.name for field in dataclasses.fields(region_scores.RegionScores)))
CASCADE_COLUMNS = ("case_id", *(field.name for field in dataclasses.fields(stage_misses.StageMisses)))

_CHALLENGE_SCORES = {
    "Dice": "dice",
    "Sensitivity": "sensitivity",
    "Specificity": "specificity",
    "Hausdorff95": "hd95_mm",
}
_CHALLENGE_REGIONS = ("ET", "WT", "TC")

_SCORES_SINCE = ("nsd_1mm",)  # what older versions did not write; the others are as good as ever

# Every file that `write` may make.
ALL = (TABLE, CASCADE, LESIONS, LESION_LIST, CHALLENGE, NNUNET, REPORT)


def names(evaluation: Evaluation) -> list[str]:
    """The files that `write` makes of this evaluation."""
    return [TABLE, CASCADE, *_lesion_tables(evaluation), CHALLENGE, NNUNET, REPORT]


def _lesion_tables(evaluation: Evaluation) -> dict[str, list[Row]]:
    """File -> its rows; none without lesion-wise scores, one without a list of lesions."""
    lesions = evaluation.lesions
    if lesions is None:
        return {}
    return {LESIONS: lesions.rows, **({LESION_LIST: lesions.each} if lesions.each else {})}


def write(evaluation: Evaluation, output: str | os.PathLike) -> None:
    """Every file into the folder `output`."""
    _write_csv(output, TABLE, COLUMNS, evaluation.rows)
    _write_csv(output, CASCADE, CASCADE_COLUMNS, evaluation.cascade.rows)
    tables = _lesion_tables(evaluation)
    for name, rows in tables.items():
        # Of cases of several editions some have columns that others lack.
        columns = dict.fromkeys(["case_id", "region", *(column for row in rows for column in row)])
        _write_csv(output, name, list(columns), rows)
    for name in {LESIONS, LESION_LIST} - set(tables):
        files.remove(files.join(output, name))  # an earlier run's, of which metrics.json knows nothing
    columns, rows = challenge(evaluation)
    _write_csv(output, CHALLENGE, columns, rows)
    files.write_json(files.join(output, NNUNET), as_json(nnunet_summary(evaluation)))
    files.write_json(files.join(output, REPORT), as_json(evaluation))


def _write_csv(output: str | os.PathLike, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval=math.nan, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_bytes(files.join(output, name), text.getvalue().encode())


def challenge(evaluation: Evaluation) -> tuple[list[str], list[Row]]:
    """Columns and rows of challenge.csv: Label, Dice_ET, Dice_WT, Dice_TC, Sensitivity_ET, ...

    Hausdorff95 is `hd95_mm`, specificity the whole volume's. The closing rows are labelled `STATISTICS`.
    """
    columns = {
        f"{title}_{region}": (region, score)
        for title, score in _CHALLENGE_SCORES.items()
        for region in _CHALLENGE_REGIONS
    }
    rows = [
        {"Label": case_id, **{column: by_region[region][score] for column, (region, score) in columns.items()}}
        for case_id, by_region in stage_misses.by_case(evaluation.rows).items()
    ]
    for statistic in STATISTICS:
        statistics = {c: evaluation.summary[region][score] for c, (region, score) in columns.items()}
        rows.append({"Label": statistic, **{c: of.named(statistic) for c, of in statistics.items()}})
    return ["Label", *columns], rows


def nnunet_summary(evaluation: Evaluation) -> dict[str, Any]:
    """summary.json: `foreground_mean`, `mean` by region and `metric_per_case`, as nnU-Net v2 has them.

    A case that was scored without a prediction has null as its `prediction_file`. Regions are keyed by the
    reference's values; a prediction written in another table has `prediction_values` too, by key.
    """
    per_case = [
        {
            "metrics": {_key(of["values"]): _nnunet_metrics(of) for of in counts["regions"].values()},
            "prediction_file": counts["prediction"],
            "reference_file": counts["reference"],
            **_other_values(counts["regions"].values()),
        }
        for counts in evaluation.counts
    ]
    metrics = [entry["metrics"] for entry in per_case]
    keys = dict.fromkeys(key for by_key in metrics for key in by_key)
    # Editions with other values side by side have keys of their own, each over its own cases.
    mean = {key: _means([by_key[key] for by_key in metrics if key in by_key]) for key in keys}
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
    means = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows if whole or not math.isnan(row[name])]
        means[name] = float(np.mean(values)) if values else math.nan
    return means


def read(output: str | os.PathLike) -> Evaluation:
    """What `write` wrote. What an older version did not write is there and empty, or nan.

    Raises:
        InputError: there is no metrics.json, or it is not ours.
    """
    if files.exists(output) and not files.is_folder(output):
        raise InputError(
            f"{output}: a file; expected the folder that tfbrats evaluate wrote. Give the folder"
            + (f": {files.parent(output) or '.'}" if files.name(output) == REPORT else ".")
        )
    path = files.join(output, REPORT)
    content = files.read_json(path)
    try:
        _add_scores_since(content)
        evaluation = from_json(Evaluation, content)
        _check_columns(evaluation)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not written by tfbrats evaluate ({error!r}).") from error
    return evaluation


def _add_scores_since(content: dict[str, Any]) -> None:
    """Null for the scores that an older version did not know."""
    for score in _SCORES_SINCE:
        for row in content["rows"]:
            row.setdefault(score, None)
        for scores in content["summary"].values():
            scores.setdefault(score, as_json(Statistics.of([], touched=0)))


def _check_columns(evaluation: Evaluation) -> None:
    """Raises KeyError where a row lacks a number, or the cascade's summary a region."""
    needed = [(row, region_scores.SCORES) for row in evaluation.rows]
    if evaluation.cascade is not None:
        needed += [(row, stage_misses.VOLUMES) for row in evaluation.cascade.rows]
        needed.append((evaluation.cascade.summary, tuple(REGIONS)))
    for entries, keys in needed:
        for key in keys:
            if key not in entries:
                raise KeyError(key)


def as_json(value: Any) -> Any:
    """A dataclass, and whatever lies in it, as JSON: nan is null, which is all that JSON has for it.

    A field's metadata may tell the `key` that stands for its name, and the value with which it is `left_out`.
    """
    if dataclasses.is_dataclass(value):
        entries = [
            (field.metadata, field.name, getattr(value, field.name)) for field in dataclasses.fields(value)
        ]
        return {
            metadata.get("key", name): as_json(entry)
            for metadata, name, entry in entries
            if "left_out" not in metadata or entry != metadata["left_out"]
        }
    if isinstance(value, Mapping):
        return {key: as_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def from_json(kind: Any, value: Any) -> Any:
    """The inverse of `as_json`, by a type: null is nan where the type has float and has no None.

    Keys that a dataclass does not know are passed over. What `Any` stands for stays as it is.

    Args:
        kind: a dataclass, list[...], dict[str, ...], a union of such, or a plain type.

    Raises:
        KeyError: an entry without a default is missing.
        TypeError, AttributeError: an entry is of another type.
    """
    parts = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        kind = _part_for(parts, value)
        parts = typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass_from_json(kind, value)
    if typing.get_origin(kind) is list:
        return [from_json(parts[0], entry) for entry in value]
    if typing.get_origin(kind) is dict:
        return {key: from_json(parts[1], entry) for key, entry in value.items()}
    return math.nan if kind is float and value is None else value


def _part_for(parts: Sequence[Any], value: Any) -> Any:
    """Which part of a union a value from JSON is of."""
    if value is None:
        return types.NoneType if types.NoneType in parts else float
    for part in parts if isinstance(value, dict) else ():
        if typing.get_origin(part) is dict or (dataclasses.is_dataclass(part) and _is_marked_as(part, value)):
            return part
    return Any


def _is_marked_as(kind: type, content: Mapping[str, Any]) -> bool:
    """Whether entries that tell one class from another (`Literal`) are this one's."""
    return all(
        content.get(name) in typing.get_args(of_field)
        for name, of_field in _types_of_fields(kind).items()
        if typing.get_origin(of_field) is typing.Literal
    )


def _dataclass_from_json(kind: type, content: Mapping[str, Any]) -> Any:
    of_fields = _types_of_fields(kind)
    entries = {}
    for field in dataclasses.fields(kind):
        key = field.metadata.get("key", field.name)
        if key in content:
            entries[field.name] = from_json(of_fields[field.name], content[key])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise KeyError(key)
    return kind(**entries)


@functools.cache
def _types_of_fields(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
