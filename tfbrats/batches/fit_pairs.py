"""Records as pairs of input and target: for Keras' `fit`, and for other people's loops.

Our own training asks `slice_stream` and `patch_stream` themselves, for what its losses want beside.
"""

import tensorflow as tf

from tfbrats.batches import patch_stream, slice_stream
from tfbrats.batches.stream import Share
from tfbrats.config import Config, PatchConfig
from tfbrats.inference.scales import network_input
from tfbrats.networks import losses
from tfbrats.records.manifest import Manifest


def pairs(
    manifest: Manifest, config: Config, split: str, region: str, batch_size: int, epoch: int
) -> tf.data.Dataset:
    """One pass over a split; of "train" shuffled and augmented, and another one for each epoch.

    Args:
        manifest: of config.data.records.
        region: "WT", "TC" or "ET" of patches; "" of slices.
        epoch: from 0; decides order and augmentation of "train".

    Yields:
        slices: float32 [N, H, W, M] and int32 [N, H, W], 0 non-tumour, 1 NCR, 2 ED, 3 ET.
        patches: float32 [N, S, S, S, C], C channels for M modalities at one scale or three, and float32
        [N, S, S, S, 1], 1 in the region.
        N = batch_size; of "train" whole batches alone, of other splits the last may be smaller.
    """
    share = Share(batch_size)
    if isinstance(config, PatchConfig):
        examples = patch_stream.count(manifest, config, split, region)
        own = (manifest, config, region)
        batches = (
            patch_stream.training(*own, epoch, share)
            if split == "train"
            else patch_stream.validation(*own, split, share)
        )
        streamed = batches.map(
            lambda batch: (network_input(batch), _as_one_channel(batch["target"]), batch["valid"])
        ).prefetch(1)
    else:
        examples = manifest.count(split)
        batches = (
            slice_stream.training(manifest, config, epoch, share)
            if split == "train"
            else slice_stream.validation(manifest, config, split, share)
        )
        streamed = batches.map(
            lambda batch: (batch["image"], tf.cast(losses.targets(batch["label"])[1], tf.int32), batch["valid"])
        )
    if split == "train":
        steps = max(1, examples // batch_size)
        return streamed.map(lambda image, target, _: (image, target)).take(steps).apply(_of_length(steps))
    return streamed.map(_without_filling).apply(_of_length(-(-examples // batch_size)))


def _as_one_channel(target):
    return tf.cast(target, tf.float32)[..., None]


def _without_filling(image, target, valid):
    """The last batch as it was before zeros made it whole."""
    return tf.boolean_mask(image, valid > 0), tf.boolean_mask(target, valid > 0)


def _of_length(batches: int):
    """Keras draws its bar by the length of a data set, which streams do not know."""
    return tf.data.experimental.assert_cardinality(batches)
