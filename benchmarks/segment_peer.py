"""MONAI's side of `segment.py`: its reader, its sliding window over our networks in PyTorch, its writer.

The networks are those of `torch_networks.py` with the run's own weights, eager in channels_last or under
another engine of `engines.py`. What MONAI does not have is written here in PyTorch: the z-score over the
brain, and the two scales of paper B's patches that reach beyond the window (MONAI hands out its place).

slices    the slices that hold brain, as one batch, eight at a time; the whole plane, as ours
patches   windows of the run's size and stride over the brain's box, the three networks on each, no boxes: what
          a cascade costs that does not look only where the stage before found something. The same fusion

Processes talk as `segment_jobs.py` says. Takes cases stored as BraTS stores them (LPS).
"""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import engines
import numpy as np
import step_jobs
from segment_jobs import answer, serve

from tfbrats.config import Config, PatchConfig
from tfbrats.datasets import layouts
from tfbrats.labels import Tissue
from tfbrats.runs.folder import RunFolder

torch, torch_networks = step_jobs._torch()
with contextlib.redirect_stderr(io.StringIO()):  # it says which of its optional parts are not there
    import monai
    from monai.inferers import sliding_window_inference

_SLICES_AT_ONCE = 8  # as ours
_MULTIPLE = 16


class Timed:
    """A network that remembers how long it ran."""

    def __init__(self, network: Callable):
        self._network, self.seconds = network, 0.0

    def __call__(self, batch: "torch.Tensor") -> dict[str, "torch.Tensor"]:
        batch = batch.contiguous(memory_format=torch_networks.channels_last(batch.ndim - 2))
        began = time.perf_counter()
        outputs = self._network(batch)
        self.seconds += time.perf_counter() - began
        return outputs


def _network(name: str, width: int, path: str) -> "torch_networks.Network":
    network = torch_networks.build(name, width)
    kept: dict[str, list] = {}
    with np.load(path) as arrays:
        for key in sorted(arrays, key=lambda key: int(key.rpartition(" ")[2])):
            kept.setdefault(key.rpartition(" ")[0], []).append(arrays[key])
    torch_networks.take(network, kept)
    network.all_heads = False
    return network.eval()


def networks(config: Config, files: Mapping[str, str]) -> dict[str, "torch_networks.Network"]:
    """Region -> network, as `segment_jobs.export_all` wrote their weights."""
    name, width = config.model.name, config.model.width
    return {
        region: _network("msm_et" if (name, region) == ("msm", "ET") else name, width, path)
        for region, path in files.items()
    }


# --- the case --------------------------------------------------------------------------------------------


def read(paths: Sequence[str]) -> "monai.data.MetaTensor":
    """float32 [M, I, J, K] as stored, with what MONAI knows of the files."""
    return monai.transforms.LoadImage(image_only=True)(list(paths))


def normalised(image: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """z-scored over the brain, 0 outside it; and the brain, bool [I, J, K]."""
    brain = (image != 0).any(0)
    inside = image[:, brain]
    mean, deviation = inside.mean(1), inside.std(1, correction=0)
    scored = torch.zeros_like(image)
    scored[:, brain] = (inside - mean[:, None]) / deviation[:, None]
    return scored, brain


def box_of(brain: "torch.Tensor") -> tuple[slice, ...]:
    places = brain.nonzero()
    return tuple(map(slice, places.amin(0).tolist(), (places.amax(0) + 1).tolist()))


def write(tissues: "torch.Tensor", like: "monai.data.MetaTensor", values: Sequence[int], path: str) -> None:
    """The label map as NIfTI, placed as the scans are."""
    labels = torch.tensor(values, dtype=torch.uint8)[tissues.long()]
    folder, name = os.path.split(path)
    save = monai.transforms.SaveImage(
        output_dir=folder,
        output_postfix="",
        output_dtype=np.uint8,
        resample=False,
        separate_folder=False,
        print_log=False,
    )
    meta = monai.data.MetaTensor(labels[None], affine=like.affine, meta=like.meta)
    save(meta, filename=os.path.join(folder, name.removesuffix(".nii.gz")))


# --- slices ----------------------------------------------------------------------------------------------


def tissues_of_slices(image, brain, network: Callable, canvas: Sequence[int]) -> "torch.Tensor":
    """[M, I, J, K] z-scored -> tissues, uint8 [I, J, K]."""
    chosen = brain.any(0).any(0).nonzero()[:, 0]
    roi = [
        max(least, -(-size // _MULTIPLE) * _MULTIPLE)
        for least, size in zip(canvas, image.shape[1:3], strict=True)
    ]
    batch = image[..., chosen].permute(3, 0, 1, 2)
    logits = sliding_window_inference(batch, roi, _SLICES_AT_ONCE, network)
    if "logits" in logits:
        found = logits["logits"].argmax(1)
    else:
        whole = logits["branch1_logits"].argmax(1) == 1
        found = torch.where(whole, 1 + logits["branch2_logits"][:, 1:].argmax(1), 0)
    tissues = torch.zeros(brain.shape, dtype=torch.uint8)
    tissues[..., chosen] = found.permute(1, 2, 0).to(torch.uint8)
    return torch.where(brain, tissues, 0)


# --- patches ---------------------------------------------------------------------------------------------


def scales_of(wide: "torch.Tensor", x1: "torch.Tensor") -> "torch.Tensor":
    """What paper B's networks see: x1 [N, M, S, S, S], means over twice its width, and its middle upsampled.

    Args:
        wide: [N, M, 2S, 2S, 2S] round the same centre.
    """
    size = x1.shape[-1]
    half = torch.nn.functional.avg_pool3d(wide, 2)
    middle = (slice(size // 4 - 1, size - size // 4 + 1),) * 3
    double = torch.nn.functional.interpolate(x1[(..., *middle)], scale_factor=2, mode="trilinear")
    return torch.cat([x1, half, double[..., 2:-2, 2:-2, 2:-2]], 1)


def probabilities(image, of_region: Mapping[str, Callable], config: PatchConfig) -> "torch.Tensor":
    """[M, i, j, k] z-scored, the brain's box -> [3, i, j, k] of WT, TC, ET, each everywhere in it."""
    size = config.sampling.patch_size
    # MONAI would centre a box smaller than a window too, but to the other side by half a voxel.
    missing = [max(size - side, 0) for side in image.shape[1:]]
    around = [part for less in reversed(missing) for part in (-(-less // 2), less // 2)]
    image = torch.nn.functional.pad(image, around)
    beside = torch.nn.functional.pad(image, (size // 2,) * 6)

    def predictor(x1, places):
        patch = x1
        if config.model.name != "unet3d":
            wide = [
                beside[(slice(None), *(slice(along.start, along.start + 2 * size) for along in place[2:]))]
                for place in places
            ]
            patch = scales_of(torch.stack(wide), x1)
        return torch.cat([network(patch)["logits"].sigmoid() for network in of_region.values()], 1)

    overlap = 1 - config.cascade.stride / size
    found = sliding_window_inference(
        image[None], (size,) * 3, config.cascade.tile_batch, predictor, overlap, with_coord=True
    )[0]
    for axis, less in enumerate(missing, 1):
        found = found.narrow(axis, -(-less // 2), found.shape[axis] - less)
    return found


def tissues_of_patches(image, brain, of_region: Mapping[str, Callable], config: PatchConfig) -> "torch.Tensor":
    """[M, I, J, K] z-scored -> tissues, uint8 [I, J, K]: TC inside WT, ET inside TC."""
    box = box_of(brain)
    found = probabilities(image[(slice(None), *box)], of_region, config)
    tissues, parent = torch.zeros(brain.shape, dtype=torch.uint8), brain[box]
    # In the order of REGIONS, each inside the one before.
    for tissue, each in zip((Tissue.ED, Tissue.NCR, Tissue.ET), found, strict=True):
        parent = parent & (each >= config.cascade.threshold)
        tissues[box][parent] = int(tissue)
    return tissues


# --- the process -----------------------------------------------------------------------------------------


def segmenter(spec: Mapping, config: Config, timed: Mapping[str, Timed]) -> Callable[[], dict[str, float]]:
    """() -> seconds by part, of the case from its files to the label map's."""
    entry = layouts.find(spec["case"]).cases[0]
    path_of = {modality: path for modality, path, _ in entry.images}
    paths = [path_of[modality] for modality in config.data.modalities]
    known = entry.schema.value_of_tissue
    values = [known[tissue] for tissue in (Tissue.BACKGROUND, Tissue.NCR, Tissue.ED, Tissue.ET)]
    target = os.path.join(spec["output"], f"{entry.case_id}.nii.gz")

    def once():
        marks = [time.perf_counter()]
        stored = read(paths)
        marks.append(time.perf_counter())
        image, brain = normalised(stored.as_tensor())
        if isinstance(config, PatchConfig):
            tissues = tissues_of_patches(image, brain, timed, config)
        else:
            tissues = tissues_of_slices(image, brain, timed[""], config.records.slice_shape)
        marks.append(time.perf_counter())
        write(tissues, stored, values, target)
        marks.append(time.perf_counter())
        return dict(zip(("read", "segment", "write"), np.diff(marks).tolist(), strict=True))

    return once


def main(spec: Mapping) -> None:
    torch.set_num_threads(spec["threads"])
    config = RunFolder(spec["run"]).config
    built = networks(config, spec["weights"])
    of_patches = isinstance(config, PatchConfig)
    sides = (config.sampling.patch_size,) * 3 if of_patches else config.records.slice_shape
    channels = torch_networks.NETWORKS[config.model.name][2]
    about = {
        region: {
            "parameters": torch_networks.parameters(network),
            "macs": torch_networks.macs(network, (1, channels, *sides)),
        }
        for region, network in built.items()
    }
    engine = spec.get("engine", "torch")

    def example():
        batch = torch.zeros(1 if of_patches else _SLICES_AT_ONCE, channels, *sides)
        return batch.contiguous(memory_format=torch_networks.channels_last(len(sides)))

    os.makedirs(spec["output"], exist_ok=True)
    torch.set_grad_enabled(False)
    timed = {
        region: Timed(engines.made(engine, network, example(), spec["threads"], spec["output"]))
        for region, network in built.items()
    }

    def network_seconds() -> float:
        total = sum(each.seconds for each in timed.values())
        for each in timed.values():
            each.seconds = 0.0
        return total

    answer(about)
    serve(segmenter(spec, config, timed), network_seconds)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
