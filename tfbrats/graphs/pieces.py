"""A batch in pieces and cases one by one: memory is bounded. What is too large or no number is refused."""

from collections.abc import Callable, Mapping

import tensorflow as tf

from tfbrats.machine.packing import LONGEST_SIDE, MOST_VOXELS

MOST_CASES = 64  # of one call: little is sent to claim many, and each takes its time


def bounded(volumes: Mapping) -> dict:
    """The volumes again, refused if they are no case: of several grids, or larger than a server should take on.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs.
    """
    shapes = [tf.shape(volume, out_type=tf.int64) for volume in volumes.values()]
    one_grid = tf.debugging.Assert(
        tf.reduce_all([tf.reduce_all(shape == shapes[0]) for shape in shapes]),
        ["the modalities are of several shapes:", *shapes],
        summarize=3,
    )
    # Slices are padded to a canvas: a long and thin volume is larger than it looks.
    few = tf.debugging.Assert(
        tf.reduce_all(shapes[0] <= LONGEST_SIDE) & (tf.reduce_prod(shapes[0]) <= MOST_VOXELS),
        [
            "a case of at most",
            LONGEST_SIDE,
            "voxels a side and",
            MOST_VOXELS,
            "in all is taken; found",
            shapes[0],
        ],
        summarize=3,
    )
    with tf.control_dependencies([one_grid, few]):
        return {name: tf.identity(volume) for name, volume in volumes.items()}


def finite(image):
    """The image again, refused if a voxel is no number.

    Raises:
        tf.errors.InvalidArgumentError: NaN or infinite values, when the graph runs.
    """
    check = tf.debugging.Assert(
        tf.reduce_all(tf.math.is_finite(image)), ["the volumes hold NaN or infinite values"]
    )
    with tf.control_dependencies([check]):
        return tf.identity(image)


def each_of(function: Callable, volumes: Mapping, outputs: Mapping) -> dict:
    """A function of one case, for several cases of one grid, one after the other.

    Args:
        function: {name: [I, J, K]} -> {name: array}.
        volumes: name -> [N, I, J, K].
        outputs: name -> `tf.TensorSpec` of one case; of what the function gives, these are kept.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs: none, over `MOST_CASES`, or not as many of each.
    """
    counts = [tf.shape(volume)[0] for volume in volumes.values()]
    few = tf.debugging.Assert(
        tf.reduce_all(tf.stack(counts) == counts[0]) & (counts[0] >= 1) & (counts[0] <= MOST_CASES),
        ["expected equally many cases of each modality, from 1 to", MOST_CASES, "; found", *counts],
    )
    with tf.control_dependencies([few]):
        volumes = {name: tf.identity(volume) for name, volume in volumes.items()}

    def kept(volumes):
        answer = function(volumes)
        return {name: answer[name] for name in outputs}

    return tf.map_fn(kept, volumes, fn_output_signature=dict(outputs), parallel_iterations=1)


def in_pieces(function: Callable, batch, at_once, nothing: Mapping) -> dict:
    """A function of a batch, `at_once` examples after `at_once`: however many come, memory is bounded.

    Args:
        function: batch [n, ...] -> {name: [n, ...]}.
        at_once: int or int32 [].
        nothing: name -> [0, ...], what comes out for no example.
    """
    count = tf.shape(batch)[0]
    pieces = -(-count // at_once)
    # A GPU keeps no list of uint8; float16 holds its numbers as they are.
    kept = {name: tf.float16 if empty.dtype == tf.uint8 else empty.dtype for name, empty in nothing.items()}
    answers = {
        name: tf.TensorArray(kept[name], pieces, element_shape=[None, *empty.shape[1:]], infer_shape=False)
        for name, empty in nothing.items()
    }

    def add_piece(n, answers):
        answer = function(batch[n * at_once : (n + 1) * at_once])
        return n + 1, {
            name: array.write(n, tf.cast(answer[name], kept[name])) for name, array in answers.items()
        }

    _, answers = tf.while_loop(lambda n, _: n < pieces, add_piece, (0, answers), parallel_iterations=1)
    return tf.cond(
        count > 0,
        lambda: {name: tf.cast(array.concat(), nothing[name].dtype) for name, array in answers.items()},
        lambda: nothing,
    )
