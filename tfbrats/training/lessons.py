"""What each slice network learns from a batch: outputs, classes and weights; and how its losses become one.

`slice_step` asks the three classes below the same questions: which lessons a batch holds, the total of their
losses, the columns of the history.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf

from tfbrats.config import SliceConfig
from tfbrats.distribution.replicas import count, sum_over_replicas
from tfbrats.labels import LwsRegion
from tfbrats.networks import cun, losses

_SAMPLED = {"normal": LwsRegion.S2, "tumour": LwsRegion.S3, "contour": LwsRegion.S4}


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What some outputs learn from a replica's share of a batch: eq. 1's terms but the prediction."""

    outputs: Sequence[str]
    classes: tf.Tensor  # integers [N, H, W]
    weights: tf.Tensor  # W, float32 [N, H, W]


class _CascadeLoss:
    """The cascaded U-Net: L1 + L2 + omega * (the eight auxiliary losses); validation is by L1 + L2."""

    predicting = cun.BRANCHES

    def __init__(self, config: SliceConfig):
        self._config = config

    def lessons(self, batch: dict) -> list[Lesson]:
        weights1, weights2 = batch_weights(batch, self._config)
        whole, parts = losses.targets(batch["label"])
        return [Lesson(cun.UNET1_OUTPUTS, whole, weights1), Lesson(cun.UNET2_OUTPUTS, parts, weights2)]

    def validation_lessons(self, batch: dict) -> list[Lesson]:
        """The same; or, with p2 from the whole split, all normal pixels of U-Net1 and its other pixels apart.

        What p2 is, is known when all slices have been seen: `fractions` weighs the normal pixels then, each by
        p2 itself, which is what its weight is on average when it is drawn.
        """
        if not self._weighs_later:
            return self.lessons(batch)
        whole, parts = losses.targets(batch["label"])
        nothing_drawn = tf.zeros_like(batch["draws"])
        with_normal, weights2 = sampled_weights(batch, nothing_drawn, 1.0, self._config)
        normal = tf.where(tf.equal(batch["region"], int(LwsRegion.S2)), with_normal, 0.0)
        return [
            Lesson(cun.UNET1_OUTPUTS, whole, normal),
            Lesson(cun.UNET1_OUTPUTS, whole, with_normal - normal),
            Lesson(cun.UNET2_OUTPUTS, parts, weights2),
        ]

    @property
    def _weighs_later(self) -> bool:
        return self._config.lws.enabled and self._config.lws.validation_scope == "split"

    def counted(self, batch: dict) -> list:
        """What `fractions` wants to know beside: N_pos, where normal pixels are weighed later."""
        if not self._weighs_later:
            return []
        whole, _ = losses.targets(batch["label"])
        positives, _ = losses.region_counts(batch["region"], whole)
        return [tf.reduce_sum(positives * batch["valid"])]

    def fractions(self, sums: list[float]) -> list[float]:
        """Sums of `validation_lessons` and `counted`, and more -> those of L1 and L2, and more."""
        if not self._weighs_later:
            return sums
        normal, normals, others, weights, two, weights2, positives, *rest = sums
        lws = self._config.lws
        # N_S2 is the sum of the weights of normal pixels, which are 1.
        p2 = float(losses.sampling_probability(positives, normals, lws.beta, self._config.p2_floor))
        return [p2 * normal + others, p2 * normals + weights, two, weights2, *rest]

    def total(self, each: Mapping, omega):
        """One loss from those of all outputs, `each` by its output's name."""
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
            f"sampled_{name}": count(counts & tf.equal(batch["region"], int(region)))
            for name, region in _SAMPLED.items()
        }


class _ClassLoss:
    """The baselines: cross-entropy of the four classes, every pixel of the canvas alike. omega is not used."""

    predicting = ("logits",)

    def __init__(self, config: SliceConfig):
        self._config = config

    def lessons(self, batch: dict) -> list[Lesson]:
        _, parts = losses.targets(batch["label"])
        return [Lesson(self.predicting, parts, everywhere(batch))]

    def validation_lessons(self, batch: dict) -> list[Lesson]:
        return self.lessons(batch)

    def counted(self, batch: dict) -> list:
        return []

    def fractions(self, sums: list[float]) -> list[float]:
        return sums

    def total(self, each: Mapping, omega):
        return each["logits"]

    def columns(self, each: Mapping) -> dict:
        return {}

    def sampled(self, batch: dict, lessons: Sequence[Lesson]) -> dict:
        return {}


class _BoundaryLoss(_ClassLoss):
    """BFCN: the same for the combination and the region branch, and outlines for the boundary branch."""

    def lessons(self, batch: dict) -> list[Lesson]:
        boundary, ones = self._config.boundary, everywhere(batch)
        _, parts = losses.targets(batch["label"])
        line, weights = losses.outlines(batch["label"], boundary.width_px), ones
        if boundary.balanced:  # the frequency is that of the global batch
            on_line = tf.cast(line, tf.float32) * ones
            counts = sum_over_replicas([tf.reduce_sum(on_line), tf.reduce_sum(ones)])
            weights = losses.balancing_weights(line, ones, *counts)
        return [
            Lesson(("logits", "region_logits"), parts, ones),
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


LESSONS = {"cun": _CascadeLoss, "unet2d": _ClassLoss, "bfcn": _BoundaryLoss, "drn": _ClassLoss}


def everywhere(batch: dict):
    """W = 1 on all pixels of what is no filling, float32 [N, H, W]."""
    return tf.ones_like(batch["draws"]) * batch["valid"][:, None, None]


def entropy(logits, lesson: Lesson):
    """The numerator of eq. 1."""
    return losses.weighted_cross_entropy_sum(logits, lesson.classes, lesson.weights)


def batch_weights(batch: dict, config: SliceConfig):
    """W of the two U-Nets for this replica's share of the global batch, float32 [N, H, W] each."""
    if not config.lws.enabled:
        return everywhere(batch), everywhere(batch)
    whole, _ = losses.targets(batch["label"])
    counts = losses.region_counts(batch["region"], whole)
    if config.lws.scope == "batch":  # N_pos and N_S2 are those of the global batch
        counts = sum_over_replicas([tf.reduce_sum(count) for count in counts])
    p2 = losses.sampling_probability(*counts, config.lws.beta, config.p2_floor)
    return sampled_weights(batch, batch["draws"], p2, config)


def sampled_weights(batch: dict, draws, p2, config: SliceConfig):
    """The same with the draws and p2 that are given, as `losses.sample_weights` takes them."""
    weights1, weights2 = losses.sample_weights(batch["region"], draws, p2, config.lws.contour_weight)
    valid = batch["valid"][:, None, None]
    return weights1 * valid, weights2 * valid
