"""Which of a session's files is which scan: by `predict`'s own reading of names, told, and open to change."""

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

from serving.page.limits import RefusedError
from serving.page.sessions import Session
from tfbrats.datasets.layouts import CaseFiles, Dataset
from tfbrats.datasets.scan_names import nifti_stem
from tfbrats.dicom import headers, scan_series, scan_words, study
from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES
from tfbrats.machine import files
from tfbrats.predictions import own_scans

log = logging.getLogger(__name__)
_reading = threading.Lock()  # DICOM series are read whole: one case's at a time

_FILES = f"{own_scans.FLAGS}; {own_scans.IN_PYTHON}"
_SERIES = f"ame them all: {scan_series.FLAGS} (DIR#5 is series 5 of a folder of several)"
# What commands say of their flags, as this page says it.
_HERE = {
    f"Name them ({_FILES}), or rename them": "Choose them below, or rename them",
    f"name them all: {_FILES}": "choose it below",
    f"\nOr name one patient's scans: {_FILES}.": "\nOr choose below.",
    f"Name all by {own_scans.FLAGS}, or rename the files.": "Choose them below, or rename the files.",
    f"n{_SERIES}": "choose it below",
    f"N{_SERIES}": "Choose them below",
    " --output FILE.nii.gz names the result": "",
}


def words(session: Session, text: str) -> str:
    """A message of the package as the page shows it: files by the names that the person gave them."""
    for ours, here in _HERE.items():
        text = text.replace(ours, here)
    return text.replace(f"{session.scans}/", "").replace(session.scans, "the files")


def described(session: Session) -> dict[str, Any]:
    """What lies in the session's folder, for the page.

    Returns:
        cases: each with its id and modality -> file; none where the names tell none.
        files: NIfTI files, or DICOM series, by name, to choose among.
        guess: modality -> file by its words alone, where that is one.
        notes: guesses and doubts, as sentences.
        fault: why there is no case; None where there is one.
    """
    cases: list[CaseFiles] = []
    notes: list[str] = []
    fault = None
    names = list(_choices(session))
    try:
        dataset = _found(session)
        cases, notes = list(dataset.cases), [words(session, note) for note in dataset.guesses]
    except InputError as error:
        fault = words(session, str(error))
    return {
        "cases": [{"id": case.case_id, "scans": _scans_of(session, dataset, case)} for case in cases],
        "files": names,
        "guess": _guess(names),
        "notes": notes,
        "fault": fault,
        "simulated": session.simulated,
    }


def chosen(session: Session, case_id: str | None, scans: Mapping[str, str] | None) -> tuple[Dataset, str]:
    """The data set and the case of it that the person wants segmented.

    Args:
        case_id: one of `described`.
        scans: in its place, modality -> name of a file: as the person has chosen.

    Raises:
        InputError: which file is which is not told, or one that was chosen cannot be meant.
        RefusedError: no such case or file.
    """
    if scans is None:
        dataset = _found(session)
        for case in dataset.cases:
            if case.case_id == case_id:
                return _by_shared_name(session, dataset, case)
        raise RefusedError(422, "No such case: which one is it?")
    choices = _choices(session)
    if not scans or not set(scans) <= set(MODALITIES) or not set(scans.values()) <= set(choices):
        raise RefusedError(422, "No such files: choose for each scan the file that it is.")
    with _reading:
        dataset = own_scans.named({m: choices[scans[m]] for m in MODALITIES if m in scans}, option="")
    return dataset, dataset.cases[0].case_id


def _found(session: Session) -> Dataset:
    """The session's cases, as `predict --input` finds them. Raises InputError: none."""
    try:
        with _reading:
            return own_scans.find(session.scans)
    except InputError:
        raise
    except Exception as error:  # a table beside the scans that is not what its name says
        log.exception("the intake failed")
        raise InputError("These files cannot be read together. Drop the scans alone.") from error


def _by_shared_name(session: Session, dataset: Dataset, case: CaseFiles) -> tuple[Dataset, str]:
    """Files that were dropped without a folder have no folder's name: they are called by what they share."""
    if case.layout == own_scans.LAYOUT and all(os.path.dirname(p) == session.scans for _, p, _ in case.images):
        dataset = own_scans.named({modality: path for modality, path, _ in case.images}, option="")
        case = dataset.cases[0]
    return dataset, case.case_id


def _choices(session: Session) -> dict[str, str]:
    """What a person may choose among -> the path that means it: NIfTI files, else the series of a study."""
    with session.lock:
        names = sorted(n for n in session.files if n not in session.arriving and nifti_stem(n) is not None)
    if names:
        return {name: session.path_of(name) for name in names}
    if not study.lies_in(list(files.walk(session.scans))):
        return {}
    try:
        with _reading:
            below = headers.series_below(session.scans)
    except InputError:  # told by who reads the case
        return {}
    return {one.name: f"{session.scans}#{one.number}" for one in below if one.is_mr}


def _scans_of(session: Session, dataset: Dataset, case: CaseFiles) -> dict[str, str]:
    """Modality -> the name of what was read as it."""
    if case.case_id in dataset.studies:
        return {modality: series.name for modality, series in dataset.studies[case.case_id].scans.items()}
    return {modality: os.path.relpath(path, session.scans) for modality, path, _ in case.images}


def _guess(names: list[str]) -> dict[str, str]:
    """Modality -> the one file whose words tell it."""
    told: dict[str, list[str]] = {}
    for name in names:
        modality = scan_words.modality_in(nifti_stem(name) or name)
        if modality:
            told.setdefault(modality, []).append(name)
    return {modality: found[0] for modality, found in told.items() if len(found) == 1}
