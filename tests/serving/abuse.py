"""What a stranger may send to a model server: requests by kind, drawn at random from a seed.

`KINDS` says for each how many there are and in which statuses such a request may end. They are meant for a
server that serves tests/tiny_model.py as `tiny`. None is large: whoever floods a line needs no model server.
"""

import dataclasses
import functools
import gzip
import struct
from collections.abc import Callable, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from tfbrats.labels import MODALITIES
from tfbrats.machine import packing

OK, INVALID, NOT_FOUND = grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
NO_SIGNATURE, NO_METHOD = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED
CORRUPT, TOO_MUCH = grpc.StatusCode.DATA_LOSS, grpc.StatusCode.RESOURCE_EXHAUSTED

SERVICE = "/tensorflow.serving.PredictionService/"
PREDICT, METADATA = SERVICE + "Predict", SERVICE + "GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
SHAPE = (6, 5, 4)

_FLOAT, _STRING, _INT16 = (tf.dtypes.as_dtype(n).as_datatype_enum for n in ("float32", "string", "int16"))
_VALUES = ("float_val", "double_val", "int_val", "string_val", "int64_val", "bool_val", "half_val")
# Signature -> what each of its inputs is made of.
_WHOLE = {
    **{"serving_default": _FLOAT, "int16": _INT16, "any_axes_int16": _INT16, "cases_int16": _INT16},
    "gzip_int16": _STRING,
}
Random = np.random.Generator


@dataclasses.dataclass(frozen=True)
class Call:
    path: str
    content: bytes
    metadata: tuple = ()


def predict(inputs, signature="int16", outputs=(), **spec) -> Call:
    request = predict_pb2.PredictRequest(
        model_spec={"name": "tiny", "signature_name": signature, **spec}, inputs=inputs, output_filter=outputs
    )
    return Call(PREDICT, request.SerializeToString(deterministic=True))


def tensor(dtype: int, sides: Sequence[int], **values) -> tensor_pb2.TensorProto:
    return tensor_pb2.TensorProto(
        dtype=dtype, tensor_shape={"dim": [{"size": int(side)} for side in sides]}, **values
    )


def images(random: Random, shape=SHAPE) -> dict[str, np.ndarray]:
    """A case that the tiny model takes."""
    return {name: random.integers(0, 1500, shape, np.int16) for name in MODALITIES}


def inputs(arrays: Mapping[str, np.ndarray], signature: str = "int16") -> dict[str, tensor_pb2.TensorProto]:
    """A case as a signature's inputs."""
    if signature == "gzip_int16":
        packed = {name: tf.make_tensor_proto(packing.packed(array)) for name, array in arrays.items()}
        return {**packed, "plane": tf.make_tensor_proto(np.array(arrays["t1"].shape[:2], np.int32))}
    if signature == "any_axes_int16":
        return {**inputs(arrays), "axes": tf.make_tensor_proto("LPS")}
    if signature == "cases_int16":
        arrays = {name: array[None] for name, array in arrays.items()}
    if signature == "serving_default":
        arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    return {name: tf.make_tensor_proto(array) for name, array in arrays.items()}


def _one_of(random: Random, choices: Sequence):
    return choices[int(random.integers(len(choices)))]


def _text(random: Random, most: int = 40) -> str:
    """Any characters that UTF-8 has but surrogates; now and then very many."""
    length = int(random.integers(1, most)) * (1 if random.random() < 0.95 else 2000)
    last = _one_of(random, (0x7F, 0xFF, 0xD7FF, 0x10FFFF))
    points = random.integers(0, last, length)
    return "".join(map(chr, points[(points < 0xD800) | (points > 0xDFFF)])) or "x"


# --- names ----------------------------------------------------------------------------------------------


def _odd_name(random: Random, near: str) -> str:
    """A name that is not `near`."""
    tricks = (
        *("", ".", "..", "/", "../" + near, near + "/", near + "/1", f"./{near}", f"{near}/../{near}", "//"),
        *("/etc/passwd", "../../../../etc/passwd", "C:\\", "file:///etc/passwd", "gs://bucket/" + near),
        *(near.upper(), near + " ", " " + near, near + "\0", near + "\n", near[:-1], near * 2, "%s%n", "*"),
        *("' OR 1=1 --", "{{7*7}}", "${jndi:ldap://x}", "\u202e" + near, near + "\u0301", "-1", "0", "1"),
    )
    name = _one_of(random, tricks) if random.random() < 0.5 else _text(random)
    return name if name != near else name + "?"


def names_of_models(random: Random) -> Call:
    spec = {"name": _odd_name(random, "tiny")}
    metadata = get_model_metadata_pb2.GetModelMetadataRequest
    return _one_of(
        random,
        (
            predict(inputs(images(random)), **spec),
            Call(METADATA, metadata(model_spec=spec, metadata_field=["signature_def"]).SerializeToString()),
            Call(STATUS, get_model_status_pb2.GetModelStatusRequest(model_spec=spec).SerializeToString()),
        ),
    )


def versions_and_labels(random: Random) -> Call:
    if random.random() < 0.5:
        return predict(inputs(images(random)), version_label=_odd_name(random, "stable"))
    near = (-1, 0, 2, 2**31, 2**63 - 1, -(2**63))
    version = _one_of(random, near) if random.random() < 0.5 else int(random.integers(2, 2**62))
    return predict(inputs(images(random)), version={"value": version})


def names_of_signatures(random: Random) -> Call:
    signature = _odd_name(random, "int16") or "none"  # without a name it is serving_default
    return predict(inputs(images(random)), signature)


def names_of_inputs(random: Random) -> Call:
    signature = _one_of(random, list(_WHOLE))
    sent = inputs(images(random), signature)
    name = _one_of(random, list(sent))
    taken = sent.pop(name)
    for _ in range(int(random.integers(0, 4))):
        sent[_odd_name(random, name)] = taken
    return predict(sent, signature)


def axes(random: Random) -> Call:
    sent = inputs(images(random), "any_axes_int16")
    return predict({**sent, "axes": tf.make_tensor_proto(_odd_name(random, "RAS"))}, "any_axes_int16")


def names_of_outputs(random: Random) -> Call:
    known = ("segmentation", "probabilities")
    wanted = [_one_of(random, known) for _ in range(int(random.integers(0, 3)))]
    if len(set(wanted)) == len(wanted):
        wanted.append(_odd_name(random, "segmentation"))
    if random.random() < 0.05:
        wanted = [name[:20] for name in wanted] * 20_000
    return predict(inputs(images(random)), outputs=wanted)


def fields_of_metadata(random: Random) -> Call:
    fields = [_odd_name(random, "signature_def") for _ in range(int(random.integers(0, 3)))]
    request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec={"name": "tiny"}, metadata_field=fields)
    return Call(METADATA, request.SerializeToString())


def methods(random: Random) -> Call:
    known = ("Classify", "Regress", "MultiInference", "HandleReloadConfigRequest", "predict", "Predict/", "..")
    name = _one_of(random, known) if random.random() < 0.5 else random.bytes(8).hex()
    service = _one_of(random, (SERVICE, "/tensorflow.serving.SessionService/", "/grpc.health.v1.Health/", "//"))
    return Call(service + name, b"")


# --- tensors --------------------------------------------------------------------------------------------


def _with_one(random: Random, change: Callable) -> Call:
    """A good request of which `change` makes one modality's tensor another."""
    signature = _one_of(random, list(_WHOLE))
    sent = inputs(images(random), signature)
    name = _one_of(random, MODALITIES)
    sent[name] = change(random, sent[name])
    return predict(sent, signature)


def types(random: Random) -> Call:
    def change(random, one):
        numbers = [number for number in (*range(-2, 130), 999, 2**31 - 1, -(2**31)) if number != one.dtype]
        one.dtype = _one_of(random, numbers)
        return one

    return _with_one(random, change)


def shapes(random: Random) -> Call:
    def change(random, one):
        sides = [dim.size for dim in one.tensor_shape.dim]
        what = int(random.integers(5))
        if what == 0:
            return tensor(one.dtype, random.integers(1, 4, _one_of(random, (0, 5, 6, 300))))
        if what == 1:
            sides[int(random.integers(len(sides)))] = -int(random.integers(1, 2**62))
            return tensor(one.dtype, sides)
        if what == 2:
            one.tensor_shape.unknown_rank = True
            return one
        if what == 3 and one.tensor_content:
            cut = one.tensor_content[: -int(random.integers(1, 9))]
            one.tensor_content = _one_of(random, (cut, one.tensor_content + random.bytes(3)))
            return one
        return tensor(one.dtype, [side + int(random.integers(1, 4)) for side in sides])

    return _with_one(random, change)


def claims(random: Random) -> Call:
    """A few bytes that say they are gigabytes."""

    def change(random, one):
        rank = len(one.tensor_shape.dim)
        bits = _one_of(random, (31, 32, 33, 40, 62, 64, 96)) + 1
        cuts = np.sort(random.integers(0, bits + 1, rank - 1))
        powers = np.diff([0, *cuts, bits])
        one = tensor(one.dtype, [2 ** min(int(power), 62) for power in powers])
        field = {_FLOAT: "float_val", _INT16: "int_val", _STRING: "string_val"}[one.dtype]
        some = {"string_val": [gzip.compress(b"12")], "int_val": [1], "float_val": [1.0]}[field]
        what = int(random.integers(4))
        if what == 0:
            getattr(one, field).extend(some)
        elif what == 1:
            getattr(one, field).extend(some * 100)
        elif what == 2:
            one.tensor_content = random.bytes(64)
        return one

    return _with_one(random, change)


def odd_numbers(random: Random) -> Call:
    odd = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0, 0, 1], np.float32)
    arrays = images(random)
    for name in random.choice(MODALITIES, int(random.integers(1, 5)), replace=False):
        arrays[name] = random.choice(odd, SHAPE)
    return predict(inputs(arrays, "serving_default"), "serving_default")


def empty(random: Random) -> Call:
    signature = _one_of(random, list(_WHOLE))
    sent = inputs(images(random), signature)
    if signature == "gzip_int16":
        plane = random.integers(0, 2, 2)
        packed = {name: tensor(_STRING, [0]) for name in MODALITIES}
        return predict({**packed, "plane": tf.make_tensor_proto(plane.astype(np.int32))}, signature)
    rank = len(sent["t1"].tensor_shape.dim)
    sides = random.integers(0, 3, rank) * random.integers(0, 2, rank)
    nothing = {name: tensor(one.dtype, sides) for name, one in sent.items() if name in MODALITIES}
    return predict({**sent, **nothing}, signature)


def mixed_encodings(random: Random) -> Call:
    """Values where bytes are, too many, too few, of other types, beyond the type."""

    def change(random, one):
        if random.random() < 0.5:
            one.ClearField("tensor_content")
            one.ClearField("string_val")
        for field in random.choice(_VALUES, int(random.integers(1, 4)), replace=False):
            count = _one_of(random, (1, 3, np.prod(SHAPE) - 1, np.prod(SHAPE), np.prod(SHAPE) + 1, 3000))
            values = {
                "string_val": lambda count: [random.bytes(3)] * count,
                "bool_val": lambda count: [True] * count,
                "float_val": lambda count: random.normal(size=count) * 1e30,
                "double_val": lambda count: random.normal(size=count) * 1e300,
                "int64_val": lambda count: random.integers(-(2**63), 2**63 - 1, count),
            }.get(field, lambda count: random.integers(-(2**31), 2**31, count))
            getattr(one, field).extend(values(int(count)))
        return one

    return _with_one(random, change)


# --- compressed slices ----------------------------------------------------------------------------------


def _with_one_slice(random: Random, change: Callable[[Random, bytes], bytes]) -> Call:
    sent = inputs(images(random), "gzip_int16")
    slices = sent[_one_of(random, MODALITIES)].string_val
    place = int(random.integers(len(slices)))
    slices[place] = change(random, slices[place])
    return predict(sent, "gzip_int16")


def no_gzip(random: Random) -> Call:
    def change(random, content):
        magic = _one_of(random, (b"", content[:2], content[:10]))
        return magic + random.bytes(int(random.integers(0, 60)))

    return _with_one_slice(random, change)


def cut_gzip(random: Random) -> Call:
    return _with_one_slice(random, lambda random, content: content[: int(random.integers(len(content) - 8))])


def flipped_gzip(random: Random) -> Call:
    def change(random, content):
        place = int(random.integers(len(content)))
        bit = 1 << int(random.integers(8))
        return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]

    return _with_one_slice(random, change)


def planes(random: Random) -> Call:
    """Slices that are not as long as the plane says, are too many, or not equally many."""
    sent = inputs(images(random), "gzip_int16")
    what = int(random.integers(4))
    if what == 0:
        plane = random.integers(-(2**31), 2**31, 2)
    elif what == 1:
        plane = np.array(SHAPE[:2]) + _one_of(random, ([0, 1], [1, 0], [-1, 0], [510, 0], [2**16, 2**16]))
    else:
        plane = np.array(SHAPE[:2])
        name = _one_of(random, MODALITIES)
        count = _one_of(random, (1, SHAPE[2] - 1, SHAPE[2] + 1, 600))
        content = [sent[name].string_val[0]] * (1 if what == 2 else count)
        sent[name] = tensor(_STRING, [count], string_val=content)
    sent["plane"] = tf.make_tensor_proto(plane.astype(np.int32))
    return predict(sent, "gzip_int16")


@functools.cache
def bomb(plane_bytes: int) -> bytes:
    """As much as can be packed into no more than a slice of so many bytes may take.

    It says of itself that it is as long as the slice.
    """
    most = plane_bytes + packing.OVERHEAD_BYTES
    content = gzip.compress(bytes(1000 * most), 9)
    if len(content) > most:
        raise ValueError(f"{len(content)} bytes, above {most}: it would be refused for its length.")
    return content[:-4] + struct.pack("<I", plane_bytes)


def bombs(random: Random) -> Call:
    plane = (64, 64)
    size = 2 * plane[0] * plane[1]
    good = packing.packed(np.zeros((*plane, 1), np.int16))[0]
    sent = {}
    for name in MODALITIES:
        slices = [bomb(size) if random.random() < 0.5 else good for _ in range(16)]
        sent[name] = tensor(_STRING, [16], string_val=slices)
    sent["plane"] = tf.make_tensor_proto(np.array(plane, np.int32))
    return predict(sent, "gzip_int16")


# --- messages -------------------------------------------------------------------------------------------


def _any_path(random: Random) -> str:
    return _one_of(random, (PREDICT, METADATA, STATUS))


def random_bytes(random: Random) -> Call:
    return Call(_any_path(random), random.bytes(int(random.integers(1, 400))))


def mangled(random: Random) -> Call:
    """A good request with bytes flipped, cut out, doubled or moved."""
    signature = _one_of(random, list(_WHOLE))
    content = bytearray(predict(inputs(images(random), signature), signature).content)
    for _ in range(int(random.integers(1, 3))):
        start, end = np.sort(random.integers(0, len(content), 2))
        what = int(random.integers(4))
        if what == 0:
            content[start] ^= int(random.integers(1, 256))
        elif what == 1:
            del content[start:end]
        elif what == 2:
            content[start:start] = content[start : min(end, start + 200)]
        else:
            content[start : start + 8] = random.bytes(8)
        if not content:
            break
    return Call(PREDICT, bytes(content))


def long_headers(random: Random) -> Call:
    value = random.bytes(int(random.integers(20_000, 60_000))).hex()
    return Call(PREDICT, predict(inputs(images(random))).content, (("x-long", value),))


@dataclasses.dataclass(frozen=True)
class Kind:
    """So many requests that `make` draws, each of which must end in one of the statuses."""

    make: Callable[[Random], Call]
    count: int
    ends_in: frozenset[grpc.StatusCode]


KINDS = {
    "path tricks as model names": Kind(names_of_models, 900, frozenset({NOT_FOUND, INVALID})),
    "versions and labels that are not there": Kind(versions_and_labels, 700, frozenset({NOT_FOUND, INVALID})),
    "signatures that are not there": Kind(names_of_signatures, 500, frozenset({NO_SIGNATURE})),
    "inputs missing, extra and misnamed": Kind(names_of_inputs, 800, frozenset({INVALID})),
    "axes that are none": Kind(axes, 300, frozenset({INVALID})),
    "outputs unknown, doubled, by the thousand": Kind(names_of_outputs, 500, frozenset({INVALID})),
    "metadata that nobody has": Kind(fields_of_metadata, 300, frozenset({INVALID})),
    "methods that are not there": Kind(methods, 300, frozenset({NO_METHOD})),
    "wrong types and numbers of no type": Kind(types, 900, frozenset({INVALID})),
    "wrong shapes, negative sides, no rank": Kind(shapes, 900, frozenset({INVALID})),
    "claims of 2 GiB and more": Kind(claims, 900, frozenset({INVALID})),
    "NaN, infinite and tiny numbers": Kind(odd_numbers, 300, frozenset({OK, INVALID})),
    "empty volumes": Kind(empty, 400, frozenset({OK, INVALID})),
    "mixed encodings": Kind(mixed_encodings, 800, frozenset({OK, INVALID, CORRUPT})),
    "no gzip at all": Kind(no_gzip, 400, frozenset({INVALID, CORRUPT})),
    "truncated gzip": Kind(cut_gzip, 400, frozenset({INVALID, CORRUPT})),
    "gzip with a bit flipped": Kind(flipped_gzip, 400, frozenset({OK, INVALID, CORRUPT})),
    "planes and slices that do not fit": Kind(planes, 300, frozenset({INVALID})),
    "gzip bombs": Kind(bombs, 20, frozenset({INVALID, CORRUPT})),
    "random bytes as messages": Kind(random_bytes, 900, frozenset({INVALID})),
    "good messages mangled": Kind(mangled, 900, frozenset({OK, INVALID, NOT_FOUND, NO_SIGNATURE, CORRUPT})),
    "headers of 40 kB and more": Kind(long_headers, 50, frozenset({TOO_MUCH})),
}
