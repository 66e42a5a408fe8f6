"""From a network's outputs to tissues, regions, probabilities and the label values to write."""

import functools
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from tfbrats.errors import InputError
from tfbrats.labels import LEARNED, LEARNED_OF, REGIONS, LabelSchema, Tissue
from tfbrats.networks import cun


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


# A plane a class: along a last axis of three, TensorFlow's own softmax of 144 slices of 240 x 240 took 0.29 s
# on two cores, these 0.05 s; argmax 0.17 s.


def _channels(logits) -> list:
    """[..., C] -> float32 [...] for each class."""
    return tf.unstack(tf.cast(logits, tf.float32), axis=-1)


def _likeliest(classes: Sequence):
    """Index of the largest finite number at each voxel, the first of equal ones, as `argmax` has it: uint8."""
    likeliest, best = tf.zeros_like(classes[0], tf.uint8), classes[0]
    for index, plane in enumerate(classes[1:], 1):
        likeliest = tf.where(plane > best, tf.constant(index, tf.uint8), likeliest)
        best = tf.maximum(plane, best)
    return likeliest


def _softmax(classes: Sequence) -> list:
    """Logits [...] for each class -> its probability, as a list again."""
    most = functools.reduce(tf.maximum, classes)
    powers = [tf.exp(plane - most) for plane in classes]
    total = tf.add_n(powers)
    return [power / total for power in powers]


def _in_brain(planes: Sequence, brain):
    """[...] each -> float32 [..., n], 0 outside the brain."""
    return tf.stack([tf.where(brain, plane, 0.0) for plane in planes], axis=-1)


class BranchAnswer:
    """How the logits of the cascaded U-Net's two branches are read.

    Attributes:
        classes: output of the bare network -> its classes.
        kind: of the evidence, by `tuning.rules`.
        evidence_of: its arrays -> what they hold at each voxel.
    """

    kind = "branches"
    evidence_of: Mapping[str, tf.TensorSpec] = {
        "odds": tf.TensorSpec([], tf.float32),
        "tissues": tf.TensorSpec([4], tf.float32),
    }
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

    def evidence(self, logits: Mapping) -> dict:
        """What `tuning.rules` decides by, [N, H, W, ...]."""
        rest, tumour = _channels(logits["branch1_logits"])
        tissues = tf.stack(_softmax(_channels(logits["branch2_logits"])), axis=-1)
        return {"odds": tumour - rest, "tissues": tissues}


class ClassAnswer:
    """How the four-class logits of a baseline are read: the likeliest class, nothing outside the brain."""

    kind = "classes"
    evidence_of: Mapping[str, tf.TensorSpec] = {"tissues": tf.TensorSpec([4], tf.float32)}
    classes: Mapping[str, tuple[str, ...]] = {"classes": ("non-tumour", "NCR", "ED", "ET")}

    def probabilities(self, logits: Mapping) -> dict:
        """As `BranchAnswer`'s."""
        return {"classes": tf.stack(_softmax(_channels(logits["logits"])), axis=-1)}

    def tissues(self, logits: Mapping, brain):
        """As `BranchAnswer`'s."""
        return tf.where(brain, _likeliest(_channels(logits["logits"])), tf.constant(0, tf.uint8))

    def regions(self, logits: Mapping, brain):
        """As `BranchAnswer`'s; a region's is the sum of its tissues', so that ET <= TC <= WT."""
        shares = _softmax(_channels(logits["logits"]))
        sums = [tf.add_n([shares[tissue] for tissue in tissues]) for tissues in LEARNED_OF.values()]
        return _in_brain(sums, brain)

    def evidence(self, logits: Mapping) -> dict:
        """As `BranchAnswer`'s."""
        return {"tissues": self.probabilities(logits)["classes"]}


def answer_of(network: keras.Model) -> BranchAnswer | ClassAnswer:
    """How the network's logits are read, by the names of its outputs."""
    return ClassAnswer() if "logits" in network.output else BranchAnswer()


def label_values(schema: LabelSchema) -> list[int]:
    """The schema's values of background, NCR, ED and ET: at index `Tissue`, what to write for it.

    Raises:
        InputError: the schema lacks one of them.
    """
    value_of = schema.value_of_tissue
    missing = [tissue.name for tissue in LEARNED if tissue not in value_of]
    if missing:
        raise InputError(
            f"the labels of {schema.edition} have no value for {', '.join(missing)}. Choose those of an "
            "edition with --edition."
        )
    return [value_of[tissue] for tissue in (Tissue.BACKGROUND, *LEARNED)]


def in_values(tissues, values: Sequence[int]):
    """Tissues of any shape, uint8, as the values to write, of `label_values`."""
    written = tf.zeros_like(tissues) + tf.constant(values[0], tf.uint8)
    for tissue, value in enumerate(values[1:], 1):  # a table would do, but a GPU looks up no uint8
        written = tf.where(tf.equal(tissues, tissue), tf.constant(value, tf.uint8), written)
    return written


def region_mask(tissues, region: str):
    """The twin of `labels.region_mask` in the graph: integer tissues of any shape -> bool."""
    masks = [tf.equal(tissues, int(tissue)) for tissue in REGIONS[region]]
    return functools.reduce(tf.logical_or, masks)  # twenty times as fast as reduce_any over all of them
