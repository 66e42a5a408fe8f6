"""What an exported model will say of itself: its card, from the run that it comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfbrats import __version__
from tfbrats.cases import nifti
from tfbrats.config import PatchConfig
from tfbrats.exports.chosen import Chosen
from tfbrats.inference.signatures import Signature
from tfbrats.labels import LEARNED_OF, LabelSchema, Tissue
from tfbrats.predictions import seen
from tfbrats.predictions.model_card import N4, ModelCard
from tfbrats.training import checkpoints


def card_of(
    chosen: Chosen,
    name: str,
    version: int,
    signatures: Sequence[Signature],
    batch_norm: str = "",
    bfloat16: str = "",
) -> ModelCard:
    """What the exported model will say of itself; the last two as the card has them."""
    config = chosen.config
    return ModelCard(
        name=name,
        version=version,
        description=f"{config.model.name}, width {config.model.width}: brain tumour segmentation in MRI"
        + _unlearned(chosen.schema),
        tfbrats_version=__version__,
        modalities=config.data.modalities,
        axes="".join(nifti.AXES),
        n4=N4(
            modalities=config.preprocess.n4_modalities,
            shrink=config.preprocess.n4_shrink,
            by="graph",
            method="tfbrats",
            of_records="tfbrats" if config.preprocess.n4 == "ours" else "SimpleITK",
        ),
        normalisation="in the graph: z-score over the brain (any modality not 0), background 0",
        precision=chosen.precision,
        batch_norm=batch_norm,
        bfloat16=bfloat16,
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
    cases, begun_from = seen.hashes_of(splits), run.begun_from
    if begun_from:  # what trained the weights that it began with, it has seen too
        cases = seen.together(cases, begun_from["seen"])
    return {
        "label_schemas": records["label_schemas"],
        "cases": {split: len(ids) for split, ids in splits.items() if split != "sha256"},
        "examples": records["examples"],
        "split_sha256": splits["sha256"],
        **cases,
        "records_sha256": records["manifest_sha256"],
        "config": chosen.config.model_dump(mode="json"),
        "unfinished": run.unfinished(chosen.config),  # networks -> epochs so far
        **({"begun_from": _without_cases(begun_from)} if begun_from else {}),
    }


def _without_cases(begun_from: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in begun_from.items() if key not in ("seen", "from")}


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
