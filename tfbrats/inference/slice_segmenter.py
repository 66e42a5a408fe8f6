"""A whole case -> label map, as one TensorFlow graph, for paper A's networks; `cascade_segmenter` is paper B's.

`predict`, the exported SavedModel and the server run all of it: nothing else stitches or fuses. Training's
validation reads the logits as it does; `cascade_segmenter` begins and ends a case as it does.
"""

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from tfbrats.graphs.boxes_graph import uncrop
from tfbrats.graphs.pieces import in_pieces
from tfbrats.graphs.preprocess_graph import cropped
from tfbrats.inference import rules_graph
from tfbrats.inference.answers import answer_of, in_values, label_values
from tfbrats.inference.ensemble import Ensemble, entropy_of
from tfbrats.labels import REGIONS, LabelSchema
from tfbrats.networks import without_training_heads
from tfbrats.tuning.choices import PLAIN, Tuned

_MULTIPLE = 16  # four poolings
_SLICES_AT_ONCE = 8  # bounds the memory of a forward pass
_ANSWERED = {"tissues": tf.TensorSpec([], tf.uint8), "regions": tf.TensorSpec([len(REGIONS)], tf.float32)}


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
        tuned: what was chosen on validation cases.

    Raises:
        InputError: `tuned` chooses what this network does not have.
    """

    def __init__(
        self,
        network: keras.Model | Ensemble,
        modalities: Sequence[str],
        slice_shape: Sequence[int],
        schema: LabelSchema,
        n4_modalities: Sequence[str] = (),
        n4_shrink: int = 1,
        tuned: Tuned = PLAIN,
    ):
        super().__init__()
        self.network = network if isinstance(network, Ensemble) else without_training_heads(network)
        self.answer = answer_of(network)
        self.modalities = tuple(modalities)
        self._slice_shape = tuple(slice_shape)
        self._values = label_values(schema)
        self._n4 = tuple(n4_modalities), n4_shrink
        tuned.check_fits(self.answer.kind, network.name)
        self.tuned = tuned

    @property
    def is_average(self) -> bool:
        """Whether an answer is the mean of several passes."""
        return isinstance(self.network, Ensemble)

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
            entropy: uint8 [I, J, K, 3] of these before pieces and holes; of an `Ensemble` alone.
        """
        image, brain, box, shape = cropped(volumes, self.modalities, *self._n4)
        if self.tuned.is_plain:
            planes = self._on_slices(image, brain, box, shape, self._answers, _ANSWERED)
            tissues, regions = planes["tissues"], planes["regions"]
            undecided = regions
        else:
            evidence = self._evidence(image, brain, box, shape)
            tissues, regions = rules_graph.decide(evidence, self.tuned)
            undecided = rules_graph.undecided(evidence, self.tuned)
        return {
            "segmentation": uncrop(in_values(tissues, self._values), box, shape),
            "probabilities": uncrop(regions, box, shape),
            **({"entropy": uncrop(entropy_of(undecided), box, shape)} if self.is_average else {}),
        }

    def evidence(self, volumes: dict) -> dict:
        """What the network says of a case before anything is decided: the evidence of `tuning.rules`.

        Args:
            volumes: as a whole case's.

        Returns:
            on the grid [i, j, k] of the brain's box: `tissues`, and of a network with branches `odds`, float32,
            both 0 on slices without brain; `brain`, bool. And `box`, int32 [3, 2], and `shape`, int32 [3]:
            which box of which grid that is (`boxes_graph.uncrop`).
        """
        image, brain, box, shape = cropped(volumes, self.modalities, *self._n4)
        return {**self._evidence(image, brain, box, shape), "box": box, "shape": shape}

    def _evidence(self, image, brain, box, shape) -> dict:
        planes = self._on_slices(image, brain, box, shape, self._evidence_of, self.answer.evidence_of)
        return {**planes, "brain": brain}

    def _on_slices(self, image, brain, box, shape, function: Callable, kinds: Mapping) -> dict:
        """A function of slices, over all slices with brain, a few at once.

        Args:
            image, brain, box, shape: of `cropped`.
            function: image [N, h, w, M], brain [N, h, w] and frame of some slices -> name -> [N, h, w, ...].
            kinds: name -> `tf.TensorSpec` of one voxel.

        Returns:
            name -> [i, j, k, ...], 0 on slices without brain.
        """
        # As slices: 140 x 140 x 170 x 4
        image, brain = tf.transpose(image, [2, 0, 1, 3]), tf.transpose(brain, [2, 0, 1])
        frame = self._frame(shape[:2], box)
        # Only slices with brain are run: 155 -> ~140
        with_brain = tf.cast(tf.where(tf.reduce_any(brain, axis=(1, 2)))[:, 0], tf.int32)
        slices, height, width = tf.unstack(tf.shape(brain))
        answers = in_pieces(
            lambda some: function(tf.gather(image, some), tf.gather(brain, some), frame),
            with_brain,
            self._at_once(height, width, frame),
            {name: tf.zeros([0, height, width, *kind.shape], kind.dtype) for name, kind in kinds.items()},
        )
        # Slices without brain are 0, and so is what is outside the box: no value but 0 is background's.
        places = with_brain[:, None]
        planes = {}
        for name, kind in kinds.items():
            plane = tf.scatter_nd(places, answers[name], [slices, height, width, *kind.shape])
            # back to I x J x K
            planes[name] = tf.transpose(plane, [1, 2, 0, *range(3, 3 + kind.shape.rank)])
        return planes

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
        logits = self._logits(image, frame)
        return {"tissues": self.answer.tissues(logits, brain), "regions": self.answer.regions(logits, brain)}

    def _evidence_of(self, image, brain, frame) -> dict:
        """The evidence of some slices; as `_answers`."""
        del brain  # it is looked at where the whole case is decided
        return self.answer.evidence(self._logits(image, frame))

    def _logits(self, image, frame) -> dict:
        """The network's, [N, h, w, C] by name, of slices on their canvas."""
        # batch: 8 x 240 x 240 x 4
        batch = tf.pad(image, tf.pad(frame, [[1, 1], [0, 0]]))
        batch = tf.ensure_shape(batch, [None, None, None, len(self.modalities)])
        logits = self.network(batch, training=False)
        (top, left), (height, width) = tf.unstack(frame[:, 0]), tf.unstack(tf.shape(image)[1:3])
        return {name: plane[:, top : top + height, left : left + width] for name, plane in logits.items()}

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
