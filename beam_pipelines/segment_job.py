"""The job of `segment_cases`: the cases that have no result yet. Imports Beam."""

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam

from beam_pipelines import engine, result_folder, segment_scores, transforms
from tfbrats.cases.rejected import Rejected
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.predictions import results, volumes
from tfbrats.predictions.model_card import ModelCard
from tfbrats.predictions.results import Target
from tfbrats.terminal import wording

_WORKER_BYTES = 4 * 2**30  # for a case of BraTS; networks of width 16, half of the shipped, took 2.1 GiB


def built(options: argparse.Namespace) -> Callable[[beam.Pipeline], object]:
    """Puts the job into a pipeline that is given later, and is not run."""
    listed = result_folder.list_of(options.output)
    return lambda pipeline: transforms.segment_cases(
        pipeline, listed, options.model, options.output, options.provenance
    )


def make_way(options: argparse.Namespace, card: ModelCard, targets: Sequence[Target]) -> None:
    """Sees to it that no other model's results lie there, and none of these cases with --overwrite."""
    results.prepare(card, options.output, options.overwrite, targets)
    if options.overwrite:
        segment_scores.remove(options.output)
        for target in targets:
            results.remove(target)
        volumes.Table(options.output)  # predict's, if it wrote here: without the rows of what is gone


def segmented(
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
        beam_options, options.workers, len(todo), 0.0, _WORKER_BYTES, "cases to segment"
    )
    if line:
        print(f"workers          {line}", flush=True)
    output = options.output
    done = functools.partial(result_folder.row_count, output)
    all_options = [*beam_options, *workers]
    listed = result_folder.list_of(output)
    transforms.list_cases(listed, todo)
    with engine.job(all_options, output, "cases", done, len(todo), unit="case") as (pipeline, pid):
        transforms.segment_cases(pipeline, listed, options.model, output, options.provenance, pid)


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


def check_rejected(options: argparse.Namespace, rejected: Mapping[str, Rejected], case_count: int) -> None:
    """Says how many cases were rejected; raises InputError where they are more than --max-bad-fraction."""
    if not rejected:
        return
    where = files.join(options.output, result_folder.REJECTED)
    if len(rejected) <= options.max_bad_fraction * case_count:
        print(f"{len(rejected)} of {case_count} cases were rejected: {where}")
        return
    raise InputError(
        f"{len(rejected)} of {case_count} cases were rejected, more than --max-bad-fraction "
        f"{options.max_bad_fraction:g} allows: {where}\n"
        f"the first: {next(iter(rejected.values())).reason}\n"
        "Mend them and run this again (finished cases are kept), or raise --max-bad-fraction."
    )
