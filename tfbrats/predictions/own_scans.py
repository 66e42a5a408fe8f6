"""One's own scans: which file is which modality, where files are named in any way. By names alone.

    Smith_T1_post.nii.gz, Smith_T1.nii.gz, AX_T2_FLAIR.nii, t2_tse_tra.nii.gz      one patient, in one folder

What the readers of data sets understand is theirs. What they do not is read here by its words, one patient a
folder; a guess is told, and one that could go two ways is refused. No edition is asked for: no label is read.
"""

import dataclasses
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from tfbrats.datasets import case_names, layouts, references
from tfbrats.datasets.layouts import CaseFiles, Dataset
from tfbrats.datasets.scan_names import CORRECTED, STRIPPED, UNSTRIPPED, beginning_of_listing, nifti_stem
from tfbrats.dicom import scan_words, study
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES, LabelSchema, modality_named
from tfbrats.machine import files
from tfbrats.predictions import model_card

LAYOUT = "one's own scans, by the words in their names"
NAMED = "one's own scans, named one by one"
PAGE = "docs/start/your-own-case.md"
FLAGS = " ".join(f"--{modality} FILE" for modality in MODALITIES)
IN_PYTHON = f"in Python {{{', '.join(f'{modality!r}: FILE' for modality in MODALITIES)}}}"
_CURE = f"name them all: {FLAGS}; {IN_PYTHON}"
_SHOWN = 6  # files that a message names
_UNNAMED = "case"  # of scans whose names share nothing

_TREATED = {*STRIPPED, *CORRECTED, *UNSTRIPPED}

# --- a folder -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Read:
    """What the names in one folder tell: modality -> files, and those that tell none."""

    scans: dict[str, list[str]]
    left: list[str]

    @property
    def doubled(self) -> list[str]:
        return [modality for modality, paths in self.scans.items() if len(paths) > 1]

    @property
    def paths(self) -> list[str]:
        return [*(path for copies in self.scans.values() for path in copies), *self.left]

    def in_words(self) -> str:
        """E.g. "flair FLAIR.nii, t1 Smith_T1.nii.gz"."""
        return ", ".join(
            f"{modality} {' or '.join(map(files.name, self.scans[modality]))}"
            for modality in MODALITIES
            if modality in self.scans
        )


def _read(paths: Sequence[str]) -> _Read:
    scans, left = defaultdict(list), []
    for path in paths:
        modality = scan_words.modality_in(nifti_stem(path))
        (scans[modality] if modality else left).append(path)
    for modality, copies in scans.items():
        for words, wanted in ((STRIPPED, True), (UNSTRIPPED, False), (CORRECTED, False)):
            alike = [path for path in copies if bool(_treatment(path) & set(words)) is wanted]
            if alike and len(alike) < len(copies):
                left += [path for path in copies if path not in alike]
                copies = alike
        scans[modality] = copies
    return _Read(dict(scans), left)


def _treatment(path: str) -> set[str]:
    return _TREATED & set(references.words_of(nifti_stem(path)))


def find(root: str | os.PathLike, edition: str | None = None) -> Dataset:
    """Every case under `root` that is to be segmented: as `layouts.find`, and patients named in any way.

    A folder of DICOM files alone is one patient's study (`dicom.study`).

    Raises:
        InputError: as `layouts.find`, or which file is which scan is not told.
    """
    try:
        dataset, refusal = layouts.find(root, edition, reads_labels=False), None
        # An edition tells label values, not which file is which: names are read as without it.
        untold = dataset.untold if edition is None else _untold(root)
    except layouts.NoCaseError as error:
        dataset, refusal, untold = Dataset(str(root), (), ()), error, frozenset()
    listing = [path for path in files.walk(root) if not files.name(path).startswith(".")]
    if refusal is not None and study.lies_in(listing):
        return study.find(root, edition)
    by_folder = {folder: _read(paths) for folder, paths in _by_folder(listing).items()}
    telling = [folder for folder, read in by_folder.items() if read.scans] or list(by_folder)
    own: dict[str, _Read] = {}
    notes, unclear = [], []
    for folder in telling:
        read, found = by_folder[folder], [case for case in dataset.cases if _folder_of(case) == folder]
        if _is_understood(found, read, untold):
            notes += _passed_over(found, read, untold)
            continue
        if len(telling) == 1 and (read.doubled or (not found and len(read.scans) < 2)):
            raise InputError(_doubt(folder, read))
        if _tell_edition(folder, *read.paths):
            continue
        if len(read.scans) > 1 and not read.doubled:
            own[folder] = read
        elif not any(files.parent(path) == folder for case in dataset.cases for _, path, _ in case.images):
            unclear.append(folder)
    _check_refusal(refusal, own, unclear, by_folder, telling, listing)
    notes += [f"not segmented: {_doubt(folder, by_folder[folder])}" for folder in unclear]
    return _with_own(dataset, own, beginning_of_listing(root), edition, notes)


def _untold(root: str | os.PathLike) -> frozenset[str]:
    """Ids of the cases whose names tell no edition."""
    try:
        return layouts.find(root, reads_labels=False).untold
    except InputError:  # read by the help of an edition alone
        return frozenset()


def _by_folder(listing: Sequence[str]) -> dict[str, list[str]]:
    """Folder -> its NIfTI files. Of one that holds results the scans, where they lie there too."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in listing:
        if nifti_stem(path) is not None:
            by_folder[files.parent(path)].append(path)
    for folder in [folder for folder in by_folder if files.join(folder, model_card.FILE) in listing]:
        scans = [path for path in by_folder.pop(folder) if scan_words.modality_in(nifti_stem(path))]
        if len(_read(scans).scans) > 1:  # one alone is a result of a case that is called so
            by_folder[folder] = scans
    return by_folder


def _check_refusal(
    refusal: InputError | None,
    own: Mapping[str, _Read],
    unclear: Sequence[str],
    by_folder: Mapping[str, _Read],
    telling: Sequence[str],
    listing: Sequence[str],
) -> None:
    """Raises InputError: no reader of data sets finds a case, and its folders are not all one's own scans."""
    if refusal is None or (own and len(own) + len(unclear) == len(telling)):
        return
    if not own and len(unclear) == len(telling):
        for folder in unclear:
            if by_folder[folder].doubled:
                raise InputError(_doubt(folder, by_folder[folder])) from refusal
    raise InputError(f"{refusal}{_convert_first(listing)}") from refusal


def _passed_over(found: Sequence[CaseFiles], read: _Read, untold: frozenset[str]) -> list[str]:
    """A note where a folder's one case has another file of a modality, which is not read."""
    if len(found) != 1 or found[0].case_id not in untold:
        return []
    taken = {path: modality for modality, path, _ in found[0].images}
    others = [path for path in read.paths if path not in taken and path not in read.left]
    if not others:
        return []
    names = ", ".join(f"{modality} {files.name(path)}" for path, modality in taken.items())
    return [f"{found[0].case_id}: {names}; left out: {_listed(others)}. If one is another scan, {_CURE}"]


def _tell_edition(*places: str) -> bool:
    """Whether a name is that of a published data set's case."""
    return any(case_names.edition_by_id(files.name(place)) is not None for place in places)


def _folder_of(case: CaseFiles) -> str:
    return files.parent(case.images[0][1]) if case.images else ""


def _is_understood(found: Sequence[CaseFiles], read: _Read, untold: frozenset[str]) -> bool:
    """Whether a folder's cases stand as the readers of data sets have read them."""
    if any(case.case_id not in untold or len(case.images) == len(MODALITIES) for case in found):
        return True
    most = max((len(case.images) for case in found), default=0)
    return len(found) == 1 and len(read.scans) <= most


def _doubt(folder: str, read: _Read) -> str:
    """What the names in a folder leave open, and what to do."""
    faults = [
        f"{' and '.join(map(files.name, read.scans[modality]))} may both be {modality}"
        for modality in read.doubled
    ]
    if not faults:
        left = f"; {_listed(read.left)} not understood" if read.left else ""
        faults = [f"{read.in_words() or 'no scan'} told{left}"]
    return (
        f"{folder}: which file is which scan is not told by the names: {'; '.join(faults)}. Name them "
        f"({FLAGS}; {IN_PYTHON}), or rename them flair.nii.gz, t1.nii.gz, t1ce.nii.gz, t2.nii.gz. See {PAGE}."
    )


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{', '.join(map(files.name, paths[:_SHOWN]))}{more}"


def _convert_first(listing: Sequence[str]) -> str:
    """What to do with files that are no NIfTI, below the error that no case is found."""
    names = [files.name(path).lower() for path in listing]
    if any(name.endswith((".dcm", ".ima", "dicomdir")) for name in names):
        return (
            f"\nDICOM files lie here beside NIfTI files: give a folder of the one or of the other; see {PAGE}."
        )
    if any(name.endswith((".mha", ".mhd", ".nrrd", ".hdr", ".mgz")) for name in names):
        return f"\nConvert the scans to .nii.gz first; see {PAGE}."
    return f"\nOr name one patient's scans: {FLAGS}; {IN_PYTHON}."


def _with_own(
    dataset: Dataset, own: Mapping[str, _Read], top: str, edition: str | None, more: Sequence[str] = ()
) -> Dataset:
    """The data set with each of these folders read as one patient, in place of what was found in them.

    Args:
        more: notes on other folders.
    """
    if not own and not more:
        return dataset
    kept = [case for case in dataset.cases if _folder_of(case) not in own]
    names = [files.name(folder) for folder in own]
    notes, cases = [], []
    for folder, read in own.items():
        name = files.name(folder)
        if names.count(name) > 1 and folder != top:
            name = f"{files.name(files.parent(folder))}_{name}"
        scans = {modality: paths[0] for modality, paths in read.scans.items()}
        case = _case(name, scans, LAYOUT, edition)
        notes.append(
            f"{name}: by their names, {read.in_words()}"
            + (f"; left out: {_listed(read.left)}" if read.left else "")
            + f". If one is another scan, {_CURE}"
        )
        cases.append(case)
    notes += more
    ids = [case.case_id for case in (*kept, *cases)]
    if doubled := sorted({name for name in ids if ids.count(name) > 1}):
        raise InputError(
            f"{dataset.root}: several patients would be called {doubled[0]}. Give one patient's folder, or put "
            "the patient's name in the files' names."
        )
    untold = dataset.untold & {case.case_id for case in kept}
    untold = untold if edition else untold | {case.case_id for case in cases}
    return dataclasses.replace(
        dataset,
        cases=tuple(sorted((*kept, *cases), key=lambda case: case.case_id)),
        guesses=(*dataset.guesses, *notes),
        notes=(*dataset.notes, *notes),
        untold=untold,
    )


def _case(case_id: str, scans: Mapping[str, str], layout: str, edition: str | None) -> CaseFiles:
    return CaseFiles(
        case_id=case_id,
        patient_id=case_id,
        layout=layout,
        schema=EDITIONS[edition or layouts.UNTOLD],
        images=tuple((modality, scans[modality], None) for modality in MODALITIES if modality in scans),
        label=None,
    )


# --- named file by file ---------------------------------------------------------------------------------


def named(scans: Mapping[str, str], edition: str | None = None, option: str = "--") -> Dataset:
    """The one case that a person named file by file, or series by series (`dicom.study`).

    Args:
        scans: modality -> path.
        option: what stands before a modality where the person named it, for messages.

    Raises:
        InputError: a file is not there, is no NIfTI file, or is named twice.
    """
    if edition is not None and edition not in EDITIONS:
        raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(EDITIONS)}.")
    if any(map(study.is_meant, scans.values())):
        return study.named(scans, edition, option)
    places: dict[str, str] = {}
    for modality, path in scans.items():
        _check_file(f"{option}{modality}", path)
        place = files.canonical(path)
        if place in places:
            raise InputError(
                f"{option}{places[place]} and {option}{modality} both name {path}. Give each scan its own file."
            )
        places[place] = modality
    case = _case(_shared_name(list(scans.values())), scans, NAMED, edition)
    return Dataset(
        files.parent(next(iter(scans.values()))) or ".",
        (case,),
        (),
        untold=frozenset() if edition else frozenset((case.case_id,)),
    )


def _check_file(given_as: str, path: str) -> None:
    if not files.exists(path):
        raise InputError(f"{given_as} {path}: no such file.")
    if nifti_stem(path) is None:
        raise InputError(
            f"{given_as} {path}: expected a .nii.gz or .nii file, or a folder of DICOM files; see {PAGE}."
        )


def _shared_name(paths: Sequence[str]) -> str:
    """What a case is called: what its files' names begin with, else the folder that all lie in."""
    parted = [re.split(r"([_\-. ]+)", nifti_stem(path)) for path in paths]
    shared = []
    for parts in zip(*parted, strict=False):
        if len({part.lower() for part in parts}) > 1 or modality_named(parts[0]):
            break
        shared.append(parts[0])
    folders = {files.parent(files.canonical(path)) for path in paths}
    of_folder = files.name(folders.pop()) if len(folders) == 1 else ""
    return "".join(shared).strip("_-. ") or of_folder or _UNNAMED


def written_as(dataset: Dataset, schema: LabelSchema) -> Dataset:
    """The same cases; those whose table of labels nothing tells get this one, to be written in."""
    cases = (
        dataclasses.replace(case, schema=schema) if case.case_id in dataset.untold else case
        for case in dataset.cases
    )
    return dataclasses.replace(dataset, cases=tuple(cases))
