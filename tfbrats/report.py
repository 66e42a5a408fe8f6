r"""One page to look at: scores beside the paper's, boxes and points, cases as pictures, and what was run.

    python -m tfbrats.report --metrics REPORT --prediction OUT --reference DATA --output report.html

--metrics is the folder that python -m tfbrats.evaluate wrote; --prediction and --reference are the folders
it compared. With the run that trained the model, the paper's table, and other runs of the same cases:

    python -m tfbrats.report --metrics REPORT --prediction OUT --reference DATA --output report.html \
        --run runs/cun_lws --table paper_a --compare REPORT_OF_CUN

The page is a single file: it holds its pictures, runs no script and loads nothing. What it could not show for
want of a file it says.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfbrats.errors import InputError
from tfbrats.labels import region_mask
from tfbrats.machine import command, files, paths
from tfbrats.metrics.region_scores import dice
from tfbrats.reporting import case_pictures, page, score_text
from tfbrats.reporting.page import Scored
from tfbrats.reporting.sampling_maps import sampling_of
from tfbrats.reporting.training_section import training_of
from tfbrats.scoring import case_scores, comparison, label_tables, papers, score_files
from tfbrats.scoring.comparison import name_of
from tfbrats.scoring.origin import by_split_of, card_beside
from tfbrats.scoring.pairs import Pair, match

# --- the run that trained the model ---------------------------------------------------------------------


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
        metrics: folder that `score_files.write` wrote.
        prediction: folder that was scored.
        reference: what it was scored against; a data set brings the images for the pictures.
        output: the HTML file.
        cases: how many to picture.
        run_folder: of the training, for its curves, config and environment.
        notes: see `page.render`.
        table: a key of `tables.TABLES`, to stand beside.
        compare: folders that `score_files.write` wrote, of other runs on the same cases.

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
    content = score_files.read(metrics)
    if content["by_split"] is None:  # scored by an older version
        content["by_split"] = by_split_of(card_beside(prediction)[0], content["rows"])
    if table is not None:
        papers.table_named(table)
    of_others = [score_files.read(folder) for folder in compare]
    own, *others = named([metrics, *compare], [content, *of_others])
    compared = [
        comparison.compared_with(content, other, folder)
        for other, folder in zip(of_others, compare, strict=True)
    ]
    training = training_of(run_folder, content["model"])
    chosen = case_pictures.choose(content["rows"], cases)
    case_ids = [case_id for case_id, _ in chosen]
    pairs = _pairs_of(content, prediction, reference, case_ids, metrics) if chosen else []
    pictured = []
    for pair, (case_id, stands_for) in zip(pairs, chosen, strict=True):
        predicted, expert, grid = case_scores.load_pair(pair)
        _check_scored(content["rows"], pair, predicted, expert, metrics)
        shown = case_pictures.case_pictures(pair, predicted, expert, grid.spacing_mm)
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
    parser.add_argument("--table", choices=tuple(papers.TABLES), help="the paper's table to stand beside")
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
