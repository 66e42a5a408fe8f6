"""Simulate glioma cases and write them as any BraTS edition would, for the demo, tests and benchmarks.

    tfbrats phantom --output data/phantoms --cases 20 --edition 2020 --seed 1

A case depends on (seed, case number, shape) alone: neither on how many are written nor on the edition,
which changes only names and label values (from 2024 every other case has a resection cavity; in ped half of the
necrosis is a cyst).

Geometry is relative to the brain, which fills about two thirds of the volume whatever its shape: -1..1
along each axis, so that 0.04 stands for a cortex of 3 mm in a full-size brain. The tumour alone is round
in mm. This is a caricature: a score on phantoms says that the machinery works, nothing about patients.
"""

import sys
from collections.abc import Sequence

from tqdm import tqdm

from tfbrats.errors import InputError
from tfbrats.machine import paths
from tfbrats.phantoms import phantom_files
from tfbrats.phantoms.data_sets import write_cases
from tfbrats.phantoms.simulation import FULL_SHAPE
from tfbrats.terminal import command


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.phantom", __doc__)
    parser.add_argument(
        "--output", type=paths.argument, required=True, help="folder to write to; made if need be"
    )
    parser.add_argument("--cases", type=int, default=8, help="how many (8)")
    parser.add_argument("--edition", choices=phantom_files.EDITIONS, default="2020", help="layout (2020)")
    parser.add_argument("--seed", type=int, default=0, help="of the data set (0)")
    parser.add_argument("--shape", type=int, nargs=3, default=FULL_SHAPE, metavar=("I", "J", "K"))
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    options = parser.parse_args(arguments)
    if options.cases < 1 or options.first < 0 or options.seed < 0:
        raise InputError("--cases must be at least 1, --first and --seed at least 0.")
    written = write_cases(
        options.output, options.cases, options.edition, options.seed, options.shape, options.first
    )
    case_ids = list(tqdm(written, total=options.cases, unit="case", disable=not sys.stderr.isatty()))
    print(f"{len(case_ids)} simulated cases, {case_ids[0]} to {case_ids[-1]}, are in {options.output}")


if __name__ == "__main__":
    command.run(main)
