"""Random rotation and flip of image, label and LWS regions together (paper A, section 3.1); other intensities.

The rotation is most of what a training slice costs, so only the brain is turned, not the empty canvas round it.
"""

import math
from collections.abc import Mapping, Sequence

import tensorflow as tf

_LEAST = 1e-6  # of a range or a spread by which is divided
_BITS = 4  # of a label or a region: both travel as one uint8 through the rotation


def _range(mask, axis: int):
    """The half-open range that holds what is True in bool [h, w] along an axis; all of it if nothing is."""
    along = tf.cast(tf.reduce_any(mask, axis=1 - axis), tf.uint8)
    low = tf.argmax(along, output_type=tf.int32)
    return low, tf.size(along) - tf.argmax(tf.reverse(along, [0]), output_type=tf.int32)


def _turned(tensor, matrix, shift, window, canvas: Sequence[int], interpolation: str):
    """[h, w, C] -> [H, W, C]: `matrix` and `shift` map (y, x) in the `window` of the canvas to the tensor's."""
    (top, bottom), (left, right) = window
    (yy, yx), (xy, xx) = matrix
    # The operation wants x, along the second axis, before y.
    transform = tf.stack([xx, xy, shift[1], yx, yy, shift[0], 0.0, 0.0])
    turned = tf.raw_ops.ImageProjectiveTransformV3(
        images=tensor[None],
        transforms=transform[None],
        output_shape=tf.stack([bottom - top, right - left]),
        fill_value=0.0,
        interpolation=interpolation,
        fill_mode="CONSTANT",
    )[0]
    height, width = canvas
    padded = tf.pad(turned, [[top, height - bottom], [left, width - right], [0, 0]])
    return tf.ensure_shape(padded, [height, width, tensor.shape[-1]])


def rotate_and_flip(
    example: Mapping, canvas: Sequence[int], seed, rotation_degrees: float, flip: float
) -> dict:
    """A stored crop in its place on the canvas, all of it rotated and flipped alike about the canvas's centre.

    Args:
        example: image float [h, w, M], label uint8 [h, w] and region uint8 [h, w] (both below 16; the image is
            0 where both are), origin_ij [2]: where the crop lies on the canvas. What else is there is left out.
        canvas: height, width.
        seed: int32 [2]; the same seed is the same turn.
        rotation_degrees: the angle is uniform in +- this.
        flip: probability, for each of the two axes.

    Returns:
        image float32 [H, W, M] by bilinear interpolation, label and region uint8 [H, W] by nearest neighbour; 0
        comes in from outside.
    """
    image, label, region = example["image"], example["label"], example["region"]
    maps = tf.bitwise.bitwise_or(label, tf.bitwise.left_shift(region, tf.constant(_BITS, tf.uint8)))
    ranges = [_range(maps > 0, axis) for axis in (0, 1)]
    (top, bottom), (left, right) = ranges
    image, maps = image[top:bottom, left:right], maps[top:bottom, left:right]

    uniform = tf.random.stateless_uniform([3], seed)
    angle = (2 * uniform[0] - 1) * math.radians(rotation_degrees)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    flips = [tf.where(uniform[1 + axis] < flip, -1.0, 1.0) for axis in (0, 1)]
    # From the centre of the canvas, (y, x) of the result comes from matrix (y, x): first flipped, then rotated.
    matrix = ((cosine * flips[0], sine * flips[1]), (-sine * flips[0], cosine * flips[1]))

    middle = [(size - 1) / 2 for size in canvas]
    starts, sizes, centres = [], [], []
    for axis, (low, high) in enumerate(ranges):
        starts.append(tf.cast(tf.cast(example["origin_ij"][axis], tf.int32) + low, tf.float32))
        sizes.append(tf.cast(high - low, tf.float32))
        centres.append(starts[axis] + (sizes[axis] - 1) / 2 - middle[axis])
    window = []
    for axis in (0, 1):
        # What the turned crop can reach, with the pixel round it that interpolation gives a share.
        reach = tf.abs(matrix[0][axis]) * (sizes[0] + 1) + tf.abs(matrix[1][axis]) * (sizes[1] + 1)
        centre = matrix[0][axis] * centres[0] + matrix[1][axis] * centres[1] + middle[axis]
        edges = tf.stack([tf.floor(centre - reach / 2), tf.floor(centre + reach / 2) + 2])
        window.append(tf.unstack(tf.clip_by_value(tf.cast(edges, tf.int32), 0, canvas[axis])))
    corner = [tf.cast(window[axis][0], tf.float32) - middle[axis] for axis in (0, 1)]
    shift = [
        matrix[axis][0] * corner[0] + matrix[axis][1] * corner[1] + middle[axis] - starts[axis]
        for axis in (0, 1)
    ]

    image = _turned(tf.cast(image, tf.float32), matrix, shift, window, canvas, "BILINEAR")
    maps = _turned(maps[..., None], matrix, shift, window, canvas, "NEAREST")[..., 0]
    return {
        "image": image,
        "label": tf.bitwise.bitwise_and(maps, tf.constant(2**_BITS - 1, tf.uint8)),
        "region": tf.bitwise.right_shift(maps, tf.constant(_BITS, tf.uint8)),
    }


def with_other_intensities(images: Sequence, seed, change: float) -> list:
    """One example as another scanner might have shown it: of each modality another gain, offset and gamma.

    Of z-scored intensities x in the brain, with u1, u2, u3 uniform in [-1, 1] for each modality: x is bent by
    x -> x ** exp(c u3) over its range in this example, gets the mean and the standard deviation back that it
    had, is multiplied by exp(c u1), and c u2 is added. What is 0 in all modalities is not brain and stays 0.

    Args:
        images: float [..., M] each, the same place at several scales; all change as the first does.
        seed: int32 [2]; the same seed is the same change.
        change: c.

    Returns:
        the images, of the types that they had.
    """
    first = tf.cast(images[0], tf.float32)
    gain, offset, bend = tf.unstack(change * tf.random.stateless_uniform([3, first.shape[-1]], seed, -1.0, 1.0))
    brain = tf.reduce_any(first != 0, axis=-1)
    voxels = tf.boolean_mask(first, brain)  # [voxels, M]
    count = tf.maximum(tf.cast(tf.shape(voxels)[0], tf.float32), 1.0)
    low, high = tf.reduce_min(voxels, 0), tf.reduce_max(voxels, 0)
    width = tf.maximum(high - low, _LEAST)

    def bent(intensity):
        return tf.pow(tf.clip_by_value((intensity - low) / width, 0.0, 1.0), tf.exp(bend))

    def moments(values):
        mean = tf.reduce_sum(values, 0) / count
        return mean, tf.sqrt(tf.reduce_sum(tf.square(values - mean), 0) / count)

    (mean, spread), (bent_mean, bent_spread) = moments(voxels), moments(bent(voxels))
    factor = tf.exp(gain) * spread / tf.maximum(bent_spread, _LEAST)
    changed = []
    for image in images:
        intensity = tf.cast(image, tf.float32)
        other = factor * (bent(intensity) - bent_mean) + tf.exp(gain) * mean + offset
        is_brain = tf.reduce_any(intensity != 0, axis=-1, keepdims=True)
        changed.append(tf.cast(tf.where(is_brain, other, 0.0), image.dtype))
    return changed
