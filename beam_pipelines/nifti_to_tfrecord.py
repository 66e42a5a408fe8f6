"""NIfTI cases -> TFRecord shards and dataset.json, on a laptop or any Beam engine.

    python -m beam_pipelines.nifti_to_tfrecord --config cun.yaml --input BraTS2017/HGG --output records/cun

Runs on this machine, with as many processes as cores and free memory allow, unless --runner says otherwise;
every option that is not listed here goes to Beam (--runner=DataflowRunner --max_num_workers=50 ...).
Run it again after anything went wrong: finished shards are kept, the rest is written; cases that came since
are written beside them with --add. A case that cannot be used goes to rejected.jsonl; the exit code is 1 when
more of them than --max-bad-fraction are. More, and how to run it on a cluster: beam_pipelines/README.md.
"""

if __name__ == "__main__" and not __package__:  # a file run as a script sees neither its package nor tfbrats
    raise SystemExit("error: run it as python -m beam_pipelines.nifti_to_tfrecord from the folder above.")

import argparse
import contextlib
import re
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, TestOptions

from beam_pipelines import engine, running, transforms
from tfbrats import config_file
from tfbrats.cases import dealing
from tfbrats.cases.splits import SPLITS
from tfbrats.config import Config
from tfbrats.datasets import layouts, patients
from tfbrats.datasets.layouts import Dataset
from tfbrats.errors import InputError
from tfbrats.machine import command, files, paths, wording
from tfbrats.predictions import results
from tfbrats.records import folder, shards
from tfbrats.records.manifest import MANIFEST, Batch, Manifest, read_manifest
from tfbrats.records.price import Price, measured_price


def _arguments(arguments: Sequence[str]):
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
        help="of python -m tfbrats.splits, or a recipe: " + ", ".join(dealing.RECIPES),
    )
    patients.add_argument(parser)
    parser.add_argument("--fold", type=int, metavar="N", help="which of the folds that --splits holds")
    engine.add_arguments(parser, "what cores, free memory and work allow")
    parser.add_argument("--add", action="store_true", help="write new cases beside those that --output holds")
    parser.add_argument("--price", action="store_true", help="print what it would cost, and stop")
    parser.add_argument("--overwrite", action="store_true", help="delete what --output holds first")
    known, rest = engine.parsed(parser, arguments, ("input", "output"))
    if known.add and known.overwrite:
        raise InputError("--add keeps what is there, --overwrite deletes it: choose one.")
    # What reads section.key=value is an override; the rest is Beam's.
    overrides = [
        text for text in rest if re.match(rf"([a-z0-9_]+\.[a-z0-9_]+|{'|'.join(config_file.ROOT_KEYS)})=", text)
    ]
    beam_options = engine.with_runner([text for text in rest if text not in overrides])
    engine.check_options(beam_options, [name for action in parser._actions for name in action.option_strings])
    return known, overrides, beam_options


def _dealt(
    options: argparse.Namespace, config: Config, dataset: Dataset, known: Sequence[Batch]
) -> dealing.Dealt:
    """Which case goes where: all cases, or with --add those that the set does not have yet."""
    settings = config.records
    if options.add and not known:
        raise InputError(f"{options.output}: --add, and there are no records yet. Leave --add away.")
    old = folder.cases_of(known) if options.add else None
    return dealing.deal(dataset, settings.split, settings.seed, options.splits, options.fold, old)


def main(arguments: Sequence[str]) -> int:
    options, overrides, beam_options = _arguments(arguments)
    config = config_file.load(options.config, overrides)
    dataset = layouts.find(options.input, options.edition).with_patients(options.patients)
    known = [] if options.overwrite else folder.batches(options.output)
    dealt, dealt_notes = _dealt(options, config, dataset, known)
    priced = dealt if any(dealt.values()) else folder.cases_of(known)
    price = measured_price(dataset, priced, config, options.output, with_n4=options.price)
    # Records of other cases are refused before anything is written; the price is that of these.
    same = options.add or folder.cases_of(known) == dealt
    planned = list(known) if same else []
    if options.add or not planned:
        planned += [Batch(cases=dealt, bytes_per_case=price.bytes_per_case)] if any(dealt.values()) else []
    splits = folder.cases_of(planned) if options.add else dealt
    tasks = [
        task
        for number, batch in enumerate(planned)
        for task in shards.plan(dataset, batch.cases, config, options.output, batch.bytes_per_case, number)
    ]

    print(f"{'; '.join(dataset.layouts)}\nedition {', '.join(dataset.editions)}")
    of_cases = (f"{one.case_id}: {note}" for one in dataset.cases for note in one.notes)
    for note in (*dataset.notes, *dealt_notes, *of_cases):
        print(f"note: {note}")
    left_out = len(dataset.cases) - sum(len(ids) for ids in splits.values())
    if left_out:
        print(f"note: {left_out} cases are in no split and left out: test images, or not named in --splits")
    new = {case_id for ids in priced.values() for case_id in ids}
    of_price = [task for task in tasks if new & {one.case_id for one in task.cases}]
    print("\n".join(price.lines(sum(len(task.files) for task in of_price))))
    print("split            " + ", ".join(f"{name} {len(ids)}" for name, ids in priced.items()))
    if options.add:
        kept = sum(len(batch.cases.get(name, ())) for batch in known for name in SPLITS)
        print(f"added to         {kept} cases")
    if options.price:
        return 0
    pipeline_options = PipelineOptions(beam_options)
    if pipeline_options.view_as(TestOptions).dry_run:
        with engine.explained(options.output), beam.Pipeline(options=pipeline_options) as pipeline:
            transforms.write_shards(pipeline, tasks)
        print("dry run: the job was built and its options checked; nothing was sent or written")
        return 0

    freed = folder.deletable_bytes(options.output) if options.overwrite else 0
    folder.check_free(options.output)
    with folder.alone(options.output):
        if not options.overwrite and folder.batches(options.output) != known:
            raise InputError(
                f"{options.output}: another job wrote here while this one was looking. Run it again."
            )
        manifest = _written(options, config, beam_options, splits, planned, tasks, price, freed)
    notes = {row.case_id: row.notes for shard in manifest.shards for row in shard.cases if row.notes}
    for line in results.notes_told(notes):
        print(line)
    seconds = manifest.seconds_per_case
    print(
        f"seconds a case: {sum(seconds.values()):.2f} ("
        + ", ".join(f"{stage} {of_stage:.2f}" for stage, of_stage in seconds.items())
        + ")"
    )
    print(
        f"wrote {files.join(options.output, MANIFEST)}: "
        + ", ".join(f"{name} {count}" for name, count in manifest.examples.items())
        + f" {manifest.kind}, {wording.in_units(manifest.bytes)} in {len(manifest.shards)} shards"
        + (f"; {manifest.rejected} cases rejected" if manifest.rejected else "")
    )
    return 0


def _written(
    options: argparse.Namespace,
    config: Config,
    beam_options: Sequence[str],
    splits: dict[str, list[str]],
    planned: Sequence[Batch],
    tasks: Sequence[shards.ShardTask],
    price: Price,
    freed: int,
) -> Manifest:
    """Writes what is not there yet, then dataset.json. The folder is held by this job."""
    output = options.output
    finished, accepted, rejected_before = {}, set(), None
    if not options.overwrite:
        there = folder.cases_of(folder.batches(output)) if options.add else splits
        folder.check_claim(output, config, there)
        finished = folder.finished_shards(output)
        accepted = folder.shards_of_readers(output, planned)
        with contextlib.suppress(InputError):
            before = read_manifest(output)
            rejected_before = before.rejected if list(before.batches) == planned else None
    todo = [task for task in tasks if not shards.is_finished(task, finished, accepted)]
    needed = sum(task.expected_bytes for task in todo)
    if price.free_bytes is not None and needed > price.free_bytes + freed:
        raise InputError(
            f"{output}: the records need about {wording.in_units(needed)}, and "
            f"{wording.in_units(price.free_bytes + freed)} are free. Free some, choose another --output"
            + (f", or {advice}" if (advice := price.advice(needed)) else ".")
        )
    seconds = price.seconds * sum(len(task.cases) for task in todo) / price.cases
    workers, line = engine.worker_options(
        beam_options, options.max_workers, len(todo), seconds, price.worker_bytes
    )
    if options.overwrite:
        folder.clear(output)
    folder.claim(output, config, planned)
    if len(todo) < len(tasks):
        left, of_all = (sum(len(task.files) for task in some) for some in (todo, tasks))
        print(f"{of_all - left} of {of_all} shards are finished already and are kept")
    if again := sum(file in finished for task in todo for file in task.files):
        print(
            f"{again} shards are written again: damaged, with rejected cases, or of files that changed or lie "
            "in another folder now"
        )
    if todo:
        if line:
            print(f"workers          {line}", flush=True)
        kept = [finished[file] for task in tasks if task not in todo for file in task.files]
        folder.resume(output, kept, todo)

        def written_bytes() -> int:
            return sum(files.walk(output).values())

        bar = {"unit": "B", "unit_scale": True, "desc": "records"}
        beam_options = [*beam_options, *workers]
        with running.job(beam_options, output, "shards", written_bytes, price.bytes, **bar) as (pipeline, pid):
            transforms.write_shards(pipeline, todo, pid)

    manifest = folder.assemble(tasks, config, planned)
    folder.write_rejected(output, manifest)
    cases = sum(len(ids) for ids in splits.values())
    if manifest.rejected / cases > options.max_bad_fraction:
        first = next(row for shard in manifest.shards for row in shard.rejected)
        if rejected_before is not None and manifest.rejected <= rejected_before:
            folder.finish(output, manifest)  # a set that was accepted once is not taken away again
        raise InputError(
            f"{manifest.rejected} of {cases} cases were rejected, more than --max-bad-fraction "
            f"{options.max_bad_fraction:g} allows: {files.join(output, folder.REJECTED)}\n"
            f"the first: {first.reason}\n"
            "Mend them and run this again (finished shards are kept), or raise --max-bad-fraction."
        )
    if not manifest.examples["train"]:
        raise InputError(f"{output}: no training example came out. Give more cases, or --splits.")
    folder.finish(output, manifest)
    return manifest


if __name__ == "__main__":
    command.run(main)
