"""Paper B's baseline, the "original U-Net" in 3-D: three poolings, x1 alone, one binary network per region."""

import keras

from tfbrats.networks.blocks import Norm, concat
from tfbrats.networks.blocks_3d import deconv, head, pair, pool

ENCODER = ("e1", "e2", "e3", "e4")


def build(width: int, channels: int, synchronised: bool) -> keras.Model:
    """The network, the same for every region.

    Args:
        width: channels b at full resolution; b, 2b, 4b, 8b going down.
        channels: modalities M.
        synchronised: batch normalisation over the global batch.

    Returns:
        patch [N, S, S, S, M] (S a multiple of 8) -> {"logits": float32 [N, S, S, S, 1]}.
    """
    b = width
    norm = Norm(synchronised)
    patch = keras.Input((None, None, None, channels), name="patch")
    #                                                            size at 64 x 64 x 64
    e1 = pair(patch, b, norm, "e1")  # 64
    e2 = pair(pool(e1, "e2_pool"), 2 * b, norm, "e2")  # 32
    e3 = pair(pool(e2, "e3_pool"), 4 * b, norm, "e3")  # 16
    e4 = pair(pool(e3, "e4_pool"), 8 * b, norm, "e4")  # 8
    d3 = pair(concat([deconv(e4, 4 * b, "d3_up"), e3], "d3_skip"), 4 * b, norm, "d3")  # 16
    d2 = pair(concat([deconv(d3, 2 * b, "d2_up"), e2], "d2_skip"), 2 * b, norm, "d2")  # 32
    d1 = pair(concat([deconv(d2, b, "d1_up"), e1], "d1_skip"), b, norm, "d1")  # 64
    return keras.Model(patch, {"logits": head(d1, "logits")}, name="unet3d")
