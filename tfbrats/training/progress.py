"""Where a training stands: what every checkpoint keeps of it, and what changes when it goes on elsewhere."""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Mapping

import tensorflow as tf

from tfbrats.config import Config
from tfbrats.errors import InputError
from tfbrats.runs.folder import chosen_by
from tfbrats.terminal import style, wording
from tfbrats.training import checkpoints


@dataclasses.dataclass(frozen=True)
class Division:
    """How the examples of a step are divided.

    Attributes:
        batch_size: examples of one replica.
        replicas: of all workers together.
        workers: processes that train together.
    """

    batch_size: int
    replicas: int
    workers: int

    @property
    def global_batch(self) -> int:
        """Examples of a step."""
        return self.batch_size * self.replicas

    def __str__(self) -> str:
        workers = f" on {self.workers} workers" if self.workers > 1 else ""
        return wording.counted(self.replicas, "replica") + workers


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
        self.best = math.inf  # the lowest so far of what epochs are chosen by
        self.history: list[dict] = []  # a row per epoch: the same however often the run was stopped
        self.timing: list[dict] = []  # ... and how long it took
        self._began = 0.0  # when the epoch would have begun if it had never been stopped

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

    @property
    def place(self) -> str:
        """For a person, who counts from 1."""
        return f"epoch {self.epoch + 1}, step {self.step + 1}"

    @property
    def division(self) -> Division:
        """How the steps so far were divided."""
        return Division(self.batch_size, self.global_batch // self.batch_size, self.workers)

    def divide(self, division: Division) -> None:
        """The steps to come are divided like this."""
        self.batch_size, self.global_batch = division.batch_size, division.global_batch
        self.workers = division.workers

    def take_up_best(self, folder: str, select: str = "loss") -> str | None:
        """The loss to beat is that of the best weights that can still be read, whatever they are.

        Args:
            folder: of the best checkpoints.
            select: `train.select`, as `chosen_by` takes it.

        Returns:
            the checkpoint of these weights; None if there is none.
        """
        try:
            best = checkpoints.newest_whole(folder, up_to=self.epoch)
        except checkpoints.AllDamaged as error:
            lines = f"{error}\nThe best of the epochs to come will be kept."
            print(style.warning(lines, sys.stderr), file=sys.stderr)
            best = None
        losses = {row["epoch"]: chosen_by(row, select) for row in self.history}
        if best is None:
            self.best = math.inf
        elif losses.get(checkpoints.number(best)) is not None:
            self.best = losses[checkpoints.number(best)]
        return best

    def start_clock(self) -> None:
        """The seconds of the present epoch count from now on, beside those before it was stopped."""
        self._began = time.monotonic() - self.seconds

    def add_step(self, values: Mapping[str, float], examples: int) -> None:
        """One step more, over so many examples, that gave these values."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.step += 1
        self.examples += examples
        self.seconds = time.monotonic() - self._began

    def take_loss(self, loss: float | None) -> bool:
        """Whether the present epoch is the best so far; without validation cases, the last one is.

        Args:
            loss: of `chosen_by`.
        """
        if loss is None:
            return True
        is_best = loss < self.best
        self.best = min(loss, self.best)
        return is_best

    def add_epoch(self, row: dict, unit: str) -> None:
        """The present epoch's row of the history, and how long it took.

        Args:
            unit: of the examples, "slices" or "patches".
        """
        self.history.append(row)
        self.timing.append(
            {
                "epoch": self.epoch + 1,
                "seconds": round(self.seconds, 3),
                f"{unit}_per_second": round(self.examples / max(self.seconds, 1e-9), 3),
            }
        )

    def begin_next_epoch(self) -> None:
        self.epoch += 1
        self.step, self.examples, self.sums, self.seconds = 0, 0, {}, 0.0


def changes(progress: Progress, division: Division, config: Config, folder: str) -> list[str]:
    """What a person must know where steps are divided otherwise than before: lines; none where they are not.

    Args:
        folder: of the checkpoints that the training goes on from.

    Raises:
        InputError: it would be another step because of another batch size.
    """
    before, unit = progress.division, config.unit
    if division == before:
        return []
    is_same_step = division.global_batch == before.global_batch
    if division.batch_size != before.batch_size and not is_same_step:
        raise InputError(
            f"{folder}: was trained with {before.batch_size} {unit} a replica, {before.global_batch} a step; "
            f"now it would be {division.batch_size} and {division.global_batch}. On another number of replicas "
            f"give a train.batch_size that makes {before.global_batch} again, or leave it at "
            f"{before.batch_size}; for another batch choose another --run."
        )
    other = f"changes     {division} instead of {before}"
    if is_same_step:
        lines = [f"{other}: a step is of {division.global_batch} {unit} as before"]
    else:
        lines = [
            f"{other}: a step takes {division.global_batch} {unit} instead of {before.global_batch}; learning "
            f"rate and schedule stay. {_how_to_keep(before.global_batch, division.replicas)}"
        ]
    if config.model.batch_norm == "per_replica":
        lines.append(f"            batch normalisation is over the {division.batch_size} {unit} of a replica")
    if progress.step and division.workers != before.workers:
        lines.append(f"            in the rest of this epoch some {unit} may come twice and some not at all")
    return lines


def _how_to_keep(global_batch: int, replicas: int) -> str:
    """What would make a step of so many examples on so many replicas."""
    batch_size, rest = divmod(global_batch, replicas)
    if rest:
        return f"On a number of replicas that divides {global_batch} the step could stay as it was."
    return f"To keep the step as it was: train.batch_size={batch_size}."
