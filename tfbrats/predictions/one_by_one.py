"""Cases through a loaded model, one after another, as `predict` does it: written, measured, told.

No TensorFlow: the model is loaded by who calls, and only if a case is left to do.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from tfbrats.cases.case import Case
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.predictions import results, seen, submission, volumes
from tfbrats.predictions.model_card import ModelCard
from tfbrats.predictions.results import Segmentation, Target
from tfbrats.predictions.submission_rules import SubmissionRules
from tfbrats.predictions.wanted import Wanted
from tfbrats.terminal import bars, style, wording


class Segmenter(Protocol):
    """A loaded model."""

    card: ModelCard

    def segment(self, loaded: Case, probabilities: bool = False, uncertainty: bool = False) -> Segmentation: ...


def segment_all(
    wanted: Wanted,
    card: ModelCard,
    load: Callable[[], Segmenter],
    overwrite: bool = False,
    rules: SubmissionRules | None = None,
) -> list[str]:
    """Segments the cases that have no result yet.

    Args:
        wanted: cases and places, for this model (`Wanted.by`).
        load: gives the model.
        overwrite: segment again what has a result already.
        rules: of the upload it is for; the first case whose scans would make it refused is said at once.

    Returns:
        the faults of the cases that could not be segmented.

    Raises:
        InputError: no model, or results of another one that must not be mixed with these.
    """
    wanted.check(card, overwrite)
    todo = wanted.todo(overwrite)
    segmenter = load() if todo else None
    wanted.prepare(card, overwrite)
    todo = wanted.todo(overwrite)
    table = None if wanted.folder is None else volumes.Table(wanted.folder, [e.case_id for e, _ in todo])
    if kept := len(wanted.pairs) - len(todo):
        print(f"{kept} of {len(wanted.pairs)} cases are done already and are kept (--overwrite redoes them)")
    faults = []
    if segmenter is not None:
        segment = _segmenting(segmenter, rules)
        for entry, target in bars.bar(todo, desc="cases", unit="case", hidden=len(todo) == 1):
            if fault := _fault_of(segment, entry, card, target, table):
                faults.append(fault)
    if table is not None:
        for note in table.complete([(entry, target) for entry, target in wanted.pairs if target.is_done()]):
            print(style.note(note))
    _note_cases_seen(card, [entry.case_id for entry, _ in wanted.pairs])
    return faults


def _segmenting(segmenter: Segmenter, rules: SubmissionRules | None) -> Callable[[Case, Target], Segmentation]:
    """What segments a case; says of the first that breaks the upload's rules that it will be refused."""

    def segment(loaded: Case, target: Target) -> Segmentation:
        nonlocal rules
        if rules and (doubts := submission.placement_faults(loaded.grid.placement, rules)):
            bars.write(f"{loaded.case_id}: the upload will be refused for it: {' '.join(doubts)}")
            rules = None
        return segmenter.segment(loaded, target.probabilities is not None, bool(target.uncertainty))

    return segment


def _fault_of(
    segment: Callable[[Case, Target], Segmentation],
    entry: CaseFiles,
    card: ModelCard,
    target: Target,
    table: volumes.Table | None,
) -> str | None:
    """Segments one case and writes its files; returns why that could not be, None if it is done."""

    def tell(note: str) -> None:
        bars.write(style.note(f"{entry.case_id}: {note}"))

    attempt = results.attempt(lambda loaded: segment(loaded, target), entry, card, target, tell=tell)
    if attempt.fault is None:
        bars.write(volumes.told(entry.case_id, attempt, table))
        return None
    if attempt.fault.traceback:
        bars.write(attempt.fault.traceback, file=sys.stderr)
    return attempt.fault.reason


def _note_cases_seen(card: ModelCard, case_ids: Sequence[str]) -> None:
    """Says how many of the cases the model has seen in training."""
    kinds = seen.kinds_of(card.training_data, case_ids)
    if kinds and (n := seen.number_seen(cases := seen.by_kind(kinds))):
        number = wording.counted(len(kinds), "case")
        listed = seen.listed(cases, seen.KNOWN_TO_THE_MODEL)
        text = f"the model has seen {n} of {number} ({listed}); mean scores over all are therefore too good"
        print(style.note(f"{text}{_left_out_by_some(card, case_ids)}"))


def _left_out_by_some(card: ModelCard, case_ids: Sequence[str]) -> str:
    """What is added of a model of folds: how many cases trained some of its runs and not others."""
    runs = len(card.training_data.get("runs", ()))
    some = [of for of in seen.runs_without(card.training_data, case_ids).values() if 0 < len(of) < runs]
    if not some:
        return ""
    return f". {len(some)} of them trained some of its {runs} runs and not others: its card tells which"
