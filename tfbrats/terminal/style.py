"""Colour of the words that matter, where the screen has colours.

NO_COLOR (https://no-color.org) and TERM=dumb turn it off, FORCE_COLOR turns it on, e.g. in a CI's log.
"""

import os
import sys
from typing import TextIO

_RED, _GREEN, _YELLOW, _BOLD = "31", "32", "33", "1"


def has_colours(stream: TextIO | None = None) -> bool:
    """Whether what is written to `stream` (stdout) may have colours."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") != "dumb" and bool(getattr(stream, "isatty", bool)())


def _painted(text: str, code: str, stream: TextIO | None) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if text and has_colours(stream) else text


def _first_word(text: str, code: str, stream: TextIO | None) -> str:
    """Paints up to the first colon."""
    word, colon, rest = text.partition(":")
    return f"{_painted(word + colon, code, stream)}{rest}"


def error(text: str, stream: TextIO | None = None) -> str:
    """`error: ...`, its first word red."""
    return _first_word(text, _RED, stream)


def note(text: str, stream: TextIO | None = None) -> str:
    """`note: TEXT`, its first word yellow."""
    return _first_word(f"note: {text}", _YELLOW, stream)


def warning(text: str, stream: TextIO | None = None) -> str:
    """`WARNING: TEXT`, its first word yellow."""
    return _first_word(f"WARNING: {text}", _YELLOW, stream)


def following(command_line: str, stream: TextIO | None = None) -> str:
    """`next: COMMAND`, its first word green: what to do when a command has ended."""
    return _first_word(f"next: {command_line}", _GREEN, stream)


def heading(text: str, stream: TextIO | None = None) -> str:
    """Bold."""
    return _painted(text, _BOLD, stream)
