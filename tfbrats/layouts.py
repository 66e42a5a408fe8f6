"""Recognise the layouts that BraTS data comes in, by folder and file names alone. Opens no image.

Of tables it reads dataset.json, and name_mapping.csv for the grades that no folder tells. Refuses to guess
silently: what was unusual is noted on the case, what was not understood is listed, and finding nothing is an
error that says what was looked for.
"""

import csv
import dataclasses
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tfbrats import files, naming, patients
from tfbrats.command import InputError
from tfbrats.labels import EDITIONS, MODALITIES, LabelSchema, modality_named, schema_from_names

_MASK = "seg"
# 2017 ships some masks under the name of the tool that drew them.
_MASK_SUFFIXES = re.compile(r"_GlistrBoost(_ManuallyCorrected)?$", re.IGNORECASE)
_BRATS_LAYOUT = "BraTS folders: CASE/CASE_{t1,t1ce,t2,flair,seg}.nii[.gz], or -t1n, -t1c, -t2w, -t2f, -seg"
_MSD_LAYOUT = "MSD Task01: imagesTr/CASE.nii.gz (4-D), labelsTr/CASE.nii.gz, dataset.json"
_NNUNET_LAYOUT = "nnU-Net raw: imagesTr/CASE_0000.nii.gz ..., labelsTr/CASE.nii.gz, dataset.json"
LAYOUTS = (_BRATS_LAYOUT, _MSD_LAYOUT, _NNUNET_LAYOUT)
GRADES = ("HGG", "LGG")  # high and low: folders of 2017-2019, a column of name_mapping.csv in 2019 and 2020


@dataclass(frozen=True)
class CaseFiles:
    """Where one case lies: found, not yet read. This is what travels to Beam's workers.

    Attributes:
        images: (modality, path, channel) triples; channel is None for a file of its own, else its place
            in a 4-D file.
        label: path of the expert segmentation, or None.
        label_expected: whether other cases of the set have one.
        notes: what was unusual but understood.
        problems: what is wrong with the names already.
    """

    case_id: str
    patient_id: str
    layout: str
    schema: LabelSchema
    images: tuple[tuple[str, str, int | None], ...]
    label: str | None
    label_expected: bool = False
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def paths(self) -> list[str]:
        return sorted({path for _, path, _ in self.images} | ({self.label} if self.label else set()))


@dataclass(frozen=True)
class Dataset:
    """What `find` found under one folder.

    Attributes:
        table_grades: case id -> grade by name_mapping.csv. Not on the cases themselves, whose fields a shard's
            hash covers: a grade changes no byte of a record.
        patients: case id -> patient, where more than the case's own name tells it; not on the cases either.
        has_patient_table: whether a table of the challenge says which ids of several editions are one patient.
    """

    root: str
    cases: tuple[CaseFiles, ...]
    notes: tuple[str, ...]
    table_grades: Mapping[str, str] = dataclasses.field(default_factory=dict)
    patients: Mapping[str, str] = dataclasses.field(default_factory=dict)
    has_patient_table: bool = False

    @property
    def layouts(self) -> list[str]:
        return sorted({case.layout for case in self.cases})

    @property
    def editions(self) -> list[str]:
        return sorted({case.schema.edition for case in self.cases})

    @property
    def patient_of(self) -> dict[str, str]:
        """Case id -> patient. No patient may be in two splits."""
        return {case.case_id: self.patients.get(case.case_id, case.patient_id) for case in self.cases}

    def with_patients(self, path: str | os.PathLike | None) -> "Dataset":
        """The same cases, with the patients that a file names (`patients.read`); itself for None."""
        if path is None:
            return self
        named = patients.read(path, [case.case_id for case in self.cases])
        left = sorted(self.patient_of.keys() - named.keys())
        note = f"{path}: does not name {', '.join(left[:3])}{' and more' * (len(left) > 3)}; their names decide"
        notes = (*self.notes, note) if left else self.notes
        return dataclasses.replace(self, patients={**self.patients, **named}, notes=notes)

    def grade_of(self, one: CaseFiles) -> str | None:
        """One of `GRADES` by the folder that a case lies in, else by a table; None if neither tells."""
        return _folder_grade(one) or self.table_grades.get(one.case_id)


def find(root: str | os.PathLike, edition: str | None = None) -> Dataset:
    """Every case under `root`, by names alone; no image is opened.

    Args:
        root: a data set, one case's folder, or any folder above; local, gs:// or memory://.
        edition: overrides what the names say, e.g. "2024".

    Raises:
        InputError: no case is found (lists what was looked for), or an edition is not recognised.
    """
    if edition is not None and edition not in EDITIONS:
        raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(EDITIONS)}.")
    listing = [path for path in files.walk(root) if not files.name(path).startswith(".")]
    niftis = [path for path in listing if nifti_stem(path) is not None]
    tables = {files.parent(path) for path in listing if files.name(path) == "dataset.json"}
    decathlons = sorted(t for t in tables if any(p.startswith(f"{t}/imagesTr/") for p in niftis))
    cases: list[CaseFiles] = []
    notes: list[str] = []
    for table in decathlons:
        inside = [path for path in niftis if path.startswith(f"{table}/")]
        niftis = [path for path in niftis if not path.startswith(f"{table}/")]
        cases += _decathlon_cases(table, inside, edition, notes)
    cases += _brats_cases(str(root), niftis, edition, notes)
    if not cases:
        raise InputError(
            f"{root}: no case found among {len(listing)} files. Looked for\n  "
            + "\n  ".join(LAYOUTS)
            + _nearest(listing)
        )
    doubled = _doubled([case.case_id for case in cases])
    if doubled:
        first = [case.paths()[:1] for case in cases if case.case_id == doubled[0]]
        raise InputError(
            f"{root}: case ids occur twice: {', '.join(doubled)}. Give one copy of each; {doubled[0]} lies in "
            f"{' and in '.join(files.parent(path) for paths in first for path in paths)}."
        )
    labelled = any(case.label for case in cases)
    cases = [dataclasses.replace(case, label_expected=labelled and not _is_test_image(case)) for case in cases]
    grades = _table_grades([path for path in listing if _NAME_TABLE.match(files.name(path))], cases, notes)
    patient_tables = [path for path in listing if patients.TABLE.search(files.name(path))]
    return Dataset(
        str(root),
        tuple(sorted(cases, key=lambda case: case.case_id)),
        tuple(notes),
        grades,
        patients.united({case.case_id: case.patient_id for case in cases}, patient_tables),
        bool(patient_tables),
    )


def select(dataset: Dataset, case_ids: Sequence[str] | None) -> tuple[CaseFiles, ...]:
    """The named cases of a data set, or all for None.

    Raises:
        InputError: some are not there.
    """
    if case_ids is None:
        return dataset.cases
    known = {one.case_id for one in dataset.cases}
    missing = sorted(set(case_ids) - known)
    if missing:
        raise InputError(
            f"{dataset.root}: no case {', '.join(missing)}; it has {', '.join(sorted(known)[:10])}"
            + (", ..." if len(known) > 10 else ".")
        )
    return tuple(one for one in dataset.cases if one.case_id in set(case_ids))


def check_outputs(cases: Sequence[CaseFiles], outputs: Sequence[str | os.PathLike]) -> None:
    """Raises InputError where a file to be written is one of the cases' own: data is never overwritten."""
    inputs = {files.canonical(path): path for one in cases for path in one.paths()}
    for output in outputs:
        if files.canonical(output) in inputs:
            raise InputError(
                f"{output}: belongs to the input, which is never overwritten. Choose another --output."
            )


def _is_test_image(case: CaseFiles) -> bool:
    return any("/imagesTs/" in path for _, path, _ in case.images)


def _doubled(items: Sequence[str]) -> list[str]:
    return sorted({item for item in items if items.count(item) > 1}) if len(set(items)) < len(items) else []


def _nearest(listing: Sequence[str]) -> str:
    if not listing:
        return "\nThe folder holds no file. Point to the one that holds the cases."
    shown = ", ".join(files.name(path) for path in listing[:5])
    return f"\nFound e.g. {shown}. Point to the folder that holds the cases, or rename the files."


def nifti_stem(path: str) -> str | None:
    """The name without .nii or .nii.gz, or None for other files."""
    match = re.match(r"(.+)\.nii(\.gz)?$", files.name(path), re.IGNORECASE)
    return match.group(1) if match else None


def _folder_grade(one: CaseFiles) -> str | None:
    found = re.findall(rf"/({'|'.join(GRADES)})(?=/)", one.paths()[0])
    return found[-1] if found else None


# Also name_mapping_validation_data.csv, and copies of it.
_NAME_TABLE = re.compile(r"name_mapping.*\.csv$", re.IGNORECASE)


def _table_grades(tables: Sequence[str], cases: Sequence[CaseFiles], notes: list[str]) -> dict[str, str]:
    """Case id -> grade by tables that have a column Grade and the ids of one patient in several editions.

    Which column names the case does not matter, as ids of different editions differ.
    """
    known = {one.case_id.lower(): one.case_id for one in cases}
    told: dict[str, set[str]] = defaultdict(set)
    for path in tables:
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
                if cell.strip().lower() in known:
                    told[known[cell.strip().lower()]].add(grade)
    grades = {}
    strange = defaultdict(list)
    for one in cases:
        by_folder, by_table = _folder_grade(one), sorted(told[one.case_id])
        if len(by_table) == 1 and by_table[0] in GRADES:
            grades[one.case_id] = by_table[0]
        taken = by_folder or grades.get(one.case_id)
        if by_table and by_table != [taken]:
            by = f"{taken}, as its folder says" if by_folder else "unknown"
            strange[f"grade {' and '.join(by_table)} in name_mapping.csv; taken as {by}"].append(one.case_id)
    for what, ids in strange.items():
        notes.append(f"{ids[0]}{f' and {len(ids) - 1} more' if ids[1:] else ''}: {what}")
    return grades


def _brats_cases(
    root: str, niftis: Sequence[str], edition: str | None, notes: list[str]
) -> Iterator[CaseFiles]:
    groups: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    strangers: dict[str, list[str]] = defaultdict(list)
    for path in niftis:
        folder = files.parent(path)
        stem = _MASK_SUFFIXES.sub("", nifti_stem(path))
        match = re.match(r"(?:(.+)([_\-.]))?([A-Za-z0-9]+)$", stem)
        kind = match and (modality_named(match.group(3)) or (match.group(3).lower() == _MASK and _MASK))
        if not kind:
            strangers[folder].append(path)
            continue
        key = (folder, match.group(1) or files.name(folder))
        groups[key][kind].append(path)
    for (folder, case_id), found in list(groups.items()):
        if set(found) == {_MASK}:
            strangers[folder] += found[_MASK]
            del groups[folder, case_id]
    cases_in = Counter(folder for folder, _ in groups)
    unrecognised = []
    for (folder, case_id), found in groups.items():
        own_notes = []
        problems = [
            f"{' and '.join(map(files.name, paths))} are both {kind}. Keep one of them."
            for kind, paths in found.items()
            if len(paths) > 1
        ]
        masks = found.get(_MASK, [])
        if not masks and cases_in[folder] == 1:  # where several lie side by side, whose would it be?
            # BraTS20_Training_355 came with its mask named W39_1998.09.19_Segm.nii.
            masks = [p for p in strangers[folder] if re.search(r"seg[a-z]*$", nifti_stem(p).lower())]
            if len(masks) == 1:
                strangers[folder].remove(masks[0])
                own_notes.append(f"its segmentation is misnamed {files.name(masks[0])}; taken as such")
            else:
                masks = []
        schema = EDITIONS[edition] if edition else naming.edition_of(case_id, folder)
        if schema is None:
            unrecognised.append(case_id)
            continue
        yield CaseFiles(
            case_id=case_id,
            patient_id=naming.patient_of(case_id),
            layout=_BRATS_LAYOUT,
            schema=schema,
            images=tuple((m, found[m][0], None) for m in MODALITIES if m in found),
            label=masks[0] if masks else None,
            notes=tuple(own_notes),
            problems=tuple(problems),
        )
    notes += [f"{path}: name not understood, left out" for paths in strangers.values() for path in paths]
    if unrecognised:
        raise InputError(
            f"{root}: the edition of {unrecognised[0]} ({len(unrecognised)} such cases) is not told by its "
            f"name. Pass --edition with one of {', '.join(EDITIONS)}."
        )


def _decathlon_cases(
    table: str, niftis: Sequence[str], edition: str | None, notes: list[str]
) -> Iterator[CaseFiles]:
    where = files.join(table, "dataset.json")
    content = files.read_json(where)
    content = content if isinstance(content, dict) else {}
    channels = content.get("channel_names") or content.get("modality")
    labels = content.get("labels")
    if not isinstance(channels, dict) or not isinstance(labels, dict):
        raise InputError(f"{where}: expected the entries channel_names (or modality) and labels.")
    modalities = {}
    for number, text in channels.items():
        if not str(number).isdigit():
            raise InputError(f"{where}: channel {number!r}; expected a whole number, with its modality's name.")
        if modality_named(str(text)) is None:
            raise InputError(f"{where}: channel {number} is {text!r}; expected one of {MODALITIES}.")
        modalities[int(number)] = modality_named(str(text))
    if all(str(key).isdigit() for key in labels):  # the Decathlon's way: value -> name
        labels = {name: int(value) for value, name in labels.items()}
    schema = EDITIONS[edition] if edition else schema_from_names(labels, where)
    masks = {nifti_stem(path): path for path in niftis if f"{table}/labelsTr/" in path}
    images: dict[str, dict[int | None, str]] = defaultdict(dict)
    for path in niftis:
        if path in masks.values():
            continue
        if not path.startswith((f"{table}/imagesTr/", f"{table}/imagesTs/")):
            notes.append(f"{path}: not in imagesTr, imagesTs or labelsTr, left out")
            continue
        split_files = re.match(r"(.+)_(\d{4})$", nifti_stem(path))
        if split_files:
            images[split_files.group(1)][int(split_files.group(2))] = path
        else:
            images[nifti_stem(path)][None] = path
    for case_id, by_channel in sorted(images.items()):
        stacked = None in by_channel  # one 4-D file: the Decathlon
        own_schema = schema
        if stacked and not edition and schema.values == EDITIONS["msd"].values:
            own_schema = EDITIONS["msd"]
        triples = [
            (modality, by_channel[None if stacked else number], number if stacked else None)
            for number, modality in modalities.items()
            if stacked or number in by_channel
        ]
        yield CaseFiles(
            case_id=case_id,
            patient_id=naming.patient_of(case_id),
            layout=_MSD_LAYOUT if stacked else _NNUNET_LAYOUT,
            schema=own_schema,
            images=tuple(sorted(triples, key=lambda triple: MODALITIES.index(triple[0]))),
            label=masks.get(case_id),
        )
