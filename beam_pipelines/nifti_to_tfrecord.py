"""NIfTI cases -> TFRecord shards and dataset.json, on a laptop or any Beam engine.

    tfbrats prepare --config cun.yaml --input BraTS2017/HGG --output records/cun

Runs on this machine, with as many processes as cores and free memory allow, unless --runner says otherwise;
every option that is not listed here goes to Beam (--runner=DataflowRunner --max_num_workers=50 ...).
Run it again after anything went wrong: finished shards are kept, the rest is written; cases that came since
are written beside them with --add. A case that cannot be used goes to rejected.jsonl; the exit code is 1 when
more of them than --max-bad-fraction are. More, and how to run it on a cluster: docs/how-to/beam-engines.md.
"""

if __name__ == "__main__" and not __package__:  # a file run as a script sees neither its package nor tfbrats
    raise SystemExit("error: run it as python -m beam_pipelines.nifti_to_tfrecord from the folder above.")

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from beam_pipelines import options as job_options
from tfbrats import config_file
from tfbrats.cases import dealing
from tfbrats.datasets import layouts, patients
from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.terminal import command, style, verbs
from tfbrats.workflows import chain

if TYPE_CHECKING:
    from tfbrats.config import Config


def parser() -> command.Parser:
    """The command's options; all that it does not know may be Beam's."""
    ours = command.parser("beam_pipelines.nifti_to_tfrecord", __doc__)
    ours.keys = config_file.all_keys
    ours.add_argument(
        "--config", type=paths.argument, required=True, help="a YAML file, or the name of a shipped one"
    )
    ours.add_argument(
        "--input", type=paths.argument, required=True, help="folder of a data set, in any layout; gs:// too"
    )
    ours.add_argument(
        "--output", type=paths.argument, required=True, help="folder of the record set; gs:// too"
    )
    ours.add_argument("--edition", help="overrides the edition that the names tell")
    ours.add_argument(
        "--splits",
        type=paths.argument,
        metavar="FILE",
        help="of tfbrats split, or a recipe: " + ", ".join(dealing.RECIPES),
    )
    patients.add_argument(ours)
    ours.add_argument("--fold", type=int, metavar="N", help="which of the folds that --splits holds")
    job_options.add_arguments(ours, "what cores, free memory and work allow")
    ours.add_argument("--add", action="store_true", help="write new cases beside those that --output holds")
    ours.add_argument("--price", action="store_true", help="print what it would cost, and stop")
    ours.add_argument("--overwrite", action="store_true", help="delete what --output holds first")
    return ours


def _arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Our options, the config's overrides, and Beam's options."""
    ours = parser()
    options, rest = job_options.parsed(ours, arguments, ("input", "output"))
    if options.add and options.overwrite:
        raise InputError("--add keeps what is there, --overwrite deletes it: choose one.")
    # What reads section.key=value is an override; the rest is Beam's.
    overrides = [
        text for text in rest if re.match(rf"([a-z0-9_]+\.[a-z0-9_]+|{'|'.join(config_file.ROOT_KEYS)})=", text)
    ]
    beam_options = [text for text in rest if text not in overrides]
    return options, overrides, job_options.of_beam(ours, beam_options, has_overrides=True)


def _only_looks(options: argparse.Namespace, beam_options: Sequence[str]) -> bool:
    """Whether nothing will be written: the price is asked for, or a dry run of Beam, of any value."""
    is_dry = any(text.partition("=")[0] == "--dry_run" and text != "--dry_run=" for text in beam_options)
    return options.price or is_dry


def main(arguments: Sequence[str]) -> int:
    options, overrides, beam_options = _arguments(arguments)
    config = config_file.load(options.config, overrides)
    dataset = layouts.find(options.input, options.edition).with_patients(options.patients)

    from tfbrats.records.folder import RecordFolder

    records = RecordFolder(options.output, options.overwrite)
    if not _only_looks(options, beam_options):
        records.check_free()

    # Beam, when all that can be wrong without it has been looked at: its import takes a second.
    from beam_pipelines import engine, plan, records_job

    engine.check_options(parser(), beam_options, has_overrides=True)
    planned = plan.planned(options, config, dataset, records)
    plan.tell(options, dataset, records, planned)
    if options.price:
        print(style.following(chain.without("--price", "beam_pipelines.nifti_to_tfrecord", arguments)))
        return 0
    if engine.is_dry_run(beam_options):
        engine.dry_run(beam_options, options.output, "shards", records_job.built(options.output, config))
        return 0
    with records.alone():
        manifest = records_job.written(options, config, beam_options, records, planned)
    records_job.tell(manifest, options.output)
    print(style.following(_training(options, config, overrides)))
    return 0


def _training(options: argparse.Namespace, config: "Config", overrides: Sequence[str]) -> str:
    """The command that trains the config's network on these records."""
    is_place = files.canonical(config.data.records) == files.canonical(options.output)
    records = [] if is_place else ["--records", options.given["output"]]
    return verbs.command_line("tfbrats.train", "--config", options.config, *records, *overrides)


if __name__ == "__main__":
    command.run(main)
