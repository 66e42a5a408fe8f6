"""The best weights of a run, as networks: for export, and for training on predicted boxes."""

import hashlib
from collections.abc import Sequence

import keras
import tensorflow as tf

from tfbrats import networks
from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.networks import keras_settings
from tfbrats.runs.folder import RunFolder
from tfbrats.training import checkpoints


def best_checkpoint(config: Config, region: str = "") -> str:
    """Path of the best checkpoint in config.run.dir; of a damaged one, with a warning, the best before it.

    Args:
        region: whose network, where each region has its own.

    Raises:
        InputError: there is none yet, or none that can be read.
    """
    best = checkpoints.newest_whole(RunFolder(config.run.dir).network(region).checkpoints_path("best"))
    if best is None:
        which = f" of {region}" if region else ""
        how = f" (region={region.lower()})" if region else ""
        raise InputError(f"{config.run.dir}: no checkpoint{which} yet. Train at least one epoch first{how}.")
    return best


def best_checkpoints(config: Config, regions: Sequence[str]) -> dict[str, str]:
    """Region -> `best_checkpoint`; every missing one is named at once.

    Raises:
        InputError: some have no checkpoint yet.
    """
    faults, paths = [], {}
    for region in regions:
        try:
            paths[region] = best_checkpoint(config, region)
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    return paths


def sha256_of(checkpoint: str) -> str:
    """The hash of a checkpoint's files, wherever they lie: what some weights chose goes with no others.

    Args:
        checkpoint: as `best_checkpoint` gives it.
    """
    digest = hashlib.sha256()
    for path in sorted(files.walk(files.parent(checkpoint)), key=files.name):
        if files.name(path).startswith(f"{files.name(checkpoint)}."):
            for chunk in files.read_chunks(path):
                digest.update(chunk)
    return digest.hexdigest()


def network_of(config: Config, region: str, checkpoint: str, precision: str = "float32") -> keras.Model:
    """The network with a checkpoint's weights, which are float32.

    Args:
        region: whose network; "" where there is one.
        checkpoint: as `best_checkpoint` gives it.
        precision: Keras' policy, in which it computes, whatever it was trained in.
    """
    keras_settings.check_backend()
    network = networks.build(config, region=region, precision=precision)
    restored = checkpoints.restore(tf.train.Checkpoint(network=network), checkpoint)
    restored.assert_existing_objects_matched().expect_partial()
    return network


def best_networks(config: Config, regions: Sequence[str], precision: str = "float32") -> dict[str, keras.Model]:
    """Region -> `network_of` its best checkpoint. Errors as `best_checkpoints`."""
    return {
        region: network_of(config, region, checkpoint, precision)
        for region, checkpoint in best_checkpoints(config, regions).items()
    }
