"""A few training steps of a config's networks on made-up data, in this process: seconds and peak memory.

    python -m tfbrats.workflows.trial --config cun.yaml --batch 2 --steps 3
    python -m tfbrats.workflows.trial --config msm.yaml --batch 24 --steps 1 region=et

Reads no data, writes nothing, throws the networks away; prints JSON, an object for each. `tfbrats probe` and
`tfbrats reproduce` start it: a process of its own gives all of its memory back, and may run out of it.
"""

import dataclasses
import json
from collections.abc import Sequence

from tfbrats import config_file
from tfbrats.terminal import command


def parser() -> command.Parser:
    """The options."""
    options = command.parser("tfbrats.workflows.trial", __doc__)
    config_file.add_arguments(options)
    options.add_argument("--batch", type=int, required=True, help="examples in a step")
    options.add_argument("--steps", type=int, required=True, help="how many are timed, after one that compiles")
    options.add_argument("--memory", type=int, help="on a CPU: give up beyond so many bytes over the start's")
    return options


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_intermixed_args(arguments)
    config = config_file.load(options.config, options.overrides)
    from tfbrats.workflows import made_up_steps

    trials = made_up_steps.trials(config, options.batch, options.steps, options.memory)
    print(json.dumps([dataclasses.asdict(trial) for trial in trials]))


if __name__ == "__main__":
    command.run(main)
