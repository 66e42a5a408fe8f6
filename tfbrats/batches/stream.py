"""From shards to tensors: records as a stream, and which part of each global batch a worker reads."""

import dataclasses
import os
from collections.abc import Sequence

import tensorflow as tf

from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.records.manifest import Manifest
from tfbrats.records.schema import Field

OPEN_SHARDS = 4  # at a time, where a config does not say
_READ_BYTES = 2**20  # of a shard at a time: TensorFlow's own quarter costs a volume of 30 MB a third more


def parse(schema: Sequence[Field], serialized) -> dict:
    """The inverse of `schema.encode` in the graph: a scalar string -> tensors of the schema's types."""
    features = {}
    for field in schema:
        is_int = not field.is_array and field.dtype != "string"
        features[field.name] = tf.io.FixedLenFeature([], tf.int64 if is_int else tf.string)
        if field.is_array:
            features[field.shape_name] = tf.io.FixedLenFeature([len(field.shape)], tf.int64)
    stored = tf.io.parse_single_example(serialized, features)
    example = {}
    for field in schema:
        value = stored[field.name]
        if field.is_array:
            value = tf.reshape(tf.io.decode_raw(value, field.dtype), stored[field.shape_name])
            value.set_shape([None if size == -1 else size for size in field.shape])
        example[field.name] = value
    return example


def serialized(
    manifest: Manifest,
    folder: str | os.PathLike,
    split: str,
    order: Sequence[int],
    region: str = "",
    at_once: int = OPEN_SHARDS,
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

    def records(path):
        return tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES)

    return tf.data.Dataset.from_tensor_slices(paths).interleave(records, cycle_length=at_once)


def in_batches(examples: tf.data.Dataset, batch: int, padding: int) -> tf.data.Dataset:
    """Whole batches, after `padding` examples of zeros (their `valid` is 0 too) at the end.

    Whoever takes them in prefetches them.
    """
    if padding:
        empty = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), examples.element_spec)
        examples = examples.concatenate(tf.data.Dataset.from_tensors(empty).repeat(padding))
    return examples.batch(batch, drop_remainder=True)


def place_of_case(case_id, cases: Sequence[str]):
    """Which of the cases an example is of, from 0: int32 []."""
    is_case = tf.cast(tf.equal(case_id, list(cases)), tf.int32)
    return tf.argmax(is_case, output_type=tf.int32)


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of each global batch that one worker reads: all workers' parts are equal.

    Where the shards can be dealt out evenly, each worker reads shards of its own. Else, and in validation, each
    reads all of them: in each global batch the workers' parts lie one after the other.

    Attributes:
        global_batch: examples of a step, of all workers together.
        workers: processes that train together.
        worker: which of them reads here, from 0.
    """

    global_batch: int
    workers: int = 1
    worker: int = 0

    @property
    def batch(self) -> int:
        """Examples of a step that this worker reads."""
        return self.global_batch // self.workers

    def has_own_shards(self, shards: int) -> bool:
        """Whether each worker has whole ones of so many shards for itself."""
        return shards % self.workers == 0

    def shards(self, order: Sequence[int]) -> Sequence[int]:
        """The shards of `order` that this worker reads: its own, or all of them."""
        return order[self.worker :: self.workers] if self.has_own_shards(len(order)) else order

    def seen(self, examples: int, own_shards: bool) -> int:
        """How many of the examples that all workers together have seen lie in the stream that this one reads.

        Args:
            own_shards: whether the stream is of this worker's own shards; else of all.
        """
        return examples // self.workers if own_shards else examples

    def after(
        self, stream: tf.data.Dataset, examples: int, own_shards: bool, batches: int | None = None
    ) -> tf.data.Dataset:
        """The worker's examples of a stream, once all workers together have seen so many; args as `seen`'s.

        Args:
            batches: no more than so many are wanted. A stream that repeats itself is then not read ahead into
                the next round, which would fill a shuffle's buffer for nothing.
        """
        stream = stream.skip(self.seen(examples, own_shards))
        if not (own_shards or self.workers == 1):
            numbered = stream.enumerate().filter(lambda n, _: n // self.batch % self.workers == self.worker)
            stream = numbered.map(lambda _, example: example)
        return stream if batches is None else stream.take(batches * self.batch)

    def padding(self, examples: int) -> int:
        """How many examples this worker's part of the last global batch lacks, if all workers read so many."""
        rest = examples % self.global_batch
        return self.batch - min(max(rest - self.worker * self.batch, 0), self.batch) if rest else 0


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The stream without TensorFlow's autotuning.

    The thread that tunes a stream misses, on busy cores, that the stream has ended, and whoever lets go of it
    waits for that thread's next look: up to a minute an epoch. It has nothing to tune: all sizes are given.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
