"""What would make the networks of a whole case cheaper, and whether the answer stays the same.

    python benchmarks/segment_cheaper.py --case BraTS2021/BraTS2021_00006 --run budget/cun_lws/run
    python benchmarks/segment_cheaper.py --case BraTS2021/BraTS2021_00006 --run budget/msm/run --only tiles

Each way segments the case once in a traced graph, after one run that warms up, and is held against the way of
`slice_segmenter` or `cascade_segmenter` of `tfbrats.inference`: seconds, tumour voxels that differ, Dice of
each region.

crop     slices cut to the brain's box in the plane, with a margin, in place of the whole plane; the cut lies on
         the grid of the four poolings, for which planes must be as large as the canvas
at_once  slices or tiles of a forward pass
tiles    larger tiles than training's, with the same overlap
bfloat16 the same weights in mixed_bfloat16

Kept is what leaves the label map as it is: slices without brain and tiles without anything of the parent region
are not run. N4, where the run wants it, is left out.
"""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfbrats import config
from tfbrats.cases import boxes, case
from tfbrats.config import PatchConfig
from tfbrats.datasets import layouts
from tfbrats.exports.chosen import chosen_from
from tfbrats.inference import slice_segmenter
from tfbrats.inference.cascade_segmenter import CascadeSegmenter
from tfbrats.inference.slice_segmenter import SliceSegmenter
from tfbrats.labels import EDITIONS, REGIONS, region_mask
from tfbrats.metrics import region_scores
from tfbrats.training import best_weights

_POOLED = 16  # voxels of a canvas to one of the lowest level
_MARGINS = (0, 16, 32)  # voxels round the brain
_SLICES = (1, 2, 4, 16)  # of a forward pass, in place of 8
_TILES = (1, 2, 8)
_SIZES = (1.5, 2)  # of a tile, times training's
_SCHEMA = EDITIONS["2020"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """Tissues uint8 [I, J, K] of a way, and what it took."""

    tissues: np.ndarray
    seconds: float


def timed(segmenter: Callable, volumes: dict[str, np.ndarray]) -> Answer:
    """Runs a segmenter twice in one graph; the second run counts."""
    function = tf.function(segmenter)
    given = {name: tf.constant(volume) for name, volume in volumes.items()}
    function(given)
    began = time.perf_counter()
    values = function(given)["segmentation"].numpy()
    return Answer(_SCHEMA.to_tissues(values, "the segmenter"), time.perf_counter() - began)


class Slices:
    """Ways of a network of slices."""

    def __init__(self, settings: config.Config, volumes: dict[str, np.ndarray]):
        self._settings, self._volumes = settings, volumes

    def _segmenter(self, canvas: Sequence[int] | None = None, precision: str = "float32") -> SliceSegmenter:
        network = best_weights.best_networks(self._settings, [""], precision)[""]
        canvas = canvas or self._settings.records.slice_shape
        return SliceSegmenter(network, self._settings.data.modalities, canvas, _SCHEMA)

    def as_it_is(self) -> Answer:
        return timed(self._segmenter(), self._volumes)

    def crop(self) -> Iterator[tuple[str, Answer]]:
        brain = np.any(list(self._volumes.values()), axis=0)
        canvas = tuple(self._settings.records.slice_shape)
        if brain.shape[:2] != canvas:
            return
        box = boxes.box_of(brain)
        for margin in _MARGINS:
            (i0, i1), (j0, j1) = (
                (
                    max((low - margin) // _POOLED * _POOLED, 0),
                    min(-(-(high + margin) // _POOLED) * _POOLED, side),
                )
                for (low, high), side in zip(box, canvas, strict=False)
            )
            cut = {name: volume[i0:i1, j0:j1] for name, volume in self._volumes.items()}
            found = timed(self._segmenter((16, 16)), cut)
            tissues = np.zeros(brain.shape, np.uint8)
            tissues[i0:i1, j0:j1] = found.tissues
            yield f"cropped to the brain and {margin} voxels", Answer(tissues, found.seconds)

    def at_once(self) -> Iterator[tuple[str, Answer]]:
        usual = slice_segmenter._SLICES_AT_ONCE
        try:
            for count in _SLICES:
                slice_segmenter._SLICES_AT_ONCE = count
                yield f"{count} slices at once", timed(self._segmenter(), self._volumes)
        finally:
            slice_segmenter._SLICES_AT_ONCE = usual

    def bfloat16(self) -> Iterator[tuple[str, Answer]]:
        yield "mixed_bfloat16", timed(self._segmenter(precision="mixed_bfloat16"), self._volumes)


class Tiles:
    """Ways of a cascade."""

    def __init__(self, settings: PatchConfig, volumes: dict[str, np.ndarray]):
        self._settings, self._volumes = settings, volumes

    def _segmenter(self, size: int = 0, precision: str = "float32", **changes) -> CascadeSegmenter:
        networks = best_weights.best_networks(self._settings, list(REGIONS), precision)
        cascade = self._settings.cascade.model_copy(update=changes)
        size = size or self._settings.sampling.patch_size
        return CascadeSegmenter(networks, self._settings.data.modalities, size, cascade, _SCHEMA)

    def as_it_is(self) -> Answer:
        return timed(self._segmenter(), self._volumes)

    def at_once(self) -> Iterator[tuple[str, Answer]]:
        for count in _TILES:
            yield f"{count} tiles at once", timed(self._segmenter(tile_batch=count), self._volumes)

    def tiles(self) -> Iterator[tuple[str, Answer]]:
        usual = self._settings.sampling.patch_size
        for times in _SIZES:
            stride = int(self._settings.cascade.stride * times)
            wide = self._segmenter(int(usual * times), stride=stride, tile_batch=1)
            yield f"tiles of {usual * times:g}, stride {stride}", timed(wide, self._volumes)

    def bfloat16(self) -> Iterator[tuple[str, Answer]]:
        yield "mixed_bfloat16", timed(self._segmenter(precision="mixed_bfloat16"), self._volumes)


PARTS = {Slices: ("crop", "at_once", "bfloat16"), Tiles: ("at_once", "tiles", "bfloat16")}


def row(name: str, found: Answer, usual: Answer) -> str:
    different = np.count_nonzero(found.tissues != usual.tissues)
    dice = (
        region_scores.dice(*(region_mask(one.tissues, region) for one in (found, usual))) for region in REGIONS
    )
    return (
        f"| {name} | {found.seconds:.1f} | {found.seconds / usual.seconds:.2f} | {different} | "
        + " | ".join(f"{value:.4f}" for value in dice)
        + " |"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--case", required=True, help="a case's folder")
    parser.add_argument("--run", required=True, help="run folder of tfbrats train")
    parser.add_argument(
        "--only", action="append", choices=sorted({p for parts in PARTS.values() for p in parts})
    )
    options = parser.parse_args(argv)
    settings = chosen_from(options.run).config
    (entry,) = layouts.select(layouts.find(options.case), None)
    loaded = case.load(entry, settings.data.modalities, read_label=False)
    volumes = {name: np.ascontiguousarray(loaded.image[..., m]) for m, name in enumerate(loaded.modalities)}
    kind = Tiles if isinstance(settings, PatchConfig) else Slices
    ways = kind(settings, volumes)
    usual = ways.as_it_is()
    print(
        f"{entry.case_id}, {settings.model.name}, width {settings.model.width}, "
        f"{np.count_nonzero(usual.tissues)} tumour voxels; load {os.getloadavg()[0]:.1f}"
    )
    print("| way | s | of the usual | voxels that differ | Dice WT | TC | ET |\n|---|---|---|---|---|---|---|")
    print(row("as it is", usual, usual), flush=True)
    for part in PARTS[kind]:
        if options.only is None or part in options.only:
            for name, found in getattr(ways, part)():
                print(row(name, found, usual), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
