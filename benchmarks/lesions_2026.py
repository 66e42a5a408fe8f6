"""Our lesion-wise scores of 2025 and 2026 against the challenge's own program, number by number, and the times.

    python -m venv /tmp/program && /tmp/program/bin/pip install BraTS-evaluation==0.0.10
    python benchmarks/lesions_2026.py --real FOLDER --program /tmp/program/bin/brats-evaluate

FOLDER holds <case>_seg.nii.gz and <case>_pred*.nii.gz, in the label values of --edition. The program runs as a
process of its own, from an environment of its own: it is AGPL, and nothing of it is imported. Both get the same
files, written anew in the values and under the names that the program wants. Every number of every group and of
every reference lesion is compared; what the program calls infinite (HD95 where nothing matched) is 373 here, as
in its own tables of the whole region. The exit code is 1 where a number is further apart than 1e-6.

The program scores all pairs in one process, as ours do here; its start is measured apart.
"""

import argparse
import csv
import dataclasses
import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np

from tfbrats.cases import case
from tfbrats.labels import EDITIONS, LabelSchema, Tissue
from tfbrats.metrics import lesion_rules, matched_lesions

TOLERANCE = 1e-6
_WITH_CAVITY = EDITIONS["2024"].values
_CHILDREN = ((0, Tissue.BACKGROUND), (1, Tissue.ET), (2, Tissue.NCR), (3, Tissue.CC), (4, Tissue.ED))
# Name of the program's configuration, and the label values that it reads.
CHALLENGES: Mapping[str, tuple[str, LabelSchema]] = {
    "gli": ("gli", EDITIONS["2024"]),
    "met": ("mets", LabelSchema("met", _WITH_CAVITY)),
    "ped": ("ped", LabelSchema("ped", _CHILDREN)),
    "men": ("MenPre", LabelSchema("men", EDITIONS["2023"].values)),
    "ssa": ("GoAT", LabelSchema("ssa", EDITIONS["2023"].values)),
}
# Of a lesion: ours -> the program's.
_LESION = {
    "voxels": "voxel_count",
    "volume_mm3": "volume",
    "dice": "sq_dsc",
    "nsd": "sq_nsd",
    "hd95_mm": "sq_hd95",
}
_IN_ANSWER = {field.name for field in dataclasses.fields(matched_lesions.MatchedScores)}
Files = list[tuple[pathlib.Path, pathlib.Path]]  # (reference, prediction)


@dataclass
class Difference:
    """How far two writings of one quantity are apart, over all pairs and groups."""

    numbers: int = 0
    largest: float = 0.0
    infinite: int = 0  # numbers that the program calls infinite

    def add(self, ours: float, others: float) -> None:
        self.numbers += 1
        if others == math.inf:
            self.infinite += 1
            others = 373.0
        same = ours == others or (math.isnan(ours) and math.isnan(others))
        apart = 0.0 if same else abs(ours - others)
        self.largest = max(self.largest, math.inf if math.isnan(apart) else apart)


@dataclass(frozen=True)
class Scored:
    """One pair as we score it: rows and lesions of `lesion_rules.score_case`."""

    rows: list[dict[str, Any]]
    lesions: list[dict[str, Any]]


def pairs_of(folder: pathlib.Path) -> Files:
    """Every (reference, prediction) of a folder."""
    pairs = []
    for reference in sorted(folder.glob("*_seg.nii.gz")):
        stem = reference.name.removesuffix("_seg.nii.gz")
        pairs += [(reference, prediction) for prediction in sorted(folder.glob(f"{stem}_pred*.nii.gz"))]
    return pairs


def write_anew(pairs: Files, schema: LabelSchema, read_as: LabelSchema, to: pathlib.Path) -> Files:
    """The pairs under names that the program finds: it wants a case's number at the end of both."""
    written = []
    for side in ("reference", "prediction"):
        (to / side).mkdir()
    for number, pair in enumerate(pairs):
        name = f"BraTS-XXX-{number:05d}-000"
        places = to / "reference" / f"{name}-seg.nii.gz", to / "prediction" / f"{name}.nii.gz"
        for path, place in zip(pair, places, strict=True):
            image = nibabel.load(path)
            values = np.asarray(image.dataobj).astype(int)
            tissues = read_as.to_tissues(values, str(path))
            copy = nibabel.Nifti1Image(schema.to_values(tissues, str(path)), None, image.header)
            copy.header.set_data_dtype(np.uint8)
            nibabel.save(copy, place)
        written.append(places)
    return written


@dataclass(frozen=True)
class Answers:
    """What the program says of all pairs: its JSON, its table, seconds of its start alone and of all."""

    metrics: Sequence[Mapping[str, Any]]
    table: Sequence[Mapping[str, str]]
    start_s: float
    taken_s: float


def run_program(program: str, config: str, folder: pathlib.Path) -> Answers:
    """Exits with what it printed where it fails."""
    started = time.perf_counter()
    subprocess.run([program, "--help"], check=True, capture_output=True)
    start_s = time.perf_counter() - started
    answers, table = folder / "answers.json", folder / "table.csv"
    command = [program, "--config", config, "--ref_path", folder / "reference"]
    command += ["--pred_path", folder / "prediction", "--summary_json", answers]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    taken_s = time.perf_counter() - started
    if done.returncode or not answers.is_file():
        sys.exit(f"{program} failed ({done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    parser = pathlib.Path(program).with_name("brats-parse-metrics")
    kind = "mets" if config == "mets" else "seg"
    command = [parser, kind, "--json_path", answers, "--output_csv_path", table]
    subprocess.run(command, check=True, capture_output=True)
    with table.open() as file:
        return Answers(json.loads(answers.read_text())["metrics"], list(csv.DictReader(file)), start_s, taken_s)


def score(pairs: Files, schema: LabelSchema) -> Iterator[Scored]:
    """Ours of the same files, read as `tfbrats evaluate` reads them."""
    for reference_path, prediction_path in pairs:
        reference, grid = case.load_label(reference_path, schema)
        prediction, _ = case.load_label(prediction_path, schema)
        yield Scored(*lesion_rules.score_case(prediction, reference, grid, schema, "2026"))


def compare(
    ours: Scored, answer: Mapping[str, Any], line: Mapping[str, str], apart: dict[str, Difference]
) -> None:
    """Adds one pair's differences, by quantity.

    Args:
        answer: the program's, by group.
        line: of its table, which alone has what it says of large and small metastases.
        apart: so far.
    """

    def add(name: str, our_number: float, others: float) -> None:
        apart.setdefault(name, Difference()).add(our_number, others)

    groups = {row["region"].lower() for row in ours.rows}
    add("groups that only one side has", len(groups ^ (set(answer) - {"subject_name"})), 0)
    for row in ours.rows:
        group = row["region"].lower()
        numbers = answer[group]
        for name, value in row.items():
            if name == "region":
                continue
            in_table = line.get(f"{name}_{group}") or "nan"
            add(name, value, numbers.get(name, math.nan) if name in _IN_ANSWER else float(in_table))
        lesions = [one for one in ours.lesions if one["region"] == row["region"] and one["outcome"] != "false"]
        others = numbers["reference_instances"]
        add("lesions of the reference", len(lesions), len(others))
        tables = _ordered(lesions, _LESION), _ordered(others, _LESION.values())
        for our_values, values in zip(*tables, strict=True):
            for name, *both in zip(_LESION, our_values, values, strict=True):
                add(f"lesion: {name}", *both)


def _ordered(lesions: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[float]]:
    """Numbers of each lesion, smallest first: the two sides count them in other orders. A missed one has -1."""
    values = [[lesion.get(name, math.nan) for name in names] for lesion in lesions]
    return sorted([-1.0 if math.isnan(number) else number for number in row] for row in values)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--real", type=pathlib.Path, required=True, metavar="FOLDER", help="masks, see above")
    parser.add_argument("--edition", choices=tuple(EDITIONS), default="2020", help="of their label values")
    parser.add_argument("--challenge", choices=tuple(CHALLENGES), default="gli", help="whose groups are scored")
    parser.add_argument("--program", default="brats-evaluate", help="the challenge's command")
    args = parser.parse_args(argv)
    program = shutil.which(args.program)
    if program is None:
        parser.error(
            f"--program {args.program}: no such command. It needs an environment of its own: python -m venv "
            "/tmp/program && /tmp/program/bin/pip install BraTS-evaluation==0.0.10; then --program "
            "/tmp/program/bin/brats-evaluate"
        )
    pairs = pairs_of(args.real)
    if not pairs:
        parser.error(f"{args.real} holds no <case>_seg.nii.gz with a <case>_pred*.nii.gz")
    config, schema = CHALLENGES[args.challenge]
    with tempfile.TemporaryDirectory() as folder:
        written = write_anew(pairs, schema, EDITIONS[args.edition], pathlib.Path(folder))
        answers = run_program(program, config, pathlib.Path(folder))
        started = time.perf_counter()
        scored = list(score(written, schema))
        our_s = time.perf_counter() - started
    if len(answers.metrics) != len(pairs):
        sys.exit(f"{program} scored {len(answers.metrics)} of {len(pairs)} pairs")
    apart: dict[str, Difference] = {}
    print(f"{'':48}{'lesions':>8}{'found':>7}{'missed':>7}{'false':>7}{'F1':>8}{'Dice':>8}")
    for (_, prediction), one, answer, line in zip(pairs, scored, answers.metrics, answers.table, strict=False):
        compare(one, answer, line, apart)
        wt = next(row for row in one.rows if row["region"] == "WT")
        print(
            f"{prediction.name.removesuffix('.nii.gz'):44} WT {wt['n_ref_instances']:8}{wt['tp']:7}{wt['fn']:7}"
            f"{wt['fp']:7}{wt['rq']:8.3f}{wt['global_bin_dsc']:8.3f}"
        )
    print(f"\n{'largest difference':32}{'numbers':>8}{'apart':>10}   the program's infinite, 373 here")
    for name, difference in apart.items():
        print(f"{name:32}{difference.numbers:8}{difference.largest:10.1e}{difference.infinite or '':>6}")
    print(
        f"\n{len(pairs)} pairs, groups {', '.join(row['region'] for row in scored[0].rows)}: the program "
        f"{answers.taken_s:.1f} s (start {answers.start_s:.1f} s), ours {our_s:.1f} s, ratio "
        f"{(answers.taken_s - answers.start_s) / our_s:.1f} "
        "without the start"
    )
    return int(max(difference.largest for difference in apart.values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
