"""One training and one validation step of paper B over a global batch, under any tf.distribute strategy."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfbrats.distribution.replicas import (
    apply_gradients,
    dice,
    mean_dice,
    overlap,
    overlap_of_cases,
    sum_over_replicas,
    summed,
)
from tfbrats.inference.scales import network_input
from tfbrats.networks import losses


def train_step(
    strategy: tf.distribute.Strategy,
    network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    jit_compile: bool = False,
) -> Callable:
    """One update from one global batch of `patch_stream.training`: batch -> sums over all replicas, float32.

    "loss" is the mean binary cross-entropy over the voxels of the global batch: each replica divides its own
    sum by everyone's count, and the optimizer adds up the gradients. "overlap_both", "overlap_predicted" and
    "overlap_reference" are voxels of this batch, before the update, for `dice`.

    Args:
        jit_compile: the whole step through XLA; not on several devices (`devices.strategy_for`).
    """

    def on_replica(batch):
        (voxels,) = sum_over_replicas([_voxels(batch)])
        with tf.GradientTape() as tape:
            logits = network(network_input(batch), training=True)["logits"][..., 0]
            entropy = losses.binary_cross_entropy_sum(logits, batch["target"], batch["valid"])
            loss = losses.ratio(entropy, voxels)
            scaled = optimizer.scale_loss(loss)
        apply_gradients(optimizer, tape.gradient(scaled, network.trainable_variables), network)
        counts = zip(("both", "predicted", "reference"), _overlap(logits, batch), strict=True)
        return {"loss": loss, **{f"overlap_{name}": count for name, count in counts}}

    @tf.function(jit_compile=jit_compile or None, autograph=False)
    def step(batch):
        shares = strategy.run(on_replica, (batch,))
        return {
            name: strategy.reduce(tf.distribute.ReduceOp.SUM, share, axis=None)
            for name, share in shares.items()
        }

    return step


def _overlap(logits, batch: dict) -> list:
    """`overlap` of what is predicted with the target."""
    return overlap(*_masks(logits, batch))


def _masks(logits, batch: dict) -> tuple:
    """What is predicted, and the target, without the filling: bool [N, S, S, S] each."""
    counts = batch["valid"][:, None, None, None] > 0
    # A probability of one half and above, as the cascade counts it.
    return (logits >= 0) & counts, (batch["target"] > 0) & counts


def _voxels(batch: dict):
    """How many voxels count in this replica's share."""
    each = tf.reduce_prod(tf.shape(batch["target"])[1:])
    return tf.reduce_sum(batch["valid"]) * tf.cast(each, tf.float32)


def validation_step(strategy: tf.distribute.Strategy, network: keras.Model, cases: int = 0) -> Callable:
    """Sums over one global batch of validation patches: batch -> float64 vector, for `validation_scores`.

    Args:
        cases: of the split, where their Dice is wanted too; then the batches have `case`.
    """

    def on_replica(batch):
        logits = network(network_input(batch), training=False)["logits"][..., 0]
        sums = [losses.binary_cross_entropy_sum(logits, batch["target"], batch["valid"]), _voxels(batch)]
        sums += _overlap(logits, batch)
        sums = tf.stack(sums)
        if cases:
            of_cases = overlap_of_cases(*_masks(logits, batch), batch["case"], cases)
            sums = tf.concat([sums, tf.reshape(of_cases, [-1])], axis=0)
        return tf.cast(sums, tf.float64)

    return summed(strategy, on_replica)


def validation_scores(sums: Sequence[float]) -> dict[str, float]:
    """`validation_step`'s sums over all batches -> loss (a voxel's) and Dice over all patches.

    With cases, `case_dice` too: the mean over them of the Dice of all patches of a case together. Patches are
    no whole volume: they overlap, and every second one is centred on the region.
    """
    entropy, voxels, *counts = (float(value) for value in sums)
    scores = {"validation_loss": entropy / max(voxels, 1.0), "dice": dice(*counts[:3])}
    return {**scores, "case_dice": mean_dice(counts[3:])} if counts[3:] else scores
