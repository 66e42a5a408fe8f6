"""Numbers and sentences as a person reads them: "2 faults", "1.4 GiB", wrapped lines."""

import textwrap

COLUMNS = 110  # of the terminal


def counted(number: int, noun: str) -> str:
    """E.g. "1 fault" and "2 faults"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def in_units(size: float) -> str:
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30)):
        if size >= factor / 2:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 2**20:.1f} MiB"


def wrapped(sentence: str, indent: int = 0) -> str:
    """Lines of at most 110 columns, all but the first indented."""
    return textwrap.fill(
        sentence, COLUMNS, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )
