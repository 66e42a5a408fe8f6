"""The benchmark of the server: it runs, its figures are of what they say, and it notices what goes wrong."""

import json
import pathlib
import subprocess
import sys

import pytest
import tiny_model

BENCHMARKS = pathlib.Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model.write(base)
    return base


def serve(*options):
    return subprocess.run(
        [sys.executable, BENCHMARKS / "serve.py", *map(str, options)],
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_load_is_told_and_the_overload_is_refused(model, tiny_dataset, tmp_path):
    path = tmp_path / "figures.json"
    short = ("--minutes", 0.05, "--overload-minutes", 0.1, "--clients", 2, "--json", path)
    ended = serve("load", "--model", model, "--cases", tiny_dataset("2021"), *short)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    figures = json.loads(path.read_text())
    two, over = figures["2"], figures["overload"]
    assert two["answers"] > 0 == two["refused"] == two["wrong"] and two["failed"] == {}
    assert 0 < two["p50_s"] <= two["p95_s"] <= two["p99_s"]
    assert two["peak_bytes"] >= two["start_bytes"] > 50 * 2**20
    assert over["clients"] == 48 and over["refused"] > 0 and over["failed"] == {}
    assert "| 2 |" in ended.stdout and "| 48 (overload) |" in ended.stdout


@pytest.mark.slow
def test_every_way_to_send_a_case_is_told_and_gives_one_label_map(model, tiny_dataset, tmp_path):
    case = next(path for path in sorted(tiny_dataset("2021").iterdir()) if path.is_dir())
    path = tmp_path / "figures.json"
    ended = serve("wire", "--model", model, "--case", case, "--repeats", 1, "--json", path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = json.loads(path.read_text())["calls"]
    sent = {row["way"]: row["sent_bytes"] for row in rows}
    voxels = 32 * 32 * 20
    assert sent["float32, labels"] == pytest.approx(4 * 4 * voxels, rel=0.01)
    assert sent["int16, labels"] == pytest.approx(4 * 2 * voxels, rel=0.01)
    assert sent["gzip_int16, labels"] < sent["int16, labels"]
    assert len({tuple(row["sha256"]) for row in rows}) == 1
    assert "all the same" in ended.stdout
