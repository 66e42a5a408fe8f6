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
import os
import re
import time
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfbrats import __version__
from tfbrats.cases import nifti
from tfbrats.config import Config, PatchConfig, Run
from tfbrats.config_file import overridden
from tfbrats.errors import InputError
from tfbrats.inference.cascade_segmenter import CascadeSegmenter
from tfbrats.inference.rehearsal import APART, compare, replay
from tfbrats.inference.saved_model import SavedModel
from tfbrats.inference.signatures import (
    WARM_UP,
    Segmenter,
    Signatures,
    Weights,
    network_signatures,
    plane,
    warm_up_requests,
)
from tfbrats.inference.slice_segmenter import CaseSegmenter
from tfbrats.labels import EDITIONS, LEARNED_OF, REGIONS, LabelSchema, Tissue
from tfbrats.machine import command, files, literal, paths
from tfbrats.predictions import model_card, seen
from tfbrats.predictions.model_card import ModelCard
from tfbrats.records import tfrecord
from tfbrats.runs.folder import RunFolder
from tfbrats.training import best_weights

_LEFT = re.compile(rf"\.\d+{re.escape(files.PARTIAL)}-\w+")  # a version in the making
FREE = ("cascade.margin", "cascade.stride", "cascade.threshold", "cascade.tile_batch")


def _read_config(run_dir: str | os.PathLike, overrides: Sequence[str] = ()) -> Config:
    """The run's config, with what may be chosen anew for inference.

    Raises:
        InputError: no run, or an override of what training has settled.
    """
    config = RunFolder(run_dir).config.model_copy(update={"run": Run(dir=os.fspath(run_dir))})
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
        precision: in which the networks compute, one of `APART`.

    Raises:
        InputError: no run, or one without a checkpoint yet.
    """
    config = _read_config(run_dir, overrides)
    if isinstance(config, PatchConfig):
        networks = best_weights.best_networks(config, list(REGIONS), precision)
        size, schema = config.sampling.patch_size, _schema(run_dir, edition)
        return CascadeSegmenter(networks, config.data.modalities, size, config.cascade, schema)
    network, canvas = best_weights.best_network(config, precision=precision), config.records.slice_shape
    return CaseSegmenter(network, config.data.modalities, canvas, _schema(run_dir, edition))


def _unlearned(schema: LabelSchema) -> str:
    if Tissue.CC not in schema.value_of_tissue:
        return ""
    return "; cystic component (CC) is predicted as NCR, never as a class of its own"


def _schema(run_dir: str | os.PathLike, edition: str | None) -> LabelSchema:
    if edition is None:
        return LabelSchema.from_json(RunFolder(run_dir).records["label_schemas"][0])
    if edition not in EDITIONS:
        raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(EDITIONS)}.")
    return EDITIONS[edition]


def _scores(config: Config) -> dict[str, Any]:
    """What the weights scored on the validation split when they were saved, of each network; {} without one."""

    def of(region: str) -> dict[str, float]:
        history = RunFolder(config.run.dir).network(region).history
        epoch = best_weights.best_checkpoint(config, region).rpartition("-")[2]
        rows = [row for row in history if row["epoch"] == epoch and row.get("validation_loss")]
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
    run = RunFolder(run_dir)
    trained_on, splits = run.records, run.splits
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
        for one in network_signatures(segmenter, config)
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
    networks = network_signatures(segmenter, config)
    signatures = Signatures(segmenter, networks, card.to_json())

    final = os.path.join(output, str(version))
    temporary = files.temporary_name(final)
    try:
        try:
            place = files.join(literal.folder(output), files.name(temporary))
            tf.saved_model.save(Weights(segmenter), place, signatures=signatures.by_name())
        except (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
            reason = error.message.splitlines()[0]
            raise InputError(
                f"{output}: the model cannot be written ({reason}). Make room and export again."
            ) from error
        files.write_bytes(os.path.join(temporary, model_card.FILE), card.to_json().encode())
        requests = warm_up_requests(card, networks, plane(config))
        content = b"".join(tfrecord.frame(log.SerializeToString()) for log in requests)
        files.write_bytes(os.path.join(temporary, WARM_UP), content)
        with contextlib.closing(SavedModel(temporary)) as served:
            replay(served, os.path.join(temporary, WARM_UP))
            compare(segmenter, served, plane(config), precision)
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
        choices=tuple(APART),
        default="float32",
        help="in which the network computes (default: %(default)s)",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help=f"of a cascade: {', '.join(FREE)}"
    )
    options = parser.parse_intermixed_args(arguments)
    final = export(options.run, options.output, options.edition, options.overrides, options.precision)
    config = _read_config(options.run)
    for region, epochs in RunFolder(options.run).unfinished(config).items():
        print(f"note: {region or 'the network'} has had {epochs} of {config.train.epochs} epochs")
    version = files.join(options.output, files.name(final))
    following = ("--model", version, "--input", "FOLDER", "--output", "predictions")
    print(f"exported {final}\nnext: {paths.command_line('tfbrats.predict', *following)}")


if __name__ == "__main__":
    command.run(main)
