"""Volumes of the tumour's regions in ml: a line for the screen, and volumes.csv in a folder of results.

    case_id,WT_ml,TC_ml,ET_ml
    BraTS20_Training_001,5.120,1.432,0.911

The table has a row for each segmentation that the folder holds and that was asked for once; a second run keeps
the rows of cases that it keeps. It is replaced whole with each case; commands that share the folder take turns.
"""

import contextlib
import csv
import io
import os
import threading
from collections.abc import Iterator, Mapping, Sequence

from tfbrats import labels
from tfbrats.cases import case
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.errors import InputError
from tfbrats.machine import files, locks
from tfbrats.predictions import model_card, results
from tfbrats.predictions.results import Attempt, Target

FILE = results.VOLUMES
_COLUMNS = ("case_id", *(f"{region}_ml" for region in labels.REGIONS))
_DECIMALS = 3  # a voxel of 1 mm is 0.001 ml

Volumes = Mapping[str, float]  # region -> ml


def line(case_id: str, volumes: Volumes) -> str:
    """E.g. "BraTS20_Training_001: WT 5.1 ml, TC 1.4 ml, ET 0.9 ml"."""
    return f"{case_id}: {', '.join(f'{region} {ml:.1f} ml' for region, ml in volumes.items())}"


def read(folder: str | os.PathLike) -> dict[str, list[str]]:
    """Case id -> the numbers of its row in a folder's table; {} without one.

    Raises:
        InputError: a file of that name lies there that is none.
    """
    path = files.join(folder, FILE)
    if not files.exists(path):
        return {}
    lines = [row for row in csv.reader(io.StringIO(files.read_text(path))) if row]
    if not lines or tuple(lines[0]) != _COLUMNS or {len(row) for row in lines} != {len(_COLUMNS)}:
        raise InputError(
            f"{path}: no table of volumes ({', '.join(_COLUMNS)}), which would be written there. "
            "Move it, or choose another --output."
        )
    return {case_id: numbers for case_id, *numbers in lines[1:]}


def told(case_id: str, attempt: Attempt, table: "Table | None") -> str:
    """Puts a case that was done into the table, if there is one; gives the lines that say what came of it."""
    measured = case.volumes_ml(attempt.found.tissues, attempt.case.spacing_mm)
    if table is not None:
        table.add(case_id, measured)
    lines = [line(case_id, measured)]
    if attempt.found.tiles is not None:
        lines.append(f"{case_id}: {model_card.tiles_line(attempt.found.tiles)}")
    return "\n".join(lines)


class Table:
    """volumes.csv of a folder of results, once `results.prepare` has made way in it. Threads may share it.

    Args:
        redone: ids of cases whose rows are out of date from now on.

    Raises:
        InputError: a file of that name lies there that is none.
    """

    def __init__(self, folder: str | os.PathLike, redone: Sequence[str] = ()):
        self._folder = os.fspath(folder)
        self._lock = threading.Lock()
        self.path = files.join(folder, FILE)
        if self._kept(redone) != self._read():
            with self._in_turn():
                self._write(self._kept(redone))

    def add(self, case_id: str, volumes: Volumes) -> None:
        """Puts a case's row in, beside those that another command may have put there meanwhile."""
        with self._in_turn():
            self._write({**self._read(), case_id: [f"{ml:.{_DECIMALS}f}" for ml in volumes.values()]})

    def complete(self, done: Sequence[tuple[CaseFiles, Target]]) -> list[str]:
        """Measures the segmentations that have no row: of an older version, or of a command that was killed.

        Returns:
            notes on those that cannot be read.
        """
        rows, notes = self._read(), []
        for entry, target in done:
            if entry.case_id in rows:
                continue
            try:
                tissues, grid = case.load_label(target.segmentation, entry.schema)
            except InputError as error:
                notes.append(f"not in {FILE}: {error}")
            else:
                self.add(entry.case_id, case.volumes_ml(tissues, grid.spacing_mm))
        return notes

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        """For reading, changing and writing the table. In a store commands do not wait for each other: a row
        that one loses is put in by `complete`.
        """
        with self._lock, locks.in_turn(files.join(self._folder, f".{FILE}.lock")):
            yield

    def _kept(self, redone: Sequence[str]) -> dict[str, list[str]]:
        return {
            case_id: row
            for case_id, row in self._read().items()
            if case_id not in redone and self._is_there(case_id)
        }

    def _is_there(self, case_id: str) -> bool:
        return files.exists(files.join(self._folder, f"{case_id}.nii.gz"))

    def _read(self) -> dict[str, list[str]]:
        return read(self._folder)

    def _write(self, rows: Mapping[str, Sequence[str]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows([case_id, *rows[case_id]] for case_id in sorted(rows))
        files.write_bytes(self.path, text.getvalue().encode())
