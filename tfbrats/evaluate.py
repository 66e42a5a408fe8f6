r"""Score predictions against references; two folders are enough.

    python -m tfbrats.evaluate --prediction OUT --reference data/MICCAI_BraTS2020_TrainingData --output REPORT

--prediction holds CASE.nii.gz (or .nii) in the label values of the reference's edition, or in others that a
file beside them, the values or --prediction-edition tell. --reference is a data set that tfbrats.inspect
recognises, or masks alone: CASE.nii.gz, CASE_seg.nii.gz, CASE/CASE_seg.nii.gz. Every missing, extra, unreadable
or misaligned case is listed, all of them together, and then nothing is written. Which of the cases trained the
model or chose its checkpoint is said, and their scores stand apart.

Beside a paper's table, the test cases of a run alone, and against another run's scores:

    python -m tfbrats.evaluate --prediction OUT --reference DATA --output REPORT \
        --splits runs/cun_lws/splits.json --table paper_a --compare REPORT_OF_CUN

REPORT/metrics.csv holds a row per case and region, REPORT/cascade.csv what each stage of a cascade missed and
what an earlier one had lost (tfbrats/metrics/stage_misses.py), REPORT/lesions.csv the lesion-wise scores if
asked for (and REPORT/lesion_list.csv every lesion, found, missed or false, under the rules of 2026),
REPORT/challenge.csv and REPORT/summary.json the same in the challenge's and nnU-Net's form, REPORT/metrics.json
all of it with summaries.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from tfbrats.cases.splits import SPLITS
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS
from tfbrats.machine import command, files, paths
from tfbrats.metrics import lesion_rules, region_scores
from tfbrats.reporting import paper_text, score_text
from tfbrats.scoring import comparison, papers
from tfbrats.scoring.evaluation import WorkerDiedError, _names, evaluate, fitting_workers
from tfbrats.scoring.score_files import names, read, without_nan, write

# --- the command ----------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("tfbrats.evaluate", __doc__)
    parser.add_argument(
        "--prediction", type=paths.argument, required=True, metavar="DIR", help="folder of CASE.nii.gz"
    )
    parser.add_argument(
        "--reference", type=paths.argument, required=True, metavar="DIR", help="data set, or folder of masks"
    )
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
    parser.add_argument("--table", choices=tuple(papers.TABLES), help="print a paper's table, ours beside it")
    parser.add_argument("--row", choices=papers.ROWS, help="which row this is, where no model's card tells it")
    parser.add_argument(
        "--compare",
        type=paths.argument,
        action="append",
        default=[],
        metavar="REPORT",
        help="another run's --output: how far the two differ, with intervals; may be repeated",
    )
    parser.add_argument("--workers", type=int, default=fitting_workers(), help="processes (%(default)s)")
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
    given = parser.parse_args(arguments)
    if given.workers < 1:
        parser.error(f"argument --workers: expected 1 or more processes, not {given.workers}")
    # Before minutes of scoring:
    _check_output(given.output, given.prediction, given.reference, given.compare)
    comparison.check_once(given.compare)
    others = [read(folder) for folder in given.compare]
    try:
        content = evaluate(
            given.prediction,
            given.reference,
            given.edition,
            given.empty,
            None if given.cases is None else _names(given.cases),
            given.allow_missing,
            given.workers,
            given.splits,
            given.split,
            given.row,
            given.lesions,
            given.prediction_edition,
            given.fold,
        )
    except WorkerDiedError as error:
        raise InputError(f"{error} Pass --workers 1.") from error
    write(content, given.output)  # whatever the other runs are, these scores are good
    if others:
        try:
            content["compared"] = [
                comparison.compared_with(content, other, folder)
                for other, folder in zip(others, given.compare, strict=True)
            ]
        except InputError as error:
            raise InputError(f"{error} The scores of this run are in {given.output}, uncompared.") from error
        write(content, given.output)
    if given.json or not (sys.stdout.isatty() and sys.stderr.isatty()):  # who sees both reads it below
        for warning in score_text.warnings(content, *others):
            print(f"WARNING: {warning}", file=sys.stderr)
    if given.json:
        print(json.dumps(without_nan(content), indent=2))
        return
    print(score_text.of_scores(content))
    if given.table:
        print("\n" + paper_text.text(given.table, [content, *others]))
    if content["compared"]:
        print("\n" + score_text.of_comparisons(content, given.output, given.table))
    print("\n" + "\n".join(files.join(given.output, name) for name in names(content)))


if __name__ == "__main__":
    command.run(main)
