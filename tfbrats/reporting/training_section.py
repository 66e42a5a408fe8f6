"""What the page says of the run that trained the model: its curves, its config, its cases."""

import csv
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfbrats.config import Config, differences
from tfbrats.config_file import from_mapping
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.machine import files
from tfbrats.reporting import charts
from tfbrats.runs import folder as run
from tfbrats.scoring.origin import Model


def curves_of(histories: Mapping[str, Sequence[Mapping[str, str]]]) -> list[dict[str, Any]]:
    """The training curves of a run, from its `histories_of`: `title`, and `charts.training_curves` as `charts`.

    One entry without a title for a network trained alone; for a cascade one for each region whose training
    has begun. None at all before the first epoch has ended.
    """
    return [
        {"title": region, "charts": charts.training_curves(history)}
        for region, history in histories.items()
        if history
    ]


def _homes(run_folder: str | os.PathLike) -> dict[str, str | os.PathLike]:
    """Where a history.csv may lie: "" is the run's own, the rest are its regions'."""
    return {"": run_folder, **{region: files.join(run_folder, region.lower()) for region in REGIONS}}


def histories_of(run_folder: str | os.PathLike) -> dict[str, list[dict[str, str]]]:
    """The rows of every history.csv there may be, as `_homes`; none of one in which nothing can be drawn."""
    return {region: _history(home) for region, home in _homes(run_folder).items()}


def _history(home: str | os.PathLike) -> list[dict[str, str]]:
    try:
        # Cells beyond the header's have no name.
        rows = [{key: text for key, text in row.items() if key} for row in run.read_history(home)]
    except (UnicodeDecodeError, csv.Error):
        return []
    drawn = [name for names in charts.curve_columns(rows[0] if rows else ()).values() for name in names]
    return rows if any(np.isfinite(charts.number(row[name])) for row in rows for name in drawn) else []


def _without_curve(run_folder: str | os.PathLike, regions: Sequence[str]) -> list[str]:
    """Why these networks, "" or regions, have no curve: sentences."""
    notes, silent = [], []
    for region in regions:
        home = _homes(run_folder)[region]
        path = files.join(home, run.HISTORY)
        if files.exists(path):
            notes.append(f"{path} holds no loss and no Dice that can be drawn: no curve. It is damaged.")
        elif files.exists(run.checkpoints(home, "best")):
            notes.append(f"{path} is missing, though the network was trained: no curve.")
        else:
            silent.append(region or "the network")
    return notes + ([f"No epoch has ended yet of {', '.join(silent)}: no curve."] if silent else [])


def training_of(run_folder: str | os.PathLike | None, model: Model | None) -> dict[str, Any]:
    """What is known of how the model was trained.

    Args:
        run_folder: of the training; None if it was not given: then the model's card may have the config.
        model: that predicted; None if nothing is known of it.

    Returns:
        `settings` (config.Config or None), `source` (where they are from), `environment` (or None), `curves`
        (see `curves_of`), `notes`: what is missing, or does not fit together, and `contradictions`: those of
        the notes that say that the run is not the model's.

    Raises:
        InputError: the folder is given and holds no run.
    """
    known = model.config if model else None
    if run_folder is None:
        found = {"settings": None, "source": "the model’s card", "environment": None, "curves": []}
        notes = ["No run folder was given (--run): no training curves, nothing of the machine that trained."]
        if known is None:
            notes.append("Nor is there a model’s card beside the predictions: the config is not known.")
        else:
            try:
                found["settings"] = from_mapping(known, "the model's card")
            except InputError as error:
                notes.append(f"The config in the model’s card is another version’s: {error}")
        return {**found, "notes": notes, "contradictions": []}

    histories = histories_of(run_folder)
    path = files.join(run_folder, "environment.json")
    settings: Config | None = None
    notes, contradictions = [], []
    if files.exists(files.join(run_folder, "config.yaml")) or not any(histories.values()):
        settings = run.read_config(run_folder)
        notes += _without_curve(
            run_folder, [region for region in settings.whole.regions if not histories[region]]
        )
    else:
        notes.append(f"{run_folder} has no config.yaml.")
    environment = files.read_json(path) if files.exists(path) else None
    if environment is None:
        notes.append(f"{run_folder} has no environment.json.")
    if settings is not None and known is not None:
        found = differences(settings.model_dump(mode="json"), known)
        if found:
            contradictions = [f"The run’s config is not the one in the model’s card: {'; '.join(found)}."]
    return {
        "settings": settings,
        "source": files.join(run_folder, "config.yaml"),
        "environment": environment,
        "curves": curves_of(histories),
        "notes": notes + contradictions,
        "contradictions": contradictions,
    }
