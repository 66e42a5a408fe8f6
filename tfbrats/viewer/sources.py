"""From files to a page: the case, whose prediction, against which reference, by which model.

A segmentation is read in the label values that the case's name tells, else in those of the model's card that
lies beside it; where neither tells, --edition has to.
"""

import os
from collections.abc import Sequence

import numpy as np

from tfbrats.cases import case
from tfbrats.cases.case import Case
from tfbrats.datasets import layouts
from tfbrats.datasets.layouts import CaseFiles, Dataset
from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES, LabelSchema
from tfbrats.machine import files
from tfbrats.predictions import model_card, own_scans
from tfbrats.predictions.model_card import ModelCard
from tfbrats.viewer import page

ENDINGS = (".nii.gz", ".nii")
_SHOWN = 8  # cases that a message names


def the_case(folder: str, case_ids: Sequence[str] | None, edition: str | None) -> tuple[CaseFiles, Dataset]:
    """The one case that a person means, by names alone, and the data set that it was found in.

    Raises:
        InputError: none, or several.
    """
    dataset = own_scans.find(folder, edition)
    entries = layouts.select(dataset, case_ids)
    if len(entries) == 1:
        return entries[0], dataset
    names = sorted(entry.case_id for entry in entries)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise InputError(
        f"{folder}: {len(names)} cases: {', '.join(names[:_SHOWN])}{more}. Give one case's folder, or name one "
        "with --case."
    )


def prediction_of(case_id: str, prediction: str) -> str:
    """The file of a case's segmentation: the one that is named, or the case's in a folder of results.

    Raises:
        InputError: there is none.
    """
    if not files.is_folder(prediction):
        if not files.exists(prediction):
            raise InputError(f"--prediction {prediction}: no such file.")
        return prediction
    if path := _in_folder(prediction, case_id):
        return path
    raise InputError(f"--prediction {prediction}: no {case_id}{ENDINGS[0]} in it. Name the file.")


def reference_of(case_id: str, reference: str, edition: str | None) -> str:
    """The file that a case is held against: the one that is named, or the case's in a folder or a data set.

    Raises:
        InputError: there is none.
    """
    if not files.is_folder(reference):
        return reference
    if path := _in_folder(reference, case_id):
        return path
    labels = {entry.case_id: entry.label for entry in layouts.find(reference, edition).cases}
    if label := labels.get(case_id):
        return label
    raise InputError(f"--reference {reference}: no segmentation of {case_id} in it. Name the file.")


def _in_folder(folder: str, case_id: str) -> str | None:
    """The file in a folder that is called by the case; None where there is none."""
    paths = (files.join(folder, f"{case_id}{ending}") for ending in ENDINGS)
    return next(filter(files.exists, paths), None)


def card_beside(segmentation: str) -> ModelCard | None:
    """The card of the model that made a folder of results; None where none lies there."""
    folder = files.parent(segmentation) or "."
    return model_card.read(folder) if files.exists(files.join(folder, model_card.FILE)) else None


def write(
    output: str | os.PathLike,
    entry: CaseFiles,
    untold: bool,
    prediction: str | None = None,
    reference: str | None = None,
    card: ModelCard | None = None,
) -> Case:
    """Writes the page of one case, and gives the case.

    Args:
        output: ends in .html; replaced if it is there.
        untold: whether nothing tells how the case's own files write tissues.
        prediction: its file; with the card of its model beside it, where `card` is not given.
        reference: its file; by default the case's own segmentation.

    Raises:
        InputError: a file cannot be read, lies on another grid, or its label values are not told.
    """
    if prediction is not None and card is None:
        card = card_beside(prediction)
    own = None if untold else entry.schema
    reads_own = reference is None and entry.label is not None and own is not None
    notes = []
    if reference is None and entry.label is not None and own is None:
        notes.append(
            f"{files.name(entry.label)} is not shown: no name tells in which values it is. Give --edition."
        )
    modalities = [modality for modality in MODALITIES if modality in {name for name, *_ in entry.images}]
    loaded = case.load(entry, modalities, read_label=reads_own)
    predicted = None
    if prediction is not None:
        schema = own or (card.schema_of_labels if card else None)
        predicted = _on_grid(loaded, "--prediction", prediction, schema)
    expected = loaded.label if reads_own else None
    if reference is not None:
        expected = _on_grid(loaded, "--reference", reference, own)
    text = page.html(loaded, predicted, expected, card, notes)
    files.write_bytes(output, text.encode())
    return loaded


def _on_grid(loaded: Case, option: str, path: str, schema: LabelSchema | None) -> np.ndarray:
    """A segmentation on a case's grid: tissues, uint8 [I, J, K]."""
    if schema is None:
        raise InputError(
            f"{option} {path}: no name and no model's card tells in which label values it is. Give --edition."
        )
    if not files.exists(path):
        raise InputError(f"{option} {path}: no such file.")
    tissues, grid = case.load_label(path, schema)
    if differences := case.grid_differences(grid, loaded.grid):
        raise InputError(
            f"{option} {path}: {'; '.join(differences)} of the case's scans. Write it on their grid."
        )
    return tissues
