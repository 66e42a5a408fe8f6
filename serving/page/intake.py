"""Which of a session's files is which scan: by `predict`'s own reading of names, told, and open to change."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from serving.page.limits import RefusedError
from serving.page.sessions import Session
from tfbrats.datasets.layouts import CaseFiles, Dataset
from tfbrats.datasets.scan_names import nifti_stem
from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES
from tfbrats.predictions import own_scans

log = logging.getLogger(__name__)

_FLAGS = f"{own_scans.FLAGS}; {own_scans.IN_PYTHON}"
# What commands say of their flags, as this page says it.
_HERE = (
    (
        f"Name them ({own_scans.FLAGS}; {own_scans.IN_PYTHON}), or rename them",
        "Choose them below, or rename them",
    ),
    (f"name them all: {own_scans.FLAGS}; {own_scans.IN_PYTHON}", "choose it below"),
    (f"\nOr name one patient's scans: {own_scans.FLAGS}; {own_scans.IN_PYTHON}.", "\nOr choose below."),
    (f"Name all by {own_scans.FLAGS}, or rename the files.", "Choose them below, or rename the files."),
)


def words(session: Session, text: str) -> str:
    """A message of the package as the page shows it: files by the names that the person gave them."""
    for ours, here in _HERE:
        text = text.replace(ours, here)
    return text.replace(f"{session.scans}/", "").replace(session.scans, "the files")


def described(session: Session) -> dict[str, Any]:
    """What lies in the session's folder, for the page.

    Returns:
        cases: each with its id and modality -> file; none where the names tell none.
        files: NIfTI files by name, to choose among.
        guess: modality -> file by its words alone, where that is one.
        notes: guesses and doubts, as sentences.
        fault: why there is no case; None where there is one.
    """
    cases: list[CaseFiles] = []
    notes: list[str] = []
    fault = None
    names = _nifti_names(session)
    try:
        dataset = _found(session)
        cases, notes = list(dataset.cases), [words(session, note) for note in dataset.guesses]
    except InputError as error:
        fault = words(session, str(error))
    return {
        "cases": [
            {"id": case.case_id, "scans": {m: _name_of(session, path) for m, path, _ in case.images}}
            for case in cases
        ],
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
    names = _nifti_names(session)
    if not scans or not set(scans) <= set(MODALITIES) or not set(scans.values()) <= set(names):
        raise RefusedError(422, "No such files: choose for each scan the file that it is.")
    dataset = own_scans.named({m: session.path_of(scans[m]) for m in MODALITIES if m in scans}, option="")
    return dataset, dataset.cases[0].case_id


def _found(session: Session) -> Dataset:
    """The session's cases, as `predict --input` finds them. Raises InputError: none."""
    try:
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


def _nifti_names(session: Session) -> list[str]:
    with session.lock:
        return sorted(n for n in session.files if n not in session.arriving and nifti_stem(n) is not None)


def _name_of(session: Session, path: str) -> str:
    return os.path.relpath(path, session.scans)


def _guess(names: list[str]) -> dict[str, str]:
    """Modality -> the one file whose words tell it."""
    told: dict[str, list[str]] = {}
    for name in names:
        modality = own_scans.modality_in(nifti_stem(name))
        if modality:
            told.setdefault(modality, []).append(name)
    return {modality: found[0] for modality, found in told.items() if len(found) == 1}
