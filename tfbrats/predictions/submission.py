"""Whether the challenge would take files as an upload, by the rules of an edition. No TensorFlow.

Judges and repairs nothing: a file with another grid, other labels or another name is refused, with the cure.
"""

import concurrent.futures
import functools
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tfbrats.cases import nifti
from tfbrats.cases.nifti import Placement
from tfbrats.datasets import layouts
from tfbrats.datasets.label_candidates import candidates
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS
from tfbrats.machine import files, memory
from tfbrats.predictions import model_card, results
from tfbrats.predictions.submission_rules import SUFFIX, Matrix, SubmissionRules
from tfbrats.terminal import bars
from tfbrats.terminal.wording import counted

_READERS = 4  # files in memory at a time, 9 MB each as uint8 and 71 MB as float64
_TOLERANCE_MM = 1e-3
_MOST_VALUES = 20  # more are no labels, and not worth listing
# What the challenge's own reader of archives passes over: rests of macOS and of editors.
_HIDDEN = ("__", "._", "~", ".DS_Store")


@dataclass(frozen=True)
class Member:
    """One file of a submission: its name as the archive has or will have it, and the way to its bytes."""

    name: str
    read: Callable[[], bytes]

    @property
    def stem(self) -> str:
        return files.name(self.name).removesuffix(SUFFIX)


@dataclass(frozen=True)
class Verdict:
    """What `check` says of files.

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
    members: Sequence[Member],
    rules: SubmissionRules,
    case_ids: Collection[str] | None = None,
    packed: bool = True,
) -> Verdict:
    """Holds files against the rules of an edition, all of them, and reads each once.

    Args:
        members: all files of the submission, whatever they are.
        case_ids: of all cases that are asked for; None leaves it open.
        packed: False for a folder, in which our own tfbrats.json may lie.
    """
    ignored, segmentations, faults = [], [], []
    for member in members:
        name = files.name(member.name)
        if _leads_outside(member.name):
            faults.append(
                f"{member.name}: its path leads out of the folder that the archive is unpacked into. Pack it "
                "again, with plain names."
            )
        if name.startswith(_HIDDEN) or (name == model_card.FILE and not packed):
            ignored.append(member.name)
        elif not name.endswith(SUFFIX):
            faults.append(f"{member.name}: {_not_a_segmentation(name)}")
        else:
            segmentations.append(member)
    faults += _name_faults(segmentations, rules, case_ids)
    warnings = []
    # Decompression releases the interpreter's lock.
    with concurrent.futures.ThreadPoolExecutor(min(_READERS, memory.cores())) as pool:
        judged = pool.map(functools.partial(_judged, rules=rules), segmentations)
        bar = bars.bar(judged, total=len(segmentations), desc="check", unit="file")
        for member, (own_faults, own_warnings) in zip(segmentations, bar, strict=True):
            faults += [f"{member.name}: {text}" for text in own_faults]
            warnings += [f"{member.name}: {text}" for text in own_warnings]
    if not segmentations:
        faults.append(
            f"no segmentation among {counted(len(members), 'file')}; expected {rules.example}{SUFFIX} and the "
            "like."
        )
    names = tuple(member.name for member in segmentations)
    return Verdict(rules, names, tuple(faults), tuple(warnings), tuple(ignored))


def _leads_outside(name: str) -> bool:
    """Absolute, or upwards: to whom it is unpacked, on Windows too, a way to write anywhere."""
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", name) is not None


def _not_a_segmentation(name: str) -> str:
    if layouts.nifti_stem(name) is not None:
        return f"expected an ending in {SUFFIX}, in small letters. Compress it with gzip, or rename it."
    return f"no {SUFFIX}; an upload may hold nothing else. Leave it out."


def _name_faults(
    segmentations: Sequence[Member], rules: SubmissionRules, case_ids: Collection[str] | None
) -> list[str]:
    """Names that tell no case, cases that are there twice, and cases too many or too few."""
    faults = []
    by_key: dict[str, list[str]] = defaultdict(list)
    for member in segmentations:
        key = rules.key(member.stem)
        if key is None:
            more = ""
            if member.stem.endswith("_probabilities"):  # tfbrats.predict writes them beside, when asked
                more = "These are probabilities: leave them out. "
            elif member.stem.endswith(tuple(results.UNCERTAINTY.values())):
                more = "This is a map of uncertainty: leave it out. "
            faults.append(
                f"{member.name}: its name does not tell a case of {rules.edition}; expected e.g. "
                f"{rules.example}{SUFFIX}. {more or 'Rename it, or pass the right --edition.'}".rstrip()
            )
        else:
            by_key[key].append(member.name)
    for key, names in by_key.items():
        if len(names) > 1:
            faults.append(f"{', '.join(names)}: {len(names)} segmentations of case {key}. Keep one.")
    if case_ids is None:
        return faults
    asked_for = {rules.key(case_id) or case_id: case_id for case_id in sorted(case_ids)}
    faults += [
        f"{name}: case {key} is not one of the {len(asked_for)} wanted. Leave it out, or correct --expected."
        for key, names in by_key.items()
        if key not in asked_for
        for name in names
    ]
    faults += [
        f"{case_id}: no segmentation. Predict it; an empty one counts as one."
        for key, case_id in asked_for.items()
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


def _judged(member: Member, rules: SubmissionRules) -> tuple[list[str], list[str]]:
    """Faults and warnings of one file, without its name."""
    try:
        content = member.read()
        array, stored = nifti.read_stored(content, member.name)
    except InputError as error:
        return [str(error).removeprefix(f"{member.name}: ")], []
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
    value_faults, value_warnings = _values_judged(array, stored, rules.edition)
    return faults + value_faults, warnings + value_warnings


def _values_judged(array: np.ndarray, stored: nifti.Stored, edition: str) -> tuple[list[str], list[str]]:
    """Faults and warnings of the voxels' values."""
    if array.dtype.kind not in "iufb":
        return [f"voxels of type {stored.dtype}; expected one whole number each, as uint8."], []
    values, warnings = np.unique(array), []
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and np.array_equal(values, np.round(values))):
            cure = "Write labels, not probabilities, and resample with nearest neighbours."
            return [f"label values are not whole numbers, e.g. {_fraction(values)}. {cure}"], warnings
        if stored.dtype.kind == "f":
            warnings.append(f"whole numbers, stored as {stored.dtype}; uint8 is what the others send.")
    if stored.scaled:
        warnings.append("its header scales the values (scl_slope): readers that ignore it see other labels.")
    if values.size > _MOST_VALUES:
        return [f"{values.size} different values: an image, no segmentation. Leave it out."], warnings
    faults, schema, present = [], EDITIONS[edition], [int(value) for value in values]
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
