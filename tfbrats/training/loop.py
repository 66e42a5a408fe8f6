"""A network in training: weights, optimizer and place, kept in checkpoints that a killed run goes on from."""

import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping

import keras
import tensorflow as tf
from tqdm import tqdm

from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.machine import wording
from tfbrats.machine.stopping import Stop
from tfbrats.networks import keras_settings
from tfbrats.records.manifest import Manifest
from tfbrats.runs.folder import NetworkFolder, is_over
from tfbrats.training import board, checkpoints, devices
from tfbrats.training.devices import peak_bytes
from tfbrats.training.recipes import Recipe

_PACE_STEPS = 20  # after these it says how long the rest will take
_VALIDATION_SHARE = 1 / 3  # of a training step's time that an example costs in validation: forward alone


class _Pace:
    """Seconds a step, from the first steps of this process but the very first, which compiles."""

    def __init__(self):
        self._steps, self._seconds = 0, 0.0

    def after_step(self, seconds: float) -> float | None:
        """The mean when it is known, once; else None."""
        self._seconds += seconds if self._steps else 0.0
        self._steps += 1
        return self._seconds / _PACE_STEPS if self._steps == 1 + _PACE_STEPS else None


def _shared(replicas: int, workers: int) -> str:
    return wording.counted(replicas, "replica") + (f" on {workers} workers" if workers > 1 else "")


class Progress(tf.train.experimental.PythonState):
    """Where a run stands; saved in every checkpoint beside weights and optimizer."""

    def __init__(self):
        self.batch_size = 0  # examples a step and replica
        self.global_batch = 0  # examples a step
        self.workers = 0  # processes that share it
        self.epoch = 0  # the one that is being trained, from 0
        self.step = 0  # steps done in it
        self.examples = 0  # seen in it
        self.sums: dict[str, float] = {}  # of what these steps gave
        self.seconds = 0.0  # spent on them
        self.best = math.inf  # lowest validation loss so far
        self.history: list[dict] = []  # a row per epoch: the same however often the run was stopped
        self.timing: list[dict] = []  # ... and how long it took

    _KEPT = (
        *("batch_size", "global_batch", "workers", "epoch", "step", "examples", "sums", "seconds"),
        *("best", "history", "timing"),
    )

    def serialize(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self._KEPT})

    def deserialize(self, string_value: str) -> None:
        content = json.loads(string_value)
        for name in self._KEPT:
            setattr(self, name, content[name])

    def begin_next_epoch(self) -> None:
        self.epoch += 1
        self.step, self.examples, self.sums, self.seconds = 0, 0, {}, 0.0

    @property
    def place(self) -> str:
        """For a person, who counts from 1."""
        return f"epoch {self.epoch + 1}, step {self.step + 1}"


class Training:
    """A network in training: what is trained, on what, where it is kept."""

    def __init__(
        self,
        config: Config,
        recipe: Recipe,
        manifest: Manifest,
        strategy: tf.distribute.Strategy,
        stop: Stop | None = None,
    ):
        self.config, self.recipe, self.manifest, self.strategy = config, recipe, manifest, strategy
        self._stop, self._pace = stop or Stop(), _Pace()
        keras_settings.check_backend()
        number = list(REGIONS).index(recipe.region) if recipe.region else 0
        keras.utils.set_random_seed(config.train.seed + number)
        self.replicas = self.strategy.num_replicas_in_sync
        self.global_batch = config.train.batch_size * self.replicas
        self.chief = devices.is_chief(self.strategy)
        self.workers = devices.workers(self.strategy)
        with self.strategy.scope(), keras_settings.ours(config.train.precision):
            self.network = recipe.network(self.replicas)
            self.optimizer = recipe.optimizer()
            self.optimizer.build(self.network.trainable_variables)
        self.progress = Progress()
        checkpoint = tf.train.Checkpoint(network=self.network, optimizer=self.optimizer, progress=self.progress)
        self._restore(checkpoint)
        # Saving is collective: workers other than the first save too, where nobody looks.
        self._scratch = None if self.chief else tempfile.TemporaryDirectory(prefix="tfbrats-worker-")
        home = NetworkFolder(self._scratch.name) if self._scratch else recipe.home
        # Two of each: one that is damaged later has one before it.
        self.last, self.best = (
            checkpoints.Manager(checkpoint, home.checkpoints_path(which), 2) for which in ("last", "best")
        )
        self._board = board.Board(recipe.home.board_path) if self.chief else None
        self._train_step = recipe.train_step(self.strategy, self.network, self.optimizer)
        self._validation_step = recipe.validation_step(self.strategy, self.network)

    # --- where it goes on -------------------------------------------------------------------------------

    def _restore(self, checkpoint: tf.train.Checkpoint) -> None:
        folder = self.recipe.home.checkpoints_path("last")
        newest = checkpoints.newest_whole(folder)
        progress = self.progress
        if newest:
            checkpoints.restore(checkpoint, newest).assert_consumed()
            if not self.is_over:
                self._explain_changes(folder)
        elif rows := self.recipe.home.history:
            raise InputError(
                f"{folder}: no checkpoint, though history.csv tells of {wording.counted(len(rows), 'epoch')}. "
                "Restore it from a copy, or start again with another --run or with --overwrite."
            )
        best = self._take_up_best()
        progress.batch_size, progress.global_batch = self.config.train.batch_size, self.global_batch
        progress.workers = self.workers
        # Workers that restored different states (no shared disk) would train on without a word.
        place = 1e6 * progress.epoch + progress.step
        if devices.sum_over_workers(self.strategy, [place]) != [self.workers * place]:
            raise InputError(f"{folder}: the workers find different checkpoints. Put --run on a shared disk.")
        if self.chief:
            checkpoints.tidy(folder, newest)
            # Saved before the run was killed, of an epoch that will be trained again, perhaps to another end.
            checkpoints.forget_after(self.recipe.home.checkpoints_path("best"), progress.epoch)
            checkpoints.tidy(self.recipe.home.checkpoints_path("best"), best)

    def _take_up_best(self) -> str | None:
        """The loss to beat is that of the best weights that can still be read, whatever they are."""
        progress = self.progress
        try:
            best = checkpoints.newest_whole(self.recipe.home.checkpoints_path("best"), up_to=progress.epoch)
        except checkpoints.AllDamaged as error:
            print(f"WARNING: {error}\nThe best of the epochs to come will be kept.", file=sys.stderr)
            best = None
        losses = {row["epoch"]: row.get("validation_loss") for row in progress.history}
        if best is None:
            progress.best = math.inf
        elif losses.get(checkpoints.number(best)) is not None:
            progress.best = losses[checkpoints.number(best)]
        return best

    def _explain_changes(self, folder: str) -> None:
        """Says what other replicas and workers than before change.

        Raises:
            InputError: it would be another batch.
        """
        progress, train, unit = self.progress, self.config.train, self.recipe.unit
        before = progress.global_batch // progress.batch_size
        if (before, progress.workers, progress.batch_size) == (self.replicas, self.workers, train.batch_size):
            return
        is_same_step = progress.global_batch == self.global_batch
        if progress.batch_size != train.batch_size and not is_same_step:
            raise InputError(
                f"{folder}: was trained with {progress.batch_size} {unit} a replica, {progress.global_batch} a "
                f"step; now it would be {train.batch_size} and {self.global_batch}. On another number of "
                f"replicas give a train.batch_size that makes {progress.global_batch} again, or leave it at "
                f"{progress.batch_size}; for another batch choose another --run."
            )
        if not self.chief:
            return
        said = (
            f"changes     {_shared(self.replicas, self.workers)} instead of {_shared(before, progress.workers)}"
        )
        if is_same_step:
            print(f"{said}: a step is of {self.global_batch} {unit} as before")
        else:
            print(
                f"{said}: a step takes {self.global_batch} {unit} instead of {progress.global_batch}; learning "
                f"rate and schedule stay. {self._how_to_keep(progress.global_batch)}"
            )
        if self.config.model.batch_norm == "per_replica":
            print(f"            batch normalisation is over the {train.batch_size} {unit} of a replica")
        if progress.step and progress.workers != self.workers:
            print(f"            in the rest of this epoch some {unit} may come twice and some not at all")

    def _how_to_keep(self, global_batch: int) -> str:
        share, rest = divmod(global_batch, self.replicas)
        if rest:
            return f"On a number of replicas that divides {global_batch} the step could stay as it was."
        return f"To keep the step as it was: train.batch_size={share}."

    @property
    def steps(self) -> int:
        """Of the present epoch: as many whole batches as the split fills, at least one, or the config's.

        Begun with other batches, it ends when its examples are used up.
        """
        if self.config.train.steps_per_epoch:
            return self.config.train.steps_per_epoch
        left = (self.recipe.examples("train") - self.progress.examples) // self.global_batch
        return max(1, self.progress.step + max(0, left))

    @property
    def is_over(self) -> bool:
        return is_over(self.progress.history, self.config)

    @property
    def is_stopped(self) -> bool:
        """Whether any worker was asked to stop."""
        return self._agreed(self._stop.is_asked, False)[0]

    # --- an epoch ---------------------------------------------------------------------------------------

    def train_epoch(self) -> bool:
        """Trains what is left of the present epoch, with checkpoints on the way if it is long.

        Returns:
            False if it was asked to stop before the end; what was done is saved.
        """
        progress = self.progress
        steps, schedule = self.steps, self.recipe.schedule(progress.epoch)
        self.optimizer.learning_rate = schedule["learning_rate"]
        if progress.step < steps:
            stream = self.recipe.training(
                progress.epoch,
                self.global_batch,
                progress.examples,
                self.workers,
                devices.worker(self.strategy),
            )
            batches = devices.shared_out(self.strategy, stream)
        saved = began = time.monotonic()
        before = progress.seconds
        text = f"{self.recipe.region} epoch {progress.epoch + 1}/{self.config.train.epochs}".strip()
        with board.progress_bar(steps, progress.step, text, None if self.chief else True) as bar:
            while progress.step < steps:
                step_began = time.monotonic()
                found = self._train_step(next(batches), schedule)
                values = dict(zip(found, tf.stack(list(found.values())).numpy().tolist(), strict=True))
                if not math.isfinite(values["loss"]):
                    raise InputError(self._diverged(progress.place, values["loss"]))
                for name, value in values.items():
                    progress.sums[name] = progress.sums.get(name, 0.0) + value
                progress.step += 1
                progress.examples += self.global_batch
                now = time.monotonic()
                progress.seconds = before + now - began
                board.show(bar, progress.sums, progress.step, self.global_batch, self.recipe.unit)
                bar.update()
                if (step_seconds := self._pace.after_step(now - step_began)) and self.chief:
                    bar.write(self._forecast(step_seconds))
                due = now - saved > 60 * self.config.train.checkpoint_minutes
                asked, due = self._agreed(self._stop.is_asked, due)
                if (due or asked) and progress.step < steps:
                    checkpoints.save(self.last)
                    saved = time.monotonic()
                if asked and progress.step < steps:
                    return False
        return True

    def _forecast(self, step_seconds: float) -> str:
        """What the rest will take, for a person who may want to think again."""
        progress, train = self.progress, self.config.train
        steps = self.steps - progress.step + (train.epochs - progress.epoch - 1) * self.steps
        checks = self.recipe.examples("validation") / self.global_batch * (train.epochs - progress.epoch)
        seconds = step_seconds * (steps + _VALIDATION_SHARE * checks)
        memory = ", ".join(f"{what} {size / 2**30:.1f} GiB" for what, size in peak_bytes().items())
        return (
            f"pace        {self.global_batch / step_seconds:.3g} {self.recipe.unit}/s over {_PACE_STEPS} "
            f"steps; about {tqdm.format_interval(seconds)} to the end of epoch {train.epochs}; "
            f"peak memory: {memory}"
        )

    def _agreed(self, asked: bool, due: bool) -> tuple[bool, bool]:
        """Whether anyone was asked to stop (then all are), and whether the first worker's checkpoint is due.

        Saving is collective: all workers must do it after the same step.
        """
        if self.workers == 1:
            return asked, due
        asked, due = devices.sum_over_workers(self.strategy, [float(asked), float(due and self.chief)])
        if asked > 0:
            self._stop.is_asked = True
        return self._stop.is_asked, due > 0

    def validate(self) -> bool:
        """Scores the validation split, ends the epoch and keeps the best weights.

        Without validation cases the last weights count as the best.

        Returns:
            False if it was asked to stop before all was scored: that will be done anew.
        """
        progress, unit = self.progress, self.recipe.unit
        row = {
            "epoch": progress.epoch + 1,
            "steps": progress.step,
            **self.recipe.schedule(progress.epoch),
            **self.recipe.training_scores(progress.sums, progress.step),
        }
        improved = True
        if self.recipe.examples("validation"):
            scores = self._validation_scores()
            if scores is None:
                checkpoints.save(self.last)
                return False
            row.update(scores)
            loss = scores["validation_loss"]
            if not math.isfinite(loss):  # before such weights are saved
                raise InputError(self._diverged("validation", loss))
            improved = loss < progress.best
            progress.best = min(loss, progress.best)
        progress.history.append(row)
        progress.timing.append(
            {
                "epoch": progress.epoch + 1,
                "seconds": round(progress.seconds, 3),
                f"{unit}_per_second": round(progress.examples / max(progress.seconds, 1e-9), 3),
            }
        )
        # By all workers: a network's moments are put together from all of them when it is read.
        drawn = self.recipe.pictures(self.network)
        if self.chief:
            # Before the checkpoint: whoever is killed between the two writes it once more, in the same place.
            self._board.write_epoch({**row, **progress.timing[-1]}, drawn)
        progress.begin_next_epoch()
        if improved:
            checkpoints.save(self.best, checkpoint_number=progress.epoch)
        checkpoints.save(self.last)
        return True

    def _validation_scores(self) -> Mapping[str, float] | None:
        stream = self.recipe.validation(self.global_batch, self.workers, devices.worker(self.strategy))
        batches = devices.shared_out(self.strategy, stream)
        sums = 0.0
        with tqdm(
            total=-(-self.recipe.examples("validation") // self.global_batch),
            desc=f"{self.recipe.region} validation".strip(),
            leave=False,
            disable=None if self.chief else True,
        ) as bar:
            for batch in batches:
                if self._agreed(self._stop.is_asked, False)[0]:
                    return None
                sums = sums + self._validation_step(batch).numpy()
                bar.update()
        return self.recipe.validation_scores(sums)

    def write_history(self) -> None:
        """history.csv and timing.csv anew."""
        self.recipe.home.write_history(self.progress.history, self.progress.timing)

    def _diverged(self, where: str, loss: float) -> str:
        return (
            f"{where}: the loss is {loss}. Start again into another --run with a lower train.learning_rate "
            f"(now {self.config.train.learning_rate:g}). What was saved before stays in "
            f"{self.recipe.home.path}."
        )
