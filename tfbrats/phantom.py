"""Simulate glioma cases and write them as any BraTS edition would, for the demo, tests and benchmarks.

    tfbrats phantom --output data/phantoms --count 20 --edition 2020 --seed 1

A case depends on (seed, case number, shape) alone: neither on how many are written nor on the edition,
which changes only names and label values (from 2024 every other case has a resection cavity; in ped half of the
necrosis is a cyst).

Geometry is relative to the brain, which fills about two thirds of the volume whatever its shape: -1..1
along each axis, so that 0.04 stands for a cortex of 3 mm in a full-size brain. The tumour alone is round
in mm. This is a caricature: a score on phantoms says that the machinery works, nothing about patients.
"""

from collections.abc import Sequence

from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.phantoms import phantom_files
from tfbrats.phantoms.simulation import FULL_SHAPE
from tfbrats.terminal import bars, command, style, verbs
from tfbrats.terminal.wording import counted


def parser() -> command.Parser:
    """The command's options."""
    ours = command.parser("tfbrats.phantom", __doc__)
    ours.add_argument(
        "--output", type=paths.argument, required=True, help="folder to write to; made if need be"
    )
    ours.add_argument("--count", type=int, default=8, metavar="N", help="how many (default: %(default)s)")
    ours.renamed({"--cases": "--count"})
    ours.add_argument(
        "--edition",
        choices=phantom_files.EDITIONS,
        default="2020",
        help="whose names and label values they have (default: %(default)s)",
    )
    ours.add_argument("--seed", type=int, default=0, help="of the data set (default: %(default)s)")
    ours.add_argument(
        "--shape",
        type=int,
        nargs=3,
        default=FULL_SHAPE,
        metavar=("I", "J", "K"),
        help=f"voxels along each axis (default: {' '.join(map(str, FULL_SHAPE))})",
    )
    ours.add_argument("--first", type=int, default=0, help="number of the first case (default: %(default)s)")
    return ours


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_args(arguments)
    if options.count < 1 or options.first < 0 or options.seed < 0:
        raise InputError("--count must be at least 1, --first and --seed at least 0.")
    files.check_can_hold(options.output)

    from tfbrats.phantoms.data_sets import write_cases  # with what writes images

    written = write_cases(
        options.output, options.count, options.edition, options.seed, options.shape, options.first
    )
    case_ids = list(bars.bar(written, total=options.count, desc="cases", unit="case"))
    span = case_ids[0] if len(case_ids) == 1 else f"{case_ids[0]} to {case_ids[-1]}"
    are = "is" if len(case_ids) == 1 else "are"
    print(f"{counted(len(case_ids), 'simulated case')}, {span}, {are} in {options.output}")
    print(style.following(verbs.command_line("tfbrats.inspect", options.output)))


if __name__ == "__main__":
    command.run(main)
