"""A whole case -> label map, as one TensorFlow graph, for paper A's networks; `cascade` is paper B's.

`predict`, the exported SavedModel and the server run all of it: nothing else stitches or fuses. Training's
validation reads the logits as it does; `cascade` begins and ends a case as it does.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfbrats.inference.answers import answer_of, label_values
from tfbrats.inference.boxes_graph import uncrop
from tfbrats.inference.pieces import in_pieces
from tfbrats.inference.preprocess_graph import prepared
from tfbrats.labels import REGIONS, LabelSchema
from tfbrats.networks import without_training_heads

_MULTIPLE = 16  # four poolings
_SLICES_AT_ONCE = 8  # bounds the memory of a forward pass


# A plane a class: along a last axis of three, TensorFlow's own softmax of 144 slices of 240 x 240 took .29 s on
# two cores, these .05 s; argmax .17 s.


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
        nothing = {
            name: tf.zeros([0, *self._slice_shape, len(classes)])
            for name, classes in self.answer.classes.items()
        }
        return in_pieces(
            lambda some: self.answer.probabilities(self.network(some, training=False)),
            image,
            _SLICES_AT_ONCE,
            nothing,
        )

    def __call__(self, volumes: dict) -> dict:
        """Segments one case.

        Args:
            volumes: modality -> [I, J, K] of any size, int16 or float32, brain extracted, background 0.

        Returns:
            segmentation: uint8 [I, J, K] in the schema's values.
            probabilities: float32 [I, J, K, 3] of WT, TC, ET.
        """
        image, brain, box, shape = prepared(volumes, self.modalities)
        # As slices: 140 x 140 x 170 x 4
        image, brain = tf.transpose(image, [2, 0, 1, 3]), tf.transpose(brain, [2, 0, 1])
        # The network sees a whole plane of the volume, on its canvas.
        frame = self._frame(shape[:2], box)
        height, width = tf.unstack(tf.shape(image)[1:3] + tf.reduce_sum(frame, axis=1))

        # Only slices with brain are run: 155 -> ~140
        chosen = tf.cast(tf.where(tf.reduce_any(brain, axis=(1, 2)))[:, 0], tf.int32)
        # No more memory for slices larger than the canvas.
        canvas = _SLICES_AT_ONCE * self._slice_shape[0] * self._slice_shape[1]
        at_once = tf.maximum(canvas // (height * width), 1)

        def run_slices(index):
            # batch: 8 x 240 x 240 x 4
            batch = tf.pad(tf.gather(image, index), tf.pad(frame, [[1, 1], [0, 0]]))
            logits = self.network(
                tf.ensure_shape(batch, [None, None, None, len(self.modalities)]), training=False
            )
            (top, bottom), (left, right) = (tf.unstack(side) for side in tf.unstack(frame))
            logits = {
                name: plane[:, top : height - bottom, left : width - right] for name, plane in logits.items()
            }
            within = tf.gather(brain, index)
            return {
                "tissues": self.answer.tissues(logits, within),
                "regions": self.answer.regions(logits, within),
            }

        planes = tf.shape(brain)
        nothing = {
            "tissues": tf.zeros([0, planes[1], planes[2]], tf.uint8),
            "regions": tf.zeros([0, planes[1], planes[2], len(REGIONS)]),
        }
        found = in_pieces(run_slices, chosen, at_once, nothing)
        # Slices without brain are 0.
        tissues = tf.scatter_nd(chosen[:, None], found["tissues"], planes)
        probabilities = tf.scatter_nd(chosen[:, None], found["regions"], [*tf.unstack(planes), len(REGIONS)])
        # back to I x J x K
        tissues = uncrop(tf.transpose(tissues, [1, 2, 0]), box, shape)
        return {
            "segmentation": tf.gather(tf.constant(self._values, tf.uint8), tf.cast(tissues, tf.int32)),
            "probabilities": uncrop(tf.transpose(probabilities, [1, 2, 0, 3]), box, shape),
        }

    def _frame(self, plane, box):
        """Voxels before and after the box's two first sides that the canvas of a plane has: int32 [2, 2]."""
        sides = []
        for axis in range(2):
            before, after = _canvas_padding(plane[axis], self._slice_shape[axis])
            sides.append(tf.stack([before + box[axis, 0], plane[axis] - box[axis, 1] + after]))
        return tf.stack(sides)
