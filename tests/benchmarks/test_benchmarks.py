"""The benchmarks of preparing and of the loss: they run, and what they compare does the same work."""

import json
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parent.parent.parent / "benchmarks"


def prepare(*options):
    return subprocess.run(
        [sys.executable, BENCHMARKS / "prepare.py", "--repeats", "1", *map(str, options)],
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_parts_that_start_no_job_give_their_figures(tiny_dataset, tmp_path):
    parts = ("reading", "bytes")
    chosen = [text for part in parts for text in ("--only", part)]
    ended = prepare("--real", tiny_dataset("2021"), "--cases", 2, "--json", tmp_path / "figures.json", *chosen)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert tuple(figures) == parts
    assert figures["bytes"]["patches"]["raw_bytes"] == 64**3 * 12 * 4
    assert figures["bytes"]["patches"]["bytes"] < figures["bytes"]["patches"]["raw_bytes"] / 2
    assert all(part in ended.stdout for part in parts)


@pytest.mark.slow
def test_the_parts_with_jobs_and_tf_data_give_their_figures(tiny_dataset, tmp_path):
    chosen = ("--only", "job", "--only", "workers", "--only", "compression", "--copies", 1)
    ended = prepare("--real", tiny_dataset("2021"), "--cases", 2, "--json", tmp_path / "figures.json", *chosen)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["job"]["loop_s"] > 0 and set(figures["workers"]) == {"without N4", "N4 on all modalities"}
    for kind in ("slices", "patches", "volumes"):
        assert figures["compression"][kind]["GZIP"]["mib"] < figures["compression"][kind]["none"]["mib"]


def test_our_n4_stands_beside_simpleitk_s_which_is_kept_between_runs(tiny_dataset, tmp_path):
    command = [sys.executable, BENCHMARKS / "n4.py", "--real", tiny_dataset("2021"), "--volumes", 2]
    command += ["--shrink", 2, 1, "--itk", 2, "--kept", tmp_path / "kept"]
    once, again = (
        subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True) for _ in range(2)
    )
    assert once.returncode == again.returncode == 0, once.stderr + again.stderr
    assert len(list((tmp_path / "kept").glob("*-2.npz"))) == 2
    rows = [
        [line.split() for line in ended.stdout.splitlines() if line.startswith("BraTS")]
        for ended in (once, again)
    ]
    assert len(rows[0]) == 4
    for first, second in zip(*rows, strict=True):
        assert first[5] == second[5]  # iterations
        if first[2] == "2":
            assert second[6] == f"{first[6]}*"  # its seconds are of the earlier run
            assert first[9:12] == second[9:12] and float(first[9]) < 0.1
    assert "from shrink 1" in once.stdout


def test_cases_in_one_file_each_are_refused_with_what_is_needed(tiny_dataset):
    ended = prepare("--real", tiny_dataset("msd"), "--only", "reading")
    assert ended.returncode == 2
    assert "one file for each modality" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.slow
def test_what_the_loss_costs_is_told_for_each_of_the_three(tmp_path):
    small = ("model.width=2", "train.batch_size=2", "records.slice_shape=[32,32]")
    ended = subprocess.run(
        [sys.executable, BENCHMARKS / "loss_cost.py", "--rounds", "1", "--json", *small],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert set(found) == {"plain", "cun", "cun_lws"}
