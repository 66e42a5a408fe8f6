"""Paper A's baseline "DRN", a dilated residual network: no pooling, the context comes from the dilation.

Its parent (Yu, Koltun, Funkhouser: Dilated residual networks, arXiv 1705.09914) still divides the image by
eight, and paper A says that nothing is pooled. The levels are ours: docs/why/papers.md.
"""

import keras
from keras import layers

from tfbrats.networks.blocks import Norm, conv, conv_norm_relu, head

CLASSES = 4  # non-tumour, NCR/NET, ED, ET: labels.Tissue 0..3

# Residual levels of two blocks: (channels in widths, dilation).
LEVELS = ((1, 1), (1, 2), (2, 4), (2, 8), (2, 16))
# Plain convolutions after them smooth out the grid that dilated taps leave (Dilated residual networks, 3.2).
DEGRIDDING = ((2, 2), (2, 1))

ENCODER = ("entry", *(f"level{level}" for level in range(1, 1 + len(LEVELS))))  # nothing is pooled


def build(width: int, channels: int, synchronised: bool) -> keras.Model:
    """The network, at full resolution throughout.

    Args:
        width: channels C of the first two levels; the rest have 2C.
        channels: modalities M.
        synchronised: batch normalisation over the global batch.

    Returns:
        image [N, H, W, M] of any size -> {"logits": float32 [N, H, W, 4]}.
    """
    norm = Norm(synchronised)
    image = keras.Input((None, None, channels), name="image")
    x = conv_norm_relu(image, width, norm, "entry")
    for level, (widths, rate) in enumerate(LEVELS, start=1):
        x = _basic(x, widths * width, rate, norm, f"level{level}_a")
        x = _basic(x, widths * width, rate, norm, f"level{level}_b")
    for number, (widths, rate) in enumerate(DEGRIDDING, start=1):
        x = conv_norm_relu(x, widths * width, norm, f"degridding{number}", rate)
    return keras.Model(image, {"logits": head(x, CLASSES, "logits")}, name="drn")


def _basic(x, filters: int, rate: int, norm: Norm, name: str):
    """A ResNet's basic block: conv3x3-BN-ReLU-conv3x3-BN plus its input, ReLU.

    Where the channels change, the input passes a 1x1 convolution and a BN.
    """
    shortcut = x
    if x.shape[-1] != filters:
        shortcut = norm(conv(x, filters, 1, f"{name}_shortcut"), f"{name}_shortcut_bn")
    x = conv_norm_relu(x, filters, norm, f"{name}_1", rate)
    x = norm(conv(x, filters, 3, f"{name}_2_conv", rate), f"{name}_2_bn")
    return layers.ReLU(name=name)(layers.Add(name=f"{name}_sum")([x, shortcut]))
