"""Before a version gets its name: its warm-up is replayed, its answers are held against Keras'."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tfbrats.cases.packing import packed
from tfbrats.inference.saved_model import SavedModel
from tfbrats.inference.signatures import Segmenter
from tfbrats.labels import MODALITIES
from tfbrats.phantoms import simulation
from tfbrats.records import tfrecord

# Precision -> how far the SavedModel's probabilities may be from the Keras model's, and which share of the
# labels may differ: a Session fuses other operations, and in bfloat16 what is fused is rounded elsewhere.
APART = {"float32": (1e-5, 0.0), "mixed_bfloat16": (0.1, 0.01)}


def replay(served: SavedModel, path: str) -> None:
    """Runs the warm-up file as the server will: a request that fails would keep the model from loading."""
    for content in tfrecord.read_records(path):
        request = prediction_log_pb2.PredictionLog.FromString(content).predict_log.request
        served(
            request.model_spec.signature_name,
            {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()},
            list(request.output_filter) or None,
        )


def compare(segmenter: Segmenter, served: SavedModel, plane: Sequence[int], precision: str) -> None:
    """The Keras model and the SavedModel must give the same label map on a simulated case (`APART`)."""
    most_gap, most_different = APART[precision]
    image, _ = simulation.simulate((*plane, 24), seed=0, number=0)
    volumes = {m: image[..., MODALITIES.index(m)] for m in segmenter.modalities}
    ours = tf.function(segmenter)({m: tf.constant(v, tf.float32) for m, v in volumes.items()})
    whole = {m: v.astype(np.int16) for m, v in volumes.items()}
    sent = {
        "serving_default": {m: v.astype(np.float32) for m, v in volumes.items()},
        "int16": whole,
        "gzip_int16": {"plane": np.array(plane, np.int32), **{m: packed(v) for m, v in whole.items()}},
        "cases_int16": {m: np.stack([v, v]) for m, v in whole.items()},
    }
    for signature, inputs in sent.items():
        theirs = served(signature, inputs)
        different = int(np.sum(ours["segmentation"].numpy() != theirs["segmentation"]))
        gap = float(
            np.abs(ours["probabilities"].numpy() - theirs.get("probabilities", ours["probabilities"])).max()
        )
        if different > most_different * ours["segmentation"].numpy().size or gap > most_gap:
            raise RuntimeError(
                f"signature {signature}: {different} voxels differ from the Keras model's, probabilities by "
                f"up to {gap:.2g}. Nothing was exported."
            )
