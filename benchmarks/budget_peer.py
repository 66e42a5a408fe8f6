"""MONAI's side of `budget.py`: one network trained until the time is over, then the held-out case segmented.

slices     BasicUNet in 2-D with MONAI's own widths, four classes, DiceCELoss with softmax. Its batches are
           those of our `slice_stream.training`: same records, same turning and flipping, same batch.
volumes    SegResNet in 3-D as MONAI's BraTS tutorial builds it, three sigmoid outputs WT, TC, ET, Dice and
           binary cross-entropy. Its patches are drawn by our rule (`tfbrats.cases.patches`) for WT, TC and ET
           in turn, x1 alone, from the same volumes; unlike ours, each is learned with all three of its masks.
Dice is summed over the batch, since many slices and patches lack a region. Adam; its rate falls along a cosine
over the time that is spent, so that the schedule ends when the time does.

try        seconds of a training step in either memory format, on made-up data: the faster one is taken
train      until --seconds have passed since this process began, libraries and waiting for data included
predict    the held-out case: prepared by `tfbrats.cases.preprocess`, whole slices or MONAI's sliding window
           with our stride and threshold, fused by the rule of our segmenters, written by `tfbrats.cases.case`

Peers have no say in records, labels or scores: `budget.py` calls our commands for those.
"""

import time

_BEGAN = time.monotonic()  # before the libraries are loaded: that counts

import dataclasses  # noqa: E402 (the clock starts first)
import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import pathlib  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402

import numpy as np  # noqa: E402

from tfbrats import config_file  # noqa: E402
from tfbrats.cases import boxes, case, patches, preprocess  # noqa: E402
from tfbrats.config import Config, PatchConfig  # noqa: E402
from tfbrats.datasets import layouts  # noqa: E402
from tfbrats.errors import InputError  # noqa: E402
from tfbrats.labels import REGIONS, Tissue, region_mask  # noqa: E402
from tfbrats.machine import files  # noqa: E402
from tfbrats.records import schema, tfrecord  # noqa: E402
from tfbrats.records.manifest import read_manifest  # noqa: E402
from tfbrats.terminal import command  # noqa: E402

WEIGHTS, NOTES = "weights.pt", "trained.json"
LEARNING_RATE = 1e-3  # chosen beforehand, for a short training; the tutorial's 1e-4 is for 300 epochs
_TRIAL_STEPS = 3  # in either memory format, after one that warms up
_AT_ONCE = 4  # slices or tiles of a forward pass
_MULTIPLE = 16  # BasicUNet has four poolings

Batches = Iterator[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Peer:
    """A network of MONAI's and how it learns.

    Attributes:
        network: torch.nn.Module, channels first.
        loss: (logits, target as a tensor) -> scalar; the target's shape is that of the batches.
    """

    network: object
    loss: Callable


def _torch():
    """The torch module, on all cores that this process may use.

    Raises:
        InputError: PyTorch or MONAI is missing.
    """
    # PyTorch's optimizers load Triton, whose LLVM and TensorFlow's end a process that holds both, and MONAI
    # loads TensorFlow where it finds it. Triton compiles for GPUs alone: nothing here is slower without it.
    sys.modules.setdefault("triton", None)
    try:
        import monai  # noqa: F401 (only to see that it is there)
        import torch
    except ImportError as error:
        raise InputError(f"MONAI's side needs monai and torch ({error}): pip install monai.") from error
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    return torch


# --- what learns ----------------------------------------------------------------------------------------


def peer_of(config: Config) -> Peer:
    """BasicUNet for slices, SegResNet for volumes; fresh weights from config.train.seed."""
    torch = _torch()
    from monai import losses
    from monai.networks import nets

    torch.manual_seed(config.train.seed)
    modalities = len(config.data.modalities)
    if not isinstance(config, PatchConfig):
        network = nets.BasicUNet(spatial_dims=2, in_channels=modalities, out_channels=4)
        dice_and_entropy = losses.DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
        return Peer(network, lambda logits, target: dice_and_entropy(logits, target[:, None].long()))
    network = nets.SegResNet(
        spatial_dims=3,
        init_filters=16,
        in_channels=modalities,
        out_channels=len(REGIONS),
        dropout_prob=0.2,
        blocks_down=(1, 2, 2, 4),
        blocks_up=(1, 1, 1),
    )
    dice = losses.DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-5, batch=True)
    # DiceCELoss would take the softmax of three outputs that are no classes.
    entropy = torch.nn.BCEWithLogitsLoss()
    return Peer(network, lambda logits, target: dice(logits, target.float()) + entropy(logits, target.float()))


# --- what it learns from --------------------------------------------------------------------------------


def slice_batches(folder: str, config: Config) -> Batches:
    """Our own stream, pass after pass: image float32 [N, H, W, M], tissues uint8 [N, H, W]."""
    import tensorflow as tf

    from tfbrats.batches import slice_stream
    from tfbrats.batches.stream import Share

    tf.config.set_visible_devices([], "GPU")
    manifest, batch = read_manifest(folder), config.train.batch_size
    epoch = 0
    while True:
        stream = slice_stream.training(manifest, config, epoch, Share(batch))
        for one in stream.take(max(1, manifest.count("train") // batch)).as_numpy_iterator():
            tissues = one["label"]
            yield one["image"], np.where(tissues <= Tissue.ET, tissues, 0)
        epoch += 1


def patch_batches(folder: str, config: PatchConfig) -> Batches:
    """Patches of the stored volumes: image float32 [N, S, S, S, M], masks of WT, TC, ET uint8 [N, 3, S, S, S].

    A round takes `data.patches_per_read` patches of every volume for every region, shuffled; centres are those
    of `patches.centres`.
    """
    volumes = [
        schema.decode(schema.VOLUMES, content)
        for shard in read_manifest(folder).shards_of("train")
        for content in tfrecord.read_records(files.join(folder, shard.file))
    ]
    rng, sampling = np.random.default_rng(config.train.seed), config.sampling
    size, batch = sampling.patch_size, config.train.batch_size
    waiting: list[tuple[dict, np.ndarray]] = []
    while True:
        for volume in volumes:
            for region in REGIONS:
                label = volume["label"]
                box = patches.parent_box(label, region, config.cascade.margin)
                box = patches.jittered(box, sampling.box_jitter, label.shape, rng)
                count = config.data.patches_per_read
                drawn = patches.centres(label, region, box, count, sampling.region_fraction, rng)
                waiting += [(volume, centre) for centre in drawn]
        rng.shuffle(waiting)
        while len(waiting) >= batch:
            taken, waiting = waiting[:batch], waiting[batch:]
            starts = [centre - size // 2 for _, centre in taken]
            pairs = list(zip((volume for volume, _ in taken), starts, strict=True))
            image = np.stack([patches.window(volume["image"], start, size) for volume, start in pairs])
            tissues = np.stack([patches.window(volume["label"], start, size) for volume, start in pairs])
            masks = np.stack([region_mask(tissues, region) for region in REGIONS], axis=1)
            yield image.astype(np.float32), masks.astype(np.uint8)


# --- training -------------------------------------------------------------------------------------------


def rate_at(spent: float) -> float:
    """The learning rate when this share of the time is spent: a cosine from LEARNING_RATE down to 0."""
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * min(max(spent, 0.0), 1.0)))


class _Learner:
    """A peer with its optimizer, in one memory format."""

    def __init__(self, config: Config, channels_last: bool):
        torch = _torch()
        self._torch, self.peer = torch, peer_of(config)
        dimensions = 3 if isinstance(config, PatchConfig) else 2
        self._last = torch.channels_last_3d if dimensions == 3 else torch.channels_last
        self._format = self._last if channels_last else torch.contiguous_format
        self.network = self.peer.network.to(memory_format=self._format).train()
        self.optimizer = torch.optim.Adam(self.network.parameters(), LEARNING_RATE)

    def as_input(self, image: np.ndarray):
        """[N, ..., M] -> a tensor [N, M, ...] in the network's memory format."""
        tensor = self._torch.from_numpy(image)
        return tensor.permute(0, -1 % image.ndim, *range(1, image.ndim - 1)).contiguous(
            memory_format=self._format
        )

    def step(self, image: np.ndarray, target: np.ndarray, rate: float = LEARNING_RATE) -> float:
        """One update; the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.peer.loss(self.network(self.as_input(image)), self._torch.from_numpy(target))
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def tried(config: Config) -> dict[str, float]:
    """Seconds of a training step by memory format, on made-up data."""
    rng, batch, modalities = np.random.default_rng(0), config.train.batch_size, len(config.data.modalities)
    if isinstance(config, PatchConfig):
        shape = (config.sampling.patch_size,) * 3
        target = rng.integers(0, 2, (batch, len(REGIONS), *shape), np.uint8)
    else:
        shape = config.records.slice_shape
        target = rng.integers(0, 4, (batch, *shape), np.uint8)
    image = rng.normal(size=(batch, *shape, modalities)).astype(np.float32)
    found = {}
    for name in ("contiguous", "channels_last"):
        learner = _Learner(config, name == "channels_last")
        learner.step(image, target)
        took = []
        for _ in range(_TRIAL_STEPS):
            began = time.monotonic()
            learner.step(image, target)
            took.append(time.monotonic() - began)
        found[name] = statistics.median(took)
    return found


def train(folder: str, config: Config, output: pathlib.Path, seconds: float, channels_last: bool) -> None:
    """Trains until the time is over and writes WEIGHTS, then NOTES.

    Raises:
        InputError: not one step fits into the time, or the loss is no number.
    """
    learner = _Learner(config, channels_last)
    batches = (patch_batches if isinstance(config, PatchConfig) else slice_batches)(folder, config)
    steps, waited, longest, total, said = 0, 0.0, 0.0, 0.0, time.monotonic()
    while (now := time.monotonic()) - _BEGAN + longest < seconds:
        image, target = next(batches)
        waited += time.monotonic() - now
        loss = learner.step(image, target, rate_at((now - _BEGAN) / seconds))
        if not math.isfinite(loss):
            raise InputError(f"step {steps + 1}: the loss is {loss}.")
        steps, total = steps + 1, total + loss
        if steps > 1:  # the first one also sets things up
            longest = max(longest, time.monotonic() - now)
        if time.monotonic() - said > 60:
            spent = (time.monotonic() - _BEGAN) / 60
            print(f"{spent:.0f} min  {steps} steps  mean loss {total / steps:.4f}", flush=True)
            said = time.monotonic()
    if not steps:
        raise InputError(f"no step fits into {seconds:g} s. Give more --minutes.")
    torch = _torch()
    torch.save(learner.network.state_dict(), output / WEIGHTS)
    found = {
        "network": type(learner.network).__name__,
        "parameters": sum(one.numel() for one in learner.network.parameters()),
        "steps": steps,
        "examples": steps * config.train.batch_size,
        "seconds": round(time.monotonic() - _BEGAN, 1),
        "waited_for_data_s": round(waited, 1),
        "mean_loss": total / steps,
        "channels_last": channels_last,
    }
    files.write_json(output / NOTES, found)
    print(json.dumps(found))


# --- the held-out case ----------------------------------------------------------------------------------


def _from_slices(learner: _Learner, ready: preprocess.Prepared, canvas: Sequence[int]) -> np.ndarray:
    """Tissues uint8 [I, J, K]: the likeliest class of every pixel, slice by slice."""
    image = boxes.uncrop(ready.image, ready.box_ijk, ready.shape_ijk)
    sides = [
        max(least, -(-size // _MULTIPLE) * _MULTIPLE) for least, size in zip(canvas, image.shape, strict=False)
    ]
    before = [(side - size) // 2 for side, size in zip(sides, image.shape, strict=False)]
    inside = tuple(slice(low, low + size) for low, size in zip(before, image.shape, strict=False))
    tissues = np.zeros(image.shape[:3], np.uint8)
    low, high = ready.box_ijk[2]
    for first in range(low, high, _AT_ONCE):
        chosen = range(first, min(first + _AT_ONCE, high))
        batch = np.zeros((len(chosen), *sides, image.shape[-1]), np.float32)
        batch[(slice(None), *inside)] = np.moveaxis(image[:, :, first : chosen.stop], 2, 0)
        likeliest = learner.network(learner.as_input(batch)).argmax(1).numpy().astype(np.uint8)
        tissues[:, :, first : chosen.stop] = np.moveaxis(likeliest[(slice(None), *inside)], 0, 2)
    return tissues


def _from_patches(learner: _Learner, ready: preprocess.Prepared, config: PatchConfig) -> np.ndarray:
    """Tissues uint8 [I, J, K]: averaged probabilities of WT, TC, ET, TC inside WT and ET inside TC."""
    from monai.inferers import sliding_window_inference

    size = config.sampling.patch_size
    probabilities = sliding_window_inference(
        learner.as_input(ready.image[None]),
        (size,) * 3,
        _AT_ONCE,
        lambda tiles: learner.network(tiles).sigmoid(),
        overlap=1 - config.cascade.stride / size,
    )[0].numpy()
    tissues, parent = np.zeros(ready.image.shape[:3], np.uint8), True
    for region, tissue in zip(REGIONS, (Tissue.ED, Tissue.NCR, Tissue.ET), strict=True):
        parent = parent & (probabilities[list(REGIONS).index(region)] >= config.cascade.threshold)
        tissues[parent] = tissue
    return boxes.uncrop(tissues, ready.box_ijk, ready.shape_ijk)


def predict(config: Config, trained: pathlib.Path, cases: str, case_id: str, output: pathlib.Path) -> None:
    """Writes CASE.nii.gz of one case.

    Raises:
        InputError: no such case, or no weights.
    """
    torch = _torch()
    if not (trained / NOTES).exists():
        raise InputError(f"{trained}: nothing trained yet (no {NOTES}). Run train first.")
    (found,) = layouts.select(layouts.find(cases), [case_id])
    loaded = case.load(found, config.data.modalities, read_label=False)
    ready = preprocess.prepare(
        loaded, config.preprocess.n4_modalities, config.preprocess.n4_shrink, config.preprocess.n4
    )
    learner = _Learner(config, files.read_json(trained / NOTES)["channels_last"])
    learner.network.load_state_dict(torch.load(trained / WEIGHTS, weights_only=True))
    learner.network.eval()
    with torch.inference_mode():
        if isinstance(config, PatchConfig):
            tissues = _from_patches(learner, ready, config)
        else:
            tissues = _from_slices(learner, ready, config.records.slice_shape)
    # As our segmenters do it: outside the brain there is nothing.
    brain = boxes.uncrop(ready.brain, ready.box_ijk, ready.shape_ijk)
    output.mkdir(parents=True, exist_ok=True)
    tissues[~brain] = 0
    case.save_segmentation(output / f"{case_id}.nii.gz", tissues, loaded.grid, loaded.schema)
    print(f"{output / case_id}.nii.gz: {np.count_nonzero(tissues)} tumour voxels")


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("budget_peer", __doc__)
    parser.add_argument("what", choices=("try", "train", "predict"))
    config_file.add_arguments(parser)
    parser.add_argument("--records", help="record set to train on")
    parser.add_argument("--trained", type=pathlib.Path, help="folder of the weights")
    parser.add_argument("--seconds", type=float, help="of training, from the start of this process")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--cases", help="data set of the held-out case")
    parser.add_argument("--case", help="its id")
    parser.add_argument("--output", type=pathlib.Path, help="folder of its segmentation")
    options = parser.parse_intermixed_args(arguments)
    records = [f"data.records={options.records}"] if options.records else []
    config = config_file.load(options.config, [*options.overrides, *records])
    if options.what == "try":
        print(json.dumps(tried(config)))
    elif options.what == "train":
        options.trained.mkdir(parents=True, exist_ok=True)
        train(options.records, config, options.trained, options.seconds, options.channels_last)
    else:
        predict(config, options.trained, options.cases, options.case, options.output)


if __name__ == "__main__":
    command.run(main)
