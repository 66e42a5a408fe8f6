"""Two folders of segmentations compared: every case scored in worker processes, then means by region."""

import concurrent.futures
import contextlib
import functools
import importlib.metadata
import multiprocessing
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from tfbrats import __version__
from tfbrats.cases import case
from tfbrats.datasets import label_candidates
from tfbrats.errors import InputError
from tfbrats.machine import files, memory, paths
from tfbrats.metrics import lesion_rules, region_scores, stage_misses
from tfbrats.scoring import case_scores, label_tables, papers
from tfbrats.scoring.origin import by_split_of, card_beside, check_split, doubts, margin_of, model_of, split_of
from tfbrats.scoring.pairs import match
from tfbrats.scoring.summaries import summarise, summarise_lesions

_WORKER_BYTES = 300 * 2**20  # of a process that scores cases of BraTS


class WorkerDiedError(InputError):
    """A worker process died. Whoever set their number says how to have fewer."""


def fitting_workers(most: int | None = None) -> int:
    """How many processes this one has cores and free memory for, of `most` if that is fewer."""
    cores = memory.cores()
    return max(1, min(cores, memory.fitting_workers(_WORKER_BYTES), most or cores))


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
    if empty not in region_scores.EMPTY_RULES:
        raise InputError(
            f"empty-mask rule {empty!r} is unknown; choose from {', '.join(region_scores.EMPTY_RULES)}."
        )
    if lesion_rule is not None:
        lesion_rules.check(lesion_rule)
    if row is not None and row not in papers.ROWS:
        raise InputError(f"row {row!r} is in no table; choose from {', '.join(papers.ROWS)}.")
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
        case_scores.attempt,
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
        "empty_rule": {"name": empty, "meaning": region_scores.EMPTY_RULES[empty]},
        "summary": summarise(rows),
        "rows": rows,
        "cascade": {
            "margin_voxels": margin_of(model),
            "summary": stage_misses.summarise(losses),
            "rows": losses,
        },
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
