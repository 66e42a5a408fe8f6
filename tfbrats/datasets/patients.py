"""Which cases of a data set are of one patient: by their names, by the challenge's tables, or as a person says.

One patient's scans in two splits make every score too good. Names tell it for the published data sets
(`case_names.patient_of`); where they cannot, `notes` says so instead of guessing.
"""

import argparse
import difflib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tfbrats.datasets import case_names, id_tables
from tfbrats.errors import InputError
from tfbrats.machine import paths

# name_mapping.csv of 2019 and 2020, the mappings of 2021 and 2023 saved as CSV, and copies of them.
TABLE = re.compile(r"mapping.*\.(?:csv|tsv|xlsx?)$", re.IGNORECASE)
_MOST_SCANS = 12  # under one beginning; more of them are a hospital's patients
_FEW = range(2, 6)  # members of a beginning that has no number, or whose ends are no counts
_COLUMNS = ("case", "patient")
_AFTER_2020 = "2021 or later"  # whose names are told by number

# Collections that hold some of the same people under other names, by their ids.
_EDITIONS = {
    **{f"20{year}": re.compile(rf"brats{year}_", re.IGNORECASE) for year in (17, 18, 19, 20)},
    _AFTER_2020: re.compile(r"brats2021_|brats-gli-", re.IGNORECASE),
}
_OF_THE_CHALLENGE = {
    **_EDITIONS,
    "MSD Task01": re.compile(r"BRATS_\d{3}(?!\d)"),
    "FeTS": re.compile(r"fets_?(?:20)?2\d_", re.IGNORECASE),
    "BraTS-Reg": re.compile(r"bratsreg_", re.IGNORECASE),
    "BraTS-GoAT": re.compile(r"brats-goat-", re.IGNORECASE),
}
_SOURCES = {  # collections that the challenge took people from
    "UPenn-GBM": re.compile(r"upenn-gbm-", re.IGNORECASE),
    "UCSF-PDGM": re.compile(r"ucsf-pdgm-", re.IGNORECASE),
    "TCGA-GBM/LGG": re.compile(r"tcga-", re.IGNORECASE),
    "CPTAC-GBM": re.compile(r"c3[ln]-\d{5}", re.IGNORECASE),
}
_IN_TABLES = {*_EDITIONS, "TCGA-GBM/LGG"}  # name_mapping.csv and its like have columns for these
_TOLD_BY_NAMES = frozenset(("2018", "2019"))  # hospital and number stayed


@dataclass(frozen=True)
class Links:
    """What tables of ids tell of a data set.

    Attributes:
        collections: pairs of collections for which some row names ids of both.
        notes: tables from which nothing could be read.
        workbooks: tables that are not read and are not there as CSV too, e.g. BraTS21-17_Mapping.xlsx.
    """

    collections: frozenset[frozenset[str]] = frozenset()
    notes: tuple[str, ...] = ()
    workbooks: tuple[str, ...] = ()

    def with_rows(self, rows: Iterable[Sequence[str]]) -> "Links":
        """These, and the pairs of collections that rows of ids name."""
        pairs = {pair for row in rows for pair in _pairs(collections_of(row))}
        return Links(self.collections | pairs, self.notes, self.workbooks)


def add_argument(parser: argparse.ArgumentParser) -> None:
    """`--patients`, the same for every command that deals out cases or looks at a split."""
    parser.add_argument(
        "--patients", type=paths.argument, metavar="FILE", help="CSV of case,patient, where names do not tell"
    )


def collections_of(case_ids: Iterable[str]) -> set[str]:
    """The collections, of those that share people, that ids are of."""
    patterns = (_OF_THE_CHALLENGE | _SOURCES).items()
    return {name for case_id in case_ids for name, pattern in patterns if pattern.match(case_id)}


def _pairs(names: Iterable[str]) -> set[frozenset[str]]:
    names = sorted(names)
    return {frozenset((a, b)) for n, a in enumerate(names) for b in names[n + 1 :]}


def united(patient_ids: Mapping[str, str], tables: Sequence[str]) -> tuple[dict[str, str], Links]:
    """Which cases are of another case's patient, though their own patient id is another.

    Args:
        patient_ids: case id -> `case_names.patient_of` it.
        tables: paths of tables with a row a patient and a column of ids for each edition.

    Returns:
        case id -> patient id, of such cases alone; and what else the tables tell.
    """
    same = _Same()
    for patient in sorted(set(patient_ids.values())):
        same.unite([patient, f"person {case_names.person_of(patient)}"])
    patient_named = {
        name.lower(): patient for case_id, patient in patient_ids.items() for name in (case_id, patient)
    }
    workbooks = [path for path in tables if id_tables.is_workbook(path)]
    texts = [path for path in tables if path not in workbooks]
    links, unread = Links(), []
    for path in texts:
        rows = _ids_in(path)
        links = links.with_rows(rows)
        names_of_rows = [{name for cell in row for name in (cell, case_names.patient_of(cell))} for row in rows]
        for names in names_of_rows:
            same.unite(sorted({patient_named[name.lower()] for name in names if name.lower() in patient_named}))
        all_names = set().union(*names_of_rows)
        if not collections_of(all_names) and not any(name.lower() in patient_named for name in all_names):
            unread.append(
                f"{path}: no case id is read from it, so it tells nobody's names. If it is to, save it as CSV "
                "(UTF-8) with a row for each patient and a column of ids for each edition."
            )
    first: dict[str, str] = {}
    for patient in sorted(set(patient_ids.values())):
        first.setdefault(same.of(patient), patient)
    of_case = {case_id: first[same.of(patient)] for case_id, patient in patient_ids.items()}
    others = {case_id: patient for case_id, patient in of_case.items() if patient != patient_ids[case_id]}
    saved_as_text = {os.path.splitext(path)[0] for path in texts}
    unsaved = [path for path in workbooks if os.path.splitext(path)[0] not in saved_as_text]
    return others, Links(links.collections, tuple(unread), tuple(unsaved))


class _Same:
    """Groups of names that are one person's."""

    def __init__(self):
        self._above: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The name that stands for the group."""
        while (above := self._above.get(name, name)) != name:
            name = above
        return name

    def unite(self, names: Sequence[str]) -> None:
        """Puts names, with their groups, into one group."""
        for name in names[1:]:
            self._above[self.of(name)] = self.of(names[0])


def _ids_in(path: str) -> list[list[str]]:
    """The ids of each row of such a table; nothing of a file that is none."""
    try:
        rows = id_tables.read(path).rows
    except InputError:
        return []
    widest = max(map(len, rows), default=0)
    columns = [n for n in range(widest) if _is_of_ids([row[n] for row in rows if n < len(row)])]
    ids = [[row[n] for n in columns if n < len(row)] for row in rows]
    return [[cell for cell in cells if cell not in ("", "NA")] for cells in ids]


def _is_of_ids(column: Sequence[str]) -> bool:
    is_named_so = re.search(r"id\b|_id|brats|tcga", column[0], re.IGNORECASE)
    return bool(is_named_so) or any(collections_of([cell]) for cell in column)


def by_names(case_ids: Iterable[str]) -> dict[str, str]:
    """Case id -> patient, by names alone; a person with two names in two editions goes by the first."""
    first: dict[str, str] = {}
    patients = ((case_id, case_names.patient_of(case_id)) for case_id in case_ids)
    return {case_id: first.setdefault(case_names.person_of(patient), patient) for case_id, patient in patients}


def notes(patient_of: Mapping[str, str], links: Links) -> list[str]:
    """What a person should know before cases are dealt out by patient: what names do not tell, and guesses.

    Args:
        patient_of: case id -> patient.
        links: what tables tell, of `united`.
    """
    doubtful, scans, alike = defaultdict(set), defaultdict(set), defaultdict(set)
    for case_id, patient in patient_of.items():
        if patient != case_names.patient_of(case_id):
            continue  # a table or a person named the patient
        if patient != case_id and not case_names.is_published(case_id):
            scans[patient] |= {case_id} | ({patient} & patient_of.keys())
        if beginning := case_names.scan_of(case_id):
            doubtful[beginning] |= {case_id} | ({beginning} & patient_of.keys())
        for beginning in case_names.beginnings_of(case_id):
            alike[beginning.lower()] |= {case_id} | ({beginning} & patient_of.keys())
    few = [ids for ids in alike.values() if len(ids) in _FEW and len(ids) < len(patient_of)]
    doubted = [frozenset(ids) for ids in doubtful.values() if 2 <= len(ids) <= _MOST_SCANS]
    return [
        *_of_doubtful({*doubted, *map(frozenset, few)}),
        *_of_scans(scans.values()),
        *_of_collections(patient_of, links),
        *links.notes,
    ]


def _of_doubtful(groups: Iterable[frozenset[str]]) -> Iterator[str]:
    groups = sorted(map(sorted, groups))
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


def _of_collections(case_ids: Iterable[str], links: Links) -> Iterator[str]:
    linked = links.collections | {_TOLD_BY_NAMES}
    unlinked = {
        pair for pair in _pairs(collections_of(case_ids)) if pair - _SOURCES.keys() and pair not in linked
    }
    names = {name for pair in unlinked for name in pair}
    if not names:
        return
    years = sorted(names & _EDITIONS.keys())
    texts = [*([f"BraTS {', '.join(years)}"] if years else []), *sorted(names - _EDITIONS.keys())]
    if names == set(years):
        why = "later editions hold patients of earlier ones under other names"
    else:
        why = "these collections hold some of the same people under other names"
    if not any(pair <= _IN_TABLES for pair in unlinked):
        cure = "No table of the challenge tells who they are"
    elif workbooks := ", ".join(links.workbooks):
        cure = f"Save {workbooks} as CSV beside it, as a workbook is not read"
    else:
        cure = "Put the challenge's name_mapping.csv (or its newer mapping, saved as CSV) beside them"
    yield (
        f"cases of {', '.join(texts)}: {why}. {cure}; what no table tells, --patients FILE does, a CSV of "
        "case,patient: no patient may be in two splits."
    )


def _some(ids: Sequence[str]) -> str:
    return " and ".join(ids) if len(ids) < 4 else f"{', '.join(ids[:3])} and {len(ids) - 3} more"


def named(
    path: str | os.PathLike, patient_of: Mapping[str, str]
) -> tuple[dict[str, str], list[list[str]], list[str]]:
    """Which patient cases are of, as a table with the columns case and patient says.

    A case that the file does not name goes with the case of its patient (by names and tables) that it names.

    Args:
        patient_of: case id -> patient by names and tables, of the cases there are.

    Returns:
        case id -> patient, of those that the file decides; the case ids of each of its patients; notes.

    Raises:
        InputError: no such file or columns, a case named twice with two patients, no case of these in it, or
            it puts cases of one patient apart and leaves out another of them.
    """
    rows = _read(path)
    patients = {case_id: patient for case_id, patient in rows.items() if case_id in patient_of}
    if not patients:
        raise InputError(f"{path}: names none of the cases, but {_some(_meant(list(rows), patient_of))}.")
    strange = [case_id for case_id in rows if case_id not in patients]
    notes = [f"{path}: there is no case {_some(_meant(strange, patient_of))}"] if strange else []
    by_names, torn, joined = defaultdict(set), [], []
    for case_id, patient in patients.items():
        by_names[patient_of[case_id]].add(patient)
    decided = dict(patients)
    for case_id in sorted(patient_of.keys() - patients.keys()):
        of_others = sorted(by_names.get(patient_of[case_id], ()))
        if len(of_others) > 1:
            torn.append(f"{case_id} (of {' or of '.join(of_others)}?)")
        elif of_others:
            decided[case_id] = of_others[0]
            joined.append(case_id)
    if torn:
        raise InputError(
            f"{path}: puts scans apart that are one patient's by their names, and does not name {_some(torn)}. "
            "Name all of such a patient's scans."
        )
    if joined:
        own = f"{joined[0]} is taken for {decided[joined[0]]}'s"
        notes.append(f"{path}: does not name {_some(joined)}; by its name and that of a case there, {own}")
    if left := sorted(patient_of.keys() - decided.keys()):
        notes.append(f"{path}: does not name {_some(left)}; their names decide")
    if apart := [patient for patient, several in by_names.items() if len(several) > 1]:
        notes.append(f"{path}: puts scans apart that are one patient's by their names: {_some(sorted(apart))}")
    members = defaultdict(list)
    for case_id, patient in decided.items():
        members[patient].append(case_id)
    return decided, list(members.values()), notes


def _meant(strange: Sequence[str], case_ids: Iterable[str]) -> list[str]:
    """Ids that no case has; behind the first three the nearest that one has, as most are slips of the pen."""
    case_ids, texts = list(case_ids), []
    for name in strange[:3]:
        nearest = difflib.get_close_matches(name, case_ids, 1, 0.75)
        texts.append(f"{name} (is {nearest[0]} meant?)" if nearest else name)
    return [*texts, *strange[3:]]


def _read(path: str | os.PathLike) -> dict[str, str]:
    """Case id -> patient, of every row of such a file."""
    rows = id_tables.read(path).rows
    header = [name.lower() for name in rows[0]] if rows else []
    if not set(_COLUMNS) <= set(header):
        raise InputError(
            f"{path}: expected a CSV file whose first line is case,patient; found {','.join(header)[:60]!r}."
        )
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
    return patients
