"""Which cases are of high and of low grade: by the folder that they lie in, or by name_mapping.csv."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tfbrats.datasets import id_tables
from tfbrats.datasets.id_tables import TableError
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
    of_tables: dict[str, set[str]] = defaultdict(set)
    id_of = {case_id.lower(): case_id for case_id in cases}
    for path in listing:
        if _NAME_TABLE.match(files.name(path)):
            for case_id, grade in _grades_in(path, id_of, notes):
                of_tables[case_id].add(grade)
    grades = {}
    strange = defaultdict(list)
    for case_id, path in cases.items():
        of_folder, of_table = by_folder(path), sorted(of_tables[case_id])
        if len(of_table) == 1 and of_table[0] in GRADES:
            grades[case_id] = of_table[0]
        taken = of_folder or grades.get(case_id)
        if of_table and of_table != [taken]:
            by = f"{taken}, as its folder says" if of_folder else "unknown"
            strange[f"grade {' and '.join(of_table)} in name_mapping.csv; taken as {by}"].append(case_id)
    for what, ids in strange.items():
        notes.append(f"{ids[0]}{f' and {len(ids) - 1} more' if ids[1:] else ''}: {what}")
    return grades


def _grades_in(path: str, id_of: Mapping[str, str], notes: list[str]) -> Iterator[tuple[str, str]]:
    """(case id, grade) of each cell that names a case; a table that cannot be used is noted.

    Args:
        id_of: case id in small letters -> case id.
    """
    try:
        table = id_tables.read(path)
    except TableError as error:
        notes.append(f"{path}: {error.fault}; no grade is taken from it")
        return
    header, rows = (table.rows[0], table.rows[1:]) if table.rows else ([], [])
    column = next((n for n, name in enumerate(header) if "grade" in name.lower()), None)
    if column is None:
        notes.append(f"{path}: has no column Grade, but {table.delimiter.join(header)[:80]!r}; not used")
        return
    for row in rows:
        grade = row[column].upper() if column < len(row) else ""
        for cell in row if grade not in ("", "NA") else ():
            if cell.lower() in id_of:
                yield id_of[cell.lower()], grade
