"""NIfTI cases -> segmentations with an exported model, on a laptop or any Beam engine; scores on request.

    tfbrats segment --model models/cun/1 --input BraTS2020 --output predictions
    tfbrats segment ... --reference BraTS2020 --splits runs/cun/splits.json
    tfbrats segment ... --runner=FlinkRunner ...

Writes what tfbrats.predict writes, to the byte, on this machine unless --runner says otherwise; every option
that is not listed here goes to Beam. Each worker process loads the model once. Run it again after anything went
wrong: finished cases are kept, the rest is done. A case that cannot be segmented goes to rejected.jsonl; the
exit code is 1 when more of them than --max-bad-fraction are. Engines: beam_pipelines/README.md.
"""

if __name__ == "__main__" and not __package__:  # a file run as a script sees neither its package nor tfbrats
    raise SystemExit("error: run it as python -m beam_pipelines.segment_cases from the folder above.")

import argparse
import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from beam_pipelines import engine, result_folder, transforms
from tfbrats.cases import split_files
from tfbrats.cases.rejected import Rejected
from tfbrats.datasets import layouts
from tfbrats.datasets.layouts import CaseFiles, Dataset
from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.predictions import model_card, provenance, results
from tfbrats.predictions.model_card import ModelCard
from tfbrats.predictions.results import Target
from tfbrats.reporting import score_text
from tfbrats.scoring import comparison, evaluation, label_tables, origin, pairs, score_files
from tfbrats.terminal import command, wording

SCORES = "scores"  # under --output
_WORKER_BYTES = 4 * 2**30  # for a case of BraTS; networks of width 16, half of the shipped, took 2.1 GiB


def _arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = command.parser("beam_pipelines.segment_cases", __doc__)
    parser.add_argument(
        "--model", type=paths.argument, required=True, help="a version's folder, e.g. models/cun/1; gs:// too"
    )
    parser.add_argument(
        "--input", type=paths.argument, required=True, help="a data set, in any layout; gs:// too"
    )
    parser.add_argument(
        "--output", type=paths.argument, required=True, help="folder for <case_id>.nii.gz; gs:// too"
    )
    parser.add_argument(
        "--reference",
        type=paths.argument,
        metavar="DIR",
        help=f"a data set or masks: score against them, into OUTPUT/{SCORES}",
    )
    parser.add_argument(
        "--splits",
        type=paths.argument,
        metavar="FILE",
        help="score only one split's cases: splits.json of the model's run",
    )
    parser.add_argument("--split", choices=split_files.SPLITS, help="which, of --splits (test)")
    parser.add_argument("--fold", type=int, metavar="N", help="which of the folds that --splits holds")
    parser.add_argument("--edition", help="overrides the edition that the names tell")
    parser.add_argument("--case", action="append", metavar="ID", help="only this case; may be repeated")
    parser.add_argument(
        "--provenance", action="store_true", help="write <case_id>.json beside each: model, hashes, versions"
    )
    engine.add_arguments(parser, "1, as the network uses all cores by itself")
    parser.add_argument("--overwrite", action="store_true", help="delete the cases' results first")
    options, rest = engine.parsed(parser, arguments, ("model", "input", "output"))
    beam_options = engine.with_runner(rest)
    engine.check_options(beam_options, [name for action in parser._actions for name in action.option_strings])
    return options, beam_options


def main(arguments: Sequence[str]) -> int:
    options, beam_options = _arguments(arguments)
    dataset = layouts.find(options.input, options.edition)
    for note in dataset.guesses:
        print(f"note: {note}")
    entries = {entry.case_id: entry for entry in layouts.select(dataset, options.case)}
    targets = [results.target(name, options.output, with_provenance=options.provenance) for name in entries]
    _check_places(options, dataset, targets)
    card = model_card.read(options.model)
    split = _split(options, card)
    if options.reference:
        there = pairs.references_of(options.reference, options.edition, list(entries))
        label_tables.check_references(there, options.reference, options.edition)
    print(f"model            {card.name} version {card.version}")
    if engine.is_dry_run(beam_options):
        engine.dry_run(
            beam_options,
            options.output,
            "cases",
            lambda job: transforms.segment_cases(
                job, list(entries.values()), options.model, options.output, options.provenance
            ),
        )
        return 0
    with result_folder.alone(options.output):
        _make_way(options, card, targets)
        rejected = _segmented(options, beam_options, entries, card)
        done = [name for name in entries if name not in rejected]
        print(f"segmentations of {wording.counted(len(done), 'case')} are in {options.output}")
        if options.reference and done:
            _score(options, split)
    _check_rejected(options, rejected, len(entries))
    return 0


def _check_places(options: argparse.Namespace, dataset: Dataset, targets: Sequence[Target]) -> None:
    """Raises InputError where the results would lie on a case's own files, or could not be written."""
    layouts.check_outputs(dataset.cases, [path for target in targets for path in target.all_paths])
    files.check_can_hold(options.output)
    if options.provenance:
        provenance.check([target.segmentation for target in targets])


def _make_way(options: argparse.Namespace, card: ModelCard, targets: Sequence[Target]) -> None:
    """Sees to it that no other model's results lie there, and none of these cases with --overwrite."""
    results.prepare(card, options.output, options.overwrite, targets)
    if options.overwrite:
        _remove_scores(options.output)
        for target in targets:
            results.remove(target)


def _check_rejected(options: argparse.Namespace, rejected: Mapping[str, Rejected], case_count: int) -> None:
    """Raises InputError where more cases than --max-bad-fraction were rejected."""
    if len(rejected) > options.max_bad_fraction * case_count:
        raise InputError(
            f"{len(rejected)} of {case_count} cases were rejected, more than --max-bad-fraction "
            f"{options.max_bad_fraction:g} allows: {files.join(options.output, result_folder.REJECTED)}\n"
            f"the first: {next(iter(rejected.values())).reason}\n"
            "Mend them and run this again (finished cases are kept), or raise --max-bad-fraction."
        )


# --- the job --------------------------------------------------------------------------------------------


def _segmented(
    options: argparse.Namespace,
    beam_options: Sequence[str],
    entries: Mapping[str, CaseFiles],
    card: ModelCard,
) -> dict[str, Rejected]:
    """Runs the job on the cases that have no result yet -> those that were rejected. The folder is held."""
    output = options.output

    def is_done(name: str) -> bool:
        return results.target(name, output, with_provenance=options.provenance).is_done()

    todo = {name: entry for name, entry in entries.items() if not is_done(name)}
    if len(todo) < len(entries):
        print(f"{len(entries) - len(todo)} of {len(entries)} cases are done already and are kept")
    result_folder.sweep(output, list(todo))
    spacing_notes = results.spacing_notes(card, list(todo.values()))
    for line in results.notes_told({name: [note] for name, note in spacing_notes.items()}):
        print(line, flush=True)
    if todo:
        _run(options, beam_options, list(todo.values()))
    rows = result_folder.rows(output, list(todo))
    if missing := [name for name in todo if name not in rows]:
        raise InputError(f"the job ended without {', '.join(missing)}. Run it again: it goes on from here.")
    if rows:
        _print_rows(rows, spacing_notes)
    rejected = {name: Rejected.model_validate(row["rejected"]) for name, row in rows.items() if row["rejected"]}
    result_folder.write_rejected(output, list(rejected.values()), list(entries))
    return rejected


def _run(options: argparse.Namespace, beam_options: Sequence[str], todo: Sequence[CaseFiles]) -> None:
    """Runs the Beam job to its end, with a bar."""
    # One worker unless more are asked for: the network uses all cores by itself.
    workers, line = engine.worker_options(
        beam_options, options.max_workers, len(todo), 0.0, _WORKER_BYTES, "cases to segment"
    )
    if line:
        print(f"workers          {line}", flush=True)
    output = options.output
    done = functools.partial(result_folder.row_count, output)
    all_options = [*beam_options, *workers]
    with engine.job(all_options, output, "cases", done, len(todo), unit="case") as (pipeline, pid):
        transforms.segment_cases(pipeline, todo, options.model, output, options.provenance, pid)


def _print_rows(rows: Mapping[str, Mapping[str, Any]], spacing_notes: Mapping[str, str]) -> None:
    """What was noted in reading, but what was said before the job; and how long it took."""
    later = {
        name: [note for note in row["notes"] if note != spacing_notes.get(name)] for name, row in rows.items()
    }
    for line in results.notes_told(later):
        print(line)
    print(_times(list(rows.values())))


def _times(rows: Sequence[Mapping[str, Any]]) -> str:
    """How long a case took, and how often a model was loaded."""
    means = {stage: sum(row["seconds"].get(stage, 0.0) for row in rows) / len(rows) for stage in results.STAGES}
    listed = ", ".join(f"{stage} {mean:.2f}" for stage, mean in means.items())
    workers = {row["worker"] for row in rows}
    loads = {(row["worker"], row["load"]) for row in rows}
    return (
        f"seconds a case   {sum(means.values()):.2f} ({listed})\n"
        f"model loaded     {wording.counted(len(loads), 'time')} by {wording.counted(len(workers), 'worker')}"
    )


# --- scores ---------------------------------------------------------------------------------------------


def _split(options: argparse.Namespace, card: ModelCard) -> tuple[list[str], origin.Split] | None:
    """The cases to score and which split they are; None for all. What would fail afterwards is refused before.

    Raises:
        InputError: options that do not go together, no such split, or one that the model was not trained on.
    """
    if options.splits is None:
        if options.fold is not None:
            raise InputError(f"--fold {options.fold} needs --splits: the file that holds the folds.")
        if options.split is not None:
            raise InputError(f"--split {options.split} needs --splits: the file that says which cases it has.")
        return None
    if not options.reference:
        raise InputError("--splits says which cases to score, and needs --reference: what to score against.")
    case_ids, chosen = origin.split_of(options.splits, options.split or "test", options.fold)
    model = origin.model_of(card, options.output)
    origin.check_split(chosen, model, options.model)
    return case_ids, chosen


def _score(options: argparse.Namespace, split: tuple[list[str], origin.Split] | None) -> None:
    """Scores every finished case of the folder that the reference has, those of earlier jobs too.

    Args:
        split: as `_split`; its cases alone.
    """
    try:
        finished = [
            one.case_id for one in pairs.match(options.output, options.reference, options.edition).pairs
        ]
        case_ids, chosen = split or (finished, None)
        left_out = [case_id for case_id in case_ids if case_id not in finished]
        if len(left_out) == len(case_ids):
            print(f"nothing is scored: no case of split {chosen.name} of {options.splits} is segmented here")
            return
        scores = evaluation.evaluate(
            options.output,
            options.reference,
            options.edition,
            cases=[case_id for case_id in case_ids if case_id in finished],
            workers=evaluation.fitting_workers(options.max_workers),
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
            f"{error} The segmentations are kept: run this again with --max-workers 1, and without --runner."
        ) from error
    except InputError as error:
        raise InputError(f"{error}\nThe segmentations are kept: mend that and run this again.") from error
    folder = files.join(options.output, SCORES)
    score_files.write(scores, folder)
    means = ", ".join(f"{region} {of_region['dice'].mean:.3f}" for region, of_region in scores.summary.items())
    number = wording.counted(scores.cases, "case") + scores.seen_briefly
    print(f"mean Dice        {means}; all scores of {number}: {folder}")
    for note in scores.notes:
        print(f"note: {note}")
    text, is_warning = score_text.what_was_seen(scores)
    if text and not is_warning:
        print(text)
    for warning in score_text.warnings(scores):
        print(f"WARNING: {warning}", file=sys.stderr)


def _remove_scores(output: str) -> None:
    """They are of segmentations that go."""
    folder = files.join(output, SCORES)
    for name in score_files.ALL:
        files.remove(files.join(folder, name))
    if files.is_local(folder):
        with contextlib.suppress(OSError):  # not there, or it holds more
            os.rmdir(folder)


if __name__ == "__main__":
    command.run(main)
