r"""Score predictions against references; two folders are enough.

    tfbrats evaluate --prediction OUT --reference data/MICCAI_BraTS2020_TrainingData --output REPORT

--prediction holds CASE.nii.gz (or .nii) in the label values of the reference's edition, or in others that a
file beside them, the values or --prediction-edition tell. --reference is a data set that tfbrats inspect
recognises, or masks alone: CASE.nii.gz, CASE_seg.nii.gz, CASE/CASE_seg.nii.gz. Every missing, extra, unreadable
or misaligned case is listed, all of them together, and then nothing is written. Which of the cases trained the
model or chose its checkpoint is said, and their scores stand apart.

Beside a paper's table, the test cases of a run alone, and against another run's scores:

    tfbrats evaluate --prediction OUT --reference DATA --output REPORT \
        --splits runs/cun_lws/splits.json --table paper_a --compare REPORT_OF_CUN

Means of Dice, HD95 and sensitivity are printed, and with --all those of every score.

REPORT/metrics.csv holds a row per case and region, REPORT/cascade.csv what each stage of a cascade missed and
what an earlier one had lost (tfbrats/metrics/stage_misses.py), REPORT/lesions.csv the lesion-wise scores if
asked for (and REPORT/lesion_list.csv every lesion, found, missed or false, under the rules of 2026),
REPORT/challenge.csv and REPORT/summary.json the same in the challenge's and nnU-Net's form, REPORT/metrics.json
all of it with summaries.
"""

import argparse
import dataclasses
import json
import sys
import typing
from collections.abc import Sequence

from tfbrats.cases.split_files import SPLITS
from tfbrats.datasets import id_tables
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS
from tfbrats.machine import files, paths
from tfbrats.metrics import rule_names
from tfbrats.reporting import options
from tfbrats.scoring import papers
from tfbrats.terminal import command, style, verbs, wording

if typing.TYPE_CHECKING:  # what needs SciPy is imported when arguments and folders have been looked at
    from tfbrats.scoring.evaluation import Evaluation


def parser() -> command.Parser:
    """The command's options."""
    parser = command.parser("tfbrats.evaluate", __doc__)
    options.add_folders(parser)
    parser.add_argument(
        "--output", type=paths.argument, required=True, metavar="DIR", help="folder for the tables"
    )
    parser.add_argument(
        "--edition", choices=tuple(EDITIONS), help="of the reference; overrides what the names say"
    )
    parser.add_argument(
        "--prediction-edition", choices=tuple(EDITIONS), help="of the predictions, where it is another"
    )
    parser.add_argument(
        "--empty", choices=rule_names.EMPTY, default="brats", help="what an empty mask scores (%(default)s)"
    )
    id_tables.add_choice(parser)
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
        choices=rule_names.LESIONS,
        help="lesion-wise scores too, by that year's rules (2026: also those of 2025)",
    )
    options.add_table(parser, "print a paper's table, ours beside it")
    parser.add_argument("--row", choices=papers.ROWS, help="which row this is, where no model's card tells it")
    options.add_compare(
        parser, "another run's --output: how far the two differ, with intervals; may be repeated"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="how many cases are scored at once (default: what cores and memory allow)",
    )
    parser.add_argument("--all", action="store_true", help="print every score, and the rule for empty masks")
    parser.add_argument("--json", action="store_true", help="print metrics.json instead of the table")
    return parser


def _check(asked: argparse.Namespace) -> None:
    """Raises InputError for a folder or file that is not there, and for an output that cannot be written."""
    for folder in (asked.prediction, asked.reference):
        if not files.is_folder(folder):
            files.walk(folder)  # says what is there
    for path in (*asked.compare, *filter(None, (asked.splits,))):
        if not files.exists(path):
            raise InputError(f"{path}: no such file or folder.")
    _check_output(asked.output, asked.prediction, asked.reference, asked.compare)


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
    our_parser = parser()
    asked = our_parser.parse_args(arguments)
    if asked.workers is not None and asked.workers < 1:
        our_parser.error(f"argument --workers: expected 1 or more processes, not {asked.workers}")
    _check(asked)
    case_ids = id_tables.chosen(asked)

    from tfbrats.scoring import comparison, score_files

    comparison.check_once(asked.compare)
    others = [score_files.read(folder) for folder in asked.compare]
    is_replaced = files.exists(files.join(asked.output, score_files.REPORT))
    scores = _scores(asked, case_ids)
    score_files.write(scores, asked.output)  # whatever the other runs are, these scores are good
    if others:
        scores = _compared(scores, others, asked)
        score_files.write(scores, asked.output)
    _tell(scores, others, asked, is_replaced)


def _scores(asked: argparse.Namespace, case_ids: Sequence[str] | None) -> "Evaluation":
    from tfbrats.scoring import evaluation

    try:
        return evaluation.evaluate(
            asked.prediction,
            asked.reference,
            asked.edition,
            empty=asked.empty,
            cases=case_ids,
            allow_missing=asked.allow_missing,
            workers=asked.workers or evaluation.fitting_workers(),
            splits=asked.splits,
            split=asked.split,
            fold=asked.fold,
            row=asked.row,
            lesion_rule=asked.lesions,
            prediction_edition=asked.prediction_edition,
        )
    except evaluation.WorkerDiedError as error:
        raise InputError(f"{error} Pass --workers 1.") from error


def _compared(scores: "Evaluation", others: Sequence["Evaluation"], asked: argparse.Namespace) -> "Evaluation":
    """The scores with their differences from other runs."""
    try:
        compared = [
            scores.compared_with(other, folder) for other, folder in zip(others, asked.compare, strict=True)
        ]
    except InputError as error:
        raise InputError(f"{error} The scores of this run are in {asked.output}, uncompared.") from error
    return dataclasses.replace(scores, compared=compared)


def _tell(
    scores: "Evaluation", others: Sequence["Evaluation"], asked: argparse.Namespace, is_replaced: bool
) -> None:
    """Prints the scores; warnings also on stderr, unless a person sees both."""
    from tfbrats.reporting import paper_text, score_text
    from tfbrats.scoring import score_files

    if asked.json or not (sys.stdout.isatty() and sys.stderr.isatty()):
        for warning in score_text.warnings(scores, *others):
            print(style.warning(warning, sys.stderr), file=sys.stderr)
    if asked.json:
        print(json.dumps(score_files.as_json(scores), indent=2))
        return
    print(score_text.of_scores(scores, in_full=asked.all))
    if asked.table:
        print("\n" + paper_text.text(asked.table, [scores, *others]))
    if scores.compared:
        print("\n" + score_text.of_comparisons(scores, asked.output, asked.table))
    first, *more = score_files.names(scores)
    names = ", ".join((files.join(asked.output, first), *more))
    more_of_them = "" if asked.all else "; --all prints every mean"
    done = "replaced" if is_replaced else "written"
    print("\n" + wording.wrapped(f"{done}: {names}{more_of_them}", 9))
    print(style.following(_report_of(asked)))


def _report_of(asked: argparse.Namespace) -> str:
    """The command that draws these scores."""
    more = ["--table", asked.table] if asked.table else []
    more += [text for folder in asked.compare for text in ("--compare", folder)]
    return verbs.command_line(
        *("tfbrats.report", "--scores", asked.output, "--prediction", asked.prediction),
        *("--reference", asked.reference, *more, "--output", files.join(asked.output, "report.html")),
    )


if __name__ == "__main__":
    command.run(main)
