"""What there is to train: for each network of a config its data, optimizer, schedule and steps.

Paper A trains one network on slices, paper B three on patches, one after the other. `loop.Training` trains
either: both recipes answer the same questions.
"""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfbrats import networks
from tfbrats.batches import patch_stream, slice_stream
from tfbrats.batches.stream import Share
from tfbrats.config import Config, PatchConfig, SliceConfig
from tfbrats.config_sections import Train
from tfbrats.distribution import replicas
from tfbrats.inference import answers, scales
from tfbrats.records.manifest import Manifest
from tfbrats.runs.folder import NetworkFolder, RunFolder
from tfbrats.training import board, patch_step, slice_step

_LOOKED_THROUGH = 160  # examples, for the one that is drawn after every epoch: about a case's slices
_READ = 8  # of them at once


def _epoch_scores(sums: Mapping[str, float], steps: int) -> dict[str, float]:
    """What an epoch's training came to: means over its steps, and Dice over all that it has seen."""
    means = {name: total / steps for name, total in sums.items() if not name.startswith("overlap_")}
    scores = {
        "_".join(filter(None, ("training_dice", region.lower()))): score
        for region, score in board.training_dice(sums).items()
    }
    return {**means, **scores}


def _cases_that_choose(config: Config, manifest: Manifest | None) -> int:
    """How many validation cases choose the best epoch by their Dice; 0 where its loss does."""
    return len(manifest.cases["validation"]) if manifest and config.train.select == "dice" else 0


def _average(train: Train) -> dict[str, bool | float]:
    """What Keras' optimizers want for an average of the weights over the steps."""
    return {"use_ema": True, "ema_momentum": train.ema} if train.ema else {}


def _scaled(optimizer: keras.optimizers.Optimizer, precision: str) -> keras.optimizers.Optimizer:
    """With the loss scaled where gradients are float16, whose range they would leave."""
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "mixed_float16" else optimizer


class SliceRecipe:
    """Paper A, baselines too: SGD down a ladder, omega with it.

    Attributes:
        home: where its history and checkpoints lie.
    """

    region = ""

    def __init__(self, config: SliceConfig, manifest: Manifest):
        self._config, self._manifest = config, manifest
        self.home: NetworkFolder = RunFolder(config.run.dir).network()
        self._drawn: board.FixedSlice | None = None

    @property
    def loss(self) -> str:
        if self._config.model.name == "bfcn":
            return "cross-entropy of combination, region and boundary"
        return "loss weighted sampling" if self._config.lws.enabled else "cross-entropy"

    def examples(self, split: str) -> int:
        return self._manifest.count(split)

    def network(self, replicas: int) -> keras.Model:
        return networks.build(self._config, replicas)

    def optimizer(self) -> keras.optimizers.Optimizer:
        train = self._config.train
        return _scaled(replicas.SGD(train.learning_rate, train.momentum, **_average(train)), train.precision)

    def schedule(self, epoch: int) -> dict[str, float]:
        """What a step of this epoch (from 0) takes; `learning_rate` is the optimizer's."""
        train = self._config.train
        return {
            "learning_rate": ladder(train.learning_rate, train.learning_rate_floor, epoch, self._config),
            "omega": ladder(train.omega, train.omega_floor, epoch, self._config),
        }

    def training(
        self, epoch: int, share: Share, first_example: int = 0, batches: int | None = None
    ) -> tf.data.Dataset:
        return slice_stream.training(self._manifest, self._config, epoch, share, first_example, batches)

    def validation(self, share: Share, split: str = "validation") -> tf.data.Dataset:
        return slice_stream.validation(self._manifest, self._config, split, share)

    def network_input(self, batch: dict) -> tf.Tensor:
        """What the network takes of a batch."""
        return batch["image"]

    def train_step(self, strategy, network, optimizer) -> Callable:
        """(batch, schedule) -> sums over the global batch by name, "loss" among them."""
        step = slice_step.train_step(strategy, network, optimizer, self._config)
        return lambda batch, schedule: step(batch, tf.constant(schedule["omega"], tf.float32))

    def validation_step(self, strategy, network) -> Callable:
        return slice_step.validation_step(strategy, network, self._config, self._cases)

    @property
    def _cases(self) -> int:
        """Of the validation split, where their Dice chooses."""
        return _cases_that_choose(self._config, self._manifest)

    def training_scores(self, sums: Mapping[str, float], steps: int) -> dict[str, float]:
        """An epoch's sums of what `train_step` gives -> columns of the history."""
        return _epoch_scores(sums, steps)

    def validation_scores(self, sums: Sequence[float]) -> dict[str, float]:
        sums, of_cases = slice_step.weighed(sums, self._config, self._cases)
        return {**slice_step.validation_scores(sums), **slice_step.case_scores(of_cases)}

    def pictures(self, network: keras.Model) -> dict[str, np.ndarray]:
        """Always the same slice, as the network sees it now: {name: uint8 [rows, columns, 3]}."""
        if self._drawn is None:
            split = "validation" if self.examples("validation") else "train"
            batches = self.validation(Share(_READ), split)
            few = batches.take(_LOOKED_THROUGH // _READ).as_numpy_iterator()
            self._drawn = board.fixed_slice(few, self._config.data.modalities)
        example = self._drawn.example
        logits = network(example["image"], training=False)
        tissues = answers.answer_of(network).tissues(logits, tf.not_equal(example["region"], 0))
        return {"prediction": self._drawn.picture(tissues[0].numpy())}


def ladder(start: float, floor: float, epoch: int, config: SliceConfig) -> float:
    """Paper A's schedule for learning rate and omega: divided by ten every ten epochs, down to a floor."""
    return max(start * config.train.ladder_factor ** (epoch // config.train.ladder_epochs), floor)


class PatchRecipe:
    """Paper B: Adam at one rate, a network for one region.

    Args:
        boxes: predicted parent boxes by case; None takes the reference's.

    Attributes:
        home: where its history and checkpoints lie.
    """

    loss = "binary cross-entropy"

    def __init__(
        self, config: PatchConfig, manifest: Manifest, region: str, boxes: patch_stream.Boxes | None = None
    ):
        self._config, self._manifest, self.region, self._boxes = config, manifest, region, boxes
        self.home: NetworkFolder = RunFolder(config.run.dir).network(region)
        self._drawn: board.FixedSlice | None = None

    def examples(self, split: str) -> int:
        return patch_stream.count(self._manifest, self._config, split, self.region)

    def network(self, replicas: int) -> keras.Model:
        return networks.build(self._config, replicas, self.region)

    def optimizer(self) -> keras.optimizers.Optimizer:
        train = self._config.train
        return _scaled(
            replicas.Adam(train.learning_rate, train.beta1, train.beta2, **_average(train)), train.precision
        )

    def schedule(self, epoch: int) -> dict[str, float]:
        """What a step of this epoch takes: the same rate throughout."""
        return {"learning_rate": self._config.train.learning_rate}

    def training(
        self, epoch: int, share: Share, first_example: int = 0, batches: int | None = None
    ) -> tf.data.Dataset:
        of = (self._manifest, self._config, self.region)
        return patch_stream.training(*of, epoch, share, first_example, self._boxes, batches)

    def validation(self, share: Share, split: str = "validation") -> tf.data.Dataset:
        return patch_stream.validation(self._manifest, self._config, self.region, split, share, self._boxes)

    def network_input(self, batch: dict) -> tf.Tensor:
        """What the network takes of a batch."""
        return scales.network_input(batch)

    def train_step(self, strategy, network, optimizer) -> Callable:
        """(batch, schedule) -> sums over the global batch by name, "loss" among them."""
        step = patch_step.train_step(strategy, network, optimizer, self._config.train.jit_compile)
        return lambda batch, _: step(batch)

    def validation_step(self, strategy, network) -> Callable:
        cases = _cases_that_choose(self._config, self._manifest)
        return patch_step.validation_step(strategy, network, cases)

    def training_scores(self, sums: Mapping[str, float], steps: int) -> dict[str, float]:
        """An epoch's sums of what `train_step` gives -> columns of the history."""
        return _epoch_scores(sums, steps)

    def validation_scores(self, sums: Sequence[float]) -> dict[str, float]:
        return patch_step.validation_scores(sums)

    def pictures(self, network: keras.Model) -> dict[str, np.ndarray]:
        """Always the same plane of a patch, as the network sees it now: {name: uint8 [rows, columns, 3]}."""
        if self._drawn is None:
            split = "validation" if self.examples("validation") else "train"
            batches = self.validation(Share(_READ), split)
            few = batches.take(_LOOKED_THROUGH // _READ).as_numpy_iterator()
            self._drawn = board.fixed_patch(few, self._config.data.modalities, self.region)
        logits = network(scales.network_input(self._drawn.example), training=False)["logits"][0, ..., 0]
        return {"prediction": self._drawn.picture(logits.numpy() >= 0)}


Recipe = SliceRecipe | PatchRecipe


def recipe_for(
    config: Config, manifest: Manifest | None, region: str = "", boxes: patch_stream.Boxes | None = None
) -> Recipe:
    """The recipe of one network of a config: the one place of training that asks which paper it is of.

    Args:
        manifest: of the records; None where only the network, its optimizer and its steps are asked for.
        region: whose network, where each region has its own; else "".
        boxes: predicted parent boxes by case; None takes the reference's.
    """
    if isinstance(config, PatchConfig):
        return PatchRecipe(config, manifest, region, boxes)
    return SliceRecipe(config, manifest)
