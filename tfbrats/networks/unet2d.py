"""Paper A's baseline "U-Net": the original 2-D U-Net (Ronneberger et al., arXiv 1505.04597), padded.

Readings (docs/why/papers.md): "same" padding and batch normalisation, which it had not.
"""

import keras

from tfbrats.networks.blocks import Norm, concat, deconv, head, pair, pool

CLASSES = 4  # non-tumour, NCR/NET, ED, ET: labels.Tissue 0..3

ENCODER = ("e1", "e2", "e3", "e4", "e5")


def build(width: int, channels: int, synchronised: bool) -> keras.Model:
    """The network.

    Args:
        width: channels C at full resolution; C, 2C, 4C, 8C, 16C going down.
        channels: modalities M.
        synchronised: batch normalisation over the global batch.

    Returns:
        image [N, H, W, M] (H, W multiples of 16) -> {"logits": float32 [N, H, W, 4]}.
    """
    c1, c2, c3, c4, c5 = (width * 2**level for level in range(5))
    norm = Norm(synchronised)
    image = keras.Input((None, None, channels), name="image")
    #                                                                       size at 240 x 240
    e1 = pair(image, c1, norm, "e1")  # 240
    e2 = pair(pool(e1, "e2_pool"), c2, norm, "e2")  # 120
    e3 = pair(pool(e2, "e3_pool"), c3, norm, "e3")  # 60
    e4 = pair(pool(e3, "e4_pool"), c4, norm, "e4")  # 30
    e5 = pair(pool(e4, "e5_pool"), c5, norm, "e5")  # 15
    d4 = pair(concat([deconv(e5, c4, 2, "d4_up"), e4], "d4_skip"), c4, norm, "d4")  # 30
    d3 = pair(concat([deconv(d4, c3, 2, "d3_up"), e3], "d3_skip"), c3, norm, "d3")  # 60
    d2 = pair(concat([deconv(d3, c2, 2, "d2_up"), e2], "d2_skip"), c2, norm, "d2")  # 120
    d1 = pair(concat([deconv(d2, c1, 2, "d1_up"), e1], "d1_skip"), c1, norm, "d1")  # 240
    return keras.Model(image, {"logits": head(d1, CLASSES, "logits")}, name="unet2d")
