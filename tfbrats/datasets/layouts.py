"""Recognise the layouts that BraTS data comes in, by folder and file names alone. Opens no image.

Of tables it reads dataset.json, and name_mapping.csv for the grades that no folder tells; of a JSON file beside
a mask, whether tfbrats wrote it. Refuses to guess silently: what was unusual is noted on the case, what was not
understood is listed, and finding nothing is an error that says what was looked for.
"""

import dataclasses
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfbrats.datasets import bids, brats_folders, case_names, decathlon, grades, not_experts, patients
from tfbrats.datasets.case_names import Telling
from tfbrats.datasets.patients import Links
from tfbrats.datasets.scan_names import (
    Group,
    Leftovers,
    beginning_of_listing,
    common_folder,
    nearest,
    nifti_stem,
    reasons,
)
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES, LabelSchema
from tfbrats.machine import files
from tfbrats.terminal.wording import counted

LAYOUTS = (*brats_folders.LAYOUTS, bids.LAYOUT, decathlon.MSD, decathlon.NNUNET)
_FEW = 4  # of many alike, that are shown
_CARD = "tfbrats.json"  # lies where tfbrats has put segmentations
UNTOLD = "2023"  # whose values are written where neither names nor masks tell any


class NoCaseError(InputError):
    """The names under a folder are no layout's: they make no case, or several of one id."""


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
        guesses: of the notes, those that tell whose labels these are where names leave it open.
        patients: case id -> patient, where more than the case's own name tells it; not on the cases either.
        links: what tables of ids tell of collections that hold the same people.
        names_say: case id -> the table that the data set tells by itself, where another edition was given.
        untold: ids of the cases whose table nothing tells and nobody gave.
        studies: case id -> the `dicom.study.Study` it was read from.
    """

    root: str
    cases: tuple[CaseFiles, ...]
    notes: tuple[str, ...]
    table_grades: Mapping[str, str] = dataclasses.field(default_factory=dict)
    guesses: tuple[str, ...] = ()
    patients: Mapping[str, str] = dataclasses.field(default_factory=dict)
    links: Links = dataclasses.field(default_factory=Links)
    names_say: Mapping[str, LabelSchema] = dataclasses.field(default_factory=dict)
    untold: frozenset[str] = frozenset()
    studies: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        told = sorted({case.schema.edition for case in self.cases if case.case_id not in self.untold})
        told += ["not told" if not told else f"not told of {len(self.untold)}"] if self.untold else []
        cases = counted(len(self), "case")
        return f"<Dataset {files.name(self.root)} at {self.root}: {cases}, edition {' and '.join(told)}>"

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[CaseFiles]:
        return iter(self.cases)

    def __contains__(self, case: object) -> bool:
        """Whether it has a case: an id, or one of its cases."""
        return case in self.cases or any(entry.case_id == case for entry in self.cases)

    def __getitem__(self, case_id: str) -> CaseFiles:
        if not isinstance(case_id, str):
            raise InputError(
                f"a data set gives its cases by their ids, not by {case_id!r}. Write dataset[ID], or "
                "dataset.cases[NUMBER] for a case by its place."
            )
        return select(self, [case_id])[0]

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

    @property
    def patient_notes(self) -> list[str]:
        """What a person should know before cases are dealt out by patient (`patients.notes`)."""
        return patients.notes(self.patient_of, self.links)

    def with_patients(self, path: str | os.PathLike | None) -> "Dataset":
        """The same cases, with the patients that a file names (`patients.named`); itself for None."""
        if path is None:
            return self
        decided, members, notes = patients.named(path, self.patient_of)
        return dataclasses.replace(
            self,
            patients={**self.patients, **decided},
            links=self.links.with_rows(members),
            notes=(*self.notes, *notes),
        )

    def grade_of(self, entry: CaseFiles) -> str | None:
        """One of `grades.GRADES` by the folder that a case lies in, else by a table; None if neither tells."""
        return grades.by_folder(entry.paths()[0]) or self.table_grades.get(entry.case_id)


def find(root: str | os.PathLike, edition: str | None = None, reads_labels: bool = True) -> Dataset:
    """Every case under `root`, by names alone; no image is opened.

    Args:
        root: a data set, one case's folder, or any folder above; local, gs:// or memory://.
        edition: overrides what the names say, e.g. "2024".
        reads_labels: whether masks will be read; else nothing need tell in which values they are.

    Raises:
        NoCaseError: no case is found (lists what was looked for), or two of one id.
        InputError: an edition is not recognised, or a case is of a challenge without WT, TC and ET.
    """
    if edition is not None and edition not in EDITIONS:
        raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(EDITIONS)}.")
    listing = [path for path in files.walk(root) if not files.name(path).startswith(".")]
    notes: list[str] = []
    groups = _groups(str(root), listing, edition, notes)
    if not groups:
        raise NoCaseError(
            f"{root}: no case found among {len(listing)} files. Looked for\n  "
            + "\n  ".join(LAYOUTS)
            + nearest(listing)
            + reasons(notes)
        )
    tellings = _tellings(str(root), groups, edition, reads_labels)
    cases = _cases(groups, tellings, edition, notes)
    guesses = _guesses(tellings, cases, edition, reads_labels)
    untold = [] if edition else [g.case_id for g, telling in zip(groups, tellings, strict=True) if not telling]
    _check_doubled(str(root), cases)
    of_tables = grades.by_tables(listing, {case.case_id: case.paths()[0] for case in cases}, notes)
    patient_tables = [path for path in listing if patients.TABLE.search(files.name(path))]
    of_others, links = patients.united({case.case_id: case.patient_id for case in cases}, patient_tables)
    return Dataset(
        str(root),
        tuple(sorted(cases, key=lambda case: case.case_id)),
        (*notes, *guesses),
        of_tables,
        guesses=tuple(guesses),
        patients=of_others,
        links=links,
        names_say=_names_say(groups, tellings) if edition is not None else {},
        untold=frozenset(untold),
    )


def _groups(root: str, listing: Sequence[str], edition: str | None, notes: list[str]) -> list[Group]:
    """The cases by names, of all layouts; what belongs to none is noted."""
    leftovers = Leftovers()
    niftis = _without_results(listing, notes)
    groups: list[Group] = []
    for table in decathlon.tables(listing, niftis):
        inside = [path for path in niftis if path.startswith(f"{table}/")]
        niftis = [path for path in niftis if not path.startswith(f"{table}/")]
        groups += decathlon.read(table, inside, edition, leftovers)
    top = beginning_of_listing(root)
    names, others = bids.split(niftis, top)
    groups += bids.read(names, leftovers)
    groups += brats_folders.read(others, leftovers, top)
    present = set(listing)
    for group in groups:
        for path in group.masks[:]:
            beside = f"{path[: -len(files.name(path))]}{nifti_stem(path)}.json"
            if beside in present and not_experts.is_own_record(beside):
                group.masks.remove(path)
                group.notes.append(
                    f"{files.name(path)} was predicted by tfbrats, as {files.name(beside)} beside it says: not "
                    "taken as an expert's mask"
                )
    leftovers.close()
    notes += leftovers.notes()
    return groups


def _without_results(listing: Sequence[str], notes: list[str]) -> list[str]:
    """The NIfTI files without those that tfbrats has written as results: they lie beside a model's card.

    Scans that lie there too stay, and masks named so: results are named as their case alone.
    """
    niftis = [path for path in listing if nifti_stem(path) is not None]
    for folder in sorted({files.parent(path) for path in listing if files.name(path) == _CARD}):
        inside = [path for path in niftis if files.parent(path) == folder]
        scans = {path for path in inside if not_experts.is_scan(path)}
        masks = {path for path in inside if scans and not_experts.is_named_mask(path)}
        results = [path for path in inside if path not in scans | masks]
        if results:
            notes.append(
                f"{folder}: {counted(len(results), 'segmentation')} by tfbrats ({_CARD} lies there), left out"
            )
            niftis = [path for path in niftis if path not in set(results)]
    return niftis


def _tellings(
    root: str, groups: Sequence[Group], edition: str | None, reads_labels: bool
) -> list[Telling | None]:
    """Of each group, what its data set's own table, its id or its folders tell of its labels.

    Raises:
        InputError: a case has a mask, and nothing tells its edition; or it is of a challenge without regions.
    """
    tellings = [Telling(g.schema) if g.schema else case_names.tell(g.case_id, g.folder) for g in groups]
    untold = [g for g, telling in zip(groups, tellings, strict=True) if telling is None and g.masks]
    if untold and edition is None and reads_labels:
        raise InputError(
            f"{root}: the edition of {untold[0].case_id} ({len(untold)} such cases) is not told by its name. "
            f"Pass --edition with one of {', '.join(EDITIONS)}."
        )
    return tellings


def _cases(
    groups: Sequence[Group], tellings: Sequence[Telling | None], edition: str | None, notes: list[str]
) -> list[CaseFiles]:
    """The groups as cases, each with the table of its labels."""
    labelled = any(group.masks for group in groups)
    undrawn = sum(group.mask_published and not group.masks for group in groups)
    if labelled and undrawn:
        notes.append(
            f"{undrawn} of {len(groups)} cases have no expert's mask: their publisher gives some alone"
        )
    withheld = {g.case_id for g in groups if not g.masks and case_names.is_withheld(g.case_id, g.folder)}
    if labelled and withheld:
        notes.append(
            f"{counted(len(withheld), 'case')} of a challenge's validation or testing data, published without "
            "masks: in no split"
        )
    cases = []
    for group, telling in zip(groups, tellings, strict=True):
        group.is_test |= group.case_id in withheld
        images, label = group.settle()
        cases.append(
            CaseFiles(
                case_id=group.case_id,
                patient_id=case_names.patient_of(group.case_id),
                layout=group.layout,
                schema=_schema(edition, telling),
                images=tuple((m, *images[m]) for m in MODALITIES if m in images),
                label=label,
                label_expected=labelled and not group.is_test and not (group.mask_published and not label),
                notes=tuple(group.notes),
                problems=tuple(group.problems),
            )
        )
    return cases


def _names_say(groups: Sequence[Group], tellings: Sequence[Telling | None]) -> dict[str, LabelSchema]:
    """Case id -> table; {} where one with a mask has none, or where label names were not understood."""
    with_tellings = list(zip(groups, tellings, strict=True))
    if any(telling is None and group.masks for group, telling in with_tellings):
        return {}
    if any(group.schema is None and group.layout in (decathlon.MSD, decathlon.NNUNET) for group in groups):
        return {}
    return {group.case_id: telling.schema for group, telling in with_tellings if telling is not None}


def _schema(edition: str | None, telling: Telling | None) -> LabelSchema:
    """The table of a case; one that is given by hand remembers what an id or a table of the data set tells."""
    if edition is None:
        return telling.schema if telling else EDITIONS[UNTOLD]
    certain = telling.schema if telling and telling.folder is None else None
    return EDITIONS[edition].overruling(certain)


def _guesses(
    tellings: Sequence[Telling | None], cases: Sequence[CaseFiles], edition: str | None, reads_labels: bool
) -> list[str]:
    """Notes on whose labels these are: what was guessed, and what --edition overrules."""
    overruled = Counter(case.schema.by_names.edition for case in cases if case.schema.by_names is not None)
    notes = [
        f"--edition {edition} is taken for {counted(n, 'case')} whose names tell {own}"
        for own, n in overruled.items()
    ]
    if edition is None:
        notes += case_names.told_by_folders(telling for telling in tellings if telling is not None)
        untold = [case.case_id for case, telling in zip(cases, tellings, strict=True) if telling is None]
        if untold and reads_labels:
            more = f" and {len(untold) - 1} more" if untold[1:] else ""
            notes.append(
                f"{untold[0]}{more}: nothing tells the edition, and there is no mask; segmentations are "
                f"written in the values of {UNTOLD} ({EDITIONS[UNTOLD].describe()}). --edition chooses others"
            )
    return notes


def select(dataset: Dataset, case_ids: Sequence[str] | None) -> tuple[CaseFiles, ...]:
    """The named cases of a data set, or all for None.

    Raises:
        InputError: some are not there.
    """
    if case_ids is None:
        return dataset.cases
    present = sorted(entry.case_id for entry in dataset.cases)
    missing = sorted(set(case_ids) - set(present))
    if missing:
        raise InputError(
            f"{dataset.root}: no case {', '.join(missing)}; it has {', '.join(present[:10])}"
            + (", ..." if len(present) > 10 else ".")
        )
    chosen = set(case_ids)
    return tuple(entry for entry in dataset.cases if entry.case_id in chosen)


def check_outputs(cases: Sequence[CaseFiles], outputs: Sequence[str | os.PathLike]) -> None:
    """Raises InputError where a file to be written is one of the cases' own, or would be read as one.

    Data is never overwritten, and what a model predicted never taken for an expert's mask.
    """
    case_of_scan = {files.canonical(path): entry.case_id for entry in cases for _, path, _ in entry.images}
    inputs = {*case_of_scan, *(files.canonical(entry.label) for entry in cases if entry.label)}
    written = {files.canonical(output): output for output in outputs}
    for path, output in written.items():
        if path in inputs:
            raise InputError(
                f"{output}: belongs to the input, which is never overwritten. Choose another --output."
            )
    new = {path for path in written if nifti_stem(path) is not None}
    tables = decathlon.tables_of((entry.layout, path) for entry in cases for _, path, _ in entry.images)
    listing = [*sorted(inputs), *tables, *sorted(new)]
    # Label names were understood, or overruled, when the cases were found: no edition is asked for again.
    for group in _groups(common_folder(listing), listing, UNTOLD, []):
        for path in new.intersection(group.masks):
            scan = next(path for scans in group.scans.values() for path, *_ in scans)
            raise InputError(
                f"{written[path]}: would be read as the expert's mask of "
                f"{case_of_scan.get(scan, group.case_id)} from now on, by its name and folder. Choose another "
                "name or folder as --output."
            )


def _check_doubled(root: str, cases: Sequence[CaseFiles]) -> None:
    """Raises NoCaseError where two cases have one id: no split, record or score could tell them apart."""
    # A copy by way of a Mac stores an accent otherwise: the same name to whoever reads it.
    names = [unicodedata.normalize("NFC", case.case_id) for case in cases]
    doubled = sorted(name for name, count in Counter(names).items() if count > 1)
    if not doubled:
        return
    folders = [
        files.parent(entry.images[0][1]) for name, entry in zip(names, cases, strict=True) if name == doubled[0]
    ]
    shown = " and in ".join(folders[:_FEW]) + f" and in {len(folders) - _FEW} more" * (len(folders) > _FEW)
    raise NoCaseError(
        f"{root}: case ids occur twice: {', '.join(doubled)}. {doubled[0]} stands in {shown}. Remove one if "
        "they are copies; if they are of two patients or visits, put the patient's name in the files' names."
    )
