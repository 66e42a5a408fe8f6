"""Where a folder of predictions comes from: which model wrote it, which split its cases are, what it has seen.

Refuses to call cases a test that the model may have been trained on.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tfbrats.cases import split_files
from tfbrats.datasets import not_experts, patients
from tfbrats.datasets.scan_names import nifti_stem
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.predictions import model_card, provenance, seen
from tfbrats.predictions.model_card import ModelCard
from tfbrats.scoring import papers
from tfbrats.scoring.summaries import Row, Summary, summarise
from tfbrats.terminal.wording import counted


@dataclass(frozen=True)
class Model:
    """What wrote a folder of predictions; each entry is None where it is not known.

    Attributes:
        row: of a paper's table, e.g. "cun_lws".
        config: as its card carries it.
    """

    name: str | None = None
    version: int | str | None = None
    row: str | None = None
    split_sha256: str | None = None
    config: Any = None

    @property
    def margin(self) -> int | None:
        """Voxels by which it grew its boxes; None if it is no cascade, or if that is not known."""
        margin = _in_config(self.config, "cascade", "margin")
        return margin if type(margin) is int and margin >= 0 else None


@dataclass(frozen=True)
class Split:
    """The split whose cases are scored.

    Attributes:
        name: "train", "validation" or "test".
        sha256: the hash that records and models of this split carry.
        of: path of the splits.json.
    """

    name: str
    sha256: str
    of: str


@dataclass(frozen=True)
class BySplit:
    """Which of the scored cases the model has seen, and their scores apart.

    Attributes:
        cases: case ids by kind, as `seen.by_kind`.
        summary: by kind.
        others_dice: mean Dice by region over the cases that the model has not seen.
        run: folder of the model's run, or None if it is not known.
        has_test: whether the model's own split kept cases apart.
        other_names: data sets that share patients under different names.
    """

    known: Literal[True]
    cases: dict[str, list[str]]
    summary: dict[str, Summary]
    others_dice: dict[str, float]
    run: str | None
    has_test: bool
    other_names: list[str] = dataclasses.field(default_factory=list, metadata={"left_out": []})


@dataclass(frozen=True)
class NotTold:
    """In the place of `BySplit`, where the card does not tell which cases the model has seen."""

    known: Literal[False] = False


def card_beside(prediction: str | os.PathLike) -> tuple[ModelCard | None, list[str]]:
    """The card of the model that wrote a folder of predictions, or None, and what is to be noted.

    It lies in the folder itself, or in those that the predictions lie in. Where those are of the folds of one
    cross-validation, it is a card for all of them, which tells what each case is to its own network.

    No score depends on it, so a card that cannot be read, or one of several models, is a note and no fault.
    """
    paths = _cards(prediction)
    contents: dict[bytes, str] = {}
    for path in paths:
        contents.setdefault(files.read_bytes(path), path)
    if not contents:
        return None, []
    if len(contents) > 1 and (joined := _of_folds(prediction, contents)):
        return joined, []
    if len(contents) > 1:
        return None, [
            f"{prediction}: cards of {len(contents)} models lie there ({', '.join(contents.values())}), so "
            "that it is not known which cases trained whose model. Score each folder by itself"
        ]
    ((content, path),) = contents.items()
    try:
        return model_card.parse(content, path), []
    except InputError as error:
        return None, [
            f"its model is unknown, so that a cascade's margin is unknown, and which cases trained it: {error}"
        ]


def _of_folds(prediction: str | os.PathLike, contents: Mapping[bytes, str]) -> ModelCard | None:
    """One card for predictions of several networks; None where these are no folds of one config.

    Args:
        contents: of the cards -> path of each.
    """
    try:
        cards = {files.parent(path): model_card.parse(content, path) for content, path in contents.items()}
    except InputError:
        return None
    first, *others = cards.values()
    configs = [_without_places(card.training_data.get("config")) for card in (first, *others)]
    if not configs[0] or any(config != configs[0] for config in configs):
        return None
    ids: dict[str, list[str]] = {"train": [], "validation": [], "fold": [], "test": []}
    for path in files.walk(prediction):
        stem = nifti_stem(path)
        folder = next((one for one in cards if path.startswith(f"{one}/")), None)
        if stem is None or folder is None:
            continue
        kinds = seen.kinds_of(cards[folder].training_data, [files.name(stem)])
        if kinds is None:
            return None
        (kind,) = kinds.values()
        split = "fold" if kind == "validation" else kind.removesuffix("_patient")
        ids.get(split, []).append(files.name(stem))
    hashes = seen.hashes_of(ids)
    data = {**first.training_data, **hashes, "split_sha256": None}
    name = f"{_row_of_config(configs[0]) or 'model'} in {len(cards)} folds"
    return first.model_copy(update={"name": name, "training_data": data})


def _without_places(config: Any) -> dict[str, Any]:
    """A config without the folders that it names: what the folds of one training share."""
    if not isinstance(config, Mapping):
        return {}
    rest = {key: value for key, value in config.items() if key != "run"}
    return rest | {"data": {k: v for k, v in (config.get("data") or {}).items() if k != "records"}}


def _cards(prediction: str | os.PathLike) -> list[str]:
    """The cards of a folder, and of the folders within it from which a segmentation comes, or above those."""
    listing = list(files.walk(prediction)) if files.is_folder(prediction) else []
    top = files.join(prediction, model_card.FILE)
    niftis = [path for path in listing if nifti_stem(path) is not None]
    within = [
        path
        for path in listing
        if files.name(path) == model_card.FILE
        and files.canonical(path) != files.canonical(top)
        and any(one.startswith(f"{files.parent(path)}/") for one in niftis)
    ]
    return [*([top] if files.exists(top) else []), *within]


def doubts(prediction: str | os.PathLike, card: ModelCard | None, paths: Sequence[str]) -> list[str]:
    """A warning where a model of ours predicted and nothing tells which cases it was trained on.

    Args:
        card: as `card_beside` finds it.
        paths: of the predictions.
    """
    if card is not None or _cards(prediction):
        return []
    for path in map(provenance.path_of, paths):
        if files.exists(path) and not_experts.is_own_record(path):
            return [
                f"{prediction}: a model of tfbrats predicted these ({files.name(path)} says so), but its card "
                f"{model_card.FILE} is not beside them: it is not known which cases the model was trained on, "
                "and some of those scored may be training cases. Copy the card here from the model's folder."
            ]
    return []


def model_of(card: ModelCard | None, prediction: str | os.PathLike, row: str | None = None) -> Model | None:
    """What wrote a folder of predictions; None where nothing at all is known.

    Args:
        card: as `card_beside` finds it.
        row: which row of a table it is, where no card tells it.

    Raises:
        InputError: the card tells another row than `row`.
    """
    if card is None:
        return Model(row=row) if row is not None else None
    config = card.training_data.get("config")
    row_of_card = _row_of_config(config)
    # The numbers of one model in the row of another would look like a result.
    if row is not None and row_of_card not in (None, row):
        path = files.join(prediction, model_card.FILE)
        raise InputError(
            f"--row {row}: the card beside the predictions says {row_of_card} ({path}). Leave --row out, or "
            "score another folder."
        )
    return Model(
        name=card.name,
        version=card.version,
        row=row or row_of_card,
        split_sha256=card.training_data.get("split_sha256"),
        config=config,
    )


def by_split_of(
    card: ModelCard | None,
    rows: Sequence[Row],
    splits: str | os.PathLike | None = None,
    fold: int | None = None,
) -> BySplit | NotTold | None:
    """Which of the scored cases the model has seen, and their scores apart; None without a card.

    Args:
        card: of the model that predicted them.
        rows: of the `Evaluation`.
        splits: the splits.json of the model's own run, for a card that does not carry its cases.
        fold: which, of `splits` that hold several.
    """
    if card is None:
        return None
    carried = card.training_data
    case_ids = list(dict.fromkeys(row["case_id"] for row in rows))
    kinds = seen.kinds_of(carried, case_ids)
    # That `splits` are the card's own, `check_split` has found.
    if kinds is None and splits is not None and carried.get("split_sha256") is not None:
        carried = seen.hashes_of(split_files.read(splits, fold))
        kinds = seen.kinds_of(carried, case_ids)
    if kinds is None:
        return NotTold()
    cases = seen.by_kind(kinds)
    not_seen = set(seen.others(cases))
    of_not_seen = summarise([row for row in rows if row["case_id"] in not_seen])
    return BySplit(
        known=True,
        cases=cases,
        summary={kind: summarise([row for row in rows if kinds[row["case_id"]] == kind]) for kind in cases},
        others_dice={region: scores["dice"].mean for region, scores in of_not_seen.items()},
        run=_in_config(card.training_data.get("config"), "run", "dir"),
        has_test=seen.has_test(carried),
        other_names=_other_names(card, cases),
    )


def _other_names(card: ModelCard, cases: Mapping[str, Sequence[str]]) -> list[str]:
    """Data sets that share patients of the cases under different names; see `seen.other_names`."""
    schemas = card.training_data.get("label_schemas") or []
    editions = [
        str(schema["edition"]) for schema in schemas if isinstance(schema, Mapping) and "edition" in schema
    ]
    return seen.other_names(editions, cases.get("unseen", ()))


def _in_config(config: Any, *keys: str) -> Any:
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _row_of_config(config: Any) -> str | None:
    name = _in_config(config, "model", "name")
    if name == "cun" and _in_config(config, "lws", "enabled"):
        return "cun_lws"
    return name if name in papers.ROWS else None


def split_of(path: str | os.PathLike, name: str, fold: int | None = None) -> tuple[list[str], Split]:
    """Case ids of one split, and what is kept of it.

    Args:
        path: a run's splits.json, or {split: [case ids]} of one's own.
        name: "train", "validation" or "test".
        fold: which, of a file that holds several.

    Raises:
        InputError: not such a file, one whose hash is not that of its cases, no such fold, a case or a patient
            of several splits, or no case of that split.
    """
    splits = split_files.read(path, fold)
    patient_of = patients.by_names(case_id for ids in splits.values() for case_id in ids)
    faults = split_files.faults(splits, patient_of, os.fspath(path), to_train_on=False)
    if faults:
        more = f"; and {len(faults) - 3} more" if faults[3:] else ""
        raise InputError(
            f"{path}: training cases would be scored as if unseen: {'; '.join(faults[:3])}{more}. Mend the "
            "file, or name the cases to score with --cases."
        )
    if not splits[name]:
        there = ", ".join(f"{key} ({counted(len(ids), 'case')})" for key, ids in splits.items())
        raise InputError(f"{path}: no case of split {name}; it has {there}. Choose with --split.")
    return splits[name], Split(name, split_files.sha256_of_split(splits), os.fspath(path))


def check_split(split: Split, model: Model | None, prediction: str | os.PathLike) -> None:
    """Refuses a split on which the model was not trained: its test case may be a training case of another.

    Args:
        model: None if nothing is known of it.
        prediction: folder of what it predicted, for the error.

    Raises:
        InputError: the model was trained on another split.
    """
    trained_on = model.split_sha256 if model else None
    if trained_on is not None and trained_on != split.sha256:
        raise InputError(
            f"{prediction}: its model {model.name} was trained on another split ({trained_on[:12]}...) than "
            f"{split.of} ({split.sha256[:12]}...): it may have seen cases of that {split.name} split. Pass the "
            "splits.json of the run that it was exported from."
        )
