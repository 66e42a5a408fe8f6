"""What an example holds: written once, for the writer and for the reader.

The schema builds a light encoder, so that Beam's workers import no TensorFlow, and the reader's parser.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from tfbrats.errors import InputError
from tfbrats.machine import protobuf


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
    Field("region", "uint8", (-1, -1)),  # [h, w] labels.LwsRegion
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


# tf.train.Example: tensorflow/core/example/{example,feature}.proto
_EXAMPLE = {
    "BytesList": {"value": (1, "[bytes]")},
    "FloatList": {"value": (1, "[float]")},
    "Int64List": {"value": (1, "[int64]")},
    "Feature": {
        "bytes_list": (1, "BytesList", "kind"),
        "float_list": (2, "FloatList", "kind"),
        "int64_list": (3, "Int64List", "kind"),
    },
    "Features": {"feature": (1, "{Feature}")},
    "Example": {"features": (1, "Features")},
}
_Example = protobuf.message_classes("tfbrats.example", _EXAMPLE)["Example"]


def encode(schema: Sequence[Field], example: Mapping[str, Any]) -> bytes:
    """One example as a serialised tf.train.Example; the same example is the same bytes.

    Raises:
        ValueError: an entry is missing, or of another type or shape than the schema says.
    """
    missing = [field.name for field in schema if field.name not in example]
    if missing:
        raise ValueError(f"expected {[field.name for field in schema]}; {missing} not there")
    features: dict[str, list[Any]] = {}  # name -> tf.train.Feature, as pieces of its bytes
    for field in schema:
        value = example[field.name]
        if field.dtype == "string":
            features[field.name] = _bytes_feature(value.encode())
        elif not field.is_array:
            features[field.name] = _int64_feature([int(value)])
        else:
            fits = len(value.shape) == len(field.shape) and all(
                want in (-1, size) for want, size in zip(field.shape, value.shape, strict=True)
            )
            if value.dtype != field.dtype or not fits:
                raise ValueError(
                    f"{field.name}: expected {field.dtype} {field.shape}, received {value.dtype} {value.shape}"
                )
            # flat: of an array without voxels there is no memoryview of several axes
            features[field.name] = _bytes_feature(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
            features[field.shape_name] = _int64_feature(value.shape)
    entries: list[Any] = []
    for name in sorted(features, key=lambda name: name + "~"):  # "image/shape" before "image", as protobuf
        entries += _message(1, [*_message(1, [name.encode()]), *_message(2, features[name])])
    return b"".join(_message(1, entries))


# Protobuf's own encoder copies an array three times on its way; a test holds these bytes equal to its.


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; a negative number as 64 bits."""
    number &= 2**64 - 1
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _message(field: int, pieces: Sequence[Any]) -> list[Any]:
    """A field that holds a message, a string or bytes: its tag, its length, then the pieces as they are."""
    return [_varint(field << 3 | 2) + _varint(sum(map(len, pieces))), *pieces]


def _bytes_feature(value: Any) -> list[Any]:
    return _message(1, _message(1, [value]))


def _int64_feature(values: Sequence[int]) -> list[Any]:
    packed = b"".join(map(_varint, map(int, values)))
    return _message(3, _message(1, [packed]) if packed else [])


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


def field_descriptions(schema: Sequence[Field]) -> dict[str, str]:
    return {field.name: f"{field.dtype} {list(field.shape)}" for field in schema}
