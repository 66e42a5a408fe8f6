"""dataset.json: what a record set holds, shard by shard and case by case. No TensorFlow.

Answers whether a set fits a config, and a shard its row.
"""

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pydantic

from tfbrats import __version__
from tfbrats.cases.rejected import Rejected
from tfbrats.cases.split_files import SPLITS, Splits, sha256_of_split, some
from tfbrats.config import Config, differences
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.machine import files
from tfbrats.records.schema import SCHEMAS, field_descriptions
from tfbrats.records.tfrecord import REWRITE, file_crc32c

if TYPE_CHECKING:  # whoever reads a manifest need not load the readers of data sets
    from tfbrats.datasets.layouts import CaseFiles

MANIFEST = "dataset.json"
FORMAT = 2
SHARD_NAME = re.compile(
    rf"({'|'.join(SPLITS)})(-add\d+)?(-({'|'.join(REGIONS).lower()}))?-\d{{5}}-of-\d{{5}}\.tfrecord"
)
STAGES = ("read", "n4", "cut", "encode", "write")  # of the work on a case, as its seconds are told apart
WRITE_AGAIN = "Write the records again: tfbrats prepare with --overwrite."


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """How a case's own files lie in space and write tissues: what `to-nifti` gives back.

    Attributes:
        label_schema: `labels.LabelSchema.to_json`.
        shape: voxels along the file's own axes.
        affine: [4][4], voxel of the file -> mm.
    """

    label_schema: dict[str, Any]
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, float, float, float], ...]


class CaseRow(_Part):
    """One case in a shard, or the part of it that lies there.

    Attributes:
        source: None in all but the first of a case's parts.
        notes: guesses that were made in reading it; where there are none the row holds no such entry.
        seconds: spent on this part, by `STAGES`.
    """

    case_id: str
    examples: int
    spacing_mm: tuple[float, float, float]
    source: Source | None = None
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = {}

    @pydantic.model_serializer(mode="wrap")
    def _without_empty_notes(self, serialize: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        content = serialize(self)
        return content if self.notes else {key: value for key, value in content.items() if key != "notes"}


class Shard(_Part):
    """One finished TFRecord file."""

    file: str
    split: str
    region: str = ""  # whose patches they are; slices and volumes serve all
    cases: tuple[CaseRow, ...]
    rejected: tuple[Rejected, ...]
    examples: int
    bytes: int
    crc32c: str  # of the whole file, hexadecimal
    task_sha256: str  # of all that the file depends on: config, cases, their files' sizes


def seconds_by_case(shards: Iterable[Shard]) -> dict[str, dict[str, float]]:
    """Case id -> seconds by each of `STAGES`, over all the shards that hold a part of the case."""
    totals: dict[str, dict[str, float]] = {}
    for shard in shards:
        for row in shard.cases:
            total = totals.setdefault(row.case_id, dict.fromkeys(STAGES, 0.0))
            for stage, seconds in row.seconds.items():
                total[stage] += seconds
    return totals


class Batch(_Part):
    """Cases that were given together: the first, or what `--add` added later. Each has shards of its own.

    Attributes:
        cases: split -> sorted ids, rejected ones too.
        bytes_per_case: what the number of its shards was worked out from.
    """

    cases: dict[str, tuple[str, ...]]
    bytes_per_case: float


class Manifest(_Part):
    """The contents of dataset.json: what a record set is, enough to check and to read it."""

    format: int = FORMAT
    tfbrats_version: str
    kind: str
    regions: tuple[str, ...] = ()  # whose patches they are; slices and volumes serve all
    fields: dict[str, str]  # field -> "dtype shape", for people
    identity: dict[str, Any]  # config.Config.records_identity()
    modalities: tuple[str, ...]
    label_schemas: tuple[dict[str, Any], ...]  # the editions, most frequent first
    layouts: tuple[str, ...]
    spacing_mm: tuple[float, float, float]  # of most cases; each row has its own
    examples: dict[str, int]  # per split
    cases: dict[str, tuple[str, ...]]  # per split
    split_sha256: str
    bytes: int
    rejected: int
    seconds_per_case: dict[str, float] = {}  # mean over the cases, by `STAGES`
    batches: tuple[Batch, ...] = ()
    shards: tuple[Shard, ...]

    @property
    def is_of_folds(self) -> bool:
        """Whether cases lie here twice: as training sees them, and as validation does (`of_fold`)."""
        splits = ([batch.cases.get(split, ()) for split in ("train", "validation")] for batch in self.batches)
        return any(set(trained) & set(validated) for trained, validated in splits)

    def shards_of(self, split: str, region: str = "") -> list[Shard]:
        """The shards of a split; where each region has its own, those of `region`, or of all."""
        of_split = [shard for shard in self.shards if shard.split == split]
        return [shard for shard in of_split if not region or shard.region in ("", region)]

    def count(self, split: str, region: str = "") -> int:
        """Examples in `shards_of`."""
        return sum(shard.examples for shard in self.shards_of(split, region))

    def description(self) -> dict[str, Any]:
        """What a run and its model keep of the set: all but shards and cases, and the hash of the whole."""
        content = self.model_dump(mode="json", exclude={"shards", "cases"})
        return {**content, "manifest_sha256": hashlib.sha256(self.model_dump_json().encode()).hexdigest()}

    def shards_sha256(self, region: str = "") -> str:
        """The hash of what `shards_of` hold, over all splits: other images give another."""
        shards = sorted(
            (shard.file, shard.crc32c) for split in SPLITS for shard in self.shards_of(split, region)
        )
        return hashlib.sha256(json.dumps(shards).encode()).hexdigest()


def own_regions(config: Config) -> tuple[str, ...]:
    """The regions that have shards of their own; () where one set of shards serves all."""
    return config.regions if config.records.kind == "patches" else ()


def of_shards(
    shards: Sequence[Shard], sources: Iterable["CaseFiles"], config: Config, planned: Sequence[Batch]
) -> Manifest:
    """What dataset.json says of a set, from the rows of its shards.

    Args:
        sources: the files of all its cases, rejected ones too.
        planned: its cases as they were given.
    """
    rows = {row.case_id: row for shard in shards for row in shard.cases}
    used = [source for source in sources if source.case_id in rows]
    schemas = Counter(json.dumps(source.schema.to_json()) for source in used)
    spacings = Counter(row.spacing_mm for row in rows.values())
    cases = {
        split: tuple(sorted({row.case_id for shard in shards if shard.split == split for row in shard.cases}))
        for split in SPLITS
    }
    return Manifest(
        tfbrats_version=__version__,
        kind=config.records.kind,
        regions=own_regions(config),
        fields=field_descriptions(SCHEMAS[config.records.kind]),
        identity=config.records_identity(),
        modalities=config.data.modalities,
        label_schemas=tuple(json.loads(text) for text, _ in schemas.most_common()),
        layouts=tuple(sorted({source.layout for source in used})),
        spacing_mm=spacings.most_common(1)[0][0] if spacings else (0.0, 0.0, 0.0),
        examples={split: sum(shard.examples for shard in shards if shard.split == split) for split in SPLITS},
        cases=cases,
        split_sha256=sha256_of_split(cases),
        bytes=sum(shard.bytes for shard in shards),
        rejected=sum(len(shard.rejected) for shard in shards),
        seconds_per_case=_seconds_per_case(shards),
        batches=tuple(planned),
        shards=tuple(shards),
    )


def _seconds_per_case(shards: Iterable[Shard]) -> dict[str, float]:
    """The mean over the cases, by stage."""
    of_cases = seconds_by_case(shards)
    return {
        stage: round(math.fsum(seconds[stage] for seconds in of_cases.values()) / (len(of_cases) or 1), 4)
        for stage in STAGES
    }


def batches_of_folds(folds: Sequence[Splits], kind: str, bytes_per_case: float) -> list[Batch]:
    """How the cases of a cross-validation are stored once for all folds: those that a fold holds out together.

    Of slices some are dropped in training, so that a case lies there twice; patches and volumes are the same
    for both.
    """
    return [
        Batch(
            cases={
                "train": tuple(fold["validation"]),
                "validation": tuple(fold["validation"]) if kind == "slices" else (),
                "test": (),
            },
            bytes_per_case=bytes_per_case,
        )
        for fold in folds
    ]


def of_fold(manifest: Manifest, fold: Splits, folder: str | os.PathLike) -> Manifest:
    """What one fold trains and validates on: the records of all folds, looked at as a set of its own.

    Args:
        fold: its split.
        folder: the record set, quoted in the error.

    Raises:
        InputError: the records were not written for these folds.
    """
    split_of = {case_id: split for split in ("train", "validation") for case_id in fold[split]}
    shards: list[Shard] = []
    for shard in manifest.shards:
        split, *others = {split_of.get(row.case_id) for row in shard.cases} or {None}
        if others:
            raise _of_other_folds(folder, f"{shard.file} holds cases of several splits of it")
        is_as_seen = manifest.kind != "slices" or shard.split == split
        if split is not None and is_as_seen:
            shards.append(shard.model_copy(update={"split": split}))
    there = {(shard.split, row.case_id) for shard in shards for row in shard.cases}
    rejected = {case.case_id for shard in manifest.shards for case in shard.rejected}
    if missing := [i for i, split in split_of.items() if (split, i) not in there and i not in rejected]:
        raise _of_other_folds(folder, f"they lack {some(sorted(missing))} as it is wanted")
    cases = {split: tuple(sorted({i for of, i in there if of == split})) for split in SPLITS}
    return manifest.model_copy(
        update={
            "cases": cases,
            "split_sha256": sha256_of_split(cases),
            "examples": {split: sum(s.examples for s in shards if s.split == split) for split in SPLITS},
            "bytes": sum(shard.bytes for shard in shards),
            "shards": tuple(shards),
        }
    )


def _of_other_folds(folder: str | os.PathLike, why: str) -> InputError:
    return InputError(
        f"{folder}: these records were not written for this fold: {why}. Write them with tfbrats prepare, with "
        "the same --splits and without --fold."
    )


def read_manifest(folder: str | os.PathLike, command: str = "") -> Manifest:
    """The manifest of a finished record set.

    Args:
        folder: the record set.
        command: what would make it, quoted in the error.

    Raises:
        InputError: there is none, or it is of another format.
    """
    path = files.join(folder, MANIFEST)
    if not files.exists(path):
        raise InputError(
            f"{folder}: no {MANIFEST}: there are no records here, or the job that writes them has not ended."
            + (f" Make them with\n  {command}" if command else "")
        )
    try:
        content = files.read_json(path)
    except InputError as error:
        raise InputError(f"{error} {WRITE_AGAIN}") from error
    if not is_manifest(content):
        raise InputError(
            f"{path}: not the manifest of a record set. Point to the folder that tfbrats prepare wrote."
        )
    return from_content(content, path)


def is_manifest(content: Any) -> bool:
    """Whether a dataset.json is that of a record set, of whatever format: MSD and nnU-Net have one too."""
    return isinstance(content, dict) and "shards" in content


def from_content(content: dict[str, Any], path: str) -> Manifest:
    """The manifest that JSON holds.

    Args:
        content: that `is_manifest`.
        path: where it lay, quoted in the error.

    Raises:
        InputError: another format, or damaged.
    """
    if content.get("format") != FORMAT:
        raise InputError(
            f"{path}: records of format {content.get('format')}; this version reads {FORMAT}. {WRITE_AGAIN}"
        )
    try:
        return Manifest.model_validate(content)
    except pydantic.ValidationError as error:
        raise InputError(f"{path}: damaged ({error.error_count()} faults). {WRITE_AGAIN}") from error


def check_identity(manifest: Manifest, config: Config, folder: str | os.PathLike) -> None:
    """Raises InputError unless the records were written with this config's record settings.

    Records of folds are none of one split: whoever trains a fold hands over `of_fold` of them.
    """
    if set(manifest.cases.get("train", ())) & set(manifest.cases.get("validation", ())):
        raise InputError(
            f"{folder}: holds records of folds: each case is there to train on and to validate on. Train with "
            "--folds FILE, the --splits that they were written with."
        )
    kind = config.records.kind
    if manifest.kind != kind:
        cure = "Write them with this config into another folder"
        if {manifest.kind, kind} == {"patches", "volumes"}:
            cure += f", or pass records.kind={manifest.kind}"
        raise InputError(
            f"{folder}: holds {manifest.kind}; this config ({config.model.name}) trains on {kind}. {cure}."
        )
    missing = [r for r in config.regions if r not in manifest.regions] if kind == "patches" else []
    if missing:
        raise InputError(
            f"{folder}: holds patches of {', '.join(manifest.regions)}, none of {', '.join(missing)}. Train "
            + " or ".join(f"region={r.lower()}" for r in manifest.regions)
            + " on it, or write the others into another folder."
        )
    changed = other_records(config.records_identity(), manifest.identity)
    if changed:
        raise InputError(
            f"{folder}: these records were written with another configuration:\n  "
            + "\n  ".join(changed)
            + "\nUse the config they were written with, or write them again into another folder."
        )


def check_shard(folder: str | os.PathLike, shard: Shard, content: bool = True) -> str | None:
    """What is wrong with a shard on disk, as a sentence, or None. `content`: checksum too, not size alone."""
    path = files.join(folder, shard.file)
    if not files.exists(path):
        return f"{path}: missing. {REWRITE}"
    if files.size(path) != shard.bytes:
        return f"{path}: {files.size(path)} bytes; dataset.json says {shard.bytes}. {REWRITE}"
    if content and file_crc32c(path) != shard.crc32c:
        return f"{path}: damaged: its checksum is not the one in dataset.json. {REWRITE}"
    return None


def other_records(here: Mapping, there: Mapping) -> list[str]:
    """`differences` of two `records_identity`s; where N4 was run and none is named, it was SimpleITK's."""
    both_corrected = all(of.get("preprocess", {}).get("n4_modalities") for of in (here, there))

    def told(identity: Mapping) -> dict[str, Any]:
        preprocess = {"n4": "itk", **identity.get("preprocess", {})}
        if not both_corrected:  # that one is and one is not is told; whose N4 it was says nothing then
            del preprocess["n4"]
        return {**identity, "preprocess": preprocess}

    return differences(told(here), told(there))
