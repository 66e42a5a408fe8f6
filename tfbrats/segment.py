"""A whole case -> label map, as one TensorFlow graph, for paper A's networks; `cascade` is paper B's.

`predict`, the exported SavedModel and the server run all of it: nothing else stitches or fuses. Training's
validation reads the logits as it does; `cascade` begins and ends a case as it does.
"""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from tfbrats.command import InputError
from tfbrats.labels import REGIONS, LabelSchema, Tissue
from tfbrats.models import cun, without_training_heads

_MULTIPLE = 16  # four poolings
_SLICES_AT_ONCE = 8  # bounds the memory of a forward pass
_TUMOUR = (Tissue.NCR, Tissue.ED, Tissue.ET)


def fuse(branch1, branch2, brain):
    """The two branches as one label map ([ours], from paper A's text).

    WT is where branch 1 says so; inside it the tissue is the likeliest of branch 2's three tumour classes;
    outside the brain there is nothing.

    Args:
        branch1: probabilities or logits float32 [..., 2].
        branch2: likewise [..., 4].
        brain: bool [...].

    Returns:
        tissues, uint8 [...].
    """
    whole = tf.logical_and(tf.argmax(branch1, axis=-1) == 1, brain)
    part = 1 + tf.argmax(branch2[..., 1:], axis=-1, output_type=tf.int32)
    return tf.cast(tf.where(whole, part, 0), tf.uint8)


def region_probabilities(branch1_logits, branch2_logits, brain):
    """Probability of WT, TC and ET at each voxel, float32 [..., 3].

    WT is branch 1's; a part's is WT's times its share among branch 2's three tumour classes, so that
    ET <= TC <= WT everywhere ([ours]).
    """
    whole = tf.nn.softmax(branch1_logits, axis=-1)[..., 1]
    shares = tf.nn.softmax(branch2_logits[..., 1:], axis=-1)
    regions = [whole * tf.add_n([shares[..., tissue - 1] for tissue in REGIONS[name]]) for name in ("TC", "ET")]
    return tf.where(brain[..., None], tf.stack([whole, *regions], axis=-1), 0.0)


class BranchAnswer:
    """How the logits of the cascaded U-Net's two branches are read."""

    classes: Mapping[str, tuple[str, ...]] = {
        "branch1": ("rest", "WT"),
        "branch2": ("non-tumour", "NCR", "ED", "ET"),
    }

    def probabilities(self, logits: Mapping) -> dict:
        """Of each class, [N, H, W, C], by the names of `classes`."""
        return {name: tf.nn.softmax(logits[f"{name}_logits"], axis=-1) for name in self.classes}

    def tissues(self, logits: Mapping, brain):
        """uint8 [N, H, W]; `brain` is bool [N, H, W]."""
        return fuse(*(logits[name] for name in cun.BRANCHES), brain)

    def regions(self, logits: Mapping, brain):
        """Probability of WT, TC and ET, float32 [N, H, W, 3]."""
        return region_probabilities(*(logits[name] for name in cun.BRANCHES), brain)


class ClassAnswer:
    """How the four-class logits of a baseline are read: the likeliest class, nothing outside the brain."""

    classes: Mapping[str, tuple[str, ...]] = {"classes": ("non-tumour", "NCR", "ED", "ET")}

    def probabilities(self, logits: Mapping) -> dict:
        """As `BranchAnswer`'s."""
        return {"classes": tf.nn.softmax(logits["logits"], axis=-1)}

    def tissues(self, logits: Mapping, brain):
        """As `BranchAnswer`'s."""
        likeliest = tf.argmax(logits["logits"], axis=-1, output_type=tf.int32)
        return tf.cast(tf.where(brain, likeliest, 0), tf.uint8)

    def regions(self, logits: Mapping, brain):
        """As `BranchAnswer`'s; a region's is the sum of its tissues', so that ET <= TC <= WT."""
        each = tf.nn.softmax(logits["logits"], axis=-1)
        sums = [tf.add_n([each[..., tissue] for tissue in tissues]) for tissues in REGIONS.values()]
        return tf.where(brain[..., None], tf.stack(sums, axis=-1), 0.0)


def answer_of(network: keras.Model) -> BranchAnswer | ClassAnswer:
    """How the network's logits are read, by the names of its outputs."""
    return ClassAnswer() if "logits" in network.output else BranchAnswer()


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


def normalise(image):
    """Brain mask and z-score, as `preprocess.brain_mask` and `preprocess.z_score` do it in numpy.

    Args:
        image: float32 [I, J, K, M], as the scanner or N4 gave it.

    Returns:
        z-scored image, 0 outside the brain, and the brain, bool [I, J, K].
    """
    brain = tf.reduce_any(image != 0, axis=-1)
    inside = tf.cast(brain, tf.float32)[..., None]
    count = tf.maximum(tf.reduce_sum(inside), 1.0)
    mean = tf.reduce_sum(image * inside, axis=(0, 1, 2)) / count
    deviation = tf.sqrt(tf.reduce_sum(tf.square(image - mean) * inside, axis=(0, 1, 2)) / count)
    # As in preprocess.statistics: rounding leaves a trace of deviation in what is constant.
    deviation = tf.where(deviation > 1e-6 * tf.abs(mean), deviation, 1.0)
    return tf.where(brain[..., None], (image - mean) / deviation, 0.0), brain


def label_values(schema: LabelSchema) -> list[int]:
    """The schema's values of background, NCR, ED and ET: at index `Tissue`, what to write for it.

    Raises:
        InputError: the schema lacks one of them.
    """
    known = schema.value_of_tissue
    missing = [tissue.name for tissue in _TUMOUR if tissue not in known]
    if missing:
        raise InputError(
            f"the labels of {schema.edition} have no value for {', '.join(missing)}. Choose those of an "
            "edition with --edition."
        )
    return [known[tissue] for tissue in (Tissue.BACKGROUND, *_TUMOUR)]


def _canvas_padding(size, at_least: int):
    """How much to add before and after, so that a side is a multiple of 16 and as long as in training."""
    side = tf.maximum(at_least, -(-size // _MULTIPLE) * _MULTIPLE)
    before = (side - size) // 2
    return before, side - size - before


class CaseSegmenter(tf.Module):
    """A trained network with everything round it, from raw modalities to a label map.

    Args:
        network: the trained network of `models.build`.
        modalities: names and order of its channels.
        slice_shape: the canvas it was trained on.
        schema: the label values that come out.
    """

    def __init__(
        self,
        network: keras.Model,
        modalities: Sequence[str],
        slice_shape: Sequence[int],
        schema: LabelSchema,
    ):
        super().__init__()
        self.network = without_training_heads(network)
        self.answer = answer_of(network)
        self.modalities = tuple(modalities)
        self._slice_shape = tuple(slice_shape)
        self._values = label_values(schema)

    def slices(self, image):
        """float32 [N, H, W, M] z-scored slices -> class probabilities, by the names of `answer.classes`."""
        return self.answer.probabilities(self.network(image, training=False))

    def __call__(self, volumes: dict) -> dict:
        """Segments one case.

        Args:
            volumes: modality -> [I, J, K] of any size, int16 or float32, brain extracted, background 0.

        Returns:
            segmentation: uint8 [I, J, K] in the schema's values.
            probabilities: float32 [I, J, K, 3] of WT, TC, ET.
        """
        # image: 240 x 240 x 155 x 4
        image = tf.stack([tf.cast(volumes[name], tf.float32) for name in self.modalities], axis=-1)
        image, brain = normalise(finite(image))
        shape = tf.shape(image)
        top, bottom = _canvas_padding(shape[0], self._slice_shape[0])
        left, right = _canvas_padding(shape[1], self._slice_shape[1])

        # Only slices with brain are run: 155 -> ~140
        holds_brain = tf.reduce_any(brain, axis=(0, 1))
        chosen = tf.cast(tf.where(holds_brain)[:, 0], tf.int32)
        count = tf.shape(chosen)[0]
        batches = -(-count // _SLICES_AT_ONCE)
        labels = tf.TensorArray(tf.uint8, size=batches, element_shape=[None, None, None], infer_shape=False)
        regions = tf.TensorArray(
            tf.float32, size=batches, element_shape=[None, None, None, len(REGIONS)], infer_shape=False
        )

        def run_batch(n, labels, regions):
            index = chosen[n * _SLICES_AT_ONCE : (n + 1) * _SLICES_AT_ONCE]
            # batch: 8 x 240 x 240 x 4
            batch = tf.transpose(tf.gather(image, index, axis=2), [2, 0, 1, 3])
            inside = tf.transpose(tf.gather(brain, index, axis=2), [2, 0, 1])
            batch = tf.pad(batch, [[0, 0], [top, bottom], [left, right], [0, 0]])
            logits = self.network(batch, training=False)
            logits = {
                name: padded[:, top : top + shape[0], left : left + shape[1]] for name, padded in logits.items()
            }
            labels = labels.write(n, self.answer.tissues(logits, inside))
            regions = regions.write(n, self.answer.regions(logits, inside))
            return n + 1, labels, regions

        _, labels, regions = tf.while_loop(
            lambda n, *_: n < batches, run_batch, (0, labels, regions), parallel_iterations=1
        )
        # back to I x J x K: slices without brain are 0
        tissues = tf.cond(
            count > 0,
            lambda: tf.scatter_nd(chosen[:, None], labels.concat(), [shape[2], shape[0], shape[1]]),
            lambda: tf.zeros([shape[2], shape[0], shape[1]], tf.uint8),
        )
        probabilities = tf.cond(
            count > 0,
            lambda: tf.scatter_nd(
                chosen[:, None], regions.concat(), [shape[2], shape[0], shape[1], len(REGIONS)]
            ),
            lambda: tf.zeros([shape[2], shape[0], shape[1], len(REGIONS)], tf.float32),
        )
        values = tf.gather(tf.constant(self._values, tf.uint8), tf.cast(tissues, tf.int32))
        return {
            "segmentation": tf.transpose(values, [1, 2, 0]),
            "probabilities": tf.transpose(probabilities, [1, 2, 0, 3]),
        }
