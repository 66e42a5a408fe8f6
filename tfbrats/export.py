"""Export a trained run as a SavedModel for TensorFlow Serving.

    python -m tfbrats.export --run runs/cun --output models/cun

Writes models/cun/<next version>/ under another name, replays its own warm-up requests on it, checks that it
answers as the Keras model does, and only then renames it: a server that watches the folder never loads half
a model or one that does not work. Signatures: serving_default and int16 (a whole case by modality name),
slices (the bare network), describe (tfbrats.json over the wire).
"""

import os
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfbrats import __version__, case, command, files, model_card, models, phantom, records, run
from tfbrats.command import InputError
from tfbrats.labels import EDITIONS, MODALITIES, REGIONS, LabelSchema
from tfbrats.model_card import ModelCard
from tfbrats.segment import CaseSegmenter

WARM_UP = "assets.extra/tf_serving_warmup_requests"


class _Weights(tf.Module):
    """What is saved: the bare variables, each once.

    Saving the Keras model itself gives a SavedModel that only TensorFlow's own loader can restore: its
    functions refer to variables by other names than its checkpoint does, and TensorFlow Serving, which runs
    it in a Session, finds them uninitialised.
    """

    def __init__(self, segmenter: CaseSegmenter):
        super().__init__()
        self.weights = [variable.value for variable in segmenter.network.variables]


class _Signatures:
    """The functions that a server offers, over a segmenter's variables."""

    def __init__(self, segmenter: CaseSegmenter, slice_shape: Sequence[int], card_text: str):
        self._segmenter, self._slice_shape, self._card_text = segmenter, slice_shape, card_text

    def by_name(self) -> dict:
        """Signature name -> function whose inputs carry their names."""
        modalities = self._segmenter.modalities

        def whole_case(dtype):
            # By keyword: what the caller names is what the signature is called by.
            function = tf.function(lambda **volumes: self._segmenter(volumes))
            specs = {name: tf.TensorSpec([None, None, None], dtype, name) for name in modalities}
            return function.get_concrete_function(**specs)

        image = tf.TensorSpec([None, *self._slice_shape, len(modalities)], tf.float32, "image")
        return {
            "serving_default": whole_case(tf.float32),
            "int16": whole_case(tf.int16),
            "slices": tf.function(self._segmenter.slices).get_concrete_function(image=image),
            "describe": tf.function(self._describe).get_concrete_function(
                file=tf.TensorSpec([], tf.string, "file")
            ),
        }

    def _describe(self, file):
        known = tf.debugging.Assert(file == model_card.FILE, [f"only {model_card.FILE} is served, not", file])
        with tf.control_dependencies([known]):
            return {"content": tf.constant(self._card_text)}


def _best_checkpoint(run_dir: str | os.PathLike) -> str:
    best = tf.train.latest_checkpoint(run.checkpoints(run_dir, "best"))
    if best is None:
        raise InputError(f"{run_dir}: no checkpoint yet. Train at least one epoch first.")
    return best


def segmenter_of(run_dir: str | os.PathLike, edition: str | None = None) -> CaseSegmenter:
    """The best weights of a run with everything round them.

    Args:
        run_dir: the run folder.
        edition: whose label values come out; by default those of the training data.

    Raises:
        InputError: no run, or one without a checkpoint yet.
    """
    config = run.read_config(run_dir)
    best = _best_checkpoint(run_dir)
    keras.mixed_precision.set_global_policy("float32")  # whatever it was trained in
    network = models.build(config)
    tf.train.Checkpoint(network=network).restore(best).assert_existing_objects_matched().expect_partial()
    return CaseSegmenter(network, config.data.modalities, config.records.slice_shape, _schema(run_dir, edition))


def _schema(run_dir: str | os.PathLike, edition: str | None) -> LabelSchema:
    if edition is None:
        return LabelSchema.from_json(files.read_json(files.join(run_dir, "records.json"))["label_schemas"][0])
    if edition not in EDITIONS:
        raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(EDITIONS)}.")
    return EDITIONS[edition]


def card_of(run_dir: str | os.PathLike, name: str, version: int, schema: LabelSchema) -> ModelCard:
    """What the exported model will say of itself."""
    config = run.read_config(run_dir)
    trained_on = files.read_json(files.join(run_dir, "records.json"))
    splits = files.read_json(files.join(run_dir, "splits.json"))
    epoch = _best_checkpoint(run_dir).rpartition("-")[2]
    scores = {}
    for row in run.read_history(run_dir):
        if row["epoch"] == epoch and row.get("validation_loss"):
            scores = {"split": "validation", "slices": trained_on["examples"]["validation"]}
            scores.update({key: float(value) for key, value in row.items()})
    volume = f"[I, J, K], axes {''.join(case.AXES)}, one grid for all"
    modalities = {name: f"float32 {volume}" for name in config.data.modalities}
    outputs = {
        "segmentation": "uint8 [I, J, K], values as label_schema",
        "probabilities": "float32 [I, J, K, 3]: " + ", ".join(REGIONS),
    }
    canvas = ", ".join(str(side) for side in config.records.slice_shape)
    return ModelCard(
        name=name,
        version=version,
        description=f"{config.model.name}, width {config.model.width}: brain tumour segmentation in MRI",
        tfbrats_version=__version__,
        modalities=config.data.modalities,
        axes="".join(case.AXES),
        n4_modalities=config.preprocess.n4_modalities,
        n4_shrink=config.preprocess.n4_shrink,
        normalisation="in the graph: z-score over the brain (any modality not 0), background 0",
        spacing_mm=trained_on["spacing_mm"],
        label_schema=schema.to_json(),
        regions={region: tuple(tissue.name for tissue in tissues) for region, tissues in REGIONS.items()},
        signatures={
            "serving_default": {"inputs": modalities, "outputs": outputs},
            "int16": {
                "inputs": {key: text.replace("float32", "int16") for key, text in modalities.items()},
                "outputs": outputs,
            },
            "slices": {
                "inputs": {"image": f"float32 [N, {canvas}, {len(modalities)}], z-scored"},
                "outputs": {
                    "branch1": f"float32 [N, {canvas}, 2]: rest, WT",
                    "branch2": f"float32 [N, {canvas}, 4]: non-tumour, NCR, ED, ET",
                },
            },
            "describe": {
                "inputs": {"file": f"string [], {model_card.FILE}"},
                "outputs": {"content": "string []"},
            },
        },
        training_data={
            "label_schemas": trained_on["label_schemas"],
            "cases": {split: len(ids) for split, ids in splits.items() if split != "sha256"},
            "examples": trained_on["examples"],
            "split_sha256": splits["sha256"],
            "records_sha256": trained_on["manifest_sha256"],
            "config": config.model_dump(mode="json"),
        },
        scores=scores,
        license="the weights are bound by the terms of the data they were trained on",
        intended_use="research; not for diagnostic use",
    )


def _warm_up_requests(card: ModelCard, slice_shape: Sequence[int]) -> list[prediction_log_pb2.PredictionLog]:
    """Small requests that make the server build its kernels: a few slices of "brain", all one value."""
    volume = tf.make_tensor_proto(1.0, shape=[*slice_shape, 8])
    stack = tf.make_tensor_proto(0.0, shape=[1, *slice_shape, len(card.modalities)])
    inputs = {
        "serving_default": {name: volume for name in card.modalities},
        "slices": {"image": stack},
    }
    logs = []
    for signature, tensors in inputs.items():
        request = predict_pb2.PredictRequest()
        request.model_spec.name = card.name
        request.model_spec.signature_name = signature
        for name, tensor in tensors.items():
            request.inputs[name].CopyFrom(tensor)
        logs.append(
            prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
        )
    return logs


class _Served:
    """A SavedModel loaded as TensorFlow Serving loads it: into a Session, not by tf.saved_model.load."""

    def __init__(self, path: str):
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        with graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], path)
        self._signatures = meta_graph.signature_def

    def __call__(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        definition = self._signatures[signature]
        fetches = {name: info.name for name, info in definition.outputs.items()}
        feeds = {definition.inputs[name].name: array for name, array in inputs.items()}
        return self._session.run(fetches, feeds)


def _replay(served: _Served, path: str) -> None:
    """Runs the warm-up file as the server will: a request that fails would keep the model from loading."""
    for content in records.read_records(path):
        request = prediction_log_pb2.PredictionLog.FromString(content).predict_log.request
        served(
            request.model_spec.signature_name,
            {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()},
        )


def _compare(segmenter: CaseSegmenter, served: _Served, slice_shape: Sequence[int]) -> None:
    """The Keras model and the SavedModel must give the same label map on a simulated case."""
    image, _ = phantom.simulate((*slice_shape, 24), seed=0, number=0)
    volumes = {m: image[..., MODALITIES.index(m)] for m in segmenter.modalities}
    ours = tf.function(segmenter)({m: tf.constant(v, tf.float32) for m, v in volumes.items()})
    for signature, dtype in (("serving_default", np.float32), ("int16", np.int16)):
        theirs = served(signature, {m: v.astype(dtype) for m, v in volumes.items()})
        different = int(np.sum(ours["segmentation"].numpy() != theirs["segmentation"]))
        gap = float(np.abs(ours["probabilities"].numpy() - theirs["probabilities"]).max())
        if different or gap > 1e-5:
            raise RuntimeError(
                f"signature {signature}: {different} voxels differ from the Keras model's, probabilities by "
                f"up to {gap:.2g}. Nothing was exported."
            )


def export(run_dir: str | os.PathLike, output: str | os.PathLike, edition: str | None = None) -> str:
    """Writes the next version of a model; returns its folder.

    Raises:
        InputError: no run, no checkpoint, or `output` is not a local folder.
    """
    if not files.is_local(output):
        raise InputError(f"{output}: export to a local folder, then copy the version's folder as a whole.")
    output = os.path.abspath(output)
    config = run.read_config(run_dir)
    segmenter = segmenter_of(run_dir, edition)
    os.makedirs(output, exist_ok=True)
    version = 1 + max((int(entry) for entry in os.listdir(output) if entry.isdigit()), default=0)
    card = card_of(run_dir, os.path.basename(output), version, _schema(run_dir, edition))
    signatures = _Signatures(segmenter, config.records.slice_shape, card.to_json())

    final = os.path.join(output, str(version))
    temporary = files.temporary_name(final)
    try:
        tf.saved_model.save(_Weights(segmenter), temporary, signatures=signatures.by_name())
        files.write_bytes(os.path.join(temporary, model_card.FILE), card.to_json().encode())
        requests = _warm_up_requests(card, config.records.slice_shape)
        content = b"".join(records.frame(log.SerializeToString()) for log in requests)
        files.write_bytes(os.path.join(temporary, WARM_UP), content)
        served = _Served(temporary)
        _replay(served, os.path.join(temporary, WARM_UP))
        _compare(segmenter, served, config.records.slice_shape)
        os.rename(temporary, final)
    finally:
        files.remove(temporary)
    return final


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.export", __doc__)
    parser.add_argument("--run", required=True, help="run folder of python -m tfbrats.train")
    parser.add_argument("--output", required=True, help="folder of the model; its name is the model's")
    parser.add_argument("--edition", help="whose label values come out (default: the training data's)")
    options = parser.parse_args(arguments)
    final = export(options.run, options.output, options.edition)
    print(
        f"exported {final}\nnext: python -m tfbrats.predict --model {options.output}/{os.path.basename(final)}"
        " --input FOLDER --output predictions"
    )


if __name__ == "__main__":
    command.run(main)
