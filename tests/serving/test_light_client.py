"""An environment of the client alone: two lines make it, without TensorFlow and Beam, and it does its work."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import served
import tiny_model

from tfbrats.datasets import layouts
from tfbrats.phantoms import data_sets
from tfbrats.predictions import model_card

ROOT = pathlib.Path(__file__).parent.parent.parent
REQUIREMENTS = ROOT / "serving" / "requirements_client.txt"
LARGEST_MB = 200
ABSENT = ("tensorflow", "keras", "apache_beam", "scipy", "SimpleITK", "matplotlib", "tensorboard")
_NO_NETWORK = ("Retrying (Retry(", "NewConnectionError", "NameResolutionError", "Network is unreachable")


def requirements() -> list[str]:
    return [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]


def test_its_ranges_are_those_of_the_whole_package():
    whole = (ROOT / "setup.py").read_text()
    for line in requirements():
        assert f'"{line}"' in whole, line


def test_the_page_and_the_file_say_the_same_two_lines():
    page = (ROOT / "docs" / "how-to" / "light-client.md").read_text()
    for line in ("pip install -r serving/requirements_client.txt", "pip install --no-deps ."):
        assert line in page and line in REQUIREMENTS.read_text()


def clean() -> dict[str, str]:
    """The environment without what would lead to this clone or this Python's packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def ran(*command, where) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command], cwd=where, env=clean(), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def light(tmp_path_factory) -> pathlib.Path:
    """Its bin/: made by the two lines, in a copy of the clone."""
    root = tmp_path_factory.mktemp("light")
    clone = root / "clone"
    clone.mkdir()
    for name in ("tfbrats", "serving", "beam_pipelines", "configs"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, clone)
    assert ran(sys.executable, "-m", "venv", root / "env", where=root).returncode == 0
    for line in (("-r", "serving/requirements_client.txt"), ("--no-deps", ".")):
        ended = ran(root / "env" / "bin" / "pip", "install", *line, where=clone)
        if ended.returncode and any(sign in ended.stdout + ended.stderr for sign in _NO_NETWORK):
            pytest.skip("no network: pip reaches no package index")
        assert ended.returncode == 0, ended.stderr
    return root / "env" / "bin"


@pytest.mark.slow
def test_it_is_small_and_holds_nothing_heavy(light, tmp_path):
    files = [path for path in light.parent.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) / 1e6 < LARGEST_MB
    asked = f"import importlib.util as u; print([n for n in {ABSENT} if u.find_spec(n)])"
    assert ran(light / "python", "-c", asked, where=tmp_path).stdout == "[]\n"


@pytest.mark.slow
def test_call_and_check_do_their_work_in_it(light, tmp_path):
    model = tiny_model.write(tmp_path / "models" / "tiny")
    (model / model_card.FILE).write_text(tiny_model.card().to_json())
    data_sets.write_dataset(tmp_path / "cases", 2, "2021", seed=1, shape=(32, 32, 20), first=1)
    ids = [entry.case_id for entry in layouts.find(tmp_path / "cases").cases]
    assert ran(light / "tfbrats", "call", "--help", where=tmp_path).returncode == 0
    with served.serving(model.parent, tmp_path / "log.txt") as server:
        asked = ("call", "--server", server.address, "--model-name", "tiny", "--input", "cases")
        ended = ran(light / "tfbrats", *asked, "--output", "out", where=tmp_path)
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    assert f"{ids[0]}: WT " in ended.stdout and (tmp_path / "out" / f"{ids[1]}.nii.gz").exists()
    ended = ran(light / "tfbrats", "check", "out", where=tmp_path)  # which tells of the small grid
    assert "Traceback" not in ended.stderr and "2 files" in ended.stdout and ended.returncode == 1, ended


@pytest.mark.slow
def test_what_it_lacks_is_told_with_the_line_that_installs_it(light, tmp_path):
    model = tiny_model.write(tmp_path / "models" / "tiny")
    card = tiny_model.card(n4=tiny_model.of_caller("flair"))
    (model / model_card.FILE).write_text(tiny_model.old_text(card))
    data_sets.write_dataset(tmp_path / "cases", 1, "2021", seed=1, shape=(32, 32, 20), first=1)
    with served.serving(model.parent, tmp_path / "log.txt") as server:
        asked = (
            "call",
            "--server",
            server.address,
            "--model-name",
            "tiny",
            "--input",
            "cases",
            "--output",
            "o",
        )
        ended = ran(light / "tfbrats", *asked, "--card", model / model_card.FILE, where=tmp_path)
    assert ended.returncode == 1 and "pip install SimpleITK" in ended.stderr
    assert ended.stderr.count("\n") == 1 and "Traceback" not in ended.stderr
    for word in (
        ("train", "--config", "cun"),
        ("predict", "--model", model, "--input", "cases", "--output", "o"),
    ):
        ended = ran(light / "tfbrats", *word, where=tmp_path)
        assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
        assert "is not installed here" in ended.stderr and "docs/how-to/light-client.md" in ended.stderr
