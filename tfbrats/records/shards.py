"""Plan the shards of a record set, and write one: the body of the Beam job.

Everything here is a function of its arguments: which cases a shard holds, and every byte in it, depend on
the config, the cases and their files alone, not on engine, workers or order. A shard is written under a
temporary name and renamed; its row under `parts/` then says that it is finished. No Beam, no TensorFlow.
"""

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import google_crc32c

from tfbrats.cases import case, patches, preprocess, slices
from tfbrats.cases.preprocess import Prepared
from tfbrats.cases.rejected import Rejected
from tfbrats.config import Config
from tfbrats.config_file import from_mapping
from tfbrats.datasets.layouts import CaseFiles, Dataset
from tfbrats.machine import files
from tfbrats.machine.stopwatch import Stopwatch
from tfbrats.records import manifest, tfrecord
from tfbrats.records.manifest import CaseRow, Shard, Source
from tfbrats.records.schema import SCHEMAS, encode
from tfbrats.terminal.wording import in_units

PARTS = "parts"  # rows of finished shards, until dataset.json holds them all
TALLY = ".cases"  # under parts/: a byte for each case that a worker has ended with

# A shard may be so much larger than records.shard_mib before it holds fewer cases, or its case is spread over
# several: with the 150 MiB of the shipped configs, the parts of a case are then of 100 to 200 MiB.
_LARGEST = 4 / 3


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """The shards that hold the same cases, one of each region where regions are kept apart; a case that is too
    large for one shard has several. Small: only this travels to a worker.

    A case is read and prepared once for all of its shards.
    """

    names: tuple[tuple[str, tuple[str, ...]], ...]  # (region or "", files)
    split: str
    cases: tuple[CaseFiles, ...]
    output: str
    config: dict  # Config.model_dump: plain, so that any engine can pickle it
    sha256: str  # of all that its bytes depend on; of the input files only names and sizes are looked at
    expected_bytes: float

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(file for _, files_ in self.names for file in files_)


def part_of(output: str, file: str) -> str:
    """Where the row of a finished shard lies."""
    return files.join(output, PARTS, file + ".json")


def cases_done(output: str, tasks: Sequence[ShardTask]) -> int:
    """How many of the tasks' cases workers have ended with; in a store, those of finished shards alone."""
    if files.is_local(output):
        tally = files.join(output, PARTS, TALLY)
        return files.size(tally) if files.exists(tally) else 0
    rows = files.walk(files.join(output, PARTS))
    finished = {files.name(path).removesuffix(".json") for path in rows}
    return sum(len(task.cases) for task in tasks if finished.issuperset(task.files))


def _count_case(output: str) -> None:
    """For who waits; nothing that a job could fail by. A byte at the end is added whole, whoever else adds."""
    if files.is_local(output):
        with (
            contextlib.suppress(OSError),
            open(files.canonical(files.join(output, PARTS, TALLY)), "ab") as tally,
        ):
            tally.write(b".")


# --- plan -----------------------------------------------------------------------------------------------


def plan(
    dataset: Dataset,
    splits: Mapping[str, Sequence[str]],
    config: Config,
    output: str,
    bytes_per_case: float,
    batch: int = 0,
) -> list[ShardTask]:
    """The shards of cases that were given together: cases in sorted order, dealt round-robin.

    As many shards as their size asks for (records.shard_mib), at least records.min_shards, at most one a
    case; but where the patches of one case are too many for a shard, it has several of its own.

    Args:
        batch: 0, or which addition to a record set this is: its shards have names of their own.
    """
    by_id = {source.case_id: source for source in dataset.cases}
    sizes = files.walk(dataset.root)
    regions = manifest.own_regions(config) or ("",)
    identity = {"format": manifest.FORMAT, **config.records_identity()}
    content = config.model_dump(mode="json")
    filled = bytes_per_case / len(regions) / (config.records.shard_mib * 2**20)  # by a case, of a shard
    pieces = _shards_of_a_case(config, filled)
    tasks = []
    for split, ids in splits.items():
        in_order = sorted(ids)
        count = len(ids) if pieces > 1 else _shard_count(len(ids), config, filled)
        for n in range(count):
            numbers = range(n * pieces, (n + 1) * pieces)
            names = tuple(
                (region, tuple(_file_name(split, batch, region, at, count * pieces) for at in numbers))
                for region in regions
            )
            cases = tuple(by_id[case_id] for case_id in in_order[n::count])
            depends_on = {
                "identity": identity,
                "files": names,
                "cases": [dataclasses.asdict(source, dict_factory=_stated) for source in cases],
                "bytes": [sizes.get(path) for source in cases for path in source.paths()],
            }
            sha256 = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
            tasks.append(ShardTask(names, split, cases, output, content, sha256, bytes_per_case * len(cases)))
    return tasks


def _shards_of_a_case(config: Config, filled: float) -> int:
    """Over how many shards a case is spread: more than one where its patches are too many for one.

    Args:
        filled: how much of a shard one case takes; above 1 where it takes more.
    """
    if config.records.kind != "patches":
        return 1
    return min(max(1, math.ceil(filled / _LARGEST)), config.sampling.patches_per_case)


def _shard_count(case_count: int, config: Config, filled: float) -> int:
    """Over how many shards whole cases are dealt."""
    # Dealt out whole, some shards hold a case more than the mean.
    most_cases = max(1, math.floor(_LARGEST / filled)) if filled else max(1, case_count)
    by_size = max(math.ceil(case_count * filled), math.ceil(case_count / most_cases))
    return min(case_count, max(by_size, config.records.min_shards))


def _stated(fields: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Without what a schema seldom has: a set keeps the hashes that it had before there was such a field."""
    return {name: value for name, value in fields if value is not None or name not in ("ignored", "by_names")}


def _file_name(split: str, batch: int, region: str, number: int, count: int) -> str:
    """train-00000-of-00008.tfrecord, train-wt-...; of cases that were added later, train-add1-..."""
    added = f"add{batch}" if batch else ""
    return "-".join(filter(None, (split, added, region.lower(), f"{number:05d}-of-{count:05d}.tfrecord")))


# --- a case's examples ----------------------------------------------------------------------------------

# How many of a case's examples are made before the first is written (None: all), so that a case that fails
# leaves nothing behind. A case's patches (5 GiB in paper B) do not fit into memory: what can fail does at the
# first.
_HELD = {"slices": None, "volumes": None, "patches": 1}


def encoded_examples(
    prepared: Prepared, config: Config, split: str, watch: Stopwatch
) -> dict[str, Iterator[bytes]]:
    """A case's examples as bytes: a stream for each region that has shards of its own ("" where none has).

    Nothing is cut before a stream is read.

    Args:
        split: slices of training cases may be dropped, those of others not.
        watch: takes the seconds of "cut" and "encode".
    """
    settings = config.records
    if settings.kind == "slices":
        # Only training discards slices: validation and test see every slice that has brain.
        dropped = settings.dropped_fraction if split == "train" else 0.0
        streams: dict[str, Iterable[dict]] = {
            "": slices.slices(
                prepared, settings.slice_shape, config.lws.contour_width_mm, dropped, settings.seed
            )
        }
    elif settings.kind == "patches":
        streams = {
            region: patches.patches(prepared, region, config.sampling, config.cascade, settings.seed)
            for region in config.regions
        }
    else:
        streams = {"": (patches.volume(prepared) for _ in range(1))}
    schema = SCHEMAS[settings.kind]

    def encoded(stream: Iterable[dict]) -> Iterator[bytes]:
        return watch.over("encode", (encode(schema, example) for example in watch.over("cut", stream)))

    return {region: encoded(stream) for region, stream in streams.items()}


# --- one shard ------------------------------------------------------------------------------------------


def is_finished(task: ShardTask, finished: Mapping[str, Shard], accepted: Collection[str] = ()) -> bool:
    """Whether the shard is on disk as this task would write it, with no case rejected.

    Args:
        accepted: files whose rejected cases are not tried again.
    """
    rows = [finished.get(file) for file in task.files]
    return all(
        row is not None
        and (not row.rejected or row.file in accepted)
        and row.task_sha256 == task.sha256
        and manifest.check_shard(task.output, row) is None
        for row in rows
    )


class _Writer:
    """One TFRecord file in the making, and what its row will say."""

    def __init__(self, stack: contextlib.ExitStack, path: str):
        self._file = stack.enter_context(files.writing(path))
        self._checksum = google_crc32c.Checksum()
        self.size, self.rows = 0, []

    def write(self, contents: Iterable[bytes], loaded: case.Case, is_first: bool, watch: Stopwatch) -> None:
        """A case, or its part for this shard, and its row, with the seconds that `watch` has not given yet."""
        count = 0
        with watch.part("write"):
            for content in contents:
                framed = tfrecord.frame(content)
                self._file.write(framed)
                self._checksum.update(framed)
                self.size += len(framed)
                count += 1
        source = Source(
            label_schema=loaded.schema.to_json(),
            shape=loaded.grid.file_shape,
            affine=loaded.grid.affine.tolist(),
        )
        self.rows.append(
            CaseRow(
                case_id=loaded.case_id,
                examples=count,
                spacing_mm=loaded.spacing_mm,
                source=source if is_first else None,
                notes=loaded.notes if is_first else (),
                seconds={stage: round(seconds, 4) for stage, seconds in watch.taken().items()},
            )
        )

    @property
    def crc32c(self) -> str:
        return self._checksum.hexdigest().decode()


def _check_disk(task: ShardTask) -> None:
    """Raises OSError where a task's shards do not fit any more: others may have filled the disk meanwhile."""
    free = files.free_bytes(task.output)
    if free is not None and free < task.expected_bytes:
        raise OSError(
            errno.ENOSPC,
            f"{task.output}: {in_units(free)} are free, and {task.files[0]} and its like need about "
            f"{in_units(task.expected_bytes)}",
        )


def write_shard(task: ShardTask) -> list[Shard]:
    """Writes a task's shards, one case in memory at a time, and their rows; a failing case is rejected.

    Raises:
        OSError, MissingPackageError: no fault of a case: the job must stop.
    """
    config = from_mapping(task.config, str(task.files))
    rejected: list[Rejected] = []
    _check_disk(task)
    with contextlib.ExitStack() as stack:
        writers = {
            region: [_Writer(stack, files.join(task.output, file)) for file in files_]
            for region, files_ in task.names
        }
        for source in task.cases:
            refusal = _write_case(source, task.split, config, writers)
            _count_case(task.output)
            if refusal is not None:
                rejected.append(refusal)
    shards = []
    for region, files_ in task.names:
        for file, writer in zip(files_, writers[region], strict=True):
            shard = Shard(
                file=file,
                split=task.split,
                region=region,
                cases=tuple(writer.rows),
                # A case is rejected once, for all of its shards.
                rejected=tuple(rejected) if file == task.files[0] else (),
                examples=sum(row.examples for row in writer.rows),
                bytes=writer.size,
                crc32c=writer.crc32c,
                task_sha256=task.sha256,
            )
            files.write_bytes(part_of(task.output, file), shard.model_dump_json().encode())
            shards.append(shard)
    return shards


def _write_case(
    source: CaseFiles, split: str, config: Config, writers: Mapping[str, Sequence[_Writer]]
) -> Rejected | None:
    """Puts a case into its shards, or tells why it cannot be used. What it holds in memory goes with it."""
    stage, watch = "read", Stopwatch()
    try:
        with watch.part("read"):
            loaded = case.load(source, config.data.modalities, need_label=True)
        stage = "prepare"
        with watch.part("n4"):
            wanted = config.preprocess
            image = preprocess.correct_bias(loaded, wanted.n4_modalities, wanted.n4_shrink, n4=wanted.n4)
        with watch.part("cut"):
            prepared = preprocess.cropped(loaded, image)
        streams = encoded_examples(prepared, config, split, watch)
        held = _HELD[config.records.kind]
        first = {region: list(itertools.islice(stream, held)) for region, stream in streams.items()}
    except (MemoryError, preprocess.MissingPackageError):  # no fault of the case
        raise
    except Exception as error:  # one bad case must not cost the others
        return Rejected.by(error, source.case_id, stage)
    is_first = True
    for region, of_region in writers.items():
        stream = itertools.chain(first[region], streams[region])
        for writer, length in zip(of_region, _lengths(config, len(of_region)), strict=True):
            writer.write(itertools.islice(stream, length), loaded, is_first, watch)
            is_first = False
    return None


def _lengths(config: Config, pieces: int) -> list[int | None]:
    """How many of a case's patches go to each of the shards that it is spread over; None: all there are."""
    if pieces == 1:
        return [None]
    ends = [n * config.sampling.patches_per_case // pieces for n in range(pieces + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]
