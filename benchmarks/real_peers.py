"""The peers' process of `real.py`: prepares cases, trains a network for its time, segments cases.

prepare    each case by the peer's own preprocessing, into a file that folds share; not counted
try        seconds of a training step in both memory formats and precisions: the fastest is taken, for all folds
train      until the time is spent; every half minute a checkpoint with the seconds that it has used. Killed, it
           goes on from there, and the schedule with it: it is one of the share of time that is spent
predict    some cases, as label maps on the case's own grid
clean      the peer's own rules over them, chosen on cases that other folds have scored

The clock is the machine's, or this process's CPU seconds over its cores where others work beside it. It starts
with the process, libraries included, and stops where a checkpoint is written.
"""

import time

_BEGAN = time.monotonic()  # before the libraries are loaded: that counts

import dataclasses  # noqa: E402 (the clock starts first)
import importlib  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import pathlib  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402

import numpy as np  # noqa: E402

from tfbrats.cases import boxes, case  # noqa: E402
from tfbrats.datasets import layouts  # noqa: E402
from tfbrats.errors import InputError  # noqa: E402
from tfbrats.labels import MODALITIES as _NAMES  # noqa: E402
from tfbrats.labels import REGIONS  # noqa: E402
from tfbrats.machine import files  # noqa: E402
from tfbrats.terminal import command  # noqa: E402
from tfbrats.tuning import rules  # noqa: E402

MODALITIES = len(_NAMES)
MODULES = {"segresnet": "real_segresnet", "nnunet": "real_nnunet"}
NOTES = "trained.json"
_CHECKPOINT = "checkpoint.pt"
_BETWEEN_SECONDS = 30.0  # of training, from checkpoint to checkpoint
_TRIAL_STEPS = 2  # of each way, after one that warms up
_WAYS = tuple({"channels_last": last, "bfloat16": half} for last in (False, True) for half in (False, True))


@dataclasses.dataclass(frozen=True)
class Ready:
    """A prepared case.

    Attributes:
        image: float32 [M, i, j, k].
        tissues: [i, j, k]; nnU-Net has -1 outside the brain.
        box: of i, j, k in the case's volume.
    """

    image: np.ndarray
    tissues: np.ndarray
    box: boxes.Box


def clock(which: str, cores: int) -> Callable[[], float]:
    """() -> seconds since this process began: of the clock ("wall"), or CPU seconds over `cores` ("cpu")."""
    if which == "wall":
        return lambda: time.monotonic() - _BEGAN
    return lambda: time.process_time() / cores


def _torch(cores: int):
    # PyTorch's optimizers load Triton, whose LLVM and TensorFlow's end a process that holds both, and MONAI
    # loads TensorFlow where it finds it. Triton compiles for GPUs alone: nothing here is slower without it.
    sys.modules.setdefault("triton", None)
    import torch

    torch.set_num_threads(cores)
    return torch


# --- cases ----------------------------------------------------------------------------------------------


def prepare(module, cases: str, folder: pathlib.Path) -> None:
    """Every case of a data set into `folder`, those that are there already left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for found in layouts.find(cases).cases:
        target = folder / f"{found.case_id}.npz"
        if target.exists():
            continue
        loaded = case.load(found, need_label=True)
        image = np.ascontiguousarray(np.moveaxis(loaded.image, -1, 0), np.float32)
        ready = module.prepared(image, np.ascontiguousarray(loaded.label))
        with files.writing(target) as file:
            np.savez(file, image=ready.image, tissues=ready.tissues, box=np.array(ready.box))
        print(f"{found.case_id}: {' x '.join(map(str, ready.tissues.shape))} voxels", flush=True)


def _read(folder: pathlib.Path, case_id: str) -> Ready:
    with np.load(folder / f"{case_id}.npz") as arrays:
        box = tuple(tuple(map(int, side)) for side in arrays["box"])
        return Ready(arrays["image"], arrays["tissues"], box)


# --- training -------------------------------------------------------------------------------------------


class _Learner:
    """A peer that takes steps in one of `_WAYS`."""

    def __init__(self, torch, peer, way: Mapping[str, bool]):
        self.peer, self._torch, self._bfloat16 = peer, torch, way["bfloat16"]
        self._format = torch.channels_last_3d if way["channels_last"] else torch.contiguous_format
        self.network = peer.network.to(memory_format=self._format)

    def forward(self, image):
        """What the network says of [N, M, ...]: a tensor or, of nnU-Net in training, a list of them."""
        with self._torch.autocast("cpu", self._torch.bfloat16, enabled=self._bfloat16):
            return self.network(image.contiguous(memory_format=self._format))

    def inferred(self, image):
        return self.forward(image).float()

    def step(self, image, target, spent: float) -> float:
        """One update, at the rate of this share of the time; the loss before it."""
        for group in self.peer.optimizer.param_groups:
            group["lr"] = self.peer.rate(spent)
        self.peer.optimizer.zero_grad(set_to_none=True)
        loss = self.peer.loss(self.forward(image), target)
        loss.backward()
        if self.peer.clipped_at:
            self._torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.peer.clipped_at)
        self.peer.optimizer.step()
        return float(loss.detach())


def tried(torch, module, size: Mapping[str, int], ready: Ready, seconds: Callable[[], float]) -> dict:
    """The fastest of `_WAYS`, and what a step took in each."""
    took = {}
    for number, way in enumerate(_WAYS):
        torch.manual_seed(0)
        learner, rng = _Learner(torch, module.Peer(size), way), np.random.default_rng(0)
        batch = learner.peer.batch([ready], rng)
        learner.step(*batch, 0.0)
        began = seconds()
        for _ in range(_TRIAL_STEPS):
            learner.step(*batch, 0.0)
        took[number] = (seconds() - began) / _TRIAL_STEPS
    best = min(took, key=took.get)
    names = [", ".join(name for name, on in way.items() if on) or "float32" for way in _WAYS]
    return {**_WAYS[best], "seconds_a_step": dict(zip(names, took.values(), strict=True))}


def train(options, torch, module, cases: Sequence[str], seconds: Callable[[], float]) -> None:
    """Trains until options.seconds are spent, writes its checkpoint, then NOTES.

    Raises:
        InputError: not one step fits into the time, or the loss is no number.
    """
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)  # nnU-Net's augmentation draws from the global generators
    way = files.read_json(options.way)
    learner = _Learner(torch, module.Peer(options.size), way)
    learner.network.train()
    checkpoint = options.trained / _CHECKPOINT
    used, steps, total = 0.0, 0, 0.0
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        learner.network.load_state_dict(kept["network"])
        learner.peer.optimizer.load_state_dict(kept["optimizer"])
        used, steps, total = kept["used"], kept["steps"], kept["total"]
        torch.manual_seed(options.seed + steps)
        np.random.seed(options.seed + steps)
        print(f"going on after {used:.0f} s, {steps} steps", flush=True)
    rng = np.random.default_rng([options.seed, steps])
    ready = [_read(options.prepared, case_id) for case_id in cases]
    before = seconds() if steps else 0.0  # what a new start costs counts once
    saved, longest = used, 0.0

    def save() -> float:
        with files.writing(checkpoint) as file:
            torch.save(
                {
                    "network": learner.network.state_dict(),
                    "optimizer": learner.peer.optimizer.state_dict(),
                    "used": used,
                    "steps": steps,
                    "total": total,
                },
                file,
            )
        return used

    while (began := used + seconds() - before) + longest < options.seconds:
        image, target = learner.peer.batch(ready, rng)
        loss = learner.step(image, target, began / options.seconds)
        if not math.isfinite(loss):
            raise InputError(f"step {steps + 1}: the loss is {loss}.")
        steps, total = steps + 1, total + loss
        now = used + seconds() - before
        longest = max(longest, now - began) if steps > 1 else 0.0
        if now - saved > _BETWEEN_SECONDS:
            used = now
            saved = save()
            print(f"{now:.0f} s  {steps} steps  mean loss {total / steps:.4f}", flush=True)
            before = seconds()
    if not steps:
        raise InputError(f"no step fits into {options.seconds:g} s. Give more --minutes.")
    used += seconds() - before
    save()
    found = {
        "network": f"{type(learner.network).__name__}, width {options.size['width']}",
        "parameters": sum(one.numel() for one in learner.network.parameters()),
        "steps": steps,
        "examples": steps * len(image),
        "seconds": round(used, 1),
        "mean_loss": total / steps,
        "size": options.size,
        "way": way,
    }
    files.write_json(options.trained / NOTES, found)
    print(json.dumps(found))


def predict(options, torch, module, cases: Sequence[str]) -> None:
    """Writes CASE.nii.gz of each case that has none yet.

    Raises:
        InputError: nothing is trained.
    """
    if not (options.trained / NOTES).exists():
        raise InputError(f"{options.trained}: nothing trained yet (no {NOTES}). Run train first.")
    way = files.read_json(options.trained / NOTES)["way"]
    learner = _Learner(torch, module.Peer(options.size), way)
    learner.network.load_state_dict(torch.load(options.trained / _CHECKPOINT, weights_only=True)["network"])
    learner.network.eval()
    options.output.mkdir(parents=True, exist_ok=True)
    for found in layouts.select(layouts.find(options.cases), cases):
        target = options.output / f"{found.case_id}.nii.gz"
        if target.exists():
            continue
        loaded, ready = case.load(found, need_label=True), _read(options.prepared, found.case_id)
        with torch.inference_mode():
            probabilities = learner.peer.probabilities(ready.image, learner.inferred)
            # As both write them: WT's voxels, over them TC's, over them ET's.
            tissues = rules.tissues_of(dict(zip(REGIONS, probabilities > 0.5, strict=True)))
        whole = boxes.uncrop(tissues, ready.box, loaded.label.shape)
        case.save_segmentation(target, whole, loaded.grid, loaded.schema)
        print(f"{target}", flush=True)


def clean(options, module, cases: Sequence[str], others: Sequence[str]) -> None:
    """The peer's own rules over the segmentations of --raw, chosen on other cases of the same folder."""
    dataset = layouts.find(options.cases)

    def masks(found: layouts.CaseFiles) -> tuple[np.ndarray, np.ndarray, case.Grid]:
        tissues, grid = case.load_label(options.raw / f"{found.case_id}.nii.gz", found.schema)
        return tissues, case.load_label(found.label, found.schema)[0], grid

    rules = []
    if others:
        pairs = [masks(found)[:2] for found in layouts.select(dataset, others)]
        rules = module.rules(*map(list, zip(*pairs, strict=True)))
    print(f"{', '.join(cases)}: largest component of {rules or 'nothing'}")
    options.output.mkdir(parents=True, exist_ok=True)
    for found in layouts.select(dataset, cases):
        tissues, _, grid = masks(found)
        target = options.output / f"{found.case_id}.nii.gz"
        case.save_segmentation(target, module.applied(tissues, rules), grid, found.schema)


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("real_peers", __doc__)
    parser.add_argument("what", choices=("prepare", "try", "train", "predict", "clean"))
    parser.add_argument("--peer", choices=MODULES, required=True)
    parser.add_argument("--cases", help="data set")
    parser.add_argument("--ids", default="", help="of its cases, with commas between them")
    parser.add_argument("--others", default="", help="likewise: what rules are chosen on")
    parser.add_argument("--raw", type=pathlib.Path, help="folder of segmentations before any rule")
    parser.add_argument("--prepared", type=pathlib.Path, help="folder of prepared cases")
    parser.add_argument("--size", type=json.loads, default={}, help="patch, width and stages, as JSON")
    parser.add_argument("--way", type=pathlib.Path, help="what try found")
    parser.add_argument("--trained", type=pathlib.Path, help="folder of the weights")
    parser.add_argument("--seconds", type=float, help="of training")
    parser.add_argument("--clock", choices=("cpu", "wall"), default="wall")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="folder of the segmentations")
    options = parser.parse_args(arguments)
    torch = _torch(options.cores)
    # The peers' modules name this one.
    sys.modules.setdefault("real_peers", sys.modules[__name__])
    module = importlib.import_module(MODULES[options.peer])
    seconds = clock(options.clock, options.cores)
    ids, others = ([one for one in text.split(",") if one] for text in (options.ids, options.others))
    if options.what == "prepare":
        prepare(module, options.cases, options.prepared)
    elif options.what == "try":
        files.write_json(
            options.way, tried(torch, module, options.size, _read(options.prepared, ids[0]), seconds)
        )
    elif options.what == "train":
        options.trained.mkdir(parents=True, exist_ok=True)
        train(options, torch, module, ids, seconds)
    elif options.what == "predict":
        predict(options, torch, module, ids)
    else:
        clean(options, module, ids, others)


if __name__ == "__main__":
    command.run(main)
