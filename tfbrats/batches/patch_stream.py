"""tf.data for patches: stored ones, or cut afresh from stored volumes every epoch; the same batches either way.

What an epoch yields depends on the seed and the epoch's number alone: a resumed run sees what an
undisturbed one would have seen.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfbrats.batches.augment import with_other_intensities
from tfbrats.batches.slice_stream import MAPS_AT_ONCE
from tfbrats.batches.stream import Share, in_batches, parse, place_of_case, serialized, untuned
from tfbrats.config import PatchConfig
from tfbrats.inference import patches_graph
from tfbrats.inference.answers import region_mask
from tfbrats.inference.patches_graph import ancestor, jittered, parent_box
from tfbrats.labels import REGIONS
from tfbrats.records.manifest import Manifest
from tfbrats.records.schema import PATCHES, VOLUMES

# Shards open at a time, where a config does not say. One of patches holds few cases, a batch should hold many.
_OPEN_SHARDS = {"patches": 16, "volumes": 2}
# What of a record is looked at.
_OF_PATCH = tuple(field for field in PATCHES if field.name in ("x1", "half", "label", "case_id"))
_OF_VOLUME = tuple(field for field in VOLUMES if field.name in ("image", "label", "case_id"))
_VOLUMES_AT_ONCE = 2  # bounds memory: ~0.1 GB each

Boxes = Mapping[str, Sequence[Sequence[int]]]  # case id -> [3][low, high), voxels of the crop


def count(manifest: Manifest, config: PatchConfig, split: str, region: str) -> int:
    """Patches that one epoch sees of a split."""
    examples = manifest.count(split, region)
    return examples * config.sampling.patches_per_case if manifest.kind == "volumes" else examples


# --- cut from volumes -----------------------------------------------------------------------------------


def _centres(label, region: str, box, numbers, region_fraction: float, seed):
    """The twin of `patches.centres`, with draws of its own: int32 [n, 3]."""
    size = tf.shape(numbers)[0]
    low, high = tf.cast(box[:, 0], tf.float64), tf.cast(box[:, 1], tf.float64)
    uniform = tf.random.stateless_uniform([size, 4], seed, dtype=tf.float64)
    drawn = tf.cast(tf.floor(low + uniform[:, :3] * (high - low)), tf.int32)
    voxels = tf.where(tf.reshape(region_mask(label, region), [-1]))[:, 0]  # flat: a third of the time
    region_voxels = tf.size(voxels)
    chosen = tf.cast(tf.floor(uniform[:, 3] * tf.cast(region_voxels, tf.float64)), tf.int32)
    number = tf.cast(numbers, tf.float64)
    is_due = tf.floor((number + 1) * region_fraction) > tf.floor(number * region_fraction)
    on_region = is_due & (region_voxels > 0)
    # Without the region there is nothing to gather from: one voxel that is never chosen.
    voxels = tf.cond(region_voxels > 0, lambda: voxels, lambda: tf.zeros([1], tf.int64))
    chosen_ijk = tf.unravel_index(tf.gather(voxels, chosen), tf.shape(label, tf.int64))
    return tf.where(on_region[:, None], tf.cast(tf.transpose(chosen_ijk), tf.int32), drawn)


def cut(framed_image, label, centre, size: int) -> dict:
    """What `patches.patches` would have stored for this centre.

    Args:
        framed_image: float16 [i + 2, j + 2, k + 2, M], of `patches_graph.framed`.
        label: uint8 [i, j, k].
        centre: int32 [3].

    Returns:
        x1 and half float16 [S, S, S, M], label uint8 [S, S, S].
    """
    x1, half = patches_graph.cut_one(framed_image, centre, size, tf.float16)
    return {"x1": x1, "half": half, "label": patches_graph.cut_label(label, centre[None], size)[0]}


def _places(volume: dict, config: PatchConfig, region: str, boxes: Boxes | None, first, last, seed):
    """The centres of the patches number `first` to `last` of a case, drawn by the case and int32 `seed`."""
    label, sampling = volume["label"], config.sampling
    box = parent_box(label, region, config.cascade.margin)
    if boxes:
        # Where nothing was predicted, the reference's box stays.
        is_case = tf.equal(volume["case_id"], list(boxes))
        predicted = tf.boolean_mask(tf.constant(list(boxes.values()), tf.int32), is_case)
        box = tf.cond(tf.reduce_any(is_case), lambda: predicted[0], lambda: box)
    case_hash = tf.strings.to_hash_bucket_fast(volume["case_id"], 2**31 - 1)
    seeds = tf.stack([tf.cast(case_hash, tf.int32), seed])
    box = jittered(box, sampling.box_jitter, tf.shape(label), seeds)
    seeds += tf.constant([0, 1])
    return _centres(label, region, box, tf.range(first, last), sampling.region_fraction, seeds)


def _fresh(
    stream,
    config: PatchConfig,
    region: str,
    cases: int,
    epoch: int,
    boxes: Boxes | None,
    looked_at: np.ndarray | None = None,
):
    """Serialised volumes, each pass over them after the other -> patches, `patches_per_read` of each volume.

    Args:
        looked_at: bool, for the first patches of the stream: where False, zeros will do.
    """
    size, modalities = config.sampling.patch_size, len(config.data.modalities)
    per_case = config.sampling.patches_per_case
    per_read = min(config.data.patches_per_read, per_case)
    visits = -(-per_case // per_read)
    region_number = list(REGIONS).index(region)
    seed = int(np.random.default_rng([config.train.seed, epoch, region_number]).integers(2**30))

    def read(number, record):
        """One record -> case, the image in its frame, the label, the centres, and which of them are wanted."""
        visit = number // cases
        first = (visit % visits) * per_read  # as many as wanted from each case before any gives more
        last = tf.minimum(first + per_read, per_case)

        def opened():
            volume = parse(_OF_VOLUME, record)
            image = tf.ensure_shape(volume["image"], [None, None, None, modalities])
            # Drawn by the place in the stream: a worker with shards of its own passes over them more often.
            place = seed + 2 * tf.cast(number, tf.int32)
            centres = _places(volume, config, region, boxes, first, last, place)
            if config.cascade.mask == "multiply":
                above = ancestor(volume["label"], region)[..., None]
                image = tf.where(above, image, tf.zeros([], image.dtype))
            return volume["case_id"], patches_graph.framed(image), volume["label"], centres

        def closed():
            image, label = tf.zeros([0, 0, 0, modalities], tf.float16), tf.zeros([0, 0, 0], tf.uint8)
            return tf.constant(""), image, label, tf.zeros([last - first, 3], tf.int32)

        if looked_at is None:
            return *opened(), tf.ones([last - first], tf.bool)
        # The patches of all visits before: whole passes over the cases, then those of this pass.
        before = (visit // visits) * cases * per_case + cases * first + (number % cases) * (last - first)
        numbers = before + tf.range(last - first)
        known = tf.constant(looked_at)
        wanted = (numbers >= len(looked_at)) | tf.gather(known, tf.minimum(numbers, len(looked_at) - 1))
        return *tf.cond(tf.reduce_any(wanted), opened, closed), wanted

    def one_by_one(case_id, image, label, centres, wanted):
        # One volume in memory, whatever the number of its patches that wait to be cut.
        return tf.data.Dataset.from_tensor_slices((centres, wanted)).map(
            lambda *of_patch: (case_id, image, label, *of_patch)
        )

    def patch_of(case_id, image, label, centre, wanted):
        if looked_at is None:
            return {**cut(image, label, centre, size), "case_id": case_id}

        def zeros():
            x1 = tf.zeros([size] * 3 + [modalities], tf.float16)
            return {"x1": x1, "half": x1, "label": tf.zeros([size] * 3, tf.uint8)}

        return {**tf.cond(wanted, lambda: cut(image, label, centre, size), zeros), "case_id": case_id}

    volumes = stream.enumerate().map(read, num_parallel_calls=_VOLUMES_AT_ONCE, deterministic=True)
    places = volumes.flat_map(one_by_one)
    return places.map(patch_of, num_parallel_calls=MAPS_AT_ONCE, deterministic=True)


def _looked_at_after(seen: int, shuffled: Mapping) -> np.ndarray | None:
    """Which of the first patches before a shuffle come out of it after `seen` others: bool; None: all of them.

    A resumed epoch skips what the first part of it saw; so that this need not be cut again, the same shuffle is
    run over bare numbers.
    """
    if not seen:
        return None
    numbers = tf.data.Dataset.range(seen + shuffled["buffer_size"]).shuffle(**shuffled).take(seen)
    looked_at = np.ones(seen + shuffled["buffer_size"], bool)
    looked_at[list(numbers.as_numpy_iterator())] = False
    return looked_at


# --- streams --------------------------------------------------------------------------------------------


def _stored(stream):
    def patch_of(record):
        return parse(_OF_PATCH, record)

    return stream.map(patch_of, num_parallel_calls=MAPS_AT_ONCE, deterministic=True)


def _seed_of(patch: Mapping, seed: int):
    """int32 [2], a patch's own, whatever the worker and the order."""
    some = tf.cast(tf.bitcast(patch["x1"][::16, ::16, ::4], tf.int16), tf.int32)
    case_hash = tf.strings.to_hash_bucket_fast(patch["case_id"], 2**31 - 1)
    return tf.stack([tf.cast(case_hash, tf.int32), seed + tf.reduce_sum(some)])


def _batched(
    patches,
    config: PatchConfig,
    region: str,
    batch: int,
    padding: int,
    cases: Sequence[str] = (),
    epoch: int | None = None,
):
    """Batches of what the networks see; of a training's `epoch` with other intensities, where that is asked."""
    size, modalities = config.sampling.patch_size, len(config.data.modalities)

    def example_of(patch):
        shape = [size, size, size, modalities]
        example = {
            "x1": tf.ensure_shape(patch["x1"], shape),
            "target": tf.cast(region_mask(tf.ensure_shape(patch["label"], shape[:3]), region), tf.uint8),
            "valid": 1.0,
        }
        if cases:
            example["case"] = place_of_case(patch["case_id"], cases)
        if config.scales > 1:
            example["half"] = tf.ensure_shape(patch["half"], shape)
        if epoch is not None and config.data.intensity_change:
            seed = int(np.random.default_rng([config.train.seed, epoch]).integers(2**30))
            scales = [name for name in ("x1", "half") if name in example]
            images = [example[name] for name in scales]
            others = with_other_intensities(images, _seed_of(patch, seed), config.data.intensity_change)
            example.update(zip(scales, others, strict=True))
        return example

    # (without other intensities an example costs nothing to make)
    at_once = MAPS_AT_ONCE if config.data.intensity_change else None
    examples = patches.map(example_of, num_parallel_calls=at_once, deterministic=True if at_once else None)
    return in_batches(examples, batch, padding).prefetch(2)  # a batch of 24 takes 0.1 GB


def training(
    manifest: Manifest,
    config: PatchConfig,
    region: str,
    epoch: int,
    share: Share,
    first_example: int = 0,
    boxes: Boxes | None = None,
    batches: int | None = None,
) -> tf.data.Dataset:
    """One epoch of shuffled training batches for a region's network, without end: a worker's share of each.

    Args:
        first_example, batches: as in `slice_stream.training`.
        boxes: predicted parent boxes by case; by default the reference's.

    Yields:
        x1 and half (x0.5; not for unet3d) float16 [N, S, S, S, M], which `scales.network_input` puts together
        on the device that trains; target uint8 [N, S, S, S] (1 in the region), valid float32 [N] (all 1);
        N = share.batch.
    """
    rng = np.random.default_rng([config.train.seed, epoch])
    shards = manifest.shards_of("train", region)
    order, shuffle_seed = share.shards(rng.permutation(len(shards))), int(rng.integers(2**31))
    own_shards = share.has_own_shards(len(shards))
    at_once = config.data.open_shards or _OPEN_SHARDS[manifest.kind]
    shuffled = {
        "buffer_size": config.data.shuffle_buffer,
        "seed": shuffle_seed,
        "reshuffle_each_iteration": False,
    }
    if manifest.kind == "volumes":
        stream = serialized(manifest, config.data.records, "train", order, at_once=at_once).repeat()
        looked_at = _looked_at_after(share.seen(first_example, own_shards), shuffled)
        cases = sum(shards[n].examples for n in order)
        patches = _fresh(stream, config, region, cases, epoch, boxes, looked_at)
        patches = share.after(patches.shuffle(**shuffled), first_example, own_shards, batches)
    else:
        stream = serialized(manifest, config.data.records, "train", order, region, at_once)
        # Shuffled as they lie in the file, in half the memory.
        stream = share.after(stream.shuffle(**shuffled).repeat(), first_example, own_shards, batches)
        patches = _stored(stream)
    return untuned(_batched(patches, config, region, share.batch, 0, epoch=epoch))


def validation(
    manifest: Manifest,
    config: PatchConfig,
    region: str,
    split: str,
    share: Share,
    boxes: Boxes | None = None,
) -> tf.data.Dataset:
    """The same patches every epoch, as many as `count`; the last batch is filled up with valid = 0.

    Of several workers, each has its share of each batch, as in `training`; `case` is that of `slice_stream`.
    """
    shards = range(len(manifest.shards_of(split, region)))
    stream = serialized(manifest, config.data.records, split, shards, region)
    if manifest.kind == "volumes":
        visits = -(-config.sampling.patches_per_case // config.data.patches_per_read)
        cases = manifest.count(split)
        patches = _fresh(stream.repeat(visits), config, region, cases, 0, boxes)
        patches = share.after(patches, 0, own_shards=False)
    else:
        patches = _stored(share.after(stream, 0, own_shards=False))
    padding = share.padding(count(manifest, config, split, region))
    cases = manifest.cases[split] if config.train.select == "dice" else ()
    return untuned(_batched(patches, config, region, share.batch, padding, cases))
