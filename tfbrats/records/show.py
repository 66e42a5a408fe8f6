"""What dataset.json says of a record set, gathered for people and programs. Opens no shard."""

import os
import statistics
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tfbrats.labels import LabelSchema
from tfbrats.records.manifest import Manifest, Shard
from tfbrats.records.reading import check_case, placed, spacings_mm
from tfbrats.terminal.wording import columns, counted, in_units

_REJECTED_SHOWN = 3
_INDENT, _WIDTH = 12, 112


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


# --- as a person reads it -------------------------------------------------------------------------------


def _line(name: str, text: Any) -> None:
    """A name and its text, wrapped beside it."""
    first, *others = textwrap.wrap(str(text), _WIDTH - _INDENT, break_long_words=False) or [""]
    print("\n".join(columns([(name, first), *(("", line) for line in others)], (f"<{_INDENT}", ""))))


def _settings(content: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {' '.join(map(str, value)) or 'none' if isinstance(value, list) else value}"
        for key, value in content.items()
    )


def _seconds(by_stage: Mapping[str, float]) -> str:
    each = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in by_stage.items())
    return f"{each}: {sum(by_stage.values()):.2f} in all"


def table(rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, the others to the right."""
    for line in columns(rows, ("<", *(["  >"] * (len(rows[0]) - 1)))):
        print(line.rstrip())


def group_name(group: Mapping[str, Any]) -> str:
    """E.g. "train WT"."""
    return f"{group['split']} {group['region']}".strip()


def print_set(content: Mapping[str, Any], manifest: Manifest) -> None:
    """The whole set, as `describe` tells it."""
    _print_origin(content)
    print()
    _print_groups(content, len(manifest.shards))
    _print_rejected(content["rejected"])


def _print_origin(content: Mapping[str, Any]) -> None:
    """What the records were made of, and how."""
    _line("records", f"{content['folder']}: {content['kind']}, format {content['format']}")
    _line("written by", f"tfbrats {content['tfbrats_version']}")
    for text in content["layouts"]:
        _line("layout", text)
    for edition, values in content["label_schemas"].items():
        _line("labels", f"edition {edition}: {values}")
    _line("modalities", ", ".join(content["modalities"]))
    for spacing, count in content["spacings_mm"][:3]:
        of = "" if len(content["spacings_mm"]) == 1 else f": {counted(count, 'case')}"
        _line("spacing", " x ".join(f"{side:.4g}" for side in spacing) + f" mm{of}")
    if more := content["spacings_mm"][3:]:
        _line("", f"and {counted(len(more), 'other spacing')}")
    for section, values in content["settings"].items():
        if isinstance(values, Mapping):
            _line(section, _settings(values))
        else:
            _line("settings", f"{section} {values}")
    _line("fields", ", ".join(f"{name} {text}" for name, text in content["fields"].items()))
    _line("split", f"sha256 {content['split_sha256'][:16]}")
    if content["seconds_per_case"]:
        _line("seconds", f"a case: {_seconds(content['seconds_per_case'])}")
    if len(content["batches"]) > 1:
        counts = [sum(batch.values()) for batch in content["batches"]]
        later = ", then ".join(str(count) for count in counts[1:])
        _line("batches", f"{counted(counts[0], 'case')} at first, then {later} added")


def _print_groups(content: Mapping[str, Any], shard_count: int) -> None:
    rows = [("split", "cases", content["kind"], "bytes", "shards", "smallest", "median", "largest")]
    for group in content["groups"]:
        sizes = [in_units(size) for size in group["shard_bytes"].values()]
        numbers = [str(group[key]) for key in ("cases", "examples")]
        rows.append((group_name(group), *numbers, in_units(group["bytes"]), str(group["shards"]), *sizes))
    if len(content["groups"]) > 1:
        numbers = (str(content["cases"]), str(content["examples"]), in_units(content["bytes"]))
        rows.append(("all", *numbers, str(shard_count), "", "", ""))
    table(rows)


def _print_rejected(rejected: Sequence[Mapping[str, Any]]) -> None:
    if not rejected:
        return
    print(f"\nrejected: {counted(len(rejected), 'case')}")
    for case in rejected[:_REJECTED_SHOWN]:
        print(f"  {case['case_id']} ({case['stage']}): " + case["reason"].replace("\n", "\n    "))
    if more := rejected[_REJECTED_SHOWN:]:
        print(f"  and {len(more)} more: --json lists all")


def print_case(content: Mapping[str, Any]) -> None:
    """Where a case lies, as `where` tells it."""
    _line("case", f"{content['case_id']}, in {content['split']}, {counted(content['examples'], 'example')}")
    if content["spacing_mm"]:
        _line("spacing", " x ".join(f"{side:.4g}" for side in content["spacing_mm"]) + " mm")
    if content["source"]:
        shape = " x ".join(map(str, content["source"]["shape"]))
        edition = content["source"]["label_schema"]["edition"]
        _line("its files", f"{shape} voxels, edition {edition}, affine")
        for row in content["source"]["affine"][:3]:
            print(" " * _INDENT + " ".join(f"{value:10.4f}" for value in row))
    print()
    rows = [("shard", "region", "records", "seconds")]
    for part in content["parts"]:
        first, last = part["records"]
        taken = f"{sum(part['seconds'].values()):.2f}" if part["seconds"] else ""
        span = "none" if last < first else f"{first}" if first == last else f"{first} to {last}"
        rows.append((part["file"], part["region"], span, taken))
    table(rows)


def print_shards(content: Mapping[str, Any]) -> None:
    """Each shard, as `shards` tells them."""
    rows = [("shard", "cases", content["kind"], "bytes", "crc32c")]
    for shard in content["shards"]:
        cases, examples = str(len(shard["cases"])), str(shard["examples"])
        rows.append((shard["file"], cases, examples, in_units(shard["bytes"]), shard["crc32c"]))
    table(rows)
