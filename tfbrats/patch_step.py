"""One training and one validation step of paper B over a global batch, under any tf.distribute strategy."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfbrats import losses
from tfbrats.step import apply_gradients, dice, overlap, sum_over_replicas, summed


def train_step(
    strategy: tf.distribute.Strategy, network: keras.Model, optimizer: keras.optimizers.Optimizer
) -> Callable:
    """One update from one global batch of `patch_data.training`: batch -> {"loss"}.

    The loss is the mean binary cross-entropy over the voxels of the global batch: each replica divides its
    own sum by everyone's count, and the optimizer adds up the gradients.
    """

    def on_replica(batch):
        (voxels,) = sum_over_replicas([_voxels(batch)])
        with tf.GradientTape() as tape:
            logits = network(batch["patch"], training=True)["logits"][..., 0]
            entropy = losses.binary_cross_entropy_sum(logits, batch["target"], batch["valid"])
            loss = losses.ratio(entropy, voxels)
            scaled = optimizer.scale_loss(loss)
        apply_gradients(optimizer, tape.gradient(scaled, network.trainable_variables), network)
        return loss

    @tf.function
    def step(batch):
        shares = strategy.run(on_replica, (batch,))
        return {"loss": strategy.reduce(tf.distribute.ReduceOp.SUM, shares, axis=None)}

    return step


def _voxels(batch: dict):
    """How many voxels count in this replica's share."""
    each = tf.reduce_prod(tf.shape(batch["target"])[1:])
    return tf.reduce_sum(batch["valid"]) * tf.cast(each, tf.float32)


def validation_step(strategy: tf.distribute.Strategy, network: keras.Model) -> Callable:
    """Sums over one global batch of validation patches: batch -> float64 vector, for `validation_scores`."""

    def on_replica(batch):
        logits = network(batch["patch"], training=False)["logits"][..., 0]
        counts = batch["valid"][:, None, None, None] > 0
        predicted = (logits >= 0) & counts  # a probability of one half and above, as the cascade counts it
        reference = (batch["target"] > 0) & counts
        sums = [losses.binary_cross_entropy_sum(logits, batch["target"], batch["valid"]), _voxels(batch)]
        sums += overlap(predicted, reference)
        return tf.cast(tf.stack(sums), tf.float64)

    return summed(strategy, on_replica)


def validation_scores(sums: Sequence[float]) -> dict[str, float]:
    """`validation_step`'s sums over all batches -> loss (a voxel's) and Dice over all patches."""
    entropy, voxels, *counts = (float(value) for value in sums)
    return {"validation_loss": entropy / max(voxels, 1.0), "dice": dice(*counts)}
