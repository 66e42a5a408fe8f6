"""Random rotation and flip of image, label and LWS regions together (paper A, section 3.1)."""

from collections.abc import Mapping

import tensorflow as tf


def _rotate(tensor, angle, interpolation: str):
    """[H, W, C] about the centre of the slice, by `angle` radians; 0 comes in from outside."""
    height, width = (tf.cast(size, tf.float32) for size in tf.unstack(tf.shape(tensor)[:2]))
    cosine, sine = tf.cos(angle), tf.sin(angle)
    # The operation maps output (x, y) to input, x along the second axis.
    x0, y0 = (width - 1) / 2, (height - 1) / 2
    transform = [
        cosine,
        -sine,
        x0 - cosine * x0 + sine * y0,
        sine,
        cosine,
        y0 - sine * x0 - cosine * y0,
        0.0,
        0.0,
    ]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tensor[None],
        transforms=tf.stack(transform)[None],
        output_shape=tf.shape(tensor)[:2],
        fill_value=0.0,
        interpolation=interpolation,
        fill_mode="CONSTANT",
    )[0]


def rotate_and_flip(example: Mapping, seed, rotation_degrees: float, flip: float) -> dict:
    """The same rotation and flips for all that lies on the pixel grid.

    Args:
        example: image float32 [H, W, M], label uint8 [H, W], region uint8 [H, W], and what else is passed on.
        seed: int32 [2]; the same seed is the same turn.
        rotation_degrees: the angle is uniform in +- this.
        flip: probability, for each of the two axes.

    Returns:
        the example; image by bilinear interpolation, label and region by nearest neighbour.
    """
    turned = dict(example)
    uniform = tf.random.stateless_uniform([3], seed)
    if rotation_degrees:
        angle = (2 * uniform[0] - 1) * rotation_degrees * (3.141592653589793 / 180)
        turned["image"] = _rotate(example["image"], angle, "BILINEAR")
        for name in ("label", "region"):
            turned[name] = _rotate(example[name][..., None], angle, "NEAREST")[..., 0]
    if flip:
        for name in ("image", "label", "region"):
            for axis in (0, 1):
                turned[name] = tf.where(
                    uniform[1 + axis] < flip, tf.reverse(turned[name], [axis]), turned[name]
                )
    return turned
