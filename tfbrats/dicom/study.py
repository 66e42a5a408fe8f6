"""DICOM at the door: series become a case of NIfTI volumes in memory; the study they come from is remembered.

    --input STUDY                         one patient's folder; which series is which scan is guessed, and told
    --flair DIR --t1 DIR --t1ce DIR ...   a folder, or a multi-frame file, for each scan; DIR#5 is its series 5

The volumes are files of fsspec's memory, so that whatever reads NIfTI reads them, and no patient's scan gets
onto the disk; each lasts as long as its path is held. The case is called by a hash of its Study Instance UID:
no name of a patient gets into file names or a log.
"""

import dataclasses
import hashlib
import itertools
import os
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfbrats.cases import nifti
from tfbrats.cases.nifti import Grid
from tfbrats.datasets import layouts
from tfbrats.datasets.layouts import CaseFiles, Dataset
from tfbrats.datasets.scan_names import nifti_stem
from tfbrats.dicom import geometry, headers, parsing, pixels, scan_series
from tfbrats.dicom.geometry import Geometry
from tfbrats.dicom.headers import PAGE, Series
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES
from tfbrats.machine import files

LAYOUT = "one's own scans, DICOM series"
_PLACE = "memory://tfbrats-dicom"
_REFERENCES = ("t1ce", "t1", "flair", "t2")  # whose images the frames of a segmentation refer to first
_OF_PATIENT = {
    "PatientID": "patient's ID",
    "PatientName": "patient's name",
    "PatientBirthDate": "date of birth",
}
_numbers = itertools.count(1)


@dataclass(frozen=True, eq=False)
class Study:
    """The series that a case was read from, all on one grid.

    Attributes:
        scans: modality -> series; "" of a series that stands for all, where the scans themselves are no DICOM.
        place: of the series that `reference` names.
    """

    case_id: str
    scans: Mapping[str, Series]
    place: Geometry

    @property
    def reference(self) -> str:
        """The scan that a segmentation lies on first."""
        return next(name for name in (*_REFERENCES, "") if name in self.scans)

    @property
    def grid(self) -> Grid:
        return nifti.grid_of(self.place.shape, self.place.affine_ras)


class _MemoryPath(str):
    """A path in memory, whose file goes when nobody holds the path any more."""


def lies_in(listing: Sequence[str]) -> bool:
    """Whether a folder holds DICOM files and no NIfTI."""
    return not any(nifti_stem(path) for path in listing) and headers.lie_in(listing)


def is_meant(path: str) -> bool:
    """Whether the path of one scan is that of a DICOM series: a folder, a file, or either with #N."""
    place, number = parted(path)
    if number is not None or files.is_folder(place):
        return True
    return nifti_stem(place) is None and (place.lower().endswith(parsing.NAMES) or headers.is_dicom(place))


def parted(path: str) -> tuple[str, str | None]:
    """A path, and the series' number that is added to it: DIR#5. What is there by the whole name is that."""
    match = re.fullmatch(r"(.+)#(\d+)", path)
    return (path, None) if match is None or files.exists(path) else (match[1], match[2])


# --- in -------------------------------------------------------------------------------------------------


@parsing.unwarned()
def find(root: str | os.PathLike, edition: str | None = None) -> Dataset:
    """The one case in a study's folder.

    Raises:
        InputError: several patients or studies, or its series make no case; says what to do.
    """
    series = headers.series_below(root)
    studies = {str(one.first.get("StudyInstanceUID")) for one in series if one.is_mr}
    if len(studies) > 1:
        raise InputError(f"{root}: series of {len(studies)} studies lie here. Give the folder of one study.")
    if not studies:
        raise InputError(
            f"{root}: no MR image lies here, among {len(series)} series. Give an MR study's folder."
        )
    with parsing.understood(str(root)):
        scans, guess = scan_series.chosen(series, str(root))
    return _dataset(str(root), scans, edition, [guess])


@parsing.unwarned()
def named(scans: Mapping[str, str], edition: str | None = None, option: str = "--") -> Dataset:
    """The one case whose series a person named, as `own_scans.named`.

    Raises:
        InputError: a scan is no series, or several; or they make no case.
    """
    places = {}
    for modality, path in scans.items():
        if not is_meant(path):
            raise InputError(
                f"{option}{modality} {path}: a NIfTI file, and others are DICOM. Give all in one form."
            )
        series = only_series(path, f"{option}{modality}")
        if twice := [name for name, (other, _) in places.items() if other.uid == series.uid]:
            raise InputError(f"{option}{twice[0]} and {option}{modality} name one series, {series.name}.")
        places[modality] = series, geometry.of(series)
    first = parted(next(iter(scans.values())))[0]
    return _dataset(files.parent(first) or ".", places, edition, [])


def only_series(path: str, given_as: str) -> Series:
    """The one MR series that a path means.

    Raises:
        InputError: none, or several.
    """
    place, number = parted(path)
    if not files.exists(place):
        raise InputError(f"{given_as} {path}: no such file or folder.")
    below = [one for one in headers.series_below(place, given_as) if one.is_mr]
    meant = below if number is None else [one for one in below if one.number == number]
    if len(meant) == 1:
        return meant[0]
    shown = ", ".join(one.name for one in below) or "none"
    raise InputError(
        f"{given_as} {path}: expected one MR series; found {len(meant) or 'none'}"
        + (f": {shown}. Add its number, e.g. {place}#{below[0].number}." if below else ".")
    )


@parsing.unwarned()
def alone(path: str, given_as: str) -> Study:
    """The study of one series, for a segmentation of scans that were converted from it."""
    series = only_series(path, given_as)
    return Study(_case_id(series), {"": series}, geometry.of(series))


def _case_id(series: Series) -> str:
    return f"study-{hashlib.sha256(str(series.first.get('StudyInstanceUID')).encode()).hexdigest()[:10]}"


def _dataset(
    root: str, scans: Mapping[str, tuple[Series, Geometry]], edition: str | None, guesses: Sequence[str]
) -> Dataset:
    if edition is not None and edition not in EDITIONS:
        raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(EDITIONS)}.")
    series = {modality: one for modality, (one, _) in scans.items()}
    with parsing.understood(root):
        _check_patient(root, series)
    _check_grid(root, scans)
    case_id = _case_id(next(iter(series.values())))
    study = Study(case_id, series, next(scans[name][1] for name in _REFERENCES if name in scans))
    folder, images, notes = f"{_PLACE}/{next(_numbers)}", [], []
    for modality in (name for name in MODALITIES if name in scans):
        array, odd = pixels.volume(*scans[modality])
        path = _MemoryPath(f"{folder}/{modality}.nii")
        nifti.write(path, array, study.grid)
        weakref.finalize(path, files.remove, str(path))
        images.append((modality, path, None))
        notes += [f"{series[modality].name}: {note}" for note in odd]
        if series[modality].doubled:
            notes.append(f"{series[modality].name}: {series[modality].doubled} files are copies, left out")
    entry = CaseFiles(case_id, case_id, LAYOUT, EDITIONS[edition or layouts.UNTOLD], tuple(images), None)
    told = [f"{case_id}: {text}" for text in (*guesses, *notes)]
    told.append(
        f"the case is called {case_id}, by a hash of its Study Instance UID, so that no patient's name gets "
        "into file names. --output FILE.nii.gz names the result"
    )
    dataset = Dataset(root, (entry,), tuple(told), guesses=tuple(told), studies={case_id: study})
    return dataset if edition else dataclasses.replace(dataset, untold=frozenset((case_id,)))


def _check_patient(root: str, scans: Mapping[str, Series]) -> None:
    """Raises InputError: the series are not of one patient and one study. Says what differs, no names."""
    for keyword, words in _OF_PATIENT.items():
        values = {
            name: str(series.first.get(keyword) or "").strip("^ ").upper() for name, series in scans.items()
        }
        if len(set(values.values())) > 1:
            raise InputError(
                f"{root}: {words} differs between {_apart(values)}. Give the scans of one patient."
            )
    values = {name: str(series.first.get("StudyInstanceUID")) for name, series in scans.items()}
    if len(set(values.values())) > 1:
        raise InputError(
            f"{root}: {_apart(values)} are of different studies. Give the scans of one examination."
        )


def _apart(values: Mapping[str, str]) -> str:
    """The scans by what they have in common: "flair, t1 and t1ce"."""
    groups = [[name for name in values if values[name] == value] for value in dict.fromkeys(values.values())]
    return " and ".join(", ".join(group) for group in groups)


def _check_grid(root: str, scans: Mapping[str, tuple[Series, Geometry]]) -> None:
    """Raises InputError: the scans do not lie on one grid."""
    reference = next(name for name in _REFERENCES if name in scans)
    faults = [
        f"{name}, {series.name}: {'; '.join(differences)} of {reference}"
        for name, (series, place) in scans.items()
        if (differences := place.differences(scans[reference][1]))
    ]
    if faults:
        raise InputError(
            f"{root}: the scans do not lie on one grid:\n  "
            + "\n  ".join(faults)
            + "\nA model needs one grid, and scans without the skull. Convert the series to NIfTI, co-register "
            "them to one of them, strip the skull, and give those files; --dicom-seg SERIES then writes the "
            f"result onto the original series. See {PAGE}."
        )
