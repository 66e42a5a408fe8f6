"""Options that several commands share: which folders, cases, table, other runs. Loads what is light."""

import argparse
import contextlib
import re

from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.scoring import papers


def add_folders(parser: argparse.ArgumentParser) -> None:
    """--prediction and --reference: the folders that are compared."""
    parser.add_argument(
        "--prediction", type=paths.argument, required=True, metavar="DIR", help="folder of CASE.nii.gz"
    )
    parser.add_argument(
        "--reference", type=paths.argument, required=True, metavar="DIR", help="data set, or folder of masks"
    )


def add_cases(parser: argparse.ArgumentParser) -> None:
    """--case and --cases: which cases alone; `chosen_cases` reads them."""
    parser.add_argument("--case", action="append", metavar="ID", help="only this case; may be repeated")
    parser.add_argument(
        "--cases", metavar="FILE", help="only these: a file with a case id a line, or ids between commas"
    )


def chosen_cases(options: argparse.Namespace) -> list[str] | None:
    """The case ids that --case and --cases name; None where neither was given.

    Raises:
        InputError: --cases names no case, or a file that is not there.
    """
    if options.cases is None and not options.case:
        return None
    of_file = [] if options.cases is None else case_ids_of(options.cases)
    return list(dict.fromkeys((*(options.case or ()), *of_file)))


def case_ids_of(text: str) -> list[str]:
    """What --cases names: a file with a case id a line, or ids between commas.

    Raises:
        InputError: no case, a folder, or a file that is not there.
    """
    path = ""
    with contextlib.suppress(InputError):  # ids may stand on lines of their own, which is no path
        path = paths.given(text)
    if path and files.is_folder(path):
        raise InputError(f"--cases {text}: a folder; expected a file with a case id a line, or ids.")
    if path and files.exists(path):
        text = files.read_text(path)
    elif path and "," not in text and ("/" in text or text.lower().endswith((".txt", ".csv", ".json"))):
        raise InputError(f"--cases {text}: no such file.")
    # Not at blanks: a patient may be called "P 07".
    case_ids = [case_id for part in re.split(r"[,\r\n]+", text) if (case_id := part.strip())]
    if not case_ids:
        raise InputError("--cases names no case; give ids between commas, or a file with one a line.")
    return case_ids


def add_table(parser: argparse.ArgumentParser, help_text: str) -> None:
    """--table: of a paper, a key of `papers.TABLES`."""
    parser.add_argument("--table", choices=tuple(papers.TABLES), help=help_text)


def add_compare(parser: argparse.ArgumentParser, help_text: str) -> None:
    """--compare: folders of other runs' scores."""
    parser.add_argument(
        "--compare", type=paths.argument, action="append", default=[], metavar="DIR", help=help_text
    )
