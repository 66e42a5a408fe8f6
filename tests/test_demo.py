"""The demo without its minutes: which commands it would run, that each takes its options, and how it ends."""

import argparse
import contextlib
import pathlib
import shlex
import subprocess
import sys

import pytest

from tfbrats import demo
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.runs.folder import RunFolder
from tfbrats.terminal import completion, verbs


class _Recorded:
    """In the place of `chain.Steps`: takes down the commands, and runs none."""

    def __init__(self, logs):
        self.lines, self.done = [], []

    def run(self, title, *arguments, notes=(), **how):
        self.lines.append((*arguments, *(f"--note={note}" for note in notes)))
        self.done.append(verbs.command_line(*arguments))

    @contextlib.contextmanager
    def background(self, title, *arguments):
        self.run(title, *arguments)
        yield None, None


@pytest.fixture
def recorded(monkeypatch):
    """`recorded(method, output)` -> the commands of a demo."""
    steps = []
    monkeypatch.setattr(demo, "Steps", lambda logs: steps.append(_Recorded(logs)) or steps[-1])
    monkeypatch.setattr(demo, "_address", lambda process, log: "localhost:1")
    monkeypatch.setattr(demo, "_unseen", lambda places: ["BraTS2021_00001", "BraTS2021_00002"])
    monkeypatch.setattr(RunFolder, "check_finished", lambda self: None)

    def of(method: str, output: pathlib.Path) -> list[tuple[str, ...]]:
        demo.demo(output, method)
        return steps[-1].lines

    return of


def parser_of(module: str) -> argparse.ArgumentParser:
    return completion.parser_of(next(verb for verb in verbs.VERBS if verb.module == module))


@pytest.mark.parametrize("method", demo.METHODS)
def test_every_step_is_a_command_that_takes_these_options_by_their_names_of_today(
    recorded, tmp_path, capsys, method
):
    lines = recorded(method, tmp_path / "demo")
    assert [verbs.spelling(module).split()[-1] for module, *_ in lines] == [
        *("phantom", "inspect", "prepare", "train", "export", "serve", "call", "evaluate", "report", "view"),
    ]
    capsys.readouterr()
    for module, *arguments in lines:
        parser_of(module).parse_args(arguments)
    assert capsys.readouterr().err == ""  # no "--old is now --new"


def test_it_ends_with_what_to_look_at_and_how_ones_own_cases_go(recorded, tmp_path, capsys):
    recorded("cun", tmp_path / "demo")
    printed = capsys.readouterr().out
    lines = printed[printed.index("done in ") :].splitlines()
    shown = f"{tmp_path}/demo/case.html and {tmp_path}/demo/report.html"
    assert f"next: look at {shown} in a browser" in lines
    for name in ("case.html", "report.html", "metrics.csv", "predictions", "run", "models"):
        assert any(line.startswith(f"    {tmp_path}/demo/{name}") for line in lines)
    typed = [shlex.split(line) for line in lines if line.startswith("    tfbrats ")]
    assert [line[1] for line in typed] == ["predict", "evaluate", "prepare"]
    assert typed[0][2:4] == ["--model", f"{tmp_path}/demo/models/smoke_2d"]
    for _, word, *arguments in typed:
        parser_of(next(verb.module for verb in verbs.VERBS if verb.word == word)).parse_args(arguments)
    assert capsys.readouterr().err == ""


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="not empty, and not a demo"):
        demo.main(["--output", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_demo_of_another_method_is_not_gone_on_with(recorded, tmp_path):
    recorded("cun", tmp_path / "demo")
    recorded("cun", tmp_path / "demo")
    with pytest.raises(InputError, match="a demo of another method or version"):
        recorded("msm", tmp_path / "demo")
    assert files.read_json(tmp_path / "demo" / "demo.json")["config"]["model"]["name"] == "cun"


def test_its_help_loads_nothing_but_the_chain():
    code = (
        "import sys\n"
        "from tfbrats import demo\n"
        "try: demo.main(['--help'])\n"
        "except SystemExit: print('loaded', sorted({'pydantic', 'numpy', 'tensorflow'} & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "loaded []"
