"""Plan the shards of a record set, price them, write one: the body of the Beam job.

Everything here is a function of its arguments: which cases a shard holds, and every byte in it, depend on
the config, the cases and their files alone, not on engine, workers or order. A shard is written under a
temporary name and renamed; its row under `parts/` then says that it is finished. No Beam, no TensorFlow.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import google_crc32c

from tfbrats import case, examples, files, patches, preprocess, records
from tfbrats.command import InputError
from tfbrats.config import Config, from_mapping
from tfbrats.layouts import CaseFiles, Dataset
from tfbrats.preprocess import Prepared
from tfbrats.records import CaseRow, Rejected, Shard, Source

PARTS = "parts"  # rows of finished shards, until dataset.json holds them all


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """One shard to write, of each region where regions are kept apart; small: only this travels to a worker.

    A case is read and prepared once for all of its regions.
    """

    names: tuple[tuple[str, str], ...]  # (region or "", file)
    split: str
    cases: tuple[CaseFiles, ...]
    output: str
    config: dict  # Config.model_dump: plain, so that any engine can pickle it
    sha256: str  # of all that its bytes depend on; of the input files only names and sizes are looked at

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(file for _, file in self.names)


def part_of(output: str, file: str) -> str:
    """Where the row of a finished shard lies."""
    return files.join(output, PARTS, file + ".json")


def regions_of(config: Config) -> tuple[str, ...]:
    """The regions that have shards of their own; ("",) where one set of shards serves all."""
    return config.regions if config.records.kind == "patches" else ("",)


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
    regions = regions_of(config)
    identity = {"format": records.FORMAT, **config.records_identity()}
    content = config.model_dump(mode="json")
    tasks = []
    for split, ids in splits.items():
        if not ids:
            continue
        wanted = -(-len(ids) * bytes_per_case / len(regions) // (config.records.shard_mib * 2**20))
        count = min(len(ids), max(int(wanted), config.records.min_shards))
        for n in range(count):
            names = tuple(
                (region, "-".join(filter(None, (split, region.lower(), f"{n:05d}-of-{count:05d}.tfrecord"))))
                for region in regions
            )
            cases = tuple(by_id[i] for i in sorted(ids)[n::count])
            depends_on = {
                "identity": identity,
                "files": [file for _, file in names],
                "cases": [dataclasses.asdict(one) for one in cases],
                "bytes": [sizes.get(path) for one in cases for path in one.paths()],
            }
            sha256 = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
            tasks.append(ShardTask(names, split, cases, output, content, sha256))
    return tasks


@dataclasses.dataclass(frozen=True)
class Price:
    """What a record set will cost, measured on its first sound case."""

    kind: str
    cases: int
    examples: int
    bytes: int
    bytes_as_volumes: int | None  # what the same cases take as volumes; None for kinds that have no such choice
    seconds: float | None  # on one worker
    free_bytes: int | None

    def lines(self, shard_count: int) -> list[str]:
        rows = {
            "cases": f"{self.cases}",
            self.kind: f"about {self.examples}",
            "bytes": f"about {in_units(self.bytes)}",
            "shards": f"{shard_count}",
        }
        if self.seconds is not None:
            hours = self.seconds / 3600
            shown = "under 0.1" if hours < 0.1 else f"about {hours:.1f}" if hours < 10 else f"about {hours:.0f}"
            rows["hours"] = f"{shown} on one worker of this machine; workers share them"
        rows["free disk"] = "unknown" if self.free_bytes is None else in_units(self.free_bytes)
        if self.bytes_as_volumes is not None:
            rows["as volumes"] = f"about {in_units(self.bytes_as_volumes)} (records.kind=volumes)"
        advice = self.advice(self.bytes)
        if advice:
            rows["the disk is short"] = advice
        return [f"{name:<16} {text}" for name, text in rows.items()]

    def advice(self, needed_bytes: float) -> str:
        """What to do when so many bytes do not fit, but all cases as volumes would; else empty."""
        short = self.free_bytes is not None and needed_bytes > self.free_bytes
        if not short or self.bytes_as_volumes is None or self.bytes_as_volumes > self.free_bytes:
            return ""
        volumes = in_units(self.bytes_as_volumes)
        return f"pass records.kind=volumes: about {volumes}; patches are then cut afresh every epoch."


def in_units(size: float) -> str:
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30)):
        if size >= factor / 2:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 2**20:.1f} MiB"


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
            prepared = preprocess.prepare(loaded, (), config.preprocess.n4_shrink)
            seconds = time.monotonic() - started
            sizes = {}
            for split in ("test", "train"):
                sizes[split], encoding = _record_sizes(prepared, config, split)
            seconds += encoding
            volume_bytes = None
            if config.records.kind == "patches":
                volume_bytes = (
                    len(records.encode(records.VOLUMES, patches.volume(prepared))) + records.FRAME_BYTES
                )
            if n4_count:
                started = time.monotonic()
                brain = preprocess.brain_mask(loaded.image)
                preprocess.n4(loaded.image[..., 0], brain, config.preprocess.n4_shrink, loaded.spacing_mm)
                seconds += n4_count * (time.monotonic() - started)
        except Exception as error:  # as in write_shard: one bad case is not the end
            faults.append(str(error))
            continue
        counted = [(len(ids), sizes["train" if split == "train" else "test"]) for split, ids in splits.items()]
        return Price(
            kind=config.records.kind,
            cases=len(chosen),
            examples=sum(count * len(of_case) for count, of_case in counted),
            bytes=sum(count * sum(of_case) for count, of_case in counted),
            bytes_as_volumes=None if volume_bytes is None else len(chosen) * volume_bytes,
            seconds=seconds * len(chosen) if with_n4 else None,
            free_bytes=files.free_bytes(output),
        )
    raise InputError("no case can be used:\n" + "\n".join(faults[:10]))


# --- one shard ------------------------------------------------------------------------------------------


# How many of a case's examples are made before the first is written (None: all), so that a case that fails
# leaves nothing behind. A case's patches (5 GiB in paper B) do not fit into memory: what can fail does at the
# first.
_HELD = {"slices": None, "volumes": None, "patches": 1}


def _encoded(prepared: Prepared, config: Config, split: str) -> dict[str, Iterator[bytes]]:
    """What a case gives, a stream for each region that has shards of its own ("" where none has)."""
    settings = config.records
    if settings.kind == "slices":
        # Only training discards slices: validation and test see every slice that has brain.
        dropped = settings.dropped_fraction if split == "train" else 0.0
        streams: dict[str, Iterable[dict]] = {
            "": examples.slices(
                prepared, settings.slice_shape, config.lws.contour_width_mm, dropped, settings.seed
            )
        }
    elif settings.kind == "patches":
        streams = {
            region: patches.patches(prepared, region, config.sampling, config.cascade, settings.seed)
            for region in config.regions
        }
    else:
        streams = {"": [patches.volume(prepared)]}
    schema = records.SCHEMAS[settings.kind]
    return {region: (records.encode(schema, one) for one in stream) for region, stream in streams.items()}


def _record_sizes(prepared: Prepared, config: Config, split: str) -> tuple[list[int], float]:
    """Bytes in the file of each example of a case, and the seconds to encode them all.

    Patches are all of one size and one effort: two of each region tell.
    """
    started = time.monotonic()
    sizes, later = [], 0.0
    for stream in _encoded(prepared, config, split).values():
        if config.records.kind != "patches":
            sizes += [len(one) + records.FRAME_BYTES for one in stream]
            continue
        count = config.sampling.patches_per_case
        sizes += [len(next(stream)) + records.FRAME_BYTES] * count
        if count > 1:  # the first one's time holds what a case needs once
            second = time.monotonic()
            next(stream)
            later += (count - 2) * (time.monotonic() - second)
    return sizes, time.monotonic() - started + later


def is_finished(task: ShardTask, finished: Mapping[str, Shard]) -> bool:
    """Whether the shard is on disk as this task would write it, with no case rejected."""
    rows = [finished.get(file) for file in task.files]
    return all(
        row is not None
        and not row.rejected
        and row.task_sha256 == task.sha256
        and records.check_shard(task.output, row) is None
        for row in rows
    )


class _Writer:
    """One TFRecord file in the making, and what its row will say."""

    def __init__(self, stack: contextlib.ExitStack, path: str):
        self._file = stack.enter_context(files.writing(path))
        self._checksum = google_crc32c.Checksum()
        self.size, self.rows = 0, []

    def write(self, contents: Iterable[bytes], loaded: case.Case) -> None:
        count = 0
        for content in contents:
            framed = records.frame(content)
            self._file.write(framed)
            self._checksum.update(framed)
            self.size += len(framed)
            count += 1
        self.rows.append(
            CaseRow(
                case_id=loaded.case_id,
                examples=count,
                spacing_mm=loaded.spacing_mm,
                source=Source(
                    label_schema=loaded.schema.to_json(),
                    shape=loaded.grid.file_shape,
                    affine=loaded.grid.affine.tolist(),
                ),
            )
        )

    @property
    def crc32c(self) -> str:
        return self._checksum.hexdigest().decode()


def write_shard(task: ShardTask) -> list[Shard]:
    """Writes one shard, of each region, one case in memory at a time, and the rows; a failing case is rejected.

    Raises:
        OSError: the disk, not a case: the job must stop.
    """
    config = from_mapping(task.config, str(task.files))
    held = _HELD[config.records.kind]
    rejected: list[Rejected] = []
    with contextlib.ExitStack() as stack:
        writers = {region: _Writer(stack, files.join(task.output, file)) for region, file in task.names}
        for one in task.cases:
            stage = "read"
            try:
                loaded = case.load(one, config.data.modalities, need_label=True)
                stage = "prepare"
                prepared = preprocess.prepare(
                    loaded, config.preprocess.n4_modalities, config.preprocess.n4_shrink
                )
                streams = _encoded(prepared, config, task.split)
                first = {region: list(itertools.islice(stream, held)) for region, stream in streams.items()}
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
            for region, writer in writers.items():
                writer.write(itertools.chain(first[region], streams[region]), loaded)
    shards = []
    for region, file in task.names:
        writer = writers[region]
        shard = Shard(
            file=file,
            split=task.split,
            region=region,
            cases=tuple(writer.rows),
            # A case is rejected once, for all regions.
            rejected=tuple(rejected) if region == task.names[0][0] else (),
            examples=sum(row.examples for row in writer.rows),
            bytes=writer.size,
            crc32c=writer.crc32c,
            task_sha256=task.sha256,
        )
        files.write_bytes(part_of(task.output, file), shard.model_dump_json().encode())
        shards.append(shard)
    return shards
