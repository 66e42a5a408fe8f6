"""One simulated glioma case as arrays: a brain, a tumour in it, and how four scans show them."""

from collections.abc import Sequence

import numpy as np

from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES
from tfbrats.phantoms.brain import Brain, brain_box, brain_in, healthy_signal
from tfbrats.phantoms.draws import Draws
from tfbrats.phantoms.tumour import Tumour, grow, with_tumour

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
    draws = Draws(seed, number)
    box = brain_box(shape)
    brain = brain_in(box, draws)
    tumour = grow(draws, brain, box.semi_axes * spacing_mm, resected)
    bias = 0.10 * brain.noise(draws, "bias", 2)  # of the coil: the same in all scans
    # Fibres, vessels: no tissue is of one grey.
    grain = 0.02 * brain.noise(draws, "grain", min(40, box.finest_cells))

    image = np.zeros((*shape, len(MODALITIES)), np.int16)
    tissues = np.zeros(shape, np.uint8)
    for channel, modality in enumerate(MODALITIES):
        scan = _scan(draws, modality, brain, tumour, bias, grain)
        image[box.slices][..., channel][brain.mask] = scan
    tissues[box.slices][brain.mask] = tumour.tissues
    return image, tissues


def _scan(
    draws: Draws, modality: str, brain: Brain, tumour: Tumour, bias: np.ndarray, grain: np.ndarray
) -> np.ndarray:
    """Intensities of one scan in the brain's voxels [V]: whole numbers from 1 to what int16 holds."""
    random = draws.stream(f"signal {modality}")
    signal = healthy_signal(random, modality, brain)
    signal = with_tumour(draws, modality, signal, tumour)
    signal *= np.exp(bias + 0.06 * brain.noise(draws, f"bias {modality}", 3) + grain)
    # Rice: the magnitude of a complex signal with noise in both parts.
    sigma = random.uniform(0.03, 0.06)
    real = signal + sigma * random.standard_normal(signal.size, dtype=np.float32)
    imaginary = sigma * random.standard_normal(signal.size, dtype=np.float32)
    units = np.exp(random.uniform(np.log(150), np.log(2500)))  # scanners have no common unit
    return np.clip(np.round(np.hypot(real, imaginary) * units), 1, 32767)
