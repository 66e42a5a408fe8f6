"""Which case a prediction is of, by its name alone: CASE, CASE_seg, CASE_pred, CASE/seg and the like.

Refuses scans, and what names no case of the reference stays as it is called: whoever pairs them says so. Opens
no image.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tfbrats.datasets import case_names, not_experts
from tfbrats.datasets.references import BIDS_SEGMENTATION, PREDICTION, SEGMENTATION
from tfbrats.datasets.scan_names import nifti_stem
from tfbrats.machine import files
from tfbrats.terminal.wording import counted

_WORD = f"(?:{'|'.join((*SEGMENTATION, BIDS_SEGMENTATION, *PREDICTION))})"
_ENDING = re.compile(rf"^(.+?)(?:[_\-.]label-[a-z0-9]+)?((?:[_\-.]{_WORD})+)$", re.IGNORECASE)
_BARE = re.compile(rf"^{_WORD}(?:[_\-.]{_WORD})*$", re.IGNORECASE)
_SEPARATORS = ("_", "-", ".")


@dataclass(frozen=True)
class Named:
    """Predictions by case id, or by the name of the file where that is no case of the reference.

    Attributes:
        scans: files that are named as scans; in none of the predictions.
        faults: what is there twice.
        notes: names that were read as a case though they say more.
    """

    predictions: dict[str, str]
    scans: tuple[str, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def read(listing: Sequence[tuple[str, str]], case_ids: Iterable[str]) -> Named:
    """The case of each file.

    Args:
        listing: (name without .nii[.gz], path) of each.
        case_ids: of the references.
    """
    of_case = by_letters(list(case_ids))
    scans = tuple(
        path
        for stem, path in listing
        if case_names.spelt_alike(stem) not in of_case and not_experts.is_scan(path)
    )
    of_scans = set(scans)
    named = [(stem, path) for stem, path in listing if path not in of_scans]
    stems = {stem for stem, _ in named}
    predictions: dict[str, str] = {}
    faults: list[str] = []
    notes: list[str] = []
    longer: list[tuple[str, str]] = []
    for stem, path in named:
        case_id = of_case.get(case_names.spelt_alike(stem))
        if case_id is None or (case_id != stem and case_id in stems):
            longer.append((stem, path))
            continue
        if case_id != stem:
            notes.append(
                f"{case_id}: its prediction is called {files.name(path)}; its letters are only spelt otherwise"
            )
        _put(predictions, case_id, path, faults)
    read_so: dict[str, str] = {}
    exact = set(predictions)
    for stem, path in longer:
        case_id = of_case.get(case_names.spelt_alike(_bare(stem, path)))
        if case_id is None or case_id in exact:
            _put(predictions, stem, path, faults)
        else:
            _put(predictions, case_id, path, faults)
            read_so[case_id] = path
    if read_so:
        first, path = next(iter(read_so.items()))
        shown = path if _BARE.match(nifti_stem(path)) else files.name(path)
        more = f", and {len(read_so) - 1} more so" if len(read_so) > 1 else ""
        notes.append(f"{first}: its prediction is called {shown}{more}: read by the case id in the name")
    return Named(predictions, scans, tuple(faults), tuple(notes))


def _put(predictions: dict[str, str], name: str, path: str, faults: list[str]) -> None:
    if name in predictions:
        faults.append(f"{name}: predicted twice, {predictions[name]} and {path}. Keep one.")
    predictions.setdefault(name, path)


def _bare(stem: str, path: str) -> str:
    """A name without the words for a segmentation; the folder's for one that has no others."""
    if _BARE.match(stem):
        return files.name(files.parent(path))
    match = _ENDING.match(stem)
    return match.group(1) if match else stem


def by_letters(names: Sequence[str]) -> dict[str, str]:
    """Case id in small letters -> case id; those that only letter case tells apart are left out."""
    alike = Counter(case_names.spelt_alike(name) for name in names)
    return {case_names.spelt_alike(name): name for name in names if alike[case_names.spelt_alike(name)] == 1}


def scans_fault(scans: Sequence[str], folder: str | os.PathLike) -> str:
    """What is wrong with a folder of predictions that holds scans."""
    return (
        f"{folder}: holds {counted(len(scans), 'scan')}, e.g. {files.name(scans[0])}; expected predictions "
        "alone. --prediction takes the folder of predictions, --reference the data set: the two may be "
        "exchanged."
    )


def common_ending(extra: Collection[str], missing: Collection[str]) -> str:
    """What all of several names have behind the id of a case that lacks a prediction; "" if no one thing."""
    ending_of: dict[str, str] = {}
    for name in extra:
        longest = max((case_id for case_id in missing if name.startswith(case_id)), key=len, default=None)
        if longest is None or longest in ending_of:
            return ""
        ending_of[longest] = name[len(longest) :]
    endings = set(ending_of.values())
    if len(ending_of) < 2 or len(endings) > 1 or not next(iter(endings)).startswith(_SEPARATORS):
        return ""
    return endings.pop()
