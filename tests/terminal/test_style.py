"""Colour where a screen has it and the person wants it."""

import io

import pytest

from tfbrats.terminal import style


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_the_first_word_alone_is_painted_at_a_terminal():
    assert style.error("error: no x: y", Screen()) == "\x1b[31merror:\x1b[0m no x: y"
    assert style.note("x is y", Screen()) == "\x1b[33mnote:\x1b[0m x is y"
    assert style.following("tfbrats export", Screen()) == "\x1b[32mnext:\x1b[0m tfbrats export"


@pytest.mark.parametrize(
    ("stream", "environment", "painted"),
    [
        (io.StringIO, {}, False),
        (Screen, {"NO_COLOR": "1"}, False),
        (Screen, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (Screen, {"NO_COLOR": ""}, True),  # https://no-color.org: present and not empty
        (Screen, {"TERM": "dumb"}, False),
        (io.StringIO, {"FORCE_COLOR": "1"}, True),
    ],
)
def test_who_has_colours(monkeypatch, stream, environment, painted):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert style.has_colours(stream()) is painted
    assert (style.warning("x", stream()) == "WARNING: x") is not painted
