"""Before a version gets its name: its warm-up is replayed, its answers are held against Keras'."""

import contextlib
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tfbrats.distribution import devices
from tfbrats.exports.chosen import APART
from tfbrats.inference.saved_model import WARM_UP, SavedModel
from tfbrats.inference.signatures import Segmenter, Signature
from tfbrats.labels import MODALITIES
from tfbrats.phantoms import simulation
from tfbrats.records import tfrecord


class OtherAnswerError(RuntimeError):
    """A version that answers otherwise than the Keras model."""


def rehearse(
    folder: str | os.PathLike,
    segmenter: Segmenter,
    signatures: Sequence[Signature],
    plane: Sequence[int],
    precision: str,
) -> None:
    """Loads a version as the server will, and tries it: `replay`, then `compare`.

    Args:
        folder: of the version.
        segmenter: round the networks as they were trained, nothing folded.
        plane: voxels along i and j of the case that is compared.
        precision: in which the networks compute, one of `APART`.

    Raises:
        OtherAnswerError: it answers otherwise than the Keras model.
    """
    # With TF32 one graph, compiled twice, would be 1e-3 apart from itself.
    with contextlib.closing(SavedModel(folder)) as served, devices.tf32(False):
        replay(served, os.path.join(folder, WARM_UP))
        compare(segmenter, served, signatures, plane, precision)


def replay(served: SavedModel, path: str) -> None:
    """Runs the warm-up file as the server will: a request that fails would keep the model from loading."""
    for content in tfrecord.read_records(path):
        request = prediction_log_pb2.PredictionLog.FromString(content).predict_log.request
        served(
            request.model_spec.signature_name,
            {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()},
            list(request.output_filter) or None,
        )


def compare(
    segmenter: Segmenter,
    served: SavedModel,
    signatures: Sequence[Signature],
    plane: Sequence[int],
    precision: str,
) -> None:
    """The Keras model and the SavedModel must give the same label map on a simulated case (`APART`).

    Of each signature the outputs are asked for which the warm-up has asked for first, all of `serving_default`:
    TensorFlow prepares the graph anew for every other choice.
    """
    most_gap, most_different = APART[precision]
    image, _ = simulation.simulate((*plane, 24), seed=0, number=0)
    volumes = {name: image[..., MODALITIES.index(name)] for name in segmenter.modalities}
    keras_answer = tf.function(segmenter, autograph=False)(
        {m: tf.constant(v, tf.float32) for m, v in volumes.items()}
    )
    labels, probabilities = keras_answer["segmentation"].numpy(), keras_answer["probabilities"].numpy()
    for signature in signatures:
        if not signature.is_compared:
            continue
        wanted = signature.warm_up[0] if signature.warm_up else ()
        answer = served(signature.name, signature.example(volumes), list(wanted) or None)
        different = int(np.sum(labels != answer["segmentation"]))
        apart = np.abs(probabilities - answer.get("probabilities", probabilities))
        if "probabilities" in answer and not segmenter.tuned.is_plain:
            # What a rule takes away has probability 0, and its label counts already.
            apart = apart[labels == answer["segmentation"]]
        gap = float(apart.max(initial=0))
        if different > most_different * labels.size or gap > most_gap:
            raise OtherAnswerError(
                f"signature {signature.name}: {different} voxels differ from the Keras model's, probabilities "
                f"by up to {gap:.2g}. Nothing was exported."
            )
