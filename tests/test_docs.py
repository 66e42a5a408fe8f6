"""Every command block of the README and of the pages under docs/ runs, page by page, in one folder.

The blocks run as written, on simulated cases under the names that the pages use. Only what would take hours
is made small: settings are appended as overrides, and ports are free ones. A command that has run in this
folder is not run again when another page shows it too. Blocks marked `console` are for what cannot run here:
clusters, foreign programs, a GPU, data of the papers.

The generated pages are current, the navigation has every page, and the file of constraints every requirement.
"""

import argparse
import collections
import importlib.util
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
from typing import NamedTuple

import pytest
import yaml

from tfbrats.phantoms import data_sets
from tfbrats.terminal import completion, verbs

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
# In this order: a page may use what an earlier one has made.
PAGES = (
    "README.md",
    *(f"docs/start/{name}.md" for name in ("install", "first-five-minutes", "your-own-case")),
    *(f"docs/how-to/{name}.md" for name in ("prepare", "split", "train", "export", "view", "evaluate")),
    *(f"docs/how-to/{name}.md" for name in ("report", "submit", "serve", "segment", "light-client")),
    *(
        "docs/how-to/beam-engines.md",
        "docs/how-to/reproduce.md",
        "docs/why/does-it-do.md",
        "docs/reference/python.md",
    ),
)
SMALL = "model.width=2 train.epochs=1 train.steps_per_epoch=1 train.batch_size=2 preprocess.n4_modalities=[]"
SMALL_RECORDS = {
    "2d": "records.slice_shape=[48,48]",
    "3d": "sampling.patch_size=16 sampling.patches_per_case=2 cascade.stride=16",
}
SLOW = {  # part of a block -> why it is not run each time
    "pip install": "an installation: .ci/run does one, and a slow test of test_end_to_end the other",
    "tfbrats demo": "minutes",
    "--folds folds.json": "five trainings; tests/workflows/test_folds.py trains folds",
    "tfbrats reproduce": "a whole table: a minute and more",
    "train.precision=mixed_bfloat16": "one more training; tests/training takes steps in it",
    "tfbrats probe": "tests/test_probe.py measures the same",
    "local_job_service_main": "two servers and a job on them; tests/test_engines.py runs the same engine",
}
REFUSED = {"tfbrats check": "shape"}  # cases here are smaller than a challenge's: exit code 1, and this word
# What TensorFlow, CUDA or Beam would say between our lines.
FOREIGN = r"^.*(?:oneDNN|cuInit|cudart|cpu_feature_guard|absl::|WARNING:|apache_beam/).*$"
PORTS = ("8500", "8099", "50000")


NEXT = "\f"  # between the Python blocks of a page
EACH_BY_ITSELF = """for code in {codes!r}:
    print(code)
    exec(compile(code, "a block", "exec"), {{"__name__": "__main__"}})
"""


class Block(NamedTuple):
    page: str
    number: int  # in its page
    kind: str  # bash or python
    text: str


def blocks_of(page: str) -> list[Block]:
    """Each of its bash blocks, and then all of its Python at once: TensorFlow is loaded a single time."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^```(bash|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    shell = [Block(page, n, kind, code) for n, (kind, code) in enumerate(found, 1) if kind == "bash"]
    python = [code for kind, code in found if kind == "python"]
    return shell + ([Block(page, len(found), "python", NEXT.join(python))] if python else [])


BLOCKS = [block for page in PAGES if (ROOT / page).exists() for block in blocks_of(page)]


def commands_of(script: str) -> list[str]:
    """Each command of a script on one line, without comments behind it."""
    lines = re.sub(r"\\\n\s*", "", script).splitlines()
    return [" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in lines if line.split("#")[0].strip()]


def small(command: str, ports: dict[str, int]) -> str:
    """The command with sizes for a test."""
    for port, free in ports.items():
        command = command.replace(port, str(free))
    command = command.replace("--connect-timeout 60", "--connect-timeout 300")  # other tests run beside it
    config = re.search(r"--(?:config|settings) (\w+)", command)
    dimensions = "3d" if config and config[1] in ("msm", "smoke_3d") else "2d"
    overrides = f"{SMALL} {SMALL_RECORDS[dimensions]}"
    if re.match(r"tfbrats (prepare|train|probe) ", command):
        command += f" {overrides}" if "--runner" not in command else ""
        command += " --steps 2" if command.startswith("tfbrats probe") else ""
    if command.startswith("tfbrats reproduce"):
        command += f" --rows {'msm' if dimensions == '3d' else 'cun_lws'} {overrides}"
    if command.startswith("tfbrats phantom"):
        command += " --shape 40 40 20" + (" --count 10" if "--count 40" in command else "")
    return command


class Workspace:
    """The folder in which everything runs, with data sets by the names of the pages.

    Attributes:
        done: commands that have run.
        groups: process groups of all that was started: servers stay behind a block.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder, self.done, self.groups = folder, set(), []
        self.ports = {}
        for port in PORTS:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.ports[port] = probe.getsockname()[1]

    def run(self, block: Block) -> str:
        """Runs what has not run yet, and returns what it printed; fails with that."""
        script = self._script(block)
        code = {"bash": ["bash", "-euo", "pipefail", "-c", script], "python": [sys.executable, "-c", script]}
        environment = {"PATH": f"{pathlib.Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}
        environment |= {"HOME": str(self.folder), "MPLBACKEND": "agg"}
        environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        # To a file, not a pipe: a server left in the background would keep a pipe open.
        log = self.folder / f"{block.page.replace('/', '_')}{block.number}.txt"
        with log.open("w") as file:
            process = subprocess.Popen(
                code[block.kind],
                cwd=self.folder,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.groups.append(process.pid)
            ended = process.wait()
        printed = log.read_text()
        refused = next((word for command, word in REFUSED.items() if block.text.startswith(command)), None)
        expected = 0 if refused is None else 1
        assert ended == expected and (refused or "") in printed, f"{script}\n{printed[-4000:]}"
        return printed

    def _script(self, block: Block) -> str:
        if block.kind == "python":
            codes = small(block.text, {"8500": self.ports["8500"]}).split(NEXT)
            return EACH_BY_ITSELF.format(codes=codes)
        commands = [small(command, self.ports) for command in commands_of(block.text)]
        new = [command for command in commands if command not in self.done]
        self.done.update(new)
        return "\n".join(new)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    data_sets.write_dataset(folder / "BraTS2020", 5, "2020", seed=3, shape=(40, 44, 20))
    data_sets.write_dataset(folder / "BraTS2017", 5, "2017", seed=3, shape=(40, 44, 20))
    made = Workspace(folder)
    yield made
    for group in made.groups:
        try:
            os.killpg(group, signal.SIGTERM)
        except ProcessLookupError:
            continue


def _parameters():
    for block in BLOCKS:
        why = next((reason for part, reason in SLOW.items() if part in block.text), None)
        if why is None or "pip install" not in block.text:
            marks = [pytest.mark.slow(reason=why)] if why else []
            yield pytest.param(block, id=f"{block.page}:{block.number}", marks=marks)


@pytest.mark.parametrize("block", list(_parameters()))
def test_block_runs(workspace, block):
    printed = workspace.run(block)
    assert not re.findall(FOREIGN, printed, re.MULTILINE)


def test_the_blocks_left_what_they_promise(workspace):
    if not workspace.done:
        pytest.skip("no block ran: this test looks at what they leave")
    for name in (
        "records/cun/dataset.json",
        "runs/cun_lws/history.csv",
        "models/cun/1/saved_model.pb",
        "runs/msm/et/history.csv",
        "models/msm/1/saved_model.pb",
        "predictions/BraTS20_Training_001.nii.gz",
        "one/BraTS20_Training_001.nii.gz",
        "scores/metrics.csv",
        "scores/report.html",
        "seg.nii.gz",
        "called/BraTS20_Training_001.json",
        "segmented_scored/BraTS20_Training_001.json",
        "segmented_scored/scores/metrics.csv",
        "given_back",
    ):
        assert (workspace.folder / name).exists(), name


def test_their_scores_are_those_of_the_test_cases_alone(workspace):
    if not workspace.done:
        pytest.skip("no block ran: this test looks at what they leave")
    test = json.loads((workspace.folder / "runs/cun_lws/splits.json").read_text())["test"]
    for scores in ("scores", "segmented_scored/scores"):
        content = json.loads((workspace.folder / scores / "metrics.json").read_text())
        assert content["split"]["name"] == "test" and content["by_split"]["cases"] == {"test": test}


def test_every_page_with_a_block_is_run():
    with_blocks = {
        str(path.relative_to(ROOT)) for path in (*DOCS.rglob("*.md"), ROOT / "README.md") if blocks_of(path)
    }
    assert with_blocks <= set(PAGES), sorted(with_blocks - set(PAGES))


# --- pages ----------------------------------------------------------------------------------------------


def generator():
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["commands.md", "config.md"])
def test_a_generated_page_is_current(name):
    ours = generator()
    page = {"commands.md": ours.commands_page, "config.md": ours.config_page}[name]
    kept = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert kept == page(), f"docs/reference/{name} is not what the code says now: run python docs/generate.py"


def parsers_in(parser):
    """A parser, and those of its own words."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers_in(child)


def test_the_table_of_words_has_every_option_of_several_commands_and_every_old_name():
    rows = [
        line for line in (DOCS / "reference" / "words.md").read_text().splitlines() if line.startswith("| `--")
    ]
    counts, renamed = collections.Counter(), set()
    for verb in verbs.VERBS:
        for parser in parsers_in(completion.parser_of(verb)):
            counts.update({text for action in parser._actions for text in action.option_strings})
            renamed.update(getattr(parser, "_new_names", {}).items())
    assert len(renamed) > 5
    for old, new in renamed:
        assert [row for row in rows if f"`{old}`" in row and f"`{new}" in row], f"{old} is {new} now"
    shared = {name for name, count in counts.items() if count > 2 and name not in ("-h", "--help")}
    assert {"--input", "--output", "--case"} <= shared
    named = set(re.findall(r"--[a-z][\w-]*", "\n".join(rows)))
    assert shared <= named, sorted(shared - named)
    assert named <= {*counts, *(old for old, _ in renamed)}, "a word that no command has"


def test_the_generator_reads_every_kind_of_limit():
    described = generator().described
    assert described(int | None) == "whole number or `null`"
    assert described(bool) == "`true` or `false`"
    keys = (DOCS / "reference" / "config.md").read_text()
    for key, words in (
        ("train.momentum", "number from 0 to 1"),
        ("cascade.threshold", "number over 0 below 1"),
        ("sampling.patch_size", "whole number from 8 in steps of 8"),
        ("data.modalities", "a list of `flair`, `t1`, `t1ce` or `t2`"),
    ):
        assert f"| `{key}` | {words} |" in keys


def test_the_navigation_has_every_page():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"\S+\.(?:md|ipynb)$", text, re.MULTILINE))
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*") if path.suffix in (".md", ".ipynb")}
    assert named == there


def test_the_site_loads_nothing_from_elsewhere():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["theme"]["font"] is False
    assert not {"repo_url", "extra_javascript"} & set(settings)
    notebooks = next(plugin["mkdocs-jupyter"] for plugin in settings["plugins"] if "mkdocs-jupyter" in plugin)
    assert notebooks["execute"] is False  # a page shows what the notebook holds
    assert all((DOCS / name).is_file() for name in settings["extra_css"])


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda path: path.stem)
def test_a_number_has_its_leading_zero(page):
    assert not re.findall(r"(?<![\w.\]/)*`])[+-]?\.\d+", page.read_text(encoding="utf-8"))


def test_the_constraints_name_every_requirement():
    pinned = {
        re.sub(r"[-_.]+", "-", name).lower()
        for name in re.findall(r"^([\w.-]+)==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    }
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    required = source.partition("INSTALL_REQUIRES = [")[2].partition("]\n")[0]
    names = re.findall(r'^\s+"([\w.-]+)', required, re.MULTILINE)
    assert len(names) > 15
    assert not [name for name in names if re.sub(r"[-_.]+", "-", name).lower() not in pinned]


def test_github_runs_what_continuous_integration_runs_on_every_python():
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^\S+ mkdocs build --strict", run, re.MULTILINE)
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    assert {"run": "bash .ci/run"} in jobs["test"]["steps"]
    lowest, above = re.search(
        r'python_requires=">=3\.(\d+),<3\.(\d+)"', (ROOT / "setup.py").read_text()
    ).groups()
    assert jobs["test"]["strategy"]["matrix"]["python"] == [f"3.{n}" for n in range(int(lowest), int(above))]
