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
what an earlier one had lost (tfbrats/stages.py), REPORT/lesions.csv the lesion-wise scores if asked for
(and REPORT/lesion_list.csv every lesion, found, missed or false, under the rules of 2026),
REPORT/challenge.csv and REPORT/summary.json the same in the challenge's and nnU-Net's form, REPORT/metrics.json
all of it with summaries.
"""

import argparse
import concurrent.futures
import contextlib
import functools
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from tfbrats import (
    __version__,
    case,
    command,
    compare,
    files,
    label_candidates,
    label_tables,
    lesion_rules,
    memory,
    metrics,
    paths,
    records,
    score_text,
    scoring,
    stages,
    tables,
)
from tfbrats.command import InputError
from tfbrats.labels import EDITIONS
from tfbrats.origin import by_split_of, card_beside, check_split, doubts, margin_of, model_of, split_of
from tfbrats.pairs import match
from tfbrats.score_files import names, read, without_nan, write
from tfbrats.summaries import summarise, summarise_lesions

_WORKER_BYTES = 300 * 2**20  # of a process that scores cases of BraTS


class WorkerDiedError(InputError):
    """A worker process died. Whoever set their number says how to have fewer."""


def fitting_workers(most: int | None = None) -> int:
    """How many processes this one has cores and free memory for, of `most` if that is fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fitting = int(0.8 * memory.free_bytes() // _WORKER_BYTES)
    return max(1, min(cores, fitting, most or cores))


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
            raise WorkerDiedError(
                f"a worker process died, most likely for want of memory ({workers} at a time)."
            ) from error


def evaluate(
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    edition: str | None = None,
    empty: str = "brats",
    cases: Sequence[str] | None = None,
    allow_missing: bool = False,
    workers: int = 1,
    splits: str | os.PathLike | None = None,
    split: str | None = None,
    row: str | None = None,
    lesion_rule: str | None = None,
    prediction_edition: str | None = None,
    fold: int | None = None,
) -> dict[str, Any]:
    """Scores every case; writes nothing.

    Args:
        prediction: as for `match`, and so are `reference`, `edition` and `cases`.
        empty: a key of `metrics.EMPTY_RULES`.
        allow_missing: a case without a prediction is scored as if nothing had been found in it.
        workers: processes, ~0.3 GB each at full size. More than one needs a main module that can be
            imported (`if __name__ == "__main__":`), and folders that another process can open.
        splits: a run's splits.json; only the cases of its split `split` ("test") are scored.
        row: of a paper's table, `tables.ROWS`, where no model's card beside the predictions tells it.
        lesion_rule: a key of `lesion_rules.MEANINGS`; None for no lesion-wise scores.
        prediction_edition: as for `label_tables.settle`.
        fold: which, of `splits` that hold the folds of a cross-validation.

    Returns:
        The content of metrics.json: `rows` with keys `score_files.COLUMNS`, `summary` by region and score,
        `cascade` with its `margin_voxels` (or None), `summary` and `rows`, `lesions` (or None) with its `rule`,
        `summary`, `rows` and `list`, `counts` of voxels, `model` as `model_of`, `split` as `split_of` (or
        None), `by_split` as `by_split_of`, `tables` as `label_tables.as_json`, which cases were `missing`, what
        was `compared` (nothing yet), and by which rule. Undefined scores are nan.

    Raises:
        InputError: everything that is missing, extra, unreadable, misaligned or written in another table than
            it is read by, a line each; a rule that is unknown; splits on which the model was not trained; a row
            that is not the model's.
        WorkerDiedError: one of several `workers`.
    """
    if empty not in metrics.EMPTY_RULES:
        raise InputError(f"empty-mask rule {empty!r} is unknown; choose from {', '.join(metrics.EMPTY_RULES)}.")
    if lesion_rule is not None:
        lesion_rules.check(lesion_rule)
    if row is not None and row not in tables.ROWS:
        raise InputError(f"row {row!r} is in no table; choose from {', '.join(tables.ROWS)}.")
    if cases is not None and splits is not None:
        raise InputError("--cases and --splits both say which cases to score. Pass one of them.")
    if split is not None and splits is None:
        raise InputError(f"--split {split} needs --splits: the file that says which cases it has.")
    if fold is not None and splits is None:
        raise InputError(f"--fold {fold} needs --splits: the file that holds the folds.")
    split = split or "test"
    card, card_notes = card_beside(prediction)
    model = model_of(card, prediction, row)
    chosen_by = None
    if splits is not None:
        cases, chosen_by = split_of(splits, split, fold)
        check_split(chosen_by, model, prediction)
    named_by = "--cases" if splits is None else f"{split} in {splits}"
    matched = match(prediction, reference, edition, cases, allow_missing, named_by)
    settled = label_tables.settle(matched.pairs, prediction, reference, edition, prediction_edition, card)
    # With a fault in hand there will be no scores: the rest is only looked through for more.
    task = functools.partial(
        scoring.attempt,
        empty=empty,
        margin=margin_of(model),
        lesion_rule=lesion_rule,
        only_check=bool(matched.faults or settled.faults),
    )
    pairs = settled.pairs
    each = list(_in_parallel(task, pairs, max(1, min(workers, len(pairs)))))
    faults = [*matched.faults, *settled.faults, *(fault for one in each for fault in one.faults)]
    if faults:
        raise InputError(f"nothing was scored; faults: {len(faults)}\n  " + "\n  ".join(faults))
    rows, losses, lesion_rows, lesion_list = (
        [row for one in each for row in getattr(one, name)]
        for name in ("rows", "losses", "lesions", "lesion_list")
    )
    return {
        "prediction": os.fspath(prediction),
        "reference": os.fspath(reference),
        "edition_given": edition,
        "editions": sorted({pair.schema.edition for pair in pairs}),
        "tables": label_tables.as_json(pairs, settled.found_by),
        "cases": len(pairs),
        "missing": list(matched.missing),
        "notes": [
            *(*matched.notes, *settled.notes, *card_notes),
            *case.noted({path: notes for one in each for path, notes in one.notes.items()}),
        ],
        "warnings": [
            *doubts(prediction, card, [pair.prediction for pair in pairs if pair.prediction is not None]),
            *settled.warnings,
            *label_candidates.doubts(
                [pair.written_in for pair in pairs], [one.voxels for one in each], prediction
            ),
        ],
        "model": model,
        "split": chosen_by,
        "by_split": by_split_of(card, rows, splits, fold),
        "empty_rule": {"name": empty, "meaning": metrics.EMPTY_RULES[empty]},
        "summary": summarise(rows),
        "rows": rows,
        "cascade": {"margin_voxels": margin_of(model), "summary": stages.summarise(losses), "rows": losses},
        "lesions": None
        if lesion_rule is None
        else {
            "rule": lesion_rule,
            "meaning": lesion_rules.MEANINGS[lesion_rule],
            "summary": summarise_lesions(lesion_rows),
            "rows": lesion_rows,
            "list": lesion_list,
        },
        "compared": [],
        "counts": [one.counts for one in each],
        "versions": {
            "tfbrats": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("numpy", "scipy", "nibabel")},
        },
    }


# --- the command ----------------------------------------------------------------------------------------


def _names(text: str) -> list[str]:
    """--cases: a file with a case id a line, or ids between commas."""
    path = ""
    with contextlib.suppress(InputError):  # ids may stand on lines of their own, which is no path
        path = paths.given(text)
    if path and files.is_folder(path):
        raise InputError(f"--cases {text}: a folder; expected a file with a case id a line, or ids.")
    if path and files.exists(path):
        text = files.read_text(path)
    elif path and "," not in text and ("/" in text or text.lower().endswith((".txt", ".csv", ".json"))):
        raise InputError(f"--cases {text}: no such file.")
    names = [name for name in re.split(r"[,\s]+", text) if name]
    if not names:
        raise InputError("--cases names no case; give ids between commas, or a file with one a line.")
    return names


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
    parser.add_argument("--empty", choices=tuple(metrics.EMPTY_RULES), default="brats", help="empty masks")
    parser.add_argument("--cases", metavar="IDS", help="only these: a file, or ids between commas")
    parser.add_argument(
        "--splits", type=paths.argument, metavar="FILE", help="only one split's cases: splits.json of the run"
    )
    parser.add_argument("--split", choices=records.SPLITS, help="which, of --splits (test)")
    parser.add_argument("--fold", type=int, metavar="N", help="which of the folds that --splits holds")
    parser.add_argument(
        "--allow-missing", action="store_true", help="score what has no prediction as an empty one"
    )
    parser.add_argument(
        "--lesions",
        choices=tuple(lesion_rules.MEANINGS),
        help="lesion-wise scores too, by that year's rules (2026: also those of 2025)",
    )
    parser.add_argument("--table", choices=tuple(tables.TABLES), help="print a paper's table, ours beside it")
    parser.add_argument("--row", choices=tables.ROWS, help="which row this is, where no model's card tells it")
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
    compare.check_once(given.compare)
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
                compare.compared_with(content, other, folder)
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
        print("\n" + tables.text(given.table, [content, *others]))
    if content["compared"]:
        print("\n" + score_text.of_comparisons(content, given.output, given.table))
    print("\n" + "\n".join(files.join(given.output, name) for name in names(content)))


if __name__ == "__main__":
    command.run(main)
