r"""One page to look at: scores beside the paper's, boxes and points, cases as pictures, and what was run.

    tfbrats report --metrics REPORT --prediction OUT --reference DATA --output report.html

--metrics is the folder that tfbrats evaluate wrote; --prediction and --reference are the folders
it compared. With the run that trained the model, the paper's table, and other runs of the same cases:

    tfbrats report --metrics REPORT --prediction OUT --reference DATA --output report.html \
        --run runs/cun_lws --table paper_a --compare REPORT_OF_CUN

The page is a single file: it holds its pictures, runs no script and loads nothing. What it could not show for
want of a file it says.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence

from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.reporting import case_pictures, options, page, score_text
from tfbrats.reporting.sampling_maps import sampling_of
from tfbrats.reporting.training_section import training_of
from tfbrats.scoring import comparison, papers, score_files
from tfbrats.scoring.evaluation import Evaluation
from tfbrats.scoring.origin import by_split_of, card_beside
from tfbrats.terminal import command


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
        notes: see `page.Content`.
        table: a key of `papers.TABLES`, to stand beside.
        compare: folders that `score_files.write` wrote, of other runs on the same cases.

    Returns:
        What must not be overlooked: warnings of `score_text.warnings`, and that the run is not the model's.

    Raises:
        InputError: a folder or a chosen case's file is not there, cannot be read, or is not what was scored;
            there is no such table; another run was scored on other cases, references or by another rule; the
            page cannot be written there.
    """
    _check(output, cases, compare)
    evaluation = _with_what_was_seen(score_files.read(metrics), prediction)
    if table is not None:
        papers.table_named(table)
    others = [score_files.read(folder) for folder in compare]
    compared = [evaluation.compared_with(other, folder) for other, folder in zip(others, compare, strict=True)]
    training = training_of(run_folder, evaluation.model)
    pictured = case_pictures.pictures_of(evaluation, prediction, reference, cases, metrics)
    html = page.render(
        page.Content(
            title=title,
            runs=page.named([metrics, *compare], [evaluation, *others]),
            compared=compared,
            table=table,
            pictured=pictured,
            training=training,
            sampling=sampling_of(training.settings, pictured),
            notes=notes,
        )
    )
    files.write_bytes(output, html.encode())
    return [
        *(f"WARNING: {warning}" for warning in score_text.warnings(evaluation, *others)),
        *(f"note: {text}" for text in training.contradictions),
    ]


def _check(output: str | os.PathLike, cases: int, compare: Sequence[str | os.PathLike]) -> None:
    """Raises InputError for what makes no page, before anything is read."""
    if cases < 0:
        raise InputError(f"--cases {cases}: expected how many to picture, 0 or more.")
    if files.is_folder(output):
        raise InputError(f"{output}: is a folder; name a file in it, e.g. {files.join(output, 'report.html')}.")
    files.check_can_hold(files.parent(output) or ".")
    comparison.check_once(compare)


def _with_what_was_seen(evaluation: Evaluation, prediction: str | os.PathLike) -> Evaluation:
    """Scores of an older version do not say which cases the model has seen; the card beside them may."""
    if evaluation.by_split is not None:
        return evaluation
    card, _ = card_beside(prediction)
    return dataclasses.replace(evaluation, by_split=by_split_of(card, evaluation.rows))


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("tfbrats.report", __doc__)
    parser.add_argument(
        "--metrics", type=paths.argument, required=True, metavar="REPORT", help="what tfbrats.evaluate wrote"
    )
    options.add_folders(parser)
    parser.add_argument(
        "--output", type=paths.argument, required=True, metavar="FILE", help="the page, e.g. report.html"
    )
    parser.add_argument("--title", default="Segmentation report")
    parser.add_argument("--cases", type=int, default=3, help="how many to picture (%(default)s)")
    parser.add_argument(
        "--run", type=paths.argument, metavar="RUN", help="run folder: training curves, config, environment"
    )
    parser.add_argument("--note", action="append", default=[], help="a line to show; may be repeated")
    options.add_table(parser, "the paper's table to stand beside")
    options.add_compare(parser, "what tfbrats.evaluate wrote of another run on the same cases; may be repeated")
    return parser


def main(arguments: Sequence[str]) -> None:
    asked = _parser().parse_args(arguments)
    remarks = write(
        asked.metrics,
        asked.prediction,
        asked.reference,
        asked.output,
        title=asked.title,
        cases=asked.cases,
        run_folder=asked.run,
        notes=asked.note,
        table=asked.table,
        compare=asked.compare,
    )
    for text in remarks:
        print(text, file=sys.stderr)
    print(asked.output)


if __name__ == "__main__":
    command.run(main)
