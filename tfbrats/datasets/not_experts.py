"""Which files a program predicted, by what lies around them: they are never scored against as experts' masks.

    CASE.json beside CASE.nii.gz, as tfbrats writes it      that file
    tfbrats.json, or nnU-Net's record of a prediction       all files of its folder, and of the folders in it

A folder that holds scans too, however deep, is a data set: a record there counts for its own files alone, and
not for those that are named as masks. Opens no image; of JSON files, those beside a mask.
"""

import os
import re
from collections.abc import Sequence

from tfbrats.datasets import decathlon, references
from tfbrats.datasets.scan_names import beginning_of_listing, nifti_stem, scan_name
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.terminal.wording import counted

_RECORDS = {"tfbrats.json": "tfbrats", "predict_from_raw_data_args.json": "nnU-Net"}


def is_scan(path: str) -> bool:
    """Whether a file is named as a scan."""
    return scan_name(nifti_stem(path)) is not None or decathlon.is_scan(path)


def predicted(listing: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Path -> the program that predicted it, and the file that says so.

    Args:
        listing: all paths of a folder.
    """
    niftis = [path for path in listing if nifti_stem(path) is not None]
    scans = [path for path in niftis if is_scan(path)]
    origins: dict[str, tuple[str, str]] = {}
    for record in (path for path in listing if files.name(path) in _RECORDS):
        folder = files.parent(record)
        has_scans = any(path.startswith(f"{folder}/") for path in scans)
        for path in niftis:
            is_its = files.parent(path) == folder and not is_named_mask(path)
            if is_its if has_scans else path.startswith(f"{folder}/"):
                origins.setdefault(path, (_RECORDS[files.name(record)], record))
    present = set(listing)
    for path in niftis:
        beside = files.join(files.parent(path), f"{nifti_stem(path)}.json")
        if beside in present and path not in origins and is_own_record(beside):
            origins[path] = ("tfbrats", beside)
    return {path: origin for path, origin in origins.items() if path not in scans}


def check(folder: str | os.PathLike) -> None:
    """Raises InputError where masks without scans are what a program predicted: no reference."""
    listing = list(files.walk(folder))
    if any(nifti_stem(path) is not None and is_scan(path) for path in listing):
        return  # a data set: its layout decides
    by_program: dict[tuple[str, str], int] = {}
    for program, record in predicted(listing).values():
        key = (program, files.parent(record))
        by_program[key] = by_program.get(key, 0) + 1
    if by_program:
        each = [
            f"{where}: {counted(n, 'segmentation')} by {program}" for (program, where), n in by_program.items()
        ]
        more = f" and {len(each) - 3} more folders" if each[3:] else ""
        raise InputError(
            f"{'; '.join(each[:3])}{more}, as the records there say: a prediction is no reference. Give the "
            "experts' masks."
        )


def objection_of_folders(path: str, root: str | os.PathLike) -> str | None:
    """What the names of the folders between a root and a file say against an expert's mask of the tumour."""
    for name in _folders(path, root):
        objection = references.tells_other(references.words_of(name))
        if objection is not None and not _is_of_raw_data(name):
            return f"the folder {name}: {objection}"
    return None


def telling_folders(paths: Sequence[str], root: str | os.PathLike) -> list[str]:
    """Notes on folders, the root too, whose names say that a program drew the masks that lie there."""
    names = {
        name: None for path in paths for name in (files.name(beginning_of_listing(root)), *_folders(path, root))
    }
    return [
        f"the folder's name {name} speaks of what a program predicts: the scores are against experts only if "
        "experts drew its masks"
        for name in names
        if any(map(references.tells_program, references.words_of(name))) and not _is_of_raw_data(name)
    ]


def _folders(path: str, root: str | os.PathLike) -> list[str]:
    below = files.parent(path).removeprefix(beginning_of_listing(root))
    return [name for name in below.split("/") if name]


def _is_of_raw_data(name: str) -> bool:
    """Whether a folder is nnUNet_raw or nnUNet_preprocessed, which hold what experts drew."""
    return re.match(r"nnunet_(?:raw|preprocessed)", name, re.IGNORECASE) is not None


def is_named_mask(path: str) -> bool:
    """Whether the end of a file's name speaks of a mask: results are named as their case alone."""
    return references.is_mask_like(references.words_of(nifti_stem(path))[-1:])


def is_own_record(path: str) -> bool:
    """Whether a JSON file is what tfbrats writes beside a segmentation."""
    try:
        return references.is_own_record(files.read_json(path))
    except InputError:  # no JSON: somebody else's
        return False
