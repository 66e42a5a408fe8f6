"""The scores of what `segment_cases` has segmented, where there is what to hold it against. Imports SciPy."""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence

from beam_pipelines.options import SCORES
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.predictions import model_card
from tfbrats.predictions.model_card import ModelCard
from tfbrats.reporting import score_text
from tfbrats.scoring import comparison, evaluation, label_tables, origin, pairs, score_files
from tfbrats.terminal import style, wording


def check_references(options: argparse.Namespace, case_ids: Sequence[str]) -> None:
    """Raises InputError where the references cannot be read as such, before hours of segmenting."""
    there = pairs.references_of(options.reference, options.edition, case_ids)
    label_tables.check_references(there, options.reference, options.edition)


def split_of(options: argparse.Namespace, card: ModelCard) -> tuple[list[str], origin.Split] | None:
    """The cases to score and which split they are; None for all. What would fail afterwards is refused before.

    Raises:
        InputError: no such split, or one that the model was not trained on.
    """
    if options.splits is None:
        return None
    case_ids, chosen = origin.split_of(options.splits, options.split or "test", options.fold)
    model = origin.model_of(card, options.output)
    origin.check_split(chosen, model, options.model)
    return case_ids, chosen


def score(options: argparse.Namespace, split: tuple[list[str], origin.Split] | None) -> bool:
    """Scores every finished case of the folder that the reference has, those of earlier jobs too.

    Args:
        split: of `split_of`; its cases alone.

    Returns:
        whether there was one to be scored.
    """
    try:
        finished = [
            one.case_id for one in pairs.match(options.output, options.reference, options.edition).pairs
        ]
        case_ids, chosen = split or (finished, None)
        is_finished = set(finished)
        left_out = [case_id for case_id in case_ids if case_id not in is_finished]
        if len(left_out) == len(case_ids):
            print(f"nothing is scored: no case of split {chosen.name} of {options.splits} is segmented here")
            return False
        scores = evaluation.evaluate(
            options.output,
            options.reference,
            options.edition,
            cases=[case_id for case_id in case_ids if case_id in is_finished],
            workers=evaluation.fitting_workers(options.workers),
        )
        card = model_card.read(options.model)
        by_split = origin.by_split_of(card, scores.rows, options.splits, options.fold)
        scores = dataclasses.replace(scores, split=chosen, by_split=by_split)
        if left_out:
            of_all = wording.counted(len(case_ids), "case")
            note = (
                f"{len(left_out)} of {of_all} of split {chosen.name} are not segmented here, and so not "
                f"scored: {comparison.first(left_out)}"
            )
            scores = dataclasses.replace(scores, notes=[*scores.notes, note])
    except evaluation.WorkerDiedError as error:
        raise InputError(
            f"{error} The segmentations are kept: run this again with --workers 1, and without --runner."
        ) from error
    except InputError as error:
        raise InputError(f"{error}\nThe segmentations are kept: mend that and run this again.") from error
    folder = files.join(options.output, SCORES)
    score_files.write(scores, folder)
    means = ", ".join(f"{region} {of_region['dice'].mean:.3f}" for region, of_region in scores.summary.items())
    number = wording.counted(scores.cases, "case") + scores.seen_briefly
    print(f"mean Dice        {means}; all scores of {number}: {folder}")
    for note in scores.notes:
        print(style.note(note))
    text, is_warning = score_text.what_was_seen(scores)
    if text and not is_warning:
        print(text)
    for warning in score_text.warnings(scores):
        print(style.warning(warning, sys.stderr), file=sys.stderr)
    return True


def remove(output: str) -> None:
    """They are of segmentations that go."""
    folder = files.join(output, SCORES)
    for name in score_files.ALL:
        files.remove(files.join(folder, name))
    if files.is_local(folder):
        with contextlib.suppress(OSError):  # not there, or it holds more
            os.rmdir(folder)
