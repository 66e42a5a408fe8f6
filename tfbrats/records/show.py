"""What dataset.json says of a record set, gathered for people and programs. Opens no shard."""

import os
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tfbrats.labels import LabelSchema
from tfbrats.records.manifest import Manifest, Shard
from tfbrats.records.reading import check_case, placed, spacings_mm


def describe(folder: str | os.PathLike, manifest: Manifest) -> dict[str, Any]:
    """What is in the set, ready for JSON.

    Returns:
        folder, kind, format, tfbrats_version, layouts, modalities, label_schemas (edition -> values in words),
        spacings_mm ([spacing, cases], most frequent first), settings (section -> what the records were written
        with), fields, split_sha256, examples and bytes of all, groups (by split and region: cases, examples,
        bytes, shards and their smallest, median and largest bytes), batches (cases given together),
        rejected, seconds_per_case.
    """
    spacings = Counter(spacings_mm(manifest).values())
    return {
        "folder": os.fspath(folder),
        "kind": manifest.kind,
        "format": manifest.format,
        "tfbrats_version": manifest.tfbrats_version,
        "layouts": list(manifest.layouts),
        "modalities": list(manifest.modalities),
        "label_schemas": {
            schema.edition: schema.describe() for schema in map(LabelSchema.from_json, manifest.label_schemas)
        },
        "spacings_mm": [[list(spacing), count] for spacing, count in spacings.most_common()],
        "settings": {key: value for key, value in manifest.identity.items() if key != "modalities"},
        "fields": dict(manifest.fields),
        "split_sha256": manifest.split_sha256,
        "cases": sum(map(len, manifest.cases.values())),
        "examples": sum(manifest.examples.values()),
        "bytes": manifest.bytes,
        "groups": [
            _group(manifest, split, region)
            for split in manifest.examples
            for region in (manifest.regions or ("",))
            if manifest.shards_of(split, region)
        ],
        "batches": [{s: len(ids) for s, ids in batch.cases.items()} for batch in manifest.batches],
        "rejected": [row.model_dump() for shard in manifest.shards for row in shard.rejected],
        "seconds_per_case": dict(manifest.seconds_per_case),
    }


def _group(manifest: Manifest, split: str, region: str) -> dict[str, Any]:
    shards = manifest.shards_of(split, region)
    sizes = sorted(shard.bytes for shard in shards)
    return {
        "split": split,
        "region": region,
        "cases": len({row.case_id for shard in shards for row in shard.cases}),
        "examples": sum(shard.examples for shard in shards),
        "bytes": sum(sizes),
        "shards": len(shards),
        "shard_bytes": {
            "smallest": sizes[0],
            "median": int(statistics.median(sizes)),
            "largest": sizes[-1],
        },
    }


def shards(manifest: Manifest) -> list[dict[str, Any]]:
    """file, split, region, cases, examples, bytes, crc32c of each shard."""
    return [
        {
            "file": shard.file,
            "split": shard.split,
            "region": shard.region,
            "cases": sorted({row.case_id for row in shard.cases}),
            "examples": shard.examples,
            "bytes": shard.bytes,
            "crc32c": shard.crc32c,
        }
        for shard in manifest.shards
    ]


def where(folder: str | os.PathLike, manifest: Manifest, case_id: str) -> dict[str, Any]:
    """One case: split, spacing_mm, the grid of its files (`source`), and its `parts`.

    Each part has file, region, records ([first, last], from 0) and seconds by stage.

    Raises:
        InputError: it is not in the set; says why, or the nearest names.
    """
    check_case(manifest, folder, case_id)
    parts = [part for shard in manifest.shards for part in _parts(shard, case_id)]
    rows = [row for shard in manifest.shards for row in shard.cases if row.case_id == case_id]
    source = next((row.source for row in rows if row.source), None)
    return {
        "case_id": case_id,
        "split": next(split for split, ids in manifest.cases.items() if case_id in ids),
        "examples": sum(row.examples for row in rows),
        "spacing_mm": list(rows[0].spacing_mm) if rows else None,
        "source": source.model_dump(mode="json") if source else None,
        "parts": parts,
    }


def _parts(shard: Shard, case_id: str) -> Sequence[dict[str, Any]]:
    return [
        {
            "file": shard.file,
            "region": shard.region,
            "records": [first, first + row.examples - 1],
            "seconds": dict(row.seconds),
        }
        for first, row in placed(shard)
        if row.case_id == case_id
    ]
