"""Options that evaluate and report share: which folders, which table, which other runs. Loads what is light."""

import argparse

from tfbrats.machine import paths
from tfbrats.scoring import papers


def add_folders(parser: argparse.ArgumentParser) -> None:
    """--prediction and --reference: the folders that are compared."""
    parser.add_argument(
        "--prediction", type=paths.argument, required=True, metavar="DIR", help="folder of CASE.nii.gz"
    )
    parser.add_argument(
        "--reference", type=paths.argument, required=True, metavar="DIR", help="data set, or folder of masks"
    )


def add_table(parser: argparse.ArgumentParser, help_text: str) -> None:
    """--table: of a paper, a key of `papers.TABLES`."""
    parser.add_argument("--table", choices=tuple(papers.TABLES), help=help_text)


def add_compare(parser: argparse.ArgumentParser, help_text: str) -> None:
    """--compare: folders of other runs' scores."""
    parser.add_argument(
        "--compare", type=paths.argument, action="append", default=[], metavar="DIR", help=help_text
    )
