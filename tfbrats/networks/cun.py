"""The cascaded U-Net of paper A (arXiv 1907.07677): U-Net1 finds the whole tumour, U-Net2 its parts.

Readings (docs/why/papers.md): five levels, where the between-net connections enter, 16 channels in
the auxiliary deconvolutions, the first block without its leading BN-ReLU.
"""

import keras

from tfbrats.networks.blocks import (
    Norm,
    auxiliary_head,
    concat,
    deconv,
    head,
    pool,
    residual,
)

UNET1_CLASSES = 2  # rest, WT
UNET2_CLASSES = 4  # non-tumour, NCR/NET, ED, ET: labels.Tissue 0..3

BRANCHES = ("branch1_logits", "branch2_logits")
UNET1_OUTPUTS = ("branch1_logits", *(f"aux{n}_logits" for n in (1, 2, 3, 4)))
UNET2_OUTPUTS = ("branch2_logits", *(f"aux{n}_logits" for n in (5, 6, 7, 8)))

ENCODER = ("e1", "e2", "e3", "e4", "e5")  # of U-Net1: no image enters U-Net2


def build(width: int, channels: int, synchronised: bool) -> keras.Model:
    """The ten supervised outputs of the network.

    Args:
        width: channels C at full resolution; C, 2C, 4C, 8C, 16C going down.
        channels: modalities M.
        synchronised: batch normalisation over the global batch.

    Returns:
        image [N, H, W, M] (H, W multiples of 16) -> {"branch1_logits": [N, H, W, 2],
        "branch2_logits": [N, H, W, 4], "aux1_logits".. "aux4_logits": [N, H, W, 2],
        "aux5_logits".. "aux8_logits": [N, H, W, 4]}, all float32.
    """
    c1, c2, c3, c4, c5 = (width * 2**level for level in range(5))
    norm = Norm(synchronised)
    image = keras.Input((None, None, channels), name="image")

    # U-Net1                                                   size at 240 x 240
    e1 = residual(image, c1, norm, "e1", leading_norm=False)  # 240
    e2 = residual(pool(e1, "e2_pool"), c2, norm, "e2")  # 120
    e3 = residual(pool(e2, "e3_pool"), c3, norm, "e3")  # 60
    e4 = residual(pool(e3, "e4_pool"), c4, norm, "e4")  # 30
    e5 = residual(pool(e4, "e5_pool"), c5, norm, "e5")  # 15
    d4 = residual(concat([deconv(e5, c4, 2, "d4_up"), e4], "d4_skip"), c4, norm, "d4")  # 30
    d3 = residual(concat([deconv(d4, c3, 2, "d3_up"), e3], "d3_skip"), c3, norm, "d3")  # 60
    d2 = residual(concat([deconv(d3, c2, 2, "d2_up"), e2], "d2_skip"), c2, norm, "d2")  # 120
    d1 = residual(concat([deconv(d2, c1, 2, "d1_up"), e1], "d1_skip"), c1, norm, "d1")  # 240

    # U-Net2: fed by U-Net1's features alone; no raw image enters
    f1 = residual(d1, c1, norm, "f1")  # 240
    f2 = residual(concat([pool(f1, "f2_pool"), d2], "f2_between"), c2, norm, "f2")  # 120
    f3 = residual(concat([pool(f2, "f3_pool"), d3], "f3_between"), c3, norm, "f3")  # 60
    f4 = residual(concat([pool(f3, "f4_pool"), d4], "f4_between"), c4, norm, "f4")  # 30
    f5 = residual(concat([pool(f4, "f5_pool"), e5], "f5_between"), c5, norm, "f5")  # 15
    g4 = residual(concat([deconv(f5, c4, 2, "g4_up"), f4], "g4_skip"), c4, norm, "g4")  # 30
    g3 = residual(concat([deconv(g4, c3, 2, "g3_up"), f3], "g3_skip"), c3, norm, "g3")  # 60
    g2 = residual(concat([deconv(g3, c2, 2, "g2_up"), f2], "g2_skip"), c2, norm, "g2")  # 120
    g1 = residual(concat([deconv(g2, c1, 2, "g1_up"), f1], "g1_skip"), c1, norm, "g1")  # 240

    outputs = {
        "branch1_logits": head(d1, UNET1_CLASSES, "branch1_logits"),
        "branch2_logits": head(g1, UNET2_CLASSES, "branch2_logits"),
    }
    deep = ((e5, 16), (d4, 8), (d3, 4), (d2, 2), (f5, 16), (g4, 8), (g3, 4), (g2, 2))
    for number, (features, stride) in enumerate(deep, start=1):
        classes = UNET1_CLASSES if number <= 4 else UNET2_CLASSES
        name = f"aux{number}_logits"
        outputs[name] = auxiliary_head(features, stride, classes, name)
    return keras.Model(image, outputs, name="cun")


def branches_only(network: keras.Model) -> keras.Model:
    """The same layers without the auxiliary heads, which only training needs."""
    outputs = {name: network.output[name] for name in BRANCHES}
    return keras.Model(network.inputs[0], outputs, name="cun_branches")
