"""A run's folder as training leaves it, with the weights that a network begins with: made in seconds."""

import hashlib
import os

import tensorflow as tf

from tfbrats import config_file, networks
from tfbrats.labels import EDITIONS
from tfbrats.machine import files
from tfbrats.runs.folder import RunFolder
from tfbrats.training import checkpoints

SPLITS = {"train": ["Case_1", "Case_2", "Case_3"], "validation": ["Case_4"], "test": []}


def write(
    folder,
    *overrides: str,
    row: str = "unet2d.yaml",
    splits=SPLITS,
    edition: str = "2020",
    weights: bool = True,
) -> str:
    """Writes a run of one epoch into a folder; returns its path.

    Args:
        overrides: section.key=value.
        splits: split -> case ids.
        weights: False for a run that only seems to have some.
    """
    path = os.fspath(folder)
    small = ("model.width=2", "train.epochs=1", "preprocess.n4_modalities=[]")
    if not row.endswith("3d.yaml"):
        small += ("records.slice_shape=[48, 48]",)
    config = config_file.load(row, [*small, f"run.dir={path}", *overrides])
    run = RunFolder(path)
    run.start(config)
    records = {
        "spacing_mm": [1, 1, 1],
        "label_schemas": [EDITIONS[edition].to_json()],
        "manifest_sha256": "a" * 64,
    }
    examples = {split: len(ids) for split, ids in splits.items()}
    digest = hashlib.sha256(repr(splits).encode()).hexdigest()
    run.write_data(splits, digest, {**records, "examples": examples})
    for region in config.regions:
        home = run.network(region)
        prefix = os.path.join(home.checkpoints_path("best"), checkpoints.PREFIX)
        if weights:
            tf.keras.utils.set_random_seed(config.train.seed)
            tf.train.Checkpoint(network=networks.build(config, region=region)).save(prefix)
        else:
            files.write_bytes(f"{prefix}-1.index", b"")
        row_of = {"epoch": 1, "steps": 2, "loss": 1.0, "validation_loss": 0.9, "dice_wt": 0.5}
        home.write_history([row_of], [{"epoch": 1, "seconds": 1.0}])
    return path
