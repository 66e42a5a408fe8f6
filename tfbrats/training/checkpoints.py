"""Checkpoints that outlive a bad disk: of a damaged one, the one before is taken, and that is said.

TensorFlow writes a checkpoint under temporary names and renames it, so a killed write leaves no checkpoint.
What this file adds is for those that were whole once: cut short by a full disk or a copy, or with a flipped
bit. Every tensor is read, with its checksum, before a checkpoint counts as whole.
"""

import os
import re
import sys
import time

import tensorflow as tf
from google.protobuf import text_format

from tfbrats.errors import InputError
from tfbrats.machine import files, literal
from tfbrats.terminal import style

PREFIX = "ckpt"
_LIST = "checkpoint"
_NUMBERED = re.compile(rf"{PREFIX}-(\d+)\.index")
# What TensorFlow calls what it has not finished: a folder, and files with a longer ending.
_LEFT_FOLDER = re.compile(rf"{PREFIX}-\d+_temp")
_LEFT_FILE = re.compile(rf"{PREFIX}-\d+\..*\.tempstate\d+")
_READ_BYTES = 2**24


class AllDamaged(InputError):
    """There are checkpoints, and none of them can be read."""


def number(path: str | os.PathLike) -> int:
    """The N of .../ckpt-N."""
    return int(os.fspath(path).rpartition("-")[2])


def paths_in(folder: str | os.PathLike) -> list[str]:
    """The checkpoints in a folder, newest first, damaged ones too: paths without ".index"."""
    if not files.is_folder(folder):
        return []
    names = map(files.name, files.walk(folder))
    numbers = [int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name))]
    return [files.join(folder, f"{PREFIX}-{n}") for n in sorted(numbers, reverse=True)]


def damage(path: str) -> str:
    """What is wrong with a checkpoint, in TensorFlow's words; "" if every tensor is as it was written.

    Raises:
        InputError: it cannot be read now, which says nothing about it.
    """
    readable = literal.file(path)
    try:
        reader = tf.train.load_checkpoint(readable)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except MemoryError as error:
        raise _unreadable(path, "not enough memory") from error
    # The reader raises errors of its own kind, of tensors as of files: none of them is about our code.
    except (tf.errors.OpError, RuntimeError, ValueError, IndexError) as error:
        _check_readable(path)
        return str(error).partition("\n")[0].replace(readable, path) or type(error).__name__
    return ""


def restore(checkpoint: tf.train.Checkpoint, path: str):
    """`checkpoint.restore(path)`, whatever the folder's name."""
    return checkpoint.restore(literal.file(path))


def _check_readable(path: str) -> None:
    """Raises InputError if the bytes of a checkpoint cannot be had: TensorFlow calls that damage too."""
    for file in files.walk(files.parent(path)):
        if not files.name(file).startswith(f"{files.name(path)}."):
            continue
        try:
            with tf.io.gfile.GFile(file, "rb") as opened:
                while opened.read(_READ_BYTES):
                    pass
        except tf.errors.NotFoundError:
            continue  # gone by now: that is damage
        except tf.errors.OpError as error:
            raise _unreadable(path, error.message.partition("\n")[0]) from error


def _unreadable(path: str, why: str) -> InputError:
    return InputError(
        f"{path}: the checkpoint cannot be read now ({why}). Run the same command again when it can; or remove "
        "it, and the one before it is taken."
    )


def newest_whole(folder: str | os.PathLike, up_to: int | None = None) -> str | None:
    """The newest checkpoint in a folder that is whole; None if the folder holds none.

    Prints a line to stderr for each damaged one that it passes over.

    Args:
        up_to: later numbers do not count.

    Raises:
        AllDamaged: there are checkpoints, and none is whole.
        InputError: one cannot be read now.
    """
    passed_over = []
    for path in paths_in(folder):
        if up_to is not None and number(path) > up_to:
            continue
        fault = damage(path)
        if not fault:
            for damaged, why in passed_over:
                lines = f"{damaged}: damaged ({why}). The one before it is taken instead: {path}."
                print(style.warning(lines, sys.stderr), file=sys.stderr)
            return path
        passed_over.append((path, fault))
    if passed_over:
        listed = "\n  ".join(f"{path}: {why}" for path, why in passed_over)
        raise AllDamaged(
            f"{folder}: no checkpoint here can be read:\n  {listed}\nRestore them from a copy, or start again "
            "with another --run or with --overwrite."
        )
    return None


class Manager(tf.train.CheckpointManager):
    """Saves `checkpoint` into `folder` and keeps the newest `keep`, those that lie there already included.

    Attributes:
        folder: as it was given; TensorFlow may know it by another name.
        saved_at: when it last saved, by `time.monotonic`; at first, when it was made.
    """

    def __init__(self, checkpoint: tf.train.Checkpoint, folder: str, keep: int):
        self.folder, self.saved_at = folder, time.monotonic()
        if (directory := literal.folder(folder)) != folder:
            os.makedirs(folder, exist_ok=True)  # a link is no folder before
        super().__init__(checkpoint, directory, max_to_keep=keep, checkpoint_name=PREFIX)

    @property
    def minutes_since_save(self) -> float:
        return (time.monotonic() - self.saved_at) / 60


def tidy(folder: str, newest: str | None) -> None:
    """Makes TensorFlow's list in `folder` name what is whole, and removes what a killed write left.

    For the one process that writes there, before its `Manager`. Damaged checkpoints stay, and count as nothing.

    Args:
        newest: `newest_whole`'s answer.
    """
    paths = [path for path in paths_in(folder)[::-1] if newest and number(path) <= number(newest)]
    listed = tf.train.get_checkpoint_state(folder)
    if (list(listed.all_model_checkpoint_paths) if listed else []) != paths:
        if paths:
            _write_list(folder, [files.name(path) for path in paths])
        else:
            files.remove(files.join(folder, _LIST))
    for path in files.walk(folder) if files.is_folder(folder) else ():
        name, inside = files.name(path), files.name(files.parent(path))
        if (_LEFT_FOLDER.fullmatch(inside) and name.startswith("part-")) or _LEFT_FILE.fullmatch(name):
            files.remove(path)


def _write_list(folder: str, names: list[str]) -> None:
    """TensorFlow's list, by names alone: so it is true in whatever folder it lies later."""
    # A manager keeps no account of paths without a time.
    times = [float(number(name)) for name in names]
    state = tf.compat.v1.train.generate_checkpoint_state_proto(
        ".", names[-1], names, all_model_checkpoint_timestamps=times, last_preserved_timestamp=0.0
    )
    files.write_bytes(files.join(folder, _LIST), text_format.MessageToString(state).encode())


def forget_after(folder: str, last: int) -> None:
    """Removes the checkpoints with later numbers than `last`."""
    later = [f"{files.name(path)}." for path in paths_in(folder) if number(path) > last]
    for path in files.walk(folder) if later else ():
        if files.name(path).startswith(tuple(later)):
            files.remove(path)


def save(manager: Manager, **options) -> None:
    """Raises InputError where the disk refuses."""
    try:
        manager.save(**options)
        manager.saved_at = time.monotonic()
    except (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
        reason = error.message.splitlines()[0]
        raise InputError(
            f"{manager.folder}: the checkpoint cannot be written ({reason}). Make room and run the same "
            "command again: it goes on from the checkpoint before."
        ) from error
