"""What the challenge takes as an upload, by edition, and whether files are that. No TensorFlow.

Judges and packs; repairs nothing: a file with another grid, other labels or another name is refused, with the
cure. Reads archives where they lie, without extracting them.
"""

import concurrent.futures
import functools
import io
import os
import re
import sys
import types
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from tfbrats.cases import nifti
from tfbrats.cases.nifti import Placement
from tfbrats.datasets import layouts
from tfbrats.datasets.label_candidates import candidates
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS
from tfbrats.machine import files, paths
from tfbrats.machine.wording import counted
from tfbrats.predictions import model_card

SUFFIX = ".nii.gz"
ARCHIVE_SUFFIX = ".zip"
_READERS = 4  # files in memory at a time, 9 MB each as uint8 and 71 MB as float64
_TOLERANCE_MM = 1e-3
_MOST_VALUES = 20  # more are no labels, and not worth listing
# What the challenge's own reader of archives passes over: rests of macOS and of editors.
_HIDDEN = ("__", "._", "~", ".DS_Store")

Matrix = tuple[tuple[float, ...], ...]

# SRI24, as all scans until 2023: 1 mm, axes to the left, back and head.
_SRI24 = ((240, 240, 155), ((-1, 0, 0, 0), (0, -1, 0, 239), (0, 0, 1, 0), (0, 0, 0, 1)))
# MNI152 at 1 mm, to the left, front and head: the post-treatment scans of 2024.
_MNI152 = ((182, 218, 182), ((-1, 0, 0, 90), (0, 1, 0, -126), (0, 0, 1, -72), (0, 0, 0, 1)))


@dataclass(frozen=True)
class SubmissionRules:
    """What the upload check of one edition asks of every file; its label values are `labels.EDITIONS`'.

    Attributes:
        shape: voxels, in the file's own order.
        qform: [4, 4] voxel -> mm.
        name: of a file without .nii.gz; its group is what the challenge knows the case by.
        example: of such a name.
    """

    edition: str
    shape: tuple[int, int, int]
    qform: Matrix
    name: str
    example: str

    def key(self, case_id: str) -> str | None:
        """What the challenge knows a case by, e.g. its number; None for a name that does not tell."""
        found = re.fullmatch(self.name, case_id)
        return found and found.group(1)


# 2017 to 2020: "a single multi-label file in nifti (.nii.gz) format", named by the case
# (med.upenn.edu/cbica/brats2019/tasks.html); how case ids look is read off the data [ours].
# Since 2021 the challenge's own validation scripts are public (Sage-Bionetworks-Challenges on GitHub:
# brats-dream-challenge-infra, Docker/validate.py; brats2023, evaluation/lesionwise/validate.py and
# validate2024.py). They know a case by the digits that end its name, whatever stands before. They refuse only
# where shape and qform are both wrong, though their message says "or"; here each has to be right [ours].
# PED, SSA and MEN of 2023 go through the same script; MET lies in native space since 2025: no rule here.
# Label values, data type and sform they leave to the scorer; here they are looked at before [ours].
RULES: Mapping[str, SubmissionRules] = types.MappingProxyType(
    {
        rules.edition: rules
        for rules in (
            SubmissionRules("2017", *_SRI24, r"(Brats17_\w+_1)", "Brats17_TCIA_192_1"),
            SubmissionRules("2018", *_SRI24, r"(Brats18_\w+_1)", "Brats18_TCIA01_192_1"),
            SubmissionRules("2019", *_SRI24, r"(BraTS19_\w+_1)", "BraTS19_TCIA01_192_1"),
            SubmissionRules("2020", *_SRI24, r"(BraTS20_[A-Za-z]+_\d{3})", "BraTS20_Validation_001"),
            SubmissionRules("2021", *_SRI24, r"(?:.*\D)?(\d{5})", "BraTS2021_00001"),
            SubmissionRules("2023", *_SRI24, r"(?:.*\D)?(\d{5}-\d{3})", "BraTS-GLI-00001-000"),
            SubmissionRules("2024", *_MNI152, r"(?:.*\D)?(\d{5}-\d{3})", "BraTS-GLI-00001-100"),
            SubmissionRules("ped", *_SRI24, r"(?:.*\D)?(\d{5}-\d{3})", "BraTS-PED-00001-000"),
            SubmissionRules("ssa", *_SRI24, r"(?:.*\D)?(\d{5}-\d{3})", "BraTS-SSA-00001-000"),
            SubmissionRules("men", *_SRI24, r"(?:.*\D)?(\d{5}-\d{3})", "BraTS-MEN-00001-000"),
        )
    }
)


def rules_for(editions: Collection[str], where: str | os.PathLike) -> SubmissionRules:
    """The rules of the one edition that files are of.

    Raises:
        InputError: of several, of none, or of one that nothing is uploaded to.
    """
    known = [edition for edition in sorted(set(editions)) if edition in RULES]
    if len(known) == 1 and len(set(editions)) == 1:
        return RULES[known[0]]
    several = sorted(set(editions))
    fault = (
        f"of several editions ({', '.join(several)}), which are uploaded apart"
        if len(several) > 1
        else f"edition {several[0]} has no upload check"
        if several
        else "the names do not tell the edition"
    )
    raise InputError(f"{where}: {fault}. Pass --edition with one of {', '.join(RULES)}.")


# --- what is looked at ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """One file of a submission: its name as the archive has or will have it, and the way to its bytes."""

    name: str
    read: Callable[[], bytes]

    @property
    def stem(self) -> str:
        return files.name(self.name).removesuffix(SUFFIX)


def member(path: str | os.PathLike, name: str | None = None) -> Member:
    """A file on the disk or on gs://."""
    return Member(name or files.name(path), functools.partial(files.read_bytes, path))


def members(location: str | os.PathLike) -> list[Member]:
    """All files of a folder or a ZIP archive, at any depth, whatever they are.

    Raises:
        InputError: neither of the two, a damaged archive, or one under another name than .zip.
    """
    if files.is_folder(location):
        root = paths.absolute(location) if files.is_local(location) else files.canonical(location)
        return [member(path, path.removeprefix(root).lstrip("/")) for path in files.walk(location)]
    content = files.read_bytes(location)
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(
            f"{location}: no ZIP archive, or a damaged one ({error}). Give a folder or a .zip; pack it again."
        ) from error
    if not files.name(location).endswith(ARCHIVE_SUFFIX):
        raise InputError(
            f"{location}: a ZIP archive, but an upload's name ends in {ARCHIVE_SUFFIX}, in small letters. "
            "Rename it."
        )
    return [
        Member(info.filename, functools.partial(_read_packed, archive, info))
        for info in sorted(archive.infolist(), key=lambda info: info.filename)
        if not info.is_dir()
    ]


def _read_packed(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"{info.filename}: damaged or encrypted in the archive ({error}). Pack it again."
        ) from error


# --- the check ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What `check` found.

    Attributes:
        segmentations: the files that the challenge would look at, by name.
        faults: why it would refuse them, each with its cure.
        warnings: what it takes, and a person should know.
        ignored: names that were passed over.
    """

    rules: SubmissionRules
    segmentations: tuple[str, ...]
    faults: tuple[str, ...]
    warnings: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        return not self.faults


def check(
    found: Sequence[Member],
    rules: SubmissionRules,
    case_ids: Collection[str] | None = None,
    packed: bool = True,
) -> Verdict:
    """Holds files against the rules of an edition, all of them, and reads each once.

    Args:
        case_ids: of all cases that are wanted; None leaves it open.
        packed: False for a folder, in which our own tfbrats.json may lie.
    """
    ignored, candidates, faults = [], [], []
    for one in found:
        name = files.name(one.name)
        if _leads_outside(one.name):
            faults.append(
                f"{one.name}: its path leads out of the folder that the archive is unpacked into. Pack it "
                "again, with plain names."
            )
        if name.startswith(_HIDDEN) or (name == model_card.FILE and not packed):
            ignored.append(one.name)
        elif not name.endswith(SUFFIX):
            faults.append(f"{one.name}: {_not_a_segmentation(name)}")
        else:
            candidates.append(one)
    faults += _name_faults(candidates, rules, case_ids)
    warnings = []
    # Decompression releases the interpreter's lock.
    with concurrent.futures.ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as pool:
        looks = pool.map(functools.partial(_look, rules=rules), candidates)
        bar = tqdm(looks, total=len(candidates), unit="file", disable=not sys.stderr.isatty())
        for one, (own_faults, own_warnings) in zip(candidates, bar, strict=True):
            faults += [f"{one.name}: {text}" for text in own_faults]
            warnings += [f"{one.name}: {text}" for text in own_warnings]
    if not candidates:
        faults.append(
            f"no segmentation among {counted(len(found), 'file')}; expected {rules.example}{SUFFIX} and the "
            "like."
        )
    return Verdict(rules, tuple(one.name for one in candidates), tuple(faults), tuple(warnings), tuple(ignored))


def _leads_outside(name: str) -> bool:
    """Absolute, or upwards: to whom it is unpacked, on Windows too, a way to write anywhere."""
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", name) is not None


def _not_a_segmentation(name: str) -> str:
    if layouts.nifti_stem(name) is not None:
        return f"expected an ending in {SUFFIX}, in small letters. Compress it with gzip, or rename it."
    return f"no {SUFFIX}; an upload may hold nothing else. Leave it out."


def _name_faults(
    candidates: Sequence[Member], rules: SubmissionRules, case_ids: Collection[str] | None
) -> list[str]:
    faults = []
    by_key: dict[str, list[str]] = defaultdict(list)
    for one in candidates:
        key = rules.key(one.stem)
        if key is None:
            more = ""
            if one.stem.endswith("_probabilities"):  # tfbrats.predict writes them beside, when asked
                more = "These are probabilities: leave them out. "
            faults.append(
                f"{one.name}: its name does not tell a case of {rules.edition}; expected e.g. "
                f"{rules.example}{SUFFIX}. {more or 'Rename it, or pass the right --edition.'}".rstrip()
            )
        else:
            by_key[key].append(one.name)
    for key, names in by_key.items():
        if len(names) > 1:
            faults.append(f"{', '.join(names)}: {len(names)} segmentations of case {key}. Keep one.")
    if case_ids is None:
        return faults
    wanted = {rules.key(one) or one: one for one in sorted(case_ids)}
    faults += [
        f"{name}: case {key} is not one of the {len(wanted)} wanted. Leave it out, or correct --cases."
        for key, names in by_key.items()
        if key not in wanted
        for name in names
    ]
    faults += [
        f"{case_id}: no segmentation. Predict it; an empty one counts as one."
        for key, case_id in wanted.items()
        if key not in by_key
    ]
    return faults


def placement_faults(placement: Placement, rules: SubmissionRules) -> list[str]:
    """Why a file with this header would be refused, as sentences without its name."""
    faults = []
    if placement.shape != rules.shape:
        faults.append(
            f"shape {placement.shape}; expected {rules.shape}. Predict on the challenge's own scans, or undo "
            "the crop or resampling."
        )
    if not np.allclose(placement.qform, rules.qform, rtol=0, atol=_TOLERANCE_MM):
        faults.append(
            f"qform {rows(placement.qform)}; expected {rows(rules.qform)}. Write it with its own scan's header."
        )
    # The upload check does not look; nibabel and ITK believe the sform, and the scorer says "not aligned".
    if placement.sform_code > 0 and not np.allclose(
        placement.sform, placement.qform, rtol=0, atol=_TOLERANCE_MM
    ):
        faults.append(
            f"its sform {rows(placement.sform)} is not its qform {rows(placement.qform)}; tools differ in "
            "which they believe. Write it with its own scan's header."
        )
    return faults


def rows(matrix: np.ndarray | Matrix) -> list[list[float]]:
    """The three rows of [4, 4] that matter, short enough to be read in a message."""
    rounded = np.round(np.asarray(matrix, np.float64)[:3], 4) + 0.0  # no -0
    return [[int(value) if float(value).is_integer() else float(value) for value in row] for row in rounded]


def _look(one: Member, rules: SubmissionRules) -> tuple[list[str], list[str]]:
    """Faults and warnings of one file, without its name."""
    try:
        content = one.read()
        array, stored = nifti.read_stored(content, one.name)
    except InputError as error:
        return [str(error).removeprefix(f"{one.name}: ")], []
    faults, warnings = placement_faults(stored.placement, rules), []
    if content[:2] != b"\x1f\x8b":
        faults.append(
            f"not compressed, but named {SUFFIX}: readers take it for damaged. Compress it with gzip."
        )
    if stored.unused_bytes > 0:
        faults.append(
            f"holds {stored.unused_bytes} bytes more than the {stored.dtype} voxels of its header: header and "
            "content are not of one file. Write it again."
        )
    if not stored.placement.qform_code and not stored.placement.sform_code:
        warnings.append("its header marks neither qform nor sform as valid (codes 0); set qform_code to 1.")
    if array.dtype.kind not in "iufb":
        return [*faults, f"voxels of type {stored.dtype}; expected one whole number each, as uint8."], warnings
    values = np.unique(array)
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and np.array_equal(values, np.round(values))):
            cure = "Write labels, not probabilities, and resample with nearest neighbours."
            return [*faults, f"label values are not whole numbers, e.g. {_fraction(values)}. {cure}"], warnings
        if stored.dtype.kind == "f":
            warnings.append(f"whole numbers, stored as {stored.dtype}; uint8 is what the others send.")
    if stored.scaled:
        warnings.append("its header scales the values (scl_slope): readers that ignore it see other labels.")
    if values.size > _MOST_VALUES:
        return [*faults, f"{values.size} different values: an image, no segmentation. Leave it out."], warnings
    schema, present = EDITIONS[rules.edition], [int(value) for value in values]
    if strange := schema.lacking(present):
        faults.append(
            f"label values {strange} are not in edition {schema.edition}, which has {schema.describe()}. "
            + _written_anew(schema.edition, [other.edition for other in candidates(present, schema)])
        )
    if not values.any():
        warnings.append("empty: no voxel is tumour. Taken, and scored as such.")
    return faults, warnings


def _written_anew(edition: str, others: Sequence[str]) -> str:
    """The cure of values that other editions have: their own checks do not know cases of this name."""
    which = f"They are those of {' or '.join(others)}: write" if others else "Write"
    return f"{which} the file anew in the values of {edition}."


def _fraction(values: np.ndarray) -> float:
    return float(next(value for value in values if not float(value).is_integer()))


def pack(found: Sequence[Member], verdict: Verdict, path: str | os.PathLike) -> None:
    """Writes the accepted segmentations as a ZIP archive, side by side; the same files give the same bytes.

    Raises:
        InputError: they were not accepted, or the place may not be written to.
    """
    if not verdict.accepted:
        raise InputError(f"{path}: not written, for {counted(len(verdict.faults), 'fault')}.")
    chosen = [one for one in found if one.name in set(verdict.segmentations)]
    with files.writing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for one in sorted(chosen, key=lambda one: files.name(one.name)):
            info = zipfile.ZipInfo(files.name(one.name))  # dated 1980, whenever it is packed
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, one.read())  # stored: gzip has been over it


def check_target(path: str | os.PathLike, source: str | os.PathLike | None = None) -> None:
    """Raises InputError where no archive should be written, so that hours of work can be spared.

    Args:
        source: the folder or archive that it is to be made of: neither replaced nor added to.
    """
    if not files.name(path).endswith(ARCHIVE_SUFFIX) or files.is_folder(path):
        raise InputError(f"{path}: expected the name of an archive that ends in {ARCHIVE_SUFFIX}.")
    if source is not None:
        target, given = files.canonical(path), files.canonical(source)
        if target == given:
            raise InputError(f"{path}: is the archive that is checked. Choose another name.")
        if target.startswith(given.rstrip("/") + "/"):
            raise InputError(
                f"{path}: lies in the folder that is checked; the next check would refuse it for the archive. "
                f"Choose a place outside of {source}."
            )
    files.check_can_hold(files.parent(path) or ".")
