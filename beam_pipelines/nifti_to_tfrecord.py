"""NIfTI cases -> TFRecord shards and dataset.json, on a laptop or any Beam engine.

    python -m beam_pipelines.nifti_to_tfrecord --config cun.yaml --input BraTS2017/HGG --output records/cun

Runs on Beam's in-process FnApiRunner unless --runner says otherwise; every option that is not listed here
goes to Beam (--direct_num_workers=2 --direct_running_mode=multi_processing, --runner=DataflowRunner ...).
Run it again after anything went wrong: finished shards are kept, the rest is written. A case that cannot be
used goes to rejected.jsonl; the exit code is 1 when more of them than --max-bad-fraction are. More, and how to
run it on a cluster: beam_pipelines/README.md.
"""

import argparse
import builtins
import contextlib
import difflib
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, TestOptions
from tqdm import tqdm

from beam_pipelines import record_folder, transforms
from tfbrats import command, files, layouts, records, shards
from tfbrats import config as configs
from tfbrats import splits as deal
from tfbrats.command import InputError


class _Progress(threading.Thread):
    """A bar over the bytes on disk: runners block until the end, so the disk is what tells."""

    def __init__(self, output: str, expected_bytes: int):
        super().__init__(daemon=True)
        self._output, self._expected = output, expected_bytes
        self._ended = threading.Event()

    def run(self):
        if not sys.stderr.isatty():
            return
        with tqdm(total=self._expected, unit="B", unit_scale=True, desc="records") as bar:
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
    parser.allow_abbrev = False  # a Beam option may begin like one of these
    known, rest = parser.parse_known_args(arguments)
    if not 0 <= known.max_bad_fraction <= 1:
        raise InputError(f"--max-bad-fraction {known.max_bad_fraction:g}: a fraction is between 0 and 1.")
    if "://" not in known.output:
        known.output = os.path.abspath(known.output)  # a worker pool may run in another folder
    # What reads section.key=value is an override; the rest is Beam's.
    overrides = [
        text for text in rest if re.match(rf"([a-z0-9_]+\.[a-z0-9_]+|{'|'.join(configs.ROOT_KEYS)})=", text)
    ]
    beam_options = [text for text in rest if text not in overrides]
    if not any(text.startswith("--runner") for text in beam_options):
        # Not DirectRunner: since 2.68 that first tries to download and start Prism.
        beam_options.append("--runner=FnApiRunner")
    _check_beam_options(beam_options, [name for action in parser._actions for name in action.option_strings])
    return known, overrides, beam_options


def _check_beam_options(beam_options: Sequence[str], ours: Sequence[str]) -> None:
    """What Beam itself does not check.

    Raises:
        InputError: an option that neither we nor Beam know (Beam would drop a misspelt one and go on), a
            value that does not fit, or a job server that does not answer (Beam would wait for minutes).
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(parser)
    try:
        chosen, unknown = parser.parse_known_args(beam_options)
    except argparse.ArgumentError as error:
        raise InputError(f"Beam's {error}.") from error
    for text in unknown:
        near = difflib.get_close_matches(text.partition("=")[0], ours, n=1, cutoff=0.8)
        # Engines on the far side of a job server have options of their own, which only they can check.
        if near or not text.startswith("-") or chosen.runner == "FnApiRunner":
            raise InputError(
                f"{text!r} is neither an option, nor one of Beam's, nor a section.key=value override."
                + (f" Did you mean {near[0]}?" if near else "")
            )
    if chosen.dry_run and "Dataflow" not in (chosen.runner or ""):
        raise InputError("--dry_run: only DataflowRunner has one. For what a run would cost, use --price.")
    host, colon, port = (chosen.job_endpoint or "").rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise InputError(
                f"--job_endpoint={chosen.job_endpoint}: no job server answers there ({error}). Start it first: "
                "beam_pipelines/README.md."
            ) from error


_ERROR_LINE = re.compile(r"^(?:RuntimeError: )*((?:[\w.]+\.)?(\w*(?:Error|Exception))\b.*)$", re.MULTILINE)


@contextlib.contextmanager
def _explained(output: str) -> Iterator[None]:
    """Turns what stops the whole job (a full disk, a job server that is not there) into one message.

    Engines hand a worker's error on as a RuntimeError with its traceback as text. Errors that are ours keep
    their traceback, and gain a line on how to go on.
    """
    # The error that reaches us tells all that this logger would print before it.
    logger = logging.getLogger("apache_beam.runners.common")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    go_on = f"Finished shards are kept in {output}: mend that and run the same command again."
    try:
        yield
    except Exception as error:
        found = _ERROR_LINE.findall(str(error)) or [(f"{type(error).__name__}: {error}", type(error).__name__)]
        line, kind = found[-1]
        builtin = getattr(builtins, kind, None)
        theirs = isinstance(builtin, type) and issubclass(builtin, OSError)
        if theirs or kind == "InputError" or type(error).__module__.startswith(("grpc", "google.")):
            raise InputError(f"the Beam job stopped: {line}\n{go_on}") from error
        error.add_note(go_on)
        raise
    finally:
        logger.setLevel(level)


def main(arguments: Sequence[str]) -> int:
    options, overrides, beam_options = _arguments(arguments)
    config = configs.load(options.config, overrides)
    dataset = layouts.find(options.input, options.edition)
    given = files.read_json(options.splits) if options.splits else None
    try:
        splits = deal.split_cases(dataset, config.records.split, config.records.seed, given)
    except InputError as error:
        raise InputError(f"{options.splits}: {error}" if options.splits else str(error)) from error

    price = shards.price(dataset, splits, config, options.output, with_n4=options.price)
    tasks = shards.plan(dataset, splits, config, options.output, price.bytes / price.cases)
    print(f"{'; '.join(dataset.layouts)}\nedition {', '.join(dataset.editions)}")
    for note in (*dataset.notes, *(f"{one.case_id}: {note}" for one in dataset.cases for note in one.notes)):
        print(f"note: {note}")
    left_out = len(dataset.cases) - price.cases
    if left_out:
        print(f"note: {left_out} cases are in no split and left out: test images, or not named in --splits")
    print("\n".join(price.lines(sum(len(task.files) for task in tasks))))
    print("split            " + ", ".join(f"{name} {len(ids)}" for name, ids in splits.items()))
    if options.price:
        return 0
    pipeline_options = PipelineOptions(beam_options)
    if pipeline_options.view_as(TestOptions).dry_run:
        with _explained(options.output), beam.Pipeline(options=pipeline_options) as pipeline:
            transforms.write_shards(pipeline, tasks)
        print("dry run: the job was built and its options checked; nothing was sent or written")
        return 0

    finished, freed = {}, 0
    if options.overwrite:
        freed = record_folder.deletable_bytes(options.output)
    else:
        record_folder.check_claim(options.output, config, splits)
        finished = record_folder.finished_shards(options.output)
    todo = [task for task in tasks if not shards.is_finished(task, finished)]
    needed = price.bytes * len(todo) / len(tasks)
    if price.free_bytes is not None and needed > price.free_bytes + freed:
        raise InputError(
            f"{options.output}: the records need about {shards.in_units(needed)}, and "
            f"{shards.in_units(price.free_bytes + freed)} are free. Free some, choose another --output"
            + (f", or {advice}" if (advice := price.advice(needed)) else ".")
        )
    if options.overwrite:
        files.remove(options.output)
    record_folder.claim(options.output, config, splits)
    if len(todo) < len(tasks):
        print(f"{len(tasks) - len(todo)} of {len(tasks)} shards are finished already and are kept")
    if todo:
        kept = [finished[file] for task in tasks if task not in todo for file in task.files]
        record_folder.resume(options.output, kept)
        with (
            _explained(options.output),
            _Progress(options.output, price.bytes),
            beam.Pipeline(options=pipeline_options) as pipeline,
        ):
            transforms.write_shards(pipeline, todo)

    manifest = record_folder.assemble(tasks, config)
    record_folder.write_rejected(options.output, manifest)
    fraction = manifest.rejected / price.cases
    if fraction > options.max_bad_fraction:
        first = next(row for shard in manifest.shards for row in shard.rejected)
        raise InputError(
            f"{manifest.rejected} of {price.cases} cases were rejected, more than --max-bad-fraction "
            f"{options.max_bad_fraction:g} allows: {files.join(options.output, record_folder.REJECTED)}\n"
            f"the first: {first.reason}\n"
            "Mend them and run this again (finished shards are kept), or raise --max-bad-fraction."
        )
    if not manifest.examples["train"]:
        raise InputError(f"{options.output}: no training example came out. Give more cases, or --splits.")
    record_folder.finish(options.output, manifest)
    print(
        f"wrote {files.join(options.output, records.MANIFEST)}: "
        + ", ".join(f"{name} {count}" for name, count in manifest.examples.items())
        + f" {manifest.kind}, {shards.in_units(manifest.bytes)} in {len(manifest.shards)} shards"
        + (f"; {manifest.rejected} cases rejected" if manifest.rejected else "")
    )
    return 0


if __name__ == "__main__":
    command.run(main)
