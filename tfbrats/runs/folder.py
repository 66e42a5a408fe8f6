"""What a run folder holds and how it is named, written and read. No TensorFlow.

runs/<name>/config.yaml         the config, resolved
            environment.json    versions and machine
            splits.json         which case was trained, validated, tested on, with a hash
            records.json        what the training data was: edition, spacing, modalities
            history.csv         a row per epoch: the same however often the run was stopped
            timing.csv          how long each took
            tb/                 TensorBoard
            trained_on.json     hash of the records
            checkpoints/last/   to go on from, and the one before
            checkpoints/best/   the lowest validation loss, what is exported; and the one before
            .training           the lock of the one command that trains here

Paper B trains three networks: what belongs to one (from history.csv down) lies in wt/, tc/ and et/.
"""

import csv
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

HISTORY = "history.csv"
TIMING = "timing.csv"
LOCK = ".training"
_CONFIG = "config.yaml"
_PACKAGES = ("tensorflow", "keras", "numpy", "nibabel", "SimpleITK", "apache-beam")
# These may change between a run and its continuation; the rest is what makes it that run.
# The batch of a replica may, where the number of replicas does: `training` looks at what comes of both.
_MAY_CHANGE = (
    *("train.epochs", "train.checkpoint_minutes", "train.strategy", "train.batch_size"),
    *("data.records", "run.dir"),
)


def home_of(config: Config, region: str = "") -> str:
    """Where history and checkpoints of a network lie: the run folder, or the region's folder in it."""
    return files.join(config.run.dir, region.lower()) if region else config.run.dir


def checkpoints(run: str | os.PathLike, which: str) -> str:
    """Folder of the "last" or "best" checkpoints."""
    return files.join(run, "checkpoints", which)


def board(run: str | os.PathLike) -> str:
    """Folder of TensorBoard's events."""
    return files.join(run, "tb")


def start(run: str | os.PathLike, config: Config, overwritten: Sequence[str] = ()) -> None:
    """Makes the run folder and writes its config and environment, or checks that it is this run's.

    The config of a run that goes on stays as it is.

    Args:
        overwritten: folders to delete first: the run folder or parts of it, if it holds a run.

    Raises:
        InputError: the folder holds a run of another config, or something else.
    """
    path = files.join(run, _CONFIG)
    if os.fspath(run) in overwritten and files.exists(path):
        files.clear(run, (LOCK, _CONFIG))
        files.remove(path)  # the last: without it the rest is no run any more
    # Before a part goes, what stays must be of the same run.
    check(run, config)
    for part in overwritten:
        files.clear(part, (LOCK,))
    if not files.exists(path):
        write_config(run, config)
    files.write_json(files.join(run, "environment.json"), environment())


def write_config(run: str | os.PathLike, config: Config) -> None:
    """The run's config, or what has changed in it since: for when it is sure that the run goes on with it."""
    files.write_bytes(files.join(run, _CONFIG), config.to_yaml().encode())


def check(run: str | os.PathLike, config: Config) -> None:
    """Raises InputError unless the folder is free or holds a run of this config."""
    if files.exists(files.join(run, _CONFIG)):
        found = [
            line
            for line in differences(config.model_dump(mode="json"), read_config(run).model_dump(mode="json"))
            if not line.startswith(_MAY_CHANGE)
        ]
        if found:
            raise InputError(
                f"{run}: holds a run of another config:\n  "
                + "\n  ".join(found)
                + "\nChoose another --run, or pass --overwrite"
                + (" without region=" if config.whole.regions != ("",) else "")
                + " to delete that one."
            )
    # Another machine that shares the run may be writing its config.yaml at this moment.
    elif files.is_folder(run) and any(
        files.PARTIAL not in files.name(path) and files.name(path) != LOCK for path in files.walk(run)
    ):
        raise InputError(f"{run}: not empty, and not a run (no config.yaml). Choose another --run.")


def environment() -> dict[str, Any]:
    return {
        "tfbrats": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "command": sys.argv,
    }


def read_config(run: str | os.PathLike) -> Config:
    """Raises InputError: there is no run here."""
    path = files.join(run, _CONFIG)
    if not files.exists(path):
        raise InputError(f"{run}: no run here (no config.yaml). Train one with python -m tfbrats.train.")
    return load(path)


def read_history(run: str | os.PathLike) -> list[dict[str, str]]:
    """The rows of history.csv, oldest first; none before the first epoch has ended."""
    return _rows(files.join(run, HISTORY))


def read_timing(run: str | os.PathLike) -> list[dict[str, str]]:
    """The rows of timing.csv: how long each epoch trained, examples a second; none before one has ended."""
    return _rows(files.join(run, TIMING))


def _rows(path: str) -> list[dict[str, str]]:
    if not files.exists(path):
        return []
    return list(csv.DictReader(io.StringIO(files.read_bytes(path).decode())))


def rises(history: Sequence[Mapping[str, Any]], stop_rise: float) -> int:
    """Over how many epochs on end the validation loss has been over (1 + stop_rise) x the best before."""
    best, count = math.inf, 0
    for row in history:
        if row.get("validation_loss"):
            loss = float(row["validation_loss"])
            count = count + 1 if loss > (1 + stop_rise) * best else 0
            best = min(best, loss)
    return count


def is_over(history: Sequence[Mapping[str, Any]], config: Config) -> bool:
    """Whether a network has had all its epochs, or was stopped by an obvious rise of its validation loss."""
    train = config.train
    return len(history) >= train.epochs or rises(history, train.stop_rise) >= train.stop_patience


def unfinished(config: Config) -> dict[str, int]:
    """The networks of a run that are not done yet: region ("" where there is one network) -> epochs so far."""
    histories = {region: read_history(home_of(config, region)) for region in config.whole.regions}
    return {region: len(rows) for region, rows in histories.items() if not is_over(rows, config)}


def check_finished(folder: str | os.PathLike) -> None:
    """Raises InputError if a run has networks not done yet: training that is asked to stop exits with 0."""
    config = read_config(folder)
    here = config.run.model_copy(update={"dir": os.fspath(folder)})
    if left := unfinished(config.model_copy(update={"run": here})):
        which = f" ({', '.join(left)})" if all(left) else ""
        raise InputError(
            f"{folder}: the training was stopped before its end{which}. The same command goes on from there."
        )


def best_row(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The epoch of the lowest validation loss: the first of them; None without validation."""
    scored = [row for row in history if row.get("validation_loss")]
    return min(scored, key=lambda row: float(row["validation_loss"])) if scored else None


def write_history(
    run: str | os.PathLike, rows: Sequence[Mapping[str, Any]], timing: Sequence[Mapping[str, Any]]
) -> None:
    """Writes all rows anew: a killed run never leaves half a line, a resumed one no line twice.

    How long the epochs took has a file of its own, so that history.csv does not depend on it. Without rows
    there are no files.
    """
    for name, table in ((TIMING, timing), (HISTORY, rows)):
        if not table:
            files.remove(files.join(run, name))
            continue
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        files.write_bytes(files.join(run, name), text.getvalue().encode())
