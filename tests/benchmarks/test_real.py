"""The benchmark on real cases: whom it deals where, its arithmetic, its tables, and at small size all of it."""

import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tfbrats.errors import InputError
from tfbrats.labels import REGIONS

BENCHMARKS = pathlib.Path(__file__).parent.parent.parent / "benchmarks"
HAS_PEERS = all(importlib.util.find_spec(one) for one in ("torch", "monai", "nnunetv2"))


def real(*options):
    command = [sys.executable, BENCHMARKS / "real.py", *map(str, options)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


# --- who is dealt where ---------------------------------------------------------------------------------


def test_everyone_is_scored_once_by_networks_that_have_not_seen_him(benchmark, tmp_path):
    plan = benchmark("real_plan")
    ids = [f"BraTS2021_{number:05d}" for number in range(11)]
    for case_id in ids:
        folder = tmp_path / case_id
        folder.mkdir()
        for name in ("flair", "t1", "t1ce", "t2", "seg"):
            (folder / f"{case_id}_{name}.nii.gz").touch()
    folds = plan.dealt(str(tmp_path), 3)
    assert sorted(one for fold in folds for one in fold.scored) == ids
    for fold in folds:
        others = [one for part in fold.parts for one in part]
        assert sorted([*fold.scored, *others]) == ids and len(fold.parts) == plan.PARTS
        assert sorted(fold.training(None)) == sorted(others)
        for part in range(plan.PARTS):
            learned = fold.training(part)
            assert not set(learned) & {*fold.scored, *fold.parts[part]}
            assert sorted([*learned, *fold.parts[part]]) == sorted(others)
    with pytest.raises(InputError, match="patients to train on"):
        plan.dealt(_few(tmp_path, ids), 2)


def _few(folder, ids):
    few = folder / "few"
    few.mkdir()
    for case_id in ids[:4]:
        (few / case_id).symlink_to(folder / case_id)
    return str(few)


def test_a_row_of_overrides_is_of_the_networks_that_know_its_keys(benchmark):
    plan = benchmark("real_plan")
    settings = plan.Plan(
        pathlib.Path(),
        "",
        (),
        60.0,
        None,
        {"cun_lws": "cun_lws.yaml", "msm": "msm.yaml"},
        plan.OVERRIDES,
        plan.SIZES,
    )
    rows = plan.rows_of(plan.OURS, ["lws.beta=2", "train.seed=3 data.shuffle_buffer=64"], settings)
    assert [(row.name, row.kind) for row in rows] == [
        ("cun_lws", ""),
        ("msm", ""),
        ("cun_lws lws.beta=2", ""),
        ("cun_lws train.seed=3 data.shuffle_buffer=64", ""),
        ("msm train.seed=3 data.shuffle_buffer=64", ""),
    ]
    with pytest.raises(InputError, match="which all rows share"):
        plan.rows_of(plan.OURS, ["preprocess.n4_shrink=2"], settings)
    with pytest.raises(InputError, match=r"lws\.gamma"):
        plan.rows_of(plan.OURS, ["lws.gamma=2"], settings)
    whole = plan.rows_of(plan.ROWS, [], settings)
    assert [row.name for row in whole] == list(plan.ROWS)
    assert [row.kind for row in whole] == ["", "ensembled", "tuned"] * 2 + ["", ""]


# --- the time -------------------------------------------------------------------------------------------


def test_the_pace_is_found_again(benchmark):
    ours = benchmark("real_ours")
    start, epoch, step = 20.0, 3.0, 0.5

    def seconds(epochs, steps):
        return start + epochs * (epoch + steps * step)

    found = ours.pace_of(seconds(1, ours._FEW), seconds(1, ours._MANY), seconds(ours._EPOCHS, ours._FEW))
    assert (found.start, found.epoch, found.step) == pytest.approx((start, epoch, step))
    assert ours.pace_of(10.0, 9.0, 10.0).step > 0  # by chance the longer one took less


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
def test_cpu_seconds_are_those_of_the_process_that_is_asked_for(benchmark):
    ours = benchmark("real_ours")
    busy = "import time\nwhile time.process_time() < 0.6: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        spent = ours.Clock("cpu", 2).of(process.pid)
        process.stdout.readline()
        assert 0.25 < spent() < 0.6  # of two cores
        process.communicate(b"\n")


# --- the tables -----------------------------------------------------------------------------------------


def _scores(shift):
    return [
        {
            "case_id": f"case{number}",
            "region": region,
            "dice": 0.8 + shift + 0.01 * number,
            "hd95_mm": 5.0 - 10 * shift + number,
            "rq": math.nan if region == "ET" else 0.5 + shift,
            "reference_volume_ml": 10.0,
        }
        for number in range(7)
        for region in REGIONS
    ]


def test_tables_have_a_row_each_and_a_dash_for_what_no_case_has(benchmark):
    table, plan = benchmark("real_table"), benchmark("real_plan")
    note = {"network": "cun, width 16", "parameters": 7300000, "seconds": 1790.0, "steps": 640}
    rows = [plan.Row("cun_lws", "cun_lws"), plan.Row("cun_lws_ensembled", "cun_lws", "ensembled")]
    rows.append(plan.Row("nnunet", "nnunet"))
    found = {row.name: (note, _scores(shift)) for row, shift in zip(rows, (0.0, 0.1, 0.0), strict=True)}
    lines = table.table(found)
    assert lines[2] == (
        "| cun_lws | cun, width 16 | 7,300,000 | 29.8 | 640 | 0.830 | 0.830 | 0.830 | 8.0 | 8.0 | 8.0 "
        "| 0.500 | 0.500 | - |"
    )
    compared = table.pairs(rows)
    assert compared == [
        ("cun_lws_ensembled", "cun_lws"),
        ("cun_lws", "nnunet"),
        ("cun_lws_ensembled", "nnunet"),
    ]
    lines, numbers = table.differences(found, compared)
    assert lines[2].startswith("| cun_lws_ensembled less cun_lws | **+0.100 (+0.100 to +0.100)** |")
    assert "**" not in lines[3] and lines[3].endswith("| - |")
    assert len({line.count("|") for line in lines}) == 1 and len(numbers) == 3 * 3 * len(REGIONS)
    json.dumps(numbers, allow_nan=False)


@pytest.mark.skipif(not HAS_PEERS, reason="nnunetv2 is not installed")
def test_nnunets_rule_is_kept_where_the_cases_say_that_it_helps(benchmark):
    code = """if True:
        import sys
        sys.modules["triton"] = None
        import numpy as np
        import real_nnunet
        reference = np.zeros((12, 12, 12), np.uint8)
        reference[2:8, 2:8, 2:8] = 2
        reference[3:6, 3:6, 3:6] = 3
        spotted = reference.copy()
        spotted[10, 10, 10] = 2
        assert real_nnunet.rules([spotted], [reference])[0] == [1, 2, 3]
        assert np.array_equal(real_nnunet.applied(spotted, [[1, 2, 3]]), reference)
        two = reference.copy()
        two[9:12, 9:12, 9:12] = 2
        assert real_nnunet.rules([two], [two]) == []
    """
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=BENCHMARKS
    )
    assert ended.returncode == 0, ended.stderr


# --- all of it ------------------------------------------------------------------------------------------


def test_what_cannot_be_run_is_refused_before_anything_is_written(tmp_path):
    output = ("--output", tmp_path / "out", "--only", "cun_lws")
    for options, text in (
        (("--rehearse", "--minutes", 0), "more than 0"),
        (("--folds", 1, "--rehearse"), "2 or more"),
    ):
        refused = real(*options, *output)
        assert refused.returncode == 1 and text in refused.stderr
        assert not (tmp_path / "out").exists()
    nothing = real(*output)
    assert nothing.returncode == 1 and "say where the cases lie" in nothing.stderr
    assert not (tmp_path / "out" / "cases").exists()


@pytest.mark.slow
def test_a_rehearsal_scores_every_row_and_goes_on_where_it_was(tmp_path):
    rows = ["cun_lws", "cun_lws_ensembled", "cun_lws_tuned", "msm"]
    rows += ["segresnet", "nnunet"] if HAS_PEERS else []
    options = ("--rehearse", "--clock", "cpu", "--output", tmp_path / "out", "--only", *rows)
    ended = real(*options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "out" / "real.json").read_text())
    assert list(found["rows"]) == rows and len(found["cases"]) == 12
    assert all(np.isfinite([score["dice"] for score in row["scores"]]).all() for row in found["rows"].values())
    table = (tmp_path / "out" / "real.md").read_text()
    again = real(*options)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done already") >= 2 * len(rows)
    assert (tmp_path / "out" / "real.md").read_text() == table
    other = real(*options[:-1], "nonsense")
    assert other.returncode == 2
