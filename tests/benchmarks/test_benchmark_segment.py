"""The benchmark of a whole case: what it calls the network's share, and that all sides segment one case."""

import importlib
import importlib.util
import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from tfbrats import config_file, labels
from tfbrats.cases import case
from tfbrats.datasets import layouts
from tfbrats.phantoms import data_sets
from tfbrats.runs.folder import RunFolder

BENCHMARKS = pathlib.Path(__file__).parent.parent.parent / "benchmarks"


def segment(*options):
    return subprocess.run(
        [sys.executable, BENCHMARKS / "segment.py", *map(str, options)],
        check=False,
        capture_output=True,
        text=True,
    )


# --- figures --------------------------------------------------------------------------------------------


def _side(benchmark, name, seconds, network):
    """A side whose first run, which warms up, took a minute, and the others what is told."""
    answers = [
        {
            "seconds": [s],
            "network": [n],
            "parts": [{"read": 0.5, "segment": s - 1, "write": 0.5}],
            "peak_mib": 9.0,
        }
        for s, n in zip([60.0, *seconds], [1.0, *network], strict=True)
    ]
    waiting = iter(answers)
    side = benchmark("segment").Side(
        name, pathlib.Path(name), types.SimpleNamespace(run=lambda count: next(waiting)), 3.0
    )
    for _ in answers:
        side.run()
    return side


def test_a_sides_figures_are_medians_without_the_run_that_warms_up(benchmark):
    found = _side(benchmark, "monai", [5.0, 9.0, 6.0], [4.0, 6.0, 4.5]).figures()
    assert found["first_s"] == 60 and found["total_s"] == 6 and found["start_s"] == 3
    assert found["else_s"] == 1.5  # of 1, 3 and 1.5
    assert found["parts_s"] == {"read": 0.5, "segment": 5.0, "write": 0.5}


def test_all_but_the_network_is_what_the_clocked_model_tells(benchmark):
    rows = benchmark("segment").rows_of(
        {
            "predict": _side(benchmark, "predict", [10.0], [0.0]),
            "predict clocked": _side(benchmark, "predict clocked", [14.0], [13.2]),
            "served": _side(benchmark, "served", [10.3], [0.0]),
            "monai": _side(benchmark, "monai", [25.0], [20.0]),
        }
    )
    assert list(rows) == ["predict", "served", "monai"]
    told = {name: (row["network_s"], row["else_s"]) for name, row in rows.items()}
    assert told["predict"] == pytest.approx((9.2, 0.8))
    assert told["served"] == pytest.approx((9.2, 1.1))
    assert told["monai"] == pytest.approx((20, 5))
    found = benchmark("segment").verdicts(rows, cascade=True)
    assert {goal: met for goal, (_, _, met) in found.items()} == {"else": True, "served": True, "boxes": True}
    assert [value for value, _, _ in found.values()] == pytest.approx([0.08, 1.03, 0.4])
    assert set(benchmark("segment").verdicts(rows, cascade=False)) == {"else", "served"}


def test_goals_that_are_missed_are_said(benchmark, capsys):
    row = {"start_s": 1.0, "parts_s": {"read": 1.0}, "peak_mib": 1.0}
    rows = {
        "predict": row | {"total_s": 10.0, "network_s": 8.9, "else_s": 1.1},
        "served": row | {"total_s": 10.6, "network_s": 8.9, "else_s": 1.7},
        "monai": row | {"total_s": 19.0, "network_s": 18.0, "else_s": 1.0},
    }
    benchmark("segment").show(rows, {}, cascade=True)
    assert capsys.readouterr().out.count("NOT met") == 3


def test_how_far_label_maps_agree_is_counted_in_voxels_of_tumour(benchmark, tmp_path):
    data_sets.write_dataset(tmp_path / "cases", 1, "2021", seed=1, shape=(32, 32, 20))
    entry = layouts.find(tmp_path / "cases").cases[0]
    loaded = case.load(entry)
    other = loaded.label.copy()
    whole = np.argwhere(labels.region_mask(other, "WT"))
    other[tuple(whole[:5].T)] = 0
    sides = {}
    for name, tissues in (("predict", loaded.label), ("served", loaded.label), ("monai", other)):
        (tmp_path / name).mkdir()
        case.save_segmentation(tmp_path / name / f"{entry.case_id}.nii.gz", tissues, loaded.grid, loaded.schema)
        sides[name] = types.SimpleNamespace(output=tmp_path / name)
    found = benchmark("segment").agreement(sides, entry)
    assert found["served"] == {"voxels": 0, "of": len(whole), "WT": 1.0, "TC": 1.0, "ET": 1.0}
    assert found["monai"]["voxels"] == 5 and found["monai"]["of"] == len(whole)
    assert found["monai"]["WT"] == pytest.approx(1 - 5 / (2 * len(whole) - 5))


def test_the_clock_tells_what_was_added_since_it_was_last_read(benchmark, tmp_path):
    path = tmp_path / "clock"
    path.write_text("5.0\n")  # of another process, before
    clock = benchmark("segment_jobs").Clock(str(path))
    assert clock.taken() == 0
    with path.open("a") as file:
        file.write("0.25\n0.5\n")
    assert clock.taken() == 0.75 and clock.taken() == 0


def test_n4_is_left_out_and_the_run_stays_as_it_was(benchmark, tmp_path):
    settings = config_file.load("cun.yaml", [f"run.dir={tmp_path / 'run'}"])
    (tmp_path / "run").mkdir()
    RunFolder(tmp_path / "run").write_config(settings)
    (tmp_path / "run" / "records.json").write_text("{}")
    found = benchmark("segment_jobs").without_n4(str(tmp_path / "run"), str(tmp_path / "copy"))
    assert found.preprocess.n4_modalities == () and found.model == settings.model
    assert (tmp_path / "copy" / "records.json").read_text() == "{}"
    assert RunFolder(tmp_path / "run").config == settings


@pytest.mark.parametrize(
    ("option", "value"),
    [("--sides", "served"), ("--sides", "predict,torch"), ("--precisions", "mixed_bfloat16")],
)
def test_sides_and_precisions_that_cannot_be_compared_are_refused(tmp_path, option, value):
    ended = segment("--case", tmp_path, option, value)
    assert ended.returncode == 2
    assert f"{option} {value}: expected" in ended.stderr and "Traceback" not in ended.stderr


# --- all of it, small -----------------------------------------------------------------------------------


@pytest.fixture
def one_case(tmp_path):
    ids = data_sets.write_dataset(tmp_path / "cases", 1, "2021", seed=3, shape=(72, 70, 48))
    return tmp_path / "cases" / ids[0]


@pytest.mark.slow
def test_predict_and_server_give_one_label_map_and_their_figures(one_case, tmp_path):
    small = ("--network", "cun", "--width", 2, "--runs", 1, "--sides", "predict,served")
    more = ("--precisions", "float32,mixed_bfloat16", "--json", tmp_path / "figures.json")
    ended = segment("--case", one_case, *small, *more)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads((tmp_path / "figures.json").read_text())
    assert set(found["rows"]) == {"predict", "predict mixed_bfloat16", "served"}
    assert found["agreement"]["served"]["voxels"] == found["agreement"]["predict clocked"]["voxels"] == 0
    for row in found["rows"].values():
        assert 0 < row["else_s"] < row["total_s"] and row["network_s"] > 0
    assert set(found["goals"]) == {"else", "served"} and "over predict" in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("network", ["cun", "unet2d", "msm", "unet3d"])
def test_monai_with_our_weights_segments_as_we_do(one_case, tmp_path, network):
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("monai")):
        pytest.skip("PyTorch and MONAI are not installed: pip install torch monai")
    small = ("--network", network, "--width", 2, "--runs", 1, "--sides", "predict,monai")
    ended = segment("--case", one_case, *small, "--json", tmp_path / "figures.json")
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads((tmp_path / "figures.json").read_text())
    # Slices, and WT of a cascade: the same windows, and roundings that may turn a voxel or two.
    same = ("WT",) if network in ("msm", "unet3d") else ("WT", "TC", "ET")
    assert found["agreement"]["monai"]["of"] > 100
    assert all(found["agreement"]["monai"][region] > 0.999 for region in same)
