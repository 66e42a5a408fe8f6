"""The loaders that `input.py` compares: ours, MONAI's and TorchIO's, from one record set to the same batches.

`input.py` runs one process a loader, so that TensorFlow and PyTorch do not share one. Every loader begins where
preprocessing has ended (no N4, no z-score in the loop) and yields shuffled batches of one size without end;
types and sizes of the first ones are compared. Peers hold everything in memory, ours reads TFRecords. Each peer
runs with 0, 1 and 2 worker processes, and the fastest is what ours is compared with.

slices: 240 x 240 x 4 float32, label and region uint8, turned within +- 15 degrees (bilinear, nearest) and
flipped along both axes with probability 0.5; uniform draws, 240 x 240.
    monai    CacheDataset of slices that are on the canvas in float32 already; RandRotated, RandFlipd twice.
    torchio  SubjectsDataset of the same; RandomAffine (rotation alone), RandomFlip; SubjectsLoader.
    Both turn label and region as two channels of one array.
patches: 64^3 x 12 float32 (x1, x0.5, x2), target uint8, no augmentation (paper B); x1 and x0.5 are stored in
float16, x2 is derived.
    monai    CacheDataset of the stored patches; x2 by torch's `interpolate`, in the workers.
    torchio  SubjectsDataset of the same; x2 by `interpolate`, a batch at a time.
volumes: the same patches, cut afresh, half of them on the tumour, eight of a volume in turn.
    monai    CacheDataset of volumes in float16; RandCropByPosNegLabeld of 128^3 with and without indices worked
             out beforehand; from each crop x1 (its middle), x0.5 (`avg_pool3d`), x2.
    torchio  SubjectsDataset of the same; Queue of 32 with LabelSampler of 128^3; scales a batch at a time.
    Theirs are cut inside the volume alone, ours may reach out of it.

MONAI: no meta tensors, no copies of what is cached, workers that persist; --disk takes PersistentDataset, which
reads every example from the disk, as ours does.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tfbrats import config_file
from tfbrats.config import Config
from tfbrats.machine import files
from tfbrats.records import tfrecord
from tfbrats.records.manifest import read_manifest
from tfbrats.records.schema import PATCHES, SLICES, VOLUMES, Field, decode

_WORKERS = (0, 1, 2)
_PER_VOLUME = 8  # patches of a volume each time it is looked at; ours: data.patches_per_read
_QUEUE = 32  # TorchIO's, in patches

Batches = Iterator[dict]  # arrays or tensors by name


def stored(folder: str, schema: Sequence[Field]) -> Iterator[dict]:
    """The training examples of a record set, as numpy arrays."""
    for shard in read_manifest(folder).shards_of("train"):
        for content in tfrecord.read_records(files.join(folder, shard.file)):
            yield decode(schema, content)


def _endless(loader) -> Iterator:
    while True:
        yield from loader


def _first_axis(array: np.ndarray):
    """Channels to the front, as PyTorch has them."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0)))


def _slices(folder: str, canvas: Sequence[int]) -> Iterator[dict]:
    import torch

    for one in stored(folder, SLICES):
        (top, left), (height, width) = one["origin_ij"], one["label"].shape
        image = np.zeros((*canvas, one["image"].shape[-1]), np.float32)
        maps = np.zeros((2, *canvas), np.float32)
        inside = (slice(top, top + height), slice(left, left + width))
        image[inside], maps[0][inside], maps[1][inside] = one["image"], one["label"], one["region"]
        yield {"image": _first_axis(image), "maps": torch.from_numpy(maps)}


def _patches(folder: str) -> Iterator[dict]:
    import torch

    for one in stored(folder, PATCHES):
        label = torch.from_numpy(one["label"].copy())[None]
        yield {"x1": _first_axis(one["x1"]), "half": _first_axis(one["half"]), "label": label}


def _volumes(folder: str) -> Iterator[dict]:
    import torch

    for one in stored(folder, VOLUMES):
        yield {"image": _first_axis(one["image"]), "label": torch.from_numpy(one["label"].copy())[None]}


def _upsampled(x1):
    """x2 of [N, M, S, S, S]: the middle, upsampled twice."""
    from torch.nn.functional import interpolate

    size = x1.shape[-1]
    inner = slice(size // 4 - 1, size - size // 4 + 1)
    fine = interpolate(x1[..., inner, inner, inner], scale_factor=2, mode="trilinear", align_corners=False)
    return fine[..., 2:-2, 2:-2, 2:-2]


def _scaled(x1, half, label) -> dict:
    """Batches of what is stored -> a network's input; the target is the whole tumour."""
    import torch

    x1 = x1.float()
    return {
        "patch": torch.cat([x1, half.float(), _upsampled(x1)], dim=1),
        "target": (label > 0).to(torch.uint8),
    }


def _scaled_from_wide(wide, label) -> dict:
    """The same from crops of 2S."""
    from torch.nn.functional import avg_pool3d

    size = wide.shape[-1] // 2
    middle = (..., *[slice(size // 2, size // 2 + size)] * 3)
    wide = wide.float()
    return _scaled(wide[middle], avg_pool3d(wide, 2), label[middle])


# --- ours -----------------------------------------------------------------------------------------------


def _tfbrats(
    what: str, folder: str, config: Config, batch: int, disk: bool
) -> dict[str, Callable[[], Batches]]:
    from tfbrats.batches import patch_stream, slice_stream
    from tfbrats.batches.stream import Share
    from tfbrats.inference.scales import network_input

    def whole(batch):
        return {"patch": network_input(batch), "target": batch["target"], "valid": batch["valid"]}

    manifest = read_manifest(folder)
    if what == "slices":
        stream = slice_stream.training(manifest, config, 0, Share(batch))
    else:  # the step would put the scales together: here, so that all loaders do the same work
        stream = patch_stream.training(manifest, config, "WT", 0, Share(batch)).map(whole).prefetch(1)
    return {"": lambda: iter(stream)}


# --- MONAI ----------------------------------------------------------------------------------------------


def _monai(what: str, folder: str, config: Config, batch: int, disk: bool) -> dict[str, Callable[[], Batches]]:
    import torch
    from monai import transforms
    from monai.data import CacheDataset, DataLoader, PersistentDataset, set_track_meta

    set_track_meta(False)

    class Finished(transforms.RandomizableTransform):
        """What is left to do for an example; random, so that it is not cached."""

        def __call__(self, one):
            if isinstance(one, list):
                return [self(each) for each in one]
            if what == "slices":
                draws = torch.rand(config.records.slice_shape)
                return {"image": one["image"], "maps": one["maps"].to(torch.uint8), "draws": draws}
            batched = [one[name][None] for name in ("x1", "half", "label") if name in one]
            found = (
                _scaled(*batched)
                if what == "patches"
                else _scaled_from_wide(one["image"][None], one["label"][None])
            )
            return {name: value[0] for name, value in found.items()}

    def cropping(**indices):
        return transforms.RandCropByPosNegLabeld(
            ["image", "label"], "label", [2 * config.sampling.patch_size] * 3, 1, 1, _PER_VOLUME, **indices
        )

    chains = {"": []}
    if what == "slices":
        examples = list(_slices(folder, config.records.slice_shape))
        both = ["image", "maps"]
        angle = np.radians(config.data.rotation_degrees)
        chains[""] = [
            transforms.RandRotated(both, angle, prob=1, mode=("bilinear", "nearest"), padding_mode="zeros"),
            transforms.RandFlipd(both, prob=config.data.flip, spatial_axis=0),
            transforms.RandFlipd(both, prob=config.data.flip, spatial_axis=1),
        ]
    elif what == "patches":
        examples = list(_patches(folder))
    else:
        ready = transforms.Compose(
            [
                transforms.SpatialPadd(["image", "label"], [2 * config.sampling.patch_size] * 3),
                transforms.FgBgToIndicesd("label"),
            ]
        )
        examples = [ready(one) for one in _volumes(folder)]
        named = {"fg_indices_key": "label_fg_indices", "bg_indices_key": "label_bg_indices"}
        chains = {"": [cropping()], "indices, ": [cropping(**named)]}

    found = {}
    for name, chain in chains.items():
        compose = transforms.Compose([*chain, Finished()])
        if disk:
            cache = tempfile.TemporaryDirectory(prefix="tfbrats-input-")
            dataset = PersistentDataset(examples, compose, cache.name)
            dataset.cache = cache  # lives as long
            for n in range(len(dataset)):
                dataset[n]  # writes its file
        else:
            dataset = CacheDataset(examples, compose, progress=False, copy_cache=False)
        for workers in _WORKERS:
            loader = DataLoader(
                dataset,
                batch_size=max(1, batch // _PER_VOLUME) if what == "volumes" else batch,
                shuffle=True,
                drop_last=what != "volumes",
                num_workers=workers,
                persistent_workers=workers > 0,
            )
            found[f"{name}{workers} workers"] = lambda loader=loader: _endless(loader)
    return found


# --- TorchIO --------------------------------------------------------------------------------------------


def _torchio(
    what: str, folder: str, config: Config, batch: int, disk: bool
) -> dict[str, Callable[[], Batches]]:
    import torch
    import torchio

    def subject(one: dict):
        of = {"image": torchio.ScalarImage, "x1": torchio.ScalarImage, "half": torchio.ScalarImage}
        flat = what == "slices"  # TorchIO's are volumes always
        return torchio.Subject(
            {
                name: of.get(name, torchio.LabelMap)(tensor=value[..., None] if flat else value)
                for name, value in one.items()
            }
        )

    def batches(loader) -> Batches:
        for one in _endless(loader):
            tensors = {name: value[torchio.DATA] for name, value in one.items() if isinstance(value, dict)}
            if what == "slices":
                image, maps = tensors["image"][..., 0], tensors["maps"][..., 0].to(torch.uint8)
                yield {
                    "image": image,
                    "maps": maps,
                    "draws": torch.rand(len(image), *config.records.slice_shape),
                }
            elif what == "patches":
                yield _scaled(tensors["x1"], tensors["half"], tensors["label"])
            else:
                yield _scaled_from_wide(tensors["image"], tensors["label"])

    transform, sampler = None, None
    if what == "slices":
        subjects = [subject(one) for one in _slices(folder, config.records.slice_shape)]
        degrees = (0, 0, 0, 0, -config.data.rotation_degrees, config.data.rotation_degrees)
        turn = torchio.RandomAffine(scales=0, degrees=degrees, default_pad_value=0)
        transform = torchio.Compose([turn, torchio.RandomFlip(axes=(0, 1), flip_probability=config.data.flip)])
    elif what == "patches":
        subjects = [subject(one) for one in _patches(folder)]
    else:
        wide = 2 * config.sampling.patch_size
        sampler = torchio.LabelSampler(wide, "tumour", {0: 0.5, 1: 0.5})
        subjects = []
        for one in _volumes(folder):
            whole = subject({**one, "tumour": (one["label"] > 0).to(torch.uint8)})
            least = tuple(max(wide, size) for size in whole.spatial_shape)
            subjects.append(torchio.CropOrPad(least)(whole))
    dataset = torchio.SubjectsDataset(subjects, transform)

    def loader_of(workers: int) -> Batches:
        if sampler:
            # Its documentation: workers belong to the queue, none to the loader.
            queue = torchio.Queue(dataset, _QUEUE, _PER_VOLUME, sampler, num_workers=workers)
            return batches(torchio.SubjectsLoader(queue, batch_size=batch, drop_last=True))
        return batches(
            torchio.SubjectsLoader(
                dataset,
                batch_size=batch,
                shuffle=True,
                drop_last=True,
                num_workers=workers,
                persistent_workers=workers > 0,
            )
        )

    return {f"{workers} workers": lambda workers=workers: loader_of(workers) for workers in _WORKERS}


# --- one process ----------------------------------------------------------------------------------------

LOADERS = {"tfbrats": _tfbrats, "monai": _monai, "torchio": _torchio}


def contents(batch: dict) -> dict[str, int]:
    """Values of a batch by type: what must be the same for all, wherever their channels are."""
    sizes: dict[str, int] = {}
    for name, value in batch.items():
        if name != "valid":
            dtype = str(value.dtype).removeprefix("torch.").removeprefix("<dtype: '").removesuffix("'>")
            sizes[dtype] = sizes.get(dtype, 0) + int(np.prod(value.shape))
    return sizes


def measure(batches: Batches, seconds: float, cycle: int) -> tuple[float, int]:
    """Wall seconds and the number of batches in them, from a steady state on, whole cycles of it."""
    began, done = time.perf_counter(), 0
    while done % cycle or (time.perf_counter() - began < seconds / 2 and done < 8):
        next(batches)  # what was ready before the clock ran does not count
        done += 1
    began, done = time.perf_counter(), 0
    while done % cycle or time.perf_counter() - began < seconds:
        next(batches)
        done += 1
    return time.perf_counter() - began, done


def main(arguments: Sequence[str] | None = None) -> int:
    """Sets one loader up, keeps its fastest form, then measures once for every line of input."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("loader", choices=LOADERS)
    parser.add_argument("what", choices=("slices", "patches", "volumes"))
    parser.add_argument("--records", required=True, help="record set")
    parser.add_argument("--config", required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each form that is tried")
    parser.add_argument("--disk", action="store_true", help="MONAI from the disk")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args(arguments)

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer

    def answer(**found) -> None:
        print(json.dumps(found), file=answers, flush=True)

    config = config_file.load(options.config, [*options.overrides, f"data.records={options.records}"])
    try:
        forms = LOADERS[options.loader](options.what, options.records, config, options.batch, options.disk)
    except ImportError as error:
        answer(missing=str(error))
        return 0
    cycle = _QUEUE // options.batch if (options.loader, options.what) == ("torchio", "volumes") else 1
    rates, first = {}, {}
    for name, make in forms.items():
        batches = make()
        first = contents(next(batches))
        if len(forms) > 1:
            wall, count = measure(batches, options.seconds, cycle)
            rates[name] = count * options.batch / wall
        del batches
    best = max(rates, key=rates.get) if rates else ""
    answer(form=best, tried=rates, contents=first)
    batches = forms[best]()
    next(batches)
    for line in sys.stdin:
        wall, count = measure(batches, float(line), cycle)
        answer(seconds=wall, examples=count * options.batch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
