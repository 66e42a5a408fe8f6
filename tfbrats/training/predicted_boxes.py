"""Parent boxes as the networks trained so far find them, for training the next one inside them.

Paper B trains inside true boxes and tests inside predicted ones; `sampling.boxes: predicted` narrows that gap.
It does not close it: on the cases that they were trained on, networks predict better than on others.
"""

import hashlib
from collections.abc import Callable

import tensorflow as tf

from tfbrats.batches.patch_stream import Boxes
from tfbrats.config import Config, PatchConfig
from tfbrats.errors import InputError
from tfbrats.inference import cascade_segmenter
from tfbrats.labels import REGIONS
from tfbrats.machine import files
from tfbrats.records import schema, tfrecord
from tfbrats.records.manifest import Manifest
from tfbrats.runs.folder import RunFolder, is_over
from tfbrats.terminal import bars
from tfbrats.training import best_weights, checkpoints


def of_training_cases(
    config: Config, manifest: Manifest, region: str, check: Callable[[], None] = lambda: None
) -> Boxes | None:
    """The boxes that the stages above give for each training and validation case, kept with the run.

    Args:
        check: called before each case; gives up by raising.

    Returns:
        case id -> [3][low, high), voxels of the crop. Where the parent was not found, the box of the next
        region above; a case in which nothing was found is left out. None if the reference's boxes are wanted,
        and for what has no parent: WT, whose box is the brain, and paper A's network, of no region ("").

    Raises:
        InputError: a network above is not trained to its end, or was trained again since.
    """
    above = list(REGIONS)[: list(REGIONS).index(region)] if region else []
    if not above or config.sampling.boxes == "reference":
        return None
    parents = {one: _finished_network(config, one) for one in above}
    home = RunFolder(config.run.dir).network(region)
    kept = home.boxes_path
    if files.exists(kept):
        content = files.read_json(kept)
        if content["networks"] == parents:
            return content["boxes"]
        # Inside its first epoch it has a checkpoint and no history yet.
        if checkpoints.paths_in(home.checkpoints_path("last")):
            raise InputError(
                f"{kept}: {region} was begun on the boxes of {content['networks']}; now there are {parents}. "
                f"Train it anew on the boxes of these: region={region.lower()} with --overwrite."
            )
    print(f"boxes       for {region}, as predicted by {parents}")
    networks = best_weights.best_networks(config, above)
    # [region, and those above it whose own parent is a region]: ET's box is TC's, else WT's.
    finders = [_finder(networks, one, config) for one in reversed([*above[1:], region])]
    boxes = {}
    shards = [*manifest.shards_of("train"), *manifest.shards_of("validation")]
    for shard in bars.bar(shards, desc=f"boxes for {region}", unit="shard"):
        for content in tfrecord.read_records(files.join(config.data.records, shard.file)):
            check()
            volume = schema.decode(schema.VOLUMES, content)
            image, brain = tf.constant(volume["image"]), tf.constant(volume["brain"])
            parent = next((parent for find in finders if (parent := find(image, brain)).found), None)
            if parent is not None:
                boxes[volume["case_id"]] = parent.box.numpy().tolist()
    files.write_json(kept, {"networks": parents, "boxes": boxes})
    return boxes


def _finished_network(config: PatchConfig, region: str) -> str:
    """Which weights a network that has been trained to its end has: its best epoch, and their checksum.

    Raises:
        InputError: it has not: its boxes would not be those that it will give.
    """
    history = RunFolder(config.run.dir).network(region).history
    if not is_over(history, config):
        raise InputError(
            f"{config.run.dir}: {region} has had {len(history)} of {config.train.epochs} epochs; "
            "sampling.boxes=predicted wants its boxes. Train it to the end first: "
            f"region={region.lower()}."
        )
    best = best_weights.best_checkpoint(config, region)
    # The index of a checkpoint holds the checksum of each tensor.
    digest = hashlib.sha256(files.read_bytes(best + ".index")).hexdigest()[:12]
    return f"epoch {best.rpartition('-')[2]} ({digest})"


def _finder(networks, region: str, config: PatchConfig):
    return tf.function(
        lambda image, brain: cascade_segmenter.predicted_parent(
            networks, image, brain, region, config.sampling.patch_size, config.cascade
        ),
        reduce_retracing=True,
        autograph=False,
    )
