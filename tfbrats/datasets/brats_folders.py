"""Cases whose files bear the case's name and a modality's: BraTS folders, TCIA's sets, a folder a modality.

    CASE/CASE_{t1,t1ce,t2,flair,seg}.nii.gz          BraTS, UCSF-PDGM, BraTS-Toolkit (_fla, _bet)
    images_structural/CASE/CASE_T1GD.nii.gz          UPenn-GBM; its masks are images_segm/CASE_segm.nii.gz
    CASE/T1w/anything.nii.gz                         a folder a modality, as copies on Kaggle have it
    CASE/CASE_flair.nii/anything.nii                 a folder a file, likewise

By names alone; opens nothing. What is left is told: never taken because it is alone.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from tfbrats.datasets import case_names, references
from tfbrats.datasets.scan_names import (
    UNSTRIPPED,
    WITH_SKULL,
    Group,
    Leftovers,
    ScanName,
    case_folder,
    choose_copies,
    nifti_stem,
    scan_name,
)
from tfbrats.machine import files

LAYOUT = "BraTS folders: CASE/CASE_{t1,t1ce,t2,flair,seg}.nii[.gz], or -t1n, -t1c, -t2w, -t2f, -seg"
UPENN = "UPenn-GBM: images_structural/CASE/CASE_{T1,T1GD,T2,FLAIR}.nii.gz, images_segm/CASE_segm.nii.gz"
UCSF = "UCSF-PDGM: CASE_nifti/CASE_{T1,T1c,T2,FLAIR,tumor_segmentation}.nii.gz"
FOLDERS = "a folder a modality: CASE/{T1w,T1wCE,T2w,FLAIR}/NAME.nii[.gz], or CASE/CASE_flair.nii/NAME.nii"
LAYOUTS = (LAYOUT, UPENN, UCSF, FOLDERS)

_PUBLISHED_SCANS = "images_structural"  # UPenn-GBM's folder of the stripped scans
_PUBLISHED_MASKS = "images_segm"  # UPenn-GBM's folder of the masks that experts corrected
_OTHER_SCANS = re.compile(
    r"(?:adc|asl|swi|dwi|dsc|dti|dce|pwi|rcbv|psr|ph|fa|md|ad|rd|tr|l[123]|noreg|eddy)", re.I
)


class _Folder:
    """What lies in one folder: the groups of its scans by id in lower case, and the rest."""

    def __init__(self):
        self.groups: dict[str, Group] = {}
        self.rest: list[str] = []


def read(niftis: Sequence[str], leftovers: Leftovers, root: str = "") -> list[Group]:
    """The cases among these files; what is in none of them goes to `leftovers`.

    Args:
        root: the data set's folder, whose own name is no patient's.
    """
    folders: dict[str, _Folder] = defaultdict(_Folder)
    by_folder, others = _in_modality_folders(niftis)
    placed = {folder for folder, _ in by_folder.values()}
    for path, (folder, name) in by_folder.items():
        _add(folders[folder], folder, name, path, FOLDERS, root)
    for path in others:
        folder = files.parent(path)
        name = scan_name(nifti_stem(path))
        if name is None:
            # CASE/seg/NAME.nii.gz beside CASE/t1/NAME.nii.gz is dealt with in CASE
            above = files.parent(folder)
            folders[above if above in placed else folder].rest.append(path)
        elif set(name.treatment) & set(UNSTRIPPED):
            leftovers.add(path, WITH_SKULL)
        else:
            _add(folders[folder], folder, name, path, None, root)
    _tell_visits_apart([group for folder in folders.values() for group in folder.groups.values()])
    cases = {group.case_id.lower(): group for folder in folders.values() for group in folder.groups.values()}
    for place, folder in folders.items():
        for path in folder.rest:
            _deal(path, place, folder, cases, leftovers)
    groups = [group for folder in folders.values() for group in folder.groups.values()]
    for group in groups:
        choose_copies(group, leftovers)
    return groups


def _add(folder: _Folder, place: str, name: ScanName, path: str, layout: str | None, root: str) -> None:
    file_id = name.prefix or files.name(case_folder(place))
    key = file_id.lower()
    if key not in folder.groups:
        case_id = _with_patient(file_id, case_folder(place), root)
        group = folder.groups[key] = Group(case_id, layout or _layout_of(place), place, file_id=file_id)
        group.mask_published = group.layout == UPENN
        if _is_anothers(files.name(place), file_id):
            group.notes.append(f"its folder is named {files.name(place)}: its files' names are taken")
    folder.groups[key].scans[name.modality].append((path, None, name.treatment))


def _is_anothers(folder: str, file_id: str) -> bool:
    """Whether a folder's name is an id as its files have, with other numbers: BraTS2021_00001 and _00002."""
    shapes = [re.sub(r"\d+", "#", name.lower()) for name in (folder, file_id)]
    numbers = [[int(number) for number in re.findall(r"\d+", name)] for name in (folder, file_id)]
    return shapes[0] == shapes[1] and numbers[0] != numbers[1]


def _with_patient(file_id: str, place: str, root: str) -> str:
    """A case's id: P1_2019-01-01 for what is called 2019-01-01 and lies in P1, else the name itself."""
    if not case_names.is_time_point(file_id):
        return file_id
    above = files.parent(place) if files.name(place).lower() == file_id.lower() else place
    if not above or above.rstrip("/") == root.rstrip("/"):
        return file_id
    return case_names.id_of_visit(file_id, _with_patient(files.name(above), above, root))


def _tell_visits_apart(groups: Sequence[Group]) -> None:
    """Gives visits ids of their own: one name in several folders of visits is one patient's, seen again.

    E.g. Pat1/2019-01-01/Pat1_t1.nii.gz.
    """
    by_id: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_id[group.case_id.lower()].append(group)
    for alike in by_id.values():
        visits = [files.name(case_folder(group.folder)) for group in alike]
        if len(alike) > 1 and all(map(case_names.is_time_point, visits)):
            for group, visit in zip(alike, visits, strict=True):
                group.case_id = f"{group.case_id}_{visit}"


def _layout_of(place: str) -> str:
    """The layout of a case by its folders' names: as TCIA publishes it, else BraTS'."""
    if files.name(files.parent(place)) == _PUBLISHED_SCANS:
        return UPENN
    return UCSF if re.fullmatch(r"ucsf-pdgm-.+_nifti", files.name(place), re.IGNORECASE) else LAYOUT


# --- a folder a modality --------------------------------------------------------------------------------


def _in_modality_folders(
    niftis: Sequence[str],
) -> tuple[dict[str, tuple[str, ScanName]], list[str]]:
    """Files whose folder tells which scan they are, and the others.

    Returns:
        path -> (the case's folder, the scan's name); and the paths of which no folder tells it.
    """
    inside: dict[str, list[str]] = defaultdict(list)
    for path in niftis:
        inside[files.parent(path)].append(path)
    named: dict[str, dict[str, ScanName]] = defaultdict(dict)  # the folder above -> folder -> what it says
    for folder, paths in inside.items():
        name = scan_name(_folder_stem(folder))
        of_files = {scan.modality for scan in map(scan_name, map(nifti_stem, paths)) if scan is not None}
        if name is not None and of_files <= {name.modality} and (len(paths) == 1 or name.prefix is None):
            named[files.parent(folder)][folder] = name
    placed: dict[str, tuple[str, ScanName]] = {}
    for above, names in named.items():
        if len({name.modality for name in names.values()}) < 2:
            continue  # a case that happens to be named so
        alone = all(len(inside[folder]) == 1 for folder in names)
        for folder, name in names.items():
            for path in inside[folder]:
                placed[path] = (above, name if alone else _of_file(path, name))
    return placed, [path for path in niftis if path not in placed]


def _folder_stem(folder: str) -> str:
    return nifti_stem(folder) or files.name(folder)


def _of_file(path: str, folder: ScanName) -> ScanName:
    """The name of a scan in one modality's folder of several cases: the file names the case."""
    stem = nifti_stem(path)
    own = scan_name(stem)
    return ScanName((own.prefix if own else stem) or stem, folder.modality, own.treatment if own else ())


# --- which file is the mask -----------------------------------------------------------------------------


def _deal(path: str, place: str, folder: _Folder, cases: Mapping[str, Group], leftovers: Leftovers) -> None:
    """Gives a file that is no scan to its case, if its name means a tumour mask, or tells why not."""
    stem = nifti_stem(path)
    in_own_folder = files.parent(path) != place
    if in_own_folder:  # CASE/seg/NAME.nii.gz: the folder says what it is, and the file whether it is another
        _deal_by_folder(path, stem, folder, leftovers)
        return
    group = _case_named(stem, folder.groups)
    if group is None and files.name(place) == _PUBLISHED_MASKS:
        group = _case_named(stem, cases)
    if group is not None:
        words = references.words_of(stem[len(group.file_id) :])
        if not words:
            leftovers.add(path, "named as its case alone, as results are: not taken as an expert's mask")
            return
        _judge(path, group, words, references.objection(words), leftovers)
        return
    words = references.words_of(stem)
    if not references.is_mask_like(words):
        leftovers.add(path)
        return
    other = _case_named(stem, cases)
    if len(folder.groups) != 1:
        reason = references.tells_other(words) or "it does not lie with the scans of one case"
        leftovers.add(path, f"not taken as an expert's mask, left out: {reason}")
        return
    group = next(iter(folder.groups.values()))
    if other is not None or case_names.edition_by_id(stem) is not None:
        reason = "by its name it is another case's"
    else:
        reason = references.objection(words) and references.foreign_objection(words)
    if reason is None and (references.objection(words) or files.name(place) != group.file_id):
        group.misnamed.append(path)
    _judge(path, group, words, reason, leftovers)


def _deal_by_folder(path: str, stem: str, folder: _Folder, leftovers: Leftovers) -> None:
    """As `_deal`, of CASE/seg/NAME.nii.gz: the folder says what it is, and the file may say that it is not."""
    groups = folder.groups
    group = _case_named(stem, groups) or (next(iter(groups.values())) if len(groups) == 1 else None)
    words = references.words_of(_folder_stem(files.parent(path)).removeprefix(group.file_id if group else ""))
    if group is None or not references.is_mask_like(words):
        leftovers.add(path)
        return
    own = [word for word in references.words_of(stem.removeprefix(group.file_id)) if word not in words]
    if any(nifti_stem(scan) == stem for scans in group.scans.values() for scan, *_ in scans):
        own = []  # all files of the case are named alike
    _judge(
        path,
        group,
        words,
        references.objection(words) or references.tells_other(own) or references.tells_part(own),
        leftovers,
    )


def _case_named(stem: str, groups: Mapping[str, Group]) -> Group | None:
    """The case with the longest id that a name begins with, whatever its letters' case.

    Args:
        groups: by id in lower case.
    """
    text = stem.lower()
    ends = [len(text), *(match.start() for match in re.finditer(r"[_\-. ]", text))]
    return next((groups[text[:end]] for end in sorted(ends, reverse=True) if text[:end] in groups), None)


def _judge(path: str, group: Group, words: Sequence[str], reason: str | None, leftovers: Leftovers) -> None:
    """Gives a file to its case as a mask, or tells why not.

    Args:
        words: of its name.
        reason: what speaks against a mask of the tumour; None if nothing.
    """
    if reason is None:
        group.masks.append(path)
    elif "voided" in words:
        group.problems.append(
            f"{files.name(path)} is of the challenge of inpainting, whose scans have parts cut out: there is "
            "no WT, TC and ET to read. Leave the case out."
        )
    elif any(_OTHER_SCANS.fullmatch(word) for word in words) and not references.is_mask_like(words):
        leftovers.add(path, "another kind of scan, left out")
    elif references.is_mask_like(words):
        leftovers.add_mask(path, group, reason)
    else:
        leftovers.add(path)
