"""One training step and one validation step of paper A over a global batch, under any tf.distribute strategy.

Keras' own fit cannot form paper A's loss: a ratio whose two sums run over the global batch, not a mean of
each replica's ratio. So the step is written out; it is short.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfbrats import data, losses, segment
from tfbrats.config import Config
from tfbrats.labels import REGIONS
from tfbrats.models import cun


def batch_weights(batch: dict, config: Config):
    """W of the two U-Nets for this replica's share of the global batch, float32 [N, H, W] each."""
    valid = batch["valid"][:, None, None]
    if not config.lws.enabled:
        everywhere = tf.ones_like(batch["draws"]) * valid
        return everywhere, everywhere
    whole, _ = losses.targets(batch["label"])
    counts = losses.region_counts(batch["region"], whole)
    if config.lws.scope == "batch":  # N_pos and N_S2 are those of the global batch
        counts = sum_over_replicas([tf.reduce_sum(count) for count in counts])
    p2 = losses.sampling_probability(*counts, config.lws.beta, config.lws.floor)
    weights1, weights2 = losses.sample_weights(batch["region"], batch["draws"], p2, config.lws.contour_weight)
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
    return [tf.math.count_nonzero(mask, dtype=tf.float32) for mask in masks]


def dice(both: float, predicted: float, reference: float) -> float:
    """Dice from counts of voxels; 1 where both masks are empty."""
    return 2 * both / (predicted + reference) if predicted + reference else 1.0


def train_step(
    strategy: tf.distribute.Strategy,
    network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    config: Config,
) -> Callable:
    """One update from one global batch: (batch, omega) -> {"loss", "loss1", "loss2", "auxiliary"}.

    Equation 1 is a ratio over the global batch: each replica divides its own numerators by everyone's
    denominators, and the optimizer adds up the gradients. So the numbers do not depend on how many replicas
    share the batch.
    """

    def on_replica(batch, omega):
        weights1, weights2 = batch_weights(batch, config)
        denominators = sum_over_replicas([tf.reduce_sum(weights1), tf.reduce_sum(weights2)])
        with tf.GradientTape() as tape:
            outputs = network(batch["image"], training=True)
            numerators = losses.numerators(
                outputs, cun.UNET1_OUTPUTS, cun.UNET2_OUTPUTS, batch["label"], weights1, weights2
            )
            parts = {
                name: losses.ratio(numerator, denominators[name in cun.UNET2_OUTPUTS])
                for name, numerator in numerators.items()
            }
            decay = config.train.weight_decay * losses.half_squared_norm(_kernels(network))
            # The decay is one term of the whole loss: each replica brings its share of it.
            total = losses.data_loss(parts, cun.BRANCHES, omega) + decay / strategy.num_replicas_in_sync
            scaled = optimizer.scale_loss(total)
        gradients = tape.gradient(scaled, network.trainable_variables)
        apply_gradients(optimizer, gradients, network)
        one, two = (parts[name] for name in cun.BRANCHES)
        return {"loss": total, "loss1": one, "loss2": two, "auxiliary": sum(parts.values()) - one - two}

    @tf.function
    def step(batch, omega):
        shares = strategy.run(on_replica, (batch, omega))
        return {
            name: strategy.reduce(tf.distribute.ReduceOp.SUM, share, axis=None)
            for name, share in shares.items()
        }

    return step


def _kernels(network: keras.Model) -> list:
    return [v.value for v in network.trainable_variables if v.path.endswith("kernel")]


def validation_step(strategy: tf.distribute.Strategy, network: keras.Model, config: Config) -> Callable:
    """Sums over one global batch of validation slices: batch -> float64 vector, for `validation_scores`."""

    def on_replica(batch):
        weights1, weights2 = batch_weights(batch, config)
        logits = network(batch["image"], training=False)
        whole, parts = losses.targets(batch["label"])
        one, two = (logits[name] for name in cun.BRANCHES)
        # The same fusion as prediction; slices of the padding have no brain and count nothing.
        predicted = segment.fuse(one, two, tf.not_equal(batch["region"], 0))
        sums = [
            losses.weighted_cross_entropy_sum(one, whole, weights1),
            tf.reduce_sum(weights1),
            losses.weighted_cross_entropy_sum(two, parts, weights2),
            tf.reduce_sum(weights2),
        ]
        for region in REGIONS:
            sums += overlap(data.region_mask(predicted, region), data.region_mask(parts, region))
        return tf.cast(tf.stack(sums), tf.float64)

    return summed(strategy, on_replica)


def validation_scores(sums: Sequence[float]) -> dict[str, float]:
    """`validation_step`'s sums over all batches -> loss (L1 + L2) and Dice over all slices per region."""
    n1, d1, n2, d2, *counts = (float(value) for value in sums)
    scores = {"validation_loss": n1 / max(d1, 1e-7) + n2 / max(d2, 1e-7)}
    for n, region in enumerate(REGIONS):
        scores[f"dice_{region.lower()}"] = dice(*counts[3 * n : 3 * n + 3])
    return scores
