"""What is wrong with a line is told before TensorFlow is loaded, which takes seconds."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tfbrats import config_file
from tfbrats.runs.folder import RunFolder

ROOT = pathlib.Path(__file__).parent.parent
HEAVY = ("tensorflow", "keras", "apache_beam", "scipy", "SimpleITK", "matplotlib")
# Runs lines of a command in one process; prints the error of each; fails as soon as one loads what is heavy.
ALL = """
import importlib, json, sys
from tfbrats.errors import InputError
module, lines, heavy = sys.argv[1], json.loads(sys.argv[2]), set(json.loads(sys.argv[3]))
door = importlib.import_module(module)
door.parser()
def light(what):
    if loaded := heavy & set(sys.modules): sys.exit(f"{what} loads {sorted(loaded)}")
light("parser()")
for line in lines:
    try:
        door.main(line)
    except InputError as error:
        print(json.dumps(str(error)))
    except SystemExit as end:
        assert end.code == 2, end.code
        print(json.dumps(""))
    else:
        sys.exit(f"{line} is not refused")
    light(line)
"""


def answers(folder, module, *lines):
    """What is said to each line, on stdout's side as an InputError, else "" and a line on stderr."""
    ended = subprocess.run(
        [sys.executable, "-c", ALL, module, json.dumps(lines), json.dumps(HEAVY)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    said = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith('"')]
    return said, ended.stderr


TRAIN, PROBE, EXPORT = "tfbrats.train", "tfbrats.probe", "tfbrats.export"


@pytest.mark.parametrize("module", [TRAIN, PROBE, "tfbrats.workflows.trial"])
def test_a_misspelt_flag_or_key(module, tmp_path):
    own = ["--batch=1", "--steps=1"] if module.endswith("trial") else []
    (flag, key), stderr = answers(
        tmp_path, module, ["--config", "cun", "--epochs", "3", *own], ["--config", "cun", "train.epoch=3", *own]
    )
    assert flag == "" and "unrecognized arguments: --epochs; write train.epochs=3" in stderr
    assert "unknown key train.epoch; did you mean train.epochs?" in key


def test_records_and_a_run_folder_that_cannot_be_meant(record_set, tmp_path):
    overrides = [text for text in record_set.overrides if not text.startswith("run.dir=")]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("x")
    at = ["--config", "smoke_2d", *overrides]
    (missing, others, taken), _ = answers(
        tmp_path,
        TRAIN,
        [*at, "--records", "nowhere", "--run", "run"],
        [*at, "--records", record_set.folder, "--run", "run", "lws.contour_width_mm=7"],
        [*at, "--records", record_set.folder, "--run", "photos"],
    )
    assert "nowhere: no dataset.json" in missing and "tfbrats prepare --config smoke_2d" in missing
    assert "written with another configuration" in others and "contour_width_mm: 7.0" in others
    assert "photos: not empty, and not a run" in taken
    assert not (tmp_path / "run").exists()
    (missing,), _ = answers(tmp_path, PROBE, ["--config", "cun", "--records", "nowhere"])
    assert "nowhere: no dataset.json" in missing


def test_the_old_name_of_records_works_and_its_new_one_is_said(tmp_path):
    (missing,), stderr = answers(tmp_path, TRAIN, ["--config", "cun", "--data", "nowhere", "--run", "run"])
    assert "nowhere: no dataset.json" in missing
    assert "note: --data is now --records" in stderr


def test_a_run_that_is_none_and_what_export_may_not_change(tmp_path):
    RunFolder(tmp_path / "run").write_config(config_file.load("msm"))
    run = ["--run", "run", "--output", "m"]
    (none, settled, edition, place), _ = answers(
        tmp_path,
        EXPORT,
        ["--run", "nowhere", "--output", "m"],
        [*run, "model.width=8"],
        [*run, "--edition", "1999"],
        ["--run", "run", "--output", "gs://bucket/m"],
    )
    assert "nowhere: no run here" in none
    assert "model.width=8: settled by training" in settled
    assert "edition '1999' is unknown" in edition
    assert "export to a local folder" in place
    assert not (tmp_path / "m").exists()


def test_a_model_that_cannot_be_served(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "saved_model.pb").write_text("x")
    (tmp_path / "models.config").write_text("model_config_list { config { name: 'm' } }")
    said, stderr = answers(
        tmp_path,
        "serving.server",
        ["--model_base_path", "nowhere"],
        ["--model-base-path", "empty"],
        ["--model_base_path", "m/1"],
        ["--model_config_file", "models.config"],
        ["--model_config_file", "none.config"],
        ["--model_base_path", "m", "--port", "99999"],
        ["--model_bas_path", "m"],
        [],
    )
    for text, part in zip(
        said,
        (
            *("nowhere: no such folder", "empty: no version in it", "give its parent folder", "absolute"),
            *("none.config: no such file", "there are ports 1 to 65535", "", "which models?"),
        ),
        strict=True,
    ):
        assert part in text
    assert "did you mean --model_base_path?" in stderr
