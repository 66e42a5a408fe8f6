"""Weights that a training begins with: a run's best, or those beside an exported model; kept in the new run."""

import hashlib
import io
import os
import zipfile

import keras
import numpy as np
import tensorflow as tf

from tfbrats import networks
from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.runs import weights_beside
from tfbrats.runs.folder import RunFolder
from tfbrats.training import best_weights, checkpoints


def write_beside(version: str | os.PathLike, region: str, network: keras.Model) -> None:
    """Puts a network's weights, as they were trained, into a version's folder."""
    content = io.BytesIO()
    arrays = {variable.path: variable.value.numpy() for variable in network.variables}
    np.savez(content, **arrays)
    files.write_bytes(weights_beside.path(version, region), content.getvalue())


def keep_of_model(config: Config, region: str, version: str | os.PathLike) -> dict[str, str]:
    """Keeps the weights beside an exported model as those that a run's network begins with.

    Args:
        config: of the run.

    Returns:
        what begun_from.json says of this network.

    Raises:
        InputError: there are none, or not those of this network.
    """
    weights_beside.check(version, [region])
    path = weights_beside.path(version, region)
    content = files.read_bytes(path)
    network = networks.build(config, region=region, precision="float32")
    try:
        with np.load(io.BytesIO(content)) as arrays:
            for variable in network.variables:
                variable.assign(arrays[variable.path])
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: damaged, or not of this network ({error}). Export the model again."
        ) from error
    _keep(config, region, network)
    return {"sha256": hashlib.sha256(content).hexdigest()}


def keep_of_run(config: Config, region: str, run: str | os.PathLike) -> dict[str, str | int]:
    """Keeps a run's best weights; arguments and answer as `keep_of_model`.

    Raises:
        InputError: it has no checkpoint that can be read.
    """
    of_run = config.model_copy(update={"run": config.run.model_copy(update={"dir": os.fspath(run)})})
    best = best_weights.best_checkpoint(of_run, region)
    _keep(config, region, best_weights.network_of(config, region, best))
    # The index of a checkpoint holds the checksum of each tensor.
    digest = hashlib.sha256(files.read_bytes(best + ".index")).hexdigest()
    return {"epoch": checkpoints.number(best), "sha256": digest}


def _keep(config: Config, region: str, network: keras.Model) -> None:
    folder = RunFolder(config.run.dir).network(region).checkpoints_path("start")
    checkpoints.tidy(folder, None)
    manager = checkpoints.Manager(tf.train.Checkpoint(network=network), folder, 1)
    checkpoints.save(manager, checkpoint_number=0)


def restore(network: keras.Model, folder: str) -> bool:
    """Gives a new network the weights that were kept in its folder of "start" checkpoints, if there are any.

    Raises:
        InputError: they cannot be read.
    """
    start = checkpoints.newest_whole(folder)
    if start is None:
        return False
    restored = checkpoints.restore(tf.train.Checkpoint(network=network), start)
    restored.assert_existing_objects_matched().expect_partial()
    return True
