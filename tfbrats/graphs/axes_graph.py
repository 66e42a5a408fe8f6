"""A case whose axes go elsewhere, turned to ours and back, in the graph; `cases.nifti` does it in numpy."""

import tensorflow as tf

from tfbrats.cases.nifti import AXES

_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "S": "I", "I": "S"}


class Turn:
    """How a grid of other axes is turned to `AXES`.

    Args:
        axes: string []: three letters, where i, j and k go, as `nibabel.aff2axcodes` gives them: "RAS".

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs: they are not one each of L or R, P or A, S or I.
    """

    def __init__(self, axes):
        letters = tf.strings.substr(tf.repeat(tf.strings.join([axes, "   "]), 3), [0, 1, 2], [1, 1, 1])
        # [ours, theirs]: whether their axis runs along ours, and against it.
        along = tf.stack([letters == ours for ours in AXES])
        against = tf.stack([letters == _OPPOSITE[ours] for ours in AXES])
        which = tf.cast(along | against, tf.int32)
        sound = tf.debugging.Assert(
            tf.reduce_all(tf.reduce_sum(which, axis=1) == 1) & (tf.strings.length(axes) == 3),
            ["axes: expected one each of L or R, P or A, S or I, such as RAS; found", axes],
        )
        with tf.control_dependencies([sound]):
            self._order = tf.argmax(which, axis=1, output_type=tf.int32)
            is_against = tf.reduce_any(against, axis=1)
        self._mirrored = tf.boolean_mask(tf.range(3), is_against)

    def to_ours(self, volume):
        """[I, J, K] on their grid -> on ours."""
        return tf.reverse(tf.transpose(volume, self._order), self._mirrored)

    def back(self, volume):
        """[I, J, K] or [I, J, K, C] on our grid -> on theirs."""
        order = tf.math.invert_permutation(self._order)
        rest = tf.range(3, volume.shape.rank)
        return tf.transpose(tf.reverse(volume, self._mirrored), tf.concat([order, rest], axis=0))
