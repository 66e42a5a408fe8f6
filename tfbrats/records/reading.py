"""Go through a record set example by example: which case is where, and what makes an example sound.

One example is in memory at a time. No TensorFlow: looking at records must cost no start of a training engine.
"""

import difflib
import math
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfbrats.errors import InputError
from tfbrats.labels import LwsRegion, Tissue
from tfbrats.machine import files
from tfbrats.records import tfrecord
from tfbrats.records.manifest import MANIFEST, CaseRow, Manifest, Shard
from tfbrats.records.schema import SCHEMAS, Field, decode
from tfbrats.terminal import verbs


@dataclass(frozen=True)
class Stored:
    """One example and where it lies.

    Attributes:
        number: of the record in its shard, from 0.
    """

    shard: Shard
    number: int
    example: dict[str, Any]


def schema_of(manifest: Manifest, folder: str | os.PathLike) -> tuple[Field, ...]:
    """Raises InputError: the set is of a kind that this version does not know."""
    if manifest.kind not in SCHEMAS:
        raise InputError(
            f"{files.join(folder, MANIFEST)}: records of kind {manifest.kind!r}; expected "
            f"{', '.join(SCHEMAS)}. Write the records again: tfbrats prepare with --overwrite."
        )
    return SCHEMAS[manifest.kind]


def tissues_of(manifest: Manifest) -> tuple[Tissue, ...]:
    """What a label of this set may hold, by the label schemas of its cases."""
    named = {name for schema in manifest.label_schemas for name in schema.get("values", {}).values()}
    return tuple(tissue for tissue in Tissue if tissue.name in named or tissue is Tissue.BACKGROUND)


# --- cases ----------------------------------------------------------------------------------------------


def check_case(manifest: Manifest, folder: str | os.PathLike, case_id: str) -> None:
    """Raises InputError unless examples of the case are in the set; says why not, or the nearest names."""
    case_ids = sorted({in_set for ids in manifest.cases.values() for in_set in ids})
    if case_id in case_ids:
        return
    for shard in manifest.shards:
        for row in shard.rejected:
            if row.case_id == case_id:
                raise InputError(f"{folder}: {case_id} was rejected ({row.stage}): {row.reason}")
    near = difflib.get_close_matches(case_id, case_ids, n=3)
    shown = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(case_ids[:5])}, ..."
    raise InputError(f"{folder}: no case {case_id} among its {len(case_ids)}. {shown}")


def placed(shard: Shard) -> Iterator[tuple[int, CaseRow]]:
    """Each row with its first record's number: a shard holds its cases one after the other, as its rows do."""
    first = 0
    for row in shard.cases:
        yield first, row
        first += row.examples


def spacings_mm(manifest: Manifest) -> dict[str, tuple[float, float, float]]:
    """Case id -> voxel size along i, j, k."""
    return {row.case_id: row.spacing_mm for shard in manifest.shards for row in shard.cases}


# --- examples -------------------------------------------------------------------------------------------


def example_of(manifest: Manifest, shard: Shard, content: bytes, folder: str | os.PathLike) -> dict[str, Any]:
    """A record's content as numpy, held against the schema and against what dataset.json says of it.

    Raises:
        InputError: with every fault, without the place.
    """
    example = decode(schema_of(manifest, folder), content)
    faults = list(_faults(manifest, shard, example))
    if faults:
        raise InputError("; ".join(faults))
    return example


def stored(
    manifest: Manifest,
    folder: str | os.PathLike,
    shard: Shard,
    numbers: Collection[int] | None = None,
    seen: Callable[[int], None] = lambda _: None,
) -> Iterator[Stored]:
    """The examples of one shard.

    Args:
        numbers: only these records.
        seen: called with the bytes of each record that was passed.

    Raises:
        InputError: a record is damaged, or does not fit the schema; named with its place and case.
    """
    path = files.join(folder, shard.file)
    last = math.inf if numbers is None else max(numbers, default=-1)
    for number, content in enumerate(tfrecord.read_records(path)):
        if number > last:
            return
        if numbers is None or number in numbers:
            try:
                example = example_of(manifest, shard, content, folder)
            except InputError as error:
                raise InputError(
                    f"{path}: record {number}{belonging(shard, number)}: {error} "
                    f"What else is wrong: {verbs.command_line('tfbrats.records', 'verify', folder)}"
                ) from error
            yield Stored(shard, number, example)
        seen(len(content) + tfrecord.FRAME_BYTES)


def belonging(shard: Shard, number: int) -> str:
    """Whose a record is, to stand behind its number: " of CASE", or nothing where the rows do not tell."""
    within = (row.case_id for first, row in placed(shard) if first <= number < first + row.examples)
    return next((f" of {case_id}" for case_id in within), "")


# --- what makes an example sound ------------------------------------------------------------------------


def _faults(manifest: Manifest, shard: Shard, example: dict[str, Any]) -> Iterator[str]:
    schema = SCHEMAS[manifest.kind]
    wrong = [
        f"{field.name} has the shape {example[field.name].shape}; the schema says {field.shape}"
        for field in schema
        if field.is_array
        and not (
            example[field.name].ndim == len(field.shape)
            and all(w in (-1, n) for w, n in zip(field.shape, example[field.name].shape, strict=True))
        )
    ]
    if wrong:
        yield from wrong
        return
    for name in ("image", "x1", "half"):
        if name not in example:
            continue
        if example[name].shape[-1] != len(manifest.modalities):
            there, named = example[name].shape[-1], len(manifest.modalities)
            yield f"{name} has {there} modalities; dataset.json names {named}"
        if example[name].size and not _finite(example[name]):
            yield f"{name} holds NaN or infinite values"
    allowed = {int(tissue) for tissue in tissues_of(manifest)}
    if not np.isin(np.arange(256), sorted(allowed))[example["label"]].all():
        strange = sorted(set(np.unique(example["label"]).tolist()) - allowed)
        yield f"label holds {strange}; expected {sorted(allowed)}"
    yield from {"slices": _of_slice, "patches": _of_patch, "volumes": _of_volume}[manifest.kind](
        manifest, shard, example
    )


def _finite(image: np.ndarray) -> bool:
    """Whether no float16 has all bits of its exponent set: np.isfinite, several times faster."""
    positive, negative = image.view(np.int16).max(), image.view(np.uint16).max()
    return bool(positive < 0x7C00 and negative < 0xFC00)


def _setting(manifest: Manifest, section: str, key: str) -> Any:
    return (manifest.identity.get(section) or {}).get(key)


def _of_slice(manifest: Manifest, shard: Shard, example: dict[str, Any]) -> Iterator[str]:
    shape = example["image"].shape[:2]
    for name in ("label", "region"):
        if example[name].shape != shape:
            yield f"{name} has the shape {example[name].shape}; the image {shape}"
    if example["region"].size and example["region"].max() > max(LwsRegion):
        yield f"region holds {int(example['region'].max())}; expected {min(LwsRegion):d} to {max(LwsRegion):d}"
    canvas = _setting(manifest, "records", "slice_shape")
    low = example["origin_ij"]
    if canvas and not ((low >= 0).all() and (low + shape <= canvas).all()):
        yield f"at {low.tolist()} the slice of {shape} leaves the canvas {tuple(canvas)}"


def _of_patch(manifest: Manifest, shard: Shard, example: dict[str, Any]) -> Iterator[str]:
    size = _setting(manifest, "sampling", "patch_size")
    for name in ("x1", "half", "label"):
        if size and example[name].shape[:3] != (size,) * 3:
            yield f"{name} has the shape {example[name].shape[:3]}; expected {(size,) * 3}"
    if example["region"] != shard.region:
        yield f"a patch of {example['region']!r} in a shard of {shard.region!r}"


def _of_volume(manifest: Manifest, shard: Shard, example: dict[str, Any]) -> Iterator[str]:
    shape = example["image"].shape[:3]
    for name in ("brain", "label"):
        if example[name].shape != shape:
            yield f"{name} has the shape {example[name].shape}; the image {shape}"
    if example["brain"].size and example["brain"].max() > 1:
        yield f"brain holds {int(example['brain'].max())}; expected 0 and 1"
    low, whole = example["origin_ijk"], example["shape_ijk"]
    if not ((low >= 0).all() and (low + shape <= whole).all()):
        yield f"at {low.tolist()} the crop of {shape} leaves the volume {tuple(whole.tolist())}"
    for row in shard.cases:
        if row.case_id != example["case_id"]:
            continue
        if row.source is None:
            yield "dataset.json does not tell the grid of the case's files"
        elif sorted(row.source.shape) != sorted(whole.tolist()):
            yield f"cut from {tuple(whole.tolist())}; dataset.json says that the files are {row.source.shape}"
