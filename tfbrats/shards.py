"""Deal out the cases, plan the shards, price them, write one: the body of the Beam job.

Everything here is a function of its arguments: which cases a shard holds, and every byte in it, depend on
the config, the cases and their files alone, not on engine, workers or order. A shard is written under a
temporary name and renamed; its row under `parts/` then says that it is finished. No Beam, no TensorFlow.
"""

import collections
import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence

import google_crc32c
import numpy as np

from tfbrats import case, examples, files, preprocess, records
from tfbrats.command import InputError
from tfbrats.config import Config, from_mapping
from tfbrats.layouts import CaseFiles, Dataset
from tfbrats.records import CaseRow, Rejected, Shard

PARTS = "parts"  # rows of finished shards, until dataset.json holds them all


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """One shard to write; small, so that only this travels to a worker."""

    file: str
    split: str
    cases: tuple[CaseFiles, ...]
    output: str
    config: dict  # Config.model_dump: plain, so that any engine can pickle it
    sha256: str  # of all that its bytes depend on; of the input files only names and sizes are looked at

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
        split -> sorted case ids, for each of `records.SPLITS`. Test images, which come without a
        segmentation, are in none.

    Raises:
        InputError: `given` names an unknown split or case, one patient is in two splits, or no case has a
            segmentation.
    """
    patient_of = {one.case_id: one.patient_id for one in dataset.cases}
    if given is not None:
        splits = _checked(given, patient_of, dataset.root)
    else:
        strata = collections.defaultdict(lambda: collections.defaultdict(list))
        for one in dataset.cases:
            if not (one.label or one.label_expected):
                continue
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
        if not any(splits.values()):
            raise InputError(f"{dataset.root}: no case has a segmentation, and training needs them.")
    homes = collections.defaultdict(set)
    for name, ids in splits.items():
        for case_id in ids:
            homes[patient_of[case_id]].add(name)
    shared = {patient: sorted(names) for patient, names in homes.items() if len(names) > 1}
    if shared:
        raise InputError(f"splits: these patients are in more than one split: {shared}. Keep each in one.")
    return splits


def _checked(given: Mapping, known: Iterable[str], root: str) -> dict[str, list[str]]:
    """A person's splits under our names, or InputError."""
    expected = f"expected {{split: [case ids]}} with {', '.join(records.SPLITS)}"
    if not isinstance(given, Mapping) or not all(isinstance(ids, list) for ids in given.values()):
        raise InputError(f"splits: {expected}; found {json.dumps(given)[:60]}...")
    if {"val", "validation"} <= set(given):
        raise InputError("splits: both val and validation are there. Keep one of them.")
    splits = {"validation" if name == "val" else name: sorted(map(str, ids)) for name, ids in given.items()}
    unknown = sorted(set(splits) - set(records.SPLITS))
    missing = sorted({i for ids in splits.values() for i in ids} - set(known))
    doubled = sorted({i for ids in splits.values() for i in ids if ids.count(i) > 1})
    faults = [
        *([f"unknown splits {unknown}; {expected}"] if unknown else []),
        *([f"case ids that are not in {root}: {missing}"] if missing else []),
        *([f"case ids listed twice: {doubled}"] if doubled else []),
        *([] if splits.get("train") else ["no training case"]),
    ]
    if faults:
        raise InputError("splits: " + "; ".join(faults) + ". Correct the file.")
    return {name: splits.get(name, []) for name in records.SPLITS}


# --- plan -----------------------------------------------------------------------------------------------


def plan(
    dataset: Dataset, splits: Mapping[str, Sequence[str]], config: Config, output: str, bytes_per_case: float
) -> list[ShardTask]:
    """The shards of a record set: cases in sorted order, dealt round-robin.

    As many shards as their size asks for (records.shard_mib), at least records.min_shards, at most one a
    case.
    """
    by_id = {one.case_id: one for one in dataset.cases}
    sizes = files.walk(dataset.root)
    identity = {"format": records.FORMAT, **config.records_identity()}
    content = config.model_dump(mode="json")
    tasks = []
    for split, ids in splits.items():
        if not ids:
            continue
        wanted = -(-len(ids) * bytes_per_case // (config.records.shard_mib * 2**20))
        count = min(len(ids), max(int(wanted), config.records.min_shards))
        for n in range(count):
            file = f"{split}-{n:05d}-of-{count:05d}.tfrecord"
            cases = tuple(by_id[i] for i in sorted(ids)[n::count])
            depends_on = {
                "identity": identity,
                "file": file,
                "cases": [dataclasses.asdict(one) for one in cases],
                "bytes": [sizes.get(path) for one in cases for path in one.paths()],
            }
            sha256 = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
            tasks.append(ShardTask(file, split, cases, output, content, sha256))
    return tasks


@dataclasses.dataclass(frozen=True)
class Price:
    """What a record set will cost, measured on its first sound case."""

    cases: int
    examples: int
    bytes: int
    seconds: float | None  # on one worker
    free_bytes: int | None

    def lines(self, shard_count: int) -> list[str]:
        rows = {
            "cases": f"{self.cases}",
            "slices": f"about {self.examples}",
            "bytes": f"about {in_units(self.bytes)}",
            "shards": f"{shard_count}",
        }
        if self.seconds is not None:
            hours = self.seconds / 3600
            shown = "under 0.1" if hours < 0.1 else f"about {hours:.1f}" if hours < 10 else f"about {hours:.0f}"
            rows["hours"] = f"{shown} on one worker of this machine; workers share them"
        rows["free disk"] = "unknown" if self.free_bytes is None else in_units(self.free_bytes)
        return [f"{name:<16} {text}" for name, text in rows.items()]


def in_units(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"


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
    n4_count = len(config.preprocess.n4_modalities) if with_n4 else 0
    faults: list[str] = []
    for one in dataset.cases:
        if one.case_id not in chosen:
            continue
        started = time.monotonic()
        try:
            loaded = case.load(one, config.data.modalities, need_label=True)
            sizes = {"train": [len(e) + records.FRAME_BYTES for e in _encoded(loaded, config, (), "train")]}
            seconds = time.monotonic() - started
            others = [len(e) + records.FRAME_BYTES for e in _encoded(loaded, config, (), "test")]
            if n4_count:
                started = time.monotonic()
                brain = preprocess.brain_mask(loaded.image)
                preprocess.n4(loaded.image[..., 0], brain, config.preprocess.n4_shrink, loaded.spacing_mm)
                seconds += n4_count * (time.monotonic() - started)
        except Exception as error:  # as in write_shard: one bad case is not the end
            faults.append(str(error))
            continue
        return Price(
            cases=len(chosen),
            examples=sum(len(ids) * len(sizes.get(split, others)) for split, ids in splits.items()),
            bytes=sum(len(ids) * sum(sizes.get(split, others)) for split, ids in splits.items()),
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
            rows.append(CaseRow(case_id=one.case_id, examples=len(encoded), spacing_mm=loaded.spacing_mm))
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
