"""Which prediction belongs to which reference, by names alone. Opens no image.

Refuses to score less than was asked for in silence: what is missing, extra or doubled is listed, all of it.
References that are masks alone, without images, `masks_alone` finds.
"""

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tfbrats.datasets import case_names, layouts, not_experts
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, LabelSchema
from tfbrats.machine import files
from tfbrats.predictions import results
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
    """Cases to score, all that stands in the way, and what was unusual."""

    pairs: tuple[Pair, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Case ids of the pairs that have no prediction."""
        return tuple(pair.case_id for pair in self.pairs if pair.prediction is None)


@dataclass(frozen=True)
class _References:
    """References by case id, their `prediction` still None.

    Attributes:
        faults: by case id: why it has no reference.
    """

    pairs: dict[str, Pair]
    faults: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def case_ids(self) -> list[str]:
        return [*self.pairs, *self.faults]

    def only(self, case_ids: Collection[str]) -> "_References":
        pairs = {case_id: pair for case_id, pair in self.pairs.items() if case_id in case_ids}
        faults = {case_id: texts for case_id, texts in self.faults.items() if case_id in case_ids}
        return _References(pairs, faults, self.notes)


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
    references = _references(reference, edition, [stem for stem, _ in listing])
    named = prediction_names.read(listing, references.case_ids)
    predicted, faults = named.predictions, list(named.faults)
    if cases is not None:
        of_letters = prediction_names.by_letters(references.case_ids)
        chosen = [of_letters.get(case_names.spelt_alike(case_id), case_id) for case_id in cases]
        there = set(references.case_ids)
        faults += [
            f"{case_id}: named by {named_by}, but not in {reference}."
            for case_id in chosen
            if case_id not in there
        ]
        wanted = set(chosen)
        references = references.only(wanted)
        predicted = {case_id: path for case_id, path in predicted.items() if case_id in wanted}
    faults += [text for texts in references.faults.values() for text in texts]
    if named.scans and not predicted:
        raise InputError(prediction_names.scans_fault(named.scans, prediction))
    if named.scans and cases is None:
        faults.append(prediction_names.scans_fault(named.scans, prediction))
    faults += _unpaired(prediction, reference, predicted, references, allow_missing)
    faults += _own_references(predicted, references)
    pairs = [
        dataclasses.replace(pair, prediction=predicted.get(case_id))
        for case_id, pair in references.pairs.items()
        if case_id in predicted or allow_missing
    ]
    if not pairs and not faults:
        raise InputError(f"{prediction}: none of its cases is wanted; nothing to score.")
    return Matched(tuple(pairs), tuple(faults), (*references.notes, *named.notes))


def _unpaired(
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    predicted: Mapping[str, str],
    references: _References,
    allow_missing: bool,
) -> list[str]:
    """Faults: references without a prediction, and predictions without a reference.

    Raises:
        InputError: what all their names have behind the case id explains both.
    """
    there = set(references.case_ids)
    extra = {case_id: path for case_id, path in predicted.items() if case_id not in there}
    missing = [case_id for case_id in references.pairs if case_id not in predicted]
    if ending := prediction_names.common_ending(extra, missing):
        raise InputError(
            f"{prediction}: its files have {ending} behind the case id; expected CASE.nii.gz. Rename them."
        )
    faults = [
        f"{case_id}: no prediction; expected {files.join(prediction, case_id)}.nii.gz. Predict it, or pass "
        "--allow-missing to score it as an empty one."
        for case_id in missing
        if not allow_missing
    ]
    return faults + [
        f"{case_id}: {path} has no reference in {reference}. Remove it, or name the cases with --cases or "
        "--splits."
        for case_id, path in extra.items()
    ]


def _own_references(predicted: Mapping[str, str], references: _References) -> list[str]:
    """Faults: a prediction and its reference that are one file."""
    return [
        f"{case_id}: {path} is its own reference: prediction and reference are one file. Give the folder of "
        "what a model predicted."
        for case_id, path in predicted.items()
        if case_id in references.pairs
        and files.canonical(path) == files.canonical(references.pairs[case_id].reference)
    ]


def references_of(reference: str | os.PathLike, edition: str | None, cases: Sequence[str]) -> list[Pair]:
    """The references of cases before there are predictions.

    Raises:
        InputError: one of the cases could not be scored later.
    """
    references = _references(reference, edition, cases)
    there = set(references.case_ids)
    faults = [text for case_id in cases for text in references.faults.get(case_id, [])]
    faults += [f"{case_id}: not in {reference}." for case_id in cases if case_id not in there]
    if faults:
        raise InputError(
            f"{reference}: no reference for {len(faults)} of {len(cases)} cases\n  " + "\n  ".join(faults)
        )
    return [references.pairs[case_id] for case_id in cases]


def _predictions(folder: str | os.PathLike) -> list[tuple[str, str]]:
    """(name without .nii[.gz], path) of each file that may be a prediction."""
    listing = [
        (stem, path)
        for stem, path in masks_alone.niftis(folder)
        # tfbrats predict writes these beside, when asked.
        if not stem.endswith(("_probabilities", *results.UNCERTAINTY.values()))
    ]
    if not listing:
        raise InputError(f"{folder}: no predictions; expected files CASE.nii.gz or CASE.nii.")
    return listing


def _references(folder: str | os.PathLike, edition: str | None, names: Sequence[str]) -> _References:
    """The references of a data set, or masks alone.

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
        return _References({mask.case_id: _of_mask(mask) for mask in masks.references}, notes=list(masks.notes))
    references = _of_dataset(dataset, folder)
    # Of some cases the images may be elsewhere.
    used = {path for entry in dataset.cases for path in entry.paths()}
    elsewhere = masks_alone.beside(folder, edition, used, [entry.case_id for entry in dataset.cases])
    references.pairs.update({mask.case_id: _of_mask(mask) for mask in elsewhere})
    if elsewhere:
        more = f" and {len(elsewhere) - 1} more" if elsewhere[1:] else ""
        references.notes.append(
            f"the reference of {elsewhere[0].case_id}{more} is {elsewhere[0].path}; its scans lie elsewhere"
        )
    if not references.pairs:
        raise InputError(f"{folder}: no segmentation to score against; cases found: {len(dataset.cases)}.")
    return references


def _of_dataset(dataset: layouts.Dataset, folder: str | os.PathLike) -> _References:
    """The experts' masks that lie with their scans."""
    references = _References({})
    for entry in dataset.cases:
        case_id = entry.case_id
        if entry.problems:
            references.faults[case_id] = [f"{case_id}: {problem}" for problem in entry.problems]
        elif entry.label:
            names_say = dataset.names_say.get(case_id)
            references.pairs[case_id] = Pair(case_id, None, entry.label, entry.schema, entry, names_say)
        elif entry.label_expected:
            references.faults[case_id] = [f"{case_id}: no segmentation in {folder}. Add or rename its file."]
        if entry.label:
            references.notes.extend(f"{case_id}: {note}" for note in entry.notes)
    return references


def _of_mask(mask: masks_alone.Mask) -> Pair:
    return Pair(mask.case_id, None, mask.path, mask.schema, names_say=mask.names_say)
