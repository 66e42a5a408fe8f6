"""Cases in BIDS: sub-001/[ses-01/]anat/sub-001_[ses-01_][ce-agent_]T1w.nii.gz, masks under derivatives/.

By names alone; opens nothing. A contrast agent (`ce-`) makes a T1w the post-contrast scan. BIDS does not say
which value of a mask stands for what.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tfbrats.datasets import references
from tfbrats.datasets.scan_names import Group, Leftovers, nifti_stem
from tfbrats.labels import modality_named
from tfbrats.machine import files

LAYOUT = "BIDS: sub-LABEL/[ses-LABEL/]anat/*_{T1w,ce-*_T1w,T2w,FLAIR}.nii[.gz], masks under derivatives/"
_NAME = re.compile(r"(sub-[A-Za-z0-9]+)((?:_[A-Za-z0-9]+-[A-Za-z0-9+]+)*)_([A-Za-z0-9]+)")
_DERIVATIVES = "derivatives"
_SOURCE = "sourcedata"
_SAYING = ("label", "desc", "seg", "atlas")  # entities that may say what a mask is of


@dataclass(frozen=True)
class _Name:
    """What a BIDS name says; `place` is the data set's folder, `pipeline` what made it (None: raw data)."""

    path: str
    place: str
    subject: str
    entities: dict[str, str]
    suffix: str
    pipeline: str | None

    @property
    def is_source(self) -> bool:
        """Whether it lies in sourcedata/, as it came from the scanner."""
        return _SOURCE in self.place.split("/")

    @property
    def case_id(self) -> str:
        session = self.entities.get("ses")
        return f"{self.subject}_ses-{session}" if session else self.subject


def _name(path: str, root: str) -> _Name | None:
    """What a file's name says; None for a name that is not of BIDS."""
    match = _NAME.fullmatch(nifti_stem(path))
    if match is None:
        return None
    below = path.removeprefix(root).strip("/").split("/")[:-1]
    derived = below.index(_DERIVATIVES) if _DERIVATIVES in below else None
    if derived is None:
        start = below.index(match.group(1)) if match.group(1) in below else len(below)
        pipeline = None
    else:
        start = derived
        pipeline = below[derived + 1] if derived + 1 < len(below) else _DERIVATIVES
    entities = dict(part.split("-", 1) for part in match.group(2).split("_") if part)
    return _Name(path, "/".join(below[:start]), match.group(1), entities, match.group(3), pipeline)


def _is_certain(name: _Name) -> bool:
    """Whether no case of other layouts would be named and placed so, as sub-007_ses-01_flair might be."""
    in_anat = files.name(files.parent(name.path)) == "anat"
    return in_anat or name.pipeline is not None or bool(set(name.entities) - {"ses"})


def split(niftis: Sequence[str], root: str) -> tuple[list[_Name], list[str]]:
    """Names of BIDS, if the folder has any that is certainly so, and the other files."""
    names = {path: _name(path, root) for path in niftis}
    if not any(name is not None and _is_certain(name) for name in names.values()):
        return [], list(niftis)
    return [name for name in names.values() if name], [path for path, name in names.items() if name is None]


def read(names: Sequence[_Name], leftovers: Leftovers) -> list[Group]:
    """The cases among files with BIDS names; what is in none of them goes to `leftovers`."""
    groups: dict[tuple[str, str], Group] = {}
    rest = []
    has_raw = any(name.pipeline is None and not name.is_source and _modality(name) for name in names)
    for name in names:
        modality = _modality(name)
        if name.is_source and has_raw:
            leftovers.add(name.path, "under sourcedata, left out; the raw data beside it are read")
        elif modality is None:
            rest.append(name)
        elif name.pipeline is not None:
            leftovers.add(
                name.path, "a scan under derivatives, left out; point to its folder to read those scans instead"
            )
        else:
            key = (name.place, name.case_id)
            groups.setdefault(key, Group(name.case_id, LAYOUT, files.parent(name.path)))
            groups[key].scans[modality].append((name.path, None, ()))
    for name in rest:
        alike = [group for (_, case_id), group in groups.items() if case_id == name.case_id]
        group = groups.get((name.place, name.case_id))
        if group is None and name.pipeline is not None and len(alike) == 1:
            (group,) = alike  # rawdata/ and derivatives/ side by side
        _deal(name, group, f"in {len(alike)} other folders" if alike else "not here", leftovers)
    return list(groups.values())


def _modality(name: _Name) -> str | None:
    modality = modality_named(name.suffix)
    return "t1ce" if modality == "t1" and name.entities.get("ce", "none") != "none" else modality


def _deal(name: _Name, group: Group | None, elsewhere: str, leftovers: Leftovers) -> None:
    by_entities = [word for key in _SAYING for word in references.words_of(name.entities.get(key, ""))]
    words = [*by_entities, *references.words_of(name.suffix)]
    if not references.is_mask_like(words):
        leftovers.add(name.path, "another kind of file, left out")
        return
    reason = references.objection([*words, *_of_pipeline(name, words)])
    if reason is None and group is None:
        reason = f"the scans of {name.case_id} are {elsewhere}"
    if reason is None:
        group.masks.append(name.path)
    elif group is None:
        leftovers.add(name.path, f"not taken as an expert's mask, left out: {reason}")
    else:
        leftovers.add_mask(name.path, group, reason, f"{group.case_id}_label-tumor_dseg")


def _of_pipeline(name: _Name, words: Sequence[str]) -> list[str]:
    """What the folder under derivatives adds: that a program drew it, or that it is of the tumour."""
    of_folder = references.words_of(name.pipeline or "")
    return [word for word in of_folder if references.tells_program(word) or references.tells_tumour(word)]
