"""What a SavedModel offers: its signatures, what its card says of them, and the requests that warm it up."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfbrats.cases.packing import packed
from tfbrats.config import Config, PatchConfig
from tfbrats.inference import packing_graph
from tfbrats.inference.cascade_segmenter import CascadeSegmenter
from tfbrats.inference.pieces import bounded, each_of
from tfbrats.inference.slice_segmenter import CaseSegmenter
from tfbrats.labels import REGIONS
from tfbrats.phantoms import simulation
from tfbrats.predictions import model_card
from tfbrats.predictions.model_card import ModelCard

WARM_UP = "assets.extra/tf_serving_warmup_requests"


Segmenter = CaseSegmenter | CascadeSegmenter


class Weights(tf.Module):
    """What is saved: the bare variables, each once.

    Saving the Keras model itself gives a SavedModel that only TensorFlow's own loader can restore: its
    functions refer to variables by other names than its checkpoint does, and TensorFlow Serving, which runs
    it in a Session, finds them uninitialised.
    """

    def __init__(self, segmenter: Segmenter):
        super().__init__()
        networks = [segmenter.network] if isinstance(segmenter, CaseSegmenter) else segmenter.networks.values()
        self.weights = [variable.value for network in networks for variable in network.variables]


@dataclasses.dataclass(frozen=True)
class NetworkSignature:
    """The bare network behind a signature, for those who batch slices or patches themselves."""

    name: str
    function: Callable
    argument: str
    shape: tuple[int, ...]  # of one example
    channels: str
    outputs: Mapping[str, str]  # name -> what it is

    @property
    def spec(self) -> tf.TensorSpec:
        return tf.TensorSpec([None, *self.shape], tf.float32, self.argument)


def network_signatures(segmenter: Segmenter, config: Config) -> list[NetworkSignature]:
    if isinstance(segmenter, CaseSegmenter):
        canvas = ", ".join(map(str, config.records.slice_shape))
        outputs = {
            name: f"float32 [N, {canvas}, {len(classes)}]: {', '.join(classes)}"
            for name, classes in segmenter.answer.classes.items()
        }
        shape = (*config.records.slice_shape, len(segmenter.modalities))
        channels = "z-scored, in the order of modalities"
        return [NetworkSignature("slices", segmenter.slices, "image", shape, channels, outputs)]
    size = config.sampling.patch_size
    return [
        NetworkSignature(
            f"patches_{region.lower()}",
            functools.partial(segmenter.patches, region),
            "patch",
            (size, size, size, network.inputs[0].shape[-1]),
            "z-scored; "
            + ("x1" if config.scales == 1 else "x1, x0.5, x2, each")
            + " in the order of modalities",
            {"probabilities": f"float32 [N, {size}, {size}, {size}, 1]: {region}"},
        )
        for region, network in segmenter.networks.items()
    ]


class Signatures:
    """The functions that a server offers, over a segmenter's variables."""

    def __init__(self, segmenter: Segmenter, networks: Sequence[NetworkSignature], card_text: str):
        self._segmenter, self._networks, self._card_text = segmenter, networks, card_text
        # Traced once for all signatures.
        specs = {m: tf.TensorSpec([None] * 3, tf.float32, m) for m in segmenter.modalities}
        self._of_floats = tf.function(segmenter, input_signature=[specs])

    def _case(self, volumes: Mapping) -> dict:
        """What the segmenter makes of volumes of any type; refused, if at all, before they are made floats."""
        return self._of_floats({name: tf.cast(each, tf.float32) for name, each in bounded(volumes).items()})

    def by_name(self) -> dict:
        """Signature name -> function whose inputs carry their names."""

        def whole_case(dtype):
            # By keyword: what the caller names is what the signature is called by.
            function = tf.function(lambda **volumes: self._case(volumes))
            specs = {m: tf.TensorSpec([None, None, None], dtype, m) for m in self._segmenter.modalities}
            return function.get_concrete_function(**specs)

        def network(signature: NetworkSignature):
            function = tf.function(lambda **inputs: signature.function(inputs[signature.argument]))
            return function.get_concrete_function(**{signature.argument: signature.spec})

        return {
            "serving_default": whole_case(tf.float32),
            "int16": whole_case(tf.int16),
            "gzip_int16": self._packed_case(),
            "cases_int16": self._several_cases(),
            **{signature.name: network(signature) for signature in self._networks},
            "describe": tf.function(self._describe).get_concrete_function(
                file=tf.TensorSpec([], tf.string, "file")
            ),
        }

    def _packed_case(self):
        modalities = self._segmenter.modalities

        def function(plane, **slices):
            volumes = {}
            for name in modalities:
                # One after the other: what is not what it says it is takes the room of a few slices, no more.
                with tf.control_dependencies(list(volumes.values())):
                    volumes[name] = packing_graph.unpacked(slices[name], plane)
            return self._case(volumes)

        specs = {m: tf.TensorSpec([None], tf.string, m) for m in modalities}
        return tf.function(function).get_concrete_function(plane=tf.TensorSpec([2], tf.int32, "plane"), **specs)

    def _several_cases(self):
        """One after the other; without probabilities, of which a case has 107 MB."""
        outputs = {"segmentation": tf.TensorSpec([None] * 3, tf.uint8)}
        if isinstance(self._segmenter, CascadeSegmenter):
            outputs[model_card.TILES] = tf.TensorSpec([len(REGIONS)], tf.int32)

        def function(**volumes):
            return each_of(self._case, volumes, outputs)

        specs = {m: tf.TensorSpec([None] * 4, tf.int16, m) for m in self._segmenter.modalities}
        return tf.function(function).get_concrete_function(**specs)

    def _describe(self, file):
        known = tf.debugging.Assert(file == model_card.FILE, [f"only {model_card.FILE} is served, not", file])
        with tf.control_dependencies([known]):
            return {"content": tf.constant(self._card_text)}


def plane(config: Config) -> tuple[int, int]:
    """Voxels along i and j of the small volumes that try a model out."""
    if isinstance(config, PatchConfig):
        size = config.sampling.patch_size
        return max(size + 8, simulation.LEAST_SHAPE[0]), max(size, simulation.LEAST_SHAPE[1])  # two tiles
    return config.records.slice_shape


def warm_up_requests(
    card: ModelCard, networks: Sequence[NetworkSignature], plane: Sequence[int]
) -> list[prediction_log_pb2.PredictionLog]:
    """Small requests that make the server build its kernels: a few slices of "brain", all one value.

    A Session prepares the graph anew for each signature and each choice of outputs, which takes a second or
    two: here are the label map alone, as our client asks for it, and all of `serving_default`.
    """
    shape = (*plane, 8)
    floats = dict.fromkeys(card.modalities, tf.make_tensor_proto(1.0, shape=shape))
    whole = dict.fromkeys(card.modalities, tf.make_tensor_proto(1, tf.int16, shape))
    slices = dict.fromkeys(card.modalities, tf.make_tensor_proto(packed(np.ones(shape, np.int16))))
    slices["plane"] = tf.make_tensor_proto(plane, tf.int32)
    inputs: list[tuple[str, Mapping, list[str]]] = [
        ("serving_default", floats, []),
        ("serving_default", floats, model_card.outputs(card, "serving_default")),
        ("int16", whole, model_card.outputs(card, "int16")),
        ("gzip_int16", slices, model_card.outputs(card, "gzip_int16")),
        ("describe", {"file": tf.make_tensor_proto(model_card.FILE)}, []),
    ]
    for one in networks:
        inputs.append((one.name, {one.argument: tf.make_tensor_proto(0.0, shape=[1, *one.shape])}, []))
    logs = []
    for signature, tensors, output_filter in inputs:
        request = predict_pb2.PredictRequest(output_filter=output_filter)
        request.model_spec.name = card.name
        request.model_spec.signature_name = signature
        for name, tensor in tensors.items():
            request.inputs[name].CopyFrom(tensor)
        logs.append(
            prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
        )
    return logs
