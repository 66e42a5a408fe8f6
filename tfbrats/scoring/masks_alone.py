"""References that are masks without images: which file is which case's, by names alone. Opens no image.

    CASE.nii.gz, CASE_seg.nii.gz, CASE-seg.nii.gz    side by side, or deeper (labelsTr/CASE.nii.gz)
    CASE/CASE_seg.nii.gz, CASE/seg.nii.gz            each in a folder of its own

Their table is told by the case id, or by nnU-Net's dataset.json beside or above them. Hidden files are passed
over; a file beside a case's mask that is another thing of that case (CASE_brain_mask) is left out, with a note.
"""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from tfbrats.datasets import case_names, not_experts, references
from tfbrats.datasets.label_names import schema_of_table
from tfbrats.datasets.references import BIDS_SEGMENTATION, NAMELESS_MASK, SEGMENTATION
from tfbrats.datasets.scan_names import beginning_of_listing, nifti_stem
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, LabelSchema, modality_named
from tfbrats.machine import files

_ENDING = re.compile(
    rf"^(?P<case>.+?)[_\-.](?:tumou?r[_-])?(?:{'|'.join((*SEGMENTATION, BIDS_SEGMENTATION))})"
    r"(?:_GlistrBoost(?:_ManuallyCorrected)?)?$",  # the tool that drew some masks of 2017
    re.IGNORECASE,
)
# Of a mask that is called by what it is, the folder tells the case.
_NAMELESS = re.compile(
    rf"^(?:tumou?r[_-])?(?:{'|'.join((*SEGMENTATION, *NAMELESS_MASK))}|ground[_-]?truth)$", re.IGNORECASE
)


@dataclass(frozen=True)
class Mask:
    """One reference.

    Attributes:
        schema: how it writes tissues: the edition given, else what its names tell.
        names_say: what its names tell where an edition was given; None if nothing.
    """

    case_id: str
    path: str
    schema: LabelSchema
    names_say: LabelSchema | None = None


@dataclass(frozen=True)
class Masks:
    """What a folder holds.

    Attributes:
        has_images: there are modalities too, so that it is a data set.
        notes: which files were left out, and why.
    """

    references: tuple[Mask, ...]
    has_images: bool
    notes: tuple[str, ...]


def niftis(folder: str | os.PathLike) -> Iterator[tuple[str, str]]:
    """(name without .nii[.gz], path) of every image, hidden files and what lies in hidden folders left out."""
    yield from _visible(folder, files.walk(folder))


def _visible(folder: str | os.PathLike, listing: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The images among all paths of a folder, as `niftis`."""
    root = beginning_of_listing(folder)
    for path in listing:
        stem = nifti_stem(path)
        below = path.removeprefix(root) if path.startswith(root) else files.name(path)
        if stem is not None and not any(part.startswith(".") for part in below.split("/")):
            yield stem, path


def find(folder: str | os.PathLike, edition: str | None = None, case_ids: Collection[str] = ()) -> Masks:
    """Every mask under a folder that holds nothing else.

    Args:
        edition: overrides what the names tell.
        case_ids: which there may be, as predictions are called: they tell where the id ends in CASE_gt.

    Raises:
        InputError: two masks of one case, or names that do not tell the edition.
    """
    named = list(niftis(folder))
    if any(modality_named(re.split(r"[_\-.]", stem)[-1]) for stem, _ in named):
        return Masks((), True, ())
    by_folder: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for stem, path in named:
        by_folder[files.parent(path)].append((stem, path))
    left_out: list[str] = []
    masks: dict[str, Mask] = {}
    for parent, members in by_folder.items():
        for case_id, path in _cases(parent, members, left_out, case_ids):
            if case_id in masks:
                raise InputError(f"{case_id}: two references, {masks[case_id].path} and {path}. Keep one.")
            masks[case_id] = _mask(case_id, path, edition)
    more = f" and {len(left_out) - 1} more" if left_out[1:] else ""
    notes = (f"{left_out[0]}{more}: not taken for a tumour's mask, left out",) if left_out else ()
    notes += tuple(not_experts.telling_folders([mask.path for mask in masks.values()], folder))
    return Masks(tuple(masks.values()), False, notes)


def beside(
    folder: str | os.PathLike, edition: str | None, used: Collection[str], with_scans: Collection[str]
) -> list[Mask]:
    """Masks named CASE_seg in a data set whose own cases use other files: those without images.

    What a program predicted is none, by the files around it or the folders' names.

    Args:
        used: paths that belong to cases of the data set.
        with_scans: case ids of the data set, whose references its layout has decided.

    Raises:
        InputError: names that do not tell the edition.
    """
    masks: dict[str, Mask] = {}
    settled = {case_names.spelt_alike(case_id) for case_id in with_scans}
    listing = list(files.walk(folder))
    predicted = not_experts.predicted(listing)
    for stem, path in _visible(folder, listing):
        case_id = _case_of(stem)
        if path in used or path in predicted or case_id is None or _is_other(case_id):
            continue
        if (
            case_names.spelt_alike(case_id) in settled
            or case_id in masks
            or not_experts.objection_of_folders(path, folder)
        ):
            continue
        schema, names_say = _tables(case_id, path, edition)
        if schema is not None:  # of a data set's odd files not every name has to be understood
            masks[case_id] = Mask(case_id, path, schema, names_say)
    return list(masks.values())


def _is_other(text: str) -> bool:
    """Whether a name ends like a mask that is no tumour's (CASE_brain), or that a program drew (CASE_auto)."""
    words = references.words_of(text)
    while words and references.is_mask_like(words[-1:]) and references.tells_other(words[-1:]) is None:
        words.pop()
    return references.tells_other(words[-1:]) is not None


def _case_of(stem: str) -> str | None:
    """The case of a file that is named as a mask; None of others."""
    match = _ENDING.match(stem)
    return match["case"] if match else None


def _cases(
    parent: str, members: list[tuple[str, str]], left_out: list[str], case_ids: Collection[str]
) -> Iterator[tuple[str, str]]:
    """(case id, path) of the masks in one folder."""
    case_of = {stem: _known_case_of(stem, case_ids) or _case_of(stem) for stem, _ in members}
    named = {case_id for case_id in case_of.values() if case_id and not _is_other(case_id)}
    for stem, path in members:
        case_id = case_of[stem]
        bare = case_id or stem
        if case_id in named:
            yield case_id, path
        elif _NAMELESS.match(stem) and files.name(parent) not in named:
            yield files.name(parent), path
        elif _is_other(bare) or _is_of(bare, named):
            left_out.append(path)
        else:
            yield stem, path


def _known_case_of(stem: str, case_ids: Collection[str]) -> str | None:
    """The longest of these ids with which a name begins, if what is behind it is said of an expert's mask."""
    for case_id in sorted((name for name in case_ids if _is_of(stem, [name])), key=len, reverse=True):
        # The id tells that it is a mask of that case: "gt" or "label" need not say of what.
        if references.objection([*references.words_of(stem[len(case_id) :]), "seg"]) is None:
            return case_id
    return None


def _is_of(stem: str, case_ids: Collection[str]) -> bool:
    """Whether a name is that of one of these cases with something behind it."""
    return any(stem.startswith(case_id) and stem[len(case_id) :][:1] in ("_", "-", ".") for case_id in case_ids)


def _mask(case_id: str, path: str, edition: str | None) -> Mask:
    schema, names_say = _tables(case_id, path, edition)
    if schema is None:
        raise InputError(
            f"{path}: its name does not tell which edition's label values it holds. Pass --edition with "
            f"one of {', '.join(EDITIONS)}."
        )
    return Mask(case_id, path, schema, names_say)


def _tables(case_id: str, path: str, edition: str | None) -> tuple[LabelSchema | None, LabelSchema | None]:
    """The table by which a mask is read, and the one that its names tell, where an edition was given."""
    names_say = _of_names(case_id, path)
    return (EDITIONS[edition], names_say) if edition else (names_say, None)


def _of_names(case_id: str, path: str) -> LabelSchema | None:
    parent = files.parent(path)
    for folder in (parent, files.parent(parent)):  # labelsTr has it above, a folder of results beside
        schema = of_dataset_json(files.join(folder, "dataset.json"))
        if schema is not None:
            return schema
    return case_names.edition_of(case_id, parent)


def of_dataset_json(path: str) -> LabelSchema | None:
    """The table that a dataset.json of nnU-Net or the Decathlon states; None where it states no tumour's."""
    try:
        return schema_of_table(files.read_json(path)["labels"], path)
    except (InputError, KeyError, TypeError, ValueError, AttributeError):
        return None
