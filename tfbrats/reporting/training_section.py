"""What the page says of the run that trained the model: its curves, its config, its cases."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfbrats.config import Config, differences
from tfbrats.config_file import from_mapping
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.machine import files
from tfbrats.reporting import charts
from tfbrats.runs.folder import NetworkFolder, RunFolder
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


def histories_of(run: RunFolder) -> dict[str, list[dict[str, str]]]:
    """The rows of every history.csv there may be: "" is the run's own, the rest are its regions'.

    None of one in which nothing can be drawn.
    """
    return {region: _drawable_rows(run.network(region)) for region in ("", *REGIONS)}


def _drawable_rows(home: NetworkFolder) -> list[dict[str, str]]:
    try:
        # Cells beyond the header's have no name.
        rows = [{key: text for key, text in row.items() if key} for row in home.history]
    except (UnicodeDecodeError, csv.Error):
        return []
    drawn = [name for names in charts.curve_columns(rows[0] if rows else ()).values() for name in names]
    return rows if any(np.isfinite(charts.number(row[name])) for row in rows for name in drawn) else []


def _without_curve(run: RunFolder, regions: Sequence[str]) -> list[str]:
    """Why these networks, "" or regions, have no curve: sentences."""
    notes, silent = [], []
    for region in regions:
        home = run.network(region)
        path = home.history_path
        if files.exists(path):
            notes.append(f"{path} holds no loss and no Dice that can be drawn: no curve. It is damaged.")
        elif files.exists(home.checkpoints_path("best")):
            notes.append(f"{path} is missing, though the network was trained: no curve.")
        else:
            silent.append(region or "the network")
    return notes + ([f"No epoch has ended yet of {', '.join(silent)}: no curve."] if silent else [])


@dataclass(frozen=True)
class TrainingSection:
    """What is known of how the model was trained.

    Attributes:
        settings: the config; None where it is not known.
        source: where the settings are from.
        environment: of the machine that trained; None where it is not known.
        curves: see `curves_of`.
        contradictions: what says that the run is not the model's.
        notes: what is missing, and the contradictions.
    """

    settings: Config | None
    source: str
    environment: Mapping[str, Any] | None = None
    curves: Sequence[Mapping[str, Any]] = ()
    contradictions: Sequence[str] = ()
    notes: Sequence[str] = ()


def training_of(run_folder: str | os.PathLike | None, model: Model | None) -> TrainingSection:
    """What the page says of the training.

    Args:
        run_folder: of the training; None if it was not given: then the model's card may have the config.
        model: that predicted; None if nothing is known of it.

    Raises:
        InputError: the folder is given and holds no run.
    """
    config_of_card = model.config if model else None
    if run_folder is None:
        return _without_run(config_of_card)
    run = RunFolder(run_folder)
    histories = histories_of(run)
    settings: Config | None = None
    notes, contradictions = [], []
    if run.is_run or not any(histories.values()):
        settings = run.config
        notes += _without_curve(run, [region for region in settings.whole.regions if not histories[region]])
    else:
        notes.append(f"{run.path} has no {files.name(run.config_path)}.")
    if run.environment is None:
        notes.append(f"{run.path} has no {files.name(run.environment_path)}.")
    if settings is not None and config_of_card is not None:
        differing = differences(settings.model_dump(mode="json"), config_of_card)
        if differing:
            contradictions = [f"The run’s config is not the one in the model’s card: {'; '.join(differing)}."]
    return TrainingSection(
        settings=settings,
        source=run.config_path,
        environment=run.environment,
        curves=curves_of(histories),
        contradictions=contradictions,
        notes=notes + contradictions,
    )


def _without_run(config_of_card: Mapping[str, Any] | None) -> TrainingSection:
    """What the model's card alone tells."""
    settings: Config | None = None
    notes = ["No run folder was given (--run): no training curves, nothing of the machine that trained."]
    if config_of_card is None:
        notes.append("Nor is there a model’s card beside the predictions: the config is not known.")
    else:
        try:
            settings = from_mapping(config_of_card, "the model's card")
        except InputError as error:
            notes.append(f"The config in the model’s card is another version’s: {error}")
    return TrainingSection(settings, "the model’s card", notes=notes)
