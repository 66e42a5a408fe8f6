"""Whose folder an output folder is, and what lies finished in it. Runs where the command runs.

While a job is under way `parts/` holds its name (job.json), a lock, and a row for each finished shard;
dataset.json takes their place when all are there. Refuses folders that hold anything else: nothing of a
person's is overwritten or deleted.
"""

import collections
import contextlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tfbrats import __version__
from tfbrats.cases.splits import SPLITS, sha256_of_split
from tfbrats.config import Config, differences
from tfbrats.errors import InputError
from tfbrats.machine import files, locks
from tfbrats.records import schema
from tfbrats.records.manifest import (
    MANIFEST,
    SHARD_NAME,
    STAGES,
    Batch,
    Manifest,
    Shard,
    read_manifest,
    seconds_by_case,
)
from tfbrats.records.shards import PARTS, ShardTask, part_of, regions_of

REJECTED = "rejected.jsonl"
_JOB = "job.json"  # under parts/: whose folder this is until dataset.json says so
_LOCK = ".running"  # under parts/
_OURS = re.compile(rf"{SHARD_NAME.pattern}(\.json)?|{re.escape(_JOB)}|{re.escape(_LOCK)}|{MANIFEST}|{REJECTED}")


def _is_record_set(output: str) -> bool:
    if files.exists(files.join(output, PARTS, _JOB)):
        return True
    path = files.join(output, MANIFEST)
    if not files.exists(path):
        return False
    try:
        content = files.read_json(path)
    except InputError:  # damaged: the company it keeps decides
        return any(SHARD_NAME.fullmatch(files.name(one)) for one in files.walk(output))
    # MSD and nnU-Net have a dataset.json too.
    return isinstance(content, dict) and "shards" in content


def _is_lock(path: str) -> bool:
    return files.name(path) == _LOCK and files.name(files.parent(path)) == PARTS


def _foreign_files(output: str) -> list[str]:
    """The files under `output` that no record set holds; all of them, if it is none."""
    listing = list(files.walk(output)) if files.is_folder(output) else []
    if not _is_record_set(output):
        return [path for path in listing if files.PARTIAL not in files.name(path) and not _is_lock(path)]
    names = {path: files.name(path) for path in listing}
    for path, name in names.items():
        if files.PARTIAL in name:  # .NAME.partial-12345678
            names[path] = name.partition(files.PARTIAL)[0].removeprefix(".")
    at_home = set(_own_files(output))
    return [path for path, name in names.items() if path not in at_home or not _OURS.fullmatch(name)]


def _identity(config: Config) -> dict:
    """What makes a set this job's: all that the bytes depend on, and whose patches are in it."""
    return {**config.records_identity(), "regions": [region for region in regions_of(config) if region]}


@contextlib.contextmanager
def alone(output: str) -> Iterator[None]:
    """Keeps the folder to one job.

    Raises:
        InputError: another job writes into it.
    """
    busy = (
        f"{output}: another job is writing into this folder. Wait for its end (the same command then goes on "
        "from there), or choose another --output."
    )
    with locks.alone(files.join(output, PARTS, _LOCK), busy) as held:
        try:
            yield
        finally:
            if held is not None:
                _leave_nothing(files.canonical(output), held)


def _leave_nothing(folder: str, held: int) -> None:
    """Takes the lock away with the folders made for it, where a job has written nothing else.

    Args:
        held: the lock's file descriptor. Once parts/ is gone, the next job may have made a lock of its own.
    """
    lock = files.join(folder, PARTS, _LOCK)
    with contextlib.suppress(OSError):
        if os.listdir(files.parent(lock)) == [_LOCK] and os.path.samestat(os.fstat(held), os.stat(lock)):
            os.remove(lock)
            os.rmdir(files.join(folder, PARTS))
            os.rmdir(folder)


def batches(output: str) -> list[Batch]:
    """The cases that a record set was planned for, finished or not, as they were given; [] of a free folder.

    Raises:
        InputError: the folder's own notes are damaged.
    """
    marker = files.join(output, PARTS, _JOB)
    if files.exists(marker):
        return _noted(marker)[1]
    if _is_record_set(output):
        return list(read_manifest(output).batches)
    return []


def _noted(marker: str) -> tuple[dict, list[Batch]]:
    """Whose folder job.json says this is, and the cases planned.

    Raises:
        InputError: it says neither: damaged, or another version wrote it.
    """
    content = files.read_json(marker)
    try:
        return content["identity"], [Batch.model_validate(one) for one in content["batches"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{marker}: damaged, or of another version: it does not say what was to be written here. Choose "
            "another --output, or pass --overwrite to delete the records."
        ) from error


def cases_of(given: Iterable[Batch]) -> dict[str, list[str]]:
    """Split -> sorted ids of all batches together."""
    joined = collections.defaultdict(list)
    for batch in given:
        for split, ids in batch.cases.items():
            joined[split] += ids
    return {split: sorted(joined[split]) for split in SPLITS}


def check_free(output: str) -> None:
    """Raises InputError if the folder holds anything but a record set."""
    foreign = [] if _is_record_set(output) else _foreign_files(output)
    if foreign:
        raise InputError(
            f"{output}: not empty, and not a record set: it holds {files.name(foreign[0])}. Choose "
            "another --output."
        )


def check_claim(output: str, config: Config, splits: Mapping[str, Sequence[str]]) -> None:
    """Raises InputError unless `output` is free, or holds records, finished or not, of this very job.

    Args:
        splits: split -> ids of all cases, those of earlier batches too.
    """
    check_free(output)
    if not _is_record_set(output):
        return
    cure = "Choose another --output, or pass --overwrite to delete them."
    marker = files.join(output, PARTS, _JOB)
    if files.exists(marker):
        identity, _ = _noted(marker)
    else:
        manifest = read_manifest(output)
        identity = {**manifest.identity, "regions": list(manifest.regions)}
    found = differences(_identity(config), identity)
    if found:
        listed = "\n  ".join(found)
        raise InputError(f"{output}: holds records of another configuration:\n  {listed}\n{cure}")
    theirs = cases_of(batches(output))
    mine, other = ({i: k for k, ids in s.items() for i in ids} for s in (splits, theirs))
    changed = [
        f"{i}: {mine.get(i, 'not there')}, in the records {other.get(i, 'not there')}"
        for i in sorted({*mine, *other})
        if mine.get(i) != other.get(i)
    ]
    if changed:
        listed = "\n  ".join(changed[:5]) + (f"\n  and {len(changed) - 5} more" if changed[5:] else "")
        if set(other) < set(mine) or len(batches(output)) > 1:
            cure = "Pass --add to write new cases beside them, choose another --output, or pass --overwrite."
        raise InputError(f"{output}: holds records of other cases or splits:\n  {listed}\n{cure}")


def claim(output: str, config: Config, planned: Sequence[Batch]) -> None:
    """Marks a folder as that of this job before the first shard, and clears what a killed run left."""
    content = {"identity": _identity(config), "batches": [batch.model_dump(mode="json") for batch in planned]}
    if files.is_folder(output):
        _remove(path for path in _own_files(output) if files.PARTIAL in files.name(path))
    files.write_json(files.join(output, PARTS, _JOB), content)


def clear(output: str) -> None:
    """Deletes a record set, finished or not, but for the lock that is held on it.

    What tells that it is one goes last: killed on the way, the folder is still known as ours.
    """
    if files.is_folder(output):
        telling = (_JOB, MANIFEST)
        paths = [path for path in _own_files(output) if not _is_lock(path)]
        _remove(sorted(paths, key=lambda path: files.name(path) in telling))


def deletable_bytes(output: str) -> int:
    """How many bytes it frees to delete a record set, finished or not.

    Raises:
        InputError: the folder holds anything else.
    """
    foreign = _foreign_files(output)
    if foreign:
        raise InputError(
            f"{output}: holds {files.name(foreign[0])}, which is no part of a record set: nothing is deleted. "
            "Choose another --output."
        )
    return sum(files.walk(output).values()) if files.is_folder(output) else 0


def _own_files(output: str) -> list[str]:
    """What lies in the folder itself and in parts/; another record set may lie in a folder of its own below."""
    root = files.canonical(output).rstrip("/")
    at_home = {root, files.join(root, PARTS)}
    return [path for path in files.walk(output) if files.canonical(files.parent(path)).rstrip("/") in at_home]


def _remove(paths: Iterable[str]) -> None:
    for path in list(paths):
        files.remove(path)


# --- the whole set --------------------------------------------------------------------------------------


def finished_shards(output: str | os.PathLike) -> dict[str, Shard]:
    """The rows of the shards that an earlier run finished, from dataset.json and parts/, by file."""
    rows: dict[str, Shard] = {}
    if not files.is_folder(output):
        return rows
    with contextlib.suppress(InputError):
        rows = {shard.file: shard for shard in read_manifest(output).shards}
    parts = files.join(output, PARTS)
    if files.is_folder(parts):
        for path in files.walk(parts):
            if path.endswith(".tfrecord.json"):
                with contextlib.suppress(ValueError):
                    row = Shard.model_validate_json(files.read_bytes(path))
                    rows[row.file] = row
    return rows


def shards_of_readers(output: str | os.PathLike, planned: Sequence[Batch]) -> set[str]:
    """The files that dataset.json names while cases are added that it does not know yet; else none.

    Readers keep them meanwhile; so what was rejected then, and was taken for granted, is not tried again.
    """
    try:
        manifest = read_manifest(output)
    except InputError:
        return set()
    return {shard.file for shard in manifest.shards} if len(manifest.batches) < len(planned) else set()


def resume(output: str | os.PathLike, kept: Sequence[Shard], todo: Sequence[ShardTask]) -> None:
    """Back to "unfinished", where shards that dataset.json tells of are to be rewritten.

    Puts the rows of finished shards under parts/, where `assemble` reads them, and takes dataset.json away: a
    reader finds no manifest meanwhile. Where shards are only added, readers keep what they have.
    """
    with contextlib.suppress(InputError):
        told = {shard.file for shard in read_manifest(output).shards}
        if not told & {file for task in todo for file in task.files}:
            return
    for row in kept:
        path = part_of(output, row.file)
        if not files.exists(path):
            files.write_bytes(path, row.model_dump_json().encode())
    files.remove(files.join(output, MANIFEST))


def assemble(tasks: Sequence[ShardTask], config: Config, planned: Sequence[Batch]) -> Manifest:
    """The manifest of a set all of whose shards are on disk.

    Args:
        tasks: of all of its shards.
        planned: the cases that they were planned for.

    Raises:
        InputError: a shard is missing: the job did not run to its end.
    """
    rows = finished_shards(tasks[0].output)
    wanted = [(file, task) for task in tasks for file in task.files]
    missing = [file for file, task in wanted if file not in rows or rows[file].task_sha256 != task.sha256]
    if missing:
        raise InputError(f"the job ended without {', '.join(missing)}. Run it again: it goes on from here.")
    shards = [rows[file] for file, _ in wanted]
    used = {row.case_id: row for shard in shards for row in shard.cases}
    sources = [one for task in tasks for one in task.cases if one.case_id in used]
    schemas = collections.Counter(json.dumps(one.schema.to_json()) for one in sources)
    spacings = collections.Counter(row.spacing_mm for row in used.values())
    cases = {
        split: tuple(sorted({row.case_id for s in shards if s.split == split for row in s.cases}))
        for split in SPLITS
    }
    return Manifest(
        tfbrats_version=__version__,
        kind=config.records.kind,
        regions=tuple(_identity(config)["regions"]),
        fields=schema.field_descriptions(schema.SCHEMAS[config.records.kind]),
        identity=config.records_identity(),
        modalities=config.data.modalities,
        label_schemas=tuple(json.loads(text) for text, _ in schemas.most_common()),
        layouts=tuple(sorted({one.layout for one in sources})),
        spacing_mm=spacings.most_common(1)[0][0] if spacings else (0.0, 0.0, 0.0),
        examples={split: sum(s.examples for s in shards if s.split == split) for split in SPLITS},
        cases=cases,
        split_sha256=sha256_of_split(cases),
        bytes=sum(shard.bytes for shard in shards),
        rejected=sum(len(shard.rejected) for shard in shards),
        seconds_per_case=_seconds_per_case(shards),
        batches=tuple(planned),
        shards=tuple(shards),
    )


def _seconds_per_case(shards: Sequence[Shard]) -> dict[str, float]:
    """The mean over the cases, by stage."""
    of_cases = seconds_by_case(shards)
    return {
        stage: round(math.fsum(seconds[stage] for seconds in of_cases.values()) / (len(of_cases) or 1), 4)
        for stage in STAGES
    }


def finish(output: str, manifest: Manifest) -> None:
    """Writes dataset.json, then removes what belongs to no shard of it, and parts/, which it now holds.

    Workers that died, or an earlier plan with other shards, may have left such files. parts/ goes last, as the
    lock lies there: from then on what is in the folder may be another job's.
    """
    files.write_bytes(files.join(output, MANIFEST), (manifest.model_dump_json(indent=1) + "\n").encode())
    current = {shard.file for shard in manifest.shards}
    _remove(
        path
        for path in _own_files(output)
        if files.PARTIAL in files.name(path)
        or (SHARD_NAME.fullmatch(files.name(path)) and files.name(path) not in current)
    )
    files.remove(files.join(output, PARTS))


def write_rejected(output: str, manifest: Manifest) -> None:
    """Writes rejected.jsonl, a line a case, or removes an old one when none is rejected now."""
    rows = [row for shard in manifest.shards for row in shard.rejected]
    path = files.join(output, REJECTED)
    if rows:
        files.write_bytes(path, "".join(row.model_dump_json() + "\n" for row in rows).encode())
    else:
        files.remove(path)
