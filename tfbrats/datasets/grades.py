"""Which cases are of high and of low grade: by the folder that they lie in, or by name_mapping.csv."""

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from tfbrats.machine import files

GRADES = ("HGG", "LGG")  # high and low: folders of 2017-2019, a column of name_mapping.csv in 2019 and 2020
# Also name_mapping_validation_data.csv, and copies of it.
_NAME_TABLE = re.compile(r"name_mapping.*\.csv$", re.IGNORECASE)


def by_folder(path: str) -> str | None:
    """The innermost grade among the folders of a case's file, or None."""
    folders = re.findall(rf"/({'|'.join(GRADES)})(?=/)", path)
    return folders[-1] if folders else None


def by_tables(listing: Sequence[str], cases: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """Case id -> grade by tables that have a column Grade and the ids of one patient in several editions.

    Which column names the case does not matter, as ids of different editions differ.

    Args:
        listing: all files of the data set, the tables among them.
        cases: case id -> one of its files.
        notes: takes what is strange.
    """
    case_ids = {case_id.lower(): case_id for case_id in cases}
    named: dict[str, set[str]] = defaultdict(set)
    for path in listing:
        if not _NAME_TABLE.match(files.name(path)):
            continue
        lines = files.read_bytes(path).decode(errors="replace").splitlines()
        delimiter = max(",;\t", key=lines[0].count) if lines else ","
        try:
            header, *rows = csv.reader(lines or [""], delimiter=delimiter)
        except csv.Error as error:
            notes.append(f"{path}: cannot be read as a table ({error}); no grade is taken from it")
            continue
        column = next((n for n, name in enumerate(header) if "grade" in name.lower()), None)
        if column is None:
            notes.append(f"{path}: has no column Grade, but {delimiter.join(header)[:80]!r}; not used")
            continue
        for row in rows:
            grade = row[column].strip().upper() if column < len(row) else ""
            for cell in row if grade not in ("", "NA") else ():
                if cell.strip().lower() in case_ids:
                    named[case_ids[cell.strip().lower()]].add(grade)
    grades = {}
    strange = defaultdict(list)
    for case_id, path in cases.items():
        of_folder, of_table = by_folder(path), sorted(named[case_id])
        if len(of_table) == 1 and of_table[0] in GRADES:
            grades[case_id] = of_table[0]
        taken = of_folder or grades.get(case_id)
        if of_table and of_table != [taken]:
            by = f"{taken}, as its folder says" if of_folder else "unknown"
            strange[f"grade {' and '.join(of_table)} in name_mapping.csv; taken as {by}"].append(case_id)
    for what, ids in strange.items():
        notes.append(f"{ids[0]}{f' and {len(ids) - 1} more' if ids[1:] else ''}: {what}")
    return grades
