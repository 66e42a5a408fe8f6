"""NIfTI cases -> TFRecord shards and dataset.json, on a laptop or any Beam engine.

    tfbrats prepare --config cun.yaml --input BraTS2017/HGG --output records/cun

Runs on this machine, with as many processes as cores and free memory allow, unless --runner says otherwise;
every option that is not listed here goes to Beam (--runner=DataflowRunner --max_num_workers=50 ...).
Run it again after anything went wrong: finished shards are kept, the rest is written; cases that came since
are written beside them with --add. A case that cannot be used goes to rejected.jsonl; the exit code is 1 when
more of them than --max-bad-fraction are. More, and how to run it on a cluster: beam_pipelines/README.md.
"""

if __name__ == "__main__" and not __package__:  # a file run as a script sees neither its package nor tfbrats
    raise SystemExit("error: run it as python -m beam_pipelines.nifti_to_tfrecord from the folder above.")

import argparse
import dataclasses
import re
from collections.abc import Sequence

from beam_pipelines import engine, transforms
from tfbrats import config_file
from tfbrats.cases import dealing
from tfbrats.cases.split_files import SPLITS
from tfbrats.config import Config
from tfbrats.datasets import layouts, patients
from tfbrats.datasets.layouts import Dataset
from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.predictions import results
from tfbrats.records import folder, shards
from tfbrats.records.folder import RecordFolder, Remaining
from tfbrats.records.manifest import MANIFEST, Batch, Manifest
from tfbrats.records.price import Price, measured_price
from tfbrats.records.shards import ShardTask
from tfbrats.terminal import command, wording


def _arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Our options, the config's overrides, and Beam's options."""
    parser = command.parser("beam_pipelines.nifti_to_tfrecord", __doc__)
    parser.add_argument(
        "--config", type=paths.argument, required=True, help="a YAML file, or the name of a shipped one"
    )
    parser.add_argument(
        "--input", type=paths.argument, required=True, help="folder of a data set, in any layout; gs:// too"
    )
    parser.add_argument(
        "--output", type=paths.argument, required=True, help="folder of the record set; gs:// too"
    )
    parser.add_argument("--edition", help="overrides the edition that the names tell")
    parser.add_argument(
        "--splits",
        type=paths.argument,
        metavar="FILE",
        help="of tfbrats split, or a recipe: " + ", ".join(dealing.RECIPES),
    )
    patients.add_argument(parser)
    parser.add_argument("--fold", type=int, metavar="N", help="which of the folds that --splits holds")
    engine.add_arguments(parser, "what cores, free memory and work allow")
    parser.add_argument("--add", action="store_true", help="write new cases beside those that --output holds")
    parser.add_argument("--price", action="store_true", help="print what it would cost, and stop")
    parser.add_argument("--overwrite", action="store_true", help="delete what --output holds first")
    options, rest = engine.parsed(parser, arguments, ("input", "output"))
    if options.add and options.overwrite:
        raise InputError("--add keeps what is there, --overwrite deletes it: choose one.")
    # What reads section.key=value is an override; the rest is Beam's.
    overrides = [
        text for text in rest if re.match(rf"([a-z0-9_]+\.[a-z0-9_]+|{'|'.join(config_file.ROOT_KEYS)})=", text)
    ]
    beam_options = engine.with_runner([text for text in rest if text not in overrides])
    engine.check_options(beam_options, [name for action in parser._actions for name in action.option_strings])
    return options, overrides, beam_options


def main(arguments: Sequence[str]) -> int:
    options, overrides, beam_options = _arguments(arguments)
    config = config_file.load(options.config, overrides)
    dataset = layouts.find(options.input, options.edition).with_patients(options.patients)
    records = RecordFolder(options.output, options.overwrite)
    plan = _planned(options, config, dataset, records)
    _print_plan(options, dataset, records, plan)
    if options.price:
        return 0
    if engine.is_dry_run(beam_options):
        engine.dry_run(
            beam_options, options.output, "shards", lambda job: transforms.write_shards(job, plan.tasks)
        )
        return 0
    records.check_free()
    with records.alone():
        manifest = _written(options, config, beam_options, records, plan)
    _print_written(manifest, options.output)
    return 0


# --- what is to be written ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What the record set will be.

    Attributes:
        new: split -> ids of the cases that are given now; of all, where none is new.
        splits: split -> ids of all cases, those of earlier batches too.
        batches: the same cases, as they were given.
        tasks: of all shards.
        price: of the new cases.
        notes: on how cases were dealt.
    """

    new: dict[str, list[str]]
    splits: dict[str, list[str]]
    batches: list[Batch]
    tasks: list[ShardTask]
    price: Price
    notes: Sequence[str]

    def shard_count(self) -> int:
        """Of the shards that hold new cases."""
        new = {case_id for ids in self.new.values() for case_id in ids}
        return sum(len(task.files) for task in self.tasks if new & {case.case_id for case in task.cases})


def _planned(options: argparse.Namespace, config: Config, dataset: Dataset, records: RecordFolder) -> _Plan:
    """Deals the cases, prices them, and plans the shards of all, those of earlier batches as they were."""
    if options.add and not records.batches:
        raise InputError(f"{options.output}: --add, and there are no records yet. Leave --add away.")
    written = records.cases if options.add else None
    settings = config.records
    dealt, notes = dealing.deal(dataset, settings.split, settings.seed, options.splits, options.fold, written)
    has_cases = any(dealt.values())
    new = dealt if has_cases else records.cases
    # Records of other cases are refused before anything is written; the price is that of these.
    price = measured_price(dataset, new, config, options.output, with_n4=options.price)
    batches = list(records.batches) if options.add or records.cases == dealt else []
    if has_cases and (options.add or not batches):
        batches.append(Batch(cases=dealt, bytes_per_case=price.bytes_per_case))
    splits = folder.cases_of(batches) if options.add else dealt
    tasks = [
        task
        for number, batch in enumerate(batches)
        for task in shards.plan(dataset, batch.cases, config, options.output, batch.bytes_per_case, number)
    ]
    return _Plan(new, splits, batches, tasks, price, notes)


def _print_plan(options: argparse.Namespace, dataset: Dataset, records: RecordFolder, plan: _Plan) -> None:
    print(f"{'; '.join(dataset.layouts)}\nedition {', '.join(dataset.editions)}")
    of_cases = (f"{case.case_id}: {note}" for case in dataset.cases for note in case.notes)
    for note in (*dataset.notes, *plan.notes, *of_cases):
        print(f"note: {note}")
    left_out = len(dataset.cases) - sum(len(ids) for ids in plan.splits.values())
    if left_out:
        print(f"note: {left_out} cases are in no split and left out: test images, or not named in --splits")
    print("\n".join(plan.price.lines(plan.shard_count())))
    print("split            " + ", ".join(f"{name} {len(ids)}" for name, ids in plan.new.items()))
    if options.add:
        kept = sum(len(batch.cases.get(name, ())) for batch in records.batches for name in SPLITS)
        print(f"added to         {kept} cases")


# --- the job --------------------------------------------------------------------------------------------


def _written(
    options: argparse.Namespace, config: Config, beam_options: list[str], records: RecordFolder, plan: _Plan
) -> Manifest:
    """Writes what is not there yet, then dataset.json. The folder is held by this job."""
    records.check_claim(config, records.cases if options.add else plan.splits)
    remaining = records.remaining(plan.tasks, plan.batches)
    _check_disk(records, plan.price, remaining)
    beam_options, line = _with_workers(options, beam_options, plan.price, remaining)
    records.claim(config, plan.batches)
    _print_kept(plan.tasks, remaining)
    if remaining.todo:
        if line:
            print(f"workers          {line}", flush=True)
        records.resume(remaining)
        _run(beam_options, records.output, plan.price, remaining)
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
) -> tuple[list[str], str]:
    """Beam's options with the number of workers, and a line that says why so many."""
    seconds = price.seconds * sum(len(task.cases) for task in remaining.todo) / price.cases
    workers, line = engine.worker_options(
        beam_options, options.max_workers, len(remaining.todo), seconds, price.worker_bytes
    )
    return [*beam_options, *workers], line


def _print_kept(tasks: Sequence[ShardTask], remaining: Remaining) -> None:
    if len(remaining.todo) < len(tasks):
        shard_count = sum(len(task.files) for task in tasks)
        print(f"{len(remaining.kept)} of {shard_count} shards are finished already and are kept")
    if remaining.again:
        print(
            f"{remaining.again} shards are written again: damaged, with rejected cases, or of files that "
            "changed or lie in another folder now"
        )


def _run(beam_options: Sequence[str], output: str, price: Price, remaining: Remaining) -> None:
    """Runs the Beam job to its end, with a bar."""

    def written_bytes() -> int:
        return sum(files.walk(output).values())

    bar = {"unit": "B", "unit_scale": True, "desc": "records"}
    with engine.job(beam_options, output, "shards", written_bytes, price.bytes, **bar) as (pipeline, pid):
        transforms.write_shards(pipeline, remaining.todo, pid)


def _check_rejected(
    options: argparse.Namespace, records: RecordFolder, plan: _Plan, manifest: Manifest
) -> None:
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


def _print_written(manifest: Manifest, output: str) -> None:
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


if __name__ == "__main__":
    command.run(main)
