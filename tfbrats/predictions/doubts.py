"""What looks odd in scans that can be read: a skull, scans that do not cover one place, one scan twice.

A model answers to such scans too, and wrongly. Each is a note that says what to do; none stops the work. So are
those on what of a model does not go with a case or with its records. And what a model asks of whoever sends it
a case himself, without our client. Pure.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from tfbrats.cases.case import Case
from tfbrats.predictions.model_card import ModelCard

PAGE = "docs/start/your-own-case.md"
# In eleven real cases of BraTS 1.3 to 1.7 l are not 0, which is 15 to 19 % of the volume; a brain fills about
# half of a box that is cut to it.
_LARGEST_BRAIN_L = 2.2
_FULLEST = 0.6
_SAME_SPACING = 0.05  # relative
_TOWARDS = {
    **{"L": "the patient's left", "R": "the patient's right", "P": "the back", "A": "the front"},
    **{"S": "the head", "I": "the feet"},
}
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


# --- of a model ----------------------------------------------------------------------------------------


def spacing_note(card: ModelCard, spacing_mm: Sequence[float]) -> str | None:
    """What is to be told of a scan of other voxels than those that the model was trained on; else None."""
    ratios = [side / trained for side, trained in zip(spacing_mm, card.spacing_mm, strict=True)]
    if all(abs(ratio - 1) <= _SAME_SPACING for ratio in ratios):
        return None
    scan, trained = (" x ".join(f"{side:.4g}" for side in sides) for sides in (spacing_mm, card.spacing_mm))
    return (
        f"its voxels are {scan} mm, and the model {card.name} was trained on {trained} mm: expect it to do "
        "worse, or resample the scans first (docs/start/your-own-case.md)"
    )


def n4_note(card: ModelCard) -> str | None:
    """What is to be told of a model whose caller corrects the bias field; else None."""
    if not card.n4_of_caller:
        return None
    return (
        f"the model {card.name} version {card.version} was exported before models corrected the bias field "
        f"themselves: N4 of {', '.join(card.n4_of_caller)} is done here, by {card.n4.method}, in some seconds "
        "each. Exported again, it does so itself in about a second"
    )


def other_n4_note(card: ModelCard) -> str | None:
    """What is to be told of a graph whose N4 is not that of the records that it learned from; else None."""
    if not card.n4.modalities or card.n4.method == card.n4.of_records:
        return None
    return (
        f"its records were corrected by {card.n4.of_records}'s N4 (preprocess.n4), and the model corrects by "
        f"{card.n4.method}'s: at shrink factor 4 their fields are within 0.01 % of each other, but for a "
        "constant factor, which the z-score loses"
    )


# --- of a model's caller -------------------------------------------------------------------------------


def asked_of_caller(card: ModelCard, tells_axes: bool = False) -> tuple[str, ...]:
    """What holds of scans that a whole-case signature is sent, each a clause. No server sees to it.

    Of scans in BraTS' own form all of it holds as the files are, but for N4 of older models.

    Args:
        tells_axes: whether the axes are one of the signature's inputs.
    """
    n4 = card.n4
    if card.n4_of_caller:
        values = (
            f"N4 DONE BEFORE: {', '.join(n4.modalities)} corrected by {n4.method} at shrink factor {n4.shrink} "
            "and sent as float32; the model does the z-score alone"
        )
    else:
        within = f"N4 of {', '.join(n4.modalities)} and the z-score are" if n4.modalities else "the z-score is"
        values = f"raw scans: {within} done in the model"
    towards = ", ".join(_TOWARDS.get(axis, axis) for axis in card.axes)
    axes = f"axes {card.axes}: indices grow towards {towards}"
    if tells_axes:
        axes = 'any axes, named in the input "axes" as nibabel.aff2axcodes does: RAS'
    sides = " x ".join(f"{side:.4g}" for side in card.spacing_mm)
    return (
        values,
        axes,
        f"one grid: {', '.join(card.modalities)} have one shape, and a voxel is one place in all",
        "no skull: what is not brain is 0",
        f"voxels of {sides} mm, as in training",
    )


def asked_of_network(card: ModelCard) -> tuple[str, ...]:
    """The same of a bare network's signature: what the whole-case ones do themselves."""
    n4 = card.n4
    corrected = (f"N4 of {', '.join(n4.modalities)} at shrink factor {n4.shrink}",) if n4.modalities else ()
    return (*corrected, "z-score over the brain, background 0", f"axes {card.axes}")
