"""Parent boxes as the networks trained so far find them, for training the next one on what it will really get.

Paper B trains inside true boxes and tests inside predicted ones; `sampling.boxes: predicted` closes that gap.
"""

import tensorflow as tf
from tqdm import tqdm

from tfbrats import cascade, files, records, trained
from tfbrats.config import PatchConfig
from tfbrats.labels import REGIONS
from tfbrats.patch_data import Boxes
from tfbrats.records import Manifest
from tfbrats.run import home_of

FILE = "boxes.json"


def of_training_cases(config: PatchConfig, manifest: Manifest, region: str) -> Boxes | None:
    """The boxes that the stages above give for each training and validation case, kept with the run.

    Returns:
        case id -> [3][low, high), voxels of the crop. Where the parent was not found, the box of the next
        region above; a case in which nothing was found is left out. None if the reference's boxes are wanted,
        or for WT, whose box is the brain.

    Raises:
        InputError: a network above is not trained yet.
    """
    above = list(REGIONS)[: list(REGIONS).index(region)]
    if config.sampling.boxes == "reference" or not above:
        return None
    kept = files.join(home_of(config, region), FILE)
    if files.exists(kept):
        return files.read_json(kept)
    networks = trained.best_networks(config, above)
    # [region, and those above it whose own parent is a region]: ET's box is TC's, else WT's.
    finders = [_finder(networks, one, config) for one in reversed([*above[1:], region])]
    boxes = {}
    shards = [*manifest.shards_of("train"), *manifest.shards_of("validation")]
    for shard in tqdm(shards, desc=f"boxes for {region}", unit="shard", disable=None):
        for content in records.read_records(files.join(config.data.records, shard.file)):
            volume = records.decode(records.VOLUMES, content)
            image, brain = tf.constant(volume["image"]), tf.constant(volume["brain"])
            parents = (find(image, brain) for find in finders)
            found = next((parent for parent in parents if parent.found), None)
            if found is not None:
                boxes[volume["case_id"]] = found.box.numpy().tolist()
    files.write_json(kept, boxes)
    return boxes


def _finder(networks, region: str, config: PatchConfig):
    return tf.function(
        lambda image, brain: cascade.predicted_parent(
            networks, image, brain, region, config.sampling.patch_size, config.cascade
        ),
        reduce_retracing=True,
    )
