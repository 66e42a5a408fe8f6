"""What a file's name says (case, modality, copy), and which files are one case: for the readers of the layouts.

Opens nothing.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tfbrats.labels import LabelSchema, modality_named
from tfbrats.machine import files, paths

# Copies of a scan, by the words that stand behind the modality.
STRIPPED = ("bet", "hdbet", "brain", "stripped", "skullstripped")
CORRECTED = ("bias", "n4")
UNSTRIPPED = ("unstripped",)
WITH_SKULL = "the skull is in it, left out (the stripped scan is read)"


def nifti_stem(path: str) -> str | None:
    """The name without .nii or .nii.gz, or None for other files."""
    match = re.match(r"(.+)\.nii(\.gz)?$", files.name(path), re.IGNORECASE)
    return match.group(1) if match else None


def beginning_of_listing(folder: str | os.PathLike) -> str:
    """A folder as all paths begin that `files.walk` lists of it, without a / at the end."""
    return (paths.absolute(folder) if files.is_local(folder) else files.canonical(folder)).rstrip("/")


def common_folder(paths: Sequence[str]) -> str:
    """The folder that all of these paths lie below."""
    first, last = min(paths, default="").split("/"), max(paths, default="").split("/")
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return "/".join(first[: min(same, len(first) - 1)])


@dataclass(frozen=True)
class ScanName:
    """What the name of a scan says: `prefix` (None if nothing stands there), modality, and words behind it."""

    prefix: str | None
    modality: str
    treatment: tuple[str, ...] = ()


def scan_name(stem: str) -> ScanName | None:
    """CASE_t1ce, CASE-t2f, t1, CASE_T1_bias, CASE_t1c_bet; None for what names no modality."""
    treatment: list[str] = []
    rest = stem
    while True:
        flair = re.match(r"(?:(.+)[_\-. ])?t2w?[_\- ]flair$", rest, re.IGNORECASE)
        match = re.match(r"(?:(.+)[_\-. ])?([A-Za-z0-9]+)$", rest)
        if flair or match is None:
            break
        word = match.group(2).lower()
        if word not in (*STRIPPED, *CORRECTED, *UNSTRIPPED) or match.group(1) is None:
            break
        treatment.append(word)
        rest = match.group(1)
    modality = "flair" if flair else match and modality_named(match.group(2))
    if not modality:
        return None
    prefix, before = _without_process((flair or match).group(1))
    return ScanName(prefix, modality, (*before, *treatment))


# BraTS-Toolkit: CASE_hdbet_brats_fla.nii.gz, or hdbet_brats_fla.nii.gz in a folder of the case.
_PROCESS = re.compile(
    rf"(?:^|[_\-. ])({'|'.join((*STRIPPED, 'n4'))})((?:[_\-.](?:brats|bet|n4|space|native))*)$", re.IGNORECASE
)
_PROCESS_FOLDER = re.compile(r"(?:hd-?bet|bet|n4)?[_\-.]?(?:brats|native)?[_\-.]?space", re.IGNORECASE)


def _without_process(prefix: str | None) -> tuple[str | None, tuple[str, ...]]:
    """What stands before a modality without the words of what was done to the scan, and the first of these."""
    match = _PROCESS.search(prefix or "")
    return (prefix[: match.start()] or None, (match.group(1).lower(),)) if match else (prefix, ())


def case_folder(folder: str) -> str:
    """The folder that a case's own files lie in, passing by those of a processing step."""
    while _PROCESS_FOLDER.fullmatch(files.name(folder)) and files.parent(folder):
        folder = files.parent(folder)
    return folder


@dataclass
class Group:
    """The files of one case, as a layout's reader put them together.

    Attributes:
        folder: that tells its edition where its id does not.
        file_id: what its files' names begin with, where that is not the id (a date below the patient's folder).
        schema: what a table of its data set states; None where names have to tell.
        scans: modality -> (path, channel in a 4-D file or None, words behind the modality in its name).
        masks: files that are the expert's by their names; more than one is a problem.
        misnamed: of the masks, those whose names are not the case's.
        mask_published: the publisher drew masks of some cases only, so that a lacking one is no fault.
    """

    case_id: str
    layout: str
    folder: str
    schema: LabelSchema | None = None
    scans: dict[str, list[tuple[str, int | None, tuple[str, ...]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    masks: list[str] = field(default_factory=list)
    misnamed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_test: bool = False
    mask_published: bool = False
    file_id: str = ""

    def __post_init__(self):
        self.file_id = self.file_id or self.case_id

    def settle(self) -> tuple[dict[str, tuple[str, int | None]], str | None]:
        """One file for each modality, and one mask; where names leave it open, the case has a problem."""
        images = {}
        for modality, scans in self.scans.items():
            if len(scans) > 1:
                self.problems.append(
                    f"{_and(path for path, *_ in scans)} are both {modality}. Keep one of them."
                )
            images[modality] = scans[0][:2]
        if len(self.masks) > 1:
            self.problems.append(f"{_and(self.masks)} are both seg. Keep one of them.")
        elif self.misnamed and self.masks == self.misnamed:
            self.notes.append(f"its segmentation is misnamed {files.name(self.masks[0])}; taken as such")
        return images, self.masks[0] if self.masks else None


def choose_copies(group: Group, leftovers: "Leftovers") -> None:
    """Keeps of each scan the copy to read: stripped before that with the skull, plain before bias-corrected."""
    for modality, scans in group.scans.items():
        for words, kept, reason in (
            (STRIPPED, True, WITH_SKULL),
            (CORRECTED, False, "a bias-corrected copy, left out (the scan itself is read)"),
        ):
            alike = [scan for scan in scans if bool(set(scan[2]) & set(words)) is kept]
            if alike:
                for path, *_ in [scan for scan in scans if scan not in alike]:
                    leftovers.add(path, reason)
                scans = alike
        group.scans[modality] = scans


def _and(members: Iterable[str]) -> str:
    return " and ".join(map(files.name, members))


class Leftovers:
    """Files that belong to no case, by the reason; few notes, however many files."""

    def __init__(self):
        self._paths: dict[str, list[str]] = defaultdict(list)
        self._masks: list[tuple[str, Group, str, str]] = []

    def add(self, path: str, reason: str = "name not understood, left out") -> None:
        """A file that nobody takes."""
        self._paths[reason].append(path)

    def add_mask(self, path: str, group: Group, reason: str, better: str | None = None) -> None:
        """A mask that is not taken; where its case has no other, the case says how to name it (`better`)."""
        self._masks.append((path, group, reason, better or f"{group.file_id}_seg"))

    def close(self) -> None:
        """Sorts the masks that were not taken. To be called once all files are dealt: then all are known."""
        for path, group, reason, better in self._masks:
            if group.masks:
                self.add(path, f"not taken as an expert's mask: {reason}")
            else:
                group.notes.append(
                    f"{files.name(path)} is not taken as its segmentation: {reason}. If it is the expert's "
                    f"mask of the tumour, rename it to {better}{files.name(path)[len(nifti_stem(path)) :]}"
                )
        self._masks.clear()

    def notes(self) -> list[str]:
        """What is to be told: a note for each of a few files, one for all of many that have one reason."""
        lines = []
        for reason, members in self._paths.items():
            shown = members if len(members) <= _FEW else members[:1]
            more = len(members) - len(shown)
            lines += [f"{path}{f' and {more} more files' if more else ''}: {reason}" for path in shown]
        return lines


_FEW = 4


def reasons(notes: Sequence[str]) -> str:
    """Why files were left out, below the error that no case is found."""
    more = [f"... and {len(notes) - _FEW} more"] * (len(notes) > _FEW)
    return "".join(f"\n  {note}" for note in (*notes[:_FEW], *more))


def nearest(listing: Sequence[str]) -> str:
    """What lies in a folder in which no case is found, and what to do."""
    if not listing:
        return "\nThe folder holds no file. Point to the one that holds the cases."
    shown = ", ".join(files.name(path) for path in listing[:5])
    return f"\nFound e.g. {shown}. Point to the folder that holds the cases, or rename the files."
