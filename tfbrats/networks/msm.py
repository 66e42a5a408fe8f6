"""The multi-scale masked 3-D U-Net of paper B (doi 10.1007/978-3-030-11726-9_20), one network for each region.

Readings (docs/why/papers.md): width, the rates of the ASPP and how it splits its channels.
"""

import keras

from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.networks.blocks import Norm, concat
from tfbrats.networks.blocks_3d import conv_norm_relu, deconv, head, pair, pool

ASPP_RATES = (1, 2, 4, 8)

ENCODER = ("e1", "e2", "e3", "aspp", "bridge")  # with the pyramid, or the convolution in its place


def build(region: str, width: int, channels: int, aspp: bool, synchronised: bool) -> keras.Model:
    """The network of one region.

    Args:
        region: "WT" and "TC" share a shape (and no weights); "ET" keeps full resolution longer.
        width: channels b at full resolution; even for every region, since one width serves the three and each
            of the four branches of ET's pyramid has b/2 channels.
        channels: of a patch: modalities at three scales.
        aspp: False puts one plain convolution in the place of the pyramid.
        synchronised: batch normalisation over the global batch.

    Returns:
        patch [N, S, S, S, channels] (S a multiple of 4; of 2 for ET) -> {"logits": float32 [N, S, S, S, 1]}.

    Raises:
        InputError: another region, or an odd width.
    """
    if region not in REGIONS:
        raise InputError(f"region {region!r}: expected one of {', '.join(REGIONS)}.")
    if width % 2:
        raise InputError(
            f"model.width={width}: expected an even number, since the four branches of ET's pyramid have "
            f"width/2 channels each. Take {width - 1} or {width + 1}."
        )
    norm = Norm(synchronised)
    patch = keras.Input((None, None, None, channels), name="patch")
    body = _small if region == "ET" else _large
    logits = head(body(patch, width, aspp, norm), "logits")
    kind = "msm" if aspp else "msm_noaspp"
    return keras.Model(patch, {"logits": logits}, name=f"{kind}_{region.lower()}")


def _large(patch, b: int, aspp: bool, norm: Norm):
    """WT and TC.                                              size at 64 x 64 x 64"""
    e1 = pair(patch, b, norm, "e1")  # 64
    e2 = pair(pool(e1, "e2_pool"), 2 * b, norm, "e2")  # 32
    e3 = conv_norm_relu(pool(e2, "e3_pool"), 4 * b, norm, "e3")  # 16
    scales = _pyramid(e3, 4 * b, aspp, norm)  # 16
    d2 = pair(concat([deconv(scales, 2 * b, "d2_up"), e2], "d2_skip"), 2 * b, norm, "d2")  # 32
    return pair(concat([deconv(d2, b, "d1_up"), e1], "d1_skip"), b, norm, "d1")  # 64


def _small(patch, b: int, aspp: bool, norm: Norm):
    """ET: only the second pooling is kept, so that what is small survives (paper B, section 2.5)."""
    e1 = pair(patch, b, norm, "e1")  # 64
    e2 = pair(e1, b, norm, "e2")  # 64
    e3 = conv_norm_relu(pool(e2, "e3_pool"), 2 * b, norm, "e3")  # 32
    scales = _pyramid(e3, 2 * b, aspp, norm)  # 32
    d2 = pair(concat([deconv(scales, b, "d2_up"), e2], "d2_skip"), b, norm, "d2")  # 64
    return pair(concat([d2, e1], "d1_skip"), b, norm, "d1")  # 64


def _pyramid(x, filters: int, aspp: bool, norm: Norm):
    """Atrous spatial pyramid pooling in 3-D (Fig. 2), or one plain convolution with as many parameters."""
    if not aspp:
        return conv_norm_relu(x, filters, norm, "bridge")
    share = filters // len(ASPP_RATES)
    branches = [conv_norm_relu(x, share, norm, f"aspp_rate{rate}", rate) for rate in ASPP_RATES]
    return concat(branches, "aspp")
