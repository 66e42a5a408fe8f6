"""What a config's training will take on this machine, from a few steps on made-up data, before a long run.

    tfbrats probe --config cun.yaml
    tfbrats probe --config msm.yaml --records records/msm train.batch_size=auto
    tfbrats probe --config cun_lws.yaml model.width=16 --steps 5 --json

Prints of each network slices or patches a second, peak memory, and hours for the config's epochs; with
train.batch_size=auto first which batch is the largest that fits. Writes nothing. Each network is measured by
`tfbrats.workflows.trial` in a process of its own: one that runs out of memory ends alone, and none leaves
anything in this one.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence

from tfbrats import config_file
from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.machine import paths
from tfbrats.records.manifest import check_identity, read_manifest
from tfbrats.terminal import command, style, verbs
from tfbrats.terminal.wording import columns, in_units
from tfbrats.workflows import batch_size
from tfbrats.workflows.batch_size import Trial


def probe(config: Config, steps: int = 20, say: Callable[[str], None] = print) -> list[Trial]:
    """Measures every network of a config, one after the other, in steps of its own batch.

    A batch that does not fit is halved until it does, and the person is told.

    Args:
        steps: that are timed, after one that compiles.
        say: gets a line for what is not as the config says, or found out for it.

    Raises:
        InputError: a batch of 1 does not fit, or a network does not train at all.
    """
    size = config.train.batch_size
    if size == "auto":
        size = batch_size.largest_batch(config, say)
    trials = []
    for region in config.regions:
        name, fitting = batch_size.named(config, region), size
        while (trial := batch_size.trial_of(config, region, fitting, steps)) is None:
            if fitting == 1:
                raise batch_size.nothing_fits(config, region)
            say(f"{name}: a batch of {fitting} does not fit into the memory; half of it next")
            fitting //= 2
        trials.append(trial)
    return trials


def _lines(config: Config, trial: Trial) -> list[str]:
    """What a person reads of a network."""
    name, unit = batch_size.named(config, trial.region), config.unit
    (trained, validated), whose = batch_size.examples_of(config, trial.region)
    hours = batch_size.training_hours(config, trial, trained, validated)
    seen = f"{config.train.steps_per_epoch} steps" if config.train.steps_per_epoch else f"{trained:,} {unit}"
    over = "" if trial.device == "GPU" else ", over what the process takes to start"
    paces = (f"{1 / seconds:.2f} {unit}/s" for seconds in (trial.train_seconds, trial.forward_seconds))
    epochs = f"{config.train.epochs} epochs of {seen}, validated on {validated:,} ({whose})"
    rows = [
        ("speed", "training {}, forward {}".format(*paces)),
        ("memory", f"{in_units(trial.peak_bytes)} at most{over}"),
        ("hours", f"about {hours:.2g} for {epochs}"),
    ]
    return [
        f"{name}, width {config.model.width}, {trial.parameters:,} parameters, "
        f"{config.train.precision}{', XLA' if config.train.jit_compile else ''}; "
        f"{trial.steps} steps of {trial.batch_size} on one {trial.device}",
        *columns(rows, ("  <9", "")),
    ]


def parser() -> command.Parser:
    """The options."""
    options = command.parser("tfbrats.probe", __doc__)
    config_file.add_arguments(options)
    options.add_argument(
        "--records", type=paths.argument, help="record set whose examples count (default: data.records)"
    )
    options.add_argument("--steps", type=int, default=20, help="how many are timed (default: 20)")
    options.add_argument("--json", action="store_true", help="print it as JSON; what it tries goes to stderr")
    options.renamed({"--data": "--records"})
    return options


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_intermixed_args(arguments)
    if options.steps < 1:
        raise InputError(f"--steps {options.steps}: time at least one.")
    overrides = [*options.overrides, *([f"data.records={options.records}"] if options.records else [])]
    config = config_file.load(options.config, overrides)
    if options.records:
        check_identity(read_manifest(options.records), config, options.records)

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    trials = probe(config, options.steps, say)
    if options.json:
        rows = []
        for trial in trials:
            examples, _ = batch_size.examples_of(config, trial.region)
            hours = batch_size.training_hours(config, trial, *examples)
            rows.append(dataclasses.asdict(trial) | {"training_hours": hours})
        print(json.dumps(rows))
        return
    for trial in trials:
        print("\n".join(_lines(config, trial)))
    print("Reading and augmenting run beside the steps, and are not in it; nor is stopping early.")
    print(style.following(_training(options.config, options.overrides, options.records, config)))


def _training(given: str, overrides: Sequence[str], records: str | None, config: Config) -> str:
    """The command that trains what was measured."""
    chosen = ("--config", given, "--records", records or config.data.records, "--run", config.run.dir)
    others = [text for text in overrides if not text.startswith(("data.records=", "run.dir="))]
    return verbs.command_line("tfbrats.train", *chosen, *others)


if __name__ == "__main__":
    command.run(main)
