"""Deal out cases to training, validation and test by patient, and write that down. No TensorFlow.

    tfbrats split --input BraTS2020 --ratio 3,1,1 --output splits.json
    tfbrats split --input BraTS2020 --folds 5 --output folds.json
    tfbrats split --input BraTS2017 --recipe paper_a --output paper_a.json

The same cases, ratio and seed give the same split. A patient with several time points stays in one: names tell
which those are, and where they do not, a note says so and --patients FILE tells. High and low grade are each
dealt out by the ratio, where grades are known. Of K folds each patient is in the validation split of exactly
one and in the training split of all others, as nnU-Net does it; no fold has a test split. Images without a
segmentation are in no split.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfbrats.cases import split_files
from tfbrats.cases.dealing import RECIPES, deal, folds, table
from tfbrats.cases.split_files import Splits
from tfbrats.datasets import layouts, patients
from tfbrats.datasets.grades import GRADES
from tfbrats.datasets.layouts import Dataset
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS
from tfbrats.machine import files, paths
from tfbrats.terminal import command, style, verbs
from tfbrats.terminal.wording import columns

_FILE = "splits.json"


def _dealt_and_written(options: argparse.Namespace) -> dict[str, Any]:
    """Deals the cases out and writes the file; returns what is to be said of it, ready for JSON."""
    dealt = _way(options)
    dataset = layouts.find(options.input, options.edition).with_patients(options.patients)
    splits, notes = dealt(dataset)
    return {
        "input": options.input,
        "output": options.output,
        "written": split_files.write(options.output, splits, options.overwrite),
        "sha256": split_files.as_json(splits)["sha256"],
        "notes": [*dataset.notes, *notes],
        "rows": table(dataset, splits),
        "faults": [],
    }


def _ratio(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts) or not int(parts[0]):
        raise InputError(
            f"--ratio {text}: expected train,validation,test as whole numbers, e.g. 3,1,1; train at least 1."
        )
    return tuple(map(int, parts))


def _way(
    options: argparse.Namespace,
) -> Callable[[Dataset], tuple[Splits | list[Splits], Sequence[str]]]:
    """How the options ask to deal: a data set becomes its split or folds, and what is to be noted.

    Raises:
        InputError: they ask for what does not go together. The data set is not looked at before.
    """
    ways = {"--ratio": options.ratio, "--folds": options.folds, "--recipe": options.recipe}
    passed = [name for name, value in ways.items() if value is not None]
    if len(passed) > 1:
        raise InputError(f"{' and '.join(passed)} each say how to deal. Pass one of them.")
    if options.recipe and (options.config or options.seed is not None):
        raise InputError(f"--recipe {options.recipe} has a ratio and a seed. Leave --config and --seed out.")
    config = None
    if options.config:
        from tfbrats import config_file  # pydantic, which a split by hand need not wait for

        config = config_file.load(options.config).records
    seed = options.seed if options.seed is not None else config.seed if config else 0
    if seed < 0:
        raise InputError(f"--seed {seed}: expected 0 or more.")
    if options.folds is not None:
        return lambda dataset: (folds(dataset, options.folds, seed), dataset.patient_notes)
    ratio = _ratio(options.ratio) if options.ratio else config.split if config else (3, 1, 1)
    return lambda dataset: deal(dataset, ratio, seed, options.recipe)


def _file(output: str) -> str:
    """The file to write: the one that is named, or the usual one in a folder."""
    is_file = files.name(output).lower().endswith(".json") or (
        files.exists(output) and not files.is_folder(output)
    )
    return output if is_file else files.join(output, _FILE)


def _print(report: Mapping[str, Any]) -> None:
    for note in report["notes"]:
        print(style.note(note))
    grades = [name for name in (*GRADES, "unknown") if any(row[name] for row in report["rows"])]
    names = ["split", "patients", "cases", *grades]
    rows = [names, *([row[name] for name in names] for row in report["rows"])]
    print("\n".join(columns(rows, ("<", *([">10"] * (len(names) - 1))))))
    state = "wrote" if report["written"] else "unchanged:"
    print(f"{state} {report['output']}, sha256 {report['sha256'][:12]}...")


def _preparing(options: argparse.Namespace) -> str:
    """The command that makes records of this split."""
    kept = [("--edition", options.edition), ("--patients", options.patients)]
    return verbs.command_line(
        *("beam_pipelines.nifti_to_tfrecord", "--config", options.config or "cun", "--input", options.input),
        *("--splits", options.output, *(text for pair in kept if pair[1] for text in pair)),
        *("--output", "records/cun"),
    )


def parser() -> command.Parser:
    """The command's options."""
    ours = command.parser("tfbrats.splits", __doc__)
    ours.add_argument(
        "--input",
        type=paths.argument,
        required=True,
        metavar="DIR",
        help="a data set, in any layout; gs:// too",
    )
    ours.add_argument(
        "--output",
        type=paths.argument,
        default=_FILE,
        metavar="FILE",
        help=f"to write; in a folder it is called {_FILE} (default: %(default)s)",
    )
    ours.add_argument("--ratio", metavar="N,N,N", help="train,validation,test (that of --config, else 3,1,1)")
    ours.add_argument("--seed", type=int, help="of the order of dealing (that of --config, else 0)")
    ours.add_argument("--folds", type=int, metavar="K", help="K folds, in one file")
    ours.add_argument("--recipe", choices=tuple(RECIPES), help="a paper's own numbers")
    ours.add_argument(
        "--config", type=paths.argument, help="take ratio and seed of a YAML file, or of a shipped one by name"
    )
    patients.add_argument(ours)
    ours.add_argument("--edition", choices=tuple(EDITIONS), help="overrides what the names say")
    ours.add_argument("--overwrite", action="store_true", help="replace another split in --output")
    ours.add_argument("--json", action="store_true", help="print one JSON object instead")
    return ours


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    options.output = _file(options.output)
    try:
        report = _dealt_and_written(options)
    except InputError as error:
        if not options.json:
            raise
        print(json.dumps({"input": options.input, "output": options.output, "faults": [str(error)]}, indent=2))
        return 1
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
        print(style.following(_preparing(options)))
    return 0


if __name__ == "__main__":
    command.run(main)
