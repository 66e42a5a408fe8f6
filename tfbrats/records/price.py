"""What a record set will cost: bytes, hours and memory, measured on the first sound case."""

import dataclasses
import time
from collections.abc import Mapping, Sequence

from tfbrats.cases import case, patches, preprocess
from tfbrats.cases.preprocess import Prepared
from tfbrats.config import Config
from tfbrats.datasets.layouts import Dataset
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.machine.stopwatch import Stopwatch
from tfbrats.machine.wording import columns, in_units
from tfbrats.records import tfrecord
from tfbrats.records.schema import VOLUMES, encode
from tfbrats.records.shards import encoded_examples

# Peak of a worker that writes a full-size case with N4 on all modalities, 240 x 240 x 155 x 4 voxels: measured
# by benchmarks/prepare_memory.py.
_WORKER_BYTES = 200 * 2**20  # interpreter, Beam and the libraries


_WORKER_BYTES_PER_VALUE = 14  # of a case's I x J x K x M


_N4_S_PER_VOXEL = 2e-6  # of the brain's box, a modality, at shrink 4; more closely: --price times it


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
        hours = self.seconds / 3600
        shown = "under 0.1" if hours < 0.1 else f"about {hours:.1f}" if hours < 10 else f"about {hours:.0f}"
        rows["hours"] = f"{shown} on one worker of this machine; workers share them"
        rows["free disk"] = "unknown" if self.free_bytes is None else in_units(self.free_bytes)
        if self.bytes_as_volumes is not None:
            rows["as volumes"] = f"about {in_units(self.bytes_as_volumes)} (records.kind=volumes)"
        advice = self.advice(self.bytes)
        if advice:
            rows["the disk is short"] = advice
        return columns(rows.items(), ("<16", " "))

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
        with_n4: time N4 on one modality, which takes a while, and count it for each; else a rough figure of
            ours stands for it.

    Raises:
        InputError: no case is sound.
    """
    chosen = {case_id for ids in splits.values() for case_id in ids}
    n4_count = len(config.preprocess.n4_modalities)
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
                volume_bytes = len(encode(VOLUMES, patches.volume(prepared))) + tfrecord.FRAME_BYTES
            n4_s = _N4_S_PER_VOXEL * prepared.brain.size * (4 / config.preprocess.n4_shrink) ** 3
            if n4_count and with_n4:
                started = time.monotonic()
                brain = preprocess.brain_mask(loaded.image)
                preprocess.n4(loaded.image[..., 0], brain, config.preprocess.n4_shrink, loaded.spacing_mm)
                n4_s = time.monotonic() - started
            seconds += n4_count * n4_s
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
            seconds=seconds * len(chosen),
            free_bytes=files.free_bytes(output),
            worker_bytes=_WORKER_BYTES + _WORKER_BYTES_PER_VALUE * loaded.image.size,
        )
    raise InputError("no case can be used:\n" + "\n".join(faults[:10]))


def _record_sizes(prepared: Prepared, config: Config, split: str) -> tuple[list[int], float]:
    """Bytes in the file of each example of a case, and the seconds to encode them all.

    Patches are all of one size and one effort: two of each region tell.
    """
    started = time.monotonic()
    sizes, later = [], 0.0
    for stream in encoded_examples(prepared, config, split, Stopwatch()).values():
        if config.records.kind != "patches":
            sizes += [len(one) + tfrecord.FRAME_BYTES for one in stream]
            continue
        count = config.sampling.patches_per_case
        sizes += [len(next(stream)) + tfrecord.FRAME_BYTES] * count
        if count > 1:  # the first one's time holds what a case needs once
            second = time.monotonic()
            next(stream)
            later += (count - 2) * (time.monotonic() - second)
    return sizes, time.monotonic() - started + later
