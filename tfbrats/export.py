"""Export a trained run as a SavedModel for TensorFlow Serving.

    python -m tfbrats.export --run runs/cun --output models/cun
    python -m tfbrats.export --run runs/cun --output models/cun_bf16 --precision mixed_bfloat16

Writes models/cun/<next version>/ under another name, replays its own warm-up requests on it, checks that it
answers as the Keras model does, and only then renames it: a server that watches the folder never loads half
a model or one that does not work. Signatures: serving_default, int16 and gzip_int16 (a whole case by modality
name), cases_int16 (several of one grid), slices or patches_wt, patches_tc and patches_et (the bare networks),
describe (tfbrats.json over the wire).

In mixed_bfloat16 the weights are the same and the network computes with 8 bits of mantissa: for CPUs that have
it in hardware (AVX512_BF16, AMX), where it is faster; on others it is slower. Some labels change: compare.
"""

import contextlib
import dataclasses
import functools
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfbrats import (
    __version__,
    command,
    files,
    literal,
    model_card,
    nifti,
    paths,
    phantom,
    records,
    run,
    seen,
    trained,
    unpacking,
)
from tfbrats.cascade import CascadeSegmenter
from tfbrats.command import InputError
from tfbrats.config import Config, PatchConfig, Run, overridden
from tfbrats.labels import EDITIONS, LEARNED_OF, MODALITIES, REGIONS, LabelSchema, Tissue
from tfbrats.model_card import ModelCard
from tfbrats.models import scales
from tfbrats.packing import packed
from tfbrats.run import home_of
from tfbrats.saved_model import SavedModel
from tfbrats.segment import CaseSegmenter, bounded, each_of

WARM_UP = "assets.extra/tf_serving_warmup_requests"
_LEFT = re.compile(rf"\.\d+{re.escape(files.PARTIAL)}-\w+")  # a version in the making
FREE = ("cascade.margin", "cascade.stride", "cascade.threshold", "cascade.tile_batch")
# Precision -> how far the SavedModel's probabilities may be from the Keras model's, and which share of the
# labels may differ: a Session fuses other operations, and in bfloat16 what is fused is rounded elsewhere.
_APART = {"float32": (1e-5, 0.0), "mixed_bfloat16": (0.1, 0.01)}

Segmenter = CaseSegmenter | CascadeSegmenter


class _Weights(tf.Module):
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
class _NetworkSignature:
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


def _network_signatures(segmenter: Segmenter, config: Config) -> list[_NetworkSignature]:
    if isinstance(segmenter, CaseSegmenter):
        canvas = ", ".join(map(str, config.records.slice_shape))
        outputs = {
            name: f"float32 [N, {canvas}, {len(classes)}]: {', '.join(classes)}"
            for name, classes in segmenter.answer.classes.items()
        }
        shape = (*config.records.slice_shape, len(segmenter.modalities))
        channels = "z-scored, in the order of modalities"
        return [_NetworkSignature("slices", segmenter.slices, "image", shape, channels, outputs)]
    size = config.sampling.patch_size
    return [
        _NetworkSignature(
            f"patches_{region.lower()}",
            functools.partial(segmenter.patches, region),
            "patch",
            (size, size, size, network.inputs[0].shape[-1]),
            "z-scored; "
            + ("x1" if scales(config.model.name) == 1 else "x1, x0.5, x2, each")
            + " in the order of modalities",
            {"probabilities": f"float32 [N, {size}, {size}, {size}, 1]: {region}"},
        )
        for region, network in segmenter.networks.items()
    ]


class _Signatures:
    """The functions that a server offers, over a segmenter's variables."""

    def __init__(self, segmenter: Segmenter, networks: Sequence[_NetworkSignature], card_text: str):
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

        def network(signature: _NetworkSignature):
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
                    volumes[name] = unpacking.unpacked(slices[name], plane)
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


def _read_config(run_dir: str | os.PathLike, overrides: Sequence[str] = ()) -> Config:
    """The run's config, with what may be chosen anew for inference.

    Raises:
        InputError: no run, or an override of what training has settled.
    """
    config = run.read_config(run_dir).model_copy(update={"run": Run(dir=os.fspath(run_dir))})
    settled = [text for text in overrides if text.partition("=")[0] not in FREE]
    if settled or (overrides and not isinstance(config, PatchConfig)):
        raise InputError(
            f"{' '.join(settled or overrides)}: settled by training. At export a cascade's {', '.join(FREE)} "
            "may be chosen anew, nothing else."
        )
    return overridden(config, overrides)


def segmenter_of(
    run_dir: str | os.PathLike,
    edition: str | None = None,
    overrides: Sequence[str] = (),
    precision: str = "float32",
) -> Segmenter:
    """The best weights of a run with everything round them.

    Args:
        run_dir: the run folder.
        edition: whose label values come out; by default those of the training data.
        overrides: section.key=value for keys in `FREE`.
        precision: in which the networks compute, one of `_APART`.

    Raises:
        InputError: no run, or one without a checkpoint yet.
    """
    config = _read_config(run_dir, overrides)
    if isinstance(config, PatchConfig):
        networks = trained.best_networks(config, list(REGIONS), precision)
        size, schema = config.sampling.patch_size, _schema(run_dir, edition)
        return CascadeSegmenter(networks, config.data.modalities, size, config.cascade, schema)
    network, canvas = trained.best_network(config, precision=precision), config.records.slice_shape
    return CaseSegmenter(network, config.data.modalities, canvas, _schema(run_dir, edition))


def _unlearned(schema: LabelSchema) -> str:
    if Tissue.CC not in schema.value_of_tissue:
        return ""
    return "; cystic component (CC) is predicted as NCR, never as a class of its own"


def _schema(run_dir: str | os.PathLike, edition: str | None) -> LabelSchema:
    if edition is None:
        return LabelSchema.from_json(files.read_json(files.join(run_dir, "records.json"))["label_schemas"][0])
    if edition not in EDITIONS:
        raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(EDITIONS)}.")
    return EDITIONS[edition]


def _scores(config: Config) -> dict[str, Any]:
    """What the weights scored on the validation split when they were saved, of each network; {} without one."""

    def of(region: str) -> dict[str, float]:
        home = home_of(config, region)
        epoch = trained.best_checkpoint(config, region).rpartition("-")[2]
        rows = [row for row in run.read_history(home) if row["epoch"] == epoch and row.get("validation_loss")]
        return {key: float(value) for row in rows for key, value in row.items()}

    if not isinstance(config, PatchConfig):
        return of("")
    return {region: scores for region in REGIONS if (scores := of(region))}


def card_of(
    run_dir: str | os.PathLike,
    name: str,
    version: int,
    segmenter: Segmenter,
    edition: str | None = None,
    overrides: Sequence[str] = (),
    precision: str = "float32",
) -> ModelCard:
    """What the exported model will say of itself."""
    config, schema = _read_config(run_dir, overrides), _schema(run_dir, edition)
    trained_on = files.read_json(files.join(run_dir, "records.json"))
    splits = files.read_json(files.join(run_dir, "splits.json"))
    scores = _scores(config)
    if scores:
        cases = len(splits["validation"])
        of_patches = isinstance(config, PatchConfig)
        each = cases * config.sampling.patches_per_case if of_patches else trained_on["examples"]["validation"]
        unit = "patches_each" if of_patches else "slices"
        scores = {"split": "validation", "cases": cases, unit: each, **scores}
    volume = f"[I, J, K], axes {''.join(nifti.AXES)}, one grid for all"
    modalities = {name: f"float32 {volume}" for name in config.data.modalities}
    outputs = {
        "segmentation": "uint8 [I, J, K], values as label_schema",
        "probabilities": "float32 [I, J, K, 3]: " + ", ".join(REGIONS),
    }
    if isinstance(segmenter, CascadeSegmenter):
        outputs[model_card.TILES] = "int32 [3]: tiles run for " + ", ".join(REGIONS)
    networks = {
        one.name: {
            "inputs": {one.argument: f"float32 [N, {', '.join(map(str, one.shape))}], {one.channels}"},
            "outputs": dict(one.outputs),
        }
        for one in _network_signatures(segmenter, config)
    }
    return ModelCard(
        name=name,
        version=version,
        description=f"{config.model.name}, width {config.model.width}: brain tumour segmentation in MRI"
        + _unlearned(schema),
        tfbrats_version=__version__,
        modalities=config.data.modalities,
        axes="".join(nifti.AXES),
        n4_modalities=config.preprocess.n4_modalities,
        n4_shrink=config.preprocess.n4_shrink,
        normalisation="in the graph: z-score over the brain (any modality not 0), background 0",
        precision=precision,
        spacing_mm=trained_on["spacing_mm"],
        label_schema=schema.to_json(),
        regions={region: tuple(tissue.name for tissue in classes) for region, classes in LEARNED_OF.items()},
        signatures={
            "serving_default": {"inputs": modalities, "outputs": outputs},
            "int16": {
                "inputs": {key: text.replace("float32", "int16") for key, text in modalities.items()},
                "outputs": outputs,
            },
            "gzip_int16": {
                "inputs": {
                    **dict.fromkeys(modalities, "string [K]: each slice [I, J], int16, little-endian, as gzip"),
                    "plane": "int32 [2]: I, J",
                },
                "outputs": outputs,
            },
            "cases_int16": {
                "inputs": dict.fromkeys(modalities, f"int16 [N, I, J, K], N cases; each {volume}"),
                "outputs": {
                    name: text.replace("[", "[N, ") for name, text in outputs.items() if name != "probabilities"
                },
            },
            **networks,
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
            **seen.hashes_of(splits),
            "records_sha256": trained_on["manifest_sha256"],
            "config": config.model_dump(mode="json"),
            "unfinished": run.unfinished(config),  # networks -> epochs so far
        },
        scores=scores,
        license="the weights are bound by the terms of the data they were trained on",
        intended_use="research; not for diagnostic use",
    )


def _plane(config: Config) -> tuple[int, int]:
    """Voxels along i and j of the small volumes that try a model out."""
    if isinstance(config, PatchConfig):
        size = config.sampling.patch_size
        return max(size + 8, phantom.LEAST_SHAPE[0]), max(size, phantom.LEAST_SHAPE[1])  # two tiles
    return config.records.slice_shape


def _warm_up_requests(
    card: ModelCard, networks: Sequence[_NetworkSignature], plane: Sequence[int]
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


def _replay(served: SavedModel, path: str) -> None:
    """Runs the warm-up file as the server will: a request that fails would keep the model from loading."""
    for content in records.read_records(path):
        request = prediction_log_pb2.PredictionLog.FromString(content).predict_log.request
        served(
            request.model_spec.signature_name,
            {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()},
            list(request.output_filter) or None,
        )


def _compare(segmenter: Segmenter, served: SavedModel, plane: Sequence[int], precision: str) -> None:
    """The Keras model and the SavedModel must give the same label map on a simulated case (`_APART`)."""
    most_gap, most_different = _APART[precision]
    image, _ = phantom.simulate((*plane, 24), seed=0, number=0)
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


def _sweep(output: str) -> None:
    """Removes what exports that were killed have left: half versions, untouched for an hour."""
    for entry in os.scandir(output):
        if _LEFT.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > 3600:
            files.remove(entry.path)


def export(
    run_dir: str | os.PathLike,
    output: str | os.PathLike,
    edition: str | None = None,
    overrides: Sequence[str] = (),
    precision: str = "float32",
) -> str:
    """Writes the next version of a model; returns its folder.

    Args:
        edition: whose label values come out; by default those of the training data.
        overrides: section.key=value for keys in `FREE`.
        precision: in which the networks compute, "float32" or "mixed_bfloat16".

    Raises:
        InputError: no run, no checkpoint, or `output` is not a local folder.
    """
    if not files.is_local(output):
        raise InputError(f"{output}: export to a local folder, then copy the version's folder as a whole.")
    output = paths.absolute(output)
    config = _read_config(run_dir, overrides)
    segmenter = segmenter_of(run_dir, edition, overrides, precision)
    os.makedirs(output, exist_ok=True)
    _sweep(output)
    version = 1 + max((int(entry) for entry in os.listdir(output) if entry.isdigit()), default=0)
    card = card_of(run_dir, os.path.basename(output), version, segmenter, edition, overrides, precision)
    networks = _network_signatures(segmenter, config)
    signatures = _Signatures(segmenter, networks, card.to_json())

    final = os.path.join(output, str(version))
    temporary = files.temporary_name(final)
    try:
        try:
            place = files.join(literal.folder(output), files.name(temporary))
            tf.saved_model.save(_Weights(segmenter), place, signatures=signatures.by_name())
        except (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
            reason = error.message.splitlines()[0]
            raise InputError(
                f"{output}: the model cannot be written ({reason}). Make room and export again."
            ) from error
        files.write_bytes(os.path.join(temporary, model_card.FILE), card.to_json().encode())
        requests = _warm_up_requests(card, networks, _plane(config))
        content = b"".join(records.frame(log.SerializeToString()) for log in requests)
        files.write_bytes(os.path.join(temporary, WARM_UP), content)
        with contextlib.closing(SavedModel(temporary)) as served:
            _replay(served, os.path.join(temporary, WARM_UP))
            _compare(segmenter, served, _plane(config), precision)
        os.rename(temporary, final)
    finally:
        files.remove(temporary)
    return final


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.export", __doc__)
    parser.add_argument(
        "--run", type=paths.argument, required=True, help="run folder of python -m tfbrats.train"
    )
    parser.add_argument(
        "--output", type=paths.argument, required=True, help="folder of the model; its name is the model's"
    )
    parser.add_argument("--edition", help="whose label values come out (default: the training data's)")
    parser.add_argument(
        "--precision",
        choices=tuple(_APART),
        default="float32",
        help="in which the network computes (default: %(default)s)",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help=f"of a cascade: {', '.join(FREE)}"
    )
    options = parser.parse_intermixed_args(arguments)
    final = export(options.run, options.output, options.edition, options.overrides, options.precision)
    config = _read_config(options.run)
    for region, epochs in run.unfinished(config).items():
        print(f"note: {region or 'the network'} has had {epochs} of {config.train.epochs} epochs")
    version = files.join(options.output, files.name(final))
    following = ("--model", version, "--input", "FOLDER", "--output", "predictions")
    print(f"exported {final}\nnext: {paths.command_line('tfbrats.predict', *following)}")


if __name__ == "__main__":
    command.run(main)
