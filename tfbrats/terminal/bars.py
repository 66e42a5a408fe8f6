"""Progress as a person can read it: a bar in a terminal and in a notebook, a line a minute anywhere else.

A bar stays whole in a terminal that says it is 0 columns wide (some containers and CI systems do).
"""

import io
import os
import sys
import warnings
from collections.abc import Iterable

from tqdm import tqdm

COLUMNS, _ROWS = 100, 24  # where the terminal does not say
_SECONDS = 60.0  # from line to line, where there is no terminal


class _Lines(tqdm):
    """A line a minute: "cases: 12 of 40, about 05:10 left"."""

    def __init__(self, *args, **kwargs):
        kwargs |= {"mininterval": _SECONDS, "maxinterval": _SECONDS, "miniters": 1, "delay": _SECONDS}
        super().__init__(*args, **kwargs | {"leave": False, "bar_format": None})

    def display(self, msg=None, pos=None):
        if msg is None and pos is None and self.n:  # else it is being wiped out
            now = self.format_dict
            left = ""
            if now["n"] < (now["total"] or 0):
                seconds = (now["total"] - now["n"]) * now["elapsed"] / max(now["n"] - now["initial"], 1e-9)
                left = f", about {self.format_interval(seconds)} left"
            numbers = [
                tqdm.format_sizeof(number, "", self.unit_divisor) if self.unit_scale else f"{number:g}"
                for number in (now["n"], now["total"])
                if number
            ]
            what = self.desc.removesuffix(": ") or f"{self.unit}s"
            more = f", {self.postfix}" if self.postfix else ""
            print(f"{what}: {' of '.join(numbers)}{left}{more}", file=self.fp, flush=True)
        return True

    def clear(self, nolock=False):
        pass

    def close(self):
        self.fp = io.StringIO()  # a carriage return is written at the end, which no log wants
        super().close()


def bar(items: Iterable | None = None, hidden: bool | None = None, **options) -> tqdm:
    """A bar over `items`, or over what `update` is called for.

    Args:
        hidden: True shows nothing at all.
        options: of tqdm: total, desc, unit, initial, leave, bar_format, ...
    """
    if hidden:
        return tqdm(items, disable=True, **options)
    if _in_notebook():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ipywidgets that are not there: then it is a bar of characters
            from tqdm.auto import tqdm as of_the_notebook

        return of_the_notebook(items, **options)
    if not is_terminal():
        return _Lines(items, **options)
    size = {"dynamic_ncols": True} if _columns_known() else {"ncols": COLUMNS, "nrows": _ROWS}
    return tqdm(items, **size | options)


def write(text: str, file=None) -> None:
    """A line that leaves the bars whole."""
    if is_terminal() or _in_notebook():
        tqdm.write(text, file=file)
    else:  # there is no bar to be drawn again below it
        print(text, file=file or sys.stdout, flush=True)


def is_terminal() -> bool:
    """Whether bars are drawn for a person at a terminal."""
    return bool(getattr(sys.stderr, "isatty", bool)())


def _in_notebook() -> bool:
    """Jupyter's kernel has no terminal, and shows bars of its own kind."""
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def _columns_known() -> bool:
    try:
        return min(os.get_terminal_size(sys.stderr.fileno())) > 0
    except (OSError, ValueError):  # no terminal
        return False
