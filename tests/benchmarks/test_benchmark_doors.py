"""The benchmark of the doors: every command is asked, and a figure is of the answer that was meant."""

import json
import pathlib

import pytest

from tfbrats.errors import InputError
from tfbrats.terminal import verbs


@pytest.fixture
def doors(benchmark):
    return benchmark("doors")


def test_every_command_has_its_slip(doors):
    assert list(doors.SLIPS) == [verb.word for verb in verbs.VERBS]


def test_the_table_shows_each_door_the_largest_and_the_peer(doors, tmp_path, capsys):
    doors.main(
        [
            "--words",
            "check,runs",
            "--peers",
            "pip --help",
            "--rounds",
            "1",
            "--json",
            str(tmp_path / "doors.json"),
        ]
    )
    figures = json.loads((tmp_path / "doors.json").read_text())
    assert list(figures) == ["check", "runs", "peers"]
    assert all(list(figures[word]) == list(doors.DOORS) for word in ("check", "runs"))
    assert all(seconds > 0 for of_doors in figures.values() for seconds in of_doors.values())
    heads, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heads == ["CPU", "seconds", "--help", "a", "flag", "a", "value"]
    assert [row[0] for row in rows[:3]] == ["check", "runs", "largest"] and rows[-1][:2] == ["pip", "--help"]
    largest = [f"{max(figures['check'][door], figures['runs'][door]):.2f}" for door in doors.DOORS]
    assert rows[2][1:] == largest and set(rows[3]) <= {"check", "runs"}


def test_what_ends_otherwise_than_meant_gives_no_figure(doors, tmp_path):
    for code, is_refused in (("pass", True), ("raise SystemExit(2)", False), ("1 / 0", True)):
        with pytest.raises(InputError, match="ended with exit code"):
            doors.cpu_seconds(("-c", code), pathlib.Path(tmp_path), is_refused)
    assert doors.cpu_seconds(("-c", "raise SystemExit(2)"), tmp_path, True) > 0


def test_a_command_that_is_none_is_refused(doors, capsys):
    with pytest.raises(SystemExit):
        doors.main(["--words", "trian"])
    assert "trian: expected demo, inspect" in capsys.readouterr().err


@pytest.mark.slow
def test_every_slip_is_refused(doors):
    assert len(doors.measured(list(doors.SLIPS), [], 1)) == len(verbs.VERBS)
