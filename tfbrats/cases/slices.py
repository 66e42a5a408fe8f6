"""Cut a prepared case into slices for paper A, each with its map of the sampling regions (contour band, ...).

Pure numpy and SciPy: no I/O, no TensorFlow.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from tfbrats.cases.boxes import box_of, crop, grown
from tfbrats.cases.case import case_seed
from tfbrats.cases.preprocess import Prepared, in_float16
from tfbrats.errors import InputError
from tfbrats.labels import LwsRegion, region_mask


def region_map(
    brain: np.ndarray, whole_tumour: np.ndarray, contour_width_mm: float, spacing_mm: Sequence[float]
) -> np.ndarray:
    """The LWS regions of one slice.

    The band is the dilation minus the erosion of the whole tumour by a disk whose radius is half the width
    ([ours]: paper A says "about 10 pixels wide"), clipped to the brain. The disk is round in mm.

    Args:
        brain: bool [I, J].
        whole_tumour: bool [I, J].
        contour_width_mm: the width of the band.
        spacing_mm: pixel size along i, j.

    Returns:
        uint8 [I, J] of `LwsRegion`.
    """
    regions = np.where(brain, LwsRegion.S2, LwsRegion.S1).astype(np.uint8)
    if not whole_tumour.any():
        return regions
    from scipy import ndimage  # here: commands that cut nothing need not wait for it

    radius_mm = contour_width_mm / 2
    # Further from the tumour than the radius there is no band, and what a distance is measured to lies no
    # further than the first pixel round the tumour: the rest of the slice is not looked at.
    margin = 1 + max(int(radius_mm / side) for side in spacing_mm)
    box = grown(box_of(whole_tumour), margin, whole_tumour.shape)
    # A pixel is in the dilation when the nearest tumour pixel is within the radius, and in the erosion when
    # the nearest other pixel is beyond it. One ring of padding is the world outside the array.
    tumour = np.pad(crop(whole_tumour, box), 1)
    to_tumour_mm = ndimage.distance_transform_edt(~tumour, sampling=spacing_mm)[1:-1, 1:-1]
    to_others_mm = ndimage.distance_transform_edt(tumour, sampling=spacing_mm)[1:-1, 1:-1]
    band = np.zeros_like(brain)
    crop(band, box)[...] = (to_tumour_mm <= radius_mm) & (to_others_mm <= radius_mm)
    regions[brain & whole_tumour] = LwsRegion.S3
    regions[brain & band] = LwsRegion.S4
    return regions


def kept_slices(
    brain: np.ndarray,
    whole_tumour: np.ndarray,
    depth: int,
    dropped_fraction: float,
    rng_seed: Sequence[int],
) -> list[int]:
    """Which axial slices of the crop a training set keeps.

    Slices without brain go first, then random tumour-free ones until `dropped_fraction` of all are gone.

    Args:
        brain: bool [i, j, k].
        whole_tumour: bool [i, j, k].
        depth: slices of the whole volume, of which those outside the crop have no brain.
        dropped_fraction: 0 keeps every slice with brain.
        rng_seed: of the random choice.

    Returns:
        indices along k, ascending.
    """
    with_brain = np.flatnonzero(brain.any(axis=(0, 1)))
    tumour_free = with_brain[~whole_tumour[..., with_brain].any(axis=(0, 1))]
    still_to_drop = round(dropped_fraction * depth) - (depth - len(with_brain))
    dropped = np.random.default_rng(rng_seed).permutation(tumour_free)[: max(0, still_to_drop)]
    return sorted(set(with_brain.tolist()) - set(dropped.tolist()))


def canvas_origin(
    box_ij: Sequence[tuple[int, int]], shape_ij: Sequence[int], canvas: Sequence[int], where: str
) -> tuple[int, int]:
    """Where the crop lies on the canvas that the network sees, the whole slice being centred on it.

    Raises:
        InputError: the brain is larger than the canvas.
    """
    origin = []
    for (low, high), size, side in zip(box_ij, shape_ij, canvas, strict=True):
        if high - low > side:
            raise InputError(
                f"{where}: the brain spans {high - low} voxels, the canvas {side}. Raise records.slice_shape."
            )
        origin.append(min(max(low + (side - size) // 2, 0), side - (high - low)))
    return tuple(origin)


def slices(
    prepared: Prepared,
    canvas: Sequence[int],
    contour_width_mm: float,
    dropped_fraction: float,
    seed: int,
) -> Iterator[dict]:
    """The axial slices of one labelled case, as `records.schema.SLICES` describes them.

    Only the crop is stored, with its place on the canvas; the reader pads it back.

    Yields:
        image float16 [h, w, M], label uint8 [h, w] (tissues), region uint8 [h, w] (`LwsRegion`),
        origin_ij int64 [2], slice_k int, case_id str.
    """
    # cropped: ~140 x 170 x 140 x 4 -> ~100 slices of ~140 x 170 x 4
    whole_tumour = region_mask(prepared.label, "WT")
    origin = canvas_origin(prepared.box_ijk[:2], prepared.shape_ijk[:2], canvas, prepared.case_id)
    kept = kept_slices(
        prepared.brain,
        whole_tumour,
        prepared.shape_ijk[2],
        dropped_fraction,
        case_seed(seed, prepared.case_id),
    )
    for k in kept:
        yield {
            "image": in_float16(prepared.image[:, :, k]),
            "label": prepared.label[:, :, k],
            "region": region_map(
                prepared.brain[:, :, k], whole_tumour[:, :, k], contour_width_mm, prepared.spacing_mm[:2]
            ),
            "origin_ij": np.array(origin, np.int64),
            "slice_k": prepared.box_ijk[2][0] + k,
            "case_id": prepared.case_id,
        }
