"""A network in training: weights, optimizer and place, kept in checkpoints that a killed run goes on from."""

import contextlib
import itertools
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures

import keras
import tensorflow as tf
from tqdm import tqdm

from tfbrats.batches.stream import Share
from tfbrats.config import Config
from tfbrats.distribution import devices
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.machine.stopping import Stop
from tfbrats.networks import keras_settings
from tfbrats.records.manifest import Manifest
from tfbrats.runs.folder import NetworkFolder, chosen_by, is_over
from tfbrats.terminal import bars, wording
from tfbrats.training import board, checkpoints, kept_weights, start_weights
from tfbrats.training.progress import Division, Progress, changes
from tfbrats.training.recipes import Recipe

_VALIDATION_SHARE = 1 / 3  # of a training step's time that an example costs in validation: forward alone


class Training:
    """A network in training: what is trained, on what, where it is kept.

    Attributes:
        progress: where it stands.
        division: how a step is divided among replicas and workers.
        share: this worker's part of it.
        chief: whether this process writes the run folder.
        last: the checkpoints to go on from.
        best: those of the best epoch, by `train.select`.
    """

    def __init__(
        self,
        config: Config,
        recipe: Recipe,
        manifest: Manifest,
        strategy: tf.distribute.Strategy,
        stop: Stop | None = None,
    ):
        self.config, self.recipe, self.manifest, self.strategy = config, recipe, manifest, strategy
        self._stop, self._pace = stop or Stop(), board.Pace()
        replicas, workers = strategy.num_replicas_in_sync, devices.workers(strategy)
        self.division = Division(config.train.batch_size, replicas, workers)
        self.share = Share(self.division.global_batch, workers, devices.worker(strategy))
        self.chief = devices.is_chief(strategy)
        keras_settings.check_backend()
        number = list(REGIONS).index(recipe.region) if recipe.region else 0
        keras.utils.set_random_seed(config.train.seed + number)
        with strategy.scope(), keras_settings.ours(config.train.precision):
            self.network = recipe.network(replicas)
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
        if self._board and self.progress.history:
            self._board.rename_older()
        self._train_step = recipe.train_step(strategy, self.network, self.optimizer)
        self._validation_step = recipe.validation_step(strategy, self.network)
        self._seeing = kept_weights.seeing(strategy, self.network, recipe.network_input)

    # --- where it goes on -------------------------------------------------------------------------------

    def _restore(self, checkpoint: tf.train.Checkpoint) -> None:
        """Goes on from the newest whole checkpoint, if there is one, and clears away what a killed run left."""
        last, best = (self.recipe.home.checkpoints_path(which) for which in ("last", "best"))
        newest = checkpoints.newest_whole(last)
        if newest:
            checkpoints.restore(checkpoint, newest).assert_consumed()
            lines = [] if self.is_over else changes(self.progress, self.division, self.config, last)
            for line in lines if self.chief else ():
                print(line)
        elif rows := self.recipe.home.history:
            raise InputError(
                f"{last}: no checkpoint, though history.csv tells of {wording.counted(len(rows), 'epoch')}. "
                "Restore it from a copy, or start again with another --run or with --overwrite."
            )
        else:
            start_weights.restore(self.network, self.recipe.home.checkpoints_path("start"))
        newest_best = self.progress.take_up_best(best, self.config.train.select)
        self.progress.divide(self.division)
        self._check_same_place(last)
        if self.chief:
            checkpoints.tidy(last, newest)
            # Saved before the run was killed, of an epoch that will be trained again, perhaps to another end.
            checkpoints.forget_after(best, self.progress.epoch)
            checkpoints.tidy(best, newest_best)

    def _check_same_place(self, folder: str) -> None:
        """Workers that restored different states (no shared disk) would train on without a word."""
        place = 1e6 * self.progress.epoch + self.progress.step
        workers = self.division.workers
        if devices.sum_over_workers(self.strategy, [place]) != [workers * place]:
            raise InputError(f"{folder}: the workers find different checkpoints. Put --run on a shared disk.")

    @property
    def steps(self) -> int:
        """Of the present epoch: as many whole batches as the split fills, at least one, or the config's.

        Begun with other batches, it ends when its examples are used up.
        """
        if self.config.train.steps_per_epoch:
            return self.config.train.steps_per_epoch
        left = (self.recipe.examples("train") - self.progress.examples) // self.share.global_batch
        return max(1, self.progress.step + max(0, left))

    @property
    def is_over(self) -> bool:
        return is_over(self.progress.history, self.config)

    @property
    def is_stopped(self) -> bool:
        """Whether any worker was asked to stop; all of them must ask this together."""
        return self._agreed(self._stop.is_asked, False)[0]

    # --- training ---------------------------------------------------------------------------------------

    def train_epoch(self) -> bool:
        """Trains what is left of the present epoch, with checkpoints on the way if it is long.

        Returns:
            False if it was asked to stop before the end; what was done is saved.
        """
        progress, steps, schedule = self.progress, self.steps, self.recipe.schedule(self.progress.epoch)
        self.optimizer.learning_rate = schedule["learning_rate"]
        batches = self._batches_left(steps)
        progress.start_clock()
        self._pace.begin_step()
        with (
            board.progress_bar(steps, progress.step, self._name, None if self.chief else True) as bar,
            futures.ThreadPoolExecutor(1) as reader,
        ):
            # What a step gave is read while the next one runs: a GPU need not wait for Python in between.
            waiting: list[futures.Future] = []
            for batch in batches:
                waiting.append(reader.submit(_on_host, *_packed(self._train_step(batch, schedule))))
                if len(waiting) > 1:
                    self._take_in(waiting.pop(0).result(), bar)
                is_asked, is_due = self._is_time_to_save()
                if is_asked or is_due:
                    # Nothing is saved of a step that is not known to be sound.
                    self._take_in(waiting.pop().result(), bar)
                    if progress.step < steps:  # after the last step the validation comes, which saves
                        checkpoints.save(self.last)
                        if is_asked:
                            return False
                    self._pace.begin_step()  # saving is no part of a step
            for values in waiting:
                self._take_in(values.result(), bar)
        if progress.step < steps:  # the other workers would wait, and the history would have an epoch too few
            raise RuntimeError(f"{progress.place}: the stream of examples ended before step {steps}")
        return True

    def _take_in(self, values: Mapping[str, float], bar: tqdm) -> None:
        """What the next step gave: refused if it is not sound, added up, shown."""
        self._check_finite(values["loss"], self.progress.place)
        self.progress.add_step(values, self.share.global_batch)
        self._tell(bar)
        self._pace.begin_step()

    @property
    def _name(self) -> str:
        """What a person calls the present epoch, e.g. "WT epoch 3/10"."""
        return f"{self.recipe.region} epoch {self.progress.epoch + 1}/{self.config.train.epochs}".strip()

    def _batches_left(self, steps: int) -> Iterator:
        """What the present epoch has not seen yet: the worker's share, batch by batch, on its devices."""
        left = steps - self.progress.step
        if left <= 0:
            return iter(())
        stream = self.recipe.training(self.progress.epoch, self.share, self.progress.examples, left)
        return itertools.islice(devices.shared_out(self.strategy, stream), left)

    def _check_finite(self, loss: float, where: str) -> None:
        """Raises InputError if the loss is no number any more: such weights are not saved."""
        if not math.isfinite(loss):
            raise InputError(
                f"{where}: the loss is {loss}. Start again into another --run with a lower train.learning_rate "
                f"(now {self.config.train.learning_rate:g}). What was saved before stays in "
                f"{self.recipe.home.path}."
            )

    def _tell(self, bar: tqdm) -> None:
        """Puts the step that is done into the bar; says once how long the rest will take."""
        progress, step_seconds = self.progress, self._pace.after_step()
        board.show(bar, progress.sums, progress.step, self.share.global_batch, self.config.unit)
        bar.update()
        if step_seconds and self.chief:
            pace = f"{self.share.global_batch / step_seconds:.3g} {self.config.unit}/s"
            seconds, epochs = step_seconds * self._steps_left, self.config.train.epochs
            bars.write(board.forecast(pace, seconds, epochs, devices.peak_bytes()))

    @property
    def _steps_left(self) -> float:
        """To the end of the last epoch, with each validation as the steps that it lasts as long as."""
        epochs = self.config.train.epochs - self.progress.epoch
        batches = self.recipe.examples("validation") / self.share.global_batch
        return epochs * self.steps - self.progress.step + _VALIDATION_SHARE * batches * epochs

    def _is_time_to_save(self) -> tuple[bool, bool]:
        """Because it was asked to stop; because the last checkpoint is old."""
        is_due = self.last.minutes_since_save > self.config.train.checkpoint_minutes
        return self._agreed(self._stop.is_asked, is_due)

    def _agreed(self, is_asked: bool, is_due: bool) -> tuple[bool, bool]:
        """Whether anyone was asked to stop (then all are), and whether the first worker's checkpoint is due.

        Saving is collective: all workers must do it after the same step.
        """
        if self.division.workers == 1:
            return is_asked, is_due
        votes = [float(is_asked), float(is_due and self.chief)]
        asked, due = devices.sum_over_workers(self.strategy, votes)
        if asked > 0:
            self._stop.is_asked = True
        return self._stop.is_asked, due > 0

    # --- validation -------------------------------------------------------------------------------------

    def validate(self) -> bool:
        """Scores the validation split, ends the epoch and keeps the best weights.

        Returns:
            False if it was asked to stop before all was scored: that will be done anew.
        """
        has_others = self.config.train.ema or self.config.model.reestimate_moments
        with kept_weights.own_afterwards(self.network) if has_others else contextlib.nullcontext():
            is_done = self._end_epoch()
        checkpoints.save(self.last)
        return is_done

    def _end_epoch(self) -> bool:
        """`validate` but for the last checkpoint, on the weights that are kept."""
        progress, recipe = self.progress, self.recipe
        if not self._take_kept_weights():
            return False
        scores = self._validation_scores() if recipe.examples("validation") else {}
        if scores is None:
            return False
        is_best = progress.take_loss(chosen_by(scores, self.config.train.select))
        row = {"epoch": progress.epoch + 1, "steps": progress.step, **recipe.schedule(progress.epoch)}
        row |= {**recipe.training_scores(progress.sums, progress.step), **scores}
        progress.add_epoch(row, self.config.unit)
        # By all workers, which all run the network.
        pictures = recipe.pictures(self.network)
        if self.chief:
            # Before the checkpoint: whoever is killed between the two writes it once more, in the same place.
            self._board.write_epoch({**row, **progress.timing[-1]}, pictures)
        progress.begin_next_epoch()
        if is_best:
            checkpoints.save(self.best, checkpoint_number=progress.epoch)
        return True

    def _take_kept_weights(self) -> bool:
        """Averages and moments of its own, where they are wanted; False if it was asked to stop meanwhile."""
        if self.config.train.ema:
            kept_weights.take_averages(self.network, self.optimizer)
        wanted = self.config.model.reestimate_moments
        if not wanted:
            return True
        # The first examples of the epoch that is being ended: the same, however often the run is stopped.
        stream = self.recipe.training(self.progress.epoch, self.share, batches=wanted)
        batches = devices.shared_out(self.strategy, stream)
        return kept_weights.reestimate_moments(self.network, self._seeing, batches, lambda: self.is_stopped)

    def _validation_scores(self) -> Mapping[str, float] | None:
        """Loss and Dice of the whole split; None if it was asked to stop before all was scored."""
        batches = devices.shared_out(self.strategy, self.recipe.validation(self.share))
        count = -(-self.recipe.examples("validation") // self.share.global_batch)
        text = f"{self.recipe.region} validation".strip()
        sums = 0.0
        with board.validation_bar(count, text, None if self.chief else True) as bar:
            for batch in batches:
                if self.is_stopped:
                    return None
                sums = sums + self._validation_step(batch).numpy()
                bar.update()
        scores = self.recipe.validation_scores(sums)
        self._check_finite(scores["validation_loss"], "validation")
        return scores

    def write_history(self) -> None:
        """history.csv and timing.csv anew."""
        self.recipe.home.write_history(self.progress.history, self.progress.timing)


def _packed(sums: Mapping[str, tf.Tensor]) -> tuple[list[str], tf.Tensor]:
    """What a step will give: names, and numbers where they are. Later, it would wait for the next step too."""
    return list(sums), tf.stack(list(sums.values()))


def _on_host(names: Sequence[str], numbers: tf.Tensor) -> dict[str, float]:
    """`_packed`'s, in one copy from the device, once they are there."""
    return dict(zip(names, numbers.numpy().tolist(), strict=True))
