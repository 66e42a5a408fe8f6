"""The page's one script, slices.js, and what it must know of every case: colours, regions, planes."""

import dataclasses
import functools
import pathlib
from typing import Any

from tfbrats.cases import overlays
from tfbrats.labels import REGIONS
from tfbrats.pictures import differences, marks, sprites


@functools.cache
def source() -> str:
    """The script itself."""
    return pathlib.Path(__file__).with_name("slices.js").read_text(encoding="utf-8")


def shown() -> dict[str, Any]:
    """What it reads besides each case's `Sprites.data`; as JSON."""
    names = differences.NAMES
    places = [marks.Slice(axis, 0, 1, (1, 1, 1)) for axis in range(3)]
    return {
        "tissues": {int(tissue): colour for tissue, colour in overlays.COLOURS.items()},
        "regions": {region: [int(tissue) for tissue in tissues] for region, tissues in REGIONS.items()},
        "difference": {
            "colours": {names[kind]: colour for kind, colour in differences.COLOURS.items()},
            "opacity": {names[kind]: opacity for kind, opacity in differences.OPACITY.items()},
            "dimmed": differences.DIMMED,
        },
        "pairs": sprites.PAIRS,
        "step": sprites.STEP,
        "planes": [
            {
                "name": place.plane,
                "letters": dataclasses.astuple(place.letters),
                "beyond": marks.beyond(place.axis),
            }
            for place in places
        ],
        "scales": marks.SCALES,
    }
