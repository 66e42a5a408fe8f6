"""Segment cases with an exported model, no server needed.

    tfbrats predict --model models/cun/1 --input BraTS2020 --output predictions
    tfbrats predict ... --submission UPLOAD.zip

Writes <case_id>.nii.gz for each case, on the case's own grid and in its own label values. Run again, it goes
on with the cases that have none yet. With --submission all of them are then held against the challenge's
upload rules (tfbrats.check_submission); the archive is written only if it would take every one.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from tqdm import tqdm

from tfbrats.cases.case import Case
from tfbrats.datasets import layouts
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.errors import InputError
from tfbrats.inference import saved_segmenter
from tfbrats.machine import files, paths
from tfbrats.predictions import (
    model_card,
    provenance,
    results,
    seen,
    submission,
    submission_files,
    submission_rules,
)
from tfbrats.predictions.model_card import ModelCard
from tfbrats.predictions.results import Segmentation, Target
from tfbrats.predictions.submission_rules import SubmissionRules
from tfbrats.terminal import command, wording


def predict(
    model_dir: str,
    dataset: layouts.Dataset,
    output: str,
    case_ids: Sequence[str] | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
    rules: SubmissionRules | None = None,
    with_provenance: bool = False,
) -> list[str]:
    """Segments the cases of a data set into `output`.

    Args:
        case_ids: only these.
        probabilities: also write <case_id>_probabilities.nii.gz, float32 [I, J, K, 3].
        overwrite: segment again what has a result already.
        rules: of the upload it is for; the first case whose scans would make it refused is said at once.
        with_provenance: also write <case_id>.json (`provenance`).

    Returns:
        the faults of the cases that could not be segmented.

    Raises:
        InputError: no model, no such case, or an output that cannot be or must not be written.
    """
    entries = layouts.select(dataset, case_ids)
    target_of = {
        entry.case_id: results.target(entry.case_id, output, probabilities, with_provenance)
        for entry in entries
    }
    targets = list(target_of.values())
    layouts.check_outputs(dataset.cases, [path for target in targets for path in target.all_paths])
    files.check_can_hold(output)
    if with_provenance:
        provenance.check([target.segmentation for target in targets])
    segmenter = saved_segmenter.SavedSegmenter(model_dir)
    results.prepare(segmenter.card, output, overwrite, targets)

    segment = _segmenting(segmenter, probabilities, rules)
    faults = []
    kept = 0
    for entry in tqdm(entries, desc="cases", disable=None):
        target = target_of[entry.case_id]
        if not overwrite and target.is_done():
            kept += 1
        elif fault := _fault_of(segment, entry, segmenter.card, target):
            faults.append(fault)
    if kept:
        print(f"{kept} of {len(entries)} cases are done already and are kept (--overwrite redoes them)")
    _note_cases_seen(segmenter.card, list(target_of))
    return faults


def _segmenting(
    segmenter: saved_segmenter.SavedSegmenter, probabilities: bool, rules: SubmissionRules | None
) -> Callable[[Case], Segmentation]:
    """What segments a case; says of the first that breaks the upload's rules that it will be refused."""

    def segment(loaded: Case) -> Segmentation:
        nonlocal rules
        if rules and (doubts := submission.placement_faults(loaded.grid.placement, rules)):
            tqdm.write(f"{loaded.case_id}: the upload will be refused for it: {' '.join(doubts)}")
            rules = None
        return segmenter.segment(loaded, probabilities)

    return segment


def _fault_of(
    segment: Callable[[Case], Segmentation], entry: CaseFiles, card: ModelCard, target: Target
) -> str | None:
    """Segments one case and writes its files; returns why that could not be, None if it is done."""

    def tell(note: str) -> None:
        tqdm.write(f"note: {entry.case_id}: {note}")

    attempt = results.attempt(segment, entry, card, target, tell=tell)
    if attempt.fault is None:
        if attempt.found.tiles is not None:
            tqdm.write(f"{entry.case_id}: {model_card.tiles_line(attempt.found.tiles)}")
        return None
    if attempt.fault.traceback:
        tqdm.write(attempt.fault.traceback, file=sys.stderr)
    return attempt.fault.reason


def _note_cases_seen(card: ModelCard, case_ids: Sequence[str]) -> None:
    """Says how many of the cases the model has seen in training."""
    kinds = seen.kinds_of(card.training_data, case_ids)
    if kinds and seen.number_seen(cases := seen.by_kind(kinds)):
        number = wording.counted(len(kinds), "case")
        print(f"note: of {number} {seen.listed(cases)}; scores of all are not those of unseen cases")


# --- the upload -----------------------------------------------------------------------------------------


def _rules(dataset: layouts.Dataset, case_ids: Sequence[str] | None, archive: str) -> SubmissionRules:
    """The upload rules for these cases; refuses, before hours of work, what names alone forbid."""
    submission_files.check_target(archive)
    entries = layouts.select(dataset, case_ids)
    rules = submission_rules.rules_for([entry.schema.edition for entry in entries], dataset.root)
    strangers = [entry.case_id for entry in entries if rules.key(entry.case_id) is None]
    if strangers:
        raise InputError(
            f"{dataset.root}: the challenge of {rules.edition} knows no cases named like "
            f"{', '.join(strangers[:3])} ({len(strangers)} such); expected e.g. {rules.example}. Rename them, "
            "or leave --submission out."
        )
    return rules


def submit(output: str, case_ids: Sequence[str], rules: SubmissionRules, archive: str) -> None:
    """Packs the segmentations of these cases as one archive to upload, if the challenge would take it.

    Raises:
        InputError: it would not; says why, and writes nothing.
    """
    members = [
        submission_files.member(files.join(output, f"{case_id}{submission_rules.SUFFIX}"))
        for case_id in case_ids
    ]
    verdict = submission.check(members, rules, case_ids)
    for text in verdict.warnings:
        print(f"warning: {text}")
    if not verdict.accepted:
        older = " (the one that lies there is older)" if files.exists(archive) else ""
        raise InputError(
            f"{archive}: not written{older}; the challenge would refuse it:\n" + "\n".join(verdict.faults)
        )
    submission_files.pack(members, verdict, archive)
    print(f"accepted: {len(members)} files, packed as {archive}")


# --- the command ----------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("tfbrats.predict", __doc__)
    parser.add_argument(
        "--model", type=paths.argument, required=True, help="a version's folder, e.g. models/cun/1; gs:// too"
    )
    parser.add_argument(
        "--input", type=paths.argument, required=True, help="a data set or one case's folder; gs:// too"
    )
    parser.add_argument("--output", type=paths.argument, required=True, help="folder for <case_id>.nii.gz")
    parser.add_argument("--edition", help="overrides the edition that the names tell")
    parser.add_argument("--case", action="append", metavar="ID", help="only this case; may be repeated")
    parser.add_argument("--probabilities", action="store_true", help="write them too")
    parser.add_argument(
        "--provenance", action="store_true", help="write <case_id>.json beside each: model, hashes, versions"
    )
    parser.add_argument("--overwrite", action="store_true", help="segment again what has a result")
    parser.add_argument(
        "--submission", type=paths.argument, metavar="FILE.zip", help="check and pack them for the challenge"
    )
    return parser


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    dataset = layouts.find(options.input, options.edition)
    for note in dataset.guesses:
        print(f"note: {note}")
    rules = _rules(dataset, options.case, options.submission) if options.submission else None
    faults = predict(
        options.model,
        dataset,
        options.output,
        options.case,
        options.probabilities,
        options.overwrite,
        rules,
        options.provenance,
    )
    if faults:
        unpacked = f"\n{options.submission}: not written" if rules else ""
        raise InputError("these cases could not be segmented:\n" + "\n".join(faults) + unpacked)
    print(f"segmentations are in {options.output}")
    if rules:
        case_ids = [entry.case_id for entry in layouts.select(dataset, options.case)]
        submit(options.output, case_ids, rules, options.submission)


if __name__ == "__main__":
    command.run(main)
