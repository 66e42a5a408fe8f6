"""Bars at a terminal of any width, and lines where there is none."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import types
import warnings

import pytest
import tqdm.auto

from tfbrats.terminal import bars

LOOP = (
    "import time; from tfbrats.terminal import bars\n"
    "for _ in bars.bar(range(3), desc='cases', unit='case'):\n"
    "    time.sleep(0.2); bars.write('one is done')\n"
)


def at_a_terminal(columns: int) -> str:
    """What a terminal that says it has so many columns is sent."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 0 if columns == 0 else 24, columns, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", LOOP], stdout=inner, stderr=inner, env=dict(os.environ)
    ) as process:
        os.close(inner)
        said = b""
        while True:
            try:
                part = os.read(outer, 4096)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            said += part
    os.close(outer)
    assert process.returncode == 0
    return said.decode()


@pytest.mark.parametrize("columns", [0, 40, 120])
def test_a_bar_is_drawn_whole_at_any_width(columns):
    drawn = at_a_terminal(columns)
    frames = [frame for frame in re.split(r"[\r\n]", drawn) if frame.strip().startswith("cases:")]
    assert frames and "3/3" in frames[-1], drawn
    assert drawn.count("one is done") == 3
    assert max(map(len, frames)) <= (columns or bars.COLUMNS)


def test_where_there_is_no_terminal_quick_work_says_nothing():
    ended = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, check=True)
    assert (ended.stderr, ended.stdout) == ("", "one is done\n" * 3)


def test_where_there_is_no_terminal_a_line_that_is_written_brings_no_line_of_progress():
    loop = (
        "from tfbrats.terminal import bars\n"
        "with bars.bar(total=3, desc='cases', unit='case') as bar:\n"
        "    for _ in range(3): bar.update(); bars.write('one is done')\n"
    )
    ended = subprocess.run([sys.executable, "-c", loop], capture_output=True, text=True, check=True)
    assert (ended.stderr, ended.stdout) == ("", "one is done\n" * 3)


class Clock:
    """Time that passes as told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({"desc": "cases"}, ["cases: 2 of 5, about 01:30 left", "cases: 4 of 5, about 00:30 left"]),
        ({"unit": "shard"}, ["shards: 2 of 5, about 01:30 left", "shards: 4 of 5, about 00:30 left"]),
    ],
)
def test_slow_work_says_a_line_a_minute(monkeypatch, capsys, options, lines):
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    for _ in bars.bar(range(5), **options):
        clock.now += 30.0
        bars.write("one is done")  # which draws a bar anew, and says a line no sooner
    assert capsys.readouterr().err.splitlines()[:2] == lines


def test_a_hidden_bar_is_none_at_all(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    for _ in bars.bar(range(5), hidden=True):
        clock.now += 100.0
    assert capsys.readouterr().err == ""


def test_in_a_notebook_it_is_a_bar_of_the_notebook(monkeypatch):
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ipywidgets may not be here: then it is a bar of text
        drawn = bars.bar(range(2), file=io.StringIO())
    assert not drawn.disable and not isinstance(drawn, bars._Lines)
    assert isinstance(drawn, tqdm.auto.tqdm) and list(drawn) == [0, 1]
