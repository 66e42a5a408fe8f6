"""Which cases of a data set are of one patient: by their names, by the challenge's tables, or as a person says.

One patient's scans in two splits make every score too good. Names tell it for the published data sets
(`naming.patient_of`); where they cannot, `notes` says so instead of guessing.
"""

import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tfbrats import files, naming
from tfbrats.command import InputError

# name_mapping.csv of 2019 and 2020, the mappings of 2021 and 2023 saved as CSV, and copies of them.
TABLE = re.compile(r"mapping.*\.csv$", re.IGNORECASE)
_MOST_SCANS = 12  # under one beginning; more of them are a hospital's patients
_COLUMNS = ("case", "patient")


def united(patient_ids: Mapping[str, str], tables: Sequence[str]) -> dict[str, str]:
    """Which cases are of another case's patient, though their own patient id is another.

    Args:
        patient_ids: case id -> `naming.patient_of` it.
        tables: paths of tables with a row a patient and a column of ids for each edition.

    Returns:
        case id -> patient id, of such cases alone.
    """
    same = _Same()
    for patient in sorted(set(patient_ids.values())):
        same.unite([patient, f"person {naming.person_of(patient)}"])
    names = {name.lower(): patient for case_id, patient in patient_ids.items() for name in (case_id, patient)}
    for path in tables:
        for row in _ids_in(path):
            known = {
                names[name.lower()]
                for cell in row
                for name in (cell, naming.patient_of(cell))
                if name.lower() in names
            }
            same.unite(sorted(known))
    first: dict[str, str] = {}
    for patient in sorted(set(patient_ids.values())):
        first.setdefault(same.of(patient), patient)
    of_case = {case_id: first[same.of(patient)] for case_id, patient in patient_ids.items()}
    return {case_id: patient for case_id, patient in of_case.items() if patient != patient_ids[case_id]}


class _Same:
    """Names that belong together."""

    def __init__(self):
        self._above: dict[str, str] = {}

    def of(self, name: str) -> str:
        while (above := self._above.get(name, name)) != name:
            name = above
        return name

    def unite(self, names: Sequence[str]) -> None:
        for name in names[1:]:
            self._above[self.of(name)] = self.of(names[0])


def _ids_in(path: str) -> Iterator[list[str]]:
    """The ids of each row of such a table; nothing of a file that is none."""
    lines = files.read_bytes(path).decode("utf-8-sig", errors="replace").splitlines()
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    try:
        header, *rows = csv.reader(lines or [""], delimiter=delimiter)
    except csv.Error:
        return
    columns = [n for n, name in enumerate(header) if re.search(r"id\b|_id|brats|tcga", name, re.IGNORECASE)]
    for row in rows:
        cells = [row[n].strip() for n in columns if n < len(row)]
        yield [cell for cell in cells if cell not in ("", "NA")]


def notes(patient_of: Mapping[str, str], has_table: bool) -> list[str]:
    """What a person should know before cases are dealt out by patient: what names do not tell, and guesses.

    Args:
        patient_of: case id -> patient.
        has_table: whether a table says which ids of several editions are one patient.
    """
    doubtful, scans = defaultdict(set), defaultdict(set)
    for case_id, patient in patient_of.items():
        if patient != naming.patient_of(case_id):
            continue  # a table or a person named the patient
        if beginning := naming.scan_of(case_id):
            doubtful[beginning] |= {case_id} | ({beginning} & patient_of.keys())
        elif patient != case_id and not naming.is_published(case_id):
            scans[patient] |= {case_id} | ({patient} & patient_of.keys())
    return [*_of_doubtful(doubtful.values()), *_of_scans(scans.values()), *_of_editions(patient_of, has_table)]


def _of_doubtful(groups: Iterable[set[str]]) -> Iterator[str]:
    groups = sorted(sorted(ids) for ids in groups if 2 <= len(ids) <= _MOST_SCANS)
    if groups:
        more = f" (and {len(groups) - 1} more such groups)" if len(groups) > 1 else ""
        yield (
            f"names do not tell whether {_some(groups[0])}{more} are patients or scans of one patient; each "
            "is taken as a patient. If they are scans, say so with --patients FILE, a CSV of case,patient, or "
            "deal the cases out yourself with --splits FILE."
        )


def _of_scans(groups: Iterable[set[str]]) -> Iterator[str]:
    groups = sorted(sorted(ids) for ids in groups if len(ids) > 1)
    if groups:
        more = f", and so {len(groups) - 1} more patients" if len(groups) > 1 else ""
        yield (
            f"{_some(groups[0])} are taken for scans of one patient, by their names{more}. If they are not, "
            "pass --patients FILE, a CSV of case,patient."
        )


def _of_editions(case_ids: Iterable[str], has_table: bool) -> Iterator[str]:
    years = set()
    for case_id in case_ids:
        if match := re.match(r"brats(1[789]|20|2021)_|brats-gli-", case_id, re.IGNORECASE):
            # The names of 2021 and of the later ones are told by number.
            years.add(f"20{match.group(1)}" if match.group(1) not in (None, "2021") else "2021 or later")
    if len(years) > 1 and years != {"2018", "2019"} and not has_table:
        yield (
            f"cases of BraTS {', '.join(sorted(years))}: later editions hold patients of earlier ones under "
            "other names. Put the challenge's name_mapping.csv beside them: no patient may be in two splits."
        )


def _some(ids: Sequence[str]) -> str:
    return " and ".join(ids) if len(ids) < 4 else f"{', '.join(ids[:3])} and {len(ids) - 3} more"


def read(path: str | os.PathLike, case_ids: Iterable[str]) -> dict[str, str]:
    """Which patient each case is of, as a CSV file with the columns case and patient says.

    Returns:
        case id -> patient, of those of `case_ids` that the file names.

    Raises:
        InputError: no such file or columns, a case named twice with two patients, or no case of these in it.
    """
    lines = files.read_text(path).splitlines()
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if any(cell.strip() for cell in row)]
    header = [name.lower() for name in rows[0]] if rows else []
    if not set(_COLUMNS) <= set(header):
        raise InputError(f"{path}: expected a CSV file whose first line is case,patient; found {lines[:1]}.")
    columns = [header.index(name) for name in _COLUMNS]
    patients: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) <= max(columns) or not all(row[n] for n in columns):
            raise InputError(f"{path}: row {number} is {','.join(row)!r}; expected a case and its patient.")
        case_id, patient = (row[n] for n in columns)
        if patients.setdefault(case_id, patient) != patient:
            raise InputError(
                f"{path}: {case_id} is of {patients[case_id]} and of {patient}. Keep one of the rows."
            )
    known = {case_id: patients[case_id] for case_id in case_ids if case_id in patients}
    if not known:
        raise InputError(f"{path}: names none of the cases, but e.g. {', '.join(list(patients)[:3])}.")
    return known
