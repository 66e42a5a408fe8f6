"""The job of `nifti_to_tfrecord`: shards that are not there yet, then dataset.json. Imports Beam."""

import argparse
import functools
from collections.abc import Callable, Sequence

import apache_beam as beam

from beam_pipelines import engine, transforms
from beam_pipelines.options import is_local
from beam_pipelines.plan import Plan
from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.predictions import results
from tfbrats.records import folder, shards
from tfbrats.records.folder import RecordFolder, Remaining
from tfbrats.records.manifest import MANIFEST, Manifest
from tfbrats.records.price import Price
from tfbrats.records.shards import ShardTask
from tfbrats.terminal import wording


def list_of(output: str) -> str:
    """Where the list of a job's tasks lies while it is under way."""
    return files.join(output, shards.PARTS, folder.TASKS)


def built(output: str, config: Config) -> Callable[[beam.Pipeline], object]:
    """Puts the job into a pipeline that is given later, and is not run."""
    return lambda pipeline: transforms.write_shards(pipeline, list_of(output), config.model_dump(mode="json"))


def written(
    options: argparse.Namespace, config: Config, beam_options: list[str], records: RecordFolder, plan: Plan
) -> Manifest:
    """Writes what is not there yet, then dataset.json. The folder is held by this job."""
    records.check_claim(config, records.cases if options.add else plan.splits)
    remaining = records.remaining(plan.tasks, plan.batches)
    _check_disk(records, plan.price, remaining)
    beam_options, lines = _with_workers(options, beam_options, plan.price, remaining)
    records.claim(config, plan.batches)
    _print_kept(plan.tasks, remaining)
    if remaining.todo:
        print("\n".join(lines), flush=True)
        records.resume(remaining)
        _run(beam_options, config, records.output, remaining.todo)
    manifest = records.assemble(plan.tasks, remaining.kept, config, plan.batches)
    records.write_rejected(manifest)
    _check_rejected(options, records, plan, manifest)
    if not manifest.examples["train"]:
        raise InputError(f"{records.output}: no training example came out. Give more cases, or --splits.")
    records.finish(manifest)
    return manifest


def _check_disk(records: RecordFolder, price: Price, remaining: Remaining) -> None:
    """Raises InputError where what is left to be written will not fit."""
    needed = sum(task.expected_bytes for task in remaining.todo)
    if price.free_bytes is None or needed <= (free := price.free_bytes + records.freed_bytes()):
        return
    advice = price.advice(needed)
    raise InputError(
        f"{records.output}: the records need about {wording.in_units(needed)}, and "
        f"{wording.in_units(free)} are free. Free some, choose another --output"
        + (f", or {advice}" if advice else ".")
    )


def _with_workers(
    options: argparse.Namespace, beam_options: list[str], price: Price, remaining: Remaining
) -> tuple[list[str], list[str]]:
    """Beam's options with the number of workers; and lines that say why so many, and how long it will take."""
    seconds = price.seconds * sum(len(task.cases) for task in remaining.todo) / price.cases
    workers, line = engine.worker_options(
        beam_options, options.workers, len(remaining.todo), seconds, price.worker_bytes
    )
    lines = [f"workers          {line}"] if line else []
    if is_local(beam_options):
        lines.append(f"time             about {wording.in_time(seconds / engine.worker_count(workers))}")
    return [*beam_options, *workers], lines


def _print_kept(tasks: Sequence[ShardTask], remaining: Remaining) -> None:
    if len(remaining.todo) < len(tasks):
        shard_count = sum(len(task.files) for task in tasks)
        print(f"{len(remaining.kept)} of {shard_count} shards are finished already and are kept")
    if remaining.again:
        print(
            f"{remaining.again} shards are written again: damaged, with rejected cases, or of files that "
            "changed or lie in another folder now"
        )


def _run(beam_options: Sequence[str], config: Config, output: str, todo: Sequence[ShardTask]) -> None:
    """Runs the Beam job to its end, with a bar over the cases."""
    done = functools.partial(shards.cases_done, output, todo)
    cases = sum(len(task.cases) for task in todo)
    desc = "cases, with N4" if config.preprocess.n4_modalities else "cases"
    transforms.list_shards(list_of(output), todo)
    with engine.job(beam_options, output, "shards", done, cases, unit="case", desc=desc) as (pipeline, pid):
        transforms.write_shards(pipeline, list_of(output), config.model_dump(mode="json"), pid)


def _check_rejected(options: argparse.Namespace, records: RecordFolder, plan: Plan, manifest: Manifest) -> None:
    """Raises InputError where more cases than --max-bad-fraction were rejected."""
    case_count = sum(len(ids) for ids in plan.splits.values())
    if manifest.rejected / case_count <= options.max_bad_fraction:
        return
    if records.was_accepted(manifest):
        records.finish(manifest)  # a set that was accepted once is not taken away again
    first = next(row for shard in manifest.shards for row in shard.rejected)
    raise InputError(
        f"{manifest.rejected} of {case_count} cases were rejected, more than --max-bad-fraction "
        f"{options.max_bad_fraction:g} allows: {files.join(records.output, folder.REJECTED)}\n"
        f"the first: {first.reason}\n"
        "Mend them and run this again (finished shards are kept), or raise --max-bad-fraction."
    )


def tell(manifest: Manifest, output: str) -> None:
    """What was noted in reading, how long a case took, and what was written."""
    notes = {row.case_id: row.notes for shard in manifest.shards for row in shard.cases if row.notes}
    for line in results.notes_told(notes):
        print(line)
    by_stage = manifest.seconds_per_case
    listed = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in by_stage.items())
    print(f"seconds a case: {sum(by_stage.values()):.2f} ({listed})")
    print(
        f"wrote {files.join(output, MANIFEST)}: "
        + ", ".join(f"{name} {count}" for name, count in manifest.examples.items())
        + f" {manifest.kind}, {wording.in_units(manifest.bytes)} in {len(manifest.shards)} shards"
        + (f"; {manifest.rejected} cases rejected" if manifest.rejected else "")
    )
