"""Numbers, sentences and tables as a person reads them: "2 faults", "1.4 GiB", wrapped lines, columns."""

import textwrap
from collections.abc import Callable, Iterable, Sequence

COLUMNS = 110  # of the terminal
_NAMED = 3  # of things with one fault


def counted(number: int, noun: str) -> str:
    """E.g. "1 fault" and "2 faults"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def grouped(faults: Iterable[str], noun_of: Callable[[str], str] = lambda _: "file") -> list[str]:
    """Faults "NAME: TEXT"; those with one text as one, of two lines: "6 files: TEXT", and their names.

    Args:
        noun_of: what a name is of.
    """
    names_of: dict[str, list[str]] = {}
    for fault in faults:
        name, colon, text = fault.partition(": ")
        names_of.setdefault(text if colon else fault, []).append(name if colon else "")
    lines = []
    for text, names in names_of.items():
        if len(names) == 1 or not all(names):
            lines += [f"{name}: {text}" if name else text for name in names]
            continue
        more = f" and {len(names) - _NAMED} more" if names[_NAMED:] else ""
        lines.append(f"{counted(len(names), noun_of(names[0]))}: {text}\n  {', '.join(names[:_NAMED])}{more}")
    return lines


def in_units(size: float) -> str:
    """Bytes in the unit that fits: "1.4 GiB"."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30)):
        if size >= factor / 2:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 2**20:.1f} MiB"


def in_time(seconds: float) -> str:
    """How long something takes, as roughly as it is known: "40 s", "12 min", "3.5 h", "4 days"."""
    for unit, factor, enough in (("days", 86400.0, 2), ("h", 3600.0, 1.5), ("min", 60.0, 0.9)):
        if seconds >= enough * factor:
            number = seconds / factor
            return f"{number:.1f} {unit}" if number < 10 and unit != "min" else f"{number:.0f} {unit}"
    return f"{max(1, round(seconds))} s"


def wrapped(sentence: str, indent: int = 0) -> str:
    """Lines of at most 110 columns, all but the first indented."""
    return textwrap.fill(
        sentence, COLUMNS, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )


def columns(rows: Iterable[Sequence[object]], layout: Sequence[str]) -> list[str]:
    """A table as lines, its cells one below the other.

    Args:
        rows: of cells. A row may end before the others do.
        layout: what stands before each column, its side and its width. "  >10" is two blanks, to the right, 10
            characters. Without a width, a column is as wide as its widest cell. Without a side ("  "), its
            cells stay as they are. A cell that is wider than its column moves what follows it.
    """
    texts = [[str(cell) for cell in row] for row in rows]
    forms = []
    for n, column in enumerate(layout):
        form = column.lstrip(" ")
        width = max((len(row[n]) for row in texts if n < len(row)), default=0) if form in ("<", ">") else ""
        forms.append((column.removesuffix(form), f"{form}{width}"))
    return [
        "".join(f"{blanks}{cell:{form}}" for cell, (blanks, form) in zip(row, forms[: len(row)], strict=True))
        for row in texts
    ]
