"""NIfTI cases -> TFRecord shards and dataset.json, on a laptop or any Beam engine.

    python -m beam_pipelines.nifti_to_tfrecord --config cun.yaml --input BraTS2017/HGG --output records/cun

Runs on Beam's in-process FnApiRunner unless --runner says otherwise; every option that is not listed here
goes to Beam (--direct_num_workers=2 --direct_running_mode=multi_processing, --runner=DataflowRunner ...).
Run it again after anything went wrong: finished shards are kept, the rest is written. A case that cannot be
used goes to rejected.jsonl; the exit code is 1 when more of them than --max-bad-fraction are.
"""

import re
import sys
import threading
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from tqdm import tqdm

from beam_pipelines import transforms
from tfbrats import command, files, layouts, records, shards
from tfbrats import config as configs
from tfbrats.command import InputError


class _Progress(threading.Thread):
    """A bar over the bytes on disk: runners block until the end, so the disk is what tells."""

    def __init__(self, output: str, expected_bytes: int):
        super().__init__(daemon=True)
        self._output, self._expected = output, expected_bytes
        self._ended = threading.Event()

    def run(self):
        with tqdm(
            total=self._expected, unit="B", unit_scale=True, desc="records", disable=not sys.stderr.isatty()
        ) as bar:
            while not self._ended.wait(1.0):
                try:
                    written = sum(files.walk(self._output).values())
                except (InputError, OSError):  # a file was renamed while it was looked at
                    continue
                bar.total = max(bar.total, written)
                bar.update(written - bar.n)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self.join()


def _arguments(arguments: Sequence[str]):
    parser = command.parser("beam_pipelines.nifti_to_tfrecord", __doc__)
    parser.add_argument("--config", required=True, help="a YAML file, or the name of a shipped one")
    parser.add_argument("--input", required=True, help="folder of a data set, in any layout; gs:// too")
    parser.add_argument("--output", required=True, help="folder of the record set; gs:// too")
    parser.add_argument("--edition", help="overrides the edition that the names tell")
    parser.add_argument("--splits", help="JSON: {train: [case ids], validation: [...], test: [...]}")
    parser.add_argument(
        "--max-bad-fraction", type=float, default=0.0, help="of cases that may be rejected (default 0)"
    )
    parser.add_argument("--price", action="store_true", help="print what it would cost, and stop")
    parser.add_argument("--overwrite", action="store_true", help="delete what --output holds first")
    known, rest = parser.parse_known_args(arguments)
    # What reads section.key=value is an override; the rest is Beam's.
    overrides = [text for text in rest if re.match(r"[a-z0-9_]+\.[a-z0-9_]+=", text)]
    beam_options = [text for text in rest if text not in overrides]
    strays = [text for text in beam_options[:1] if not text.startswith("-")]
    if strays:
        raise InputError(f"{strays[0]!r} is neither an option nor a section.key=value override.")
    if not any(text.startswith("--runner") for text in beam_options):
        # Not DirectRunner: since 2.68 that first tries to download and start Prism.
        beam_options.append("--runner=FnApiRunner")
    return known, overrides, beam_options


def main(arguments: Sequence[str]) -> int:
    options, overrides, beam_options = _arguments(arguments)
    config = configs.load(options.config, overrides)
    dataset = layouts.find(options.input, options.edition)
    given = files.read_json(options.splits) if options.splits else None
    splits = shards.split_cases(dataset, config.records.split, config.records.seed, given)

    price = shards.price(dataset, splits, config, options.output, with_n4=options.price)
    tasks = shards.plan(dataset, splits, config, options.output, price.bytes / price.cases)
    print(f"{'; '.join(dataset.layouts)}\nedition {', '.join(dataset.editions)}")
    for note in (*dataset.notes, *(f"{one.case_id}: {note}" for one in dataset.cases for note in one.notes)):
        print(f"note: {note}")
    print("\n".join(price.lines(len(tasks))))
    print("split            " + ", ".join(f"{name} {len(ids)}" for name, ids in splits.items()))
    if options.price:
        return 0

    if options.overwrite:
        _delete_records(options.output)
    shards.claim(options.output, config, splits)
    finished = shards.finished_shards(options.output)
    todo = [task for task in tasks if not shards.is_finished(task, finished)]
    shards.keep_rows(options.output, [finished[task.file] for task in tasks if task not in todo])
    needed = price.bytes * len(todo) / len(tasks)
    if price.free_bytes is not None and needed > price.free_bytes:
        raise InputError(
            f"{options.output}: the records need about {needed / 2**30:.1f} GiB, and "
            f"{price.free_bytes / 2**30:.1f} GiB are free. Free some, or choose another --output."
        )
    if len(todo) < len(tasks):
        print(f"{len(tasks) - len(todo)} of {len(tasks)} shards are finished already and are kept")
    if todo:
        with (
            _Progress(options.output, price.bytes),
            beam.Pipeline(options=PipelineOptions(beam_options)) as pipeline,
        ):
            transforms.write_shards(pipeline, todo)

    manifest = shards.assemble(tasks, config)
    shards.write_rejected(options.output, manifest)
    fraction = manifest.rejected / price.cases
    if fraction > options.max_bad_fraction:
        first = next(row for shard in manifest.shards for row in shard.rejected)
        raise InputError(
            f"{manifest.rejected} of {price.cases} cases were rejected, more than --max-bad-fraction "
            f"{options.max_bad_fraction:g} allows: {files.join(options.output, shards.REJECTED)}\n"
            f"the first: {first.reason}\n"
            "Mend them and run this again (finished shards are kept), or raise --max-bad-fraction."
        )
    if not manifest.examples["train"]:
        raise InputError(f"{options.output}: no training example came out. Give more cases, or --splits.")
    shards.finish(options.output, manifest)
    print(
        f"wrote {files.join(options.output, records.MANIFEST)}: "
        + ", ".join(f"{name} {count}" for name, count in manifest.examples.items())
        + f" slices, {manifest.bytes / 2**20:.1f} MiB in {len(manifest.shards)} shards"
        + (f"; {manifest.rejected} cases rejected" if manifest.rejected else "")
    )
    return 0


def _delete_records(output: str) -> None:
    """Deletes a record set, finished or not; refuses a folder that holds anything else."""
    if not files.is_folder(output) or not files.walk(output):
        return
    marks = (files.join(output, records.MANIFEST), files.join(output, shards.PARTS, "job.json"))
    if not any(files.exists(mark) for mark in marks):
        raise InputError(f"{output}: not a record set, so --overwrite does not delete it.")
    files.remove(output)


if __name__ == "__main__":
    command.run(main)
