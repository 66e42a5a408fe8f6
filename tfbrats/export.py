"""Export a trained run as a SavedModel for TensorFlow Serving.

    tfbrats export --run runs/cun --output models/cun
    tfbrats export --run runs/cun --output models/cun_bf16 --precision mixed_bfloat16

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
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfbrats import __version__
from tfbrats.cases import nifti
from tfbrats.config import Config, PatchConfig, Run
from tfbrats.config_file import overridden
from tfbrats.errors import InputError
from tfbrats.inference.cascade_segmenter import CascadeSegmenter
from tfbrats.inference.rehearsal import APART, rehearse
from tfbrats.inference.saved_model import WARM_UP
from tfbrats.inference.signatures import (
    Segmenter,
    Signature,
    Weights,
    plane,
    signatures_of,
    warm_up_requests,
)
from tfbrats.inference.slice_segmenter import SliceSegmenter
from tfbrats.labels import EDITIONS, LEARNED_OF, LabelSchema, Tissue
from tfbrats.machine import files, literal, paths
from tfbrats.predictions import model_card, seen
from tfbrats.predictions.model_card import ModelCard
from tfbrats.records import tfrecord
from tfbrats.runs.folder import RunFolder
from tfbrats.terminal import command, verbs
from tfbrats.training import best_weights, checkpoints

_LEFT = re.compile(rf"\.\d+{re.escape(files.PARTIAL)}-\w+")  # a version in the making
_WARM_UP_SLICES = 8
FREE = ("cascade.margin", "cascade.stride", "cascade.threshold", "cascade.tile_batch")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What is exported: a run's best weights, and what was chosen for their model.

    Attributes:
        config: the run's, with what was chosen anew; `run.dir` is where the run lies now.
        checkpoints: region ("" where there is one network) -> its best checkpoint.
        schema: whose label values come out.
        precision: in which the networks compute, one of `APART`.
    """

    run: RunFolder
    config: Config
    checkpoints: Mapping[str, str]
    schema: LabelSchema
    precision: str


def chosen_from(
    run_dir: str | os.PathLike,
    edition: str | None = None,
    overrides: Sequence[str] = (),
    precision: str = "float32",
) -> Chosen:
    """What is to be exported of a run.

    Args:
        run_dir: the run folder.
        edition: whose label values come out; by default those of the training data.
        overrides: section.key=value for keys in `FREE`.
        precision: in which the networks compute, one of `APART`.

    Raises:
        InputError: no run, or one without a checkpoint yet; an override of what training has settled; an
            unknown edition.
    """
    run = RunFolder(run_dir)
    config = _with_overrides(run.config.model_copy(update={"run": Run(dir=run.path)}), overrides)
    best = best_weights.best_checkpoints(config, config.whole.regions)
    return Chosen(run, config, best, _schema(run, edition), precision)


def _with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """The run's config, with what may be chosen anew for inference."""
    settled = [text for text in overrides if text.partition("=")[0] not in FREE]
    if settled or (overrides and not isinstance(config, PatchConfig)):
        raise InputError(
            f"{' '.join(settled or overrides)}: settled by training. At export a cascade's {', '.join(FREE)} "
            "may be chosen anew, nothing else."
        )
    return overridden(config, overrides)


def _schema(run: RunFolder, edition: str | None) -> LabelSchema:
    if edition is None:
        return LabelSchema.from_json(run.records["label_schemas"][0])
    if edition not in EDITIONS:
        raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(EDITIONS)}.")
    return EDITIONS[edition]


def segmenter_of(chosen: Chosen) -> Segmenter:
    """The best weights of a run with everything round them."""
    config, schema = chosen.config, chosen.schema
    networks = {
        region: best_weights.network_of(config, region, checkpoint, chosen.precision)
        for region, checkpoint in chosen.checkpoints.items()
    }
    if isinstance(config, PatchConfig):
        size = config.sampling.patch_size
        return CascadeSegmenter(networks, config.data.modalities, size, config.cascade, schema)
    return SliceSegmenter(networks[""], config.data.modalities, config.records.slice_shape, schema)


def card_of(chosen: Chosen, name: str, version: int, signatures: Sequence[Signature]) -> ModelCard:
    """What the exported model will say of itself."""
    config = chosen.config
    return ModelCard(
        name=name,
        version=version,
        description=f"{config.model.name}, width {config.model.width}: brain tumour segmentation in MRI"
        + _unlearned(chosen.schema),
        tfbrats_version=__version__,
        modalities=config.data.modalities,
        axes="".join(nifti.AXES),
        n4_modalities=config.preprocess.n4_modalities,
        n4_shrink=config.preprocess.n4_shrink,
        normalisation="in the graph: z-score over the brain (any modality not 0), background 0",
        precision=chosen.precision,
        spacing_mm=chosen.run.records["spacing_mm"],
        label_schema=chosen.schema.to_json(),
        regions={region: tuple(tissue.name for tissue in classes) for region, classes in LEARNED_OF.items()},
        signatures={signature.name: signature.described() for signature in signatures},
        training_data=_training_data(chosen),
        scores=_scores(chosen),
        license="the weights are bound by the terms of the data they were trained on",
        intended_use="research; not for diagnostic use",
    )


def _unlearned(schema: LabelSchema) -> str:
    if Tissue.CC not in schema.value_of_tissue:
        return ""
    return "; cystic component (CC) is predicted as NCR, never as a class of its own"


def _training_data(chosen: Chosen) -> dict[str, Any]:
    """What the networks were trained on, and how far."""
    run, records, splits = chosen.run, chosen.run.records, chosen.run.splits
    return {
        "label_schemas": records["label_schemas"],
        "cases": {split: len(ids) for split, ids in splits.items() if split != "sha256"},
        "examples": records["examples"],
        "split_sha256": splits["sha256"],
        **seen.hashes_of(splits),
        "records_sha256": records["manifest_sha256"],
        "config": chosen.config.model_dump(mode="json"),
        "unfinished": run.unfinished(chosen.config),  # networks -> epochs so far
    }


def _scores(chosen: Chosen) -> dict[str, Any]:
    """What the weights scored on the validation split when they were saved, of each network; {} without one."""
    by_region = {region: _scores_of(chosen, region) for region in chosen.checkpoints}
    scores = {region: numbers for region, numbers in by_region.items() if numbers}
    if not scores:
        return {}
    config, cases = chosen.config, len(chosen.run.splits["validation"])
    if isinstance(config, PatchConfig):
        size = {"patches_each": cases * config.sampling.patches_per_case}
    else:
        scores, size = scores[""], {"slices": chosen.run.records["examples"]["validation"]}
    return {"split": "validation", "cases": cases, **size, **scores}


def _scores_of(chosen: Chosen, region: str) -> dict[str, float]:
    """The numbers of the epoch that the best checkpoint ended; none without validation."""
    epoch = str(checkpoints.number(chosen.checkpoints[region]))
    rows = [row for row in chosen.run.network(region).history if row["epoch"] == epoch]
    return {key: float(value) for row in rows if row.get("validation_loss") for key, value in row.items()}


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
    chosen = chosen_from(run_dir, edition, overrides, precision)
    segmenter = segmenter_of(chosen)
    version = _next_version(output)
    signatures = signatures_of(segmenter, chosen.config, lambda: card.to_json())
    card = card_of(chosen, os.path.basename(output), version, signatures)

    final = os.path.join(output, str(version))
    with _renamed_at_the_end(final) as temporary:
        _save(temporary, segmenter, signatures)
        files.write_bytes(os.path.join(temporary, model_card.FILE), card.to_json().encode())
        _write_warm_up(temporary, card, signatures, plane(chosen.config))
        rehearse(temporary, segmenter, signatures, plane(chosen.config), precision)
    return final


def _next_version(output: str) -> int:
    """The number after the largest in the model's folder, which is made if need be."""
    os.makedirs(output, exist_ok=True)
    _sweep(output)
    return 1 + max((int(entry) for entry in os.listdir(output) if entry.isdigit()), default=0)


def _sweep(output: str) -> None:
    """Removes what exports that were killed have left: half versions, untouched for an hour."""
    for entry in os.scandir(output):
        if _LEFT.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > 3600:
            files.remove(entry.path)


@contextlib.contextmanager
def _renamed_at_the_end(final: str) -> Iterator[str]:
    """Yields the name under which a version is made; what fails before its end leaves nothing."""
    temporary = files.temporary_name(final)
    try:
        yield temporary
        os.rename(temporary, final)
    finally:
        files.remove(temporary)


def _save(folder: str, segmenter: Segmenter, signatures: Sequence[Signature]) -> None:
    """Traces the signatures and writes the SavedModel.

    Raises:
        InputError: there is no room.
    """
    output = files.parent(folder)
    functions = {signature.name: signature.traced() for signature in signatures}
    try:
        place = files.join(literal.folder(output), files.name(folder))
        tf.saved_model.save(Weights(segmenter), place, signatures=functions)
    except (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
        reason = error.message.splitlines()[0]
        raise InputError(
            f"{output}: the model cannot be written ({reason}). Make room and export again."
        ) from error


def _write_warm_up(folder: str, card: ModelCard, signatures: Sequence[Signature], plane: Sequence[int]) -> None:
    """The requests that a server answers before it serves the version, on a few slices of "brain"."""
    volumes = dict.fromkeys(card.modalities, np.ones((*plane, _WARM_UP_SLICES)))
    requests = warm_up_requests(signatures, card.name, volumes)
    content = b"".join(tfrecord.frame(log.SerializeToString()) for log in requests)
    files.write_bytes(os.path.join(folder, WARM_UP), content)


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.export", __doc__)
    parser.add_argument("--run", type=paths.argument, required=True, help="run folder of tfbrats train")
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
    training_data = model_card.read(final).training_data
    for region, epochs in training_data["unfinished"].items():
        of = training_data["config"]["train"]["epochs"]
        print(f"note: {region or 'the network'} has had {epochs} of {of} epochs")
    version = files.join(options.output, files.name(final))
    following = ("--model", version, "--input", "FOLDER", "--output", "predictions")
    print(f"exported {final}\nnext: {verbs.command_line('tfbrats.predict', *following)}")


if __name__ == "__main__":
    command.run(main)
