"""What a record set will cost: bytes, hours and memory, measured on the first sound case."""

import dataclasses
import time
from collections.abc import Mapping, Sequence

from tfbrats.cases import case, patches, preprocess
from tfbrats.cases.case import Case
from tfbrats.cases.preprocess import Prepared
from tfbrats.config import Config
from tfbrats.datasets.layouts import CaseFiles, Dataset
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.machine.stopwatch import Stopwatch
from tfbrats.records import tfrecord
from tfbrats.records.schema import VOLUMES, encode
from tfbrats.records.shards import encoded_examples
from tfbrats.terminal.wording import columns, in_time, in_units

# Peak of a worker that writes a full-size case with N4 on all modalities, 240 x 240 x 155 x 4 voxels: measured
# by benchmarks/prepare_memory.py.
_WORKER_BYTES = 200 * 2**20  # interpreter, Beam and the libraries
_WORKER_BYTES_PER_VALUE = 14  # of a case's I x J x K x M
# Of N4 on one modality, for each voxel of the brain's box and for each that is fitted: benchmarks/n4.py. More
# closely: --price times it.
_OURS_S_PER_VOXEL = 1e-8
_OURS_S_PER_FITTED = 1.2e-6
_ITK_S_PER_VOXEL = 2e-6  # at shrink 4


@dataclasses.dataclass(frozen=True)
class Price:
    """What a record set will cost, measured on its first sound case."""

    kind: str
    cases: int
    examples: int
    bytes: int
    bytes_as_volumes: int | None  # what the same cases take as volumes; None for kinds that have no such choice
    seconds: float  # on one worker
    free_bytes: int | None
    worker_bytes: int  # memory that a worker needs

    @property
    def bytes_per_case(self) -> float:
        return self.bytes / self.cases

    def lines(self, shard_count: int) -> list[str]:
        rows = {
            "cases": f"{self.cases}",
            self.kind: f"about {self.examples}",
            "bytes": f"about {in_units(self.bytes)}",
            "shards": f"{shard_count} of about {in_units(self.bytes / shard_count)}",
            "memory": f"{in_units(self.worker_bytes)} a worker, however many cases",
        }
        rows["time"] = f"about {in_time(self.seconds)} on one worker of this machine; workers share it"
        rows["free disk"] = "unknown" if self.free_bytes is None else in_units(self.free_bytes)
        if self.bytes_as_volumes is not None:
            rows["as volumes"] = f"about {in_units(self.bytes_as_volumes)} (records.kind=volumes)"
        advice = self.advice(self.bytes)
        if advice:
            rows["the disk is short"] = advice
        return columns(rows.items(), ("<16", " "))

    def line(self, shard_count: int) -> str:
        """What comes out, in a few words, for who has not asked for the price."""
        return f"about {self.examples} {self.kind}, {in_units(self.bytes)}, {shard_count} shards"

    def advice(self, needed_bytes: float) -> str:
        """What to do when so many bytes do not fit, but all cases as volumes would; else empty."""
        short = self.free_bytes is not None and needed_bytes > self.free_bytes
        if not short or self.bytes_as_volumes is None or self.bytes_as_volumes > self.free_bytes:
            return ""
        volumes = in_units(self.bytes_as_volumes)
        return f"pass records.kind=volumes: about {volumes}; patches are then cut afresh every epoch."


def measured_price(
    dataset: Dataset, splits: Mapping[str, Sequence[str]], config: Config, output: str, with_n4: bool
) -> Price:
    """Prepares the first sound case in memory and multiplies.

    Args:
        with_n4: time N4 on one modality and count it for each; else a rough figure of ours stands for it.

    Raises:
        InputError: no case is sound.
    """
    chosen = {case_id for ids in splits.values() for case_id in ids}
    faults: list[str] = []
    for source in dataset.cases:
        if source.case_id not in chosen:
            continue
        try:
            measured = _measured(source, config, with_n4)
        except Exception as error:  # as in write_shard: one bad case is not the end
            faults.append(str(error))
            continue
        counted = [(len(ids), measured.sizes_of(split)) for split, ids in splits.items()]
        volume_bytes = measured.volume_bytes
        return Price(
            kind=config.records.kind,
            cases=len(chosen),
            examples=sum(count * len(sizes) for count, sizes in counted),
            bytes=sum(count * sum(sizes) for count, sizes in counted),
            bytes_as_volumes=None if volume_bytes is None else len(chosen) * volume_bytes,
            seconds=measured.seconds * len(chosen),
            free_bytes=files.free_bytes(output),
            worker_bytes=_WORKER_BYTES + _WORKER_BYTES_PER_VALUE * measured.values,
        )
    raise InputError("no case can be used:\n" + "\n".join(faults[:10]))


@dataclasses.dataclass(frozen=True)
class _Measured:
    """What one case takes.

    Attributes:
        train_sizes, other_sizes: bytes in the file of each of its examples, in training and elsewhere.
        volume_bytes: that it takes as a volume; None for kinds that have no such choice.
        seconds: on one worker.
        values: of its image, I x J x K x M.
    """

    train_sizes: list[int]
    other_sizes: list[int]
    volume_bytes: int | None
    seconds: float
    values: int

    def sizes_of(self, split: str) -> list[int]:
        return self.train_sizes if split == "train" else self.other_sizes


def _measured(source: CaseFiles, config: Config, with_n4: bool) -> _Measured:
    """Prepares and encodes one case in memory, as `shards.write_shard` does."""
    started = time.monotonic()
    loaded = case.load(source, config.data.modalities, need_label=True)
    prepared = preprocess.prepare(loaded, (), config.preprocess.n4_shrink)
    preparing_s = time.monotonic() - started
    other_sizes, _ = _record_sizes(prepared, config, "test")
    train_sizes, encoding_s = _record_sizes(prepared, config, "train")
    volume_bytes = None
    if config.records.kind == "patches":
        volume_bytes = len(encode(VOLUMES, patches.volume(prepared))) + tfrecord.FRAME_BYTES
    n4_s = len(config.preprocess.n4_modalities) * _n4_seconds(loaded, prepared, config, with_n4)
    return _Measured(train_sizes, other_sizes, volume_bytes, preparing_s + encoding_s + n4_s, loaded.image.size)


def _n4_seconds(loaded: Case, prepared: Prepared, config: Config, is_timed: bool) -> float:
    """Of N4 on one modality: timed, or a rough figure."""
    wanted = config.preprocess
    if not is_timed or not wanted.n4_modalities:
        voxels = prepared.brain.size
        if wanted.n4 == "ours":
            return _OURS_S_PER_VOXEL * voxels + _OURS_S_PER_FITTED * voxels / wanted.n4_shrink**3
        return _ITK_S_PER_VOXEL * voxels * (4 / wanted.n4_shrink) ** 3
    started = time.monotonic()
    preprocess.correct_bias(loaded, wanted.n4_modalities[:1], wanted.n4_shrink, n4=wanted.n4)
    return time.monotonic() - started


def _record_sizes(prepared: Prepared, config: Config, split: str) -> tuple[list[int], float]:
    """Bytes in the file of each example of a case, and the seconds to encode them all.

    Patches are all of one size and one effort, so that two of each region tell.
    """
    started = time.monotonic()
    sizes, later = [], 0.0
    for stream in encoded_examples(prepared, config, split, Stopwatch()).values():
        if config.records.kind != "patches":
            sizes += [len(content) + tfrecord.FRAME_BYTES for content in stream]
            continue
        count = config.sampling.patches_per_case
        sizes += [len(next(stream)) + tfrecord.FRAME_BYTES] * count
        if count > 1:  # the first one's time holds what a case needs once
            second = time.monotonic()
            next(stream)
            later += (count - 2) * (time.monotonic() - second)
    return sizes, time.monotonic() - started + later
