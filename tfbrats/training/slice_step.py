"""One training step and one validation step of paper A's networks, under any tf.distribute strategy.

Keras' own fit cannot form paper A's loss: a ratio whose two sums run over the global batch, not a mean of
each replica's ratio. So the step is written out; it is short.
"""

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from tfbrats.config import SliceConfig
from tfbrats.distribution.replicas import (
    apply_gradients,
    dice,
    half_squared_norm,
    kernels,
    mean_dice,
    overlap,
    overlap_of_cases,
    sum_over_replicas,
    summed,
)
from tfbrats.inference import answers
from tfbrats.labels import REGIONS
from tfbrats.networks import losses
from tfbrats.training.lessons import LESSONS, entropy


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
    loss = LESSONS[config.model.name](config)
    answer = answers.answer_of(network)

    def on_replica(batch, omega):
        lessons = loss.lessons(batch)
        denominators = sum_over_replicas([tf.reduce_sum(lesson.weights) for lesson in lessons])
        with tf.GradientTape() as tape:
            outputs = network(batch["image"], training=True)
            each = {
                name: losses.ratio(entropy(outputs[name], lesson), denominator)
                for lesson, denominator in zip(lessons, denominators, strict=True)
                for name in lesson.outputs
                if name in outputs  # cun learns without its auxiliary heads too
            }
            decay = config.train.weight_decay * half_squared_norm(kernels(network))
            # The decay is one term of the whole loss: each replica brings its share of it.
            total = loss.total(each, omega) + decay / strategy.num_replicas_in_sync
            scaled = optimizer.scale_loss(total)
        gradients = tape.gradient(scaled, network.trainable_variables)
        apply_gradients(optimizer, gradients, network)
        counts = {**_overlaps(answer, outputs, batch), **loss.sampled(batch, lessons)}
        return {"loss": total, **loss.columns(each), **counts}

    @tf.function(jit_compile=config.train.jit_compile or None, autograph=False)
    def step(batch, omega):
        shares = strategy.run(on_replica, (batch, omega))
        return {
            name: strategy.reduce(tf.distribute.ReduceOp.SUM, share, axis=None)
            for name, share in shares.items()
        }

    return step


def _overlaps(answer: answers.BranchAnswer | answers.ClassAnswer, logits: Mapping, batch: dict) -> dict:
    """`overlap` of each region, by name: "overlap_wt_both" and so on."""
    overlaps = {}
    for region, masks in _masks(answer, logits, batch).items():
        for what, count in zip(("both", "predicted", "reference"), overlap(*masks), strict=True):
            overlaps[f"overlap_{region.lower()}_{what}"] = count
    return overlaps


def _masks(answer: answers.BranchAnswer | answers.ClassAnswer, logits: Mapping, batch: dict) -> dict:
    """Region -> what is predicted and the reference, bool [N, H, W] each."""
    # The same fusion as prediction; slices of the padding have no brain and count nothing.
    predicted = answer.tissues(logits, tf.not_equal(batch["region"], 0))
    _, parts = losses.targets(batch["label"])
    return {
        region: (answers.region_mask(predicted, region), answers.region_mask(parts, region))
        for region in REGIONS
    }


def validation_step(
    strategy: tf.distribute.Strategy, network: keras.Model, config: SliceConfig, cases: int = 0
) -> Callable:
    """Sums over one global batch of validation slices: batch -> float64 vector, for `weighed`.

    The loss is that of the outputs which a case is segmented from: cun's two branches, bfcn's combination.

    Args:
        cases: of the split, where their Dice is wanted too; then the batches have `case`.
    """
    loss = LESSONS[config.model.name](config)
    answer = answers.answer_of(network)

    def on_replica(batch):
        logits = network(batch["image"], training=False)
        sums = []
        for lesson in loss.validation_lessons(batch):
            for name in lesson.outputs:
                if name in loss.predicting:
                    sums += [entropy(logits[name], lesson), tf.reduce_sum(lesson.weights)]
        sums += loss.counted(batch)
        sums += _overlaps(answer, logits, batch).values()
        sums = tf.stack(sums)
        for masks in _masks(answer, logits, batch).values() if cases else ():
            of_cases = overlap_of_cases(*masks, batch["case"], cases)
            sums = tf.concat([sums, tf.reshape(of_cases, [-1])], axis=0)
        return tf.cast(sums, tf.float64)

    return summed(strategy, on_replica)


def weighed(sums: Sequence[float], config: SliceConfig, cases: int = 0) -> tuple[list[float], list[float]]:
    """`validation_step`'s sums over all batches -> what `validation_scores` takes, and the cases' counts."""
    values, count = [float(value) for value in sums], 3 * len(REGIONS) * cases
    values, of_cases = values[: len(values) - count], values[len(values) - count :]
    return LESSONS[config.model.name](config).fractions(values), of_cases


def case_scores(of_cases: Sequence[float]) -> dict[str, float]:
    """The cases' counts of `weighed` -> the mean over the cases of their volumes' Dice, by region.

    Dice of a volume needs no volume: its voxels are counted slice by slice.
    """
    each = len(of_cases) // len(REGIONS)
    return {
        f"case_dice_{region.lower()}": mean_dice(of_cases[n * each : (n + 1) * each])
        for n, region in enumerate(REGIONS)
        if each
    }


def validation_scores(sums: Sequence[float]) -> dict[str, float]:
    """The sums over all batches -> loss (L1 + L2 for cun) and Dice over all slices.

    Args:
        sums: numerator and denominator of each loss, then `overlap` of each region.
    """
    values = [float(value) for value in sums]
    fractions, counts = values[: -3 * len(REGIONS)], values[-3 * len(REGIONS) :]
    numerators, denominators = fractions[::2], fractions[1::2]
    scores = {"validation_loss": sum(n / max(d, 1e-7) for n, d in zip(numerators, denominators, strict=True))}
    for n, region in enumerate(REGIONS):
        scores[f"dice_{region.lower()}"] = dice(*counts[3 * n : 3 * n + 3])
    return scores
