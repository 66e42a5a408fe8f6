"""What looks odd in scans that can be read: a skull, scans that do not cover one place, one scan twice.

A model answers to such scans too, and wrongly. Each is a note that says what to do; none stops the work. Pure.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from tfbrats.cases.case import Case

PAGE = "docs/start/your-own-case.md"
# In eleven real cases of BraTS 1.3 to 1.7 l are not 0, which is 15 to 19 % of the volume; a brain fills about
# half of a box that is cut to it.
_LARGEST_BRAIN_L = 2.2
_FULLEST = 0.6
_COVERED = 0.9  # by each scan, of what all cover together; 0.999 in those cases


def of(case: Case) -> list[str]:
    """Notes on a case, each a sentence without full stop."""
    covered = [case.image[..., m] != 0 for m in range(len(case.modalities))]
    brain = functools.reduce(np.logical_or, covered)
    voxels = int(np.count_nonzero(brain))
    return [
        *_with_skull(voxels, brain.size, case.spacing_mm),
        *_apart(case.modalities, [np.count_nonzero(mask) / max(voxels, 1) for mask in covered]),
        *_alike(case),
    ]


def _with_skull(voxels: int, size: int, spacing_mm: Sequence[float]) -> list[str]:
    litres = voxels * float(np.prod(spacing_mm)) / 1e6
    share = voxels / size
    if litres <= _LARGEST_BRAIN_L and share <= _FULLEST:
        return []
    if litres > _LARGEST_BRAIN_L:
        what = f"{litres:.1f} l of voxels are not 0, but a brain has 1 to 2 l"
    else:
        what = f"{100 * share:.0f} % of the voxels are not 0, but a brain fills about half of its box"
    return [
        f"{what}: is the skull, or air, still in the scans? Strip them first (HD-BET, SynthStrip); see {PAGE}"
    ]


def _apart(modalities: Sequence[str], shares: Sequence[float]) -> list[str]:
    if min(shares) >= _COVERED:
        return []
    parts = ", ".join(f"{name} {100 * share:.0f} %" for name, share in zip(modalities, shares, strict=True))
    return [
        f"the scans cover different places (share of all non-zero voxels: {parts}). Were they "
        f"co-registered, and all stripped of the skull? See {PAGE}"
    ]


def _alike(case: Case) -> list[str]:
    middle = case.image.shape[2] // 2
    pairs = [
        (case.modalities[a], case.modalities[b])
        for a, b in itertools.combinations(range(len(case.modalities)), 2)
        if np.array_equal(case.image[:, :, middle, a], case.image[:, :, middle, b])  # spares most a longer look
        and np.array_equal(case.image[..., a], case.image[..., b])
    ]
    if not pairs:
        return []
    names = sorted({name for pair in pairs for name in pair}, key=case.modalities.index)
    return [
        f"{' and '.join(names)} hold the same voxels: is one file a copy of another? The model was trained on "
        f"different scans; see {PAGE}"
    ]
