"""One file per network, each reading like its paper's figure."""

import keras

from tfbrats.config import Config, PatchConfig
from tfbrats.models import cun, msm, unet3d


def scales(name: str) -> int:
    """At how many scales a network of paper B sees a patch: x1, x0.5 and x2, or x1 alone."""
    return 1 if name == "unet3d" else 3


def build(config: Config, replicas: int = 1, region: str = "") -> keras.Model:
    """The network that a config names, for training.

    Args:
        replicas: over how many the global batch is split; alone, a replica has nothing to synchronise.
        region: "WT", "TC" or "ET": whose network, where each region has its own.
    """
    synchronised = replicas > 1 and config.model.batch_norm == "synchronised"
    modalities = len(config.data.modalities)
    if not isinstance(config, PatchConfig):
        return cun.build(config.model.width, modalities, synchronised)
    channels = scales(config.model.name) * modalities
    if config.model.name == "unet3d":
        return unet3d.build(config.model.width, channels, synchronised)
    return msm.build(region, config.model.width, channels, config.model.name == "msm", synchronised)
