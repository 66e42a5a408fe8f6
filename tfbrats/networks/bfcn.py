"""Paper A's baseline "BFCN", a boundary-aware fully convolutional network: regions and outlines from one trunk.

Of its own paper (Shen, Wang, Zhang, McKenna: Boundary-aware fully convolutional network for brain tumor
segmentation, MICCAI 2017, doi 10.1007/978-3-319-66185-8_49) only the abstract is public: two branches, region
and boundary, trained together and combined. All the rest is ours: docs/why/papers.md, "Readings".
No skip leads from an encoder to a decoder: the flaw that paper A names.
"""

import keras

from tfbrats.networks.blocks import Norm, concat, conv, conv_norm_relu, deconv, head, pair, pool

CLASSES = 4  # non-tumour, NCR/NET, ED, ET: labels.Tissue 0..3
BOUNDARY_CLASSES = 2  # rest, on an outline of WT, TC or ET

ENCODER = ("e1", "e2", "e3", "e4")  # the trunk


def build(width: int, channels: int, synchronised: bool) -> keras.Model:
    """The network with its three supervised outputs.

    Args:
        width: channels C at full resolution; C, 2C, 4C, 8C going down. Each branch's maps have C too, a
            quarter of them (rounded up) from every level: 16 of 64.
        channels: modalities M.
        synchronised: batch normalisation over the global batch.

    Returns:
        image [N, H, W, M] (H, W multiples of 8) -> {"logits": [N, H, W, 4], "region_logits": [N, H, W, 4],
        "boundary_logits": [N, H, W, 2]}, all float32.
    """
    c1, c2, c3, c4 = (width * 2**level for level in range(4))
    norm = Norm(synchronised)
    image = keras.Input((None, None, channels), name="image")

    # The trunk                                                 size at 240 x 240
    e1 = pair(image, c1, norm, "e1")  # 240
    e2 = pair(pool(e1, "e2_pool"), c2, norm, "e2")  # 120
    e3 = pair(pool(e2, "e3_pool"), c3, norm, "e3")  # 60
    e4 = pair(pool(e3, "e4_pool"), c4, norm, "e4")  # 30

    # Two branches, each from every level; then what both know
    region = _branch((e1, e2, e3, e4), width, norm, "region")  # 240
    boundary = _branch((e1, e2, e3, e4), width, norm, "boundary")  # 240
    both = conv_norm_relu(concat([region, boundary], "both"), width, norm, "combination")  # 240

    outputs = {
        "logits": head(both, CLASSES, "logits"),
        "region_logits": head(region, CLASSES, "region_logits"),
        "boundary_logits": head(boundary, BOUNDARY_CLASSES, "boundary_logits"),
    }
    return keras.Model(image, outputs, name="bfcn")


def _branch(levels, width: int, norm: Norm, name: str):
    """From every level 1x1 to a quarter of the width and up to full size; concat, conv3x3-BN-ReLU."""
    share = -(-width // 4)
    sides = [conv(features, share, 1, f"{name}_side{level}") for level, features in enumerate(levels, start=1)]
    # The first level has full size already.
    raised = [
        deconv(side, share, 2 ** (level - 1), f"{name}_up{level}")
        for level, side in enumerate(sides[1:], start=2)
    ]
    return conv_norm_relu(concat([sides[0], *raised], f"{name}_levels"), width, norm, name)


def combination_only(network: keras.Model) -> keras.Model:
    """The same layers without the heads of the two branches, which only training needs."""
    return keras.Model(network.inputs[0], {"logits": network.output["logits"]}, name="bfcn_combination")
