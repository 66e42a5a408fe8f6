"""What the voxels of one file may be: the intensities of a scan, the values of a mask. Pure numpy.

Refuses what no scanner measures and what would make a z-score useless, by file, voxel and value; takes a mask
that was scaled on its way to the disk for the labels that it was.
"""

from collections.abc import Mapping

import numpy as np

from tfbrats.errors import InputError
from tfbrats.labels import LabelSchema, UnknownLabelError

# No scanner measures that: a filler of 32 bits (2147483647) or a larger one (1e20, -3.4e38).
_NO_INTENSITY = 2.0**31 - 1
# How much brighter than 99 of 100 voxels of the brain a single one may be before one looks closer: up to 2.8
# times in eleven real cases of BraTS, bright vessels and a saturated one among them.
_OUTSTANDING = 50.0
# How much brighter than half of the brain 99 of 100 voxels are at the most: 1.2 to 3.9 times in those cases.
# Beyond that the 99th percentile is itself one of the voxels in question: a whole slice of them is over 1 %.
_BRIGHTEST = 8.0
_BRIGHT = 4.0  # what then stands for that percentile, times the level of half of the brain
_RUINED = 2.0  # times the deviation that the scan has without such voxels: its z-scores are then useless
_SAMPLED = 100_000  # voxels that tell whether one has to look closer

_CORNERS = 4  # of eight that are not 0, where the head does not end in one
_PADDING = 0.2  # of a volume that has the corners' value: a filled background, no noise of air

_WHOLE = 1e-3  # how far a label may be from a whole number, in a file of fractions
_SCALED_STEP = 0.51  # ... of scl_slope, in a file that scales: half a step is lost by rounding
_LARGEST_STEP = 0.1


# --- scans ----------------------------------------------------------------------------------------------


def intensity_faults(path: str, modality: str, array: np.ndarray) -> tuple[list[str], list[str]]:
    """What is wrong with a scan's voxels, each with the file's name; and what is odd, without it.

    Args:
        array: [file axes], real numbers of any type.
    """
    if array.dtype.kind not in "iufb":
        return [f"{path}: voxels of type {array.dtype}; expected one real number each."], []
    if array.dtype.kind == "f":
        # Beyond float32, which everything here computes in, is as good as infinite.
        bad = int(array.size - np.count_nonzero(np.abs(array) <= np.finfo(np.float32).max))
        if bad:
            return [f"{path}: {bad} voxels of {modality} are NaN or infinite. Write it again without them."], []
    least, most = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if least == most:
        value = array.flat[0] if array.size else "nothing"
        return [f"{path}: {modality} is {value} everywhere. Write it again from the scan."], []
    largest = max(-least, most)
    if largest < _NO_INTENSITY and (largest <= _OUTSTANDING * _usual(array) or _has_background(array)):
        return [], []  # air that was not cut away would stand for the brain; `background_faults` tells of it
    return _outstanding(path, modality, array, largest)


def _usual(array: np.ndarray) -> float:
    """What 99 of 100 voxels of the brain do not exceed, about: of some that lie evenly in the file."""
    flat = array.ravel(order="K")
    some = flat[:: max(1, flat.size // _SAMPLED)]
    some = some[some != 0]
    return _level(np.abs(some.astype(np.float64)))[0] if some.size else 0.0


def _level(inside: np.ndarray) -> tuple[float, str]:
    """What voxels of the brain usually do not exceed, by their absolute values [V]; and that in words."""
    half, most = np.percentile(inside, (50, 99), method="lower")
    if most <= _BRIGHTEST * half:
        return float(most), f"99 % of its brain is below {most:.4g}"
    return _BRIGHT * float(half), f"half of its brain is below {half:.4g}"


def _outstanding(path: str, modality: str, array: np.ndarray, largest: float) -> tuple[list[str], list[str]]:
    """A closer look at a scan some voxels of which stand out: faults, notes."""
    absolute = np.abs(array.astype(np.float64))
    inside = absolute[absolute > 0]
    usual, in_words = _level(inside)
    limit = min(_OUTSTANDING * usual, _NO_INTENSITY)
    if largest < limit:
        return [], []
    outstanding = absolute >= limit
    count = int(np.count_nonzero(outstanding))
    place = np.unravel_index(int(np.argmax(absolute)), array.shape)
    which = (
        f"voxel ({', '.join(map(str, map(int, place)))}) of {modality} is {array[place]:.7g}"
        if count == 1
        else f"{count} voxels of {modality} stand out, the furthest with {array[place]:.7g} at "
        f"({', '.join(map(str, map(int, place)))})"
    )
    they, them = ("it alone decides", "it") if count == 1 else ("they alone decide", "them")
    if largest >= _NO_INTENSITY:
        return [f"{path}: {which}: no scanner measures that. Set {them} to 0, or write the scan again."], []
    which += f", and {in_words}"
    sound = array[(absolute > 0) & ~outstanding].astype(np.float64)
    deviation = float(array[absolute > 0].astype(np.float64).std())
    if deviation <= _RUINED * float(sound.std()):
        return [], [f"{which}: an artefact?"]
    return [
        f"{path}: {which}: {they} mean and deviation of the scan, and so what a network sees. Set {them} to 0, "
        "or write the scan again."
    ], []


def compact(array: np.ndarray) -> np.ndarray:
    """int16 where that loses nothing, else float32."""
    if array.dtype == np.int16:
        return array
    if array.dtype.kind in "iub":
        fits = array.size == 0 or (array.min() >= -32768 and array.max() <= 32767)
        return array.astype(np.int16 if fits else np.float32)
    return array.astype(np.float32)


def _corners(array: np.ndarray) -> np.ndarray:
    return array[np.ix_(*((0, -1),) * 3)]


def _has_background(array: np.ndarray) -> bool:
    return np.count_nonzero(_corners(array)) >= _CORNERS


def background_faults(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """What stands round the head, where nothing should: the brain is where any modality is not 0.

    Args:
        arrays: modality -> [file axes].
    """
    padded: dict[float, list[str]] = {}
    unstripped = []
    for modality, array in arrays.items():
        if not _has_background(array):
            continue
        corners = _corners(array)
        value = corners.flat[0]
        if (corners == value).all() and np.count_nonzero(array == value) > _PADDING * array.size:
            padded.setdefault(float(value), []).append(modality)
        else:
            unstripped.append(modality)
    faults = [
        f"{', '.join(names)}: the background is {value:g}; expected 0. Set it to 0 in the file."
        for value, names in padded.items()
    ]
    if unstripped:
        faults.append(
            f"{', '.join(unstripped)}: the corners of the volume are not 0: skull or air is still there. Strip "
            "it first (HD-BET, SynthStrip) and set the background to 0."
        )
    return faults


# --- masks ----------------------------------------------------------------------------------------------


def tissues(
    array: np.ndarray, scaling: tuple[float, float] | None, schema: LabelSchema, path: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A mask as tissues (`labels.Tissue`), uint8 of the same shape; and notes without the file's name.

    Args:
        array: as the file gives it, scaled.
        scaling: scl_slope and scl_inter of its header, or None.

    Raises:
        InputError: values between labels, or outside the schema.
    """
    by_header = ""
    if scaling is not None:
        slope, inter = scaling
        by_header = f" Its header scales what is stored: scl_slope {slope:.7g}, scl_inter {inter:.7g}."
    values, notes = _whole_numbers(array, scaling, path, by_header)
    try:
        return schema.to_tissues(values, path), notes
    except UnknownLabelError as error:
        if not by_header:
            raise
        raise UnknownLabelError(f"{error}{by_header}") from error


def _whole_numbers(
    array: np.ndarray, scaling: tuple[float, float] | None, path: str, by_header: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    if array.dtype.kind not in "iufb":
        raise InputError(f"{path}: voxels of type {array.dtype}; expected one label value each.")
    if array.dtype.kind != "f":
        return array, ()
    with np.errstate(invalid="ignore"):
        rounded = np.round(array)
        away = np.where(np.isfinite(array), np.abs(array - rounded), np.inf)
    largest = float(away.max()) if array.size else 0.0
    allowed = _WHOLE
    if scaling is not None:
        allowed = max(allowed, min(_SCALED_STEP * abs(scaling[0]), _LARGEST_STEP))
    if largest > allowed:
        value = float(array[np.unravel_index(int(np.argmax(away)), array.shape)])
        cure = "Was the mask interpolated? Resample it with nearest neighbours."
        if array.min() >= 0 and array.max() <= 1:  # neither with nan
            cure = "All lie between 0 and 1: these are probabilities. Threshold them first."
        raise InputError(f"{path}: label values are not whole numbers, e.g. {value:.7g}. {cure}{by_header}")
    notes = ()
    if largest:
        notes = (
            f"its labels are up to {largest:.2g} away from whole numbers: rounded.{by_header}".rstrip("."),
        )
    return rounded.astype(np.int64), notes
