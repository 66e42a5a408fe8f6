"""One simulated glioma case as arrays: a brain, a tumour in it, and how four scans show them."""

from collections.abc import Sequence

import numpy as np

from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES
from tfbrats.phantoms.brain import (
    SEMI_AXES,
    brain_depth,
    healthy_signal,
    random_stream,
    smooth_noise,
    tissue_shares,
)
from tfbrats.phantoms.tumour import tumour, with_tumour

FULL_SHAPE = (240, 240, 155)  # voxels, as in every BraTS edition


LEAST_SHAPE = (24, 24, 16)


def simulate(
    shape: Sequence[int],
    seed: int,
    number: int,
    spacing_mm: Sequence[float] = (1, 1, 1),
    resected: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """One simulated case.

    Args:
        shape: (I, J, K) voxels, at least `LEAST_SHAPE`; axes point to the left, back and head.
        seed: of the data set.
        number: of the case; (seed, number) decide all.
        spacing_mm: along i, j, k; keeps the tumour round in mm.
        resected: part of the tumour's core is a cavity (Tissue.RC) filled with fluid.

    Returns:
        image: int16 [I, J, K, 4] in the order of `labels.MODALITIES`, 0 outside the brain.
        tissues: `labels.Tissue`, uint8 [I, J, K].

    Raises:
        InputError: the shape is too small to hold a brain.
    """
    if len(shape) != 3 or any(side < least for side, least in zip(shape, LEAST_SHAPE, strict=True)):
        raise InputError(f"shape {tuple(shape)}: a phantom needs three sides of at least {LEAST_SHAPE}.")

    def noise(what: str, cells: int) -> np.ndarray:
        return smooth_noise(random_stream(seed, number, what), cells, box_shape)

    # box: the voxels that the brain can reach, ~157 x 192 x 144 of 240 x 240 x 155
    semi_axes = np.array(SEMI_AXES) * shape
    middle = (np.array(shape) - 1) / 2
    low = np.maximum(0, np.floor(middle - 1.06 * semi_axes)).astype(int)
    high = np.minimum(shape, np.ceil(middle + 1.06 * semi_axes).astype(int) + 1)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    box_shape = tuple(high - low)
    axes = [
        ((np.arange(a, b) - m) / s).astype(np.float32)
        for a, b, m, s in zip(low, high, middle, semi_axes, strict=True)
    ]
    straight = np.meshgrid(*axes, indexing="ij")
    # No head is symmetric or straight.
    turn = random_stream(seed, number, "turn").normal(0, 0.05)
    x = straight[0] + turn * straight[1] + 0.035 * noise("warp i", 4)
    y = straight[1] - turn * straight[0] + 0.035 * noise("warp j", 4)
    z = straight[2] + 0.03 * noise("warp k", 4)

    depth, in_cerebellum = brain_depth(x, y, z)
    finest = min(box_shape) // 4  # a fold narrower than some voxels is only noise
    sulci = np.abs(noise("sulci", min(21, finest)))
    folia = np.abs(np.sin(34 * z + 12 * y + 2 * noise("folia", 4))) * 0.8 if finest > 15 else sulci
    sulci = np.where(in_cerebellum, folia, sulci)
    # The outline dips into the sulci, as skull stripping leaves it.
    brain = depth > 0.03 * np.clip(1 - sulci / 0.4, 0, 1)

    # From here on arrays are flat, over the brain's voxels: [V]
    def inside(field: np.ndarray) -> np.ndarray:
        return field[brain]

    grey, fluid, ventricles, midline = tissue_shares(*map(inside, (x, y, z, depth, sulci, in_cerebellum)))
    position = np.stack([inside(axis) for axis in straight])
    shares, flat = tumour(seed, number, resected, position, semi_axes * spacing_mm, grey, fluid, inside, noise)
    image = np.zeros((*shape, len(MODALITIES)), np.int16)
    tissues = np.zeros(shape, np.uint8)
    for channel, modality in enumerate(MODALITIES):
        random = random_stream(seed, number, f"signal {modality}")
        signal = healthy_signal(random, modality, grey, fluid, ventricles, midline)
        signal = with_tumour(seed, number, random, modality, signal, shares)
        bias = 0.10 * noise("bias", 2) + 0.06 * noise(f"bias {modality}", 3)
        grain = 0.02 * noise("grain", min(40, finest))  # fibres, vessels: no tissue is of one grey
        signal *= np.exp(inside(bias + grain))
        # Rice: the magnitude of a complex signal with noise in both parts.
        sigma = random.uniform(0.03, 0.06)
        real = signal + sigma * random.standard_normal(signal.size, dtype=np.float32)
        imaginary = sigma * random.standard_normal(signal.size, dtype=np.float32)
        units = np.exp(random.uniform(np.log(150), np.log(2500)))  # scanners have no common unit
        intensity = np.hypot(real, imaginary) * units
        image[box][..., channel][brain] = np.clip(np.round(intensity), 1, 32767)
    tissues[box][brain] = flat
    return image, tissues
