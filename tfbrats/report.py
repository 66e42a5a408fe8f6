r"""One page to look at: scores beside the paper's, boxes and points, cases as pictures, and what was run.

    python -m tfbrats.report --metrics REPORT --prediction OUT --reference DATA --output report.html

--metrics is the folder that python -m tfbrats.evaluate wrote; --prediction and --reference are the folders
it compared. With the run that trained the model, the paper's table, and other runs of the same cases:

    python -m tfbrats.report --metrics REPORT --prediction OUT --reference DATA --output report.html \
        --run runs/cun_lws --table paper_a --compare REPORT_OF_CUN

The page is a single file: it holds its pictures, runs no script and loads nothing. What it could not show for
want of a file it says.
"""

import csv
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfbrats import (
    charts,
    command,
    evaluate,
    files,
    label_tables,
    page,
    paths,
    pictures,
    run,
    score_text,
    scoring,
    tables,
)
from tfbrats import compare as comparison
from tfbrats.command import InputError
from tfbrats.compare import name_of
from tfbrats.config import Config, SliceConfig, differences, from_mapping
from tfbrats.labels import REGIONS, region_mask
from tfbrats.metrics import dice
from tfbrats.origin import by_split_of, card_beside
from tfbrats.page import Scored
from tfbrats.pairs import Pair, match

# --- the run that trained the model ---------------------------------------------------------------------


def curves_of(histories: Mapping[str, Sequence[Mapping[str, str]]]) -> list[dict[str, Any]]:
    """The training curves of a run, from its `histories_of`: `title`, and `charts.training_curves` as `charts`.

    One entry without a title for a network trained alone; for a cascade one for each region whose training
    has begun. None at all before the first epoch has ended.
    """
    return [
        {"title": region, "charts": charts.training_curves(history)}
        for region, history in histories.items()
        if history
    ]


def _homes(run_folder: str | os.PathLike) -> dict[str, str | os.PathLike]:
    """Where a history.csv may lie: "" is the run's own, the rest are its regions'."""
    return {"": run_folder, **{region: files.join(run_folder, region.lower()) for region in REGIONS}}


def histories_of(run_folder: str | os.PathLike) -> dict[str, list[dict[str, str]]]:
    """The rows of every history.csv there may be, as `_homes`; none of one in which nothing can be drawn."""
    return {region: _history(home) for region, home in _homes(run_folder).items()}


def _history(home: str | os.PathLike) -> list[dict[str, str]]:
    try:
        # Cells beyond the header's have no name.
        rows = [{key: text for key, text in row.items() if key} for row in run.read_history(home)]
    except (UnicodeDecodeError, csv.Error):
        return []
    drawn = [name for names in charts.curve_columns(rows[0] if rows else ()).values() for name in names]
    return rows if any(np.isfinite(charts.number(row[name])) for row in rows for name in drawn) else []


def _without_curve(run_folder: str | os.PathLike, regions: Sequence[str]) -> list[str]:
    """Why these networks, "" or regions, have no curve: sentences."""
    notes, silent = [], []
    for region in regions:
        home = _homes(run_folder)[region]
        path = files.join(home, run.HISTORY)
        if files.exists(path):
            notes.append(f"{path} holds no loss and no Dice that can be drawn: no curve. It is damaged.")
        elif files.exists(run.checkpoints(home, "best")):
            notes.append(f"{path} is missing, though the network was trained: no curve.")
        else:
            silent.append(region or "the network")
    return notes + ([f"No epoch has ended yet of {', '.join(silent)}: no curve."] if silent else [])


def training_of(run_folder: str | os.PathLike | None, model: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is known of how the model was trained.

    Args:
        run_folder: of the training; None if it was not given: then the model's card may have the config.
        model: `origin.model_of`'s.

    Returns:
        `settings` (config.Config or None), `source` (where they are from), `environment` (or None), `curves`
        (see `curves_of`), `notes`: what is missing, or does not fit together, and `contradictions`: those of
        the notes that say that the run is not the model's.

    Raises:
        InputError: the folder is given and holds no run.
    """
    known = (model or {}).get("config")
    if run_folder is None:
        found = {"settings": None, "source": "the model’s card", "environment": None, "curves": []}
        notes = ["No run folder was given (--run): no training curves, nothing of the machine that trained."]
        if known is None:
            notes.append("Nor is there a model’s card beside the predictions: the config is not known.")
        else:
            try:
                found["settings"] = from_mapping(known, "the model's card")
            except InputError as error:
                notes.append(f"The config in the model’s card is another version’s: {error}")
        return {**found, "notes": notes, "contradictions": []}

    histories = histories_of(run_folder)
    path = files.join(run_folder, "environment.json")
    settings: Config | None = None
    notes, contradictions = [], []
    if files.exists(files.join(run_folder, "config.yaml")) or not any(histories.values()):
        settings = run.read_config(run_folder)
        networks = ("",) if isinstance(settings, SliceConfig) else tuple(REGIONS)
        notes += _without_curve(run_folder, [region for region in networks if not histories[region]])
    else:
        notes.append(f"{run_folder} has no config.yaml.")
    environment = files.read_json(path) if files.exists(path) else None
    if environment is None:
        notes.append(f"{run_folder} has no environment.json.")
    if settings is not None and known is not None:
        found = differences(settings.model_dump(mode="json"), known)
        if found:
            contradictions = [f"The run’s config is not the one in the model’s card: {'; '.join(found)}."]
    return {
        "settings": settings,
        "source": files.join(run_folder, "config.yaml"),
        "environment": environment,
        "curves": curves_of(histories),
        "notes": notes + contradictions,
        "contradictions": contradictions,
    }


# --- which runs, which files ----------------------------------------------------------------------------


def named(folders: Sequence[str | os.PathLike], contents: Sequence[Mapping[str, Any]]) -> list[Scored]:
    """Runs by what `name_of` calls them, or by row and folder where that is one name for two."""
    names = [name_of(content, folder) for folder, content in zip(folders, contents, strict=True)]
    found: list[Scored] = []
    for name, folder, content in zip(names, folders, contents, strict=True):
        if names.count(name) > 1:
            name = f"{name} ({files.name(folder)})"
            if any(one.name == name for one in found):
                name = f"{name} [{len(found) + 1}]"
        found.append(Scored(name, content))
    return found


def _check_scored(
    rows: Sequence[Mapping[str, Any]],
    pair: Pair,
    prediction: np.ndarray,
    reference: np.ndarray,
    where: str | os.PathLike,
) -> None:
    """Raises InputError unless the files are those that were scored, going by WT's Dice."""
    (row,) = (row for row in rows if (row["case_id"], row["region"]) == (pair.case_id, "WT"))
    ours, theirs = (region_mask(tissues, "WT") for tissues in (prediction, reference))
    if row["empty"] or not (ours.any() and theirs.any()):
        return  # the empty-mask rule's number, not a measured one
    found = dice(ours, theirs)
    if abs(found - row["dice"]) > 1e-6:
        raise InputError(
            f"{pair.case_id}: {where} says Dice {row['dice']:.4f} of WT; {pair.prediction} has {found:.4f}. "
            "Give the folders that were scored, or score these with python -m tfbrats.evaluate."
        )


def _pairs_of(
    content: Mapping[str, Any],
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    case_ids: Sequence[str],
    where: str | os.PathLike,
) -> list[Pair]:
    """The files of some of the cases that were scored, in the order asked for.

    Raises:
        InputError: a file is not there, unless the case was scored without a prediction.
    """
    scored = sorted({row["case_id"] for row in content["rows"]})
    matched = match(
        prediction, reference, content["edition_given"], scored, allow_missing=True, named_by=os.fspath(where)
    )
    pairs = {pair.case_id: pair for pair in label_tables.with_tables(matched.pairs, content["tables"])}
    faults = list(matched.faults) + [
        f"{case_id}: no prediction in {prediction}, but it was scored with one. Give the folder that was "
        "scored."
        for case_id in case_ids
        if case_id in pairs and pairs[case_id].prediction is None and case_id not in content["missing"]
    ]
    if faults:
        raise InputError("\n".join(faults))
    return [pairs[case_id] for case_id in case_ids]


def sampling_of(
    settings: Config | None, pairs: Sequence[Pair], pictured: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """What the page shows of loss weighted sampling: `settings`, `case_id` and `maps` of one case.

    The median case of those pictured, or the best that has a tumour and all of the run's images. `maps` is
    None where there is no such case; the whole is None unless the network was trained with it.

    Args:
        pairs: of the cases pictured, worst first.
        pictured: as for `page.render`.

    Raises:
        InputError: an image cannot be read.
    """
    if not isinstance(settings, SliceConfig) or not settings.lws.enabled:
        return None
    known = list(zip(pairs, (one["stands_for"] for one in pictured), strict=True))
    for pair, _ in sorted(reversed(known), key=lambda one: one[1] != "median"):
        maps = pictures.sampling_maps(pair, settings)
        if maps:
            return {"settings": settings, "case_id": pair.case_id, "maps": maps}
    return {"settings": settings, "case_id": None, "maps": None}


def write(
    metrics: str | os.PathLike,
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    output: str | os.PathLike,
    title: str = "Segmentation report",
    cases: int = 3,
    run_folder: str | os.PathLike | None = None,
    notes: Sequence[str] = (),
    table: str | None = None,
    compare: Sequence[str | os.PathLike] = (),
) -> list[str]:
    """Writes the page.

    Args:
        metrics: folder that `evaluate.write` wrote.
        prediction: folder that was scored.
        reference: what it was scored against; a data set brings the images for the pictures.
        output: the HTML file.
        cases: how many to picture.
        run_folder: of the training, for its curves, config and environment.
        notes: see `page.render`.
        table: a key of `tables.TABLES`, to stand beside.
        compare: folders that `evaluate.write` wrote, of other runs on the same cases.

    Returns:
        What must not be overlooked: warnings of `score_text.warnings`, and that the run is not the model's.

    Raises:
        InputError: a folder or a chosen case's file is not there, cannot be read, or is not what was scored;
            there is no such table; another run was scored on other cases, references or by another rule; the
            page cannot be written there.
    """
    if cases < 0:
        raise InputError(f"--cases {cases}: expected how many to picture, 0 or more.")
    if files.is_folder(output):
        raise InputError(f"{output}: is a folder; name a file in it, e.g. {files.join(output, 'report.html')}.")
    files.check_can_hold(files.parent(output) or ".")
    comparison.check_once(compare)
    content = evaluate.read(metrics)
    if content["by_split"] is None:  # scored by an older version
        content["by_split"] = by_split_of(card_beside(prediction)[0], content["rows"])
    if table is not None:
        tables.table_named(table)
    of_others = [evaluate.read(folder) for folder in compare]
    own, *others = named([metrics, *compare], [content, *of_others])
    compared = [
        comparison.compared_with(content, other, folder)
        for other, folder in zip(of_others, compare, strict=True)
    ]
    training = training_of(run_folder, content["model"])
    chosen = pictures.choose(content["rows"], cases)
    case_ids = [case_id for case_id, _ in chosen]
    pairs = _pairs_of(content, prediction, reference, case_ids, metrics) if chosen else []
    pictured = []
    for pair, (case_id, stands_for) in zip(pairs, chosen, strict=True):
        predicted, expert, grid = scoring.load_pair(pair)
        _check_scored(content["rows"], pair, predicted, expert, metrics)
        shown = pictures.case_pictures(pair, predicted, expert, grid.spacing_mm)
        pictured.append({"case_id": case_id, "stands_for": stands_for, **shown})
    sampling = sampling_of(training["settings"], pairs, pictured)
    html = page.render(content, pictured, title, training, notes, sampling, table, others, compared, own.name)
    files.write_bytes(output, html.encode())
    return [
        *(f"WARNING: {warning}" for warning in score_text.warnings(content, *of_others)),
        *(f"note: {text}" for text in training["contradictions"]),
    ]


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.report", __doc__)
    parser.add_argument(
        "--metrics", type=paths.argument, required=True, metavar="REPORT", help="what tfbrats.evaluate wrote"
    )
    parser.add_argument(
        "--prediction", type=paths.argument, required=True, metavar="DIR", help="folder of CASE.nii.gz"
    )
    parser.add_argument(
        "--reference", type=paths.argument, required=True, metavar="DIR", help="data set, or folder of masks"
    )
    parser.add_argument(
        "--output", type=paths.argument, required=True, metavar="FILE", help="the page, e.g. report.html"
    )
    parser.add_argument("--title", default="Segmentation report")
    parser.add_argument("--cases", type=int, default=3, help="how many to picture (%(default)s)")
    parser.add_argument(
        "--run", type=paths.argument, metavar="RUN", help="run folder: training curves, config, environment"
    )
    parser.add_argument("--note", action="append", default=[], help="a line to show; may be repeated")
    parser.add_argument("--table", choices=tuple(tables.TABLES), help="the paper's table to stand beside")
    parser.add_argument(
        "--compare",
        type=paths.argument,
        action="append",
        default=[],
        metavar="REPORT",
        help="what tfbrats.evaluate wrote of another run on the same cases; may be repeated",
    )
    given = parser.parse_args(arguments)
    remarks = write(
        given.metrics,
        given.prediction,
        given.reference,
        given.output,
        given.title,
        given.cases,
        given.run,
        given.note,
        given.table,
        given.compare,
    )
    for text in remarks:
        print(text, file=sys.stderr)
    print(given.output)


if __name__ == "__main__":
    command.run(main)
