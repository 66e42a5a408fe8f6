"""Where a folder of predictions comes from: which model wrote it, and which split its cases are.

Refuses to call cases a test that the model may have been trained on.
"""

import os
from collections.abc import Mapping
from typing import Any

from tfbrats import files, model_card, records, split_files, tables
from tfbrats.command import InputError


def model_of(prediction: str | os.PathLike, row: str | None = None) -> tuple[dict[str, Any] | None, list[str]]:
    """What wrote a folder of predictions, and what is to be noted.

    Its card lies beside what the model predicted. No score depends on it, so a card that cannot be read is a
    note and no fault.

    Args:
        row: which row of a table it is, where no card tells it.

    Returns:
        `name`, `version`, `row`, `split_sha256` and `config`, each None if not known; None of a folder without
        a card, unless `row` is given.

    Raises:
        InputError: the card tells another row than `row`.
    """
    path = files.join(prediction, model_card.FILE)
    found: dict[str, Any] = dict.fromkeys(("name", "version", "row", "split_sha256", "config"))
    notes = []
    if files.exists(path):
        try:
            card = model_card.parse(files.read_bytes(path), path)
            config = card.training_data.get("config")
            found |= {
                "name": card.name,
                "version": card.version,
                "row": _row_of_config(config),
                "split_sha256": card.training_data.get("split_sha256"),
                "config": config,
            }
        except InputError as error:
            notes = [f"its model is unknown, and so a cascade's margin is unknown: {error}"]
    if row is not None:
        # The numbers of one model in the row of another would look like a result.
        if found["row"] not in (None, row):
            raise InputError(
                f"--row {row}: the card beside the predictions says {found['row']} ({path}). Leave --row out, "
                "or score another folder."
            )
        found["row"] = row
    return (found if any(value is not None for value in found.values()) else None), notes


def _in_config(config: Any, *keys: str) -> Any:
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _row_of_config(config: Any) -> str | None:
    name = _in_config(config, "model", "name")
    if name == "cun" and _in_config(config, "lws", "enabled"):
        return "cun_lws"
    return name if name in tables.ROWS else None


def margin_of(model: Mapping[str, Any] | None) -> int | None:
    """Voxels by which a model grew its boxes; None if it is no cascade, or if that is not known.

    Args:
        model: as `model_of` returns it.
    """
    found = _in_config(model, "config", "cascade", "margin")
    return found if type(found) is int and found >= 0 else None


def split_of(path: str | os.PathLike, name: str) -> tuple[list[str], dict[str, Any]]:
    """Case ids of one split, and what is kept of it: `name`, `sha256` and `of`, the path.

    Args:
        path: a run's splits.json, or {split: [case ids]} of one's own.
        name: "train", "validation" or "test".

    Raises:
        InputError: not such a file, one whose hash is not that of its cases, or no case of that split.
    """
    splits = split_files.read(path)
    if not splits[name]:
        there = ", ".join(f"{key} ({tables.cases_text(len(ids))})" for key, ids in splits.items())
        raise InputError(f"{path}: no case of split {name}; it has {there}. Choose with --split.")
    # The hash that records and models of this split carry.
    sha256 = records.sha256_of_split(splits)
    return splits[name], {"name": name, "sha256": sha256, "of": os.fspath(path)}


def check_split(
    split: Mapping[str, Any], model: Mapping[str, Any] | None, prediction: str | os.PathLike
) -> None:
    """A case of this test split may be one of the training cases of another.

    Args:
        split: as `split_of` returns it.
        model: its `name` and `split_sha256`, or None if nothing is known of it.
        prediction: folder of what it predicted, for the error.

    Raises:
        InputError: the model was trained on another split.
    """
    theirs = (model or {}).get("split_sha256")
    if theirs is not None and theirs != split["sha256"]:
        raise InputError(
            f"{prediction}: its model {model['name']} was trained on another split ({theirs[:12]}...) than "
            f"{split['of']} ({split['sha256'][:12]}...): it may have seen cases of that {split['name']} split. "
            "Pass the splits.json of the run that it was exported from."
        )
