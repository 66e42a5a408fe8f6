"""How much of each example is tumour, and how bright: label and region shares, intensities in the brain.

Shares are of what a network sees: of a slice on its canvas, padding included; of a patch; of a volume cropped
to the brain. Reads a record at a time; of each example only its shares are kept.
"""

import csv
import io
import math
import os
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, LwsRegion, Tissue
from tfbrats.machine import files
from tfbrats.records import show
from tfbrats.records.manifest import MANIFEST, Manifest
from tfbrats.records.reading import Stored, schema_of, stored, tissues_of

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_KEYS = ("split", "for_region", "shard", "record", "case_id")  # every row begins with them
_PLACE = {"slices": ("slice_k",), "patches": ("centre_i", "centre_j", "centre_k"), "volumes": ()}


def denominator(manifest: Manifest, folder: str | os.PathLike) -> tuple[int, ...] | None:
    """Voxels along each axis that shares are of; None where they differ from example to example.

    Raises:
        InputError: the manifest lacks the canvas of its slices.
    """
    if manifest.kind == "slices":
        canvas = (manifest.identity.get("records") or {}).get("slice_shape")
        if not canvas:
            raise InputError(
                f"{files.join(folder, MANIFEST)}: no records.slice_shape in its identity. Write the "
                "records again: tfbrats prepare with --overwrite."
            )
        return tuple(canvas)
    size = (manifest.identity.get("sampling") or {}).get("patch_size")
    return (size,) * 3 if manifest.kind == "patches" and size else None


def columns(manifest: Manifest) -> tuple[str, ...]:
    """What `rows` give of each example: its place, then shares from 0 to 1."""
    return (*_KEYS, *_PLACE[manifest.kind], "voxels", *share_names(manifest))


def share_names(manifest: Manifest) -> tuple[str, ...]:
    """brain; tissues, ET being a region too; WT and TC; the regions of loss weighted sampling for slices."""
    tissues = [tissue.name for tissue in tissues_of(manifest) if tissue is not Tissue.BACKGROUND]
    regions = [region for region in REGIONS if region not in tissues]
    lws = [region.name for region in LwsRegion] if manifest.kind == "slices" else []
    return ("brain", *tissues, *regions, *lws)


def row_of(record: Stored, whole: Sequence[int] | None, names: Sequence[str]) -> dict[str, Any]:
    """One example's `columns`.

    Args:
        whole: from `denominator`.
        names: from `share_names`.
    """
    example = record.example
    label = example["label"]
    voxels = math.prod(whole) if whole else label.size
    counts = np.bincount(label.ravel(), minlength=len(Tissue))
    # A patch may be masked to its parent's region: then what is not 0 is that part of the brain.
    held = {"brain": int(_brain(example).sum())}
    held |= {tissue.name: int(counts[tissue]) for tissue in Tissue}
    held |= {region: int(sum(counts[tissue] for tissue in within)) for region, within in REGIONS.items()}
    place: dict[str, Any] = {}
    if "slice_k" in example:
        place["slice_k"] = example["slice_k"]
        of_lws = np.bincount(example["region"].ravel(), minlength=len(LwsRegion))
        of_lws[LwsRegion.S1] += voxels - label.size  # padding is background
        held |= {region.name: int(of_lws[region]) for region in LwsRegion}
    elif "centre_ijk" in example:
        place = dict(zip(_PLACE["patches"], example["centre_ijk"].tolist(), strict=True))
    return {
        "split": record.shard.split,
        "for_region": record.shard.region,
        "shard": record.shard.file,
        "record": record.number,
        "case_id": example["case_id"],
        **place,
        "voxels": voxels,
        **{name: held[name] / voxels if voxels else 0.0 for name in names},
    }


def _image(example: Mapping[str, Any]) -> np.ndarray:
    return example["x1"] if "x1" in example else example["image"]


def _brain(example: Mapping[str, Any]) -> np.ndarray:
    """bool, the image's shape without modalities."""
    if "brain" in example:
        return example["brain"] > 0
    if "slice_k" in example:
        return example["region"] != LwsRegion.S1
    # -0.0 is not 0 to the bits: the sign is left out.
    return ((example["x1"].view(np.uint16) & 0x7FFF) != 0).any(axis=-1)


class _Group:
    """The examples of a split, and of a region where regions are kept apart."""

    def __init__(self, names: Sequence[str], modalities: int):
        self.cases: set[str] = set()
        self.shares = {name: array("d") for name in names}
        self.brain_voxels = 0
        self.sums, self.squares = np.zeros(modalities), np.zeros(modalities)
        self.low, self.high = np.full(modalities, np.inf), np.full(modalities, -np.inf)

    def add(self, row: Mapping[str, Any], example: Mapping[str, Any]) -> None:
        self.cases.add(row["case_id"])
        for name, values in self.shares.items():
            values.append(row[name])
        image, brain = _image(example), _brain(example)
        count = int(brain.sum())
        if not count:
            return
        voxels = image[brain].astype(np.float32)
        self.brain_voxels += count
        self.sums += voxels.sum(axis=0, dtype=np.float64)
        self.squares += np.einsum("vm,vm->m", voxels, voxels, dtype=np.float64)
        self.low = np.minimum(self.low, voxels.min(axis=0))
        self.high = np.maximum(self.high, voxels.max(axis=0))

    def summary(self, modalities: Sequence[str]) -> dict[str, Any]:
        return {
            "examples": len(next(iter(self.shares.values()))),
            "cases": len(self.cases),
            "shares": {name: _summary(np.array(values)) for name, values in self.shares.items()},
            "intensities": {name: self._intensities(m) for m, name in enumerate(modalities)},
        }

    def _intensities(self, m: int) -> dict[str, float | None]:
        """Of one modality, in the brain; None throughout where there is none."""
        if not self.brain_voxels:
            return dict.fromkeys(("mean", "std", "min", "max"))
        mean = self.sums[m] / self.brain_voxels
        variance = max(self.squares[m] / self.brain_voxels - mean**2, 0.0)
        return {
            "mean": float(mean),
            "std": math.sqrt(variance),
            "min": float(self.low[m]),
            "max": float(self.high[m]),
        }


def _summary(shares: np.ndarray) -> dict[str, Any]:
    """The mean of shares [examples], and quantiles of those above 0."""
    held = shares[shares > 0]
    quantiles = np.quantile(held, QUANTILES).tolist() if held.size else [None] * len(QUANTILES)
    return {
        "mean": float(shares.mean()) if shares.size else None,
        "held_by": float(held.size / shares.size) if shares.size else None,
        "quantiles_where_held": dict(zip(map(str, QUANTILES), quantiles, strict=True)),
    }


def stats(
    folder: str | os.PathLike,
    manifest: Manifest,
    table: str | None = None,
    seen: Callable[[int], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Shares and intensities of each split, and of each region where regions are kept apart.

    Args:
        table: a CSV file to write, a row per example with `columns`.
        seen: called with the bytes of each record that was read.

    Returns:
        rows with split, region, examples, cases, shares (name -> mean over all examples, held_by: the share
        of examples that hold any of it, quantiles_where_held: over those) and intensities in the brain
        (modality -> mean, std, min, max).

    Raises:
        InputError: a damaged record; a `table` that this command did not write.
    """
    schema_of(manifest, folder)
    whole, names = denominator(manifest, folder), share_names(manifest)
    if table is not None:
        _check_table(table)
    groups: dict[tuple[str, str], _Group] = defaultdict(lambda: _Group(names, len(manifest.modalities)))

    def rows() -> Iterator[dict[str, Any]]:
        for shard in manifest.shards:
            for record in stored(manifest, folder, shard, seen=seen):
                row = row_of(record, whole, names)
                groups[shard.split, shard.region].add(row, record.example)
                yield row

    if table is None:
        for _ in rows():
            pass
    else:
        with files.writing(table) as file:
            text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
            writer = csv.DictWriter(text, columns(manifest), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows())
            text.detach()  # the file stays open for `writing` to close
    return [
        {"split": split, "region": region, **group.summary(manifest.modalities)}
        for (split, region), group in groups.items()
    ]


def _check_table(path: str) -> None:
    """Raises InputError where a file stands that is no earlier table of this kind: nothing else is replaced."""
    if files.is_folder(path):
        raise InputError(f"{path}: a folder; expected a file to write. Give its name too.")
    if files.exists(path):
        beginning = next(files.read_chunks(path, 4096), b"")
        if not beginning.startswith(",".join(_KEYS).encode()):
            raise InputError(
                f"{path}: exists, and is no table of this command. Choose another name, or move it away."
            )


# --- as a person reads it -------------------------------------------------------------------------------


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def print_shares(manifest: Manifest, whole: Sequence[int] | None, groups: Sequence[Mapping[str, Any]]) -> None:
    """A row for each tissue and region of each group.

    Args:
        whole: voxels along each axis that shares are of; None where they differ (`stats.denominator`).
    """
    example = {"slices": "slice", "patches": "patch", "volumes": "volume"}[manifest.kind]
    of = f"of {' x '.join(map(str, whole))} voxels" if whole else "cropped to the brain"
    padded = ", padding included" if manifest.kind == "slices" else ""
    print(f"Shares in % of a {example} {of}{padded}: mean over all, and quantiles over those that hold any.\n")
    quantiles = [f"{100 * q:.0f} %" for q in QUANTILES]
    rows = [("", manifest.kind, "held by %", "mean", *quantiles[:-1], "most")]
    for group in groups:
        for name, share in group["shares"].items():
            first = name == next(iter(group["shares"]))
            rows.append(
                (
                    f"{show.group_name(group) if first else '':<14}{name}",
                    str(group["examples"]) if first else "",
                    _percent(share["held_by"]),
                    _percent(share["mean"]),
                    *map(_percent, share["quantiles_where_held"].values()),
                )
            )
    show.table(rows)


def print_intensities(groups: Sequence[Mapping[str, Any]]) -> None:
    """A row for each modality of each group."""
    print("\nIntensities in the brain (z-scores: 0 and 1 over a whole case).\n")
    rows = [("", "mean", "std", "min", "max")]
    for group in groups:
        for n, (name, of_modality) in enumerate(group["intensities"].items()):
            numbers = ("-" if value is None else f"{value:.3f}" for value in of_modality.values())
            rows.append((f"{show.group_name(group) if n == 0 else '':<14}{name}", *numbers))
    show.table(rows)
