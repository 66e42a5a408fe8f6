"""SegResNet's side of `real.py`, as MONAI's tutorial 3d_segmentation/brats_segmentation_3d trains it.

The tutorial's are: the network, sigmoid outputs for TC, WT, ET, its Dice loss, Adam with weight decay 1e-5,
the rate's cosine to 0, batches of one; random crops, flips along each axis, z-scores of what is not zero,
intensities scaled and shifted by a tenth; sliding windows, half of one from window to window; a threshold of
0.5 and nothing after it. Not the tutorial's: the crop's size, which has to fit two cores; that a case is cut
to its brain before, and its z-scores are the whole brain's (the tutorial's crop is nearly the whole volume);
1e-3 in place of 1e-4, which is for 300 epochs; the cosine falls over the time that is given, and the last
weights are taken, where the tutorial takes the best of many validations: they would cost time.
"""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import real_peers
import torch

from tfbrats.cases import boxes
from tfbrats.labels import REGIONS, region_mask

with contextlib.redirect_stderr(io.StringIO()):  # it says which of its optional parts are not there
    from monai import inferers, losses, transforms
    from monai.networks import nets

_RATE = 1e-3


class Peer:
    """See the module.

    Args:
        size: `patch`, voxels along each side; `width`, filters of the first level.
    """

    clipped_at = None

    def __init__(self, size: Mapping[str, int]):
        self._patch = (size["patch"],) * 3
        self.network = nets.SegResNet(
            spatial_dims=3,
            init_filters=size["width"],
            in_channels=real_peers.MODALITIES,
            out_channels=len(REGIONS),
            dropout_prob=0.2,
            blocks_down=(1, 2, 2, 4),
            blocks_up=(1, 1, 1),
        )
        self.optimizer = torch.optim.Adam(self.network.parameters(), _RATE, weight_decay=1e-5)
        self._dice = losses.DiceLoss(
            smooth_nr=0, smooth_dr=1e-5, squared_pred=True, to_onehot_y=False, sigmoid=True
        )
        both = ("image", "label")
        self._transform = transforms.Compose(
            [
                transforms.SpatialPadd(both, self._patch),
                transforms.RandSpatialCropd(both, self._patch, random_size=False),
                *(transforms.RandFlipd(both, 0.5, axis) for axis in range(3)),
                transforms.RandScaleIntensityd("image", factors=0.1, prob=1.0),
                transforms.RandShiftIntensityd("image", offsets=0.1, prob=1.0),
            ]
        )

    def rate(self, spent: float) -> float:
        """The learning rate when this share of the time is spent."""
        return _RATE * 0.5 * (1 + math.cos(math.pi * min(spent, 1.0)))

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self._dice(outputs.float(), target)

    def batch(self, cases: Sequence["real_peers.Ready"], rng: np.random.Generator):
        """Image [1, M, S, S, S], masks of WT, TC, ET [1, 3, S, S, S]."""
        one = cases[rng.integers(len(cases))]
        self._transform.set_random_state(int(rng.integers(2**31)))
        drawn = self._transform(
            {"image": torch.from_numpy(one.image), "label": torch.from_numpy(one.tissues[None])}
        )
        tissues = drawn["label"][0].numpy()
        masks = np.stack([region_mask(tissues, region) for region in REGIONS]).astype(np.float32)
        return drawn["image"].as_tensor()[None], torch.from_numpy(masks)[None]

    def probabilities(self, image: np.ndarray, forward) -> np.ndarray:
        """[M, i, j, k] as `prepared` -> [3, i, j, k] of WT, TC, ET."""
        tiles = torch.from_numpy(image).float()[None]
        return (
            inferers.sliding_window_inference(tiles, self._patch, 1, forward, overlap=0.5)[0].sigmoid().numpy()
        )


def prepared(image: np.ndarray, tissues: np.ndarray | None) -> "real_peers.Ready":
    """Cut to the brain, z-scores of what is not zero in each channel.

    Args:
        image: float32 [M, I, J, K].
        tissues: uint8 [I, J, K]; None of a case that is segmented.
    """
    box = boxes.box_of((image != 0).any(axis=0))
    cropped = np.stack([boxes.crop(channel, box) for channel in image])
    scored = transforms.NormalizeIntensity(nonzero=True, channel_wise=True)(cropped)
    ready = np.zeros(cropped.shape[1:], np.uint8) if tissues is None else boxes.crop(tissues, box)
    return real_peers.Ready(np.ascontiguousarray(scored, np.float32), np.ascontiguousarray(ready), box)
