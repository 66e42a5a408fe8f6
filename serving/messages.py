"""The messages of TensorFlow Serving's Predict call, without TensorFlow.

On the wire a message is its field numbers alone, so these private ones talk to the real server. They live
in a pool of their own: nothing here collides with `tensorflow_serving` in one process. TensorFlow's own
would cost 5 s and 530 MB to import. Knows plain numbers and strings; no complex or quantised types.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tfbrats.machine import protobuf

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
SIGNATURES = "signature_def"  # the one thing that METADATA tells

# As `protobuf.Table` explains. From:
# tensorflow/core/framework/{tensor,tensor_shape}.proto, tensorflow/core/protobuf/meta_graph.proto,
# tensorflow_serving/apis/{model,predict,get_model_metadata}.proto, google/protobuf/any.proto
FIELDS = {
    "Int64Value": {"value": (1, "int64")},
    "Dim": {"size": (1, "int64"), "name": (2, "string")},
    "TensorShape": {"dim": (2, "[Dim]"), "unknown_rank": (3, "bool")},
    "Tensor": {
        "dtype": (1, "int32"),  # an enum in TensorFlow; the same bytes
        "tensor_shape": (2, "TensorShape"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "[float]"),
        "double_val": (6, "[double]"),
        "int_val": (7, "[int32]"),
        "string_val": (8, "[bytes]"),
        "int64_val": (10, "[int64]"),
        "bool_val": (11, "[bool]"),
        "half_val": (13, "[int32]"),
        "uint32_val": (16, "[uint32]"),
        "uint64_val": (17, "[uint64]"),
    },
    "ModelSpec": {
        "name": (1, "string"),
        "version": (2, "Int64Value"),
        "signature_name": (3, "string"),
        "version_label": (4, "string"),
    },
    "PredictRequest": {
        "model_spec": (1, "ModelSpec"),
        "inputs": (2, "{Tensor}"),
        "output_filter": (3, "[string]"),
    },
    "PredictResponse": {"outputs": (1, "{Tensor}"), "model_spec": (2, "ModelSpec")},
    "TensorInfo": {"name": (1, "string"), "dtype": (2, "int32"), "tensor_shape": (3, "TensorShape")},
    "Signature": {"inputs": (1, "{TensorInfo}"), "outputs": (2, "{TensorInfo}")},
    "Signatures": {"signature_def": (1, "{Signature}")},
    "Any": {"type_url": (1, "string"), "value": (2, "bytes")},
    "MetadataRequest": {"model_spec": (1, "ModelSpec"), "metadata_field": (2, "[string]")},
    "MetadataResponse": {"model_spec": (1, "ModelSpec"), "metadata": (2, "{Any}")},
}


_MESSAGES = protobuf.message_classes("tfbrats.wire", FIELDS)
Tensor = _MESSAGES["Tensor"]
ModelSpec = _MESSAGES["ModelSpec"]
PredictRequest = _MESSAGES["PredictRequest"]
PredictResponse = _MESSAGES["PredictResponse"]
MetadataRequest = _MESSAGES["MetadataRequest"]
MetadataResponse = _MESSAGES["MetadataResponse"]
Signatures = _MESSAGES["Signatures"]

_STRING = 7
_MOST_FILLED = 2**27  # values, of a tensor that claims more than it sends: four to a voxel of the largest case
# DataType of tensorflow/core/framework/types.proto -> numpy type, field that holds it value by value
_TYPES = {
    1: (np.dtype("<f4"), "float_val"),
    2: (np.dtype("<f8"), "double_val"),
    3: (np.dtype("<i4"), "int_val"),
    4: (np.dtype("u1"), "int_val"),
    5: (np.dtype("<i2"), "int_val"),
    6: (np.dtype("i1"), "int_val"),
    9: (np.dtype("<i8"), "int64_val"),
    10: (np.dtype("?"), "bool_val"),
    17: (np.dtype("<u2"), "int_val"),
    19: (np.dtype("<f2"), "half_val"),
    22: (np.dtype("<u4"), "uint32_val"),
    23: (np.dtype("<u8"), "uint64_val"),
}
_NUMBER_OF_TYPE = {dtype: number for number, (dtype, _) in _TYPES.items()}


def predict_request(model_spec, signature: str, inputs: Mapping, outputs: Sequence[str]):
    """A PredictRequest: arrays or text by the inputs' names, and which outputs are wanted."""
    request = PredictRequest(model_spec=model_spec, output_filter=outputs)
    request.model_spec.signature_name = signature
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(to_tensor(array))
    return request


def to_tensor(array: np.ndarray | str | bytes):
    """An array of numbers or of bytes objects, or one string, as a `Tensor` message; numbers as their bytes.

    Raises:
        ValueError: a dtype that is not among `_TYPES`.
    """
    if isinstance(array, str | bytes):
        content = array.encode() if isinstance(array, str) else array
        return Tensor(dtype=_STRING, tensor_shape={}, string_val=[content])
    if array.dtype == object:
        shape = {"dim": [{"size": size} for size in array.shape]}
        return Tensor(dtype=_STRING, tensor_shape=shape, string_val=array.ravel().tolist())
    number = _NUMBER_OF_TYPE.get(array.dtype.newbyteorder("<"))
    if number is None:
        known = ", ".join(str(dtype) for dtype in _NUMBER_OF_TYPE)
        raise ValueError(f"dtype {array.dtype} cannot be sent; expected one of {known}.")
    little = np.ascontiguousarray(array, _TYPES[number][0])
    return Tensor(
        dtype=number,
        tensor_shape={"dim": [{"size": size} for size in array.shape]},
        tensor_content=little.tobytes(),
    )


def type_of(number: int) -> str:
    """A DataType's name, e.g. "int16"."""
    if number == _STRING:
        return "string"
    return _TYPES[number][0].name if number in _TYPES else f"type {number}"


def to_array(tensor) -> np.ndarray:
    """A `Tensor` message as an array: from its bytes, or value by value, whichever the server chose.

    Strings come as an object array of bytes. Fewer values than the shape holds mean that the last one
    stands for the rest (none: zeros), as in TensorFlow.

    Raises:
        ValueError: an unknown dtype, a value beyond it, or what is there does not fill the shape.
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    count = math.prod(shape)
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {shape} has a side below 0.")
    if tensor.dtype == _STRING:
        read = np.empty(len(tensor.string_val), object)
        read[:] = list(tensor.string_val)
        fill = b""
    elif tensor.dtype not in _TYPES:
        raise ValueError(f"dtype number {tensor.dtype} is not understood.")
    else:
        dtype, field = _TYPES[tensor.dtype]
        if tensor.tensor_content:
            if len(tensor.tensor_content) != count * dtype.itemsize:
                raise ValueError(f"{len(tensor.tensor_content)} bytes for shape {shape} of {dtype}.")
            return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
        values = getattr(tensor, field)
        bits = np.dtype("<u2") if field == "half_val" else dtype  # a half travels as its bits
        try:
            read = np.fromiter(values, bits, len(values)).view(dtype)
        except OverflowError as error:
            raise ValueError(f"a value of {field} is none of {dtype}.") from error
        fill = dtype.type(0)
    if len(read) > count:
        raise ValueError(f"{len(read)} values for shape {shape}.")
    if len(read) + _MOST_FILLED < count:
        raise ValueError(f"{len(read)} values for shape {shape}, which would be filled up.")
    if len(read) < count:
        last = read[-1] if len(read) else fill
        read = np.concatenate([read, np.full(count - len(read), last, read.dtype)])
    return read.reshape(shape)
