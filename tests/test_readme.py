"""Every command block of the README runs, in the order in which it stands there.

The blocks run as written, on simulated cases under the names that the README uses. Only what would take
hours is made small: training and record settings are appended as overrides, and the port is a free one.
"""

import json
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from tfbrats.phantoms import data_sets

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
INSTALLS = [block for block in BLOCKS if "pip install" in block]
RUN = [block for block in BLOCKS if block not in INSTALLS]

SMALL = "model.width=2 train.epochs=1 train.steps_per_epoch=1 train.batch_size=2 preprocess.n4_modalities=[]"
SMALL_RECORDS = {
    "cun": "records.slice_shape=[48,48]",
    "msm": "sampling.patch_size=16 sampling.patches_per_case=2 cascade.stride=16",
}


def _made_small(block: str, port: int) -> str:
    lines = []
    for line in block.splitlines():
        if "nifti_to_tfrecord" in line or "tfbrats.train" in line:
            method = re.search(r"--config (cun|msm)", line).group(1)
            line = f"{line} {SMALL} {SMALL_RECORDS[method]}"
        if "tfbrats.reproduce" in line:
            line = f"{line} --rows cun_lws {SMALL} {SMALL_RECORDS['cun']}"
        if "tfbrats.phantom" in line:
            line = f"{line} --shape 40 40 20"
        lines.append(line.replace("8500", str(port)))
    return "\n".join(lines)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    data_sets.write_dataset(folder / "BraTS2020", 5, "2020", seed=3, shape=(40, 44, 20))
    data_sets.write_dataset(folder / "BraTS2017", 5, "2017", seed=3, shape=(40, 44, 20))
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    (bin_folder / "python").symlink_to(sys.executable)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield folder, port
    subprocess.run(["pkill", "-f", f"serving.server .*--port {port}"], check=False)


def test_the_first_screen_has_the_two_commands():
    assert INSTALLS == [
        "pip install . && python -m tfbrats.demo\n",
        'pip install -e ".[dev]" && pytest\n',
    ]
    # The second is what .ci/run runs; the first is run, install and all, by a slow test of test_end_to_end.
    assert "pip install -e .* && pytest" in (ROOT / ".ci" / "run").read_text()


def _numbers():
    """Of the blocks; the one that makes a whole table takes a minute."""
    for number, block in enumerate(RUN):
        yield pytest.param(number, marks=[pytest.mark.slow] * ("tfbrats.reproduce" in block))


@pytest.mark.parametrize("number", list(_numbers()))
def test_block_runs(workspace, number):
    folder, port = workspace
    script = _made_small(RUN[number], port)
    path = f"{pathlib.Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    # To a file, not a pipe: a server left in the background would keep a pipe open.
    log = folder / f"block{number}.txt"
    with log.open("w") as file:
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env={"PATH": path, "HOME": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    assert ended.returncode == 0, f"{script}\n{log.read_text()[-4000:]}"
    if "tfbrats.reproduce" in script:
        assert (folder / "paper_a" / "report.html").is_file()


def test_the_blocks_left_what_they_promise(workspace):
    folder, _ = workspace
    for name in (
        "records/cun/dataset.json",
        "runs/cun_lws/history.csv",
        "models/cun/1/saved_model.pb",
        "runs/msm/et/history.csv",
        "models/msm/1/saved_model.pb",
        "predictions/BraTS20_Training_001.nii.gz",
        "scores/metrics.csv",
        "scores/report.html",
        "seg.nii.gz",
        "segmented/BraTS20_Training_001.json",
        "segmented/scores/metrics.csv",
    ):
        assert (folder / name).exists(), name


def test_its_own_scores_are_those_of_the_test_cases_alone(workspace):
    folder, _ = workspace
    test = json.loads((folder / "runs/cun_lws/splits.json").read_text())["test"]
    for scores in ("scores", "segmented/scores"):
        content = json.loads((folder / scores / "metrics.json").read_text())
        assert content["split"]["name"] == "test" and content["by_split"]["cases"] == {"test": test}


def test_links_and_files_that_it_names_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    table = README.partition("## Where is what")[2].partition("## ")[0]
    rooms = re.findall(r"`([a-z_/]+(?:/|\.py))`", table)
    assert len(rooms) > 25
    for room in rooms:
        assert (ROOT / room).exists() or (ROOT / "tfbrats" / room).exists(), room


def test_each_wing_and_each_flat_file_has_its_place_in_the_table():
    table = README.partition("## Where is what")[2].partition("## ")[0]
    wings = [path.parent for path in (ROOT / "tfbrats").glob("*/__init__.py")]
    assert len(wings) >= 12
    for path in (*wings, *(ROOT / "tfbrats").glob("*.py")):
        assert path.name == "__init__.py" or f"{path.name}{'' if path.suffix else '/'}`" in table, path.name


def test_every_shipped_config_of_a_paper_is_in_the_table():
    for path in (ROOT / "configs").glob("*.yaml"):
        assert path.stem.startswith("smoke") or f"configs/{path.name}" in README, path.name


def test_the_page_of_the_house_names_every_file_of_every_wing():
    page = (ROOT / "docs" / "why" / "house.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE))
    for wing in (path.parent for path in (ROOT / "tfbrats").glob("*/__init__.py")):
        stems = {path.stem for path in wing.glob("*.py")} - {"__init__"}
        assert set(re.findall(r"`(\w+)`", rows[wing.name])) == stems, wing.name
