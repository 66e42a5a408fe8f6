"""What a SavedModel offers, in one table: a `Signature` for each function that a server answers.

The same table builds the functions, what the model's card says of them, the requests that warm a server up, and
the calls that are compared with Keras' answers before a version gets its name.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfbrats.cases import nifti
from tfbrats.config import Config, PatchConfig
from tfbrats.graphs import packing_graph
from tfbrats.graphs.axes_graph import Turn
from tfbrats.graphs.pieces import bounded, each_of
from tfbrats.inference.cascade_segmenter import CascadeSegmenter
from tfbrats.inference.slice_segmenter import SliceSegmenter
from tfbrats.labels import REGIONS
from tfbrats.machine.packing import packed
from tfbrats.phantoms import simulation
from tfbrats.predictions import model_card

_VOLUME = ("I", "J", "K")
_ON_ONE_GRID = f", axes {''.join(nifti.AXES)}, one grid for all"

Segmenter = SliceSegmenter | CascadeSegmenter
Volumes = Mapping[str, np.ndarray]  # modality -> [I, J, K]


def networks_of(segmenter: Segmenter) -> dict[str, keras.Model]:
    """Region ("" where there is one network) -> a network that a case passes through."""
    return {"": segmenter.network} if isinstance(segmenter, SliceSegmenter) else dict(segmenter.networks)


class Weights(tf.Module):
    """What is saved: the bare variables, each once.

    Saving the Keras model itself gives a SavedModel that only TensorFlow's own loader can restore: its
    functions refer to variables by other names than its checkpoint does, and TensorFlow Serving, which runs
    it in a Session, finds them uninitialised.
    """

    def __init__(self, segmenter: Segmenter):
        super().__init__()
        variables = [variable for network in networks_of(segmenter).values() for variable in network.variables]
        self.weights = [variable.value for variable in variables]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of a signature.

    Attributes:
        axes: a letter for each that may have any length, a number for the others.
        note: what follows in the card, with the sign before it.
    """

    dtype: tf.DType
    axes: tuple[str | int, ...]
    note: str = ""

    @property
    def text(self) -> str:
        """E.g. "float32 [I, J, K, 3]: WT, TC, ET"."""
        return f"{self.dtype.name} [{', '.join(map(str, self.axes))}]{self.note}"

    def spec(self, name: str | None = None) -> tf.TensorSpec:
        lengths = [None if isinstance(axis, str) else axis for axis in self.axes]
        return tf.TensorSpec(lengths, self.dtype, name)


@dataclasses.dataclass(frozen=True)
class Signature:
    """One function that a SavedModel offers, and what is said and asked of it.

    Attributes:
        name: by which it is called.
        inputs: argument -> what it takes.
        outputs: name -> what it gives.
        function: the inputs by keyword, as tensors -> the outputs.
        example: a case's volumes of whole numbers -> the inputs by which this signature is sent that case; what
            takes no case gives inputs of its own.
        warm_up: a request for each, of these outputs; of all where it is empty.
        is_compared: whether it answers with a whole case's labels: they are compared with Keras' at export.
        is_bare: whether it is a network alone, without anything round it.
    """

    name: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    function: Callable[..., Mapping]
    example: Callable[[Volumes], Mapping[str, Any]]
    warm_up: Sequence[Sequence[str]] = ()
    is_compared: bool = False
    is_bare: bool = False

    def traced(self) -> Any:
        """The function as TensorFlow saves it; its inputs carry their names."""
        specs = {name: tensor.spec(name) for name, tensor in self.inputs.items()}
        return tf.function(self.function, autograph=False).get_concrete_function(**specs)

    def described(self) -> dict[str, dict[str, str]]:
        """What the card says of it."""
        return {
            "inputs": {name: tensor.text for name, tensor in self.inputs.items()},
            "outputs": {name: tensor.text for name, tensor in self.outputs.items()},
        }


def signatures_of(segmenter: Segmenter, config: Config, card_text: Callable[[], str]) -> tuple[Signature, ...]:
    """All that a model offers.

    Args:
        card_text: gives tfbrats.json's text. It is called when `describe` is traced, since the card itself
            tells of these signatures.
    """
    of_networks = _of_slices if isinstance(segmenter, SliceSegmenter) else _of_patches
    return (*_of_a_case(segmenter), *of_networks(segmenter, config), _describe(card_text))


def _of_a_case(segmenter: Segmenter) -> list[Signature]:
    """A whole case by modality name: as floats, as whole numbers, packed, of any axes, and several at once."""
    modalities = segmenter.modalities
    floats = Tensor(tf.float32, _VOLUME, _ON_ONE_GRID)
    # Traced once for all signatures.
    each = {name: floats.spec(name) for name in modalities}
    of_floats = tf.function(segmenter, input_signature=[each], autograph=False)

    def case(volumes: Mapping) -> dict:
        """The segmenter's answer to volumes of any type; refused, if at all, before they are made floats."""
        return of_floats({name: tf.cast(each, tf.float32) for name, each in bounded(volumes).items()})

    def packed_case(plane, **slices):
        volumes = {}
        for name in modalities:
            # One after the other: what is not what it says it is takes the room of a few slices, no more.
            with tf.control_dependencies(list(volumes.values())):
                volumes[name] = packing_graph.unpacked(slices[name], plane)
        return case(volumes)

    outputs = _outputs_of_a_case(segmenter)
    # Of several cases no probabilities come: one case has 107 MB of them.
    large = ("probabilities", model_card.ENTROPY)
    kept = {name: tensor for name, tensor in outputs.items() if name not in large}
    of_client = list(kept)

    def several_cases(**volumes):
        """One after the other."""
        return each_of(case, volumes, {name: tensor.spec() for name, tensor in kept.items()})

    # By keyword: what the caller names is what the signature is called by.
    one_case = functools.partial(
        Signature, outputs=outputs, function=lambda **volumes: case(volumes), is_compared=True
    )
    packed_slices = Tensor(tf.string, ("K",), ": each slice [I, J], int16, little-endian, as gzip")
    several = Tensor(tf.int16, ("N", *_VOLUME), f", N cases; each [{', '.join(_VOLUME)}]{_ON_ONE_GRID}")
    return [
        one_case(
            "serving_default",
            dict.fromkeys(modalities, floats),
            example=lambda volumes: _as(np.float32, volumes),
            warm_up=((), of_client),
        ),
        one_case(
            "int16",
            dict.fromkeys(modalities, dataclasses.replace(floats, dtype=tf.int16)),
            example=lambda volumes: _as(np.int16, volumes),
            warm_up=(of_client,),
        ),
        one_case(
            "gzip_int16",
            {**dict.fromkeys(modalities, packed_slices), "plane": Tensor(tf.int32, (2,), ": I, J")},
            function=packed_case,
            example=_packed_example,
            warm_up=(of_client,),
        ),
        _of_any_axes(modalities, case, outputs),
        one_case(
            "cases_int16",
            dict.fromkeys(modalities, several),
            outputs={n: dataclasses.replace(tensor, axes=("N", *tensor.axes)) for n, tensor in kept.items()},
            function=several_cases,
            example=lambda volumes: {name: np.stack([v, v]) for name, v in _as(np.int16, volumes).items()},
        ),
    ]


def _of_any_axes(modalities: Sequence[str], case: Callable, outputs: Mapping[str, Tensor]) -> Signature:
    """A whole case of axes that the caller names; the answer is on the caller's grid."""

    def turned_case(axes, **volumes):
        turn = Turn(axes)
        answer = case({name: turn.to_ours(each) for name, each in bounded(volumes).items()})
        return {name: turn.back(v) if outputs[name].axes[:3] == _VOLUME else v for name, v in answer.items()}

    volumes = dict.fromkeys(modalities, Tensor(tf.int16, _VOLUME, ", one grid for all"))
    axes = Tensor(tf.string, (), ": where I, J and K go, three letters, e.g. RAS")
    return Signature(
        "any_axes_int16",
        {**volumes, "axes": axes},
        outputs,
        turned_case,
        example=lambda volumes: {**_as(np.int16, volumes), "axes": "".join(nifti.AXES)},
        is_compared=True,
    )


def _outputs_of_a_case(segmenter: Segmenter) -> dict[str, Tensor]:
    regions = ", ".join(REGIONS)
    outputs = {
        "segmentation": Tensor(tf.uint8, _VOLUME, ", values as label_schema"),
        "probabilities": Tensor(tf.float32, (*_VOLUME, len(REGIONS)), f": {regions}"),
    }
    if segmenter.is_average:
        entropies = Tensor(tf.uint8, (*_VOLUME, len(REGIONS)), f": {regions}, in hundredths of a bit")
        outputs[model_card.ENTROPY] = entropies
    if isinstance(segmenter, CascadeSegmenter):
        outputs[model_card.TILES] = Tensor(tf.int32, (len(REGIONS),), f": tiles run for {regions}")
    return outputs


def _as(dtype: type, volumes: Volumes) -> dict[str, np.ndarray]:
    return {name: volume.astype(dtype) for name, volume in volumes.items()}


def _packed_example(volumes: Volumes) -> dict[str, np.ndarray]:
    plane = next(iter(volumes.values())).shape[:2]
    slices = {name: packed(volume) for name, volume in _as(np.int16, volumes).items()}
    return {**slices, "plane": np.array(plane, np.int32)}


def _of_slices(segmenter: SliceSegmenter, config: Config) -> list[Signature]:
    """The bare network of slices, for those who batch them themselves."""
    canvas = config.records.slice_shape
    image = Tensor(
        tf.float32, ("N", *canvas, len(segmenter.modalities)), ", z-scored, in the order of modalities"
    )
    outputs = {
        name: Tensor(tf.float32, ("N", *canvas, len(classes)), f": {', '.join(classes)}")
        for name, classes in segmenter.answer.classes.items()
    }
    return [_of_a_network("slices", "image", image, outputs, segmenter.slices)]


def _of_patches(segmenter: CascadeSegmenter, config: PatchConfig) -> list[Signature]:
    """The bare network of each region, for those who batch patches themselves."""
    size = (config.sampling.patch_size,) * 3
    scales = "x1" if config.scales == 1 else "x1, x0.5, x2, each"
    return [
        _of_a_network(
            f"patches_{region.lower()}",
            "patch",
            Tensor(
                tf.float32,
                ("N", *size, network.inputs[0].shape[-1]),
                f", z-scored; {scales} in the order of modalities",
            ),
            {"probabilities": Tensor(tf.float32, ("N", *size, 1), f": {region}")},
            functools.partial(segmenter.patches, region),
        )
        for region, network in segmenter.networks.items()
    ]


def _of_a_network(
    name: str, argument: str, tensor: Tensor, outputs: Mapping[str, Tensor], function: Callable
) -> Signature:
    return Signature(
        name,
        {argument: tensor},
        outputs,
        function=lambda **inputs: function(inputs[argument]),
        example=lambda _: {argument: np.zeros((1, *tensor.axes[1:]), np.float32)},
        warm_up=((),),
        is_bare=True,
    )


def _describe(card_text: Callable[[], str]) -> Signature:
    """The card over the wire, for clients without access to the server's disk."""

    @tf.autograph.experimental.do_not_convert  # the card is no graph; converting it fails with a warning
    def describe(file):
        is_card = tf.debugging.Assert(file == model_card.FILE, [f"only {model_card.FILE} is served, not", file])
        with tf.control_dependencies([is_card]):
            return {"content": tf.constant(card_text())}

    return Signature(
        "describe",
        {"file": Tensor(tf.string, (), f", {model_card.FILE}")},
        {"content": Tensor(tf.string, ())},
        describe,
        example=lambda _: {"file": model_card.FILE},
        warm_up=((),),
    )


def plane(config: Config) -> tuple[int, int]:
    """Voxels along i and j of the small volumes that try a model out."""
    if len(config.input_shape) == 2:
        return config.input_shape
    size, *_ = config.input_shape
    return max(size + 8, simulation.LEAST_SHAPE[0]), max(size, simulation.LEAST_SHAPE[1])  # two tiles


def warm_up_requests(
    signatures: Sequence[Signature], name: str, volumes: Volumes
) -> list[prediction_log_pb2.PredictionLog]:
    """Small requests that make the server build its kernels: of what a client asks first, then of the rest.

    A Session prepares the graph anew for each signature and each choice of outputs, which takes a second or
    two: here are the label map alone, as our client asks for it, and all of `serving_default`.

    Args:
        name: the model's.
        volumes: a few slices of "brain", all one value.
    """
    logs = []
    for signature in sorted(signatures, key=lambda one: one.is_bare):
        tensors = {argument: _message(value) for argument, value in signature.example(volumes).items()}
        for output_filter in signature.warm_up:
            request = predict_pb2.PredictRequest(output_filter=output_filter)
            request.model_spec.name = name
            request.model_spec.signature_name = signature.name
            for argument, tensor in tensors.items():
                request.inputs[argument].CopyFrom(tensor)
            logs.append(
                prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            )
    return logs


def _message(value: np.ndarray | str) -> Any:
    """A tensor as it travels; a volume or patch of one value as that value and a shape, which is small."""
    if isinstance(value, np.ndarray) and value.ndim >= 3 and np.all(value == value.flat[0]):
        return tf.make_tensor_proto(value.flat[0], value.dtype, value.shape)
    return tf.make_tensor_proto(value)
