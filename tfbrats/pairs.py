"""Which prediction belongs to which reference, by names alone. Opens no image.

Refuses to score less than was asked for in silence: what is missing, extra or doubled is listed, all of it.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tfbrats import files, layouts, naming
from tfbrats.command import InputError
from tfbrats.labels import EDITIONS, LabelSchema, modality_named


@dataclass(frozen=True)
class Pair:
    """One case to score.

    Attributes:
        prediction: path of the segmentation to score; None where there is none and an empty one stands for it.
        reference: path of the expert's.
        schema: how both files write tissues.
        source: the reference's own case with its images, or None where the reference is masks alone.
    """

    case_id: str
    prediction: str | None
    reference: str
    schema: LabelSchema
    source: layouts.CaseFiles | None = None


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
        prediction: folder of CASE.nii.gz or CASE.nii.
        reference: a data set, or a folder of CASE[_seg].nii[.gz].
        edition: overrides what the reference's names say.
        cases: only these case ids.
        allow_missing: a reference without a prediction is paired with None instead of being a fault.
        named_by: what gave `cases`, for errors.

    Raises:
        InputError: a folder is not there or holds nothing that could be meant.
    """
    predicted, faults = _predictions(prediction)
    references, more = _references(reference, edition)
    notes = [f"{r.case_id}: {note}" for r in references.values() if r.source for note in r.source.notes]
    if cases is not None:
        faults += [
            f"{name}: named by {named_by}, but not in {reference}."
            for name in cases
            if name not in references and name not in more
        ]
        references = {name: found for name, found in references.items() if name in cases}
        predicted = {name: path for name, path in predicted.items() if name in cases}
        more = {name: texts for name, texts in more.items() if name in cases}
    faults += [text for texts in more.values() for text in texts]
    if not allow_missing:
        faults += [
            f"{name}: no prediction; expected {files.join(prediction, name)}.nii.gz. Predict it, or pass "
            "--allow-missing to score it as an empty one."
            for name in references
            if name not in predicted
        ]
    faults += [
        f"{name}: {path} has no reference in {reference}. Remove it, or name the cases with --cases or "
        "--splits."
        for name, path in predicted.items()
        if name not in references and name not in more
    ]
    pairs = [
        dataclasses.replace(found, prediction=predicted.get(name))
        for name, found in references.items()
        if name in predicted or allow_missing
    ]
    if not pairs and not faults:
        raise InputError(f"{prediction}: none of its cases is wanted; nothing to score.")
    return Matched(tuple(pairs), tuple(faults), tuple(notes))


def check_reference(reference: str | os.PathLike, edition: str | None, cases: Sequence[str]) -> None:
    """Raises InputError, before there are predictions, if one of the cases could not be scored later."""
    references, faults = _references(reference, edition)
    found = [text for name in cases for text in faults.get(name, [])]
    found += [f"{name}: not in {reference}." for name in cases if name not in references and name not in faults]
    if found:
        raise InputError(
            f"{reference}: no reference for {len(found)} of {len(cases)} cases\n  " + "\n  ".join(found)
        )


def _niftis(folder: str | os.PathLike) -> Iterator[tuple[str, str]]:
    """(name without .nii[.gz], path) of every image, hidden files left out."""
    for path in files.walk(folder):
        stem = layouts.nifti_stem(path)
        if stem is not None and not stem.startswith("."):
            yield stem, path


def _predictions(folder: str | os.PathLike) -> tuple[dict[str, str], list[str]]:
    found: dict[str, str] = {}
    faults = []
    for name, path in _niftis(folder):
        if name.endswith("_probabilities"):  # tfbrats.predict writes them beside, when asked
            continue
        if name in found:
            faults.append(f"{name}: predicted twice, {found[name]} and {path}. Keep one.")
        found.setdefault(name, path)
    if not found:
        raise InputError(f"{folder}: no predictions; expected files CASE.nii.gz or CASE.nii.")
    return found, faults


def _references(folder: str | os.PathLike, edition: str | None) -> tuple[dict[str, Pair], dict[str, list[str]]]:
    """References by case id (their `prediction` still None), and faults by case id."""
    layouts.check_experts(folder)
    try:
        dataset = layouts.find(folder, edition)
    except InputError:
        masks = _masks_alone(folder, edition) if edition in (None, *EDITIONS) else {}
        if not masks:
            raise
        return masks, {}
    found, faults = {}, {}
    for one in dataset.cases:
        if one.problems:
            faults[one.case_id] = [f"{one.case_id}: {problem}" for problem in one.problems]
        elif one.label:
            found[one.case_id] = Pair(one.case_id, None, one.label, one.schema, one)
        elif one.label_expected:
            faults[one.case_id] = [f"{one.case_id}: no segmentation in {folder}. Add or rename its file."]
    if not found:
        raise InputError(f"{folder}: no segmentation to score against; cases found: {len(dataset.cases)}.")
    return found, faults


def _masks_alone(folder: str | os.PathLike, edition: str | None) -> dict[str, Pair]:
    """CASE[_seg].nii[.gz] files that lie side by side; none where the folder holds anything else."""
    niftis = list(_niftis(folder))
    kinds = [modality_named(re.split(r"[_\-.]", name)[-1]) for name, _ in niftis]
    if any(kinds) or len({files.parent(path) for _, path in niftis}) > 1:
        return {}
    masks: dict[str, Pair] = {}
    for name, path in niftis:
        case_id = re.sub(r"[_-]seg$", "", name, flags=re.IGNORECASE)
        schema = EDITIONS[edition] if edition else naming.edition_of(case_id, files.parent(path))
        if schema is None:
            raise InputError(
                f"{path}: its name does not tell which edition's label values it holds. Pass --edition with "
                f"one of {', '.join(EDITIONS)}."
            )
        if case_id in masks:
            raise InputError(f"{case_id}: two references, {masks[case_id].reference} and {path}. Keep one.")
        masks[case_id] = Pair(case_id, None, path, schema)
    return masks
