"""The inverse of `machine.packing`, in the graph. Whatever is sent, little is unpacked before it is refused."""

import tensorflow as tf

from tfbrats.machine.packing import LONGEST_SIDE, MOST_VOXELS, OVERHEAD_BYTES

_AT_ONCE = 2  # slices


def unpacked(slices, plane):
    """Slices as `packing.packed` makes them -> the volume.

    A slice says itself, in its last four bytes, how long it is when it is unpacked: if that is not as long as
    the plane, it is not unpacked at all. One that lies is at most about a thousand slices, since deflate makes
    at most 1032 bytes of one; each is measured before the next ones are begun.

    Args:
        slices: string [K].
        plane: int32 [2]: I and J.

    Returns:
        int16 [I, J, K].

    Raises:
        tf.errors.InvalidArgumentError, tf.errors.DataLossError: when the graph runs: the slices are not as long
            as the plane, none or too many, or no gzip.
    """
    side = tf.cast(plane, tf.int64)
    plain = 2 * side[0] * side[1]
    count = tf.size(slices, out_type=tf.int64)
    sane = tf.debugging.Assert(
        tf.reduce_all(side >= 1) & tf.reduce_all(side <= LONGEST_SIDE),
        ["plane: expected I and J of a slice, from 1 to", LONGEST_SIDE, "; found", plane],
    )
    with tf.control_dependencies([sane]):
        few = tf.debugging.Assert(
            (count >= 1) & (plain // 2 * count <= MOST_VOXELS),
            ["a case of 1 to", MOST_VOXELS, "voxels is taken; found", count, "slices of", plane],
        )
        not_many = tf.debugging.Assert(
            count <= LONGEST_SIDE, ["at most", LONGEST_SIDE, "slices are taken; found", count]
        )
        short = tf.debugging.Assert(
            tf.reduce_all(tf.cast(tf.strings.length(slices), tf.int64) <= plain + OVERHEAD_BYTES),
            ["a slice is longer packed than plain, which is", plain, "bytes"],
        )
    with tf.control_dependencies([few, not_many, short]):
        slices = tf.identity(slices)

    def fits(length):
        length = tf.cast(length, tf.int64)
        return tf.debugging.Assert(length == plain, ["a slice of", plain, "bytes is expected; found", length])

    def plane_of(member):
        end = tf.strings.substr(tf.strings.join(["\0\0\0\0", member]), -4, 4)
        with tf.control_dependencies([fits(tf.io.decode_raw(end, tf.int32)[0])]):
            content = tf.io.decode_compressed(member, "GZIP")
        with tf.control_dependencies([fits(tf.strings.length(content))]):
            return tf.reshape(tf.io.decode_raw(content, tf.int16), plane)

    spec = tf.TensorSpec([None, None], tf.int16)
    planes = tf.map_fn(plane_of, slices, fn_output_signature=spec, parallel_iterations=_AT_ONCE)
    # 155 x 240 x 240 -> 240 x 240 x 155
    return tf.transpose(tf.reshape(planes, tf.concat([[tf.size(slices)], plane], axis=0)), [1, 2, 0])
