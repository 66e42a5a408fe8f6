"""A whole case -> label map, as one TensorFlow graph, for paper A's networks; `cascade` is paper B's.

`predict`, the exported SavedModel and the server run all of it: nothing else stitches or fuses. Training's
validation reads the logits as it does; `cascade` begins and ends a case as it does.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from tfbrats.boxes_graph import box_of, inside, placed
from tfbrats.command import InputError
from tfbrats.labels import LEARNED, LEARNED_OF, REGIONS, LabelSchema, Tissue
from tfbrats.models import cun, without_training_heads
from tfbrats.packing import LONGEST_SIDE, MOST_VOXELS

_MULTIPLE = 16  # four poolings
_SLICES_AT_ONCE = 8  # bounds the memory of a forward pass
MOST_CASES = 64  # of one call: little is sent to claim many, and each takes its time


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
    rest, tumour = _channels(branch1)
    whole = tf.logical_and(tumour > rest, brain)
    return tf.where(whole, 1 + _likeliest(_channels(branch2)[1:]), tf.constant(0, tf.uint8))


def region_probabilities(branch1_logits, branch2_logits, brain):
    """Probability of WT, TC and ET at each voxel, float32 [..., 3].

    WT is branch 1's; a part's is WT's times its share among branch 2's three tumour classes, so that
    ET <= TC <= WT everywhere ([ours]).
    """
    _, whole = _softmax(_channels(branch1_logits))
    shares = _softmax(_channels(branch2_logits)[1:])
    regions = [whole * tf.add_n([shares[tissue - 1] for tissue in LEARNED_OF[name]]) for name in ("TC", "ET")]
    return _in_brain([whole, *regions], brain)


# A plane a class: along a last axis of three, TensorFlow's own softmax of 144 slices of 240 x 240 took .29 s on
# two cores, these .05 s; argmax .17 s.


def _channels(logits) -> list:
    return tf.unstack(tf.cast(logits, tf.float32), axis=-1)


def _likeliest(classes: Sequence):
    """Index of the largest finite number at each voxel, the first of equal ones, as `argmax` has it: uint8."""
    found, best = tf.zeros_like(classes[0], tf.uint8), classes[0]
    for index, one in enumerate(classes[1:], 1):
        found = tf.where(one > best, tf.constant(index, tf.uint8), found)
        best = tf.maximum(one, best)
    return found


def _softmax(classes: Sequence) -> list:
    most = functools.reduce(tf.maximum, classes)
    powers = [tf.exp(one - most) for one in classes]
    total = tf.add_n(powers)
    return [power / total for power in powers]


def _in_brain(planes: Sequence, brain):
    """[...] each -> float32 [..., n], 0 outside the brain."""
    return tf.stack([tf.where(brain, plane, 0.0) for plane in planes], axis=-1)


class BranchAnswer:
    """How the logits of the cascaded U-Net's two branches are read."""

    classes: Mapping[str, tuple[str, ...]] = {
        "branch1": ("rest", "WT"),
        "branch2": ("non-tumour", "NCR", "ED", "ET"),
    }

    def probabilities(self, logits: Mapping) -> dict:
        """Of each class, [N, H, W, C], by the names of `classes`."""
        return {name: tf.stack(_softmax(_channels(logits[f"{name}_logits"])), axis=-1) for name in self.classes}

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
        return {"classes": tf.stack(_softmax(_channels(logits["logits"])), axis=-1)}

    def tissues(self, logits: Mapping, brain):
        """As `BranchAnswer`'s."""
        return tf.where(brain, _likeliest(_channels(logits["logits"])), tf.constant(0, tf.uint8))

    def regions(self, logits: Mapping, brain):
        """As `BranchAnswer`'s; a region's is the sum of its tissues', so that ET <= TC <= WT."""
        each = _softmax(_channels(logits["logits"]))
        sums = [tf.add_n([each[tissue] for tissue in tissues]) for tissues in LEARNED_OF.values()]
        return _in_brain(sums, brain)


def answer_of(network: keras.Model) -> BranchAnswer | ClassAnswer:
    """How the network's logits are read, by the names of its outputs."""
    return ClassAnswer() if "logits" in network.output else BranchAnswer()


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

    def one(volumes):
        found = function(volumes)
        return {name: found[name] for name in outputs}

    return tf.map_fn(one, volumes, fn_output_signature=dict(outputs), parallel_iterations=1)


def in_pieces(function: Callable, batch, at_once, nothing: Mapping) -> dict:
    """A function of a batch, `at_once` examples after `at_once`: however many come, memory is bounded.

    Args:
        function: batch [n, ...] -> {name: [n, ...]}.
        at_once: int or int32 [].
        nothing: name -> [0, ...], what comes out for no example.
    """
    count = tf.shape(batch)[0]
    pieces = -(-count // at_once)
    found = {
        name: tf.TensorArray(one.dtype, pieces, element_shape=[None, *one.shape[1:]], infer_shape=False)
        for name, one in nothing.items()
    }

    def piece(n, found):
        answer = function(batch[n * at_once : (n + 1) * at_once])
        return n + 1, {name: array.write(n, answer[name]) for name, array in found.items()}

    _, found = tf.while_loop(lambda n, _: n < pieces, piece, (0, found), parallel_iterations=1)
    return tf.cond(count > 0, lambda: {name: array.concat() for name, array in found.items()}, lambda: nothing)


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


def _sum(array):
    """Over i, j and k of float32 [I, J, K, M]: float64 [M]. Line by line: one sum of millions loses digits."""
    return tf.reduce_sum(tf.cast(tf.reduce_sum(array, axis=2), tf.float64), axis=(0, 1))


def normalise(image):
    """Brain mask and z-score, as `preprocess.brain_mask` and `preprocess.z_score` do it in numpy.

    Args:
        image: float32 [I, J, K, M], as the scanner or N4 gave it.

    Returns:
        z-scored image, 0 outside the brain, and the brain, bool [I, J, K].
    """
    brain = tf.reduce_any(image != 0, axis=-1)
    weight = tf.cast(brain, tf.float32)[..., None]
    count = tf.maximum(_sum(weight), 1.0)
    mean = tf.cast(_sum(image) / count, tf.float32)  # outside the brain the image is 0
    deviation = tf.cast(tf.sqrt(_sum(tf.square(image - mean) * weight) / count), tf.float32)
    # As in preprocess.statistics: rounding leaves a trace of deviation in what is constant.
    deviation = tf.where(deviation > 1e-6 * tf.abs(mean), deviation, 1.0)
    return tf.where(brain[..., None], (image - mean) / deviation, 0.0), brain


def prepared(volumes: Mapping, modalities: Sequence[str]) -> tuple:
    """How every case begins: bounded, stacked, cut to the brain's box, checked for numbers and normalised.

    Args:
        volumes: modality -> [I, J, K] of any size, int16 or float32.
        modalities: names and order of the image's channels.

    Returns:
        image float32 [i, j, k, M] and brain bool [i, j, k] as `normalise` gives them, their box int32 [3, 2],
        and the whole shape, int32 [3].

    Raises:
        tf.errors.InvalidArgumentError: as `bounded` and `finite`.
    """
    volumes = bounded(volumes)
    # image: 240 x 240 x 155 x 4
    image = tf.stack([tf.cast(volumes[name], tf.float32) for name in modalities], axis=-1)
    shape = tf.shape(image)[:3]
    box = box_of(tf.reduce_any(image != 0, axis=-1))
    # cropped: ~140 x 170 x 140 x 4; the rest is 0, so what is no number lies in it
    return *normalise(finite(inside(image, box))), box, shape


def label_values(schema: LabelSchema) -> list[int]:
    """The schema's values of background, NCR, ED and ET: at index `Tissue`, what to write for it.

    Raises:
        InputError: the schema lacks one of them.
    """
    known = schema.value_of_tissue
    missing = [tissue.name for tissue in LEARNED if tissue not in known]
    if missing:
        raise InputError(
            f"the labels of {schema.edition} have no value for {', '.join(missing)}. Choose those of an "
            "edition with --edition."
        )
    return [known[tissue] for tissue in (Tissue.BACKGROUND, *LEARNED)]


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
        tissues = placed(tf.transpose(tissues, [1, 2, 0]), box, shape)
        return {
            "segmentation": tf.gather(tf.constant(self._values, tf.uint8), tf.cast(tissues, tf.int32)),
            "probabilities": placed(tf.transpose(probabilities, [1, 2, 0, 3]), box, shape),
        }

    def _frame(self, plane, box):
        """Voxels before and after the box's two first sides that the canvas of a plane has: int32 [2, 2]."""
        sides = []
        for axis in range(2):
            before, after = _canvas_padding(plane[axis], self._slice_shape[axis])
            sides.append(tf.stack([before + box[axis, 0], plane[axis] - box[axis, 1] + after]))
        return tf.stack(sides)
