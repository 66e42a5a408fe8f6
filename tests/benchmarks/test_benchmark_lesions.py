"""benchmarks/lesions_2026.py with a program that answers from a file: one number apart is told."""

import dataclasses
import importlib.util
import json
import math
import pathlib
import sys

import nibabel
import numpy as np
import pytest

from tfbrats import labels
from tfbrats.metrics import matched_lesions

BENCHMARK = pathlib.Path(__file__).parent.parent.parent / "benchmarks" / "lesions_2026.py"
# Of a lesion: the program's -> ours.
OF_LESION = {
    "voxel_count": "voxels",
    "volume": "volume_mm3",
    "sq_dsc": "dice",
    "sq_nsd": "nsd",
    "sq_hd95": "hd95_mm",
}
# Copies its answer to the path behind the option.
PROGRAM = """#!/bin/sh
while [ $# -gt 0 ]; do
    [ "$1" = {option} ] && cp "{answer}" "$2"
    shift
done
exit 0
"""


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("lesions_2026", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pair(tmp_path):
    """A folder of one pair, in the values of 2020, and what the challenge's program would answer to it."""
    reference = np.zeros((12, 12, 12), np.uint8)
    reference[2:6, 2:6, 2:6] = labels.Tissue.ET
    prediction = np.roll(reference, 1, 0)
    prediction[10, 10, 10] = labels.Tissue.NCR  # which the reference has nowhere
    (tmp_path / "masks").mkdir()
    for side, tissues in (("seg", reference), ("pred", prediction)):
        values = labels.EDITIONS["2020"].to_values(tissues, side)
        nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "masks" / f"case_{side}.nii.gz")
    rows, lesions = matched_lesions.score_case(prediction, reference, (1.0, 1.0, 1.0), labels.EDITIONS["2024"])
    answer = {row.region.lower(): dataclasses.asdict(row) for row in rows}
    for group, numbers in answer.items():
        numbers["reference_instances"] = [
            {name: getattr(lesion, ours) for name, ours in OF_LESION.items()}
            for lesion in lesions
            if lesion.region.lower() == group and lesion.outcome != "false"
        ]
    return tmp_path, answer


def run(benchmark, pair, capsys):
    folder, answer = pair
    (folder / "answer.json").write_text(json.dumps({"metrics": [answer], "missings": []}))
    for name, option, source in (
        ("brats-evaluate", "--summary_json", "answer.json"),
        ("brats-parse-metrics", "--output_csv_path", "table.csv"),
    ):
        (folder / name).write_text(PROGRAM.format(option=option, answer=folder / source))
        (folder / name).chmod(0o755)
    (folder / "table.csv").write_text("subject_id\ncase\nmean\n")
    code = benchmark.main(["--real", str(folder / "masks"), "--program", str(folder / "brats-evaluate")])
    return code, capsys.readouterr().out


def test_equal_numbers_pass_and_infinity_stands_for_373(benchmark, pair, capsys):
    assert pair[1]["netc"]["sq_hd95"] == 373
    pair[1]["netc"]["sq_hd95"] = math.inf
    code, printed = run(benchmark, pair, capsys)
    assert code == 0 and "1 pairs, groups NETC, SNFH, ET, RC, TC, WT" in printed
    assert f"{'sq_hd95':32}{6:8}   0.0e+00{1:6}" in printed


@pytest.mark.parametrize("group_and_name", [("et", "sq_dsc"), ("wt", "global_bin_nsd")])
def test_one_number_apart_is_told(benchmark, pair, capsys, group_and_name):
    group, name = group_and_name
    pair[1][group][name] += 1e-4
    code, printed = run(benchmark, pair, capsys)
    assert code == 1
    assert f"{name:32}{6:8}   1.0e-04" in printed


def test_a_lesion_apart_is_told(benchmark, pair, capsys):
    pair[1]["tc"]["reference_instances"][0]["sq_hd95"] += 1
    code, printed = run(benchmark, pair, capsys)
    assert code == 1 and f"{'lesion: hd95_mm':32}{3:8}   1.0e+00" in printed


def test_without_the_program_the_benchmark_says_how_to_have_it(benchmark, pair, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["--real", str(pair[0] / "masks"), "--program", "no-such-program"])
    assert stopped.value.code == 2
    assert "pip install BraTS-evaluation" in capsys.readouterr().err
