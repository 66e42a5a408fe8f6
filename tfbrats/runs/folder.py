"""What a run folder holds and how it is named, written and read. No TensorFlow.

runs/<name>/config.yaml         the config, resolved
            environment.json    versions and machine
            splits.json         which case was trained, validated, tested on, with a hash
            records.json        what the training data was: edition, spacing, modalities
            begun_from.json     the run or model whose weights it began with, where there is one
            history.csv         a row per epoch: the same however often the run was stopped
            timing.csv          how long each took
            tb/                 TensorBoard
            trained_on.json     hash of the records
            boxes.json          predicted parent boxes, where sampling.boxes is "predicted"
            checkpoints/start/  the weights of begun_from.json
            checkpoints/last/   to go on from, and the one before
            checkpoints/best/   the best epoch (train.select), what is exported; and the one before
            tuned.json          what tfbrats tune has chosen for these weights
            .training           the lock of the one command that trains here

Paper B trains three networks: what belongs to one (from history.csv down) lies in wt/, tc/ and et/.
`RunFolder` is the folder, `NetworkFolder` the part of one network. Both read a file when it is first asked for
and keep what it says; what is written through them they see. Whoever wants to see what another command has
written since makes a new one.
"""

import csv
import functools
import importlib.metadata
import io
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tfbrats import __version__
from tfbrats.config import Config, differences
from tfbrats.config_file import load
from tfbrats.errors import InputError
from tfbrats.machine import files

CONFIG = "config.yaml"
LOCK = ".training"
BEGUN_FROM = "begun_from.json"
TUNED = "tuned.json"
_PACKAGES = ("tensorflow", "keras", "numpy", "nibabel", "SimpleITK", "apache-beam")
# These may change between a run and its continuation; the rest is what makes it that run.
# The batch of a replica may, where the number of replicas does: `training` looks at what comes of both.
_MAY_CHANGE = (
    *("train.epochs", "train.checkpoint_minutes", "train.strategy", "train.batch_size"),
    *("data.records", "run.dir"),
)


class RunFolder:
    """The folder of a run: its config, its data, its machine, and a `NetworkFolder` for each network.

    Attributes:
        path: of the folder, as it was given; it need not exist yet.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        self._networks: dict[str, NetworkFolder] = {}

    def _file(self, name: str) -> str:
        return files.join(self.path, name)

    @property
    def config_path(self) -> str:
        return self._file(CONFIG)

    @property
    def environment_path(self) -> str:
        return self._file("environment.json")

    @property
    def splits_path(self) -> str:
        return self._file("splits.json")

    @property
    def records_path(self) -> str:
        return self._file("records.json")

    @property
    def begun_from_path(self) -> str:
        return self._file(BEGUN_FROM)

    @property
    def is_run(self) -> bool:
        """Whether a config lies here: without one the rest is no run."""
        return files.exists(self.config_path)

    @functools.cached_property
    def config(self) -> Config:
        """The run's config, as it was written: `run.dir` may name the place where the folder lay then.

        Raises:
            InputError: there is no run here, or its config is not this version's.
        """
        if not self.is_run:
            raise InputError(f"{self.path}: no run here (no {CONFIG}). Train one with tfbrats train.")
        return load(self.config_path)

    @functools.cached_property
    def environment(self) -> dict[str, Any] | None:
        """Versions and machine of the latest training here; None where that was not kept."""
        return files.read_json(self.environment_path) if files.exists(self.environment_path) else None

    @functools.cached_property
    def splits(self) -> dict[str, Any]:
        """Split -> case ids, and under "sha256" the hash of all."""
        return files.read_json(self.splits_path)

    @functools.cached_property
    def records(self) -> dict[str, Any]:
        """What the training data was: `Manifest.description`."""
        return files.read_json(self.records_path)

    @functools.cached_property
    def begun_from(self) -> dict[str, Any] | None:
        """What the run began from, as `workflows.begun_from` writes it; None where it began from nothing."""
        return files.read_json(self.begun_from_path) if files.exists(self.begun_from_path) else None

    def network(self, region: str = "") -> "NetworkFolder":
        """The part of a region's network; the run folder itself where there is one network."""
        if region not in self._networks:
            self._networks[region] = NetworkFolder(self._file(region.lower()) if region else self.path)
        return self._networks[region]

    def unfinished(self, config: Config | None = None) -> dict[str, int]:
        """The networks that are not done yet: region ("" where there is one network) -> epochs so far.

        Args:
            config: that says when they are; the run's own by default.
        """
        config = config or self.config
        histories = {region: self.network(region).history for region in config.whole.regions}
        return {region: len(rows) for region, rows in histories.items() if not is_over(rows, config)}

    def check_finished(self) -> None:
        """Raises InputError if networks are not done yet: training that is asked to stop exits with 0."""
        if left := self.unfinished():
            which = f" ({', '.join(left)})" if all(left) else ""
            raise InputError(
                f"{self.path}: the training was stopped before its end{which}. The same command goes on from "
                "there."
            )

    def check(self, config: Config) -> None:
        """Raises InputError unless the folder is free or holds a run of this config."""
        if self.is_run:
            changes = [
                line
                for line in differences(config.model_dump(mode="json"), self.config.model_dump(mode="json"))
                if not line.startswith(_MAY_CHANGE)
            ]
            if changes:
                raise InputError(
                    f"{self.path}: holds a run of another config:\n  "
                    + "\n  ".join(changes)
                    + "\nChoose another --run, or pass --overwrite"
                    + (" without region=" if config.whole.regions != ("",) else "")
                    + " to delete that one."
                )
        # Another machine that shares the run may be writing its config.yaml at this moment.
        elif files.is_folder(self.path) and any(
            files.PARTIAL not in files.name(path) and files.name(path) not in (LOCK, BEGUN_FROM)
            for path in files.walk(self.path)
        ):
            raise InputError(f"{self.path}: not empty, and not a run (no {CONFIG}). Choose another --run.")

    def check_split(self, split_sha256: str, records_folder: str) -> None:
        """A run must not go on with other cases: what it was validated on might be what it was trained on.

        Args:
            split_sha256: of the records' split.
            records_folder: where they lie, for the person.

        Raises:
            InputError: the run was trained on another split.
        """
        if files.exists(self.splits_path) and self.splits["sha256"] != split_sha256:
            raise InputError(
                f"{self.path}: was trained on another split than {records_folder} holds. Give it its own "
                "records, or choose another --run."
            )

    def start(
        self,
        config: Config,
        overwritten: Sequence[str] = (),
        begun_from: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes the run folder and writes its config and environment, or checks that it is this run's.

        The config of a run that goes on stays as it is.

        Args:
            overwritten: folders to delete first: the run folder or parts of it, if it holds a run.
            begun_from: whose weights a new run begins with; written before the config, which makes it a run.

        Raises:
            InputError: the folder holds a run of another config, or something else.
        """
        if self.path in overwritten and self.is_run:
            files.clear(self.path, (LOCK, CONFIG))
            files.remove(self.config_path)  # the last: without it the rest is no run any more
            _forget(self, "config", "environment", "splits", "records", "begun_from")
        # Before a part goes, what stays must be of the same run.
        self.check(config)
        for part in overwritten:
            files.clear(part, (LOCK,))
        if overwritten:
            self._networks.clear()
        if begun_from is not None:
            self.write_begun_from(begun_from)
        if not self.is_run:
            self.write_config(config)
        files.write_json(self.environment_path, _surroundings())
        _forget(self, "environment")

    def write_config(self, config: Config) -> None:
        """The run's config, or what has changed in it since: once it is sure that the run goes on with it."""
        files.write_bytes(self.config_path, config.to_yaml().encode())
        _forget(self, "config")

    def write_begun_from(self, content: Mapping[str, Any]) -> None:
        files.write_json(self.begun_from_path, content)
        _forget(self, "begun_from")

    def write_data(
        self, cases: Mapping[str, Sequence[str]], split_sha256: str, description: Mapping[str, Any]
    ) -> None:
        """Keeps with the run what export must say of its training data.

        Args:
            cases: split -> case ids.
            split_sha256: the hash of all.
            description: `Manifest.description`.
        """
        files.write_json(self.splits_path, {**cases, "sha256": split_sha256})
        files.write_json(self.records_path, description)
        _forget(self, "splits", "records")


class NetworkFolder:
    """What belongs to one network of a run.

    Attributes:
        path: the run folder, or the region's folder in it.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)

    def _file(self, *names: str) -> str:
        return files.join(self.path, *names)

    @property
    def history_path(self) -> str:
        return self._file("history.csv")

    @property
    def timing_path(self) -> str:
        return self._file("timing.csv")

    @property
    def trained_on_path(self) -> str:
        return self._file("trained_on.json")

    @property
    def boxes_path(self) -> str:
        """Of the boxes that the networks above predict: `training.predicted_boxes`."""
        return self._file("boxes.json")

    @property
    def lock_path(self) -> str:
        """Held by the one command that trains here."""
        return self._file(LOCK)

    @property
    def board_path(self) -> str:
        """Folder of TensorBoard's events."""
        return self._file("tb")

    def checkpoints_path(self, which: str) -> str:
        """Folder of the "start", "last" or "best" checkpoints."""
        return self._file("checkpoints", which)

    def has_checkpoint(self, which: str) -> bool:
        """Whether one lies there; whether it can be read is another question."""
        folder = self.checkpoints_path(which)
        return files.is_folder(folder) and any(path.endswith(".index") for path in files.walk(folder))

    @functools.cached_property
    def history(self) -> list[dict[str, str]]:
        """The rows of history.csv, oldest first; none before the first epoch has ended."""
        return _rows(self.history_path)

    @functools.cached_property
    def timing(self) -> list[dict[str, str]]:
        """The rows of timing.csv: how long each epoch trained, examples a second; none before one has ended."""
        return _rows(self.timing_path)

    def write_history(self, rows: Sequence[Mapping[str, Any]], timing: Sequence[Mapping[str, Any]]) -> None:
        """Writes all rows anew: a killed run never leaves half a line, a resumed one no line twice.

        How long the epochs took has a file of its own, so that history.csv does not depend on it. Without rows
        there are no files.
        """
        for path, table in ((self.timing_path, timing), (self.history_path, rows)):
            if not table:
                files.remove(path)
                continue
            text = io.StringIO()
            writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
            files.write_bytes(path, text.getvalue().encode())
        _forget(self, "history", "timing")

    def check_trained_on(self, shards_sha256: str, records_folder: str, write: bool) -> None:
        """A run must not go on with other images under the same case ids; notes what a new one is trained on.

        Args:
            shards_sha256: `Manifest.shards_sha256` of the network's region.
            records_folder: where the records lie, for the person.
            write: whether this process writes the run folder.

        Raises:
            InputError: the network was trained on other records.
        """
        if not files.exists(self.trained_on_path):
            if write:
                files.write_json(self.trained_on_path, {"shards_sha256": shards_sha256})
        elif files.read_json(self.trained_on_path)["shards_sha256"] != shards_sha256:
            raise InputError(
                f"{self.path}: was trained on other records than {records_folder} holds, though the case ids "
                "are the same. Give it its own records, or choose another --run."
            )


def _forget(folder: RunFolder | NetworkFolder, *names: str) -> None:
    """Properties that were read from files which have changed since."""
    for name in names:
        folder.__dict__.pop(name, None)


def _surroundings() -> dict[str, Any]:
    """What environment.json says: versions and machine."""
    return {
        "tfbrats": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "command": sys.argv,
    }


def _rows(path: str) -> list[dict[str, str]]:
    if not files.exists(path):
        return []
    return list(csv.DictReader(io.StringIO(files.read_bytes(path).decode())))


def chosen_by(row: Mapping[str, Any], select: str) -> float | None:
    """By what `train.select` compares epochs, lower is better: validation loss, or 1 - mean Dice of cases."""
    if select == "loss":
        return float(row["validation_loss"]) if row.get("validation_loss") else None
    dice = [float(value) for name, value in row.items() if name.startswith("case_dice")]
    return 1 - math.fsum(dice) / len(dice) if dice else None


def rises(history: Sequence[Mapping[str, Any]], stop_rise: float, select: str = "loss") -> int:
    """Over how many epochs on end what they are chosen by has been over (1 + stop_rise) x the best before."""
    best, count = math.inf, 0
    for row in history:
        if (loss := chosen_by(row, select)) is not None:
            count = count + 1 if loss > (1 + stop_rise) * best else 0
            best = min(best, loss)
    return count


def is_over(history: Sequence[Mapping[str, Any]], config: Config) -> bool:
    """Whether a network has had all its epochs, or was stopped by an obvious rise of `chosen_by`."""
    train = config.train
    rise = rises(history, train.stop_rise, train.select)
    return len(history) >= train.epochs or rise >= train.stop_patience


def best_row(history: Sequence[Mapping[str, Any]], select: str = "loss") -> Mapping[str, Any] | None:
    """The epoch of the lowest `chosen_by`: the first of them; None without validation."""
    scored = [row for row in history if chosen_by(row, select) is not None]
    return min(scored, key=lambda row: chosen_by(row, select)) if scored else None
