"""Score predictions against references; two folders are enough.

    python -m tfbrats.evaluate --prediction OUT --reference data/MICCAI_BraTS2020_TrainingData --output REPORT

--prediction holds CASE.nii.gz (or .nii) in the label values of the reference's edition. --reference is a
data set that tfbrats.inspect recognises, or a folder of CASE.nii.gz or CASE_seg.nii.gz. Every missing,
extra, unreadable or misaligned case is listed, all of them together, and then nothing is written.

REPORT/metrics.csv holds a row per case and region, REPORT/cascade.csv what each stage of a cascade missed and
what an earlier one had lost (tfbrats/stages.py), REPORT/metrics.json all these rows with their summaries.
"""

import concurrent.futures
import csv
import dataclasses
import functools
import importlib.metadata
import io
import json
import math
import multiprocessing
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from tfbrats import __version__, case, command, files, metrics, model_card, stages
from tfbrats.command import InputError
from tfbrats.labels import EDITIONS, REGIONS
from tfbrats.pairs import Pair, match

TABLE = "metrics.csv"
CASCADE = "cascade.csv"
REPORT = "metrics.json"
COLUMNS = ("case_id", *(field.name for field in dataclasses.fields(metrics.RegionScores)))
CASCADE_COLUMNS = ("case_id", *(field.name for field in dataclasses.fields(stages.StageLosses)))
_PRINTED = {
    "dice": "Dice",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "specificity_tumour_slices": "in tumour slices",
    "hd95_mm": "HD95 mm",
    "hd95_pooled_mm": "HD95 pooled mm",
    "hausdorff_mm": "Hausdorff mm",
}


# --- scores ---------------------------------------------------------------------------------------------


def load_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray, case.Grid]:
    """Prediction and reference as tissues, uint8 [I, J, K], and their common grid.

    Raises:
        case.CaseError: unreadable, label values outside the schema, or two grids; every reason.
    """
    loaded, faults = [], []
    for path in (pair.prediction, pair.reference):
        try:
            loaded.append(case.load_label(path, pair.schema))
        except InputError as error:
            faults.append(str(error))
    if not faults:
        faults = [
            f"{pair.prediction}: {difference} of the reference. Write it on the reference's grid."
            for difference in case.grid_differences(loaded[0][1], loaded[1][1])
        ]
    if faults:
        raise case.CaseError(pair.case_id, faults)
    return loaded[0][0], loaded[1][0], loaded[1][1]


def score_pair(pair: Pair, empty: str = "brats", margin: int | None = None) -> tuple[list[dict], list[dict]]:
    """The rows of one case, keys as `COLUMNS` and as `CASCADE_COLUMNS`. Errors as `load_pair`.

    Args:
        margin: see `stages.score_case`.
    """
    prediction, reference, grid = load_pair(pair)
    found = (
        metrics.score_case(prediction, reference, grid.spacing_mm, empty),
        stages.score_case(prediction, reference, grid.spacing_mm, margin),
    )
    scores, losses = ([{"case_id": pair.case_id, **dataclasses.asdict(row)} for row in rows] for rows in found)
    return scores, losses


def _attempt(
    pair: Pair, empty: str, margin: int | None, only_check: bool
) -> tuple[list[dict], list[dict], list[str]]:
    """Both kinds of rows and the faults of one case: what a worker process does."""
    try:
        if only_check:
            load_pair(pair)
            return [], [], []
        return *score_pair(pair, empty, margin), []
    except case.CaseError as error:
        return [], [], [f"{error.case_id}: {fault}" for fault in error.faults]


def cascade_margin(prediction: str | os.PathLike) -> tuple[int | None, list[str]]:
    """Voxels by which the model that wrote a folder of predictions grew its boxes, and what is to be noted.

    The model's card lies beside what it predicted. None without a card, and of a model that is no cascade. No
    score depends on it, so a card that cannot be read is a note and no fault.
    """
    path = files.join(prediction, model_card.FILE)
    if not files.exists(path):
        return None, []
    try:
        found: Any = model_card.parse(files.read_bytes(path), path).training_data
    except InputError as error:
        return None, [f"the cascade's margin is unknown: {error}"]
    for key in ("config", "cascade", "margin"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return (found if type(found) is int and found >= 0 else None), []


def _in_parallel(function: Callable, items: Sequence, workers: int) -> Iterator:
    quiet = not sys.stderr.isatty()
    if workers == 1:
        yield from tqdm(map(function, items), total=len(items), unit="case", disable=quiet)
        return
    context = multiprocessing.get_context("spawn")  # a fork may copy a lock that nobody will open
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        try:
            yield from tqdm(pool.map(function, items), total=len(items), unit="case", disable=quiet)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise InputError(
                f"a worker process died, most likely for want of memory ({workers} at a time). Pass "
                "--workers 1."
            ) from error


def evaluate(
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    edition: str | None = None,
    empty: str = "brats",
    cases: Sequence[str] | None = None,
    allow_missing: bool = False,
    workers: int = 1,
) -> dict[str, Any]:
    """Scores every case; writes nothing.

    Args:
        prediction: as for `match`, and so are `reference`, `edition`, `cases` and `allow_missing`.
        empty: a key of `metrics.EMPTY_RULES`.
        workers: processes, ~0.3 GB each at full size. More than one needs a main module that can be
            imported (`if __name__ == "__main__":`), and folders that another process can open.

    Returns:
        The content of metrics.json: `rows` with keys `COLUMNS`, `summary` by region and score, `cascade` with
        its `margin_voxels` (or None), `summary` and `rows` with keys `CASCADE_COLUMNS`, and what was compared
        by which rule. Undefined scores are nan.

    Raises:
        InputError: everything that is missing, extra, unreadable or misaligned, a line each.
    """
    if empty not in metrics.EMPTY_RULES:
        raise InputError(f"empty-mask rule {empty!r} is unknown; choose from {', '.join(metrics.EMPTY_RULES)}.")
    found = match(prediction, reference, edition, cases, allow_missing)
    margin, margin_notes = cascade_margin(prediction)
    # With a fault in hand there will be no scores: the rest is only looked through for more.
    task = functools.partial(_attempt, empty=empty, margin=margin, only_check=bool(found.faults))
    rows, losses, faults = [], [], list(found.faults)
    for case_rows, case_losses, case_faults in _in_parallel(
        task, found.pairs, max(1, min(workers, len(found.pairs)))
    ):
        rows += case_rows
        losses += case_losses
        faults += case_faults
    if faults:
        raise InputError(f"nothing was scored; faults: {len(faults)}\n  " + "\n  ".join(faults))
    return {
        "prediction": os.fspath(prediction),
        "reference": os.fspath(reference),
        "edition_given": edition,
        "editions": sorted({pair.schema.edition for pair in found.pairs}),
        "cases": len(found.pairs),
        "left_out": list(found.skipped),
        "notes": [*found.notes, *margin_notes],
        "empty_rule": {"name": empty, "meaning": metrics.EMPTY_RULES[empty]},
        "summary": summarise(rows),
        "rows": rows,
        "cascade": {"margin_voxels": margin, "summary": stages.summarise(losses), "rows": losses},
        "versions": {
            "tfbrats": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("numpy", "scipy", "nibabel")},
        },
    }


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Region -> score -> mean, std, median, 25quantile, 75quantile, n, touched.

    Args:
        rows: keys as `COLUMNS`.

    Returns:
        `std` is the population's, quantiles are interpolated; nan is left out, `n` is what was not nan, and
        `touched` counts the cases in which the empty-mask rule settled the score or left it out.
    """
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for region in REGIONS:
        of_region = [row for row in rows if row["region"] == region]
        summary[region] = {}
        for score in metrics.SCORES:
            values = np.array([row[score] for row in of_region], float)
            values = values[~np.isnan(values)]
            quartiles = np.quantile(values, (0.25, 0.5, 0.75)) if values.size else [math.nan] * 3
            summary[region][score] = {
                "mean": float(values.mean()) if values.size else math.nan,
                "std": float(values.std()) if values.size else math.nan,
                "median": float(quartiles[1]),
                "25quantile": float(quartiles[0]),
                "75quantile": float(quartiles[2]),
                "n": int(values.size),
                "touched": sum(metrics.touched_by_rule(score, row["empty"]) for row in of_region),
            }
    return summary


# --- what is written and printed ------------------------------------------------------------------------


def write(content: Mapping[str, Any], output: str | os.PathLike) -> None:
    """metrics.csv, cascade.csv and metrics.json into the folder `output`, from `evaluate`'s result."""
    for name, columns, rows in (
        (TABLE, COLUMNS, content["rows"]),
        (CASCADE, CASCADE_COLUMNS, content["cascade"]["rows"]),
    ):
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.write_bytes(files.join(output, name), text.getvalue().encode())
    files.write_json(files.join(output, REPORT), _without_nan(content))


def read(output: str | os.PathLike) -> dict[str, Any]:
    """What `write` wrote, undefined numbers nan again.

    `cascade` is None where an older version wrote no such entry: its scores are as good as ever.

    Raises:
        InputError: there is no metrics.json, or it is not ours.
    """
    path = files.join(output, REPORT)
    content = files.read_json(path)
    try:
        for row in content["rows"]:
            _restore_nan(row, metrics.SCORES)
        for scores in content["summary"].values():
            for statistics in scores.values():
                _restore_nan(statistics, statistics)
        cascade = content.setdefault("cascade", None)
        if cascade is not None:
            for row in cascade["rows"]:
                _restore_nan(row, stages.VOLUMES)
            for region in REGIONS:
                _restore_nan(cascade["summary"][region]["sum_ml"], stages.VOLUMES)
                _restore_nan(cascade["summary"][region]["mean_share"], stages.SHARES)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not written by python -m tfbrats.evaluate ({error!r}).") from error
    return content


def _restore_nan(numbers: dict[str, Any], names: Iterable[str]) -> None:
    numbers.update({name: math.nan for name in names if numbers[name] is None})


def _without_nan(content: Any) -> Any:
    """JSON has no nan: null."""
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def table(summary: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Means by region; in brackets how many cases the empty-mask rule settled or left out."""
    lines = ["      " + "".join(f"{title:>18}" for title in _PRINTED.values())]
    for region, scores in summary.items():
        line = f"{region:6}"
        for score in _PRINTED:
            mean, touched = scores[score]["mean"], scores[score]["touched"]
            text = f"{mean:.2f}" if score.endswith("_mm") else f"{mean:.4f}"
            line += f"{text + f' [{touched}]':>18}"
        lines.append(line)
    return "\n".join(lines)


def _names(text: str) -> list[str]:
    """--cases: a file with a case id a line, or ids between commas."""
    if files.exists(text) and not files.is_folder(text):
        text = files.read_bytes(text).decode()
    names = [name for name in re.split(r"[,\s]+", text) if name]
    if not names:
        raise InputError("--cases names no case; give ids between commas, or a file with one a line.")
    return names


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.evaluate", __doc__)
    parser.add_argument("--prediction", required=True, metavar="DIR", help="folder of CASE.nii.gz")
    parser.add_argument("--reference", required=True, metavar="DIR", help="data set, or folder of masks")
    parser.add_argument("--output", required=True, metavar="REPORT", help="folder for the tables")
    parser.add_argument("--edition", choices=tuple(EDITIONS), help="overrides what the names say")
    parser.add_argument("--empty", choices=tuple(metrics.EMPTY_RULES), default="brats", help="empty masks")
    parser.add_argument("--cases", metavar="IDS", help="only these: a file, or ids between commas")
    parser.add_argument("--allow-missing", action="store_true", help="leave out what has no prediction")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print metrics.json instead of the table")
    given = parser.parse_args(arguments)
    files.check_can_hold(given.output)  # before minutes of scoring
    content = evaluate(
        given.prediction,
        given.reference,
        given.edition,
        given.empty,
        _names(given.cases) if given.cases else None,
        given.allow_missing,
        given.workers,
    )
    write(content, given.output)
    if given.json:
        print(json.dumps(_without_nan(content), indent=2))
        return
    for note in content["notes"]:
        print(f"note: {note}")
    if content["left_out"]:
        print(f"left out: {len(content['left_out'])} references without a prediction")
    print(
        f"{content['cases']} cases, edition {', '.join(content['editions'])}. Empty masks: rule {given.empty}"
    )
    print("(" + content["empty_rule"]["meaning"] + ").")
    print("Means; in brackets how many cases that rule touched.\n")
    print(table(content["summary"]))
    print("\nShare of the reference's volume that was missed, mean over the cases that have the region.")
    if content["cascade"]["margin_voxels"] is None:
        print("Read as if WT, TC and ET had been found in that order, each inside the one before.\n")
    else:
        print("What a stage misses is lost to the next: TC is kept inside the predicted WT alone, ET in TC.\n")
    print(stages.table(content["cascade"]["summary"]))
    print("\n" + "\n".join(files.join(given.output, name) for name in (TABLE, CASCADE, REPORT)))


if __name__ == "__main__":
    command.run(main)
