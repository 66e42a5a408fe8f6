"""What an exported model will say of itself: its card, from the run that it comes from."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfbrats import __version__
from tfbrats.cases import nifti
from tfbrats.config import PatchConfig
from tfbrats.exports.chosen import Chosen, Trained
from tfbrats.inference.signatures import Signature
from tfbrats.labels import LEARNED_OF, LabelSchema, Tissue
from tfbrats.machine import files
from tfbrats.predictions import doubts, seen
from tfbrats.predictions.model_card import N4, Averaged, ModelCard, TunedOn
from tfbrats.training import checkpoints

_HASHES = ("split_sha256", "records_sha256")  # of several runs told once where all have the same


def card_of(
    chosen: Chosen,
    name: str,
    version: int,
    signatures: Sequence[Signature],
    batch_norm: str = "",
    bfloat16: str = "",
    averaged: Averaged | None = None,
) -> ModelCard:
    """What the exported model will say of itself; the last three as the card has them."""
    config = chosen.config
    card = ModelCard(
        name=name,
        version=version,
        description=f"{config.model.name}, {_widths(chosen)}: brain tumour segmentation in MRI"
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
        averaged=averaged,
        tuned=_tuned(chosen),
        spacing_mm=chosen.run.records["spacing_mm"],
        label_schema=chosen.schema.to_json(),
        regions={region: tuple(tissue.name for tissue in classes) for region, classes in LEARNED_OF.items()},
        signatures={signature.name: signature.described() for signature in signatures},
        training_data=_training_data(chosen),
        scores={} if len(chosen.members) > 1 else _scores(chosen.members[0]),
        license="the weights are bound by the terms of the data they were trained on",
        intended_use="research; not for diagnostic use",
    )
    return card.model_copy(update={"signatures": _with_callers_part(card, signatures)})


def _with_callers_part(card: ModelCard, signatures: Sequence[Signature]) -> dict[str, dict[str, Any]]:
    """The card's signatures, each with what it asks of its caller; in there older clients read over it."""
    asked = {
        one.name: doubts.asked_of_network(card)
        if one.is_bare
        else doubts.asked_of_caller(card, "axes" in one.inputs)
        for one in signatures
        if set(card.modalities) <= set(one.inputs) or one.is_bare
    }
    return {
        name: {"caller": list(asked[name]), **entry} if name in asked else entry
        for name, entry in card.signatures.items()
    }


def _tuned(chosen: Chosen) -> TunedOn | None:
    """What was chosen on validation cases; None for the plain model."""
    tuning = chosen.tuning
    if tuning is None or tuning.choices.is_plain:
        return None
    return TunedOn(
        choices=tuning.tuned,
        lines=tuning.choices.lines,
        criterion=tuning.criterion,
        meaning=tuning.meaning,
        cases=len(tuning.cases),
        patients=tuning.patients,
        gain=tuning.whole.gain,
        gain_interval=(tuning.whole.low, tuning.whole.high),
        gains={name: worth.model_dump() for name, worth in tuning.chosen.items()},
    )


def _unlearned(schema: LabelSchema) -> str:
    if Tissue.CC not in schema.value_of_tissue:
        return ""
    return "; cystic component (CC) is predicted as NCR, never as a class of its own"


def _widths(chosen: Chosen) -> str:
    widths = [one.config.model.width for one in chosen.members]
    width = f"width {', '.join(map(str, dict.fromkeys(widths)))}"
    return width if len(widths) == 1 else f"{len(widths)} runs of {width}"


def _training_data(chosen: Chosen) -> dict[str, Any]:
    """What the networks were trained on, and how far; of several runs what each adds."""
    first = _of_run(chosen.members[0])
    if len(chosen.members) == 1:
        return {**first, **_with_tuned(chosen, _seen_by(chosen.members, chosen.run.splits))}
    splits = [one.run.splits for one in chosen.members]
    union = seen.union_of(splits)
    case_ids = [case_id for ids in union.values() for case_id in ids]
    return {
        "label_schemas": _without_repeats(
            schema for one in chosen.members for schema in one.run.records["label_schemas"]
        ),
        "cases": {split: len(ids) for split, ids in union.items()},
        **{
            key: first[key] for key in _HASHES if all(first[key] == _of_run(one)[key] for one in chosen.members)
        },
        **_with_tuned(chosen, _seen_by(chosen.members, union)),
        "config": first["config"],
        "unfinished": {},  # each run tells its own
        "runs": [
            {
                "name": files.name(one.run.path),
                **_of_run(one),
                **seen.not_trained_on(_seen_by([one], of_run), case_ids),
                "scores": _scores(one),
            }
            for one, of_run in zip(chosen.members, splits, strict=True)
        ],
    }


def _without_repeats(schemas: Iterable[dict]) -> list[dict]:
    found: list[dict] = []
    for schema in schemas:
        found += [] if schema in found else [schema]
    return found


def _seen_by(members: Sequence[Trained], splits: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Hashes of the cases, and of those that trained the weights which a run began with."""
    begun_from = [one.run.begun_from["seen"] for one in members if one.run.begun_from]
    return seen.together(seen.hashes_of(splits), *begun_from) if begun_from else seen.hashes_of(splits)


def _with_tuned(chosen: Chosen, carried: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """The same with the cases that chose what is tuned, as a split of their own."""
    if chosen.tuning is None or chosen.tuning.choices.is_plain:
        return carried
    return seen.together(carried, seen.hashes_of({"tuned": chosen.tuning.cases}))


def _of_run(one: Trained) -> dict[str, Any]:
    """What a run's networks were trained on, and how far; no case's hash."""
    run, records, splits = one.run, one.run.records, one.run.splits
    begun_from = run.begun_from
    return {
        "label_schemas": records["label_schemas"],
        "cases": {split: len(ids) for split, ids in splits.items() if split != "sha256"},
        "examples": records["examples"],
        "split_sha256": splits["sha256"],
        "records_sha256": records["manifest_sha256"],
        "config": one.config.model_dump(mode="json"),
        "unfinished": run.unfinished(one.config),  # networks -> epochs so far
        **({"begun_from": _without_cases(begun_from)} if begun_from else {}),
    }


def _without_cases(begun_from: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in begun_from.items() if key not in ("seen", "from", "folder")}


def _scores(one: Trained) -> dict[str, Any]:
    """What the weights scored on the validation split when they were saved, of each network; {} without one."""
    by_region = {region: _scores_of(one, region) for region in one.checkpoints}
    scores = {region: numbers for region, numbers in by_region.items() if numbers}
    if not scores:
        return {}
    config, cases = one.config, len(one.run.splits["validation"])
    if isinstance(config, PatchConfig):
        size = {"patches_each": cases * config.sampling.patches_per_case}
    else:
        scores, size = scores[""], {"slices": one.run.records["examples"]["validation"]}
    return {"split": "validation", "cases": cases, **size, **scores}


def _scores_of(one: Trained, region: str) -> dict[str, float]:
    """The numbers of the epoch that the best checkpoint ended; none without validation."""
    epoch = str(checkpoints.number(one.checkpoints[region]))
    rows = [row for row in one.run.network(region).history if row["epoch"] == epoch]
    return {key: float(value) for row in rows if row.get("validation_loss") for key, value in row.items()}
