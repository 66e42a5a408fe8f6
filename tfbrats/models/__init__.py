"""One file per network, each reading like its paper's figure."""

import keras

from tfbrats.config import Config
from tfbrats.models import cun


def build(config: Config, replicas: int = 1) -> keras.Model:
    """The network that a config names, for training.

    Args:
        replicas: over how many the global batch is split; alone, a replica has nothing to synchronise.
    """
    synchronised = replicas > 1 and config.model.batch_norm == "synchronised"
    return cun.build(config.model.width, len(config.data.modalities), synchronised)
