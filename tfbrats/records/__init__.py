"""What a record set holds: the TFRecord schema, written once, and dataset.json, the manifest.

The schema below builds both the writer (here, with a light encoder, so that Beam's workers import no
TensorFlow) and the parser (`data.parse`).
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import pydantic
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from tfbrats import files
from tfbrats.command import InputError
from tfbrats.config import Config, differences
from tfbrats.labels import REGIONS

MANIFEST = "dataset.json"
FORMAT = 2
SPLITS = ("train", "validation", "test")
SHARD_NAME = re.compile(
    rf"({'|'.join(SPLITS)})(-add\d+)?(-({'|'.join(REGIONS).lower()}))?-\d{{5}}-of-\d{{5}}\.tfrecord"
)
STAGES = ("read", "n4", "cut", "encode", "write")  # of the work on a case, as its seconds are told apart


@dataclass(frozen=True)
class Field:
    """One entry of an example.

    Attributes:
        dtype: numpy name, or "string". Arrays travel as raw little-endian bytes, single numbers as int64.
        shape: sizes, -1 where they differ from example to example (then stored beside the bytes).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_array(self) -> bool:
        return bool(self.shape)

    @property
    def shape_name(self) -> str:
        return f"{self.name}/shape"


SLICES = (
    Field("image", "float16", (-1, -1, -1)),  # [h, w, M] z-scored, cropped to the brain
    Field("label", "uint8", (-1, -1)),  # [h, w] tissues
    Field("region", "uint8", (-1, -1)),  # [h, w] examples.LwsRegion
    Field("origin_ij", "int64", (2,)),  # where the crop lies on the canvas
    Field("slice_k", "int64", ()),
    Field("case_id", "string", ()),
)
PATCHES = (
    Field("x1", "float16", (-1, -1, -1, -1)),  # [S, S, S, M] z-scored
    Field("half", "float16", (-1, -1, -1, -1)),  # [S, S, S, M] x0.5; x2 is derived from x1 when it is read
    Field("label", "uint8", (-1, -1, -1)),  # [S, S, S] tissues
    Field("centre_ijk", "int64", (3,)),  # in the whole volume
    Field("region", "string", ()),  # whose network it is for
    Field("case_id", "string", ()),
)
VOLUMES = (
    Field("image", "float16", (-1, -1, -1, -1)),  # [i, j, k, M] z-scored, cropped to the brain
    Field("brain", "uint8", (-1, -1, -1)),  # [i, j, k]
    Field("label", "uint8", (-1, -1, -1)),  # [i, j, k] tissues
    Field("origin_ijk", "int64", (3,)),  # where the crop lies in the whole volume
    Field("shape_ijk", "int64", (3,)),  # the whole volume's
    Field("case_id", "string", ()),
)
SCHEMAS: Mapping[str, tuple[Field, ...]] = {"slices": SLICES, "patches": PATCHES, "volumes": VOLUMES}


# --- tf.train.Example without TensorFlow ---------------------------------------------------------------


def _example_class():
    """A class that reads and writes tf.train.Example: messages match by field number, not by name."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tfbrats/example.proto", package="tfbrats.example", syntax="proto3"
    )
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name, *fields):
        added = file.message_type.add(name=name)
        for number, (field_name, kind, repeated, type_name) in enumerate(fields, start=1):
            added.field.add(
                name=field_name,
                number=number,
                type=kind,
                label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL,
                type_name=f".tfbrats.example.{type_name}" if type_name else None,
            )
        return added

    message("BytesList", ("value", kinds.TYPE_BYTES, True, ""))
    message("FloatList", ("value", kinds.TYPE_FLOAT, True, ""))
    message("Int64List", ("value", kinds.TYPE_INT64, True, ""))
    feature = message(
        "Feature",
        ("bytes_list", kinds.TYPE_MESSAGE, False, "BytesList"),
        ("float_list", kinds.TYPE_MESSAGE, False, "FloatList"),
        ("int64_list", kinds.TYPE_MESSAGE, False, "Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message("Features", ("feature", kinds.TYPE_MESSAGE, True, "Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=kinds.TYPE_MESSAGE,
        label=kinds.LABEL_OPTIONAL,
        type_name=".tfbrats.example.Feature",
    )
    message("Example", ("features", kinds.TYPE_MESSAGE, False, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tfbrats.example.Example"))


_Example = _example_class()


def encode(schema: Sequence[Field], example: Mapping[str, Any]) -> bytes:
    """One example as a serialised tf.train.Example; the same example is the same bytes.

    Raises:
        ValueError: an entry is missing, or of another type or shape than the schema says.
    """
    message = _Example()
    feature = message.features.feature
    missing = [field.name for field in schema if field.name not in example]
    if missing:
        raise ValueError(f"expected {[field.name for field in schema]}; {missing} not there")
    for field in schema:
        value = example[field.name]
        if field.dtype == "string":
            feature[field.name].bytes_list.value.append(value.encode())
        elif not field.is_array:
            feature[field.name].int64_list.value.append(int(value))
        else:
            fits = len(value.shape) == len(field.shape) and all(
                want in (-1, size) for want, size in zip(field.shape, value.shape, strict=True)
            )
            if value.dtype != field.dtype or not fits:
                raise ValueError(
                    f"{field.name}: expected {field.dtype} {field.shape}, received {value.dtype} {value.shape}"
                )
            feature[field.name].bytes_list.value.append(np.ascontiguousarray(value).tobytes())
            feature[field.shape_name].int64_list.value.extend(value.shape)
    return message.SerializeToString(deterministic=True)


def decode(schema: Sequence[Field], serialized: bytes) -> dict[str, Any]:
    """The inverse of `encode`, in numpy.

    Raises:
        InputError: not an example, or one whose entries are not those of the schema.
    """
    try:
        feature = _Example.FromString(serialized).features.feature
    except DecodeError as error:
        raise InputError(f"a record is not a tf.train.Example ({error}).") from error
    missing = [field.name for field in schema if field.name not in feature]
    if missing:
        raise InputError(
            f"a record lacks {', '.join(missing)}; it holds {', '.join(sorted(feature)) or 'nothing'}."
        )
    example: dict[str, Any] = {}
    try:
        for field in schema:
            if field.dtype == "string":
                example[field.name] = feature[field.name].bytes_list.value[0].decode()
            elif not field.is_array:
                example[field.name] = feature[field.name].int64_list.value[0]
            else:
                shape = tuple(feature[field.shape_name].int64_list.value)
                raw = feature[field.name].bytes_list.value[0]
                example[field.name] = np.frombuffer(raw, field.dtype).reshape(shape)
    except (ValueError, IndexError, TypeError) as error:  # an entry of another type, bytes of another shape
        raise InputError(f"a record's entry {field.name} does not fit its schema ({error}).") from error
    return example


# --- the TFRecord frame ---------------------------------------------------------------------------------


FRAME_BYTES = 16  # what `frame` adds
_PIECE_BYTES = 2**20  # of a file, read at once


def _masked_crc(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(content: bytes) -> bytes:
    """One record as it lies in the file: length, its checksum, content, its checksum."""
    length = struct.pack("<Q", len(content))
    return length + _masked_crc(length) + content + _masked_crc(content)


def read_frames(
    path: str | os.PathLike, checksum: google_crc32c.Checksum | None = None
) -> Iterator[tuple[int, bytes | None]]:
    """(first byte in the file, content) of each record of a TFRecord file; None is what a damaged one holds.

    Keeps a record in memory, never the file. Behind a damaged length nothing tells where the next record
    begins: that record is the last.

    Args:
        checksum: takes in every byte that is read, so that one pass checks file and records.
    """
    pieces = files.read_chunks(path, _PIECE_BYTES)
    piece, at = b"", 0

    def take(count: int) -> bytes:
        nonlocal piece, at
        parts = [piece[at : at + count]]
        at += len(parts[0])
        missing = count - len(parts[0])
        while missing and (piece := next(pieces, b"")):
            if checksum is not None:
                checksum.update(piece)
            parts.append(piece[:missing])
            at = len(parts[-1])
            missing -= at
        return b"".join(parts)

    place = 0
    while head := take(12):
        length, length_crc = head[:8], head[8:]
        if _masked_crc(length) != length_crc:
            yield place, None
            return
        (size,) = struct.unpack("<Q", length)
        body, body_crc = take(size), take(4)
        sound = len(body) == size and _masked_crc(body) == body_crc
        yield place, body if sound else None
        place += FRAME_BYTES + size


def read_records(path: str | os.PathLike) -> Iterator[bytes]:
    """The contents of a TFRecord file, one in memory at a time.

    Raises:
        InputError: a checksum does not match, or the file ends inside a record.
    """
    for number, (place, content) in enumerate(read_frames(path)):
        if content is None:
            raise InputError(f"{path}: record {number} (at byte {place}) is damaged. {_REWRITE}")
        yield content


# --- dataset.json ---------------------------------------------------------------------------------------

_REWRITE = "Run the Beam job again: it rewrites only what does not match dataset.json."
_WRITE_AGAIN = "Write the records again: the Beam job with --overwrite."


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


class Rejected(_Part):
    """One case that could not be used, at which stage, and why."""

    case_id: str
    stage: str
    reason: str
    hint: str


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
    found: dict[str, dict[str, float]] = {}
    for shard in shards:
        for row in shard.cases:
            total = found.setdefault(row.case_id, dict.fromkeys(STAGES, 0.0))
            for stage, seconds in row.seconds.items():
                total[stage] += seconds
    return found


class Batch(_Part):
    """Cases that were given together: the first, or what `--add` added later. Each has shards of its own.

    Attributes:
        cases: split -> sorted ids, rejected ones too.
        bytes_per_case: what the number of its shards was worked out from.
    """

    cases: dict[str, tuple[str, ...]]
    bytes_per_case: float


def sha256_of_split(cases: Mapping[str, Sequence[str]]) -> str:
    """What records, runs and models know a split by; `cases`: split -> sorted ids, for each of `SPLITS`."""
    return hashlib.sha256(json.dumps(cases, sort_keys=True).encode()).hexdigest()


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

    def shards_of(self, split: str, region: str = "") -> list[Shard]:
        """The shards of a split; where each region has its own, those of `region`, or of all."""
        of_split = [shard for shard in self.shards if shard.split == split]
        return [shard for shard in of_split if not region or shard.region in ("", region)]

    def count(self, split: str, region: str = "") -> int:
        """Examples in `shards_of`."""
        return sum(shard.examples for shard in self.shards_of(split, region))


def field_descriptions(schema: Sequence[Field]) -> dict[str, str]:
    return {field.name: f"{field.dtype} {list(field.shape)}" for field in schema}


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
        raise InputError(f"{error} {_WRITE_AGAIN}") from error
    if not isinstance(content, dict) or "shards" not in content:
        raise InputError(
            f"{path}: not the manifest of a record set. Point to the folder that the Beam job wrote."
        )
    if content.get("format") != FORMAT:
        raise InputError(
            f"{path}: records of format {content.get('format')}; this version reads {FORMAT}. {_WRITE_AGAIN}"
        )
    try:
        return Manifest.model_validate(content)
    except pydantic.ValidationError as error:
        raise InputError(f"{path}: damaged ({error.error_count()} faults). {_WRITE_AGAIN}") from error


def check_identity(manifest: Manifest, config: Config, folder: str | os.PathLike) -> None:
    """Raises InputError unless the records were written with this config's record settings."""
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
    found = differences(config.records_identity(), manifest.identity)
    if found:
        raise InputError(
            f"{folder}: these records were written with another configuration:\n  "
            + "\n  ".join(found)
            + "\nUse the config they were written with, or write them again into another folder."
        )


def check_shard(folder: str | os.PathLike, shard: Shard, content: bool = True) -> str | None:
    """What is wrong with a shard on disk, as a sentence, or None. `content`: checksum too, not size alone."""
    path = files.join(folder, shard.file)
    if not files.exists(path):
        return f"{path}: missing. {_REWRITE}"
    if files.size(path) != shard.bytes:
        return f"{path}: {files.size(path)} bytes; dataset.json says {shard.bytes}. {_REWRITE}"
    if content and file_crc32c(path) != shard.crc32c:
        return f"{path}: damaged: its checksum is not the one in dataset.json. {_REWRITE}"
    return None


def file_crc32c(path: str | os.PathLike) -> str:
    checksum = google_crc32c.Checksum()
    for piece in files.read_chunks(path):
        checksum.update(piece)
    return checksum.hexdigest().decode()
