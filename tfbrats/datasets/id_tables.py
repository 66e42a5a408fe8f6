"""Tables that people and the challenge write ids in: CSV as spreadsheets save it, in any of their dialects."""

import argparse
import contextlib
import csv
import io
import os
import re
from dataclasses import dataclass

from tfbrats.errors import InputError
from tfbrats.machine import files, paths

_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .xls


@dataclass(frozen=True)
class Table:
    """What a file holds.

    Attributes:
        rows: cells stripped, empty rows left out.
        delimiter: that stands between the cells in the file.
    """

    rows: list[list[str]]
    delimiter: str


class TableError(InputError):
    """A file is no such table; `fault` says why, without the file and the cure."""

    def __init__(self, path: str | os.PathLike, fault: str):
        super().__init__(f"{path}: {fault}. Save it as CSV (UTF-8).")
        self.fault = fault


def is_workbook(path: str | os.PathLike) -> bool:
    """Whether the name is that of a spreadsheet program's own format."""
    return re.search(r"\.xlsx?$", files.name(path), re.IGNORECASE) is not None


def add_choice(parser: argparse.ArgumentParser) -> None:
    """--case and --cases: which cases alone, for `chosen` to read."""
    parser.add_argument("--case", action="append", metavar="ID", help="only this case; may be repeated")
    parser.add_argument(
        "--cases", metavar="FILE", help="only these: a file with a case id a line, or ids between commas"
    )


def chosen(options: argparse.Namespace) -> list[str] | None:
    """The cases that --case and --cases name, each once; None where neither was given.

    Raises:
        InputError: --cases names no case, or there is no such file.
    """
    if options.case is None and options.cases is None:
        return None
    of_cases = [] if options.cases is None else case_ids_of(options.cases)
    return list(dict.fromkeys([*(options.case or ()), *of_cases]))


def read(path: str | os.PathLike) -> Table:
    """The rows of a table.

    Read are commas, semicolons and tabs, quoted cells, UTF-8 and UTF-16 (Excel's "Unicode text"), each with a
    mark at its beginning or without, and what is neither as Windows' Western European.

    Raises:
        InputError: no such file.
        TableError: a workbook, or no text.
    """
    text = _text(path)
    separator = re.match(r'"?sep=(.)"?\r?\n', text)  # Excel's own first line
    if separator:
        text = text[separator.end() :]
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = separator.group(1) if separator else max(",;\t", key=first.count)
    try:
        rows = [
            [cell.strip() for cell in row]
            for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        ]
    except csv.Error as error:
        raise TableError(path, f"cannot be read as a table ({error})") from error
    return Table([row for row in rows if any(row)], delimiter)


def _text(path: str | os.PathLike) -> str:
    content = files.read_bytes(path)
    if content.startswith(_WORKBOOKS):
        raise TableError(path, "is a workbook, and no text")
    try:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = content.decode("utf-16")
        elif b"\0" in content[:2]:  # UTF-16 without a mark: ids are plain letters, with a zero for each
            text = content.decode("utf-16-be" if content[:1] == b"\0" else "utf-16-le")
        else:
            text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Never with letters replaced: two patients' names would become one.
        text = content.decode("latin-1")
    if "\0" in text:
        raise TableError(path, "is no text")
    return text


def case_ids_of(text: str, option: str = "--cases") -> list[str]:
    """What an option names: a file with a case id a line, or ids between commas.

    Raises:
        InputError: it names no case, or there is no such file.
    """
    path = ""
    with contextlib.suppress(InputError):  # ids may stand on lines of their own, which is no path
        path = paths.given(text)
    if path and files.is_folder(path):
        raise InputError(f"{option} {text}: a folder; expected a file with a case id a line, or ids.")
    if path and files.exists(path):
        text = files.read_text(path)
    elif path and "," not in text and ("/" in text or text.lower().endswith((".txt", ".csv", ".json"))):
        raise InputError(f"{option} {text}: no such file.")
    # Not at blanks: a patient may be called "P 07".
    case_ids = [case_id for part in re.split(r"[,\r\n]+", text) if (case_id := part.strip())]
    if not case_ids:
        raise InputError(f"{option} names no case; give ids between commas, or a file with one a line.")
    return case_ids
