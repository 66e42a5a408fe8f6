"""One file per network, each reading like its paper's figure.

Importing it is all that `keras.models.load_model` needs for a network of ours: its layers are registered then.
"""

import keras

from tfbrats.config import Config, PatchConfig
from tfbrats.networks import bfcn, cun, drn, keras_settings, msm, unet2d, unet3d

if keras.config.backend() == "tensorflow":  # as in `blocks.Norm`
    from tfbrats.networks import batch_norm  # noqa: F401  registers its layer

_OF_SLICES = {"cun": cun, "unet2d": unet2d, "bfcn": bfcn, "drn": drn}


def build(config: Config, replicas: int = 1, region: str = "", precision: str = "") -> keras.Model:
    """The network that a config names, for training; the same whatever Keras is set to in this process.

    Args:
        replicas: over how many the global batch is split; alone, a replica has nothing to synchronise.
        region: "WT", "TC" or "ET": whose network, where each region has its own.
        precision: Keras' policy in which it computes; that of the config if empty.
    """
    with keras_settings.ours(precision or config.train.precision):
        return _built(config, replicas, region)


def _built(config: Config, replicas: int, region: str) -> keras.Model:
    synchronised = replicas > 1 and config.model.batch_norm == "synchronised"
    modalities = len(config.data.modalities)
    if not isinstance(config, PatchConfig):
        return _OF_SLICES[config.model.name].build(config.model.width, modalities, synchronised)
    channels = config.scales * modalities
    if config.model.name == "unet3d":
        return unet3d.build(config.model.width, channels, synchronised)
    return msm.build(region, config.model.width, channels, config.model.name == "msm", synchronised)


def without_training_heads(network: keras.Model) -> keras.Model:
    """A network of slices as a case is segmented by it: the heads that only training needs are dropped."""
    outputs = set(network.output)
    if set(cun.BRANCHES) <= outputs:
        return cun.branches_only(network)
    return network if outputs == {"logits"} else bfcn.combination_only(network)
