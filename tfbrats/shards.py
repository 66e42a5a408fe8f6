"""Plan the shards of a record set, write one, and put the manifest together: the body of the Beam job.

Everything here is a function of its arguments: which cases a shard holds, and every byte in it, depend on
the config, the cases and their files alone, not on engine, workers or order. A shard is written under a
temporary name and renamed; its row under `parts/` then says that it is finished. No Beam, no TensorFlow.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence

import google_crc32c
import numpy as np

from tfbrats import __version__, case, examples, files, preprocess, records
from tfbrats.command import InputError
from tfbrats.config import Config, from_mapping
from tfbrats.layouts import CaseFiles, Dataset
from tfbrats.records import CaseRow, Manifest, Rejected, Shard

PARTS = "parts"  # rows of finished shards, until dataset.json holds them all
REJECTED = "rejected.jsonl"


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """One shard to write; small, so that only this travels to a worker."""

    file: str
    split: str
    cases: tuple[CaseFiles, ...]
    output: str
    config: dict  # Config.model_dump: plain, so that any engine can pickle it

    @property
    def sha256(self) -> str:
        """Of all that the shard's bytes depend on."""
        content = {
            "format": records.FORMAT,
            "identity": from_mapping(self.config, self.file).records_identity(),
            "file": self.file,
            "split": self.split,
            "cases": [
                {**dataclasses.asdict(one), "bytes": [files.size(path) for path in one.paths()]}
                for one in self.cases
            ],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def part(self) -> str:
        return files.join(self.output, PARTS, self.file + ".json")


# --- splits ---------------------------------------------------------------------------------------------


def split_cases(
    dataset: Dataset, ratio: Sequence[int], seed: int, given: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """Which case belongs to which split, by patient.

    Patients are dealt out stratum by stratum (HGG and LGG folders, where there are such) in a seeded order,
    with the largest remainder deciding uneven shares.

    Args:
        ratio: train : validation : test, e.g. (3, 1, 1).
        given: split -> case ids, used as it is; cases that it does not name are left out.

    Returns:
        split -> sorted case ids, for each of `records.SPLITS`.

    Raises:
        InputError: `given` names an unknown split or case, or one patient is in two splits.
    """
    patient_of = {one.case_id: one.patient_id for one in dataset.cases}
    if given is not None:
        names = {"val": "validation"}
        splits = {names.get(name, name): sorted(ids) for name, ids in given.items()}
        unknown = sorted(set(splits) - set(records.SPLITS))
        missing = sorted({i for ids in splits.values() for i in ids} - set(patient_of))
        if unknown or missing:
            raise InputError(
                f"splits: unknown splits {unknown or 'none'} (expected {', '.join(records.SPLITS)}), "
                f"case ids that are not in {dataset.root}: {missing or 'none'}."
            )
        splits = {name: splits.get(name, []) for name in records.SPLITS}
    else:
        strata = collections.defaultdict(lambda: collections.defaultdict(list))
        for one in dataset.cases:
            grade = re.search(r"/(HGG|LGG)/", one.paths()[0])
            strata[grade.group(1) if grade else ""][one.patient_id].append(one.case_id)
        splits = {name: [] for name in records.SPLITS}
        for stratum, patients in sorted(strata.items()):
            order = np.random.default_rng(examples.case_seed(seed, stratum)).permutation(sorted(patients))
            exact = [len(order) * part / sum(ratio) for part in ratio]
            counts = [int(share) for share in exact]
            by_remainder = sorted(range(len(ratio)), key=lambda n: counts[n] - exact[n])
            for n in by_remainder[: len(order) - sum(counts)]:
                counts[n] += 1
            start = 0
            for name, count in zip(records.SPLITS, counts, strict=True):
                splits[name] += [i for p in order[start : start + count] for i in patients[p]]
                start += count
        splits = {name: sorted(ids) for name, ids in splits.items()}
    homes = collections.defaultdict(set)
    for name, ids in splits.items():
        for case_id in ids:
            homes[patient_of[case_id]].add(name)
    shared = {patient: sorted(names) for patient, names in homes.items() if len(names) > 1}
    if shared:
        raise InputError(f"splits: these patients are in more than one split: {shared}.")
    return splits


# --- plan -----------------------------------------------------------------------------------------------


def plan(
    dataset: Dataset, splits: Mapping[str, Sequence[str]], config: Config, output: str, bytes_per_case: float
) -> list[ShardTask]:
    """The shards of a record set: cases in sorted order, dealt round-robin.

    As many shards as their size asks for (records.shard_mib), at least records.min_shards, at most one a
    case.
    """
    by_id = {one.case_id: one for one in dataset.cases}
    content = config.model_dump(mode="json")
    tasks = []
    for split, ids in splits.items():
        if not ids:
            continue
        wanted = -(-len(ids) * bytes_per_case // (config.records.shard_mib * 2**20))
        count = min(len(ids), max(int(wanted), config.records.min_shards))
        for n in range(count):
            tasks.append(
                ShardTask(
                    file=f"{split}-{n:05d}-of-{count:05d}.tfrecord",
                    split=split,
                    cases=tuple(by_id[i] for i in sorted(ids)[n::count]),
                    output=output,
                    config=content,
                )
            )
    return tasks


@dataclasses.dataclass(frozen=True)
class Price:
    """What a record set will cost, measured on its first sound case."""

    cases: int
    examples: int
    bytes: int
    seconds: float | None
    free_bytes: int | None

    def lines(self, shard_count: int) -> list[str]:
        free = "unknown" if self.free_bytes is None else f"{self.free_bytes / 2**30:.1f} GiB"
        hours = (
            []
            if self.seconds is None
            else [f"hours            about {self.seconds / 3600:.2f} on one worker like this machine"]
        )
        return [
            f"cases            {self.cases}",
            f"slices           about {self.examples}",
            f"bytes            about {self.bytes / 2**30:.2f} GiB",
            f"shards           {shard_count}",
            *hours,
            f"free disk        {free}",
        ]


def price(
    dataset: Dataset, splits: Mapping[str, Sequence[str]], config: Config, output: str, with_n4: bool
) -> Price:
    """Prepares the first sound case in memory and multiplies.

    Args:
        with_n4: time the work too, N4 on one modality and counted for each; else `seconds` is None.

    Raises:
        InputError: no case is sound.
    """
    chosen = {case_id for ids in splits.values() for case_id in ids}
    faults: list[str] = []
    for one in dataset.cases:
        if one.case_id not in chosen:
            continue
        started = time.monotonic()
        try:
            loaded = case.load(one, config.data.modalities, need_label=True)
            seconds_n4 = 0.0
            if with_n4 and config.preprocess.n4_modalities:
                before = time.monotonic()
                brain = preprocess.brain_mask(loaded.image)
                preprocess.n4(loaded.image[..., 0], brain, config.preprocess.n4_shrink, loaded.spacing_mm)
                seconds_n4 = time.monotonic() - before
            encoded = [len(e) for e in _encoded(loaded, config, n4=(), split="train")]
        except InputError as error:
            faults.append(str(error))
            continue
        seconds = time.monotonic() - started + seconds_n4 * (len(config.preprocess.n4_modalities) - 1)
        return Price(
            cases=len(chosen),
            examples=len(encoded) * len(chosen),
            bytes=(sum(encoded) + 16 * len(encoded)) * len(chosen),
            seconds=seconds * len(chosen) if with_n4 else None,
            free_bytes=files.free_bytes(output),
        )
    raise InputError("no case can be used:\n" + "\n".join(faults[:10]))


# --- one shard ------------------------------------------------------------------------------------------


def _encoded(loaded: case.Case, config: Config, n4: Sequence[str], split: str) -> Iterable[bytes]:
    prepared = preprocess.prepare(loaded, n4, config.preprocess.n4_shrink)
    # Only training discards slices: validation and test see every slice that has brain.
    dropped = config.records.dropped_fraction if split == "train" else 0.0
    for example in examples.slices(
        prepared, config.records.slice_shape, config.lws.contour_width_mm, dropped, config.records.seed
    ):
        yield records.encode(records.SCHEMAS[config.records.kind], example)


def is_finished(task: ShardTask, finished: Mapping[str, Shard]) -> bool:
    """Whether the shard is on disk as this task would write it, with no case rejected."""
    row = finished.get(task.file)
    return (
        row is not None
        and not row.rejected
        and row.task_sha256 == task.sha256
        and records.check_shard(task.output, row) is None
    )


def write_shard(task: ShardTask) -> Shard:
    """Writes one shard, one case in memory at a time, and its row; a case that fails is rejected.

    Raises:
        OSError: the disk, not a case: the job must stop.
    """
    config = from_mapping(task.config, task.file)
    rows: list[CaseRow] = []
    rejected: list[Rejected] = []
    checksum = google_crc32c.Checksum()
    size = 0
    with files.writing(files.join(task.output, task.file)) as file:
        for one in task.cases:
            stage = "read"
            try:
                loaded = case.load(one, config.data.modalities, need_label=True)
                stage = "prepare"
                encoded = list(_encoded(loaded, config, config.preprocess.n4_modalities, task.split))
            except Exception as error:  # one bad case must not cost the others
                known = isinstance(error, InputError)
                rejected.append(
                    Rejected(
                        case_id=one.case_id,
                        stage=stage,
                        reason=str(error) if known else f"{type(error).__name__}: {error}",
                        hint="python -m tfbrats.inspect lists every fault of every case"
                        if known
                        else "this is not expected; please report it with the case's header",
                    )
                )
                continue
            for content in encoded:
                framed = records.frame(content)
                file.write(framed)
                checksum.update(framed)
                size += len(framed)
            rows.append(CaseRow(case_id=one.case_id, examples=len(encoded)))
    shard = Shard(
        file=task.file,
        split=task.split,
        cases=tuple(rows),
        rejected=tuple(rejected),
        examples=sum(row.examples for row in rows),
        bytes=size,
        crc32c=checksum.hexdigest().decode(),
        task_sha256=task.sha256,
    )
    files.write_bytes(task.part, shard.model_dump_json().encode())
    return shard


# --- the whole set --------------------------------------------------------------------------------------


def finished_shards(output: str | os.PathLike) -> dict[str, Shard]:
    """The rows of the shards that an earlier run finished, from dataset.json and parts/, by file."""
    rows: dict[str, Shard] = {}
    if not files.is_folder(output):
        return rows
    with contextlib.suppress(InputError):
        rows = {shard.file: shard for shard in records.read_manifest(output).shards}
    parts = files.join(output, PARTS)
    if files.is_folder(parts):
        for path in files.walk(parts):
            if path.endswith(".tfrecord.json"):
                with contextlib.suppress(ValueError):
                    row = Shard.model_validate_json(files.read_bytes(path))
                    rows[row.file] = row
    return rows


def keep_rows(output: str | os.PathLike, rows: Sequence[Shard]) -> None:
    """Puts the rows of finished shards back under parts/, where `assemble` reads them."""
    for row in rows:
        path = files.join(output, PARTS, row.file + ".json")
        if not files.exists(path):
            files.write_bytes(path, row.model_dump_json().encode())


def claim(output: str, config: Config, splits: Mapping[str, Sequence[str]]) -> None:
    """Marks a folder as that of this job before the first shard, and clears what a killed run left.

    Raises:
        InputError: it holds the records, or the unfinished records, of another config or other cases.
    """
    mine = {"identity": config.records_identity(), "splits": {k: list(v) for k, v in splits.items()}}
    marker = files.join(output, PARTS, "job.json")
    theirs = None
    if files.exists(marker):
        theirs = files.read_json(marker)
    elif files.exists(files.join(output, records.MANIFEST)):
        manifest = records.read_manifest(output)
        records.check_identity(manifest, config, output)
        theirs = {"identity": manifest.identity, "splits": _planned_splits(manifest)}
    if theirs is not None and theirs != mine:
        what = "configuration" if theirs["identity"] != mine["identity"] else "set of cases or splits"
        raise InputError(
            f"{output}: holds records of another {what}. Choose another --output, or pass --overwrite to "
            "delete them."
        )
    if theirs is None and files.is_folder(output) and files.walk(output):
        raise InputError(f"{output}: not empty, and not a record set. Choose another --output.")
    if files.is_folder(output):
        for path in files.walk(output):
            if files.PARTIAL in files.name(path):
                files.remove(path)
    files.write_json(marker, mine)


def _planned_splits(manifest: Manifest) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {name: [] for name in records.SPLITS}
    for shard in manifest.shards:
        splits[shard.split] += [row.case_id for row in (*shard.cases, *shard.rejected)]
    return {name: sorted(ids) for name, ids in splits.items()}


def assemble(tasks: Sequence[ShardTask], config: Config) -> Manifest:
    """The manifest of a set all of whose shards are on disk.

    Raises:
        InputError: a shard is missing: the job did not run to its end.
    """
    rows = finished_shards(tasks[0].output)
    missing = [task.file for task in tasks if task.file not in rows]
    if missing:
        raise InputError(f"the job ended without {', '.join(missing)}. Run it again: it goes on from here.")
    shards = [rows[task.file] for task in tasks]
    used = {row.case_id for shard in shards for row in shard.cases}
    sources = [one for task in tasks for one in task.cases if one.case_id in used]
    schemas = collections.Counter(json.dumps(one.schema.to_json()) for one in sources)
    spacing = (0.0, 0.0, 0.0)
    if sources:
        grid_case = sources[0]
        _, image = case.read_nifti(grid_case.images[0][1])
        spacing = case.spacing_of(image)
    cases = {
        split: tuple(sorted(row.case_id for s in shards if s.split == split for row in s.cases))
        for split in records.SPLITS
    }
    return Manifest(
        tfbrats_version=__version__,
        kind=config.records.kind,
        fields=records.field_descriptions(records.SCHEMAS[config.records.kind]),
        identity=config.records_identity(),
        modalities=config.data.modalities,
        label_schemas=tuple(json.loads(text) for text, _ in schemas.most_common()),
        layouts=tuple(sorted({one.layout for one in sources})),
        spacing_mm=spacing,
        examples={split: sum(s.examples for s in shards if s.split == split) for split in records.SPLITS},
        cases=cases,
        split_sha256=hashlib.sha256(json.dumps(cases, sort_keys=True).encode()).hexdigest(),
        bytes=sum(shard.bytes for shard in shards),
        rejected=sum(len(shard.rejected) for shard in shards),
        shards=tuple(shards),
    )


def finish(output: str, manifest: Manifest) -> None:
    """Writes dataset.json and removes parts/, which it now holds."""
    files.write_bytes(
        files.join(output, records.MANIFEST), (manifest.model_dump_json(indent=1) + "\n").encode()
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
