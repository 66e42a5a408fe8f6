"""Hold a record set against its dataset.json: every fault of every file, with what mends it.

Reads each file once, a record in memory at a time. Repairs nothing: `tfbrats prepare` does, from the cases.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import google_crc32c

from tfbrats.cases.split_files import SPLITS, sha256_of_split
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.records import schema, tfrecord
from tfbrats.records.manifest import MANIFEST, SHARD_NAME, Manifest, Shard
from tfbrats.records.reading import belonging, example_of, schema_of
from tfbrats.terminal.wording import counted

AGAIN = (
    "Run tfbrats prepare again as it was run: it rewrites the shards that do not match dataset.json, keeps "
    "the others, and removes stale ones."
)
OVERWRITE = "Write the records again: tfbrats prepare with --overwrite."
MOVE = "Move away what is no part of the set, or leave it: nothing reads it."


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        file: in the folder of the set.
        record: its number in the file, from 0; None where no single one is meant.
        cure: one of the sentences above.
    """

    file: str
    text: str
    cure: str
    record: int | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass
class Report:
    """What was looked at and found.

    Attributes:
        notes: what is unusual but no fault.
        records, bytes: read.
    """

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    bytes: int = 0


def verify(
    folder: str | os.PathLike,
    manifest: Manifest,
    quick: bool = False,
    seen: Callable[[int], None] = lambda _: None,
) -> Report:
    """Every fault of a record set.

    Args:
        quick: names and sizes alone; no file is opened.
        seen: called with the bytes of each record that was checked.

    Raises:
        InputError: a set of a kind that this version does not know; a folder that cannot be read.
    """
    schema_of(manifest, folder)
    report = Report()
    report.faults += manifest_faults(manifest)
    _look_round(folder, manifest, report)
    for shard in manifest.shards:
        path = files.join(folder, shard.file)
        if not files.exists(path):
            report.faults.append(Fault(shard.file, "missing", AGAIN))
            continue
        if (size := files.size(path)) != shard.bytes:
            text = f"{size} bytes; dataset.json says {shard.bytes}"
            report.faults.append(Fault(shard.file, text, AGAIN))
        if not quick:
            _check_content(folder, manifest, shard, report, seen)
    return report


# --- one shard ------------------------------------------------------------------------------------------


def _check_content(
    folder: str | os.PathLike,
    manifest: Manifest,
    shard: Shard,
    report: Report,
    seen: Callable[[int], None],
) -> None:
    """Reads a shard once: its records, how many each case has, and its checksum."""
    checksum = google_crc32c.Checksum()
    texts: list[tuple[int | None, str]] = []  # the record, and what is wrong
    counts: Counter[str] = Counter()
    frames = tfrecord.read_frames(files.join(folder, shard.file), checksum)
    try:
        for number, (at, content) in enumerate(frames):
            if content is None:
                texts.append((number, f"{_place(shard, number, at)}: damaged"))
                continue
            size = len(content) + tfrecord.FRAME_BYTES
            report.records += 1
            report.bytes += size
            try:
                counts[example_of(manifest, shard, content, folder)["case_id"]] += 1
            except InputError as error:
                # Counted as its place says: the count below is of what is there, not of what is sound.
                counts[belonging(shard, number).removeprefix(" of ")] += 1
                texts.append((number, f"{_place(shard, number, at)}: {error}"))
            seen(size)
    except InputError as error:  # the file cannot be read
        report.faults.append(Fault(shard.file, str(error), AGAIN))
        return
    texts += [(None, text) for text in _miscounted(shard, counts)]
    is_as_written = checksum.hexdigest().decode() == shard.crc32c
    if not is_as_written and not texts:
        texts.append((None, "its checksum is not the one in dataset.json, though each record is sound"))
    # Where the file is the one that was written, to write it again would give the same.
    cure = OVERWRITE if is_as_written else AGAIN
    report.faults += [Fault(shard.file, text, cure, number) for number, text in texts]


def _place(shard: Shard, number: int, at: int) -> str:
    """Where a record is, and whose. `at`: its first byte in the file."""
    return f"record {number} (at byte {at}){belonging(shard, number)}"


def _miscounted(shard: Shard, counts: Counter[str]) -> Iterator[str]:
    """Cases of which there are more or fewer records than dataset.json says. `counts`: by case id."""
    expected: Counter[str] = Counter()
    for row in shard.cases:
        expected[row.case_id] += row.examples
    for case_id in sorted({*counts, *expected}):
        if counts[case_id] != expected[case_id]:
            number = counted(counts[case_id], "record")
            yield f"{number} of {case_id}; dataset.json says {expected[case_id]}"


# --- dataset.json and the folder ------------------------------------------------------------------------


def manifest_faults(manifest: Manifest) -> list[Fault]:
    """What dataset.json says that contradicts itself."""
    texts = list(_contradictions(manifest))
    return [Fault(MANIFEST, text, OVERWRITE) for text in texts]


def _contradictions(manifest: Manifest) -> Iterator[str]:
    yield from _of_shards(manifest)
    yield from _of_splits(manifest)
    total = sum(shard.bytes for shard in manifest.shards)
    if manifest.bytes != total:
        yield f"{manifest.bytes} bytes; its shards are {total}"
    rejected = sum(len(shard.rejected) for shard in manifest.shards)
    if manifest.rejected != rejected:
        yield f"{counted(manifest.rejected, 'rejected case')}; its shards name {rejected}"


def _of_shards(manifest: Manifest) -> Iterator[str]:
    expected = schema.field_descriptions(schema.SCHEMAS[manifest.kind])
    if manifest.fields != expected:
        yield f"its fields are {manifest.fields}; those of {manifest.kind} are {expected}"
    for file, times in Counter(shard.file for shard in manifest.shards).items():
        if times > 1:
            yield f"names {file} {times} times"
    for shard in manifest.shards:
        of_rows = sum(row.examples for row in shard.cases)
        if of_rows != shard.examples:
            yield f"{shard.file} has {counted(shard.examples, 'example')}, its cases {of_rows}"
        if shard.split not in SPLITS:
            yield f"{shard.file} is of the split {shard.split!r}; expected {', '.join(SPLITS)}"
        if manifest.kind == "patches" and shard.region not in manifest.regions:
            yield f"{shard.file} is of the region {shard.region!r}; the set is of {', '.join(manifest.regions)}"


def _of_splits(manifest: Manifest) -> Iterator[str]:
    for split in SPLITS:
        if manifest.examples.get(split, 0) != manifest.count(split):
            examples = counted(manifest.examples.get(split, 0), "example")
            yield f"{split} has {examples}, its shards {manifest.count(split)}"
        listed = set(manifest.cases.get(split, ()))
        there = {row.case_id for shard in manifest.shards_of(split) for row in shard.cases}
        for case_id in sorted(listed - there):
            yield f"{case_id} is in {split}, but in none of its shards"
        for case_id in sorted(there - listed):
            yield f"{case_id} is in a shard of {split}, but not in {split}"
    splits = {split: manifest.cases.get(split, ()) for split in SPLITS}
    for case_id, times in Counter(case_id for ids in splits.values() for case_id in ids).items():
        if times > 1 and not manifest.is_of_folds:
            where = ", ".join(split for split, ids in splits.items() if case_id in ids)
            yield f"{case_id} is in {times} splits: {where}"
    if manifest.split_sha256 != sha256_of_split(splits):
        yield "split_sha256 is not that of its cases"


def _look_round(folder: str | os.PathLike, manifest: Manifest, report: Report) -> None:
    """What lies in the folder itself that dataset.json does not know; folders below are no part of the set."""
    named = {shard.file for shard in manifest.shards}
    root = files.canonical(folder).rstrip("/")
    below = set()
    for path in files.walk(folder):
        place = files.canonical(files.parent(path)).rstrip("/")
        name = files.name(path)
        if place != root:
            below.add(place.removeprefix(root).lstrip("/").partition("/")[0])
        elif files.PARTIAL in name:
            report.faults.append(Fault(name, "a temporary file of a job that was killed or still runs", AGAIN))
        elif name.endswith(".tfrecord") and name not in named:
            ours = SHARD_NAME.fullmatch(name)  # only such files does the job remove
            text = "a stale shard" if ours else "a foreign file"
            report.faults.append(Fault(name, f"{text}: dataset.json does not know it", AGAIN if ours else MOVE))
    report.notes += [f"{name}/ lies in the folder and was not looked at" for name in sorted(below)]
