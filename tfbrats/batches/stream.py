"""From shards to tensors: records as a stream, and which part of each global batch a worker reads."""

import os
from collections.abc import Sequence

import tensorflow as tf

from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.records.manifest import Manifest
from tfbrats.records.schema import Field

_READ_AT_ONCE = 4  # shards open at a time


def parse(schema: Sequence[Field], serialized) -> dict:
    """The inverse of `records.encode` in the graph: a scalar string -> tensors of the schema's types."""
    features = {}
    for field in schema:
        is_int = not field.is_array and field.dtype != "string"
        features[field.name] = tf.io.FixedLenFeature([], tf.int64 if is_int else tf.string)
        if field.is_array:
            features[field.shape_name] = tf.io.FixedLenFeature([len(field.shape)], tf.int64)
    found = tf.io.parse_single_example(serialized, features)
    example = {}
    for field in schema:
        value = found[field.name]
        if field.is_array:
            value = tf.reshape(tf.io.decode_raw(value, field.dtype), found[field.shape_name])
            value.set_shape([None if size == -1 else size for size in field.shape])
        example[field.name] = value
    return example


def serialized(
    manifest: Manifest,
    folder: str | os.PathLike,
    split: str,
    order: Sequence[int],
    region: str = "",
    at_once: int = _READ_AT_ONCE,
) -> tf.data.Dataset:
    """The records of a split as they lie in its shards, `at_once` of which are read in turn.

    Args:
        order: of the shards, by their place in `manifest.shards_of(split, region)`.

    Raises:
        InputError: there are none.
    """
    shards = manifest.shards_of(split, region)
    if not manifest.count(split, region):
        raise InputError(f"{folder}: no {split} examples. Give more cases or another split.")
    paths = [files.join(folder, shards[n].file) for n in order]
    return tf.data.Dataset.from_tensor_slices(paths).interleave(tf.data.TFRecordDataset, cycle_length=at_once)


def in_batches(examples: tf.data.Dataset, batch: int, padding: int) -> tf.data.Dataset:
    """Whole batches, after `padding` examples of zeros (their `valid` is 0 too) at the end.

    Whoever takes them in prefetches them.
    """
    if padding:
        empty = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), examples.element_spec)
        examples = examples.concatenate(tf.data.Dataset.from_tensors(empty).repeat(padding))
    return examples.batch(batch, drop_remainder=True)


def shard_policy(shards: int, workers: int) -> str:
    """FILE when each worker can have whole shards of its own, else DATA: each worker reads all of them."""
    return "FILE" if shards % workers == 0 else "DATA"


def own_shards(order: Sequence[int], policy: str, workers: int, worker: int) -> Sequence[int]:
    """The shards of `order` that a worker reads."""
    return order[worker::workers] if policy == "FILE" else order


def own_seen(policy: str, seen: int, workers: int) -> int:
    """How many of the examples that all workers together have seen lie in the stream that a worker reads."""
    return seen // workers if policy == "FILE" else seen


def own_examples(
    stream: tf.data.Dataset, policy: str, global_batch: int, seen: int, workers: int, worker: int
) -> tf.data.Dataset:
    """What a worker reads, after `seen` examples of all workers together, by `shard_policy`'s name.

    FILE: the stream is the worker's own. DATA: it is everyone's, and in each global batch the workers' parts
    lie one after the other.
    """
    stream = stream.skip(own_seen(policy, seen, workers))
    if policy == "FILE" or workers == 1:
        return stream
    part = global_batch // workers
    numbered = stream.enumerate().filter(lambda n, _: n // part % workers == worker)
    return numbered.map(lambda _, example: example)


def own_padding(examples: int, global_batch: int, workers: int, worker: int) -> int:
    """How many examples a worker's part of the last global batch lacks."""
    part, rest = global_batch // workers, examples % global_batch
    return part - min(max(rest - worker * part, 0), part) if rest else 0


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The stream without TensorFlow's autotuning.

    The thread that tunes a stream misses, on busy cores, that the stream has ended, and whoever lets go of it
    waits for that thread's next look: up to a minute an epoch. It has nothing to tune: all sizes are given.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
