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
    p2 = losses.sampling_probability(*counts, config.lws.beta, config.lws.floor)
    weights1, weights2 = losses.sample_weights(batch["region"], batch["draws"], p2, config.lws.contour_weight)
    valid = batch["valid"][:, None, None]
    return weights1 * valid, weights2 * valid
