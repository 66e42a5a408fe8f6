r"""Score predictions against references; two folders are enough.

    tfbrats evaluate --prediction OUT --reference data/MICCAI_BraTS2020_TrainingData --output REPORT

--prediction holds CASE.nii.gz (or .nii) in the label values of the reference's edition, or in others that a
file beside them, the values or --prediction-edition tell. --reference is a data set that tfbrats.inspect
recognises, or masks alone: CASE.nii.gz, CASE_seg.nii.gz, CASE/CASE_seg.nii.gz. Every missing, extra, unreadable
or misaligned case is listed, all of them together, and then nothing is written. Which of the cases trained the
model or chose its checkpoint is said, and their scores stand apart.

Beside a paper's table, the test cases of a run alone, and against another run's scores:

    tfbrats evaluate --prediction OUT --reference DATA --output REPORT \
        --splits runs/cun_lws/splits.json --table paper_a --compare REPORT_OF_CUN

REPORT/metrics.csv holds a row per case and region, REPORT/cascade.csv what each stage of a cascade missed and
what an earlier one had lost (tfbrats/metrics/stage_misses.py), REPORT/lesions.csv the lesion-wise scores if
asked for (and REPORT/lesion_list.csv every lesion, found, missed or false, under the rules of 2026),
REPORT/challenge.csv and REPORT/summary.json the same in the challenge's and nnU-Net's form, REPORT/metrics.json
all of it with summaries.
"""

import argparse
import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Sequence

from tfbrats.cases.split_files import SPLITS
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS
from tfbrats.machine import files, paths
from tfbrats.metrics import lesion_rules, region_scores
from tfbrats.reporting import options, paper_text, score_text
from tfbrats.scoring import comparison, evaluation, papers, score_files
from tfbrats.scoring.evaluation import Evaluation, WorkerDiedError
from tfbrats.terminal import command


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("tfbrats.evaluate", __doc__)
    options.add_folders(parser)
    parser.add_argument(
        "--output", type=paths.argument, required=True, metavar="REPORT", help="folder for the tables"
    )
    parser.add_argument(
        "--edition", choices=tuple(EDITIONS), help="of the reference; overrides what the names say"
    )
    parser.add_argument(
        "--prediction-edition", choices=tuple(EDITIONS), help="of the predictions, where it is another"
    )
    parser.add_argument(
        "--empty", choices=tuple(region_scores.EMPTY_RULES), default="brats", help="empty masks"
    )
    parser.add_argument("--cases", metavar="IDS", help="only these: a file, or ids between commas")
    parser.add_argument(
        "--splits", type=paths.argument, metavar="FILE", help="only one split's cases: splits.json of the run"
    )
    parser.add_argument("--split", choices=SPLITS, help="which, of --splits (test)")
    parser.add_argument("--fold", type=int, metavar="N", help="which of the folds that --splits holds")
    parser.add_argument(
        "--allow-missing", action="store_true", help="score what has no prediction as an empty one"
    )
    parser.add_argument(
        "--lesions",
        choices=tuple(lesion_rules.MEANINGS),
        help="lesion-wise scores too, by that year's rules (2026: also those of 2025)",
    )
    options.add_table(parser, "print a paper's table, ours beside it")
    parser.add_argument("--row", choices=papers.ROWS, help="which row this is, where no model's card tells it")
    options.add_compare(
        parser, "another run's --output: how far the two differ, with intervals; may be repeated"
    )
    workers = evaluation.fitting_workers()
    parser.add_argument("--workers", type=int, default=workers, help="processes (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print metrics.json instead of the table")
    return parser


def _check_output(output: str, prediction: str, reference: str, others: Sequence[str]) -> None:
    """Raises InputError where the tables cannot be written, or should not."""
    files.check_can_hold(output)
    place = files.canonical(output)
    for name, folder in (("prediction", prediction), ("reference", reference)):
        if place == files.canonical(folder):
            raise InputError(
                f"--output {output}: is the --{name} folder; the tables would lie among the images. Choose a "
                "folder of their own."
            )
    if place in map(files.canonical, others):
        raise InputError(
            f"--compare {output}: its scores would be replaced by this run's. Choose another --output."
        )


def main(arguments: Sequence[str]) -> None:
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.workers < 1:
        parser.error(f"argument --workers: expected 1 or more processes, not {asked.workers}")
    # Before minutes of scoring:
    _check_output(asked.output, asked.prediction, asked.reference, asked.compare)
    comparison.check_once(asked.compare)
    others = [score_files.read(folder) for folder in asked.compare]
    scores = _scores(asked)
    score_files.write(scores, asked.output)  # whatever the other runs are, these scores are good
    if others:
        scores = _compared(scores, others, asked)
        score_files.write(scores, asked.output)
    _tell(scores, others, asked)


def _scores(asked: argparse.Namespace) -> Evaluation:
    try:
        return evaluation.evaluate(
            asked.prediction,
            asked.reference,
            asked.edition,
            empty=asked.empty,
            cases=None if asked.cases is None else case_ids_of(asked.cases),
            allow_missing=asked.allow_missing,
            workers=asked.workers,
            splits=asked.splits,
            split=asked.split,
            fold=asked.fold,
            row=asked.row,
            lesion_rule=asked.lesions,
            prediction_edition=asked.prediction_edition,
        )
    except WorkerDiedError as error:
        raise InputError(f"{error} Pass --workers 1.") from error


def case_ids_of(text: str) -> list[str]:
    """What --cases names: a file with a case id a line, or ids between commas."""
    path = ""
    with contextlib.suppress(InputError):  # ids may stand on lines of their own, which is no path
        path = paths.given(text)
    if path and files.is_folder(path):
        raise InputError(f"--cases {text}: a folder; expected a file with a case id a line, or ids.")
    if path and files.exists(path):
        text = files.read_text(path)
    elif path and "," not in text and ("/" in text or text.lower().endswith((".txt", ".csv", ".json"))):
        raise InputError(f"--cases {text}: no such file.")
    case_ids = [case_id for case_id in re.split(r"[,\s]+", text) if case_id]
    if not case_ids:
        raise InputError("--cases names no case; give ids between commas, or a file with one a line.")
    return case_ids


def _compared(scores: Evaluation, others: Sequence[Evaluation], asked: argparse.Namespace) -> Evaluation:
    """The scores with their differences from other runs."""
    try:
        compared = [
            scores.compared_with(other, folder) for other, folder in zip(others, asked.compare, strict=True)
        ]
    except InputError as error:
        raise InputError(f"{error} The scores of this run are in {asked.output}, uncompared.") from error
    return dataclasses.replace(scores, compared=compared)


def _tell(scores: Evaluation, others: Sequence[Evaluation], asked: argparse.Namespace) -> None:
    """Prints the scores; warnings also on stderr, unless a person sees both."""
    if asked.json or not (sys.stdout.isatty() and sys.stderr.isatty()):
        for warning in score_text.warnings(scores, *others):
            print(f"WARNING: {warning}", file=sys.stderr)
    if asked.json:
        print(json.dumps(score_files.as_json(scores), indent=2))
        return
    print(score_text.of_scores(scores))
    if asked.table:
        print("\n" + paper_text.text(asked.table, [scores, *others]))
    if scores.compared:
        print("\n" + score_text.of_comparisons(scores, asked.output, asked.table))
    print("\n" + "\n".join(files.join(asked.output, name) for name in score_files.names(scores)))


if __name__ == "__main__":
    command.run(main)
