"""nnU-Net's side of `real.py`, from the parts of its package (nnunetv2): its 3d_fullres but for the size.

Its own are: crop to what is not zero and z-score inside; PlainConvUNet with deep supervision, as its plan
for 1 mm cubes builds it (stages of two convolutions, instance norm, leaky ReLU); its loss of regions for WT,
TC and ET, Dice and binary cross-entropy, the Dice over the batch, as its authors had it for BraTS; SGD with
Nesterov momentum 0.99, weight decay 3e-5, 0.01 falling to 0 by a polynomial, gradients clipped at 12; which
patches are drawn, a third of them round a tumour's voxel; its augmentation; its sliding window, Gaussian
weights, half a patch from window to window, all eight mirrorings averaged; its rule of largest components.
Not its own: patch and width, which have to fit two cores; in place of 1000 epochs of 250 steps the
polynomial falls over the time that is given; and augmentation runs in the training's process, which has no
other cores.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import real_peers
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.postprocessing.remove_connected_components import (
    remove_all_but_largest_component_from_segmentation as largest_alone,
)
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

_RATE, _EXPONENT, _CLIPPED_AT = 1e-2, 0.9, 12
_BATCH = 2  # the least that its planner gives
_FOREGROUND = 0.33
_ROTATION = (-30 / 360 * 2 * np.pi, 30 / 360 * 2 * np.pi)
_MOST_FEATURES = 320
_REGIONS = ((1, 2, 3), (1, 3), (3,))  # WT, TC, ET as sets of `Tissue`
_AXES = (0, 1, 2)


class Peer:
    """See the module.

    Args:
        size: `patch`, voxels along each side; `width`, features of the first stage; `stages`.
    """

    clipped_at = _CLIPPED_AT

    def __init__(self, size: Mapping[str, int]):
        self._patch, self._stages = (size["patch"],) * 3, size["stages"]
        features = [min(size["width"] * 2**stage, _MOST_FEATURES) for stage in range(self._stages)]
        self.network = PlainConvUNet(
            real_peers.MODALITIES,
            self._stages,
            features,
            torch.nn.Conv3d,
            kernel_sizes=3,
            strides=[1] + [2] * (self._stages - 1),
            n_conv_per_stage=[2] * self._stages,
            num_classes=len(_REGIONS),
            n_conv_per_stage_decoder=[2] * (self._stages - 1),
            conv_bias=True,
            norm_op=torch.nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=torch.nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )
        self.network.apply(InitWeights_He(1e-2))
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), _RATE, momentum=0.99, nesterov=True, weight_decay=3e-5
        )
        weights = np.array([1 / 2**stage for stage in range(self._stages - 1)])
        weights[-1] = 0  # as its trainer: the lowest output teaches nothing
        self._loss = DeepSupervisionWrapper(
            DC_and_BCE_loss(
                {},
                {"batch_dice": True, "do_bg": True, "smooth": 1e-5, "ddp": False},
                dice_class=MemoryEfficientSoftDiceLoss,
            ),
            weights / weights.sum(),
        )
        self._transform = nnUNetTrainer.get_training_transforms(
            np.array(self._patch),
            _ROTATION,
            [[1 / 2**stage] * 3 for stage in range(self._stages - 1)],
            _AXES,
            False,
            use_mask_for_norm=[True] * real_peers.MODALITIES,
            regions=list(_REGIONS),
        )
        # Larger than the patch, so that a turned one has no empty corners.
        self._cut = get_patch_size(np.array(self._patch), *[_ROTATION] * 3, (0.85, 1.25))

    def rate(self, spent: float) -> float:
        """The learning rate when this share of the time is spent."""
        return _RATE * max(0.0, 1 - spent) ** _EXPONENT

    def loss(self, outputs, target) -> torch.Tensor:
        return self._loss([output.float() for output in outputs], target)

    def batch(self, cases: Sequence["real_peers.Ready"], rng: np.random.Generator):
        """Images [2, M, S, S, S], and a list of targets [2, 3, s, s, s], one of each resolution."""
        samples = []
        for number in range(_BATCH):
            one = cases[rng.integers(len(cases))]
            # Its rule for a batch: the last third, at least one of two, is round a tumour's voxel.
            forced = number >= round(_BATCH * (1 - _FOREGROUND))
            lows = self._corner(one, forced, rng)
            box = [[int(low), int(low + side)] for low, side in zip(lows, self._cut, strict=True)]
            image = torch.from_numpy(crop_and_pad_nd(one.image, box, 0)).float()
            tissues = torch.from_numpy(crop_and_pad_nd(one.tissues[None], box, -1)).to(torch.int16)
            samples.append(self._transform(image=image, segmentation=tissues))
        targets = zip(*(sample["segmentation"] for sample in samples), strict=True)
        return torch.stack([sample["image"] for sample in samples]), [torch.stack(each) for each in targets]

    def _corner(self, one: "real_peers.Ready", forced: bool, rng: np.random.Generator) -> list[int]:
        """The lower corner of a cut: as its data loader's `get_bbox`."""
        spare = [max(cut - side, 0) for cut, side in zip(self._patch, one.tissues.shape, strict=True)]
        around = [
            max(int(cut - patch), less) for cut, patch, less in zip(self._cut, self._patch, spare, strict=True)
        ]
        lows = [-more // 2 for more in around]
        highs = [
            max(low, side + more // 2 + more % 2 - int(cut))
            for low, side, more, cut in zip(lows, one.tissues.shape, around, self._cut, strict=True)
        ]
        there = [values for values in _REGIONS if np.isin(one.tissues, values).any()] if forced else []
        if not there:
            return [int(rng.integers(low, high + 1)) for low, high in zip(lows, highs, strict=True)]
        voxels = np.flatnonzero(np.isin(one.tissues, there[rng.integers(len(there))]))
        voxel = np.unravel_index(voxels[rng.integers(len(voxels))], one.tissues.shape)
        return [max(low, int(at - cut // 2)) for low, at, cut in zip(lows, voxel, self._cut, strict=True)]

    def probabilities(self, image: np.ndarray, forward) -> np.ndarray:
        """[M, i, j, k] as `prepared` -> [3, i, j, k] of WT, TC, ET."""
        padded, back = pad_nd_image(torch.from_numpy(image).float(), self._patch, return_slicer=True)
        logits, weights = torch.zeros(len(_REGIONS), *padded.shape[1:]), torch.zeros(padded.shape[1:])
        gaussian = compute_gaussian(self._patch, 1 / 8, 10, torch.float32, torch.device("cpu"))
        corners = itertools.product(*compute_steps_for_sliding_window(padded.shape[1:], self._patch, 0.5))
        mirrorings = [axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count)]
        self.network.decoder.deep_supervision = False
        for corner in corners:
            place = tuple(slice(low, low + side) for low, side in zip(corner, self._patch, strict=True))
            tile = padded[(slice(None), *place)][None]
            found = sum(torch.flip(forward(torch.flip(tile, axes)), axes) for axes in mirrorings)
            logits[(slice(None), *place)] += found[0] / len(mirrorings) * gaussian
            weights[place] += gaussian
        return (logits / weights)[(slice(None), *back[1:])].sigmoid().numpy()


def prepared(image: np.ndarray, tissues: np.ndarray | None) -> "real_peers.Ready":
    """Its preprocessing of a case of 1 mm: cropped, and each channel's z-scores in the brain.

    Args:
        image: float32 [M, I, J, K].
        tissues: uint8 [I, J, K]; None of a case that is segmented.
    """
    segmentation = None if tissues is None else tissues[None].astype(np.int8)
    data, segmentation, box = crop_to_nonzero(image, segmentation)
    for channel in range(len(data)):
        data[channel] = ZScoreNormalization(use_mask_for_norm=True, intensityproperties={}).run(
            data[channel], segmentation[0]
        )
        data[channel][segmentation[0] < 0] = 0
    return real_peers.Ready(data, segmentation[0], tuple((int(low), int(high)) for low, high in box))


# --- its own post-processing ----------------------------------------------------------------------------


def rules(predictions: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> list[list[int]]:
    """Of which sets of tissues the largest component alone is kept: its rule, where cases say that it helps.

    All tissues together, if the mean Dice rises and no region's falls; then each region whose own Dice rises.

    Args:
        predictions: uint8 [I, J, K] of each case that trained nothing.
        references: of the same cases.
    """
    found: list[list[int]] = []
    before = _dice(predictions, references)
    for number, values in enumerate(([1, 2, 3], *map(list, _REGIONS))):
        tried = [applied(one, [values]) for one in predictions]
        after = _dice(tried, references)
        if number == 0:
            helps = np.nanmean(after) > np.nanmean(before) and not (after < before).any()
        else:
            helps = after[number - 1] > before[number - 1]
        if helps:
            found.append(values)
            predictions, before = tried, after
    return found


def applied(tissues: np.ndarray, chosen: Sequence[Sequence[int]]) -> np.ndarray:
    """A label map after the rules that were chosen."""
    for values in chosen:
        tissues = largest_alone(tissues, tuple(values))
    return tissues


def _dice(predictions: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> np.ndarray:
    """Mean Dice of WT, TC, ET; a case that has the region on neither side is left out, as in its own."""
    of_cases = []
    for prediction, reference in zip(predictions, references, strict=True):
        pairs = [(np.isin(prediction, values), np.isin(reference, values)) for values in _REGIONS]
        sums = [(2 * np.count_nonzero(a & b), np.count_nonzero(a) + np.count_nonzero(b)) for a, b in pairs]
        of_cases.append([both / total if total else np.nan for both, total in sums])
    return np.nanmean(of_cases, axis=0)
