"""Checkpoints that outlive a bad disk: of a damaged one, the one before is taken, and that is said.

TensorFlow writes a checkpoint under temporary names and renames it, so a killed write leaves no checkpoint.
What this file adds is for those that were whole once: cut short by a full disk or a copy, or with a flipped
bit. Every tensor is read, with its checksum, before a checkpoint counts as whole.
"""

import os
import re
import sys

import tensorflow as tf

from tfbrats import files
from tfbrats.command import InputError

PREFIX = "ckpt"
_NUMBERED = re.compile(rf"{PREFIX}-(\d+)\.index")


def number(path: str | os.PathLike) -> int:
    """The N of .../ckpt-N."""
    return int(os.fspath(path).rpartition("-")[2])


def found(folder: str | os.PathLike) -> list[str]:
    """The checkpoints in a folder, newest first, damaged ones too: paths without ".index"."""
    if not files.is_folder(folder):
        return []
    names = map(files.name, files.walk(folder))
    numbers = [int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name))]
    return [files.join(folder, f"{PREFIX}-{n}") for n in sorted(numbers, reverse=True)]


def damage(path: str) -> str:
    """What is wrong with a checkpoint, in TensorFlow's words; "" if every tensor is as it was written."""
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    # The reader raises errors of its own kind, of tensors as of files: none of them is about our code.
    except (tf.errors.OpError, RuntimeError, ValueError, IndexError, MemoryError) as error:
        return str(error).splitlines()[0] or type(error).__name__
    return ""


def newest_whole(folder: str | os.PathLike) -> str | None:
    """The newest checkpoint in a folder that can be read; None if the folder holds none.

    Prints a line to stderr for each damaged one that it passes over.

    Raises:
        InputError: there are checkpoints, and all of them are damaged.
    """
    passed_over = []
    for path in found(folder):
        fault = damage(path)
        if not fault:
            for damaged, why in passed_over:
                print(
                    f"WARNING: {damaged}: damaged ({why}). The one before it is taken instead: {path}.",
                    file=sys.stderr,
                )
            return path
        passed_over.append((path, fault))
    if passed_over:
        listed = "\n  ".join(f"{path}: {why}" for path, why in passed_over)
        raise InputError(
            f"{folder}: no checkpoint here can be read:\n  {listed}\nRestore them from a copy, or start again "
            "with another --run or with --overwrite."
        )
    return None


def manager(checkpoint: tf.train.Checkpoint, folder: str, keep: int) -> tf.train.CheckpointManager:
    """Saves `checkpoint` into `folder` and keeps the newest `keep`, those that lie there already included."""
    return tf.train.CheckpointManager(checkpoint, folder, max_to_keep=keep, checkpoint_name=PREFIX)


def tidy(folder: str) -> None:
    """Makes TensorFlow's list in `folder` say what lies there, oldest first; removes what a killed write left.

    For the one process that writes there, before its `manager`.
    """
    paths = found(folder)[::-1]
    listed = tf.train.get_checkpoint_state(folder)
    if paths and (listed is None or list(listed.all_model_checkpoint_paths) != paths):
        tf.compat.v1.train.update_checkpoint_state(folder, paths[-1], all_model_checkpoint_paths=paths)
    if files.is_folder(folder):
        for path in files.walk(folder):
            if "_temp/" in path or "tempstate" in path:
                files.remove(path)


def save(manager: tf.train.CheckpointManager, **options) -> None:
    """Raises InputError where the disk refuses."""
    try:
        manager.save(**options)
    except (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
        reason = error.message.splitlines()[0]
        raise InputError(
            f"{manager.directory}: the checkpoint cannot be written ({reason}). Make room and run the same "
            "command again: it goes on from the checkpoint before."
        ) from error
