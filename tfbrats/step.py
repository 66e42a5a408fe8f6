"""One training step and one validation step of paper A's networks, under any tf.distribute strategy.

Keras' own fit cannot form paper A's loss: a ratio whose two sums run over the global batch, not a mean of
each replica's ratio. So the step is written out; it is short.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from tfbrats import data, losses, segment
from tfbrats.config import SliceConfig
from tfbrats.examples import LwsRegion
from tfbrats.labels import REGIONS
from tfbrats.models import cun


def batch_weights(batch: dict, config: SliceConfig):
    """W of the two U-Nets for this replica's share of the global batch, float32 [N, H, W] each."""
    if not config.lws.enabled:
        return _everywhere(batch), _everywhere(batch)
    whole, _ = losses.targets(batch["label"])
    counts = losses.region_counts(batch["region"], whole)
    if config.lws.scope == "batch":  # N_pos and N_S2 are those of the global batch
        counts = sum_over_replicas([tf.reduce_sum(count) for count in counts])
    p2 = losses.sampling_probability(*counts, config.lws.beta, config.lws.floor)
    weights1, weights2 = losses.sample_weights(batch["region"], batch["draws"], p2, config.lws.contour_weight)
    valid = batch["valid"][:, None, None]
    return weights1 * valid, weights2 * valid


def sum_over_replicas(tensors: Sequence) -> list:
    """Each tensor summed over all replicas; in the replica context."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(tensors))


def apply_gradients(optimizer: keras.optimizers.Optimizer, gradients: Sequence, network: keras.Model) -> None:
    """The optimizer's update from this replica's share of the gradients; in the replica context."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # Keras asks one replica alone whether its gradients are finite: give all the same answer.
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        (unsound,) = sum_over_replicas([tf.cast(~finite, tf.float32)])
        gradients = [g + tf.where(unsound > 0, float("inf"), 0.0) for g in gradients]
    optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))


def summed(strategy: tf.distribute.Strategy, on_replica: Callable) -> Callable:
    """A step that sums over all replicas what `on_replica` makes of its share of a batch."""

    @tf.function
    def step(batch):
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(on_replica, (batch,)), axis=None)

    return step


def overlap(predicted, reference) -> list:
    """What `dice` wants of two bool masks of one shape: voxels in both, in each of them; float32."""
    masks = (predicted & reference, predicted, reference)
    return [_count(mask) for mask in masks]


def _count(mask):
    return tf.math.count_nonzero(mask, dtype=tf.float32)


def dice(both: float, predicted: float, reference: float) -> float:
    """Dice from counts of voxels; 1 where both masks are empty."""
    return 2 * both / (predicted + reference) if predicted + reference else 1.0


# --- what the networks learn ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What some outputs learn from a replica's share of a batch: eq. 1's terms but the prediction."""

    outputs: Sequence[str]
    classes: tf.Tensor  # integers [N, H, W]
    weights: tf.Tensor  # W, float32 [N, H, W]


_SAMPLED = {"normal": LwsRegion.S2, "tumour": LwsRegion.S3, "contour": LwsRegion.S4}


class _CascadeLoss:
    """The cascaded U-Net: L1 + L2 + omega * (the eight auxiliary losses); validation is by L1 + L2."""

    predicting = cun.BRANCHES

    def __init__(self, config: SliceConfig):
        self._config = config

    def lessons(self, batch: dict) -> list[Lesson]:
        weights1, weights2 = batch_weights(batch, self._config)
        whole, parts = losses.targets(batch["label"])
        return [Lesson(cun.UNET1_OUTPUTS, whole, weights1), Lesson(cun.UNET2_OUTPUTS, parts, weights2)]

    def total(self, each: Mapping, omega):
        """One loss from those of all outputs."""
        return losses.data_loss(each, self.predicting, omega)

    def columns(self, each: Mapping) -> dict:
        """What of them the history tells, beside "loss"."""
        one, two = (each[name] for name in self.predicting)
        others = [loss for name, loss in each.items() if name not in self.predicting]
        return {"loss1": one, "loss2": two, "auxiliary": sum(others, tf.constant(0.0))}

    def sampled(self, batch: dict, lessons: Sequence[Lesson]) -> dict:
        """How many pixels of each region U-Net1 learns from; nothing where that is all of them."""
        if not self._config.lws.enabled:
            return {}
        counts = lessons[0].weights > 0
        return {
            f"sampled_{name}": _count(counts & tf.equal(batch["region"], int(region)))
            for name, region in _SAMPLED.items()
        }


class _ClassLoss:
    """The baselines: cross-entropy of the four classes, every pixel of the canvas alike. omega is not used."""

    predicting = ("logits",)

    def __init__(self, config: SliceConfig):
        self._config = config

    def lessons(self, batch: dict) -> list[Lesson]:
        _, parts = losses.targets(batch["label"])
        return [Lesson(self.predicting, parts, _everywhere(batch))]

    def total(self, each: Mapping, omega):
        return each["logits"]

    def columns(self, each: Mapping) -> dict:
        return {}

    def sampled(self, batch: dict, lessons: Sequence[Lesson]) -> dict:
        return {}


class _BoundaryLoss(_ClassLoss):
    """BFCN: the same for the combination and the region branch, and outlines for the boundary branch."""

    def lessons(self, batch: dict) -> list[Lesson]:
        boundary, everywhere = self._config.boundary, _everywhere(batch)
        _, parts = losses.targets(batch["label"])
        line, weights = losses.outlines(batch["label"], boundary.width_px), everywhere
        if boundary.balanced:  # the frequency is that of the global batch
            on_line = tf.cast(line, tf.float32) * everywhere
            counts = sum_over_replicas([tf.reduce_sum(on_line), tf.reduce_sum(everywhere)])
            weights = losses.balancing_weights(line, everywhere, *counts)
        return [
            Lesson(("logits", "region_logits"), parts, everywhere),
            Lesson(("boundary_logits",), line, weights),
        ]

    def total(self, each: Mapping, omega):
        boundary = self._config.boundary
        return (
            each["logits"]
            + boundary.region_weight * each["region_logits"]
            + boundary.boundary_weight * each["boundary_logits"]
        )

    def columns(self, each: Mapping) -> dict:
        return {
            "loss_combination": each["logits"],
            "loss_region": each["region_logits"],
            "loss_boundary": each["boundary_logits"],
        }


_LOSSES = {"cun": _CascadeLoss, "unet2d": _ClassLoss, "bfcn": _BoundaryLoss, "drn": _ClassLoss}


def _everywhere(batch: dict):
    """W = 1 on all pixels of what is no filling, float32 [N, H, W]."""
    return tf.ones_like(batch["draws"]) * batch["valid"][:, None, None]


# --- steps ----------------------------------------------------------------------------------------------


def train_step(
    strategy: tf.distribute.Strategy,
    network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    config: SliceConfig,
) -> Callable:
    """One update from one global batch: (batch, omega) -> sums over it, float32 by name.

    "loss" and what it is made of: for cun "loss1", "loss2" and "auxiliary", for bfcn "loss_combination",
    "loss_region", "loss_boundary". For `dice` of each region "overlap_wt_both", "overlap_wt_predicted",
    "overlap_wt_reference" and so on, of the network in training. With loss weighted sampling the pixels that
    U-Net1 learns from: "sampled_normal", "sampled_tumour", "sampled_contour" (S2, S3, S4).

    Equation 1 is a ratio over the global batch: each replica divides its own numerators by everyone's
    denominators, and the optimizer adds up the gradients. So the numbers do not depend on how many replicas
    share the batch.
    """
    loss = _LOSSES[config.model.name](config)
    answer = segment.answer_of(network)

    def on_replica(batch, omega):
        lessons = loss.lessons(batch)
        denominators = sum_over_replicas([tf.reduce_sum(lesson.weights) for lesson in lessons])
        with tf.GradientTape() as tape:
            outputs = network(batch["image"], training=True)
            each = {
                name: losses.ratio(_entropy(outputs[name], lesson), denominator)
                for lesson, denominator in zip(lessons, denominators, strict=True)
                for name in lesson.outputs
                if name in outputs  # cun learns without its auxiliary heads too
            }
            decay = config.train.weight_decay * half_squared_norm(_kernels(network))
            # The decay is one term of the whole loss: each replica brings its share of it.
            total = loss.total(each, omega) + decay / strategy.num_replicas_in_sync
            scaled = optimizer.scale_loss(total)
        gradients = tape.gradient(scaled, network.trainable_variables)
        apply_gradients(optimizer, gradients, network)
        counts = {**_overlaps(answer, outputs, batch), **loss.sampled(batch, lessons)}
        return {"loss": total, **loss.columns(each), **counts}

    @tf.function(jit_compile=config.train.jit_compile or None)
    def step(batch, omega):
        shares = strategy.run(on_replica, (batch, omega))
        return {
            name: strategy.reduce(tf.distribute.ReduceOp.SUM, share, axis=None)
            for name, share in shares.items()
        }

    return step


def _entropy(logits, lesson: Lesson):
    """The numerator of eq. 1."""
    return losses.weighted_cross_entropy_sum(logits, lesson.classes, lesson.weights)


def _overlaps(answer: segment.BranchAnswer | segment.ClassAnswer, logits: Mapping, batch: dict) -> dict:
    """`overlap` of each region, by name."""
    # The same fusion as prediction; slices of the padding have no brain and count nothing.
    predicted = answer.tissues(logits, tf.not_equal(batch["region"], 0))
    _, parts = losses.targets(batch["label"])
    found = {}
    for region in REGIONS:
        counts = overlap(data.region_mask(predicted, region), data.region_mask(parts, region))
        for what, count in zip(("both", "predicted", "reference"), counts, strict=True):
            found[f"overlap_{region.lower()}_{what}"] = count
    return found


def half_squared_norm(kernels: Sequence):
    """Eq. 4's psi: half the sum of squares of the kernels, so that its gradient is the kernels themselves.

    By an operation of TensorFlow's own, whose gradient is one product: squares and sums cost a step 3 % more.
    """
    return tf.add_n([tf.nn.l2_loss(tf.cast(kernel, tf.float32)) for kernel in kernels])


def _kernels(network: keras.Model) -> list:
    return [v.value for v in network.trainable_variables if v.path.endswith("kernel")]


def validation_step(strategy: tf.distribute.Strategy, network: keras.Model, config: SliceConfig) -> Callable:
    """Sums over one global batch of validation slices: batch -> float64 vector, for `validation_scores`.

    The loss is that of the outputs which a case is segmented from: cun's two branches, bfcn's combination.
    """
    loss = _LOSSES[config.model.name](config)
    answer = segment.answer_of(network)

    def on_replica(batch):
        logits = network(batch["image"], training=False)
        sums = []
        for lesson in loss.lessons(batch):
            for name in lesson.outputs:
                if name in loss.predicting:
                    sums += [_entropy(logits[name], lesson), tf.reduce_sum(lesson.weights)]
        sums += _overlaps(answer, logits, batch).values()
        return tf.cast(tf.stack(sums), tf.float64)

    return summed(strategy, on_replica)


def validation_scores(sums: Sequence[float]) -> dict[str, float]:
    """`validation_step`'s sums over all batches -> loss (L1 + L2 for cun) and Dice over all slices."""
    values = [float(value) for value in sums]
    fractions, counts = values[: -3 * len(REGIONS)], values[-3 * len(REGIONS) :]
    numerators, denominators = fractions[::2], fractions[1::2]
    scores = {"validation_loss": sum(n / max(d, 1e-7) for n, d in zip(numerators, denominators, strict=True))}
    for n, region in enumerate(REGIONS):
        scores[f"dice_{region.lower()}"] = dice(*counts[3 * n : 3 * n + 3])
    return scores
