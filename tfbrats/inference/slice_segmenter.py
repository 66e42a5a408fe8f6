"""A whole case -> label map, as one TensorFlow graph, for paper A's networks; `cascade_segmenter` is paper B's.

`predict`, the exported SavedModel and the server run all of it: nothing else stitches or fuses. Training's
validation reads the logits as it does; `cascade_segmenter` begins and ends a case as it does.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfbrats.graphs.boxes_graph import uncrop
from tfbrats.graphs.pieces import in_pieces
from tfbrats.graphs.preprocess_graph import cropped
from tfbrats.inference.answers import answer_of, in_values, label_values
from tfbrats.inference.ensemble import Ensemble
from tfbrats.labels import REGIONS, LabelSchema
from tfbrats.networks import without_training_heads

_MULTIPLE = 16  # four poolings
_SLICES_AT_ONCE = 8  # bounds the memory of a forward pass


def _canvas_padding(size, at_least: int):
    """How much to add before and after, so that a side is a multiple of 16 and as long as in training."""
    side = tf.maximum(at_least, -(-size // _MULTIPLE) * _MULTIPLE)
    before = (side - size) // 2
    return before, side - size - before


class SliceSegmenter(tf.Module):
    """A trained network with everything round it, from raw modalities to a label map.

    Args:
        network: the trained network of `networks.build`.
        modalities: names and order of its channels.
        slice_shape: the canvas it was trained on.
        schema: the label values that come out.
        n4_modalities, n4_shrink: as `preprocess_graph.cropped`.
    """

    def __init__(
        self,
        network: keras.Model | Ensemble,
        modalities: Sequence[str],
        slice_shape: Sequence[int],
        schema: LabelSchema,
        n4_modalities: Sequence[str] = (),
        n4_shrink: int = 1,
    ):
        super().__init__()
        self.network = network if isinstance(network, Ensemble) else without_training_heads(network)
        self.answer = answer_of(network)
        self.modalities = tuple(modalities)
        self._slice_shape = tuple(slice_shape)
        self._values = label_values(schema)
        self._n4 = tuple(n4_modalities), n4_shrink

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
        image, brain, box, shape = cropped(volumes, self.modalities, *self._n4)
        # As slices: 140 x 140 x 170 x 4
        image, brain = tf.transpose(image, [2, 0, 1, 3]), tf.transpose(brain, [2, 0, 1])
        frame = self._frame(shape[:2], box)
        # Only slices with brain are run: 155 -> ~140
        with_brain = tf.cast(tf.where(tf.reduce_any(brain, axis=(1, 2)))[:, 0], tf.int32)
        slices, height, width = tf.unstack(tf.shape(brain))
        answers = in_pieces(
            lambda some: self._answers(tf.gather(image, some), tf.gather(brain, some), frame),
            with_brain,
            self._at_once(height, width, frame),
            {
                "tissues": tf.zeros([0, height, width], tf.uint8),
                "regions": tf.zeros([0, height, width, len(REGIONS)]),
            },
        )
        # Slices without brain are 0, and so is what is outside the box: no value but 0 is background's.
        places = with_brain[:, None]
        tissues = tf.scatter_nd(places, answers["tissues"], [slices, height, width])
        probabilities = tf.scatter_nd(places, answers["regions"], [slices, height, width, len(REGIONS)])
        # back to I x J x K
        tissues = in_values(tf.transpose(tissues, [1, 2, 0]), self._values)
        return {
            "segmentation": uncrop(tissues, box, shape),
            "probabilities": uncrop(tf.transpose(probabilities, [1, 2, 0, 3]), box, shape),
        }

    def _answers(self, image, brain, frame) -> dict:
        """What the network says of some slices, each seen as a whole plane of the volume, on its canvas.

        Args:
            image: float32 [N, h, w, M], cropped to the brain's box.
            brain: bool [N, h, w].
            frame: of `_frame`.

        Returns:
            tissues: uint8 [N, h, w].
            regions: float32 [N, h, w, 3], probabilities of WT, TC and ET.
        """
        # batch: 8 x 240 x 240 x 4
        batch = tf.pad(image, tf.pad(frame, [[1, 1], [0, 0]]))
        batch = tf.ensure_shape(batch, [None, None, None, len(self.modalities)])
        logits = self.network(batch, training=False)
        (top, left), (height, width) = tf.unstack(frame[:, 0]), tf.unstack(tf.shape(brain)[1:])
        logits = {name: plane[:, top : top + height, left : left + width] for name, plane in logits.items()}
        return {"tissues": self.answer.tissues(logits, brain), "regions": self.answer.regions(logits, brain)}

    def _at_once(self, height, width, frame):
        """How many slices of so many voxels take no more memory than `_SLICES_AT_ONCE` canvases: int32 []."""
        on_canvas = tf.stack([height, width]) + tf.reduce_sum(frame, axis=1)
        canvas = _SLICES_AT_ONCE * self._slice_shape[0] * self._slice_shape[1]
        return tf.maximum(canvas // tf.reduce_prod(on_canvas), 1)

    def _frame(self, plane, box):
        """Voxels before and after the box's two first sides that the canvas of a plane has: int32 [2, 2]."""
        sides = []
        for axis in range(2):
            before, after = _canvas_padding(plane[axis], self._slice_shape[axis])
            sides.append(tf.stack([before + box[axis, 0], plane[axis] - box[axis, 1] + after]))
        return tf.stack(sides)
