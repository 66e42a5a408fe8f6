"""Bias field, brain, z-score, crop: a case as the networks see it. No TensorFlow.

Does no skull stripping and no co-registration: BraTS has had both (elsewhere: HD-BET, SynthStrip, ANTs).
The brain is where any modality is not 0. Not "above 0": interpolated scans have negative voxels in it.

The bias field is found in `bias`. `graphs.preprocess_graph` is the twin in the graph.
"""

import concurrent.futures
import math
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tfbrats.cases import bias
from tfbrats.cases.boxes import Box, box_of, crop
from tfbrats.cases.case import Case
from tfbrats.config_sections import N4
from tfbrats.errors import InputError

# SimpleITK's sums, and so the last digits of its field, depend on how many threads share the work, and with
# several on how ITK's threader cuts it up. One gives the same field on every machine, for no more CPU seconds.
# ITK looks at the global default alone: a filter's own setting changes no digit.
_ITK_THREADS = 1

_NO_BRAIN = "no voxel differs from 0: there is no brain to crop to."


class MissingPackageError(InputError):
    """A package is not installed that all cases need: no fault of one of them."""


@dataclass(frozen=True)
class Prepared:
    """A case ready to be cut into examples.

    Attributes:
        image: float32 [i, j, k, M], z-scored in the brain, 0 outside, cropped to `box_ijk`.
        brain: bool [i, j, k].
        label: tissues, uint8 [i, j, k], or None.
        box_ijk: where the crop lies in the whole volume.
        shape_ijk: the whole volume.
    """

    case_id: str
    image: np.ndarray
    brain: np.ndarray
    label: np.ndarray | None
    box_ijk: Box
    shape_ijk: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


def brain_mask(image: np.ndarray) -> np.ndarray:
    """Where any modality is not 0: [I, J, K, M] -> bool [I, J, K]."""
    brain = image[..., 0] != 0
    for m in range(1, image.shape[-1]):  # six times as fast as any(axis=-1)
        brain |= image[..., m] != 0
    return brain


def corrected_by_itk(
    volume: np.ndarray, brain: np.ndarray, shrink: int, spacing_mm: Sequence[float] = (1, 1, 1)
) -> np.ndarray:
    """As `bias.corrected`, by SimpleITK: a hundred times as slow. Records of before there was ours are of it.

    Args:
        volume: one modality [I, J, K].
        brain: bool [I, J, K].

    Returns:
        float32 [I, J, K]; 0 stays 0.

    Raises:
        MissingPackageError: SimpleITK is not installed.
    """
    volume = volume.astype(np.float32)
    fitted = brain & (volume > 0)
    if not fitted.any():
        return volume
    sitk = _simple_itk()
    # SimpleITK reads an array as [z, y, x]; naming i "z" is harmless as long as spacing follows.
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing([float(s) for s in reversed(spacing_mm)])
    mask = sitk.GetImageFromArray(fitted.astype(np.uint8))
    mask.CopyInformation(image)
    factors = [max(1, min(shrink, size // 4)) for size in image.GetSize()]
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(_ITK_THREADS)
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
    log_field = sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image))
    return (volume / np.exp(log_field)).astype(np.float32)


def _simple_itk() -> types.ModuleType:
    """SimpleITK, imported when it is first to find a bias field: not all who read cases have or need it.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise MissingPackageError(
            f"SimpleITK's N4 (n4: itk), which this model or config wants, needs SimpleITK: {error}. Install it "
            "(pip install SimpleITK) and run this again."
        ) from error
    return SimpleITK


def statistics(image: np.ndarray, brain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each modality over the brain: [I, J, K, M] -> float64 [M], [M].

    A modality that is constant in the brain has the deviation 1, so that it becomes 0 everywhere.
    """
    count = np.count_nonzero(brain)
    mean = _sums(image, brain, lambda plane, weight, m: plane * weight) / count
    squares = _sums(image, brain, lambda plane, weight, m: np.square((plane - mean[m]) * weight))
    deviation = np.sqrt(squares / count)
    # Rounding leaves a trace of deviation in what is constant.
    return mean, np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)


def _sums(image: np.ndarray, brain: np.ndarray, of: Callable) -> np.ndarray:
    """Sums over i, j and k of [I, J, K, M]: float64 [M]. Slice by slice, for the processor's cache.

    Args:
        of: a slice of one modality [J, I], its weight float64 [J, I] (1 in the brain), the modality -> float64.
    """
    sums: list[list[float]] = [[] for _ in range(image.shape[-1])]
    for k in range(image.shape[2]):
        weight = brain[:, :, k].T.astype(np.float64)
        for m, of_modality in enumerate(sums):
            of_modality.append(of(image[:, :, k, m].T, weight, m).sum())
    return np.array([math.fsum(of_modality) for of_modality in sums])


def z_score(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """(x - mean) / deviation with brain statistics; 0 outside. [I, J, K, M] -> float32, same shape."""
    mean, deviation = (values.astype(np.float32) for values in statistics(image, brain))
    scaled = np.empty_like(image, np.float32)
    within = -brain.astype(np.int32)  # every bit set, or none: a tenth of the time of `np.copyto(..., where=)`
    for m in range(image.shape[-1]):
        volume = scaled[..., m]
        np.subtract(image[..., m], mean[m], out=volume, casting="same_kind")
        volume /= deviation[m]
        volume.view(np.int32)[...] &= within
    return scaled


def in_float16(image: np.ndarray) -> np.ndarray:
    """float32 [..., M] -> float16, C order: as records hold it.

    An image lies modality by modality, its first axis in one piece. All modalities of a voxel are brought
    together first; then voxels are put in order, in half of the time of `astype` and `ascontiguousarray`.
    """
    *sides, modalities = image.shape
    together = np.empty((*reversed(sides), modalities), np.float16)
    for m in range(modalities):
        together[..., m] = image[..., m].T
    voxels = together.view(np.dtype((np.void, 2 * modalities)))[..., 0].T
    return np.ascontiguousarray(voxels).view(np.float16).reshape(image.shape)


def correct_bias(
    case: Case, n4_modalities: Sequence[str], n4_shrink: int, modalities_at_once: int = 1, n4: N4 = "ours"
) -> np.ndarray:
    """The case's image with the bias field divided out of the named modalities.

    Args:
        modalities_at_once: how many to fit side by side, each on one core. The result does not depend on it. 1
            is for a worker among others; a program that waits for one case gives its cores.
        n4: whose: that of `bias`, or SimpleITK's.

    Returns:
        [I, J, K, M]: as the case has it if none is named, else float32.
    """
    if not n4_modalities:
        return case.image
    brain = brain_mask(case.image)
    image = np.empty(case.image.shape, np.float32, order="F")  # as `case.load`: modality by modality

    def correct(m: int) -> None:
        volume = case.image[..., m]
        if case.modalities[m] not in n4_modalities:
            image[..., m] = volume
        elif n4 == "ours":
            image[..., m] = bias.corrected(volume, brain, n4_shrink)
        else:
            image[..., m] = corrected_by_itk(volume, brain, n4_shrink, case.spacing_mm)

    with concurrent.futures.ThreadPoolExecutor(modalities_at_once) as pool:
        list(pool.map(correct, range(len(case.modalities))))
    return image


def tumour_outside(label: np.ndarray, brain: np.ndarray) -> float:
    """The share of a tumour, tissues [I, J, K], that lies outside of the brain; 0 where there is none."""
    tumour = np.count_nonzero(label)
    return 1 - np.count_nonzero((label != 0) & brain) / tumour if tumour else 0.0


def check(label: np.ndarray | None, brain: np.ndarray) -> None:
    """Whether a case that could be read can be prepared; the one place that says so, for every command.

    Args:
        label: tissues [I, J, K], or None.
        brain: of `brain_mask`.

    Raises:
        InputError: there is no brain, or the tumour lies wholly outside it. Without the case's name.
    """
    if not brain.any():
        raise InputError(_NO_BRAIN)
    if label is not None and tumour_outside(label, brain) == 1:
        raise InputError("the segmentation lies wholly outside the brain. Is it another case's, or flipped?")


def cropped(case: Case, image: np.ndarray) -> Prepared:
    """z-score and crop, once `correct_bias` is done.

    Args:
        image: [I, J, K, M], the case's own or what `correct_bias` made of it.

    Raises:
        InputError: the case has no brain, or its tumour lies wholly outside it.
    """
    brain = brain_mask(image)
    try:
        check(case.label, brain)
    except InputError as error:
        raise InputError(f"{case.case_id}: {error}") from error
    box = box_of(brain)
    # cropped: ~140 x 170 x 140 x 4
    brain = crop(brain, box)
    return Prepared(
        case_id=case.case_id,
        image=z_score(crop(image, box), brain),
        brain=brain,
        label=None if case.label is None else crop(case.label, box),
        box_ijk=box,
        shape_ijk=tuple(int(n) for n in case.image.shape[:3]),
        spacing_mm=case.spacing_mm,
    )


def prepare(case: Case, n4_modalities: Sequence[str], n4_shrink: int, n4: N4 = "ours") -> Prepared:
    """N4, z-score, crop.

    Raises:
        InputError: the case has no brain, or its tumour lies wholly outside it.
    """
    # image: 240 x 240 x 155 x 4
    return cropped(case, correct_bias(case, n4_modalities, n4_shrink, n4=n4))
