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
        network = _built(config, replicas, region)
    if config.train.frozen == "encoder":
        for layer in encoder(network, config):
            layer.trainable = False  # of a batch normalisation its moments too
    return network


def encoder(network: keras.Model, config: Config) -> list[keras.layers.Layer]:
    """The layers of a network from the image to its deepest features.

    Each network's file names them, by what stands before the first _ in a layer's name.
    """
    names = _file_of(config).ENCODER
    return [layer for layer in network.layers if layer.name.partition("_")[0] in names]


def _file_of(config: Config):
    """The file that builds the config's network."""
    if not isinstance(config, PatchConfig):
        return _OF_SLICES[config.model.name]
    return unet3d if config.model.name == "unet3d" else msm


def _built(config: Config, replicas: int, region: str) -> keras.Model:
    synchronised = replicas > 1 and config.model.batch_norm == "synchronised"
    modalities = len(config.data.modalities)
    if not isinstance(config, PatchConfig):
        return _file_of(config).build(config.model.width, modalities, synchronised)
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
