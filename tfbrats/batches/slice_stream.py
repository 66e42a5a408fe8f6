"""tf.data for slices: an epoch of training, and the validation slices; the same whenever it is asked for.

What an epoch yields depends on the seed and the epoch's number alone.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfbrats.batches.augment import rotate_and_flip, with_other_intensities
from tfbrats.batches.stream import OPEN_SHARDS, Share, in_batches, parse, place_of_case, serialized, untuned
from tfbrats.config import Config
from tfbrats.machine import memory
from tfbrats.records.manifest import Manifest
from tfbrats.records.schema import SCHEMAS

MAPS_AT_ONCE = min(16, memory.cores())  # examples made at a time


def on_canvas(example: dict, canvas: Sequence[int], modalities: int) -> dict:
    """Puts a stored crop back in its place on the slice that the network sees.

    Returns:
        image float32 [H, W, M], label uint8 [H, W], region uint8 [H, W].
    """
    height, width = canvas
    top, left = tf.unstack(tf.cast(example["origin_ij"], tf.int32))

    def pad(array, channels):
        padded = tf.image.pad_to_bounding_box(array, top, left, height, width)
        return tf.ensure_shape(padded, [height, width, channels])

    # ~140 x 170 x 4 -> 240 x 240 x 4
    return {
        "image": pad(tf.cast(example["image"], tf.float32), modalities),
        "label": pad(example["label"][..., None], 1)[..., 0],
        "region": pad(example["region"][..., None], 1)[..., 0],
    }


def shuffled(manifest: Manifest, config: Config, epoch: int, share: Share) -> tuple[tf.data.Dataset, int]:
    """The training records of an epoch as they lie in the shards that a worker reads, once each, and how many.

    A case's slices lie together in a shard. What mixes cases is that many shards are read in turn, and a buffer
    of records, still as they lie in the file.
    """
    rng = np.random.default_rng([config.train.seed, epoch])
    shards = manifest.shards_of("train")
    order = share.shards(rng.permutation(len(shards)))
    at_once = config.data.open_shards or OPEN_SHARDS
    stream = serialized(manifest, config.data.records, "train", order, at_once=at_once)
    seed = int(rng.integers(2**31))
    stream = stream.shuffle(config.data.shuffle_buffer, seed=seed, reshuffle_each_iteration=False)
    return stream, sum(shards[n].examples for n in order)


def training(
    manifest: Manifest,
    config: Config,
    epoch: int,
    share: Share,
    first_example: int = 0,
    batches: int | None = None,
) -> tf.data.Dataset:
    """One epoch of shuffled, augmented training batches, without end: a worker's share of each.

    Args:
        first_example: how many examples of the epoch all workers together have seen already: goes on after
            them, with batches of whatever size.
        batches: how many are wanted, where that is known.

    Yields:
        image float32 [N, H, W, M], label uint8 [N, H, W] (tissues), region uint8 [N, H, W]
        (`labels.LwsRegion`), draws float32 [N, H, W] uniform in [0, 1), valid float32 [N] (all 1);
        N = share.batch.
    """
    stream, examples = shuffled(manifest, config, epoch, share)
    # Repeating lets workers whose shards hold fewer slices keep step with the others.
    stream = stream.repeat().enumerate()
    own_shards = share.has_own_shards(len(manifest.shards_of("train")))
    stream = share.after(stream, first_example, own_shards, batches)
    stream = stream.map(lambda n, record: (n // examples, record))
    return untuned(_batched(stream, config, epoch, share.batch, 0, augmented=True))


def validation(
    manifest: Manifest,
    config: Config,
    split: str,
    share: Share,
) -> tf.data.Dataset:
    """Every slice of a split once, in order, not augmented; the last batch is filled up with valid = 0.

    Of several workers, each has its share of each batch, as in `training`. Where epochs are chosen by the Dice
    of cases (`train.select: dice`), each example has its `case` too: int32 [N], places in `manifest.cases`.
    """
    stream = serialized(manifest, config.data.records, split, range(len(manifest.shards_of(split))))
    stream = share.after(stream, 0, own_shards=False)
    padding = share.padding(manifest.examples[split])
    # Always the draws of "epoch 0", so that the losses of two epochs can be compared.
    stream = stream.map(lambda record: (tf.constant(0, tf.int64), record))
    cases = manifest.cases[split] if config.train.select == "dice" else ()
    return untuned(_batched(stream, config, 0, share.batch, padding, augmented=False, cases=cases))


def _seed_of(example: dict, seed: int, epoch: int, round_):
    """int32 [2], its own for each slice, epoch and round through the data in it, whatever the worker."""
    slice_hash = tf.strings.to_hash_bucket_fast(
        tf.strings.join([example["case_id"], tf.strings.as_string(example["slice_k"])], "/"), 2**31 - 1
    )
    epoch_seed = int(np.random.default_rng([seed, epoch]).integers(2**30))
    return tf.stack([tf.cast(slice_hash, tf.int32), epoch_seed + tf.cast(round_, tf.int32)])


def _batched(
    stream,
    config: Config,
    epoch: int,
    batch: int,
    padding: int,
    augmented: bool,
    cases: Sequence[str] = (),
):
    schema = SCHEMAS[config.records.kind]
    canvas, modalities = config.records.slice_shape, len(config.data.modalities)

    def example_of(round_, record):
        crop = parse(schema, record)
        crop["image"] = tf.ensure_shape(crop["image"], [None, None, modalities])
        seed = _seed_of(crop, config.train.seed, epoch, round_)
        if augmented and (config.data.rotation_degrees or config.data.flip):
            # crop: ~140 x 170 x 4 -> 240 x 240 x 4
            slice_ = rotate_and_flip(crop, canvas, seed, config.data.rotation_degrees, config.data.flip)
        else:
            slice_ = on_canvas(crop, canvas, modalities)
        if augmented and config.data.intensity_change:
            (slice_["image"],) = with_other_intensities(
                [slice_["image"]], seed + 2, config.data.intensity_change
            )
        of_case = {"case": place_of_case(crop["case_id"], cases)} if cases else {}
        return {
            **slice_,
            **of_case,
            # Which pixels of S2 count is drawn afresh every time a slice is seen (paper A, eq. 2).
            "draws": tf.random.stateless_uniform(canvas, seed + 1),
            "valid": 1.0,
        }

    examples = stream.map(example_of, num_parallel_calls=MAPS_AT_ONCE, deterministic=True)
    return in_batches(examples, batch, padding).prefetch(2)
