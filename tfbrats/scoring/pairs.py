"""Which prediction belongs to which reference, by names alone. Opens no image.

Refuses to score less than was asked for in silence: what is missing, extra or doubled is listed, all of it.
References that are masks alone, without images, `masks_alone` finds.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfbrats.datasets import layouts, naming, not_experts
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, LabelSchema
from tfbrats.machine import files
from tfbrats.scoring import masks_alone, prediction_names


@dataclass(frozen=True)
class Pair:
    """One case to score.

    Attributes:
        prediction: path of the segmentation to score; None where there is none and an empty one stands for it.
        reference: path of the expert's.
        schema: how the reference writes tissues, and the prediction where nothing else is said.
        source: the reference's own case with its images, or None where the reference is masks alone.
        names_say: what the reference's names tell, where `schema` was given instead; None if nothing.
        prediction_schema: how the prediction writes tissues; None for as the reference.
    """

    case_id: str
    prediction: str | None
    reference: str
    schema: LabelSchema
    source: layouts.CaseFiles | None = None
    names_say: LabelSchema | None = None
    prediction_schema: LabelSchema | None = None

    @property
    def written_in(self) -> LabelSchema:
        """How the prediction writes tissues."""
        return self.prediction_schema or self.schema


@dataclass(frozen=True)
class Matched:
    """What `match` found: cases to score, all that stands in the way, and what was unusual."""

    pairs: tuple[Pair, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Case ids of the pairs that have no prediction."""
        return tuple(pair.case_id for pair in self.pairs if pair.prediction is None)


def match(
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    edition: str | None = None,
    cases: Sequence[str] | None = None,
    allow_missing: bool = False,
    named_by: str = "--cases",
) -> Matched:
    """Pairs of files with one case id, by names alone; no image is opened.

    Args:
        prediction: folder of CASE.nii.gz or CASE.nii; CASE_seg, CASE_pred and CASE/seg are read with a note.
        reference: a data set, or masks alone: CASE[_seg].nii[.gz] in one folder or in folders of their own.
        edition: overrides what the reference's names say.
        cases: only these case ids.
        allow_missing: a reference without a prediction is paired with None instead of being a fault.
        named_by: what gave `cases`, for errors.

    Raises:
        InputError: a folder is not there or holds nothing that could be meant.
    """
    listing = _predictions(prediction)
    references, more, notes = _references(reference, edition, [stem for stem, _ in listing])
    named = prediction_names.read(listing, [*references, *more])
    predicted, faults = named.predictions, list(named.faults)
    notes += named.notes
    of_case = prediction_names.by_letters([*references, *more])
    if cases is not None:
        cases = [of_case.get(naming.spelt_alike(name), name) for name in cases]
        faults += [
            f"{name}: named by {named_by}, but not in {reference}."
            for name in cases
            if name not in references and name not in more
        ]
        wanted = set(cases)
        references, predicted, more = (
            {name: value for name, value in entries.items() if name in wanted}
            for entries in (references, predicted, more)
        )
    faults += [text for texts in more.values() for text in texts]
    if named.scans and not predicted:
        raise InputError(prediction_names.scans_fault(named.scans, prediction))
    if named.scans and cases is None:
        faults.append(prediction_names.scans_fault(named.scans, prediction))
    extra = {name: path for name, path in predicted.items() if name not in references and name not in more}
    missing = [name for name in references if name not in predicted]
    faults += _unpaired(prediction, reference, extra, missing, allow_missing)
    faults += [
        f"{name}: {path} is its own reference: prediction and reference are one file. Give the folder of what "
        "a model predicted."
        for name, path in predicted.items()
        if name in references and files.canonical(path) == files.canonical(references[name].reference)
    ]
    pairs = [
        dataclasses.replace(pair, prediction=predicted.get(name))
        for name, pair in references.items()
        if name in predicted or allow_missing
    ]
    if not pairs and not faults:
        raise InputError(f"{prediction}: none of its cases is wanted; nothing to score.")
    return Matched(tuple(pairs), tuple(faults), tuple(notes))


def _unpaired(
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    extra: Mapping[str, str],
    missing: Sequence[str],
    allow_missing: bool,
) -> list[str]:
    """Faults: references without a prediction, and predictions without a reference.

    Raises:
        InputError: what all their names have behind the case id explains both.
    """
    if ending := prediction_names.common_ending(extra, missing):
        raise InputError(
            f"{prediction}: its files have {ending} behind the case id; expected CASE.nii.gz. Rename them."
        )
    faults = [
        f"{name}: no prediction; expected {files.join(prediction, name)}.nii.gz. Predict it, or pass "
        "--allow-missing to score it as an empty one."
        for name in missing
        if not allow_missing
    ]
    return faults + [
        f"{name}: {path} has no reference in {reference}. Remove it, or name the cases with --cases or "
        "--splits."
        for name, path in extra.items()
    ]


def references_of(reference: str | os.PathLike, edition: str | None, cases: Sequence[str]) -> list[Pair]:
    """The references of cases before there are predictions.

    Raises:
        InputError: one of the cases could not be scored later.
    """
    references, faults, _ = _references(reference, edition, cases)
    found = [text for name in cases for text in faults.get(name, [])]
    found += [f"{name}: not in {reference}." for name in cases if name not in references and name not in faults]
    if found:
        raise InputError(
            f"{reference}: no reference for {len(found)} of {len(cases)} cases\n  " + "\n  ".join(found)
        )
    return [references[name] for name in cases]


def _predictions(folder: str | os.PathLike) -> list[tuple[str, str]]:
    """(name without .nii[.gz], path) of each file that may be a prediction."""
    listing = [
        (stem, path)
        for stem, path in masks_alone.niftis(folder)
        if not stem.endswith("_probabilities")  # tfbrats.predict writes them beside, when asked
    ]
    if not listing:
        raise InputError(f"{folder}: no predictions; expected files CASE.nii.gz or CASE.nii.")
    return listing


def _references(
    folder: str | os.PathLike, edition: str | None, names: Sequence[str]
) -> tuple[dict[str, Pair], dict[str, list[str]], list[str]]:
    """References by case id (their `prediction` still None), faults by case id, and notes.

    Args:
        names: of predictions or cases: they tell where the id ends in the name of a mask.
    """
    not_experts.check(folder)
    try:
        dataset = layouts.find(folder, edition)
    except InputError:
        masks = masks_alone.find(folder, edition, names) if edition in (None, *EDITIONS) else None
        if masks is None or masks.has_images or not masks.references:
            raise
        return {mask.case_id: _of_mask(mask) for mask in masks.references}, {}, list(masks.notes)
    references: dict[str, Pair] = {}
    faults: dict[str, list[str]] = {}
    names_say = _names_say(folder, edition)
    for entry in dataset.cases:
        case_id = entry.case_id
        if entry.problems:
            faults[case_id] = [f"{case_id}: {problem}" for problem in entry.problems]
        elif entry.label:
            say = names_say.get(case_id)
            references[case_id] = Pair(case_id, None, entry.label, entry.schema, entry, names_say=say)
        elif entry.label_expected:
            faults[case_id] = [f"{case_id}: no segmentation in {folder}. Add or rename its file."]
    notes = [f"{entry.case_id}: {note}" for entry in dataset.cases if entry.label for note in entry.notes]
    # Of some cases the images may be elsewhere.
    used = {path for entry in dataset.cases for path in entry.paths()}
    elsewhere = masks_alone.beside(folder, edition, used, [entry.case_id for entry in dataset.cases])
    references |= {mask.case_id: _of_mask(mask) for mask in elsewhere}
    if elsewhere:
        more = f" and {len(elsewhere) - 1} more" if elsewhere[1:] else ""
        notes.append(
            f"the reference of {elsewhere[0].case_id}{more} is {elsewhere[0].path}; its scans lie elsewhere"
        )
    if not references:
        raise InputError(f"{folder}: no segmentation to score against; cases found: {len(dataset.cases)}.")
    return references, faults, notes


def _of_mask(mask: masks_alone.Mask) -> Pair:
    return Pair(mask.case_id, None, mask.path, mask.schema, names_say=mask.names_say)


def _names_say(folder: str | os.PathLike, edition: str | None) -> dict[str, LabelSchema]:
    """Case id -> the table that a data set tells by itself, where another was given; {} if it tells none."""
    if edition is None:
        return {}
    try:
        return {entry.case_id: entry.schema for entry in layouts.find(folder).cases}
    except InputError:
        return {}
