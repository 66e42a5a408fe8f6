"""A network in training: weights, optimizer and place, kept in checkpoints that a killed run goes on from."""

import json
import math
import tempfile
import time

import keras
import tensorflow as tf
from tqdm import tqdm

from tfbrats import files, run
from tfbrats.command import InputError
from tfbrats.config import Config
from tfbrats.labels import REGIONS
from tfbrats.recipes import Recipe
from tfbrats.records import Manifest


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run folder: the only one, or the first worker."""
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type is None:
        return True
    return resolver.task_type == "chief" or (resolver.task_type == "worker" and resolver.task_id == 0)


class Progress(tf.train.experimental.PythonState):
    """Where a run stands; saved in every checkpoint beside weights and optimizer."""

    def __init__(self):
        self.global_batch = 0  # examples a step
        self.epoch = 0  # the one that is being trained, from 0
        self.step = 0  # steps done in it
        self.sums: dict[str, float] = {}  # of the losses over these steps
        self.seconds = 0.0  # spent on them
        self.best = math.inf  # lowest validation loss so far
        self.history: list[dict] = []

    _KEPT = ("global_batch", "epoch", "step", "sums", "seconds", "best", "history")

    def serialize(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self._KEPT})

    def deserialize(self, string_value: str) -> None:
        content = json.loads(string_value)
        for name in self._KEPT:
            setattr(self, name, content[name])


class Training:
    """A network in training: what is trained, on what, where it is kept."""

    def __init__(self, config: Config, recipe: Recipe, manifest: Manifest, strategy: tf.distribute.Strategy):
        self.config, self.recipe, self.manifest, self.strategy = config, recipe, manifest, strategy
        number = list(REGIONS).index(recipe.region) if recipe.region else 0
        keras.utils.set_random_seed(config.train.seed + number)
        keras.mixed_precision.set_global_policy(config.train.precision)
        self.replicas = self.strategy.num_replicas_in_sync
        self.global_batch = config.train.batch_size * self.replicas
        # As many whole batches as the split fills, at least one; or what the config says.
        self.steps = config.train.steps_per_epoch or max(1, recipe.examples("train") // self.global_batch)
        self.chief = is_chief(self.strategy)
        self.workers = getattr(self.strategy.extended, "_num_workers", 1)
        with self.strategy.scope():
            self.network = recipe.network(self.replicas)
            self.optimizer = recipe.optimizer()
            if config.train.precision == "mixed_float16":
                self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer)
            self.optimizer.build(self.network.trainable_variables)
        self.progress = Progress()
        checkpoint = tf.train.Checkpoint(network=self.network, optimizer=self.optimizer, progress=self.progress)
        # Saving is collective: workers other than the first save too, where nobody looks.
        home = recipe.home if self.chief else tempfile.mkdtemp(prefix="tfbrats-worker-")
        self.last = tf.train.CheckpointManager(checkpoint, run.checkpoints(home, "last"), max_to_keep=2)
        self.best = tf.train.CheckpointManager(checkpoint, run.checkpoints(home, "best"), max_to_keep=1)
        self._restore(checkpoint, run.checkpoints(recipe.home, "last"))
        self._train_step = recipe.train_step(self.strategy, self.network, self.optimizer)
        self._validation_step = recipe.validation_step(self.strategy, self.network)

    def _restore(self, checkpoint: tf.train.Checkpoint, folder: str) -> None:
        latest = tf.train.latest_checkpoint(folder)
        if latest:
            checkpoint.restore(latest).assert_consumed()
        elif files.is_folder(folder) and any(path.endswith(".index") for path in files.walk(folder)):
            raise InputError(
                f"{folder}: checkpoints are here, but which is the last cannot be read. Try again; if it "
                f"stays so, mend or restore {files.join(folder, 'checkpoint')}."
            )
        progress = self.progress
        if progress.step and progress.global_batch != self.global_batch:
            raise InputError(
                f"{folder}: epoch {progress.epoch + 1} was begun with {progress.global_batch} "
                f"{self.recipe.unit} a step, and now there would be {self.global_batch}. End it on as many "
                "replicas as before, or change train.batch_size in a new run."
            )
        progress.global_batch = self.global_batch
        # Workers that restored different states (no shared disk) would train on without a word.
        place = 1e6 * progress.epoch + progress.step
        places = self.strategy.run(lambda: tf.constant(place, tf.float64))
        if self.strategy.reduce(tf.distribute.ReduceOp.MEAN, places, axis=None) != place:
            raise InputError(f"{folder}: the workers find different checkpoints. Put --run on a shared disk.")

    @property
    def is_over(self) -> bool:
        return run.is_over(self.progress.history, self.config)

    def train_epoch(self) -> None:
        """Trains what is left of the present epoch, with checkpoints on the way if it is long."""
        progress, config = self.progress, self.config
        schedule = self.recipe.schedule(progress.epoch)
        self.optimizer.learning_rate = schedule["learning_rate"]
        stream = self.recipe.training(progress.epoch, self.global_batch, progress.step, self.workers)
        batches = iter(self.strategy.experimental_distribute_dataset(stream))
        saved = began = time.monotonic()
        before = progress.seconds
        with tqdm(
            total=self.steps,
            initial=progress.step,
            desc=f"{self.recipe.region} epoch {progress.epoch + 1}/{config.train.epochs}".strip(),
            disable=None if self.chief else True,
        ) as bar:
            while progress.step < self.steps:
                found = self._train_step(next(batches), schedule)
                values = {name: float(value) for name, value in found.items()}
                if not math.isfinite(values["loss"]):
                    raise InputError(self._diverged(f"step {progress.step + 1}", values["loss"]))
                for name, value in values.items():
                    progress.sums[name] = progress.sums.get(name, 0.0) + value
                progress.step += 1
                progress.seconds = before + time.monotonic() - began
                bar.set_postfix(loss=f"{progress.sums['loss'] / progress.step:.4f}", refresh=False)
                bar.update()
                if time.monotonic() - saved > 60 * config.train.checkpoint_minutes:
                    self._save(self.last)
                    saved = time.monotonic()
        progress.history.append(
            {
                "epoch": progress.epoch + 1,
                "steps": self.steps,
                **schedule,
                **{name: total / self.steps for name, total in progress.sums.items()},
                "seconds": round(progress.seconds, 3),
                f"{self.recipe.unit}_per_second": round(self.steps * self.global_batch / progress.seconds, 3),
            }
        )

    def validate(self) -> None:
        """Scores the validation split, notes an obvious rise, and keeps the best weights.

        Without validation cases the last weights count as the best.
        """
        progress = self.progress
        improved = True
        if self.recipe.examples("validation"):
            batches = self.recipe.validation(self.global_batch)
            sums = sum(
                self._validation_step(batch).numpy()
                for batch in self.strategy.experimental_distribute_dataset(batches)
            )
            scores = self.recipe.validation_scores(sums)
            progress.history[-1].update(scores)
            loss = scores["validation_loss"]
            if not math.isfinite(loss):  # before such weights are saved
                raise InputError(self._diverged("validation", loss))
            improved = loss < progress.best
            progress.best = min(loss, progress.best)
        progress.epoch, progress.step, progress.sums, progress.seconds = progress.epoch + 1, 0, {}, 0.0
        if improved:
            self._save(self.best, checkpoint_number=progress.epoch)
        self._save(self.last)

    def _save(self, manager: tf.train.CheckpointManager, **options) -> None:
        try:
            manager.save(**options)
        except (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
            reason = error.message.splitlines()[0]
            raise InputError(
                f"{manager.directory}: the checkpoint cannot be written ({reason}). Make room and run the same "
                "command again: it goes on from the checkpoint before."
            ) from error

    def write_history(self) -> None:
        """history.csv anew, and the last row to TensorBoard."""
        run.write_history(self.recipe.home, self.progress.history)
        row = self.progress.history[-1]
        with tf.summary.create_file_writer(files.join(self.recipe.home, "tb")).as_default():
            for name, value in row.items():
                if name != "epoch":
                    tf.summary.scalar(name, value, step=row["epoch"])

    def _diverged(self, where: str, loss: float) -> str:
        return (
            f"epoch {self.progress.epoch + 1}, {where}: the loss is {loss}. Start again into another --run "
            f"with a lower train.learning_rate (now {self.config.train.learning_rate:g}); {self.recipe.home} "
            "keeps its last checkpoint."
        )
