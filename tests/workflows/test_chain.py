"""Chains of commands: what ran is said and kept, and no step outlives its chain unnoticed."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tfbrats.errors import InputError
from tfbrats.workflows import chain as steps


@pytest.fixture
def module(tmp_path, monkeypatch):
    """`module(body)` -> the name of a module that `python -m` finds, with that body."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def of(body: str) -> str:
        (tmp_path / "said.py").write_text(textwrap.dedent(body))
        return "said"

    return of


def test_a_step_is_announced_as_typed_and_its_output_kept(tmp_path, module, capsys):
    chain = steps.Steps(tmp_path / "logs")
    name = module("import sys; print('hello'); print(sys.argv[1:])")
    chain.run("Say it", name, "a", "--b", notes=["of c"])
    said = capsys.readouterr().out
    assert "[1] Say it\n    python -m said a --b\n" in said
    assert "hello" not in said
    assert (tmp_path / "logs" / "01-said.txt").read_text() == (
        "python -m said a --b\nhello\n['a', '--b', '--note=of c']\n"
    )
    assert chain.done == ["python -m said a --b"]


def test_a_step_that_is_shown_prints_as_it_goes(tmp_path, module, capsys):
    steps.Steps(tmp_path / "logs").run("Say", module("print('hello'); print(); print('  you')"), show=True)
    assert "    hello\n\n      you\n" in capsys.readouterr().out


@pytest.mark.parametrize("colours", [{"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}])
def test_what_a_step_would_do_next_is_left_to_the_chain(tmp_path, module, capsys, monkeypatch, colours):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in colours.items():
        monkeypatch.setenv(name, value)
    body = (
        "from tfbrats.terminal import style; print('hello'); print(style.following('rest')); print('next one')"
    )
    steps.Steps(tmp_path / "logs").run("Say", module(body), show=True)
    said = capsys.readouterr().out
    assert "    hello\n    next one\n" in said and "rest" not in said
    assert "rest" in (tmp_path / "logs" / "01-said.txt").read_text()


def test_a_failed_step_ends_the_chain_with_its_last_lines(tmp_path, module):
    name = module("import sys; print('first'); print('error: no such case', file=sys.stderr); sys.exit(3)")
    with pytest.raises(InputError, match=r"exit code 3(.|\n)*python -m said(.|\n)*no such case(.|\n)*01-said"):
        steps.Steps(tmp_path / "logs").run("Fail", name)


def test_a_step_that_is_done_keeps_its_number_and_its_log(tmp_path, module, capsys):
    name = module("print('hello')")
    steps.Steps(tmp_path / "logs").run("Say it", name)
    later = steps.Steps(tmp_path / "logs")
    later.run("Say it", name, is_done=True)
    later.run("Say it again", name)
    assert "[1] Say it\n    python -m said\n    done already" in capsys.readouterr().out
    assert later.done == ["python -m said"] * 2
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["01-said.txt", "02-said.txt"]
    assert "hello" in (tmp_path / "logs" / "01-said.txt").read_text()


def test_a_log_of_its_own_name_keeps_what_every_chain_printed(tmp_path, module):
    for _ in range(2):
        steps.Steps(tmp_path / "logs").run("Say it", module("print('hello')"), log_name="mine")
    assert (tmp_path / "logs" / "mine.txt").read_text() == "python -m said\nhello\n" * 2


def test_a_command_can_be_typed_as_it_is_printed(tmp_path, module, capsys):
    steps.Steps(tmp_path / "logs").run("Say it", module("pass"), "--config", "a folder/b.yaml")
    assert "python -m said --config 'a folder/b.yaml'" in capsys.readouterr().out


def test_what_is_looked_at_is_no_step(module):
    assert steps.output_of(module("print('42')")) == "42\n"
    with pytest.raises(InputError, match="exit code 1"):
        steps.output_of(module("raise SystemExit('not so')"))


def test_a_folder_takes_one_chain_at_a_time(tmp_path):
    with steps.alone(tmp_path), pytest.raises(InputError, match="at work here"), steps.alone(tmp_path):
        pass
    with steps.alone(tmp_path):
        pass


CHAIN = """
import pathlib, sys
from tfbrats.workflows import chain
folder = pathlib.Path(sys.argv[1])
with chain.alone(folder) as lock:
    chain.Steps(folder / "logs", lock).run("Sleep", "said")
"""


def _chain(tmp_path, module) -> tuple[subprocess.Popen, int]:
    """A chain whose step has begun, and the step's process id."""
    name = tmp_path / "pid"
    module(f"""
        import os, pathlib, time
        pathlib.Path({str(name)!r} + "_").write_text(str(os.getpid()))
        os.rename({str(name)!r} + "_", {str(name)!r})
        time.sleep(60)
        """)
    chain = subprocess.Popen([sys.executable, "-c", CHAIN, str(tmp_path / "work")], stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 30
    while not name.exists() and time.monotonic() < limit:
        time.sleep(0.05)
    return chain, int(name.read_text())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


def test_a_terminated_chain_ends_its_step(tmp_path, module):
    chain, step = _chain(tmp_path, module)
    chain.send_signal(signal.SIGTERM)
    assert chain.wait(30) == 143
    assert not _is_alive(step)
    with steps.alone(tmp_path / "work"):
        pass


def test_a_step_that_outlives_a_killed_chain_keeps_the_folder(tmp_path, module):
    chain, step = _chain(tmp_path, module)
    chain.kill()
    chain.wait()
    assert _is_alive(step)
    with pytest.raises(InputError, match="left behind"), steps.alone(tmp_path / "work"):
        pass
    os.kill(step, signal.SIGKILL)
    limit = time.monotonic() + 10
    while _is_alive(step) and time.monotonic() < limit:
        time.sleep(0.05)
    with steps.alone(tmp_path / "work"):
        pass


def test_a_command_that_ended_had_the_environment_that_it_was_given(module):
    said = module("import os; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])")
    assert steps.ended(said, TF_CPP_MIN_LOG_LEVEL="1").stdout == "1\n"
