"""What a person sees of a training while it runs: the progress bar's text, TensorBoard's scalars and pictures.

Knows no network: whoever trains brings the numbers and the predicted tissues. What is kept of a run to be
computed with is `runs`'; nothing reads these files but eyes.
"""

import contextlib
import dataclasses
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfbrats.cases import overlays
from tfbrats.distribution.replicas import dice
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, Tissue, region_mask
from tfbrats.machine import files
from tfbrats.pictures import captions
from tfbrats.runs import epochs
from tfbrats.terminal import bars

# --- TensorBoard ----------------------------------------------------------------------------------------

# TensorBoard reads what has "tfevents" in its name, in the order of names: that of the epochs, whatever the
# clocks of the machines that trained them.
_FILE = "events.out.tfevents.epoch-{:06d}"
_FILE_NAME = re.compile(r"events\.out\.tfevents\.epoch-(\d+)")
_NOT_DRAWN = ("epoch", "steps")  # the axis, and a constant
_OLDER_TAGS = (  # of versions before `epochs.tag`, with the column that each showed
    (r"loss/training", "loss"),
    (r"loss/validation", "validation_loss"),
    (r"loss/training_(loss\d|auxiliary)", r"\1"),
    (r"loss/training_(\w+)", r"loss_\1"),
    (r"dice/training(/\w+)?", r"training_dice\1"),
    (r"dice/validation(/\w+)?", r"dice\1"),
)


def _tag_today(tag: str) -> str:
    """What a tag of a file is called today."""
    for pattern, column in _OLDER_TAGS:
        if match := re.fullmatch(pattern, tag):
            return epochs.tag(match.expand(column).replace("/", "_").lower())
    return tag


class Board:
    """TensorBoard's folder of one network. An epoch is one file, so that no epoch is told twice or not at all.

    Called before the checkpoint that ends an epoch: a run killed in between trains the epoch again and its
    file is written anew.

    Args:
        folder: local or gs://, e.g. runs/cun/tb; made when the first epoch is written.
    """

    def __init__(self, folder: str | os.PathLike):
        self._folder = os.fspath(folder)

    def write_epoch(self, row: Mapping[str, Any], drawn: Mapping[str, np.ndarray] | None = None) -> None:
        """Scalars and pictures of one epoch; what the folder has of it and of later ones is deleted first.

        Args:
            row: of the history: "epoch", from 1, and its numbers, by the names of history.csv's columns.
            drawn: uint8 [rows, columns, 3] by name, e.g. `FixedSlice.picture`'s.

        Raises:
            InputError: the disk is full, or the place may not be written to.
        """
        epoch = int(row["epoch"])
        try:
            self._forget_from(epoch)
            with tempfile.TemporaryDirectory() as own:
                with tf.summary.create_file_writer(own).as_default(step=epoch):
                    for column, value in row.items():
                        if column not in _NOT_DRAWN and isinstance(value, Real):
                            tf.summary.scalar(epochs.tag(column), float(value))
                    for name, picture in (drawn or {}).items():
                        tf.summary.image(f"slice/{name}", picture[None], description=_LEGEND)
                (written,) = tf.io.gfile.listdir(own)
                tf.io.gfile.makedirs(self._folder)
                # Whole or not at all, and under a name that TensorBoard does not read before.
                partial = files.join(self._folder, f".epoch-{epoch:06d}{files.PARTIAL}")
                tf.io.gfile.copy(files.join(own, written), partial, overwrite=True)
            tf.io.gfile.rename(partial, files.join(self._folder, _FILE.format(epoch)), overwrite=True)
        except (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
            raise InputError(
                f"{self._folder}: epoch {epoch} cannot be written for TensorBoard "
                f"({error.message.splitlines()[0]}). Make room and run the same command again: it goes on from "
                "the last checkpoint."
            ) from error

    def rename_older(self) -> None:
        """Gives epochs that an older version trained today's tags: else each curve would end where they do."""
        first, *others = sorted(self._epochs().values()) or [""]
        # The first goes last: where this is cut short, it tells the next command that others are left.
        for name in [*others, first] if first and self._events(first)[1] else []:
            events, is_older = self._events(name)
            if is_older:
                partial = files.join(self._folder, f".{name.rpartition('.')[2]}{files.PARTIAL}")
                with tf.io.TFRecordWriter(partial) as writer:
                    for event in events:
                        writer.write(event.SerializeToString())
                tf.io.gfile.rename(partial, files.join(self._folder, name), overwrite=True)

    def _events(self, name: str) -> tuple[list[tf.compat.v1.Event], bool]:
        """What a file holds, under today's tags, and whether one was another; nothing of a damaged file."""
        events, is_older = [], False
        with contextlib.suppress(tf.errors.DataLossError):
            for record in tf.data.TFRecordDataset(files.join(self._folder, name)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                for value in event.summary.value:
                    is_older |= value.tag != _tag_today(value.tag)
                    value.tag = _tag_today(value.tag)
                events.append(event)
            return events, is_older
        return [], False

    def _epochs(self) -> dict[int, str]:
        """The files that there are, by epoch."""
        names = tf.io.gfile.listdir(self._folder) if tf.io.gfile.isdir(self._folder) else []
        return {int(match[1]): name for name in names if (match := _FILE_NAME.fullmatch(name))}

    def _forget_from(self, epoch: int) -> None:
        for there, name in self._epochs().items():
            if there >= epoch:
                tf.io.gfile.remove(files.join(self._folder, name))


# --- the slice that is drawn after every epoch ----------------------------------------------------------

_GAP_PIXELS = 8
# What a binary network says is drawn in the colour of a tissue that tells its region from its parent.
_TISSUE_OF_REGION = {"WT": Tissue.ED, "TC": Tissue.NCR, "ET": Tissue.ET}
_SHOWN_FOR = {"WT": "flair", "TC": "t1ce", "ET": "t1ce"}  # the modality that a region is drawn on
_LEGEND = (  # the colours are overlays.COLOURS
    "Prediction and reference, always of the same slice, one with much tumour: NCR orange, ED "
    "blue, ET yellow, RC green, CC dark blue. A network for one region is drawn in one of these colours."
)


def picture(
    image_hw: np.ndarray, tissues_predicted: np.ndarray, tissues_reference: np.ndarray, region: str = ""
) -> np.ndarray:
    """An axial slice twice, side by side, front on top: left with the prediction, right with the reference.

    Only the head is drawn, so that slices of one image give pictures of one size. Words stand above each half.

    Args:
        image_hw: one modality [H, W], H along i and W along j, any scale, 0 outside the brain.
        tissues_predicted: same shape.
        tissues_reference: same shape.
        region: of a binary network; "" of one that tells tissues apart.

    Returns:
        uint8 [rows, columns, 3], the longer side of each half at least 400 pixels.
    """
    inside = np.argwhere(image_hw != 0)
    box = (slice(None), slice(None))
    grey = np.zeros(image_hw.shape, np.float32)
    if len(inside):
        first, last = inside.min(axis=0), inside.max(axis=0)
        box = tuple(slice(max(low - 2, 0), high + 3) for low, high in zip(first, last, strict=True))
        low, high = np.percentile(image_hw[image_hw != 0], (0.5, 99.5))
        grey = np.where(image_hw == 0, 0, np.clip((image_hw - low) / max(high - low, 1e-6), 0.03, 1))
    left, right = (
        overlays.overlay(grey[box].T, np.asarray(tissues)[box].T, (1, 1))
        for tissues in (tissues_predicted, tissues_reference)
    )
    scores = _slice_dice(np.asarray(tissues_predicted), np.asarray(tissues_reference), region)
    left, right = captions.above(left, "prediction", scores), captions.above(right, "reference")
    gap = np.full((len(left), _GAP_PIXELS, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def _slice_dice(predicted: np.ndarray, reference: np.ndarray, region: str) -> str:
    """E.g. "Dice of this slice: WT 0.81, TC 0.70, ET -": a dash where neither has the region."""
    texts = []
    for name in [region] if region else REGIONS:
        masks = [tissues > 0 if region else region_mask(tissues, name) for tissues in (predicted, reference)]
        both, sizes = (masks[0] & masks[1]).sum(), [mask.sum() for mask in masks]
        texts.append(f"{name} {_score(dice(both, *sizes)) if any(sizes) else '-'}")
    return f"Dice of this slice: {', '.join(texts)}"


@dataclasses.dataclass(frozen=True)
class FixedSlice:
    """The slice, or the plane of a patch, that is drawn after every epoch: always the same one.

    Attributes:
        example: all that the stream gave of it, as a batch of one: name -> [1, ...].
        grey: the modality it is drawn on, float32 [H, W].
        reference: tissues [H, W].
        k: the plane of a patch; None of a slice.
        region: of a binary network, "" of a network that tells tissues apart.
    """

    example: Mapping[str, np.ndarray]
    grey: np.ndarray
    reference: np.ndarray
    k: int | None = None
    region: str = ""

    def picture(self, predicted: np.ndarray) -> np.ndarray:
        """`picture` of it with what the network predicts: tissues [H, W], or of a patch bool [S, S, S]."""
        if self.k is not None:
            predicted = np.asarray(predicted)[:, :, self.k] * np.uint8(_TISSUE_OF_REGION[self.region])
        return picture(self.grey, np.asarray(predicted), self.reference, self.region)


def fixed_slice(batches: Iterable[Mapping[str, np.ndarray]], modalities: Sequence[str]) -> FixedSlice:
    """The slice with the most tumour, the first of them, of some batches of `slice_stream.validation`.

    Raises:
        InputError: there is no slice in them.
    """
    # The first batch alone would not do: the slices of one case, from the lowest, may all be without tumour.
    example = _fullest(batches, lambda batch: region_mask(batch["label"], "WT"))
    return FixedSlice(example, example["image"][0, ..., _shown(modalities, "WT")], example["label"][0])


def fixed_patch(
    batches: Iterable[Mapping[str, np.ndarray]], modalities: Sequence[str], region: str
) -> FixedSlice:
    """The axial plane with most of the region of the patch with most of it, of `patch_stream.validation`'s.

    Raises:
        InputError: there is no patch in them.
    """
    example = _fullest(batches, lambda batch: batch["target"] > 0)
    target = example["target"][0] > 0
    counts = target.sum(axis=(0, 1))
    k = int(counts.argmax()) if counts.any() else target.shape[2] // 2
    grey = example["x1"][0, :, :, k, _shown(modalities, region)].astype(np.float32)
    reference = target[:, :, k] * np.uint8(_TISSUE_OF_REGION[region])
    return FixedSlice(example, grey, reference, k, region)


def _shown(modalities: Sequence[str], region: str) -> int:
    """The channel that a region is drawn on; the first where the best one for it is missing."""
    modality = _SHOWN_FOR[region]
    return list(modalities).index(modality) if modality in modalities else 0


def _fullest(batches: Iterable[Mapping[str, np.ndarray]], marked) -> dict[str, np.ndarray]:
    """The example with most voxels in `marked(batch)`, as a batch of one; never one that is only filling."""
    example, most = None, -1
    for batch in batches:
        batch = {name: np.asarray(values) for name, values in batch.items()}
        counts = marked(batch).reshape(len(batch["valid"]), -1).sum(axis=1)
        counts = np.where(batch["valid"] > 0, counts, -1)
        n = int(counts.argmax())
        if counts[n] > most:
            most = counts[n]
            example = {name: values[n : n + 1].copy() for name, values in batch.items()}
    if example is None:
        raise InputError("No validation example to draw: the split is empty. Give it cases.")
    return example


# --- progress bar and pace ------------------------------------------------------------------------------

_LINE = "{desc} |{bar}| {n_fmt}/{total_fmt} ETA {remaining}{postfix}"
_LONGEST_FIXED = " |#| / ETA 0:00:00, "
_PACE_STEPS = 20  # after these a training says how long the rest will take
_PARTS = ("loss1", "loss2", "auxiliary", "loss_combination", "loss_region", "loss_boundary")


def progress_bar(steps: int, first: int, text: str, hidden: bool | None = None) -> tqdm:
    """One bar for an epoch of `steps`, of which `first` were done before; `show` gives it its numbers.

    It is gone when the epoch is over: its line of the table (`runs.epochs`) stays.

    Args:
        text: e.g. "WT epoch 3/10".
        hidden: True shows nothing.
    """
    return bars.bar(
        total=steps, initial=first, desc=text, unit="step", leave=False, hidden=hidden, bar_format=_LINE
    )


def validation_bar(steps: int, text: str, hidden: bool | None = None) -> tqdm:
    """One bar for a validation of `steps`, gone when it is over; args as `progress_bar`'s."""
    return bars.bar(total=steps, desc=text, unit="step", leave=False, hidden=hidden)


def show(bar: tqdm, sums: Mapping[str, float], steps: int, global_batch: int, unit: str) -> None:
    """Puts into the bar what the epoch came to so far; it is drawn with the next `bar.update`.

    Args:
        sums: of the training step's numbers over the `steps` of the epoch that are done.
        global_batch: examples a step.
        unit: "slices" or "patches".
    """
    if bar.disable:
        return
    now = bar.format_dict
    done = now["n"] - now["initial"]
    rate = now["rate"] or (done / now["elapsed"] if now["elapsed"] else 0.0)
    fixed = len(f"{bar.desc}{_LONGEST_FIXED}") + 2 * len(str(bar.total))
    room = (now["ncols"] or bars.COLUMNS) - fixed
    bar.set_postfix_str(postfix(sums, steps, unit, rate * global_batch, room), refresh=False)


def postfix(sums: Mapping[str, float], steps: int, unit: str, per_second: float, room: int) -> str:
    """Loss, its parts, Dice of the training batches and speed, as many of them as fit; means over the epoch.

    Args:
        sums: as for `show`.
        steps: how many they are over.
        unit: of the examples.
        per_second: examples a second; 0 leaves it out.
        room: characters; the loss stands there even if they are fewer.
    """
    loss = f"loss {_short(sums['loss'] / steps)}"
    parts = "".join(f" {epochs.words(name)} {_short(sums[name] / steps)}" for name in _PARTS if name in sums)
    scores, of_training = training_dice(sums), epochs.words("training_dice")
    plain = " ".join((of_training, *(_score(score) for score in scores.values()))) if scores else ""
    named = " ".join((of_training, *(f"{region} {_score(score)}".strip() for region, score in scores.items())))
    pace, short = "", ""
    if per_second:
        pace, short = f"{_short(per_second)} {unit}/s", f"{_short(per_second)}/s"
    for pieces in (
        (loss + parts, named if scores else "", pace),
        (loss + parts, plain, pace),
        (loss + parts, plain, short),
        (loss, plain, pace),
        (loss, plain, short),
        (loss, plain),
    ):
        text = ", ".join(filter(None, pieces))
        if len(text) <= room:
            return text
    return loss


class Pace:
    """Seconds a step, from the first steps of this process but the very first, which compiles."""

    def __init__(self):
        self._steps, self._seconds, self._began = 0, 0.0, 0.0

    def begin_step(self) -> None:
        """A step begins now, with the wait for its batch."""
        self._began = time.monotonic()

    def after_step(self) -> float | None:
        """The mean when it is known, once; else None."""
        self._seconds += time.monotonic() - self._began if self._steps else 0.0
        self._steps += 1
        return self._seconds / _PACE_STEPS if self._steps == 1 + _PACE_STEPS else None


def forecast(pace: str, seconds: float, epochs: int, peak_bytes: Mapping[str, int]) -> str:
    """What the rest of a training will take, for a person who may want to think again.

    Args:
        pace: e.g. "61.2 slices/s".
        seconds: to the end of the last of `epochs`.
        peak_bytes: `devices.peak_bytes`.
    """
    memory = ", ".join(f"{place} {size / 2**30:.1f} GiB" for place, size in peak_bytes.items())
    return (
        f"pace        {pace} over {_PACE_STEPS} steps; about {tqdm.format_interval(seconds)} to the end of "
        f"epoch {epochs}; peak memory: {memory}"
    )


def training_dice(sums: Mapping[str, float]) -> dict[str, float]:
    """Region ("" for a network of one region) -> Dice, from the training step's sums of "overlap_..."."""
    scores = {}
    for region in ("", *REGIONS):
        names = [
            "_".join(filter(None, ("overlap", region.lower(), what)))
            for what in ("both", "predicted", "reference")
        ]
        if names[0] in sums:
            scores[region] = dice(*(sums[name] for name in names))
    return scores


def _short(value: float) -> str:
    """Three digits: 12.3, 1.23, 0.123; 1234 and 1e-04 as they are."""
    size = abs(value)
    if size >= 1:
        return f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2}f}"
    return f"{value:.3f}" if size >= 0.001 or size == 0 else f"{value:.0e}"


def _score(value: float) -> str:
    return f"{value:.2f}"
