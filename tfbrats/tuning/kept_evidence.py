"""One case's evidence and reference on disk, so that a network runs once: the voxels that may be tumour, alone.

Of the millions of voxels of a brain all but a few are tumour by no candidate: what the loosest one
(`candidates.loosest`) leaves out is not kept. What is kept is kept whole, in float32: numpy then decides on the
numbers that the graph decides on.
"""

import functools
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfbrats.cases import boxes
from tfbrats.labels import REGIONS, region_mask
from tfbrats.machine import files
from tfbrats.metrics import components
from tfbrats.tuning import candidates, rules
from tfbrats.tuning.choices import Tuned

NAMES = ("odds", "tissues", "regions")  # of the arrays of evidence, beside the brain
VOXEL_BYTES = 40  # of a voxel that may be tumour: at most 5 numbers of evidence, its place, three lesions


@dataclass(frozen=True, eq=False)
class KeptCase:
    """A case as the search needs it. V voxels may be tumour; they are listed in C order.

    Attributes:
        shape: of the brain's box.
        places: of each voxel in the box, flat: [V].
        evidence: "plain", and "flips" where it was asked for -> evidence of these voxels, as `rules` has it.
        brain: bool [i, j, k].
        lesion_of: region -> number of each voxel's reference lesion, 0 outside: [V].
        lesion_sizes: region -> voxels of each reference lesion, [L].
        reference: tissues of the reference, uint8, in its own box.
        corners: first voxel of the brain's and of the reference's box in the volume.
        spacing_mm: voxel size along i, j, k.
    """

    shape: tuple[int, ...]
    places: np.ndarray
    evidence: Mapping[str, rules.Evidence]
    brain: np.ndarray
    lesion_of: Mapping[str, np.ndarray]
    lesion_sizes: Mapping[str, np.ndarray]
    reference: np.ndarray
    corners: np.ndarray
    spacing_mm: tuple[float, ...]

    @functools.cached_property
    def coordinates(self) -> np.ndarray:
        """Of each voxel in the box: [3, V]."""
        return np.array(np.unravel_index(self.places, self.shape), np.int32)

    def of(self, tuned: Tuned) -> rules.Evidence:
        return self.evidence["flips" if tuned.flips else "plain"]

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """[V] of any type -> [i, j, k], 0 elsewhere."""
        grid = np.zeros(self.shape, values.dtype)
        grid.reshape(-1)[self.places] = values
        return grid


def kept(
    evidence: Mapping[str, Mapping[str, np.ndarray]],
    low: Sequence[int],
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    threshold: float | None = None,
) -> KeptCase:
    """What is kept of a case.

    Args:
        evidence: "plain" and, if wanted, "flips" -> evidence on the brain's box, `brain` with it.
        low: first voxel of that box in the volume.
        reference: tissues, uint8 [I, J, K], of the volume.
        spacing_mm: voxel size along i, j, k.
        threshold: `cascade.threshold` of a cascade; a low one reaches further than all candidates.
    """
    brain = evidence["plain"]["brain"]
    loosest = candidates.loosest(rules.kind_of(evidence["plain"]), threshold)
    possible = np.logical_or.reduce([rules.decided(one, loosest)["WT"] for one in evidence.values()])
    places = np.flatnonzero(possible)
    listed = {
        name: {
            **{field: _flat(one[field])[places].astype(np.float32) for field in NAMES if field in one},
            "brain": np.ones(places.size, bool),
        }
        for name, one in evidence.items()
    }
    box = boxes.box_of(reference > 0)
    reference_low = np.array([side[0] for side in box])
    within = boxes.crop(reference, box)
    numbers = {region: components.numbered(region_mask(within, region)) for region in REGIONS}
    brain_box = tuple((int(side), int(side) + size) for side, size in zip(low, brain.shape, strict=True))
    lesion_of = {
        region: boxes.crop(boxes.uncrop(number, box, reference.shape), brain_box).reshape(-1)[places]
        for region, number in numbers.items()
    }
    sizes = {region: np.bincount(number.reshape(-1))[1:] for region, number in numbers.items()}
    corners = np.array([list(map(int, low)), reference_low])
    return KeptCase(
        brain.shape, places, listed, brain, lesion_of, sizes, within, corners, tuple(map(float, spacing_mm))
    )


def _flat(array: np.ndarray) -> np.ndarray:
    """[i, j, k, ...] -> [i * j * k, ...]."""
    return array.reshape(-1, *array.shape[3:])


# --- on disk --------------------------------------------------------------------------------------------


def write(path: str | os.PathLike, case: KeptCase, stamp: Mapping[str, Any]) -> None:
    """Writes it whole or not at all.

    Args:
        stamp: what it was made with; `is_current` compares.
    """
    arrays = {
        "stamp": np.frombuffer(json.dumps(stamp).encode(), np.uint8),
        "places": case.places.astype(np.int32),
        "brain": np.packbits(case.brain),
        "reference": case.reference,
        "corners": case.corners,
        "shape": np.array(case.shape),
        "spacing_mm": np.array(case.spacing_mm),
        **{f"lesion_of {region}": number.astype(np.int32) for region, number in case.lesion_of.items()},
        **{f"lesion_sizes {region}": size for region, size in case.lesion_sizes.items()},
        **{
            f"evidence {name} {field}": array
            for name, one in case.evidence.items()
            for field, array in one.items()
            if field != "brain"
        },
    }
    content = io.BytesIO()
    np.savez(content, **arrays)
    files.write_bytes(path, content.getvalue())


def is_current(path: str | os.PathLike, stamp: Mapping[str, Any]) -> bool:
    """Whether a case is kept here, made with just that."""
    if not files.exists(path):
        return False
    with np.load(os.fspath(path)) as stored:
        return json.loads(stored["stamp"].tobytes()) == json.loads(json.dumps(stamp))


def read(path: str | os.PathLike) -> KeptCase:
    """The inverse of `write`."""
    with np.load(os.fspath(path)) as stored:
        arrays = dict(stored)
    shape = tuple(map(int, arrays["shape"]))
    ones = np.ones(arrays["places"].size, bool)
    evidence: dict[str, dict[str, np.ndarray]] = {}
    for name in arrays:
        kind, *of = name.split()
        if kind == "evidence":
            evidence.setdefault(of[0], {"brain": ones})[of[1]] = arrays[name]
    return KeptCase(
        shape=shape,
        places=arrays["places"],
        evidence=evidence,
        brain=np.unpackbits(arrays["brain"], count=int(np.prod(shape))).reshape(shape).astype(bool),
        lesion_of={region: arrays[f"lesion_of {region}"] for region in REGIONS},
        lesion_sizes={region: arrays[f"lesion_sizes {region}"] for region in REGIONS},
        reference=arrays["reference"],
        corners=arrays["corners"],
        spacing_mm=tuple(map(float, arrays["spacing_mm"])),
    )
